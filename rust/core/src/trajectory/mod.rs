//! What one request did and how it turned out.
