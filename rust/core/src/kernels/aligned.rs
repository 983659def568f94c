//! Numbers that begin on a cache line.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt::{Debug, Formatter};
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line<T>([T; LINE]);

/// Numbers that begin on a cache line, so that no load or store of a register or tile row crosses one: up to a third of the time of
/// a kernel whose operands sit in the first cache level. Results do not depend on it.
#[derive(Clone)]
pub struct Aligned<T = f32> {
    lines: Vec<Line<T>>,
    len: usize,
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            len: 0,
        }
    }
}

impl<T: Copy + Default> Aligned<T> {
    /// Sixteen numbers fill whole cache lines, so that no gap is left between one line and the next.
    const WHOLE: () = assert!(size_of::<Line<T>>() == LINE * size_of::<T>());

    /// `len` zeros.
    #[must_use]
    pub fn zeros(len: usize) -> Self {
        let mut out = Self::default();
        out.grow(len);
        out
    }

    /// Makes room for `len` numbers where there are fewer; the new ones are zero.
    pub fn grow(&mut self, len: usize) {
        let () = Self::WHOLE;
        if len > self.len {
            self.lines.resize(len.div_ceil(LINE), Line([T::default(); LINE]));
            self.len = len;
        }
    }
}

impl Aligned<f32> {
    /// `len` numbers.
    ///
    /// # Safety
    /// `write` writes all of them.
    pub(super) unsafe fn written(len: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Self {
        let () = Self::WHOLE;
        let count = len.div_ceil(LINE);
        let mut lines: Vec<Line<f32>> = Vec::with_capacity(count);
        let room = lines.spare_capacity_mut().as_mut_ptr();
        // SAFETY: `count` lines of sixteen numbers without gaps, none of them taken for written.
        let room = unsafe { std::slice::from_raw_parts_mut(room.cast::<MaybeUninit<f32>>(), count * LINE) };
        let (numbers, rest) = room.split_at_mut(len);
        write(numbers);
        rest.fill(MaybeUninit::new(0.0));
        // SAFETY: the caller wrote `len` numbers, and the line above the rest.
        unsafe { lines.set_len(count) };
        Self { lines, len }
    }
}

impl<T: Copy + Default> From<&[T]> for Aligned<T> {
    fn from(values: &[T]) -> Self {
        let mut out = Self::zeros(values.len());
        out.copy_from_slice(values);
        out
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: lines are arrays of numbers without gaps (`WHOLE`, checked where any are made), and hold at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T: Debug> Debug for Aligned<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.deref().fmt(f)
    }
}

impl<T: PartialEq> PartialEq for Aligned<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Serialize> Serialize for Aligned<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.deref().serialize(to)
    }
}

impl<'de, T: Deserialize<'de> + Copy + Default> Deserialize<'de> for Aligned<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Vec::<T>::deserialize(from).map(|values| Self::from(&values[..]))
    }
}
