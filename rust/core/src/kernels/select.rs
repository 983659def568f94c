//! The k best of a stream of scores.

use super::tier::table;

/// A score that has a total order: NaN counts as the lowest value, −0 as +0.
pub trait Score: Copy + PartialOrd {
    /// The lowest value.
    const LOWEST: Self;
    /// Bit `i` is set where `scores[i] >= bar`; at most 64 scores.
    fn reach(scores: &[Self], bar: Self) -> u64;
    /// Order-preserving 32-bit key.
    fn key(self) -> u32;
    /// The score of a key.
    fn of_key(key: u32) -> Self;
}

impl Score for f32 {
    const LOWEST: Self = f32::NEG_INFINITY;
    #[inline]
    fn reach(scores: &[Self], bar: Self) -> u64 {
        debug_assert!(scores.len() <= 64);
        // SAFETY: the table is this processor's.
        unsafe { (table().reach)(scores, &[bar]) }
    }
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
    fn reach(scores: &[Self], bar: Self) -> u64 {
        debug_assert!(scores.len() <= 64);
        // SAFETY: the table is this processor's.
        unsafe { (table().reach_i32)(scores, bar) }
    }
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
/// Positions are below 2³². Offering costs one comparison where the score does not enter, amortised O(1) where it does.
#[derive(Clone, Debug)]
pub struct TopK<T> {
    /// (key, !position) of up to `room` candidates: a larger number is a better one. Cut back to `k` when full.
    candidates: Vec<u64>,
    k: usize,
    room: usize,
    /// The k-th best score at the last cut: anything lower is out.
    bar: T,
    /// Nothing was cut yet.
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
        let room = k.saturating_add(k.max(32));
        Self {
            candidates: Vec::with_capacity(room.min(512)),
            k,
            room,
            bar: T::LOWEST,
            open: true,
        }
    }

    /// Offers one score.
    #[inline]
    pub fn push(&mut self, score: T, index: usize) {
        if self.open || score >= self.bar {
            self.candidates.push(pack(score, index));
            if self.candidates.len() == self.room {
                self.cut();
            }
        }
    }

    /// A score below this does not enter; rises as better ones come.
    #[inline]
    #[must_use]
    pub fn bar(&self) -> T {
        self.bar
    }

    /// Offers `scores[i]` at position `first + i`.
    pub fn extend(&mut self, first: usize, scores: &[T]) {
        for (b, block) in scores.chunks(64).enumerate() {
            let base = first + b * 64;
            if self.open {
                for (i, s) in block.iter().enumerate() {
                    self.push(*s, base + i);
                }
                continue;
            }
            let mut bits = T::reach(block, self.bar);
            while bits != 0 {
                let i = bits.trailing_zeros() as usize;
                self.push(block[i], base + i);
                bits &= bits - 1;
            }
        }
    }

    #[cold]
    fn cut(&mut self) {
        if self.k == 0 {
            self.candidates.clear();
        } else if self.k < self.candidates.len() {
            let (_, worst, _) = self
                .candidates
                .select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
            self.bar = unpack::<T>(*worst).0;
            self.open = false;
            self.candidates.truncate(self.k);
        }
    }

    /// The entries, best first.
    #[must_use]
    pub fn into_sorted(mut self) -> Vec<(T, usize)> {
        self.cut();
        self.candidates.sort_unstable_by(|a, b| b.cmp(a));
        self.candidates.into_iter().map(unpack).collect()
    }
}

/// Values per column of a table below which the k-th best of the column maxima is not looked for.
const ROWS: usize = 8;

/// Positions of the `k` largest values, best first, ties by position, NaN as −∞; and whether there is no NaN.
///
/// Long rows are folded to a table of 2k columns. The k-th best of their maxima is at most the k-th best value, so what is below
/// it is out; of values in random order about 1.4 k remain.
fn best(values: &[f32], k: usize) -> (Vec<usize>, bool) {
    let k = k.min(values.len());
    let width = (2 * k).next_multiple_of(64);
    let folds = k > 0 && values.len() >= ROWS * width;
    let mut maxima = vec![f32::NEG_INFINITY; if folds { width } else { 0 }];
    // SAFETY: the width is a multiple of every register; the table is this processor's.
    let ordered = unsafe { (table().maxima)(values, &mut maxima) };
    let mut top = TopK::new(k);
    if folds {
        let (_, bar, _) = maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        top.bar = *bar;
        // NaN reaches no bar, but ranks with −∞.
        top.open = *bar == f32::NEG_INFINITY;
    }
    top.extend(0, values);
    (top.into_sorted().into_iter().map(|e| e.1).collect(), ordered)
}

/// Positions of the `k` largest values, best first, ties by position. NaN ranks with −∞.
pub(super) fn top_k(values: &[f32], k: usize) -> Vec<usize> {
    best(values, k).0
}

/// [`top_k`]; `None` where a value is NaN.
pub(super) fn winners(values: &[f32], k: usize) -> Option<Vec<usize>> {
    let (order, ordered) = best(values, k);
    ordered.then_some(order)
}
