//! Operands of attention in parts: once they are cut up, the numbers themselves are not needed any more.

use super::cuts::{Cuts, STRIP};
use super::heads::{Buffers, Heads};
use super::kept;
use super::tile_split;
use crate::kernels::Team;
use crate::kernels::real::Real;
use crate::kernels::split;
use crate::kernels::split_store::{Cut, Job, LeftRef, RightRef, Store, Task};
use parking_lot::Mutex;
use std::ops::Range;

/// Keys or values that one thread cuts up at a time; whole groups.
const STRETCH: usize = 256;
/// Shares of the work for each thread: uneven ones even out.
const SHARES: usize = 4;
/// Memory that stays with the thread, in bytes.
const KEPT: usize = 8 << 20;

/// Queries, keys and values of heads in parts. Empty where the processor has no use for parts or they do not pay.
#[derive(Debug)]
pub struct Parted<T: Real> {
    team: Team,
    room: Box<Room<T>>,
    /// Queries per piece of work.
    chunk: usize,
    /// There is one head, in pieces of several strips.
    alone: bool,
    /// Jobs per stored array of queries, and per listed part of it.
    strips: usize,
    listed: usize,
    keys: Stored,
    values: Stored,
    whole: bool,
}

/// Memory of a call.
#[derive(Debug)]
struct Room<T> {
    store: Store<T>,
    /// Buffers that no thread uses at the moment.
    buffers: Mutex<Vec<Buffers<T>>>,
}

impl<T> Default for Room<T> {
    fn default() -> Self {
        Self {
            store: Store::default(),
            buffers: Mutex::default(),
        }
    }
}

/// The jobs of equal arrays, one after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Stored {
    first: usize,
    each: usize,
}

impl Stored {
    fn of(self, i: usize) -> Range<usize> {
        let first = self.first + i * self.each;
        first..first + self.each
    }
}

/// The strips of a piece of queries of width `d`.
fn strips<T>(queries: &[T], d: usize, alone: bool) -> impl Iterator<Item = &[T]> {
    let cuts = Cuts::new(queries.len() / d, alone);
    (0..cuts.len()).map(move |i| {
        let of = cuts.strip(i);
        &queries[of.start * d..of.end * d]
    })
}

fn arrays(of: &[usize]) -> usize {
    of.iter().max().map_or(0, |top| top + 1)
}

impl<T: Real> Parted<T> {
    /// Cuts up the operands. Work will be done in pieces of `chunk` queries; the queries `listed` make one more piece per head.
    pub(super) fn new(heads: &Heads<'_, T>, chunk: usize, listed: &[usize], threads: usize) -> Self {
        let mut out = Self {
            team: Team::new(threads),
            room: kept::take(),
            chunk,
            alone: heads.len() == 1 && chunk > STRIP,
            strips: 0,
            listed: 0,
            keys: Stored::default(),
            values: Stored::default(),
            whole: false,
        };
        let Heads { n, m, d, dv, .. } = *heads;
        if !(split::available::<T>() && tile_split::pays(n, d, dv) && m > 0) {
            return out;
        }
        let (queries, keys, values) = (arrays(heads.q_of), arrays(heads.k_of), arrays(heads.v_of));
        let mut gathered = Vec::with_capacity(queries * listed.len() * d);
        for array in heads.q.chunks_exact(n * d).take(queries) {
            for &i in listed {
                gathered.extend_from_slice(&array[i * d..(i + 1) * d]);
            }
        }
        let mut jobs = Vec::with_capacity(queries * n.div_ceil(split::SIDE) + 2);
        let mut push = |cut: Cut, x, width: usize| {
            jobs.push(Job {
                cut,
                x,
                width,
                scale: heads.scale,
            });
            jobs.len()
        };
        let mut end = 0;
        for array in heads.q.chunks_exact(n * d).take(queries) {
            for piece in array.chunks(chunk * d) {
                for strip in strips(piece, d, out.alone) {
                    end = push(Cut::Left, strip, d);
                }
            }
        }
        out.strips = end.checked_div(queries).unwrap_or(0);
        if !listed.is_empty() {
            for array in gathered.chunks_exact(listed.len() * d) {
                for strip in strips(array, d, out.alone) {
                    end = push(Cut::Left, strip, d);
                }
            }
            out.listed = Cuts::new(listed.len(), out.alone).len();
        }
        for (stored, cut, x, count, width) in [
            (&mut out.keys, Cut::Turned, heads.k, keys, d),
            (&mut out.values, Cut::Upright, heads.v, values, dv),
        ] {
            *stored = Stored {
                first: end,
                each: m.div_ceil(STRETCH),
            };
            for array in x.chunks_exact(m * width).take(count) {
                for part in array.chunks(STRETCH * width) {
                    end = push(cut, part, width);
                }
            }
        }
        let team = &out.team;
        out.room.store.fill(&jobs, |tasks| team.run(tasks, Task::run));
        out.whole = out.room.store.tame();
        out
    }

