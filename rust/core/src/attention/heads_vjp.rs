//! Gradients of many heads, added to those of the stored arrays.

use super::heads::{Heads, part};
use super::threads;
use super::tile::{Rule, Scratch};
use super::tile_vjp::{Gradients, attend_vjp};
use crate::kernels::real::{Real, add_scaled};

/// Gradients in the shapes of the stored arrays.
#[derive(Clone, Debug, Default)]
pub struct StoredGradients<T> {
    /// Like [`Heads::q`].
    pub q: Vec<T>,
    /// Like [`Heads::k`].
    pub k: Vec<T>,
    /// Like [`Heads::v`].
    pub v: Vec<T>,
    /// Like the float masks; empty without.
    pub mask: Vec<T>,
    /// Values of one mask; 0 without.
    pub mask_len: usize,
}

impl<T: Real> Heads<'_, T> {
    /// Gradients of a loss with ∂L/∂out = `dout`, given `out` and `lse` of the forward pass, added to `into`, whose arrays have the
    /// shapes of the stored ones. `mask_of(b)`: the array of `into.mask` that head b reads, and its strides.
    #[allow(clippy::too_many_arguments, reason = "forward results, gradients, rule")]
    pub fn vjp<R: Rule<T>>(
        &self,
        rule: impl Fn(usize) -> R + Sync,
        mask_of: impl Fn(usize) -> (usize, [usize; 2]) + Sync,
        chunk: usize,
        out: &[T],
        lse: &[T],
        dout: &[T],
        into: &mut StoredGradients<T>,
    ) {
        if self.n * self.m == 0 || self.is_empty() {
            return;
        }
        let (n, m, d, dv) = (self.n, self.m, self.d, self.dv);
        let threads = threads::worth(self.len(), 3 * self.cost());
        // Heads that read the same array add to one gradient: each head has its own, and they are added in order, a few
        // heads at a time.
        let mut own: Vec<Gradients<T>> = Vec::new();
        let mask_len = into.mask_len;
        for first in (0..self.len()).step_by(threads) {
            let heads = first..(first + threads).min(self.len());
            own.resize_with(heads.len(), Gradients::default);
            let pieces = own.iter_mut().zip(heads.clone()).collect();
            threads::share(
                threads,
                pieces,
                Scratch::default,
                |(g, b): (&mut Gradients<T>, usize), scratch| {
                    g.reset(n * d, m * d, m * dv, mask_len, mask_of(b).1);
                    attend_vjp(
                        &self.head(b),
                        &rule(b),
                        chunk,
                        part(out, b, n * dv),
                        part(lse, b, n),
                        part(dout, b, n * dv),
                        g,
                        scratch,
                    );
                },
            );
            for (g, b) in own.iter().zip(heads) {
                let add = |to: &mut [T], from: &[T], i: usize| {
                    let len = from.len();
                    add_scaled(T::ONE, from, &mut to[i * len..(i + 1) * len]);
                };
                add(&mut into.q, &g.q, self.q_of[b]);
                add(&mut into.k, &g.k, self.k_of[b]);
                add(&mut into.v, &g.v, self.v_of[b]);
                if mask_len > 0 {
                    add(&mut into.mask, &g.mask, mask_of(b).0);
                }
            }
        }
    }
}
