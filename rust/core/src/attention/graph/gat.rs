//! Graph attention (Veličković et al. 2018, equations 1 to 6): softmax over incoming edges of LeakyReLU of a sum of two
//! numbers, one of the source and one of the target.

use super::{Graph, ROWS, pieces, places};
use crate::attention::threads;
use crate::kernels::real::{Real, add_scaled, exp_minus, inner};

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
pub(super) fn softmax<T: Real>(logits: &mut [T], heads: usize, top: &mut [T]) {
    top.fill(T::NEG_INFINITY);
    for row in logits.chunks_exact(heads) {
        for (t, x) in top.iter_mut().zip(row) {
            *t = t.max(*x);
        }
    }
    for row in logits.chunks_exact_mut(heads) {
        for (x, t) in row.iter_mut().zip(&*top) {
            *x -= *t;
        }
    }
    exp_minus(logits, T::ZERO);
    top.fill(T::ZERO);
    for row in logits.chunks_exact(heads) {
        for (t, x) in top.iter_mut().zip(row) {
            *t += *x;
        }
    }
    for t in top.iter_mut() {
        *t = t.recip();
    }
    for row in logits.chunks_exact_mut(heads) {
        for (x, t) in row.iter_mut().zip(&*top) {
            *x *= *t;
        }
    }
}

/// out (heads·width) += Σ alpha·h[source], head by head.
pub(super) fn gather<T: Real>(out: &mut [T], alpha: &[T], row: &[T], width: usize) {
    for (h, a) in alpha.iter().enumerate() {
        let at = h * width..(h + 1) * width;
        add_scaled(*a, &row[at.clone()], &mut out[at]);
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
        || vec![T::ZERO; heads],
        |((first, rows), mut alpha), top| {
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
                softmax(own, heads, top);
                out.fill(T::ZERO);
                for (a, j) in own.chunks_exact(heads).zip(&graph.source[incoming]) {
                    gather(out, a, &x.h[*j as usize * row..(*j as usize + 1) * row], width);
                }
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
                for (l, j) in own.chunks_exact_mut(heads).zip(&graph.source[incoming.clone()]) {
                    for (h, l) in l.iter_mut().enumerate() {
                        let at = |u: usize| u * row + h * width..u * row + (h + 1) * width;
                        *l = inner(&dout[at(v)], &x.h[at(*j as usize)]);
                    }
                }
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
        || (),
        |((first, rows), (_, sources)), ()| {
            for (i, (dh, dsource)) in rows
                .chunks_exact_mut(row)
                .zip(sources.chunks_exact_mut(heads))
                .enumerate()
            {
                for place in graph.outgoing(first + i) {
                    let (p, v) = (*place as usize, graph.target[*place as usize] as usize);
                    gather(
                        dh,
                        &alpha[p * heads..(p + 1) * heads],
                        &dout[v * row..(v + 1) * row],
                        width,
                    );
                    for (d, l) in dsource.iter_mut().zip(&logits[p * heads..(p + 1) * heads]) {
                        *d += *l;
                    }
                }
            }
        },
    );
    grads
}
