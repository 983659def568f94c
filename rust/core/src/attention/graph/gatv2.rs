//! Graph attention with a dynamic score (Brody et al. 2022, equation 7): the weight vector meets LeakyReLU of the sum of the
//! source's and the target's projection.

use super::gat::{Shape, gather, leaky, softmax, softmax_vjp};
use super::{Graph, ROWS, pieces, places};
use crate::attention::threads;
use crate::kernels::real::{Real, add_scaled, inner};

/// Projections of sources and targets (n, heads·width), and the weights of the score (heads·width).
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// Of sources: these are also the values.
    pub left: &'a [T],
    /// Of targets.
    pub right: &'a [T],
    /// Score.
    pub att: &'a [T],
}

/// Sums kept apart so that the compiler can use registers of several lanes.
const LANES: usize = 16;

/// Σ att·LeakyReLU(left + right).
fn score<T: Real>(left: &[T], right: &[T], att: &[T], slope: T) -> T {
    let mut sums = [T::ZERO; LANES];
    let (l, r, a) = (
        left.chunks_exact(LANES),
        right.chunks_exact(LANES),
        att.chunks_exact(LANES),
    );
    let mut rest = T::ZERO;
    for ((l, r), a) in l.remainder().iter().zip(r.remainder()).zip(a.remainder()) {
        rest += *a * leaky(*l + *r, slope);
    }
    for ((l, r), a) in l.zip(r).zip(a) {
        for k in 0..LANES {
            sums[k] += a[k] * leaky(l[k] + r[k], slope);
        }
    }
    sums.into_iter().fold(rest, |a, b| a + b)
}

fn work<T>(graph: &Graph, shape: Shape<T>) -> usize {
    threads::worth(
        graph.n.div_ceil(ROWS),
        graph.edges() * 4 * shape.heads * shape.width,
    )
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
        work(graph, shape),
        parts,
        || vec![T::ZERO; heads],
        |((first, rows), mut alpha), top| {
            for (i, out) in rows.chunks_exact_mut(row).enumerate() {
                let v = first + i;
                let incoming = graph.incoming(v);
                let (own, rest) = alpha.split_at_mut(incoming.len() * heads);
                alpha = rest;
                for (logits, j) in own.chunks_exact_mut(heads).zip(&graph.source[incoming.clone()]) {
                    for (h, l) in logits.iter_mut().enumerate() {
                        let at = |u: usize| u * row + h * width..u * row + (h + 1) * width;
                        *l = score(&x.left[at(*j as usize)], &x.right[at(v)], &x.att[at(0)], slope);
                    }
                }
                softmax(own, heads, top);
                out.fill(T::ZERO);
                for (a, j) in own.chunks_exact(heads).zip(&graph.source[incoming]) {
                    gather(out, a, &x.left[*j as usize * row..(*j as usize + 1) * row], width);
                }
            }
        },
    );
}

/// Gradients of [`Inputs`].
#[derive(Debug, Clone)]
pub struct Gradients<T> {
    /// Of the sources' projections.
    pub left: Vec<T>,
    /// Of the targets'.
    pub right: Vec<T>,
    /// Of the score.
    pub att: Vec<T>,
}

/// out += de·att·LeakyReLU'(left + right); with `att_grad`, that += de·LeakyReLU(left + right).
fn slope_back<T: Real>(de: T, left: &[T], right: &[T], att: &[T], slope: T, out: &mut [T]) {
    for (((l, r), a), o) in left.iter().zip(right).zip(att).zip(out) {
        let g = de * *a;
        *o += if *l + *r > T::ZERO { g } else { g * slope };
    }
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
    let at = |u: usize, h: usize| u * row + h * width..u * row + (h + 1) * width;
    let mut logits = vec![T::ZERO; graph.edges() * heads];
    let mut grads = Gradients {
        left: vec![T::ZERO; x.left.len()],
        right: vec![T::ZERO; x.right.len()],
        att: vec![T::ZERO; row],
    };
    // Every piece of rows sums the gradient of the score on its own; the sums are added in order.
    let mut partial = vec![T::ZERO; graph.n.div_ceil(ROWS) * row];
    let parts: Vec<_> = pieces(&mut grads.right, row)
        .into_iter()
        .zip(places(graph, &mut logits, heads))
        .zip(partial.chunks_exact_mut(row))
        .collect();
    threads::share(
        work(graph, shape),
        parts,
        || vec![T::ZERO; heads],
        |(((first, rows), mut logits), datt), sum| {
            for (i, dright) in rows.chunks_exact_mut(row).enumerate() {
                let v = first + i;
                let incoming = graph.incoming(v);
                let (own, rest) = logits.split_at_mut(incoming.len() * heads);
                logits = rest;
                for (l, j) in own.chunks_exact_mut(heads).zip(&graph.source[incoming.clone()]) {
                    for (h, l) in l.iter_mut().enumerate() {
                        *l = inner(&dout[at(v, h)], &x.left[at(*j as usize, h)]);
                    }
                }
                softmax_vjp(
                    &alpha[incoming.start * heads..incoming.end * heads],
                    own,
                    heads,
                    sum,
                );
                for (l, j) in own.chunks_exact(heads).zip(&graph.source[incoming]) {
                    for (h, de) in l.iter().enumerate() {
                        let (left, right) = (&x.left[at(*j as usize, h)], &x.right[at(v, h)]);
                        slope_back(*de, left, right, &x.att[at(0, h)], slope, &mut dright[at(0, h)]);
                        for ((d, a), b) in datt[at(0, h)].iter_mut().zip(left).zip(right) {
                            *d += *de * leaky(*a + *b, slope);
                        }
                    }
                }
            }
        },
    );
    for own in partial.chunks_exact(row) {
        add_scaled(T::ONE, own, &mut grads.att);
    }
    threads::share(
        work(graph, shape),
        pieces(&mut grads.left, row),
        || (),
        |(first, rows), ()| {
            for (i, dleft) in rows.chunks_exact_mut(row).enumerate() {
                let j = first + i;
                for place in graph.outgoing(j) {
                    let (p, v) = (*place as usize, graph.target[*place as usize] as usize);
                    gather(
                        dleft,
                        &alpha[p * heads..(p + 1) * heads],
                        &dout[v * row..(v + 1) * row],
                        width,
                    );
                    for h in 0..heads {
                        let (left, right) = (&x.left[at(j, h)], &x.right[at(v, h)]);
                        let de = logits[p * heads + h];
                        slope_back(de, left, right, &x.att[at(0, h)], slope, &mut dleft[at(0, h)]);
                    }
                }
            }
        },
    );
    grads
}
