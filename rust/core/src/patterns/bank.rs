//! (see the module's first public item)
