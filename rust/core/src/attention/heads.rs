//! Many heads at once: which queries, keys and values belong together, and the work shared among threads.

use super::kept;
use super::rules::LocalGlobal;
use super::threads;
use super::tile::{Blocks, Head, Packed, Rule, Scratch, attend, packs, weights};
use super::tile_split::{self, Parts, Strips};
use super::tile_vjp::{Gradients, attend_vjp};
use crate::kernels::real::{Real, add_scaled};
use crate::kernels::split::{self, Engine, Right};

/// Heads over stored arrays: head b takes array `q_of[b]` of `q`, `k_of[b]` of `k` and `v_of[b]` of `v`. So broadcasting and
/// grouped queries need no copies.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a, T> {
    /// Stored queries (·, n, d).
    pub q: &'a [T],
    /// Stored keys (·, m, d).
    pub k: &'a [T],
    /// Stored values (·, m, dv).
    pub v: &'a [T],
    /// Queries per head.
    pub n: usize,
    /// Keys per head.
    pub m: usize,
    /// Length of queries and keys.
    pub d: usize,
    /// Length of values.
    pub dv: usize,
    /// Factor of the inner products.
    pub scale: T,
    /// Array of queries of each head.
    pub q_of: &'a [usize],
    /// Array of keys of each head.
    pub k_of: &'a [usize],
    /// Array of values of each head.
    pub v_of: &'a [usize],
}

/// Keys and values of all stored arrays, made ready for products with many queries.
#[derive(Debug)]
pub struct Prepared<T> {
    keys: Vec<Option<Right<T>>>,
    values: Vec<Option<Right<T>>>,
    /// Empty where every head has the two above.
    panels: Vec<Option<Packed<T>>>,
}

/// Buffers of one thread.
#[derive(Debug)]
struct Buffers<T: Real> {
    engine: Option<Engine>,
    scratch: Scratch<T>,
    strips: Strips<T>,
}

impl<T: Real> Buffers<T> {
    fn new() -> Self {
        Self {
            engine: Engine::start::<T>(),
            scratch: Scratch::default(),
            strips: kept::take(),
        }
    }
}

impl<T: Real> Drop for Buffers<T> {
    fn drop(&mut self) {
        let mut strips = std::mem::take(&mut self.strips);
        strips.shrink();
        kept::keep(strips);
    }
}

/// Row `i` of arrays of `len` values.
fn part<T>(data: &[T], i: usize, len: usize) -> &[T] {
    &data[i * len..(i + 1) * len]
}

impl<'a, T: Real> Heads<'a, T> {
    /// Number of heads.
    #[must_use]
    pub fn len(&self) -> usize {
        self.q_of.len()
    }

