//! Graph attention (Veličković et al. 2018, equations 1 to 6): softmax over incoming edges of LeakyReLU of a sum of two
//! numbers, one of the source and one of the target.

use super::{Graph, ROWS, pieces, places};
use crate::attention::threads;
use crate::kernels::real::{Near, Real, exp_minus, row_products, weighted_rows};

/// Heads, values per head, slope of LeakyReLU below 0.
#[derive(Debug, Clone, Copy)]
pub struct Shape<T> {
    /// Heads.
    pub heads: usize,
    /// Values per head.
    pub width: usize,
    /// Slope below 0.
    pub slope: T,
}

pub(super) fn leaky<T: Real>(x: T, slope: T) -> T {
    if x > T::ZERO { x } else { x * slope }
}

/// Softmax of logits (edges, heads) of one node, head by head, in place. A head whose logits are all −∞ gets NaN, like any
/// other undefined softmax of edges that are there.
pub(super) fn softmax<T: Real>(logits: &mut [T], heads: usize) {
    // Usual numbers of heads are unrolled; others go through a head at a time.
    match heads {
        1 => softmax_of::<T, 1>(logits),
        2 => softmax_of::<T, 2>(logits),
        4 => softmax_of::<T, 4>(logits),
        8 => softmax_of::<T, 8>(logits),
        _ => {
            let mut own = vec![[T::ZERO]; logits.len() / heads];
            for h in 0..heads {
                for (o, row) in own.iter_mut().zip(logits.chunks_exact(heads)) {
                    o[0] = row[h];
                }
                softmax_of::<T, 1>(own.as_flattened_mut());
                for (o, row) in own.iter().zip(logits.chunks_exact_mut(heads)) {
                    row[h] = o[0];
                }
            }
        }
    }
}

fn softmax_of<T: Real, const H: usize>(logits: &mut [T]) {
    let mut top = [T::NEG_INFINITY; H];
    for row in logits.as_chunks::<H>().0 {
        for h in 0..H {
            top[h] = if row[h] > top[h] { row[h] } else { top[h] };
        }
    }
    for row in logits.as_chunks_mut::<H>().0 {
        for h in 0..H {
            row[h] -= top[h];
        }
    }
    exp_minus(logits, T::ZERO);
    let mut sum = [T::ZERO; H];
    for row in logits.as_chunks::<H>().0 {
        for h in 0..H {
            sum[h] += row[h];
        }
    }
    let share = sum.map(T::recip);
    for row in logits.as_chunks_mut::<H>().0 {
        for h in 0..H {
            row[h] *= share[h];
        }
    }
}

/// Edges that leave a node: where they end, and their weights.
#[derive(Debug, Default)]
pub(super) struct Outgoing<T> {
    pub(super) near: Vec<u32>,
    pub(super) alpha: Vec<T>,
}

impl<T: Real> Outgoing<T> {
    pub(super) fn collect(&mut self, graph: &Graph, v: usize, alpha: &[T], heads: usize) {
        self.near.clear();
        self.alpha.clear();
        for place in graph.outgoing(v) {
            let p = *place as usize;
            self.near.push(graph.target[p]);
            self.alpha.extend_from_slice(&alpha[p * heads..(p + 1) * heads]);
        }
    }
}

/// Gradient of logits of one node from those of its weights: de = α·(dα − Σ α·dα), head by head, in place.
pub(super) fn softmax_vjp<T: Real>(alpha: &[T], grad: &mut [T], heads: usize, sum: &mut [T]) {
    sum.fill(T::ZERO);
    for (a, g) in alpha.chunks_exact(heads).zip(grad.chunks_exact(heads)) {
        for ((s, a), g) in sum.iter_mut().zip(a).zip(g) {
            *s += *a * *g;
        }
    }
    for (a, g) in alpha.chunks_exact(heads).zip(grad.chunks_exact_mut(heads)) {
        for ((s, a), g) in sum.iter().zip(a).zip(g) {
            *g = *a * (*g - *s);
        }
    }
}

/// Values (n, heads·width) with the logits of sources and targets (n, heads).
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// Projected features.
    pub h: &'a [T],
    /// Source's part of the logits.
    pub source: &'a [T],
    /// Target's part.
    pub target: &'a [T],
}

