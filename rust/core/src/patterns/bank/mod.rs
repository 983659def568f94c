//! Bank of reasoning patterns.
