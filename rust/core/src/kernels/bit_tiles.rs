//! Differing bits of many rows with many, on AMX tiles: |x ⊕ y| = |x| + |y| − 2 |x ∧ y|, and |x ∧ y| is the product of the bits as
//! bytes 0 and 1.
//!
//! Bits as bytes take eight times the memory, and a line that leaves the first cache level is slow to write. So none
//! does: both operands are expanded anew for every block of pairs, a few words ahead of the tiles that multiply them, in memory
//! that is used again and again. Tiles and vectors work at the same time.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module: a processor for which `available` holds, pointers valid for what is touched"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "the same index walks registers and memory"
)]

use super::amx;
use super::double::F64x8;
use super::split::{Line, SIDE};
use super::tier::{Tier, tier};
use super::transpose::{Turn, transpose};
use std::arch::x86_64::*;
use std::cell::Cell;
use std::sync::OnceLock;

/// Rows of each side of a block: two tiles.
pub(super) const BLOCK: usize = 2 * SIDE;
/// Rows of each side, and words of them, that are turned at a time: both sides stay in the second cache level.
const ROWS: usize = 4 * BLOCK;
const WORDS: usize = 160;

/// Rows of an incomplete block from which tiles pay: they take the time of a whole one, which
/// is what registers need for three quarters of its pairs (`cargo bench -p sona-bench --bench attention -- differing`).
const ENOUGH: usize = 24;

/// Words that a register holds.
const LANES: usize = 8;
/// Lines of one word of the rows of a block.
const WORD: usize = BLOCK / LANES;
/// Words that are expanded ahead of the tiles.
const AHEAD: usize = 2;
/// Lines of one word of both operands, expanded: two tiles each.
const SLOT: usize = 4 * SIDE;
/// Lines of the words that are expanded, and of the sums of a block.
const SLOTS: usize = 2 * AHEAD * SLOT;
const SUMS: usize = 2 * BLOCK;
/// Bytes between rows of a tile in memory, and between those of the sums.
const STRIDE: usize = 64;
const SUMS_STRIDE: usize = BLOCK * 4;

/// Whether tier, processor and system have what the tiles need.
fn available() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    tier() >= Tier::Amx
        && *ANSWER.get_or_init(|| {
            amx::multiplies_bytes()
                && is_x86_feature_detected!("gfni")
                && is_x86_feature_detected!("avx512vpopcntdq")
        })
}

