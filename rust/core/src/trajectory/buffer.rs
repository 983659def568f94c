//! The bounded buffer between the threads that serve and the loop that learns.
//!
//! Producers never wait for a consumer: a record goes through atomic counters and one lock-free queue
//! (crossbeam's `ArrayQueue`). A queue cannot be looked at in place, so `peek` moves what it shows into a staging deque
//! behind a mutex; producers touch that mutex only when they must evict something that a `peek` has staged, and under
//! the reservoir policy when a resident is replaced (which becomes rare as the stream goes on).

use crate::error::{Error, Result};
use crate::rng::{self, RngExt};
use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};

/// What happens when a record comes and the buffer is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The oldest goes.
    DropOldest,
    /// The new one is refused.
    Reject,
    /// The buffer stays a uniform sample of everything since it was last drained (Vitter 1985, algorithm R).
    Reservoir,
}

impl Policy {
    /// Reads the public name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "drop_oldest" => Ok(Self::DropOldest),
            "reject" => Ok(Self::Reject),
            "reservoir" => Ok(Self::Reservoir),
            _ => Err(Error::config(
                "policy",
                "\"drop_oldest\", \"reject\" or \"reservoir\"",
                format!("{name:?}"),
            )),
        }
    }

    /// The public name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DropOldest => "drop_oldest",
            Self::Reject => "reject",
            Self::Reservoir => "reservoir",
        }
    }
}

struct Entry<T> {
    seq: u64,
    bytes: usize,
    item: T,
}

/// Counters of a buffer at one moment. `recorded = stored + drained + dropped` whenever no call is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BufferStats {
    /// Calls of [`TrajectoryBuffer::record`].
    pub recorded: u64,
    /// Records lost, whatever the reason.
    pub dropped: u64,
    /// Of those, how many were larger than the whole byte budget.
    pub oversized: u64,
    /// Records handed to a consumer.
    pub drained: u64,
    /// Records held.
    pub stored: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// Bounded multi-producer buffer with exact counters: every record is stored, drained or counted as dropped.
pub struct TrajectoryBuffer<T> {
    queue: ArrayQueue<Entry<T>>,
    staged: Mutex<VecDeque<Entry<T>>>,
    staged_len: AtomicUsize,
    /// Places taken, including those of records that are on their way into the queue.
    stored: AtomicUsize,
    bytes: AtomicUsize,
    recorded: AtomicU64,
    dropped: AtomicU64,
    oversized: AtomicU64,
    drained: AtomicU64,
    /// Stream length that the reservoir samples from; restarts when the buffer is drained.
    seen: AtomicU64,
    policy: Policy,
    max_bytes: Option<usize>,
    seed: u64,
}

impl<T> TrajectoryBuffer<T> {
    /// Room for `capacity` records and, if given, at most `max_bytes`.
    pub fn new(capacity: usize, policy: Policy, max_bytes: Option<usize>, seed: u64) -> Result<Self> {
        // A queue allocates its places at once; this also bounds what saved state may ask for.
        const LIMIT: usize = 1 << 24;
        if capacity == 0 || capacity > LIMIT {
            return Err(Error::config("capacity", format!("1 to {LIMIT}"), capacity));
        }
        if max_bytes == Some(0) {
            return Err(Error::config("max_bytes", "at least 1, or none", 0));
        }
        Ok(Self {
            queue: ArrayQueue::new(capacity),
            staged: Mutex::new(VecDeque::new()),
            staged_len: AtomicUsize::new(0),
            stored: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            recorded: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            oversized: AtomicU64::new(0),
            drained: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            policy,
            max_bytes,
            seed,
        })
    }

    /// Offers one record of `bytes` bytes; true if it was stored.
    pub fn record(&self, item: T, bytes: usize) -> bool {
        self.record_with(item, bytes, drop)
    }