    /// No heads.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.q_of.is_empty()
    }

    /// Head `b`.
    #[must_use]
    pub fn head(&self, b: usize) -> Head<'a, T> {
        Head {
            q: part(self.q, self.q_of[b], self.n * self.d),
            k: part(self.k, self.k_of[b], self.m * self.d),
            v: part(self.v, self.v_of[b], self.m * self.dv),
            d: self.d,
            dv: self.dv,
            scale: self.scale,
        }
    }

    /// Multiply-adds of dense attention, for the choice of the number of threads.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.len() * self.n * self.m * (self.d + self.dv)
    }

    /// The keys of each stored array, packed; `None` where packing does not pay for `n` queries.
    #[must_use]
    pub fn packed(&self, threads: usize) -> Vec<Option<Packed<T>>> {
        let stored = self.k_of.iter().max().map_or(0, |top| top + 1);
        let mut out = vec![None; stored];
        if packs(self.n) {
            let mut used = vec![false; stored];
            self.k_of.iter().for_each(|&i| used[i] = true);
            let pieces = out.iter_mut().enumerate().filter(|(i, _)| used[*i]).collect();
            threads::share(
                threads,
                pieces,
                || (),
                |(i, slot): (usize, &mut Option<Packed<T>>), ()| {
                    *slot = Some(Packed::new(part(self.k, i, self.m * self.d), self.d, self.m));
                },
            );
        }
        out
    }

    /// Keys and values in parts, of each stored array; `None` where that cannot be or does not pay.
    pub(super) fn split(&self, threads: usize) -> [Vec<Option<Right<T>>>; 2] {
        let stored = |of: &[usize]| of.iter().max().map_or(0, |top| top + 1);
        let mut out = [vec![None; stored(self.k_of)], vec![None; stored(self.v_of)]];
        if !(split::available::<T>() && tile_split::pays(self.n, self.d, self.dv)) {
            return out;
        }
        let mut pieces = Vec::new();
        for (turn, (slots, of)) in [true, false]
            .into_iter()
            .zip(out.iter_mut().zip([self.k_of, self.v_of]))
        {
            let mut used = vec![false; slots.len()];
            of.iter().for_each(|&i| used[i] = true);
            pieces.extend(
                slots
                    .iter_mut()
                    .enumerate()
                    .filter(|(i, _)| used[*i])
                    .map(|(i, slot)| (turn, i, slot)),
            );
        }
        threads::share(
            threads,
            pieces,
            || (),
            |(turn, i, slot): (bool, usize, &mut Option<Right<T>>), ()| {
                *slot = if turn {
                    Right::turned(part(self.k, i, self.m * self.d), self.d)
                } else {
                    Right::upright(part(self.v, i, self.m * self.dv), self.dv)
                };
            },
        );
        out
    }

    /// Keys and values as the tiles of this processor take them.
    #[must_use]
    pub fn prepare(&self, threads: usize) -> Prepared<T> {
        let [keys, values] = self.split(threads);
        let split = |b: usize| keys[self.k_of[b]].is_some() && values[self.v_of[b]].is_some();
        let panels = if (0..self.len()).all(split) {
            Vec::new()
        } else {
            self.packed(threads)
        };
        Prepared { keys, values, panels }
    }

    /// Attention of every query of every head. `out` (heads, n, dv), `lse` (heads, n). Work is cut into `chunk` queries, and no
    /// tile reaches across a cut.
    pub fn attend<R: Rule<T>>(
        &self,
        rule: impl Fn(usize) -> R + Sync,
        blocks: Blocks,
        chunk: usize,
        cost: usize,
        out: &mut [T],
        lse: Option<&mut [T]>,
    ) {
        if self.n == 0 || self.is_empty() {
            return;
        }
        let threads = threads::worth(self.len() * self.n.div_ceil(chunk), cost);
        let ready = self.prepare(threads);
        let outs = pieces(out, self.len(), self.n, self.dv, chunk);
        let lses: Vec<Option<&mut [T]>> = match lse {
            Some(lse) => pieces(lse, self.len(), self.n, 1, chunk)
                .into_iter()
                .map(|p| Some(p.2))
                .collect(),
            None => outs.iter().map(|_| None).collect(),
        };
        threads::share(
            threads,
            outs.into_iter().zip(lses).collect(),
            || (Buffers::new(), Vec::new()),
            |((b, first, out), lse), (buffers, queries)| {
                queries.clear();
                queries.extend(first..(first + chunk).min(self.n));
                self.piece(b, &ready, &rule(b), blocks, queries, out, lse, buffers);
            },
        );
    }

    /// Attention of some queries of head `b`.
    #[allow(clippy::too_many_arguments, reason = "operands, rule, results, buffers")]
    fn piece<R: Rule<T>>(
        &self,
        b: usize,
        ready: &Prepared<T>,
        rule: &R,
        blocks: Blocks,
        queries: &[usize],
        out: &mut [T],
        lse: Option<&mut [T]>,
        buffers: &mut Buffers<T>,
    ) {
        let head = self.head(b);
        let (k, v) = (self.k_of[b], self.v_of[b]);
        if let (Some(keys), Some(values), Some(engine)) = (&ready.keys[k], &ready.values[v], &buffers.engine)
        {
            let parts = Parts { engine, keys, values };
            tile_split::attend(
                &head,
                parts,
                rule,
                blocks,
                queries,
                out,
                lse,
                &mut buffers.strips,
                &mut buffers.scratch,
            );
        } else {
            let keys = ready.panels[k].as_ref();
            attend(&head, keys, rule, blocks, queries, out, lse, &mut buffers.scratch);
        }
    }

    /// softmax weights (heads, n, m).
    pub fn weights<R: Rule<T>>(&self, rule: impl Fn(usize) -> R + Sync, lse: &[T], out: &mut [T]) {
        if self.n * self.m == 0 {
            return;
        }
        let pieces = out
            .chunks_exact_mut(self.n * self.m)
            .enumerate()
            .collect::<Vec<_>>();
        let threads = threads::worth(self.len(), self.cost());
        threads::share(
            threads,
            pieces,
            || (),
            |(b, out), ()| weights(&self.head(b), &rule(b), part(lse, b, self.n), out),
        );
    }

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