thread_local! {
    /// Memory of one call, so that not every call asks for it.
    static ROOM: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Tiles set up for this thread, and the pairs that are worth them.
#[derive(Debug)]
pub(super) struct BitTiles {
    _session: amx::Session,
    /// The first rows of each side.
    pub rows: usize,
    pub columns: usize,
}

impl BitTiles {
    /// For pairs of `n` and `m` rows of `w` words; none where the processor has no such tiles or they would not pay.
    pub fn of(n: usize, m: usize, w: usize) -> Option<Self> {
        let worth = |n: usize| {
            let rest = n % BLOCK;
            if rest < ENOUGH { n - rest } else { n }
        };
        let (rows, columns) = (worth(n), worth(m));
        if w == 0 || rows * columns < ENOUGH * BLOCK || !available() {
            return None;
        }
        Some(Self {
            _session: amx::Session::open()?,
            rows,
            columns,
        })
    }

    /// out[i][j] = number of bits in which row i of `a` and row j of `b`, of `w` words, differ, for the first rows of each. `out`
    /// has `m` numbers per row; the others stay as they are.
    pub fn count(&self, a: &[u64], b: &[u64], w: usize, out: &mut [u32], m: usize) {
        assert!(
            a.len() >= self.rows * w
                && b.len() >= self.columns * w
                && self.columns <= m
                && out.len() >= self.rows * m,
            "count: expected a (n, w), b (m, w), out (n, m)"
        );
        let mut room = ROOM.take();
        for word in (0..w).step_by(WORDS) {
            for column in (0..self.columns).step_by(ROWS) {
                for row in (0..self.rows).step_by(ROWS) {
                    let part = Part {
                        a: a[row * w + word..].as_ptr(),
                        n: ROWS.min(self.rows - row),
                        b: b[column * w + word..].as_ptr(),
                        m: ROWS.min(self.columns - column),
                        words: WORDS.min(w - word),
                        stride: w,
                        out: out[row * m + column..].as_mut_ptr(),
                        ldc: m,
                        add: word > 0,
                    };
                    // SAFETY: a session is open and was opened where `available`; the part lies in the slices.
                    unsafe { part.count(&mut room) };
                }
            }
        }
        ROOM.set(room);
    }
}

/// `n` rows of `a` and `m` of `b`, of `words` words and `stride` from row to row; counts go to `out`, `ldc` numbers from row to row.
struct Part {
    a: *const u64,
    n: usize,
    b: *const u64,
    m: usize,
    words: usize,
    stride: usize,
    out: *mut u32,
    ldc: usize,
    /// Counts come on top of what is in `out`.
    add: bool,
}

impl Part {
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,gfni")]
    unsafe fn count(&self, room: &mut Vec<Line>) {
        let (rows, columns) = (self.n.div_ceil(BLOCK), self.m.div_ceil(BLOCK));
        let len = SLOTS + SUMS + (rows + columns) * self.words * WORD;
        if room.len() < len {
            room.resize(len, Line([0; 16]));
        }
        let slots = room.as_mut_ptr();
        let sums = slots.add(SLOTS);
        let left = sums.add(SUMS);
        let right = left.add(rows * self.words * WORD);
        let (mut ones_left, mut ones_right) = ([0; ROWS], [0; ROWS]);
        self.turn(self.a, self.n, left, &mut ones_left);
        self.turn(self.b, self.m, right, &mut ones_right);
        for column in 0..columns {
            for row in 0..rows {
                let a = left.add(row * self.words * WORD);
                let b = right.add(column * self.words * WORD);
                multiply(a, b, self.words, slots, sums.cast());
                let (row, column) = (row * BLOCK, column * BLOCK);
                let ones = (ones_left.as_ptr().add(row), ones_right.as_ptr().add(column));
                self.finish(row, column, sums.cast(), ones);
            }
        }
    }

    /// Blocks of `n` rows, word by word, and the number of ones of each row. Of rows beyond the last there is whatever was in memory:
    /// their counts are never looked at.
    #[inline(always)]
    unsafe fn turn(&self, x: *const u64, n: usize, to: *mut Line, ones: &mut [u32; ROWS]) {
        for (block, ones) in ones.as_chunks_mut::<BLOCK>().0[..n.div_ceil(BLOCK)]
            .iter_mut()
            .enumerate()
        {
            let to = to.add(block * self.words * WORD);
            transpose::<F64x8>(Turn {
                rows: BLOCK.min(n - block * BLOCK),
                columns: self.words,
                x: x.add(block * BLOCK * self.stride).cast(),
                ldx: self.stride,
                out: to.cast(),
                ldc: BLOCK,
            });
            let mut sums = [_mm512_setzero_si512(); WORD];
            for g in 0..self.words {
                for i in 0..WORD {
                    let x = _mm512_load_si512(to.add(g * WORD + i).cast());
                    sums[i] = _mm512_add_epi64(sums[i], _mm512_popcnt_epi64(x));
                }
            }
            for i in 0..WORD {
                let ones = ones.as_mut_ptr().add(i * LANES);
                _mm256_storeu_si256(ones.cast(), _mm512_cvtepi64_epi32(sums[i]));
            }
        }
    }

    /// Differing bits of a block from common ones.
    #[inline(always)]
    unsafe fn finish(
        &self,
        row: usize,
        column: usize,
        common: *const u32,
        (ones_left, ones_right): (*const u32, *const u32),
    ) {
        let inside = BLOCK.min(self.m - column);
        for i in 0..BLOCK.min(self.n - row) {
            let left = _mm512_set1_epi32((*ones_left.add(i)).cast_signed());
            for at in (0..inside).step_by(SIDE) {
                let mask = (0xffffu32 >> (SIDE - (inside - at).min(SIDE))) as __mmask16;
                let out = self.out.add((row + i) * self.ldc + column + at).cast();
                let common = _mm512_load_si512(common.add(i * BLOCK + at).cast());
                let all = _mm512_add_epi32(left, _mm512_loadu_si512(ones_right.add(at).cast()));
                let mut apart = _mm512_sub_epi32(all, _mm512_slli_epi32::<1>(common));
                if self.add {
                    apart = _mm512_add_epi32(apart, _mm512_maskz_loadu_epi32(mask, out));
                }
                _mm512_mask_storeu_epi32(out, mask, apart);
            }
        }
    }
}

/// Matrix that takes bit `t` of each byte, as a byte 0 or 1.
#[inline(always)]
fn bit(t: usize) -> i64 {
    1 << (56 + t)
}

/// A tile of the left operand: of each of sixteen words eight times eight bytes, a bit of every byte of the word each. Any order
/// of the depth would do; this one takes a single instruction.
#[inline(always)]
unsafe fn left(words: *const Line, tile: *mut Line) {
    let bits = _mm512_setr_epi64(bit(0), bit(1), bit(2), bit(3), bit(4), bit(5), bit(6), bit(7));
    for r in 0..SIDE {
        let x = _mm512_set1_epi64(*words.cast::<i64>().add(r));
        let bytes = _mm512_gf2p8affine_epi64_epi8::<0>(x, bits);
        _mm512_store_si512(tile.add(r).cast(), bytes);
    }
}

/// A tile of the right operand, in the same order of the depth: of sixteen words the lower and the upper halves by turns.
#[inline(always)]
unsafe fn right(words: *const Line, tile: *mut Line) {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    let x = _mm512_load_si512(words.cast());
    let y = _mm512_load_si512(words.add(1).cast());
    let lower = _mm512_permutex2var_epi32(x, even, y);
    let upper = _mm512_permutex2var_epi32(x, odd, y);
    for t in 0..8 {
        let bits = _mm512_set1_epi64(bit(t));
        let (first, second) = (tile.add(2 * t), tile.add(2 * t + 1));
        _mm512_store_si512(first.cast(), _mm512_gf2p8affine_epi64_epi8::<0>(lower, bits));
        _mm512_store_si512(second.cast(), _mm512_gf2p8affine_epi64_epi8::<0>(upper, bits));
    }
}

/// Common bits of a block of pairs: registers 0 to 3 sum, 4 and 5 hold A, 6 and 7 hold B.
#[inline(always)]
unsafe fn multiply(a: *const Line, b: *const Line, words: usize, slots: *mut Line, sums: *mut u32) {
    const HALF: usize = WORD / 2;
    let slot = |g: usize| slots.add(g % (2 * AHEAD) * SLOT);
    for g in 0..AHEAD.min(words) {
        let (a, b, to) = (a.add(g * WORD), b.add(g * WORD), slot(g));
        left(a, to);
        left(a.add(HALF), to.add(SIDE));
        right(b, to.add(2 * SIDE));
        right(b.add(HALF), to.add(3 * SIDE));
    }
    amx::zero!(0);
    amx::zero!(1);
    amx::zero!(2);
    amx::zero!(3);
    for g in 0..words {
        // At the end the last word is expanded again, for nobody.
        let next = (g + AHEAD).min(words - 1);
        let (a, b, to) = (a.add(next * WORD), b.add(next * WORD), slot(g + AHEAD));
        let from = slot(g);
        amx::load!(4, from, STRIDE);
        amx::load!(6, from.add(2 * SIDE), STRIDE);
        amx::load!(7, from.add(3 * SIDE), STRIDE);
        amx::load!(5, from.add(SIDE), STRIDE);
        // Products and vectors have to alternate closely.
        amx::multiply_bytes!(0, 4, 6);
        left(a, to);
        amx::multiply_bytes!(1, 4, 7);
        left(a.add(HALF), to.add(SIDE));
        amx::multiply_bytes!(2, 5, 6);
        right(b, to.add(2 * SIDE));
        amx::multiply_bytes!(3, 5, 7);
        right(b.add(HALF), to.add(3 * SIDE));
    }
    let lower = sums.add(SIDE * BLOCK);
    amx::store!(0, sums, SUMS_STRIDE);
    amx::store!(1, sums.add(SIDE), SUMS_STRIDE);
    amx::store!(2, lower, SUMS_STRIDE);
    amx::store!(3, lower.add(SIDE), SUMS_STRIDE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Counts of whole sides on tiles, also where they would not pay. They come into a wider table, which says if they go too far.
    fn check(a: &[u64], b: &[u64], w: usize) {
        let (rows, columns) = (a.len() / w, b.len() / w);
        let session = available().then(amx::Session::open).flatten();
        let Some(_session) = session else {
            eprintln!("products of bytes on tiles: NOT AVAILABLE HERE");
            return;
        };
        let tiles = BitTiles {
            _session,
            rows,
            columns,
        };
        let m = columns + 3;
        let mut got = vec![u32::MAX; (rows + 1) * m];
        tiles.count(a, b, w, &mut got, m);
        for (i, got) in got.chunks_exact(m).enumerate() {
            for (j, got) in got.iter().enumerate() {
                let want = if i < rows && j < columns {
                    let pairs = a[i * w..][..w].iter().zip(&b[j * w..][..w]);
                    pairs.map(|(x, y)| (x ^ y).count_ones()).sum()
                } else {
                    u32::MAX
                };
                assert_eq!(*got, want, "row {i} and {j} of {rows} and {columns}, {w} words");
            }
        }
    }

    /// Rows of `bits` random bits; the others are zero.
    fn rows(n: usize, bits: usize, seed: u64) -> Vec<u64> {
        let (mut state, w) = (seed | 1, bits.div_ceil(64));
        (0..n * w)
            .map(|i| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let unused = if i % w + 1 == w { w * 64 - bits } else { 0 };
                state >> unused
            })
            .collect()
    }

    proptest! {
        #[test]
        fn counts_are_exact(n in 1usize..40, m in 1usize..40, bits in 1usize..3000, seed: u64) {
            let w = bits.div_ceil(64);
            check(&rows(n, bits, seed), &rows(m, bits, !seed), w);
        }

        #[test]
        fn extremes_are_exact(n in 1usize..40, m in 1usize..40, w in 1usize..48, ones: (bool, bool)) {
            let all = |n: usize, ones: bool| vec![if ones { u64::MAX } else { 0 }; n * w];
            check(&all(n, ones.0), &all(m, ones.1), w);
        }
    }

    #[test]
    fn parts_add_up() {
        for (n, m, w) in [
            (ROWS + 1, 5, 3),
            (33, 2 * ROWS + 31, 9),
            (3, 2, 3 * WORDS + 1),
            (ROWS + 9, ROWS + 40, WORDS + 1),
        ] {
            check(&rows(n, w * 64, 1), &rows(m, w * 64, 2), w);
            check(&vec![u64::MAX; n * w], &vec![0; m * w], w);
        }
    }
}
