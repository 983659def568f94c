//! Hamming distances: of 512-bit sketches in blocks, and of long rows of bits.

#[cfg(target_arch = "x86_64")]
use super::bit_tiles::BitTiles;
use super::tier::{Tier, tier};
use std::ops::Range;

/// A sketch: one cache line.
pub type Sketch = [u64; 8];

/// Eight sketches, word by word: `block[w][i]` is word w of sketch i. Counts of eight rows then add up lane by lane.
pub type SketchBlock = [[u64; 8]; 8];

/// out[b][i] = number of bits in which sketch i of `blocks[b]` and `q` differ, 0..=512.
pub fn hamming_blocks(blocks: &[SketchBlock], q: &Sketch, out: &mut [[i16; 8]]) {
    assert_eq!(
        blocks.len(),
        out.len(),
        "hamming_blocks: one row of distances per block"
    );
    #[cfg(target_arch = "x86_64")]
    {
        if tier() >= Tier::Avx512 && is_x86_feature_detected!("avx512vpopcntdq") {
            // SAFETY: the tier has AVX-512 F, and the processor counts bits in its registers.
            return unsafe { x86::blocks_avx512(blocks, q, out) };
        }
        if tier() >= Tier::Avx2 && is_x86_feature_detected!("popcnt") {
            // SAFETY: the tier has AVX2, and the processor counts bits in general registers.
            return unsafe { x86::blocks_avx2(blocks, q, out) };
        }
    }
    blocks_scalar(blocks, q, out);
}

/// Number of bits in which two rows of equal length differ.
#[must_use]
pub fn hamming(a: &[u64], b: &[u64]) -> u32 {
    assert_eq!(a.len(), b.len(), "hamming: lengths differ");
    #[cfg(target_arch = "x86_64")]
    {
        if tier() >= Tier::Avx512 && is_x86_feature_detected!("avx512vpopcntdq") {
            // SAFETY: the tier has AVX-512 F, and the processor counts bits in its registers.
            return unsafe { x86::hamming_avx512(a, b) };
        }
        if tier() >= Tier::Avx2 && is_x86_feature_detected!("popcnt") {
            // SAFETY: the tier has AVX2, and the processor counts bits in general registers.
            return unsafe { x86::hamming_avx2(a, b) };
        }
    }
    hamming_scalar(a, b)
}

/// Rows of each side of a block of pairs: every load then serves four pairs.
const SIDE: usize = 4;

/// Rows of `a` that meet all of `b`, four at a time: with those four they stay in the first cache level.
const STRIP: usize = 16;

/// out (n, m) = number of bits in which rows of `a` (n, w) and `b` (m, w) differ.
pub fn hamming_pairs(a: &[u64], b: &[u64], w: usize, out: &mut [u32]) {
    let (n, m) = (
        a.len().checked_div(w).unwrap_or(0),
        b.len().checked_div(w).unwrap_or(0),
    );
    assert!(
        a.len() == n * w && b.len() == m * w && out.len() == n * m,
        "hamming_pairs: expected a (n, w), b (m, w), out (n, m)"
    );
    #[cfg(target_arch = "x86_64")]
    if let Some(tiles) = BitTiles::of(n, m, w) {
        tiles.count(a, b, w, out, m);
        pairs_of(a, b, w, out, 0..tiles.rows, tiles.columns..m);
        return pairs_of(a, b, w, out, tiles.rows..n, 0..m);
    }
    pairs_of(a, b, w, out, 0..n, 0..m);
}

/// [`hamming_pairs`] of some rows of `a` with some of `b`, in registers.
fn pairs_of(a: &[u64], b: &[u64], w: usize, out: &mut [u32], rows: Range<usize>, columns: Range<usize>) {
    let m = b.len().checked_div(w).unwrap_or(0);
    for strip in rows.clone().step_by(STRIP) {
        let end = rows.end.min(strip + STRIP);
        for j in columns.clone().step_by(SIDE) {
            for i in (strip..end).step_by(SIDE) {
                #[cfg(target_arch = "x86_64")]
                if i + SIDE <= end
                    && j + SIDE <= columns.end
                    && tier() >= Tier::Avx512
                    && is_x86_feature_detected!("avx512vpopcntdq")
                {
                    // SAFETY: the tier has AVX-512 F, and the processor counts bits in its registers; four whole rows each.
                    let counts = unsafe { x86::square_avx512(&a[i * w..], &b[j * w..], w) };
                    for (r, counts) in counts.iter().enumerate() {
                        out[(i + r) * m + j..][..SIDE].copy_from_slice(counts);
                    }
                    continue;
                }
                for r in i..(i + SIDE).min(end) {
                    for c in j..(j + SIDE).min(columns.end) {
                        out[r * m + c] = hamming(&a[r * w..(r + 1) * w], &b[c * w..(c + 1) * w]);
                    }
                }
            }
        }
    }
}

/// How many of `x` are at most `limit`.
#[must_use]
pub fn count_within(x: &[i16], limit: i16) -> usize {
    #[cfg(target_arch = "x86_64")]
    if tier() >= Tier::Avx2 {
        // SAFETY: the tier has AVX2.
        return unsafe { x86::count_avx2(x, limit) };
    }
    count_scalar(x, limit)
}