/// out (n, heads·width) and the weights (places, heads).
pub fn forward<T: Real>(graph: &Graph, x: Inputs<'_, T>, shape: Shape<T>, out: &mut [T], alpha: &mut [T]) {
    let Shape { heads, width, slope } = shape;
    let row = heads * width;
    let parts: Vec<_> = pieces(out, row)
        .into_iter()
        .zip(places(graph, alpha, heads))
        .collect();
    threads::share(
        threads::worth(graph.n.div_ceil(ROWS), graph.edges() * (row + 8 * heads)),
        parts,
        || (),
        |((first, rows), mut alpha), ()| {
            for (i, out) in rows.chunks_exact_mut(row).enumerate() {
                let incoming = graph.incoming(first + i);
                let (own, rest) = alpha.split_at_mut(incoming.len() * heads);
                alpha = rest;
                let target = &x.target[(first + i) * heads..(first + i + 1) * heads];
                for (logits, j) in own.chunks_exact_mut(heads).zip(&graph.source[incoming.clone()]) {
                    let source = &x.source[*j as usize * heads..(*j as usize + 1) * heads];
                    for ((l, s), t) in logits.iter_mut().zip(source).zip(target) {
                        *l = leaky(*s + *t, slope);
                    }
                }
                softmax(own, heads);
                out.fill(T::ZERO);
                weighted_rows(Near::new(x.h, &graph.source[incoming], heads, width), own, out);
            }
        },
    );
}

/// Gradients of [`Inputs`].
#[derive(Debug, Clone)]
pub struct Gradients<T> {
    /// Of the features.
    pub h: Vec<T>,
    /// Of the source's part.
    pub source: Vec<T>,
    /// Of the target's part.
    pub target: Vec<T>,
}

/// Gradients for ∂L/∂out = `dout`, with the weights of [`forward`].
#[must_use]
pub fn backward<T: Real>(
    graph: &Graph,
    x: Inputs<'_, T>,
    shape: Shape<T>,
    alpha: &[T],
    dout: &[T],
) -> Gradients<T> {
    let Shape { heads, width, slope } = shape;
    let row = heads * width;
    let mut logits = vec![T::ZERO; graph.edges() * heads];
    let mut grads = Gradients {
        h: vec![T::ZERO; x.h.len()],
        source: vec![T::ZERO; x.source.len()],
        target: vec![T::ZERO; x.target.len()],
    };
    let threads_worth = threads::worth(graph.n.div_ceil(ROWS), graph.edges() * (row + 8 * heads));
    let parts: Vec<_> = pieces(&mut grads.target, heads)
        .into_iter()
        .zip(places(graph, &mut logits, heads))
        .collect();
    // By target: what the logits of its edges get.
    threads::share(
        threads_worth,
        parts,
        || vec![T::ZERO; heads],
        |((first, rows), mut logits), sum| {
            for (i, dtarget) in rows.chunks_exact_mut(heads).enumerate() {
                let v = first + i;
                let incoming = graph.incoming(v);
                let (own, rest) = logits.split_at_mut(incoming.len() * heads);
                logits = rest;
                let near = Near::new(x.h, &graph.source[incoming.clone()], heads, width);
                row_products(near, &dout[v * row..(v + 1) * row], own);
                softmax_vjp(
                    &alpha[incoming.start * heads..incoming.end * heads],
                    own,
                    heads,
                    sum,
                );
                for (l, j) in own.chunks_exact_mut(heads).zip(&graph.source[incoming]) {
                    for (h, (l, d)) in l.iter_mut().zip(dtarget.iter_mut()).enumerate() {
                        let raw = x.source[*j as usize * heads + h] + x.target[v * heads + h];
                        if raw <= T::ZERO {
                            *l *= slope;
                        }
                        *d += *l;
                    }
                }
            }
        },
    );
    // By source: what its features and its part of the logits get.
    let parts: Vec<_> = pieces(&mut grads.h, row)
        .into_iter()
        .zip(pieces(&mut grads.source, heads))
        .collect();
    threads::share(
        threads_worth,
        parts,
        Outgoing::default,
        |((first, rows), (_, sources)), outgoing| {
            for (i, (dh, dsource)) in rows
                .chunks_exact_mut(row)
                .zip(sources.chunks_exact_mut(heads))
                .enumerate()
            {
                outgoing.collect(graph, first + i, alpha, heads);
                weighted_rows(Near::new(dout, &outgoing.near, heads, width), &outgoing.alpha, dh);
                for place in graph.outgoing(first + i) {
                    let p = *place as usize;
                    for (d, l) in dsource.iter_mut().zip(&logits[p * heads..(p + 1) * heads]) {
                        *d += *l;
                    }
                }
            }
        },
    );
    grads
}
