//! What a step through the graph costs in rows of a scan: the one ratio that decides where a graph pays.
//!
//! Both are modelled on measured times, `benches/python/bench_index.py --crossover`: a scanned row takes 2.5 ns and what its
//! bytes take to stream; a kept node of a graph search takes .65 µs for bookkeeping and its neighbours' cache misses, and 1 ns
//! per byte of a row. Only the ratio counts here, and it moves little between machines.

use super::params::{Params, Precision};

const ROW_NS: f64 = 2.5;
const ROW_NS_PER_BYTE: f64 = 1.0 / 28.0;
const NODE_NS: f64 = 650.0;
const NODE_NS_PER_BYTE: f64 = 1.0;

/// An insertion and a search together, in nodes of a search.
const INSERT_AND_SEARCH_NODES: f64 = 150.0;

/// Rows that are read in order in the time of one more node of a graph search.
fn rows_per_node(params: &Params) -> f64 {
    let width = match params.precision {
        Precision::Float32 => 4,
        Precision::Int8 => 1,
    };
    let bytes = (width * params.dim) as f64;
    (NODE_NS + NODE_NS_PER_BYTE * bytes) / (ROW_NS + ROW_NS_PER_BYTE * bytes)
}

/// A graph search that keeps `width` nodes costs less than reading `rows` rows.
pub(super) fn pays(params: &Params, width: usize, rows: usize) -> bool {
    width as f64 * rows_per_node(params) < rows as f64
}

/// Rows from which an insertion and a search through the graph together cost less than a search that reads every row.
pub(super) fn switch(params: &Params) -> usize {
    (INSERT_AND_SEARCH_NODES * rows_per_node(params)) as usize
}
