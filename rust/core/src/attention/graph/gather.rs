//! Sums, means and maxima over neighbours.

use super::{Graph, ROWS, pieces};
use crate::attention::threads;
use crate::kernels::real::{Real, add_scaled, inner};

/// What gathers along an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// Targets gather from sources.
    Edges,
    /// Sources gather from targets: the transpose.
    Back,
}

/// out (n, width): row i = Σ `weight[e]`·x[other end of e] over the edges e of node i. `weight` is by edge number.
pub fn sum<T: Real>(graph: &Graph, weight: &[T], x: &[T], width: usize, along: Along, out: &mut [T]) {
    assert!(
        weight.len() == graph.edges() && x.len() == graph.n * width && out.len() == x.len(),
        "one weight per edge, one row per node"
    );
    let numbers = graph.numbers();
    let cost = graph.edges() * width;
    threads::share(
        threads::worth(graph.n.div_ceil(ROWS), cost),
        pieces(out, width),
        || (),
        |(first, rows), ()| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                row.fill(T::ZERO);
                let mut add = |place: usize, from: u32| {
                    let from = from as usize * width;
                    let w = weight[numbers[place] as usize];
                    add_scaled(w, &x[from..from + width], row);
                };
                match along {
                    Along::Edges => graph.incoming(first + i).for_each(|p| add(p, graph.source[p])),
                    Along::Back => {
                        for p in graph.outgoing(first + i) {
                            add(*p as usize, graph.target[*p as usize]);
                        }
                    }
                }
            }
        },
    );
}

/// For each edge the inner product of `a` at its target and `b` at its source, by edge number.
pub fn inner_products<T: Real>(graph: &Graph, a: &[T], b: &[T], width: usize) -> Vec<T> {
    let mut out = vec![T::ZERO; graph.edges()];
    for (place, e) in graph.numbers().iter().enumerate() {
        let (i, j) = (
            graph.target[place] as usize * width,
            graph.source[place] as usize * width,
        );
        out[*e as usize] = inner(&a[i..i + width], &b[j..j + width]);
    }
    out
}

/// No neighbour.
pub const NONE: u32 = u32::MAX;

/// Largest value over the sources of each node's edges, column by column (0 without an edge), and the source it came from:
/// the first of several equal ones. NaN is larger than any number.
pub fn largest<T: Real>(graph: &Graph, x: &[T], width: usize, out: &mut [T], from: &mut [u32]) {
    assert!(
        x.len() == graph.n * width && out.len() == x.len() && from.len() == x.len(),
        "one row per node"
    );
    let parts: Vec<_> = pieces(out, width).into_iter().zip(pieces(from, width)).collect();
    threads::share(
        threads::worth(graph.n.div_ceil(ROWS), graph.edges() * width),
        parts,
        || (),
        |((first, rows), (_, origins)), ()| {
            for (i, (row, origin)) in rows
                .chunks_exact_mut(width)
                .zip(origins.chunks_exact_mut(width))
                .enumerate()
            {
                row.fill(T::NEG_INFINITY);
                origin.fill(NONE);
                for place in graph.incoming(first + i) {
                    let j = graph.source[place] as usize * width;
                    for ((r, o), v) in row.iter_mut().zip(origin.iter_mut()).zip(&x[j..j + width]) {
                        if *v > *r || *o == NONE || (v.is_nan() && !r.is_nan()) {
                            *r = *v;
                            *o = graph.source[place];
                        }
                    }
                }
                if graph.incoming(first + i).is_empty() {
                    row.fill(T::ZERO);
                }
            }
        },
    );
}
