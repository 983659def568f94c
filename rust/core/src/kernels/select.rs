//! The k best of a stream of scores.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A score that has a total order: NaN counts as the lowest value, −0 as +0.
pub trait Score: Copy + PartialOrd {
    /// The lowest value.
    const LOWEST: Self;
    /// Order-preserving 32-bit key.
    fn key(self) -> u32;
    /// The score of a key.
    fn of_key(key: u32) -> Self;
}

impl Score for f32 {
    const LOWEST: Self = f32::NEG_INFINITY;
    #[inline]
    fn key(self) -> u32 {
        // NaN ranks with −∞, and adding 0 turns −0 into +0.
        let v = if self.is_nan() {
            f32::NEG_INFINITY
        } else {
            self + 0.0
        };
        let bits = v.to_bits();
        if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
    }
    #[inline]
    fn of_key(key: u32) -> Self {
        f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
    }
}

impl Score for i32 {
    const LOWEST: Self = i32::MIN;
    #[inline]
    fn key(self) -> u32 {
        self.cast_unsigned() ^ 1 << 31
    }
    #[inline]
    fn of_key(key: u32) -> Self {
        (key ^ 1 << 31).cast_signed()
    }
}

/// Keeps the `k` largest scores with their positions; equal scores rank by the lower position, in whatever order they come.
///
/// Positions are below 2³². Offering costs one comparison where the score does not enter, O(log k) where it does.
#[derive(Clone, Debug)]
pub struct TopK<T> {
    /// (key, !position): a larger number is a better entry, the worst is on top.
    heap: BinaryHeap<Reverse<u64>>,
    k: usize,
    /// Lowest score that can still enter.
    bar: T,
    /// Everything enters until `k` are held.
    open: bool,
}

fn pack<T: Score>(score: T, index: usize) -> u64 {
    debug_assert!(u32::try_from(index).is_ok());
    u64::from(score.key()) << 32 | u64::from(!(index as u32))
}

fn unpack<T: Score>(entry: u64) -> (T, usize) {
    (T::of_key((entry >> 32) as u32), !(entry as u32) as usize)
}

impl<T: Score> TopK<T> {
    /// Room for `k` entries.
    #[must_use]
    pub fn new(k: usize) -> Self {
        Self {
            heap: BinaryHeap::with_capacity(k.min(1 << 16)),
            k,
            bar: T::LOWEST,
            open: true,
        }
    }

    /// Offers one score; true if it entered.
    #[inline]
    pub fn push(&mut self, score: T, index: usize) -> bool {
        (self.open || score >= self.bar) && self.insert(score, index)
    }

    /// What a score must at least reach to enter; the lowest value as long as there is room.
    #[inline]
    #[must_use]
    pub fn bar(&self) -> T {
        self.bar
    }

    /// Offers `scores[i]` at position `first + i`.
    #[inline]
    pub fn extend(&mut self, first: usize, scores: &[T]) {
        const BLOCK: usize = 32;
        for (b, block) in scores.chunks(BLOCK).enumerate() {
            // One branch for a block without a candidate; the comparison vectorises.
            if self.open || block.iter().fold(false, |any, s| any | (*s >= self.bar)) {
                for (i, s) in block.iter().enumerate() {
                    self.push(*s, first + b * BLOCK + i);
                }
            }
        }
    }

    #[cold]
    fn insert(&mut self, score: T, index: usize) -> bool {
        let entry = pack(score, index);
        if self.heap.len() < self.k {
            self.heap.push(Reverse(entry));
        } else if let Some(mut worst) = self.heap.peek_mut() {
            if worst.0 >= entry {
                return false;
            }
            worst.0 = entry;
        }
        self.open = self.heap.len() < self.k;
        if let (false, Some(worst)) = (self.open, self.heap.peek()) {
            self.bar = unpack::<T>(worst.0).0;
        }
        true
    }

    /// The entries, best first.
    #[must_use]
    pub fn into_sorted(self) -> Vec<(T, usize)> {
        // Ascending in `Reverse` is descending in the entry.
        self.heap
            .into_sorted_vec()
            .into_iter()
            .map(|e| unpack(e.0))
            .collect()
    }
}

/// Positions of the `k` largest values, best first, ties by position. NaN ranks with −∞.
pub(super) fn top_k(values: &[f32], k: usize) -> Vec<usize> {
    let k = k.min(values.len());
    if k.saturating_mul(8) < values.len() {
        let mut top = TopK::new(k);
        top.extend(0, values);
        return top.into_sorted().into_iter().map(|e| e.1).collect();
    }
    let mut entries: Vec<u64> = values.iter().enumerate().map(|(i, v)| pack(*v, i)).collect();
    if k < entries.len() {
        entries.select_nth_unstable_by(k, |a, b| b.cmp(a));
        entries.truncate(k);
    }
    entries.sort_unstable_by(|a, b| b.cmp(a));
    entries.into_iter().map(|e| unpack::<f32>(e).1).collect()
}
