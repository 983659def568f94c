//! AVX2 with FMA: eight floats, thirty-two bytes.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `lanes`"
)]

use super::entry::entries;
use super::lanes::{Bytes, Lanes};
use super::simd::Simd;
use std::arch::x86_64::*;

/// The processor and the operating system can run this tier.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Eight ones and eight zeros: a window of it masks the first `n` lanes.
static WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    _mm256_loadu_si256(WINDOW.as_ptr().add(8 - n).cast())
}

/// Sums of four registers of four lanes each, lane pairs (0 + 2) + (1 + 3).
#[inline(always)]
pub(super) unsafe fn quarters(v: [__m128; 4]) -> __m128 {
    let ab = _mm_add_ps(_mm_unpacklo_ps(v[0], v[1]), _mm_unpackhi_ps(v[0], v[1]));
    let cd = _mm_add_ps(_mm_unpacklo_ps(v[2], v[3]), _mm_unpackhi_ps(v[2], v[3]));
    _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab))
}

/// Sum of one register of four lanes, in the order of [`quarters`].
#[inline(always)]
pub(super) unsafe fn quarter(v: __m128) -> f32 {
    let s = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)))
}

/// Largest of four lanes.
#[inline(always)]
pub(super) unsafe fn biggest(v: __m128) -> f32 {
    let m = _mm_max_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)))
}

/// Adds the upper half to the lower.
#[inline(always)]
pub(super) unsafe fn halve(v: __m256) -> __m128 {
    _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v))
}

#[derive(Clone, Copy)]
pub(super) struct F32x8(__m256);

impl Simd for F32x8 {
    type E = f32;
    const N: usize = 8;
    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(_mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(_mm256_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self {
        Self(_mm256_maskload_ps(p, mask(n)))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        _mm256_storeu_ps(p, self.0);
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, n: usize) {
        _mm256_maskstore_ps(p, mask(n), self.0);
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        Self(_mm256_add_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        Self(_mm256_sub_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        Self(_mm256_mul_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        Self(_mm256_div_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        Self(_mm256_max_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn pick(self, o: Self, yes: Self, no: Self) -> Self {
        let greater = _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, o.0);
        Self(_mm256_blendv_ps(no.0, yes.0, greater))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0))
    }
    #[inline(always)]
    unsafe fn pow2(self, n: Self) -> Self {
        // Two factors, because 2ⁿ itself may lie outside the exponent range; only the second product can round.
        let n = _mm256_cvtps_epi32(n.0);
        let half = _mm256_srai_epi32::<1>(n);
        let one = _mm256_set1_epi32(127);
        let f = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, one));
        let g = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), one));
        let v = _mm256_mul_ps(self.0, _mm256_castsi256_ps(f));
        Self(_mm256_mul_ps(v, _mm256_castsi256_ps(g)))
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Self(_mm256_fmadd_ps(self.0, a.0, b.0))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        quarter(halve(self.0))
    }
    #[inline(always)]
    unsafe fn present(self) -> u64 {
        let there = _mm256_cmp_ps::<_CMP_NEQ_UQ>(self.0, _mm256_setzero_ps());
        u64::from(_mm256_movemask_ps(there).cast_unsigned())
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        biggest(_mm_max_ps(
            _mm256_castps256_ps128(self.0),
            _mm256_extractf128_ps::<1>(self.0),
        ))
    }
    #[inline(always)]
    unsafe fn min(self, o: Self) -> Self {
        Self(_mm256_min_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        exponent::exp_single(self)
    }
    #[inline(always)]
    unsafe fn decay(self) -> Self {
        exponent::decay_single(self)
    }
    #[inline(always)]
    unsafe fn interleave(self, o: Self) -> (Self, Self) {
        let (lo, hi) = (_mm256_unpacklo_ps(self.0, o.0), _mm256_unpackhi_ps(self.0, o.0));
        (
            Self(_mm256_permute2f128_ps::<0x20>(lo, hi)),
            Self(_mm256_permute2f128_ps::<0x31>(lo, hi)),
        )
    }
    #[inline(always)]
    unsafe fn exponent(self) -> Self {
        let e = _mm256_srli_epi32::<23>(_mm256_castps_si256(self.0));
        Self(_mm256_sub_ps(_mm256_cvtepi32_ps(e), _mm256_set1_ps(127.0)))
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        Self(_mm256_sqrt_ps(self.0))
    }
}

impl Lanes for F32x8 {
    #[inline(always)]
    unsafe fn fetch(p: *const f32) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(_mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0))
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, n: usize) {
        let i = _mm256_cvtps_epi32(self.0);
        let w = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256::<1>(i));
        let b = _mm_cvtsi128_si64(_mm_packs_epi16(w, w)).to_le_bytes();
        std::ptr::copy_nonoverlapping(b.as_ptr().cast(), p, n);
    }
    #[inline(always)]
    unsafe fn finite(self) -> bool {
        let zero = _mm256_sub_ps(self.0, self.0);
        _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(zero, zero)) == 0
    }
    #[inline(always)]
    unsafe fn at_least(self, bar: Self) -> u32 {
        _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(self.0, bar.0)).cast_unsigned()
    }
    #[inline(always)]
    unsafe fn sums4(v: [Self; 4]) -> [f32; 4] {
        let s = quarters([halve(v[0].0), halve(v[1].0), halve(v[2].0), halve(v[3].0)]);
        std::mem::transmute::<__m128, [f32; 4]>(s)
    }
    #[inline(always)]
    unsafe fn deinterleave(lo: Self, hi: Self) -> (Self, Self) {
        let even = _mm256_shuffle_ps::<0b10_00_10_00>(lo.0, hi.0);
        let odd = _mm256_shuffle_ps::<0b11_01_11_01>(lo.0, hi.0);
        // Pairs of lanes come out as 0 2 1 3.
        let even = _mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(even));
        let odd = _mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(odd));
        (Self(_mm256_castpd_ps(even)), Self(_mm256_castpd_ps(odd)))
    }
    #[inline(always)]
    unsafe fn twice(self) -> (Self, Self) {
        let lo = _mm256_unpacklo_ps(self.0, self.0);
        let hi = _mm256_unpackhi_ps(self.0, self.0);
        (
            Self(_mm256_permute2f128_ps::<0x20>(lo, hi)),
            Self(_mm256_permute2f128_ps::<0x31>(lo, hi)),
        )
    }
    #[inline(always)]
    unsafe fn alternate(even: f32, odd: f32) -> Self {
        Self(_mm256_setr_ps(even, odd, even, odd, even, odd, even, odd))
    }
}

