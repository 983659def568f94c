//! What worked for requests like this: cases, clusters, vector index.

pub mod bank;
pub mod cases;
pub mod index;
pub mod kmeans;
pub mod qlearning;
mod sketch;
