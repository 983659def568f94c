//! FAVOR+ as softmax attention twice, by tiles: where the processor multiplies parts, that is the fastest way to make it.
//!
//! With logits l(k) = Ω·k − ‖k‖²/2 the directions attend the keys; that gives each a mean of the values and the log-sum-exp of its
//! logits. The queries then attend the directions, with these log-sum-exps added to their logits and the means as values.

use super::heads::Heads;
use super::linear::half_squares;
use super::tile::{Blocks, Rule, Span};
use super::tile_split;
use crate::kernels::real::Real;
use crate::kernels::split;

/// Every query sees every key; `0` is added to its logits.
#[derive(Clone, Copy)]
struct Bias<'a, T>(&'a [T]);

impl<T: Real> Rule<T> for Bias<'_, T> {
    fn spans(&self, _: &[usize], spans: &mut Vec<Span>) {
        spans.push(Span {
            start: 0,
            end: self.0.len(),
            masked: true,
        });
    }

    fn apply(&self, _: usize, first: usize, logits: &mut [T]) {
        for (x, bias) in logits.iter_mut().zip(&self.0[first..]) {
            *x += *bias;
        }
    }
}

/// Keys and values beyond which their parts go to the far caches and come back from there: making features block by block is as
/// fast then.
const MANY: usize = 700_000;

/// Whether [`attend`] is the way for these heads and `f` directions.
pub(super) fn pays<T: Real>(heads: &Heads<'_, T>, f: usize) -> bool {
    let few = heads.m > 0 && heads.k.len() + heads.v.len() <= MANY;
    few && split::available::<T>() && tile_split::pays(heads.n.min(f), heads.d, heads.dv)
}

/// `out` (heads, n, dv) for directions `omega` (f, d).
pub(super) fn attend<T: Real>(heads: &Heads<'_, T>, omega: &[T], out: &mut [T]) {
    let Heads { n, m, d, dv, .. } = *heads;
    let (count, f) = (heads.len(), omega.len() / d);
    let mut half = vec![T::ZERO; heads.k.len() / d];
    half_squares(heads.k, d, heads.scale, &mut half);
    half.iter_mut().for_each(|x| *x = -*x);
    let (first, own) = (vec![0; count], (0..count).collect::<Vec<_>>());
    let blocks = Blocks::default();
    let mut means = vec![T::ZERO; count * f * dv];
    let mut sums = vec![T::ZERO; count * f];
    let condense = Heads {
        q: omega,
        n: f,
        q_of: &first,
        ..*heads
    };
    let bias = |b: usize| Bias(&half[heads.k_of[b] * m..][..m]);
    let cost = condense.cost();
    condense.attend(bias, blocks, 4 * blocks.q, cost, &mut means, Some(&mut sums));
    let read = Heads {
        k: omega,
        v: &means,
        m: f,
        k_of: &first,
        v_of: &own,
        ..*heads
    };
    let bias = |b: usize| Bias(&sums[b * f..][..f]);
    read.attend(bias, blocks, 4 * blocks.q, n * count * f * (d + dv), out, None);
}
