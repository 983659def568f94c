//! Memory graph, dreams and consolidation.

mod edges;

pub use edges::EdgeWeights;