/// (head, first query, its part of the result) for chunks of queries.
fn pieces<T>(
    data: &mut [T],
    heads: usize,
    n: usize,
    dv: usize,
    chunk: usize,
) -> Vec<(usize, usize, &mut [T])> {
    let mut out = Vec::with_capacity(heads * n.div_ceil(chunk));
    let mut rest = data;
    for b in 0..heads {
        for first in (0..n).step_by(chunk) {
            let (head, tail) = rest.split_at_mut(chunk.min(n - first) * dv);
            out.push((b, first, head));
            rest = tail;
        }
    }
    out
}

/// Attention with a window and global tokens: local queries in narrow tiles, then the global ones in tiles of their own.
pub fn local_global<T: Real>(
    heads: &Heads<'_, T>,
    rule: &LocalGlobal,
    blocks: Blocks,
    out: &mut [T],
    mut lse: Option<&mut [T]>,
) {
    let (n, dv) = (heads.n, heads.dv);
    let chunk = 4 * blocks.q;
    let local = rule.local_only();
    let cost = rule.seen() * heads.len() * (heads.d + dv);
    heads.attend(|_| local.clone(), blocks, chunk, cost, out, lse.as_deref_mut());
    let global = rule.global();
    if global.is_empty() || n == 0 {
        return;
    }
    let threads = threads::worth(heads.len(), cost);
    let ready = heads.prepare(threads);
    let lses: Vec<Option<&mut [T]>> = match lse {
        Some(lse) => lse.chunks_exact_mut(n).map(Some).collect(),
        None => (0..heads.len()).map(|_| None).collect(),
    };
    // Without values there is nothing to write, but the log-sum-exp still counts.
    let mut outs: Vec<&mut [T]> = if dv == 0 {
        (0..heads.len()).map(|_| &mut [][..]).collect()
    } else {
        out.chunks_exact_mut(n * dv).collect()
    };
    let pieces = outs.drain(..).zip(lses).enumerate().collect();
    threads::share(
        threads,
        pieces,
        Buffers::new,
        |(b, (out, lse)): (usize, (&mut [T], Option<&mut [T]>)), buffers| {
            let mut rows = vec![T::ZERO; global.len() * dv];
            let mut sums = vec![T::ZERO; global.len()];
            heads.piece(
                b,
                &ready,
                rule,
                blocks,
                global,
                &mut rows,
                Some(&mut sums),
                buffers,
            );
            for (row, &i) in rows.chunks_exact(dv.max(1)).zip(global) {
                out[i * dv..(i + 1) * dv].copy_from_slice(row);
            }
            if let Some(lse) = lse {
                for (x, &i) in sums.iter().zip(global) {
                    lse[i] = *x;
                }
            }
        },
    );
}