/// Bit i is set where `x[i]` is at most `limit`.
#[must_use]
pub fn within(x: &[i16; 64], limit: i16) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if tier() >= Tier::Avx512 {
        // SAFETY: the tier has AVX-512 BW.
        return unsafe { x86::within_avx512(x, limit) };
    }
    within_scalar(x, limit)
}

/// The reference.
#[inline(always)]
fn blocks_scalar(blocks: &[SketchBlock], q: &Sketch, out: &mut [[i16; 8]]) {
    for (block, out) in blocks.iter().zip(out) {
        let mut counts = [0u32; 8];
        for (words, q) in block.iter().zip(q) {
            for (c, w) in counts.iter_mut().zip(words) {
                *c += (w ^ q).count_ones();
            }
        }
        *out = counts.map(|c| c as i16);
    }
}

/// The reference.
#[inline(always)]
fn hamming_scalar(a: &[u64], b: &[u64]) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
}

/// The reference.
#[inline(always)]
fn count_scalar(x: &[i16], limit: i16) -> usize {
    // Counts of 16 bits per block: that is what vectorises.
    let block = |b: &[i16]| usize::from(b.iter().map(|v| u16::from(*v <= limit)).sum::<u16>());
    x.chunks(4096).map(block).sum()
}

/// The reference.
fn within_scalar(x: &[i16; 64], limit: i16) -> u64 {
    x.iter()
        .enumerate()
        .fold(0, |mask, (i, v)| mask | u64::from(*v <= limit) << i)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{SIDE, Sketch, SketchBlock, blocks_scalar, count_scalar, hamming_scalar};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,popcnt")]
    pub(super) fn blocks_avx2(blocks: &[SketchBlock], q: &Sketch, out: &mut [[i16; 8]]) {
        blocks_scalar(blocks, q, out);
    }

    #[target_feature(enable = "avx512f,avx512vpopcntdq")]
    pub(super) fn blocks_avx512(blocks: &[SketchBlock], q: &Sketch, out: &mut [[i16; 8]]) {
        // SAFETY: a row of a block is 64 readable bytes; the load needs no alignment.
        let load = |words: &[u64; 8]| unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        let q = q.map(|w| _mm512_set1_epi64(w as i64));
        for (block, out) in blocks.iter().zip(out) {
            let count = |w: usize| _mm512_popcnt_epi64(_mm512_xor_si512(load(&block[w]), q[w]));
            let add = |a, b| _mm512_add_epi64(a, b);
            let low = add(add(count(0), count(1)), add(count(2), count(3)));
            let high = add(add(count(4), count(5)), add(count(6), count(7)));
            let counts = _mm512_cvtepi64_epi16(add(low, high));
            // SAFETY: `out` is 16 writable bytes; the store needs no alignment.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), counts) };
        }
    }

    #[target_feature(enable = "avx2,popcnt")]
    pub(super) fn hamming_avx2(a: &[u64], b: &[u64]) -> u32 {
        hamming_scalar(a, b)
    }

    #[target_feature(enable = "avx512f,avx512vpopcntdq")]
    pub(super) fn hamming_avx512(a: &[u64], b: &[u64]) -> u32 {
        let mut sums = [_mm512_setzero_si512(); 4];
        let (wide_a, rest_a) = a.as_chunks::<32>();
        let (wide_b, rest_b) = b.as_chunks::<32>();
        for (x, y) in wide_a.iter().zip(wide_b) {
            // A fixed number of sums, so that they stay in registers.
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: 64 readable bytes of each; the load needs no alignment.
                let (x, y) = unsafe {
                    (
                        _mm512_loadu_si512(x.as_ptr().add(8 * j).cast()),
                        _mm512_loadu_si512(y.as_ptr().add(8 * j).cast()),
                    )
                };
                *sum = _mm512_add_epi64(*sum, _mm512_popcnt_epi64(_mm512_xor_si512(x, y)));
            }
        }
        for (x, y) in rest_a.chunks(8).zip(rest_b.chunks(8)) {
            let mask = ((1u32 << x.len()) - 1) as __mmask8;
            // SAFETY: the mask covers the words of the two chunks, which are of equal length.
            let (x, y) = unsafe {
                (
                    _mm512_maskz_loadu_epi64(mask, x.as_ptr().cast()),
                    _mm512_maskz_loadu_epi64(mask, y.as_ptr().cast()),
                )
            };
            sums[0] = _mm512_add_epi64(sums[0], _mm512_popcnt_epi64(_mm512_xor_si512(x, y)));
        }
        let low = _mm512_add_epi64(sums[0], sums[1]);
        _mm512_reduce_add_epi64(_mm512_add_epi64(low, _mm512_add_epi64(sums[2], sums[3]))) as u32
    }

    /// Differing bits of the first four rows of `a` with those of `b`. SAFETY: both hold four rows of `w` words.
    #[target_feature(enable = "avx512f,avx512vpopcntdq")]
    pub(super) unsafe fn square_avx512(a: &[u64], b: &[u64], w: usize) -> [[u32; SIDE]; SIDE] {
        let mut sums = [[_mm512_setzero_si512(); SIDE]; SIDE];
        for at in (0..w).step_by(8) {
            let mask = (0xffu32 >> (8 - (w - at).min(8))) as __mmask8;
            let (mut x, mut y) = ([_mm512_setzero_si512(); SIDE], [_mm512_setzero_si512(); SIDE]);
            for r in 0..SIDE {
                // SAFETY: the mask covers words of row r only.
                unsafe {
                    x[r] = _mm512_maskz_loadu_epi64(mask, a.as_ptr().add(r * w + at).cast());
                    y[r] = _mm512_maskz_loadu_epi64(mask, b.as_ptr().add(r * w + at).cast());
                }
            }
            for r in 0..SIDE {
                for c in 0..SIDE {
                    let count = _mm512_popcnt_epi64(_mm512_xor_si512(x[r], y[c]));
                    sums[r][c] = _mm512_add_epi64(sums[r][c], count);
                }
            }
        }
        let mut out = [[0; SIDE]; SIDE];
        for (out, rows) in out.as_chunks_mut::<2>().0.iter_mut().zip(sums.as_chunks::<2>().0) {
            let counts = _mm512_cvtepi64_epi32(eight_sums(rows));
            // SAFETY: two rows are 32 writable bytes; the store needs no alignment.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), counts) };
        }
        out
    }

    /// Lane i: the sum of the lanes of register i, two rows of four registers counted on.
    #[target_feature(enable = "avx512f")]
    fn eight_sums(v: &[[__m512i; SIDE]; 2]) -> __m512i {
        let add = |a, b| _mm512_add_epi64(a, b);
        // Lanes (a, b) of each quarter.
        let two = |a, b| add(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        // Quarters of a and of b, added in pairs.
        let fold = |a, b| {
            let even = _mm512_shuffle_i64x2::<0b10_00_10_00>(a, b);
            add(even, _mm512_shuffle_i64x2::<0b11_01_11_01>(a, b))
        };
        let half = |v: &[__m512i; SIDE]| fold(two(v[0], v[1]), two(v[2], v[3]));
        fold(half(&v[0]), half(&v[1]))
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn count_avx2(x: &[i16], limit: i16) -> usize {
        count_scalar(x, limit)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn within_avx512(x: &[i16; 64], limit: i16) -> u64 {
        let limit = _mm512_set1_epi16(limit);
        // SAFETY: both halves are 64 readable bytes; the load needs no alignment.
        let half = |i: usize| unsafe { _mm512_loadu_si512(x.as_ptr().add(32 * i).cast()) };
        let mask = |i: usize| u64::from(_mm512_cmple_epi16_mask(half(i), limit));
        mask(0) | mask(1) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_tier_counts_the_same(
            blocks in prop::collection::vec(prop::array::uniform8(prop::array::uniform8(any::<u64>())), 0..9),
            q: [u64; 8],
        ) {
            let (mut fast, mut plain) = (vec![[0; 8]; blocks.len()], vec![[0; 8]; blocks.len()]);
            hamming_blocks(&blocks, &q, &mut fast);
            blocks_scalar(&blocks, &q, &mut plain);
            prop_assert_eq!(&fast, &plain);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt") {
                // SAFETY: checked in the line above.
                unsafe { x86::blocks_avx2(&blocks, &q, &mut fast) };
                prop_assert_eq!(fast, plain);
            }
        }

        #[test]
        fn long_rows_count_the_same(pairs in prop::collection::vec(any::<(u64, u64)>(), 0..200)) {
            let (a, b): (Vec<u64>, Vec<u64>) = pairs.into_iter().unzip();
            let want = hamming_scalar(&a, &b);
            prop_assert_eq!(hamming(&a, &b), want);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt") {
                // SAFETY: checked in the line above.
                prop_assert_eq!(unsafe { x86::hamming_avx2(&a, &b) }, want);
            }
        }

        #[test]
        fn pairs_count_the_same(w in 0usize..40, n in 0usize..75, m in 0usize..75, seed: u64) {
            let word = |i: usize| (i as u64 + 1).wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let a: Vec<u64> = (0..n * w).map(word).collect();
            let b: Vec<u64> = (0..m * w).map(|i| word(i + 1000)).collect();
            let (n, m) = if w == 0 { (0, 0) } else { (n, m) };
            let mut out = vec![0; n * m];
            hamming_pairs(&a, &b, w, &mut out);
            for (i, got) in out.iter().enumerate() {
                prop_assert_eq!(*got, hamming_scalar(&a[i / m * w..][..w], &b[i % m * w..][..w]));
            }
        }

        #[test]
        fn limits_are_inclusive(x in prop::collection::vec(0i16..513, 64..300), limit in 0i16..513) {
            prop_assert_eq!(count_within(&x, limit), x.iter().filter(|v| **v <= limit).count());
            let (blocks, _) = x.as_chunks::<64>();
            for b in blocks {
                prop_assert_eq!(within(b, limit), within_scalar(b, limit));
                prop_assert_eq!(within(b, limit).count_ones() as usize, count_within(b, limit));
            }
        }
    }
}