    /// Attention needs nothing else of the operands.
    #[must_use]
    pub fn whole(&self) -> bool {
        self.whole
    }

    /// Queries per piece of work.
    pub(super) fn chunk(&self) -> usize {
        self.chunk
    }

    /// The threads of the call.
    pub(super) fn team(&self) -> &Team {
        &self.team
    }

    /// Runs `work(pieces, buffers)` for all pieces, some neighbours at a time.
    pub(super) fn share<P: Send>(&self, pieces: &mut [P], work: impl Fn(&mut [P], &mut Buffers<T>) + Sync) {
        let size = self.team.size();
        let some = if size > 1 {
            pieces.len().div_ceil(SHARES * size)
        } else {
            pieces.len()
        };
        self.team.run(pieces.chunks_mut(some.max(1)).collect(), |pieces| {
            let mut buffers = self.room.buffers.lock().pop().unwrap_or_default();
            work(pieces, &mut buffers);
            self.room.buffers.lock().push(buffers);
        });
    }

    /// Keys of stored array `i`; None where they cannot be split.
    pub(super) fn keys(&self, i: usize) -> Option<RightRef<'_, T>> {
        self.room.store.right(self.keys.of(i))
    }

    /// Values of stored array `i`; None where they cannot be split.
    pub(super) fn values(&self, i: usize) -> Option<RightRef<'_, T>> {
        self.room.store.right(self.values.of(i))
    }

    /// The first strip of the piece of stored array `i` that begins with query `first`.
    pub(super) fn piece(&self, i: usize, first: usize) -> Queries<'_, T> {
        Queries {
            store: &self.room.store,
            alone: self.alone,
            first: i * self.strips + first / self.chunk.max(1) * Cuts::new(self.chunk, self.alone).len(),
        }
    }

    /// The first strip of the listed queries of stored array `i`; `stored`: arrays of queries.
    pub(super) fn listed(&self, i: usize, stored: usize) -> Queries<'_, T> {
        Queries {
            store: &self.room.store,
            alone: self.alone,
            first: stored * self.strips + i * self.listed,
        }
    }
}

/// Queries of a piece of work, scaled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queries<'a, T> {
    store: &'a Store<T>,
    alone: bool,
    first: usize,
}

impl<'a, T: Real> Queries<'a, T> {
    /// Into which strips a piece of `n` queries was cut.
    pub fn cuts(&self, n: usize) -> Cuts {
        Cuts::new(n, self.alone)
    }

    /// Strip `i`; None where it cannot be split.
    pub fn strip(&self, i: usize) -> Option<LeftRef<'a, T>> {
        self.store.left(self.first + i)
    }
}

impl<T: Real> Drop for Parted<T> {
    fn drop(&mut self) {
        let mut room = std::mem::take(&mut self.room);
        room.buffers.get_mut().iter_mut().for_each(Buffers::shrink);
        if room.store.bytes() > KEPT {
            room.store = Store::default();
        }
        kept::keep(room);
    }
}
