//! Graph attention with a dynamic score (Brody et al. 2022, equation 7): the weight vector meets LeakyReLU of the sum of the
//! source's and the target's projection.

use super::gat::{Outgoing, Shape, softmax, softmax_vjp};
use super::{Graph, ROWS, pieces, places};
use crate::attention::threads;
use crate::kernels::real::{Near, Real, add_scaled, row_products, row_scores, weighted_rows};

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
        || (),
        |((first, rows), mut alpha), ()| {
            for (i, out) in rows.chunks_exact_mut(row).enumerate() {
                let v = first + i;
                let incoming = graph.incoming(v);
                let (own, rest) = alpha.split_at_mut(incoming.len() * heads);
                alpha = rest;
                let near = Near::new(x.left, &graph.source[incoming], heads, width);
                row_scores(near, &x.right[v * row..(v + 1) * row], x.att, slope, own);
                softmax(own, heads);
                out.fill(T::ZERO);
                weighted_rows(near, own, out);
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

/// What the gradient of one edge's logits does, all heads at once: out += de·att·LeakyReLU'(left + right) and, in the first
/// pass, att's gradient += de·LeakyReLU(left + right). A choice of factors, not of branches: the compiler does many at once.
fn edge_back<T: Real>(
    de: &[T],
    left: &[T],
    right: &[T],
    att: &[T],
    slope: T,
    out: &mut [T],
    att_grad: &mut [T],
) {
    let n = out.len();
    let (de, left, right, att) = (&de[..n], &left[..n], &right[..n], &att[..n]);
    for c in 0..n {
        let factor = if left[c] + right[c] > T::ZERO {
            T::ONE
        } else {
            slope
        };
        out[c] += de[c] * att[c] * factor;
    }
    for (c, g) in att_grad.iter_mut().enumerate() {
        let z = left[c] + right[c];
        let factor = if z > T::ZERO { T::ONE } else { slope };
        *g += de[c] * (z * factor);
    }
}

/// The number of each head at each of its values.
fn spread<T: Real>(heads: &[T], wide: &mut [T]) {
    let width = wide.len() / heads.len();
    for (x, own) in heads.iter().zip(wide.chunks_exact_mut(width)) {
        own.fill(*x);
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
        || (vec![T::ZERO; heads], vec![T::ZERO; row]),
        |(((first, rows), mut logits), datt), (sum, wide)| {
            for (i, dright) in rows.chunks_exact_mut(row).enumerate() {
                let v = first + i;
                let incoming = graph.incoming(v);
                let (own, rest) = logits.split_at_mut(incoming.len() * heads);
                logits = rest;
                let near = Near::new(x.left, &graph.source[incoming.clone()], heads, width);
                row_products(near, &dout[v * row..(v + 1) * row], own);
                softmax_vjp(
                    &alpha[incoming.start * heads..incoming.end * heads],
                    own,
                    heads,
                    sum,
                );
                let right = &x.right[v * row..(v + 1) * row];
                for (de, j) in own.chunks_exact(heads).zip(&graph.source[incoming]) {
                    let left = &x.left[*j as usize * row..(*j as usize + 1) * row];
                    spread(de, wide);
                    edge_back(wide, left, right, x.att, slope, dright, datt);
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
        || (Outgoing::default(), vec![T::ZERO; row]),
        |(first, rows), (outgoing, wide)| {
            for (i, dleft) in rows.chunks_exact_mut(row).enumerate() {
                let j = first + i;
                outgoing.collect(graph, j, alpha, heads);
                weighted_rows(
                    Near::new(dout, &outgoing.near, heads, width),
                    &outgoing.alpha,
                    dleft,
                );
                let left = &x.left[j * row..(j + 1) * row];
                for place in graph.outgoing(j) {
                    let (p, v) = (*place as usize, graph.target[*place as usize] as usize);
                    spread(&logits[p * heads..(p + 1) * heads], wide);
                    edge_back(
                        wide,
                        left,
                        &x.right[v * row..(v + 1) * row],
                        x.att,
                        slope,
                        dleft,
                        &mut [],
                    );
                }
            }
        },
    );
    grads
}