#[derive(Clone, Copy)]
pub(super) struct I8x32(__m256i);

impl Bytes for I8x32 {
    const N: usize = 32;
    type Acc = __m256i;

    #[inline(always)]
    unsafe fn load(p: *const i8) -> Self {
        Self(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_part(p: *const i8, n: usize) -> Self {
        let mut buf = [0i8; 32];
        std::ptr::copy_nonoverlapping(p, buf.as_mut_ptr(), n);
        Self::load(buf.as_ptr())
    }
    #[inline(always)]
    unsafe fn zero() -> __m256i {
        _mm256_setzero_si256()
    }
    /// |row|·(q with row's sign): two products of at most 127² fit in 16 bits, so nothing saturates.
    #[inline(always)]
    unsafe fn mac(acc: __m256i, row: Self, q: Self) -> __m256i {
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(row.0), _mm256_sign_epi8(q.0, row.0));
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
    #[inline(always)]
    unsafe fn bias(acc: __m256i, _q: Self) -> __m256i {
        acc
    }
    #[inline(always)]
    unsafe fn at_least(sums: *const i32, bar: i32) -> u32 {
        let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(bar), _mm256_loadu_si256(sums.cast()));
        !_mm256_movemask_ps(_mm256_castsi256_ps(below)).cast_unsigned() & 0xff
    }
    #[inline(always)]
    unsafe fn sum(acc: __m256i) -> i32 {
        let s = _mm_add_epi32(_mm256_castsi256_si128(acc), _mm256_extracti128_si256::<1>(acc));
        let s = _mm_add_epi32(s, _mm_shuffle_epi32::<0b01_00_11_10>(s));
        _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32::<0b10_11_00_01>(s)))
    }
    #[inline(always)]
    unsafe fn sums4(acc: [__m256i; 4]) -> [i32; 4] {
        let ab = _mm256_hadd_epi32(acc[0], acc[1]);
        let cd = _mm256_hadd_epi32(acc[2], acc[3]);
        let s = _mm256_hadd_epi32(ab, cd);
        let s = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256::<1>(s));
        std::mem::transmute::<__m128i, [i32; 4]>(s)
    }
}

entries!(Tier::Avx2, "avx2,fma", F32x8, I8x32);
