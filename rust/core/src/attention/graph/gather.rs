//! Sums, means and maxima over neighbours.

use super::{Graph, ROWS, pieces};
use crate::attention::threads;
use crate::kernels::real::{Near, Real, inner, weighted_rows};

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
    let at = |place: usize| weight[numbers[place] as usize];
    threads::share(
        threads::worth(graph.n.div_ceil(ROWS), graph.edges() * width),
        pieces(out, width),
        || (Vec::new(), Vec::new()),
        |(first, rows), (near, own)| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                near.clear();
                own.clear();
                match along {
                    Along::Edges => {
                        near.extend_from_slice(&graph.source[graph.incoming(first + i)]);
                        own.extend(graph.incoming(first + i).map(at));
                    }
                    Along::Back => {
                        let places = graph.outgoing(first + i);
                        near.extend(places.iter().map(|p| graph.target[*p as usize]));
                        own.extend(places.iter().map(|p| at(*p as usize)));
                    }
                }
                row.fill(T::ZERO);
                weighted_rows(Near::new(x, near, 1, width), own, row);
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

/// Largest value over the sources of each node's edges, column by column; 0 without an edge. NaN is larger than any number.
pub fn largest<T: Real>(graph: &Graph, x: &[T], width: usize, out: &mut [T]) {
    assert!(
        x.len() == graph.n * width && out.len() == x.len(),
        "one row per node"
    );
    let of = |j: u32| &x[j as usize * width..(j as usize + 1) * width];
    threads::share(
        threads::worth(graph.n.div_ceil(ROWS), graph.edges() * width),
        pieces(out, width),
        || (),
        |(first, rows), ()| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                let mut sources = graph.source[graph.incoming(first + i)].iter();
                match sources.next() {
                    None => row.fill(T::ZERO),
                    Some(j) => row.copy_from_slice(of(*j)),
                }
                for j in sources {
                    for (r, v) in row.iter_mut().zip(of(*j)) {
                        // A NaN in the row stays: nothing is larger.
                        *r = if *v > *r || v.is_nan() { *v } else { *r };
                    }
                }
            }
        },
    );
}

/// Gradient of x for [`largest`], whose result is `top`: each goes to the first source that had the largest value.
#[must_use]
pub fn largest_vjp<T: Real>(graph: &Graph, x: &[T], top: &[T], dout: &[T], width: usize) -> Vec<T> {
    let mut dx = vec![T::ZERO; x.len()];
    for v in 0..graph.n {
        for column in 0..width {
            let at = v * width + column;
            let same = |j: &&u32| {
                let value = x[**j as usize * width + column];
                value == top[at] || (value.is_nan() && top[at].is_nan())
            };
            if let Some(j) = graph.source[graph.incoming(v)].iter().find(same) {
                dx[*j as usize * width + column] += dout[at];
            }
        }
    }
    dx
}