    /// [`Self::record`] that hands the records which make room by age to `gone`.
    pub fn record_with(&self, item: T, bytes: usize, mut gone: impl FnMut(T)) -> bool {
        let seq = self.recorded.fetch_add(1, Relaxed);
        if self.max_bytes.is_some_and(|max| bytes > max) {
            self.oversized.fetch_add(1, Relaxed);
            self.dropped.fetch_add(1, Relaxed);
            return false;
        }
        let entry = Entry { seq, bytes, item };
        match self.policy {
            Policy::DropOldest => {
                while !self.reserve(bytes) {
                    let Some(old) = self.take_oldest() else {
                        // Another producer holds its place but has not pushed yet.
                        std::hint::spin_loop();
                        continue;
                    };
                    self.dropped.fetch_add(1, Relaxed);
                    let fits = self.max_bytes.is_none() || bytes <= old.bytes;
                    if fits {
                        self.exchange(old.bytes, bytes);
                    } else {
                        self.release(old.bytes);
                    }
                    gone(old.item);
                    if fits {
                        break;
                    }
                }
            }
            Policy::Reject => {
                if !self.reserve(bytes) {
                    self.dropped.fetch_add(1, Relaxed);
                    return false;
                }
            }
            Policy::Reservoir => {
                let seen = self.seen.fetch_add(1, Relaxed) + 1;
                if !self.reserve(bytes) && !self.replace_random(seen, bytes) {
                    self.dropped.fetch_add(1, Relaxed);
                    return false;
                }
            }
        }
        self.push(entry);
        true
    }

    /// Takes a place and the bytes, or nothing.
    fn reserve(&self, bytes: usize) -> bool {
        let capacity = self.queue.capacity();
        let place = |n: usize| (n < capacity).then_some(n + 1);
        if self.stored.fetch_update(AcqRel, Acquire, place).is_err() {
            return false;
        }
        let room = match self.max_bytes {
            Some(max) => {
                let grow = |b: usize| b.checked_add(bytes).filter(|b| *b <= max);
                self.bytes.fetch_update(AcqRel, Acquire, grow).is_ok()
            }
            None => {
                self.bytes.fetch_add(bytes, AcqRel);
                true
            }
        };
        if !room {
            self.stored.fetch_sub(1, AcqRel);
        }
        room
    }

    fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, AcqRel);
        self.stored.fetch_sub(1, AcqRel);
    }

    /// The place of a record that went, for another one.
    fn exchange(&self, old: usize, new: usize) {
        if new > old {
            self.bytes.fetch_add(new - old, AcqRel);
        } else if new < old {
            self.bytes.fetch_sub(old - new, AcqRel);
        }
    }

    /// Puts a record whose place is reserved into the queue.
    fn push(&self, mut entry: Entry<T>) {
        // The reservation bounds the queue's occupancy, so this fails only while a pop is half done.
        while let Err(back) = self.queue.push(entry) {
            entry = back;
            std::hint::spin_loop();
        }
    }

    /// The oldest record, whose place and bytes stay reserved.
    fn take_oldest(&self) -> Option<Entry<T>> {
        let gone = if self.staged_len.load(Acquire) > 0 {
            let mut staged = self.staged.lock();
            let gone = staged.pop_front();
            self.staged_len.store(staged.len(), Release);
            gone
        } else {
            None
        };
        gone.or_else(|| self.queue.pop())
    }

    /// Algorithm R for the `seen`-th record: keep it with probability stored/seen, in place of a random resident.
    fn replace_random(&self, seen: u64, bytes: usize) -> bool {
        // One stream per position: no generator to lock or to save, and the same choice on every replay.
        let mut draw = rng::stream(self.seed, seen);
        let mut staged = self.staged.lock();
        self.stage(&mut staged, usize::MAX);
        let pick = draw.random_range(0..seen);
        let kept = usize::try_from(pick).is_ok_and(|p| p < staged.len());
        let mut gone = Vec::new();
        let mut stored = !kept && self.reserve(bytes);
        let mut index = usize::try_from(pick).unwrap_or(usize::MAX);
        while kept && !stored {
            let Some(entry) = staged.swap_remove_back(index) else {
                break;
            };
            self.release(entry.bytes);
            self.dropped.fetch_add(1, Relaxed);
            gone.push(entry);
            stored = self.reserve(bytes);
            index = draw.random_range(0..staged.len().max(1));
        }
        self.staged_len.store(staged.len(), Release);
        drop(staged);
        // `gone` is dropped here, outside the lock: its items may run foreign code.
        stored
    }

    /// Moves records from the queue into the staging deque until it holds `want`.
    fn stage(&self, staged: &mut VecDeque<Entry<T>>, want: usize) {
        while staged.len() < want {
            match self.queue.pop() {
                Some(entry) => staged.push_back(entry),
                None => break,
            }
        }
        self.staged_len.store(staged.len(), Release);
    }

    /// Stages what a consumer asks for. Replacement breaks the order of a reservoir, so that one is staged whole and sorted.
    fn stage_sorted(&self, staged: &mut VecDeque<Entry<T>>, want: usize) {
        if self.policy == Policy::Reservoir {
            self.stage(staged, usize::MAX);
            staged.make_contiguous().sort_unstable_by_key(|e| e.seq);
        } else {
            self.stage(staged, want);
        }
    }

    /// Removes the oldest `n` records (all of those present at the call, if `None`), oldest first.
    pub fn drain(&self, n: Option<usize>) -> Vec<T> {
        let mut staged = self.staged.lock();
        let n = n.unwrap_or(usize::MAX).min(self.stored.load(Acquire));
        let mut out = Vec::with_capacity(n);
        // Straight from the queue unless the order must be restored: one move per record.
        self.stage_sorted(&mut staged, 0);
        while out.len() < n {
            let Some(entry) = staged.pop_front().or_else(|| self.queue.pop()) else {
                break;
            };
            self.release(entry.bytes);
            out.push(entry.item);
        }
        self.staged_len.store(staged.len(), Release);
        self.drained.fetch_add(out.len() as u64, Relaxed);
        self.seen.store(self.stored.load(Acquire) as u64, Relaxed);
        out
    }

    /// Copies of the oldest `n` records (all, if `None`), oldest first; they stay.
    pub fn peek(&self, n: Option<usize>) -> Vec<T>
    where
        T: Clone,
    {
        self.peek_with(n, T::clone)
    }

    /// [`Self::peek`] for items that need more than `Clone` to be copied. `copy` runs under the staging lock.
    pub fn peek_with<U>(&self, n: Option<usize>, copy: impl Fn(&T) -> U) -> Vec<U> {
        let mut staged = self.staged.lock();
        let n = n.unwrap_or(usize::MAX);
        self.stage_sorted(&mut staged, n);
        staged.iter().take(n).map(|e| copy(&e.item)).collect()
    }

    /// Records held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stored.load(Acquire)
    }

    /// True if nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Most records that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    /// What happens when it is full.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Byte budget.
    #[must_use]
    pub fn max_bytes(&self) -> Option<usize> {
        self.max_bytes
    }

    /// Seed of the reservoir.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// All counters.
    #[must_use]
    pub fn stats(&self) -> BufferStats {
        BufferStats {
            recorded: self.recorded.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            oversized: self.oversized.load(Relaxed),
            drained: self.drained.load(Relaxed),
            stored: self.stored.load(Acquire),
            bytes: self.bytes.load(Acquire),
        }
    }

    /// Stored without loss / recorded; 1 when nothing was recorded.
    #[must_use]
    pub fn success_rate(&self) -> f64 {
        let s = self.stats();
        if s.recorded == 0 {
            1.0
        } else {
            (s.recorded - s.dropped.min(s.recorded)) as f64 / s.recorded as f64
        }
    }

    /// Length of the stream that the reservoir has sampled from since the last drain.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen.load(Relaxed)
    }

    /// Restores counters after the records of a saved buffer were put back with [`Self::record`].
    pub fn restore_counters(&self, stats: &BufferStats, seen: u64) {
        self.recorded.store(stats.recorded, Relaxed);
        self.dropped.store(stats.dropped, Relaxed);
        self.oversized.store(stats.oversized, Relaxed);
        self.drained.store(stats.drained, Relaxed);
        self.seen.store(seen, Relaxed);
    }
}

#[cfg(test)]
#[path = "buffer_tests.rs"]
mod tests;
