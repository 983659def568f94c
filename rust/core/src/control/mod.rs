//! Keeping the system healthy: the minimum cut of a changing graph, and detectors of what is unusual.

pub mod detect;
pub mod mincut;
mod tension;

pub use tension::tension;
