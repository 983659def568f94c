//! Memory graph, dreams, integration and consolidation.

mod concepts;
mod consolidate;
mod edges;
mod engine;
mod graph;
mod integration;
mod jump;
mod phi;
mod repertoire;
mod small;
mod transport;
mod walk;

pub use consolidate::{Consolidation, Consolidator, Kept};
pub use edges::EdgeWeights;
pub use engine::{Dream, DreamConfig, DreamEngine, DreamScore};
pub use graph::{Link, MemoryGraph, Node};
pub use integration::{integration, stochastic_interaction};
pub use phi::{PhiResult, phi};
pub use transport::earth_movers_distance;
pub use walk::random_walk_with_restart;
