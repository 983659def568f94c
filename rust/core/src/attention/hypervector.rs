//! Binary hypervectors: bits packed in words, Hamming similarity, binding, permutation, majority (Kanerva 1996, 2009).
//!
//! Bit i is bit i mod 64 (least significant first) of word i / 64; bits beyond the dimension are zero.

use super::threads;
use crate::kernels::hamming_pairs;
use std::borrow::Cow;

/// Words of `dim` bits.
#[must_use]
pub fn words(dim: usize) -> usize {
    dim.div_ceil(64)
}

/// Packs rows of `dim` bits.
#[must_use]
pub fn pack(bits: &[bool], dim: usize) -> Vec<u64> {
    let mut out = Vec::with_capacity(bits.len().checked_div(dim).unwrap_or(0) * words(dim));
    for row in bits.chunks_exact(dim.max(1)) {
        out.extend(row.chunks(64).map(|part| {
            part.iter()
                .enumerate()
                .fold(0u64, |word, (i, bit)| word | u64::from(*bit) << i)
        }));
    }
    out
}

/// The bits of rows of packed words.
#[must_use]
pub fn unpack(packed: &[u64], dim: usize) -> Vec<bool> {
    let mut out = Vec::with_capacity(packed.len() * 64);
    for row in packed.chunks_exact(words(dim).max(1)) {
        out.extend((0..dim).map(|i| row[i / 64] >> (i % 64) & 1 == 1));
    }
    out
}

/// Moves bit i to (i + shift) mod `dim`, row by row.
#[must_use]
pub fn permute(packed: &[u64], dim: usize, shift: usize) -> Vec<u64> {
    let w = words(dim);
    let mut out = vec![0u64; packed.len()];
    if dim == 0 {
        return out;
    }
    let shift = shift % dim;
    for (row, out) in packed.chunks_exact(w).zip(out.chunks_exact_mut(w)) {
        // The bits that stay below `dim` move up; those that leave at the top come in at the bottom.
        shift_up(row, shift, out);
        shift_down(row, dim - shift, out);
        if !dim.is_multiple_of(64) {
            out[w - 1] &= (1 << (dim % 64)) - 1;
        }
    }
    out
}

/// out |= row << by.
fn shift_up(row: &[u64], by: usize, out: &mut [u64]) {
    let (words, bits) = (by / 64, by % 64);
    for (i, x) in row.iter().enumerate() {
        if i + words < out.len() {
            out[i + words] |= x << bits;
        }
        if bits > 0 && i + words + 1 < out.len() {
            out[i + words + 1] |= x >> (64 - bits);
        }
    }
}

/// out |= row >> by.
fn shift_down(row: &[u64], by: usize, out: &mut [u64]) {
    let (words, bits) = (by / 64, by % 64);
    for i in words..row.len() {
        out[i - words] |= row[i] >> bits;
        if bits > 0 && i + 1 < row.len() {
            out[i - words] |= row[i + 1] << (64 - bits);
        }
    }
}

/// Majority of rows bit by bit; an even split takes the bit of `ties`.
///
/// Counters are bit-sliced: plane k holds bit k of the counts of 64 positions, and a row is added by a ripple of carries, so one
/// row costs about two operations per word.
#[must_use]
pub fn bundle(packed: &[u64], dim: usize, ties: &[u64]) -> Vec<u64> {
    let w = words(dim);
    if w == 0 {
        return Vec::new();
    }
    let n = packed.len() / w;
    let planes = (usize::BITS - n.leading_zeros()) as usize + 1;
    let mut counts = vec![0u64; planes * w];
    for row in packed.chunks_exact(w) {
        for (i, x) in row.iter().enumerate() {
            let mut carry = *x;
            for plane in counts.chunks_exact_mut(w) {
                if carry == 0 {
                    break;
                }
                let sum = plane[i] ^ carry;
                carry &= plane[i];
                plane[i] = sum;
            }
        }
    }
    // Compare 2·count with n: count > n/2, or count = n/2 for even n, from the highest plane down.
    let half = n / 2;
    (0..w)
        .map(|i| {
            let (mut above, mut equal) = (0u64, u64::MAX);
            for k in (0..planes).rev() {
                let bits = counts[k * w + i];
                let of_half = if half >> k & 1 == 1 { u64::MAX } else { 0 };
                above |= equal & bits & !of_half;
                equal &= !(bits ^ of_half);
            }
            let last = if i + 1 == w && !dim.is_multiple_of(64) {
                (1 << (dim % 64)) - 1
            } else {
                u64::MAX
            };
            (if n.is_multiple_of(2) {
                above | equal & ties[i]
            } else {
                above
            }) & last
        })
        .collect()
}

/// Rows of packed words.
#[derive(Debug)]
pub struct Rows<'a> {
    words: Cow<'a, [u64]>,
    /// Where the first row begins.
    offset: usize,
    n: usize,
    /// Words from one row to the next.
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `w` words where they are.
    #[must_use]
    pub fn borrowed(packed: &'a [u64], w: usize) -> Self {
        Self {
            words: Cow::Borrowed(packed),
            offset: 0,
            n: packed.len().checked_div(w).unwrap_or(0),
            stride: w,
        }
    }

    /// Copies of rows of `w` words, each begun on a cache line, so that no register load crosses one. What is added is zero.
    #[must_use]
    pub fn copied(packed: &[u64], w: usize) -> Self {
        let (n, stride) = (packed.len().checked_div(w).unwrap_or(0), w.next_multiple_of(8));
        let mut words = Vec::<u64>::with_capacity(n * stride + 8);
        let offset = words.as_ptr().align_offset(64).min(8);
        words.resize(offset, 0);
        for row in packed.chunks_exact(w.max(1)) {
            words.extend_from_slice(row);
            words.resize(words.len() + stride - w, 0);
        }
        Self {
            words: Cow::Owned(words),
            offset,
            n,
            stride,
        }
    }

    fn of(&self, first: usize, n: usize) -> &[u64] {
        &self.words[self.offset + first * self.stride..][..n * self.stride]
    }
}

/// Most rows of `a` per piece of work, and rows of `b` that they meet at a time: the counts stay in the second cache level. Tiles
/// take 32 rows of each at once.
const PIECE: usize = 128;
const COLUMNS: usize = 512;
const TILES: usize = 32;

/// 1 − 2·(differing bits)/`dim` of every row of `a` with every row of `b`, (n, m).
#[must_use]
pub fn similarities(a: &Rows<'_>, b: &Rows<'_>, dim: usize) -> Vec<f64> {
    let (n, m) = (a.n, b.n);
    let mut out = vec![0.0; n * m];
    if out.is_empty() {
        return out;
    }
    let share = 2.0 / dim as f64;
    let threads = threads::worth(n.div_ceil(TILES), n * m * a.stride);
    let piece = n.div_ceil(threads).next_multiple_of(TILES).min(PIECE);
    let pieces = out.chunks_mut(piece * m).enumerate().collect();
    threads::share(
        threads,
        pieces,
        Vec::new,
        |(block, out): (usize, &mut [f64]), counts: &mut Vec<u32>| {
            let rows = out.len() / m;
            for column in (0..m).step_by(COLUMNS) {
                let columns = COLUMNS.min(m - column);
                counts.resize(rows * columns, 0);
                hamming_pairs(a.of(block * piece, rows), b.of(column, columns), a.stride, counts);
                for (out, counts) in out.chunks_exact_mut(m).zip(counts.chunks_exact(columns)) {
                    for (out, count) in out[column..].iter_mut().zip(counts) {
                        *out = 1.0 - f64::from(*count) * share;
                    }
                }
            }
        },
    );
    out
}
