//! Many heads at once: which queries, keys and values belong together, and the work shared among threads.

use super::kept;
use super::parted::{Parted, Queries};
use super::threads;
use super::tile::{self, Blocks, Head, Packed, Rule, Scratch, attend, packs, weights};
use super::tile_split::{self, Parts, Strips, Work};
use crate::kernels::Team;
use crate::kernels::real::Real;
use crate::kernels::split::Engine;

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

/// Operands as the tiles of this processor take them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepared<'a, T: Real> {
    pub parted: &'a Parted<T>,
    /// Keys; empty where everything is in parts.
    pub panels: &'a [Option<Packed<T>>],
}

/// Queries of one head that are attended together.
#[derive(Debug)]
pub(super) struct Asked<'a, T> {
    /// Number of the head.
    pub head: usize,
    /// The queries in parts.
    pub strips: Queries<'a, T>,
    /// Their row numbers.
    pub queries: &'a [usize],
    /// One row per query.
    pub out: &'a mut [T],
    /// Logarithms of the sums.
    pub lse: Option<&'a mut [T]>,
}

/// Buffers of one thread.
#[derive(Debug)]
pub(super) struct Buffers<T> {
    scratch: Scratch<T>,
    strips: Strips<T>,
}

impl<T: Default> Default for Buffers<T> {
    fn default() -> Self {
        Self {
            scratch: Scratch::default(),
            strips: Strips::default(),
        }
    }
}

impl<T: Real> Buffers<T> {
    /// Gives back what only long calls need.
    pub fn shrink(&mut self) {
        self.strips.shrink();
    }
}

/// Row `i` of arrays of `len` values.
pub(super) fn part<T>(data: &[T], i: usize, len: usize) -> &[T] {
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
    pub fn packed(&self, team: &Team) -> Vec<Option<Packed<T>>> {
        let stored = self.k_of.iter().max().map_or(0, |top| top + 1);
        let mut out = vec![None; stored];
        if packs(self.n) {
            let mut used = vec![false; stored];
            self.k_of.iter().for_each(|&i| used[i] = true);
            let pieces = out.iter_mut().enumerate().filter(|(i, _)| used[*i]).collect();
            team.run(pieces, |(i, slot): (usize, &mut Option<Packed<T>>)| {
                *slot = Some(Packed::new(part(self.k, i, self.m * self.d), self.d, self.m));
            });
        }
        out
    }

    /// The operands in parts, for [`Heads::attend_parted`] in pieces of `chunk` queries. Reads them; nothing else does where the
    /// result is [`Parted::whole`].
    #[must_use]
    pub fn part(&self, chunk: usize, threads: usize) -> Parted<T> {
        Parted::new(self, chunk, &[], threads)
    }

    /// Whether there are so few queries and keys that [`Heads::attend_few`] is best.
    #[must_use]
    pub fn are_few(&self, chunk: usize) -> bool {
        !packs(self.n) && self.threads(chunk, self.cost()) == 1
    }

    /// [`Heads::attend`] of few queries on this thread: their keys are read as they are.
    pub fn attend_few<R: Rule<T>>(&self, rule: impl Fn(usize) -> R, blocks: Blocks, out: &mut [T]) {
        let mut scratch: Box<Scratch<T>> = kept::take();
        let all = std::array::from_fn::<usize, { tile::FEW }, _>(|i| i);
        let len = self.n * self.dv;
        for b in 0..self.len() {
            let out = &mut out[b * len..(b + 1) * len];
            attend(
                &self.head(b),
                None,
                &rule(b),
                blocks,
                &all[..self.n],
                out,
                None,
                &mut scratch,
            );
        }
        kept::keep(scratch);
    }

    /// Threads for attention of `cost` multiply-adds in pieces of `chunk` queries.
    #[must_use]
    pub fn threads(&self, chunk: usize, cost: usize) -> usize {
        threads::worth(self.len() * self.n.div_ceil(chunk), cost)
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
        let parted = self.part(chunk, self.threads(chunk, cost));
        self.attend_parted(&parted, rule, blocks, out, lse);
    }

    /// [`Heads::attend`] with operands that were cut up before, for pieces of work of the same size.
    pub fn attend_parted<R: Rule<T>>(
        &self,
        parted: &Parted<T>,
        rule: impl Fn(usize) -> R + Sync,
        blocks: Blocks,
        out: &mut [T],
        lse: Option<&mut [T]>,
    ) {
        if self.n == 0 || self.is_empty() {
            return;
        }
        let chunk = parted.chunk();
        let panels = self.panels(parted);
        let ready = Prepared {
            parted,
            panels: &panels,
        };
        let all: Vec<usize> = (0..self.n).collect();
        let outs = pieces(out, self.len(), self.n, self.dv, chunk);
        let lses: Vec<Option<&mut [T]>> = match lse {
            Some(lse) => pieces(lse, self.len(), self.n, 1, chunk)
                .into_iter()
                .map(|p| Some(p.2))
                .collect(),
            None => outs.iter().map(|_| None).collect(),
        };
        let pieces = outs.into_iter().zip(lses).map(|((head, first, out), lse)| {
            Some(Asked {
                head,
                strips: parted.piece(self.q_of[head], first),
                queries: &all[first..(first + chunk).min(self.n)],
                out,
                lse,
            })
        });
        self.attend_pieces(ready, &rule, blocks, pieces.collect());
    }

    /// Attention of some pieces.
    pub(super) fn attend_pieces<R: Rule<T>>(
        &self,
        ready: Prepared<'_, T>,
        rule: impl Fn(usize) -> R + Sync,
        blocks: Blocks,
        mut pieces: Vec<Option<Asked<'_, T>>>,
    ) {
        ready.parted.share(&mut pieces, |pieces, buffers| {
            let Buffers { scratch, strips } = buffers;
            let engine = Engine::start::<T>();
            let mut split = Vec::with_capacity(pieces.len());
            for asked in pieces.iter_mut().filter_map(Option::take) {
                let Asked {
                    head,
                    strips,
                    queries,
                    out,
                    lse,
                } = asked;
                let rule = rule(head);
                let keys = ready.parted.keys(self.k_of[head]);
                let values = ready.parted.values(self.v_of[head]);
                if let (Some(keys), Some(values), true) = (keys, values, engine.is_some()) {
                    let parts = Parts {
                        queries: strips,
                        keys,
                        values,
                    };
                    split.push(Work {
                        head,
                        parts,
                        rule,
                        queries,
                        out,
                        lse,
                    });
                } else {
                    let keys = ready.panels[self.k_of[head]].as_ref();
                    attend(&self.head(head), keys, &rule, blocks, queries, out, lse, scratch);
                }
            }
            if let Some(engine) = engine {
                tile_split::attend(
                    &engine,
                    split.into_iter(),
                    self.dv,
                    blocks,
                    strips,
                    |work, queries| {
                        let out = &mut work.out[queries.start * self.dv..queries.end * self.dv];
                        let lse = work.lse.as_deref_mut().map(|lse| &mut lse[queries.clone()]);
                        let of = &work.queries[queries];
                        attend(
                            &self.head(work.head),
                            None,
                            &work.rule,
                            blocks,
                            of,
                            out,
                            lse,
                            scratch,
                        );
                    },
                );
            }
        });
    }

    pub(super) fn panels(&self, parted: &Parted<T>) -> Vec<Option<Packed<T>>> {
        if parted.whole() {
            Vec::new()
        } else {
            self.packed(parted.team())
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
