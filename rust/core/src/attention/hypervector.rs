//! Binary hypervectors: bits packed in words, Hamming similarity, binding, permutation, majority (Kanerva 1996, 2009).
//!
//! Bit i is bit i mod 64 (least significant first) of word i / 64; bits beyond the dimension are zero.

use super::threads;
use crate::kernels::hamming_pairs;

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

/// Differing bits of every row of `a` with every row of `b`, (n, m).
#[must_use]
pub fn distances(a: &[u64], b: &[u64], w: usize) -> Vec<u32> {
    let (n, m) = (
        a.len().checked_div(w).unwrap_or(0),
        b.len().checked_div(w).unwrap_or(0),
    );
    let mut out = vec![0u32; n * m];
    if out.is_empty() {
        return out;
    }
    let pieces = out.chunks_mut(16 * m).enumerate().collect();
    threads::share(
        threads::worth(n.div_ceil(16), n * m * w),
        pieces,
        || (),
        |(block, out): (usize, &mut [u32]), ()| {
            let rows = &a[block * 16 * w..(block * 16 + out.len() / m) * w];
            hamming_pairs(rows, b, w, out);
        },
    );
    out
}
