//! Registers of double precision: four lanes with AVX2, eight with AVX-512.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `simd`"
)]

use super::exponent;
use super::simd::Simd;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct F64x4(__m256d);

/// Four ones and four zeros: a window of it masks the first `n` lanes.
static WINDOW: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    _mm256_loadu_si256(WINDOW.as_ptr().add(4 - n).cast())
}

impl Simd for F64x4 {
    type E = f64;
    const N: usize = 4;
    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f64) -> Self {
        Self(_mm256_set1_pd(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f64) -> Self {
        Self(_mm256_loadu_pd(p))
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f64, n: usize) -> Self {
        Self(_mm256_maskload_pd(p, mask(n)))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f64) {
        _mm256_storeu_pd(p, self.0);
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f64, n: usize) {
        _mm256_maskstore_pd(p, mask(n), self.0);
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        Self(_mm256_add_pd(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        Self(_mm256_sub_pd(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        Self(_mm256_mul_pd(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        Self(_mm256_div_pd(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        Self(_mm256_max_pd(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn min(self, o: Self) -> Self {
        Self(_mm256_min_pd(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn pick(self, o: Self, yes: Self, no: Self) -> Self {
        let greater = _mm256_cmp_pd::<_CMP_GT_OQ>(self.0, o.0);
        Self(_mm256_blendv_pd(no.0, yes.0, greater))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(_mm256_round_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0))
    }
    #[inline(always)]
    unsafe fn pow2(self, n: Self) -> Self {
        // Two factors, because 2ⁿ itself may lie outside the exponent range; only the second product can round.
        let n = _mm256_cvtpd_epi32(n.0);
        let half = _mm_srai_epi32::<1>(n);
        let rest = _mm_sub_epi32(n, half);
        let bias = _mm256_set1_epi64x(1023);
        let f = _mm256_slli_epi64::<52>(_mm256_add_epi64(_mm256_cvtepi32_epi64(half), bias));
        let g = _mm256_slli_epi64::<52>(_mm256_add_epi64(_mm256_cvtepi32_epi64(rest), bias));
        let v = _mm256_mul_pd(self.0, _mm256_castsi256_pd(f));
        Self(_mm256_mul_pd(v, _mm256_castsi256_pd(g)))
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Self(_mm256_fmadd_pd(self.0, a.0, b.0))
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        exponent::exp_double(self)
    }
    #[inline(always)]
    unsafe fn sum(self) -> f64 {
        let s = _mm_add_pd(_mm256_castpd256_pd128(self.0), _mm256_extractf128_pd::<1>(self.0));
        _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)))
    }
    #[inline(always)]
    unsafe fn present(self) -> u64 {
        let there = _mm256_cmp_pd::<_CMP_NEQ_UQ>(self.0, _mm256_setzero_pd());
        u64::from(_mm256_movemask_pd(there).cast_unsigned())
    }
    #[inline(always)]
    unsafe fn largest(self) -> f64 {
        let m = _mm_max_pd(_mm256_castpd256_pd128(self.0), _mm256_extractf128_pd::<1>(self.0));
        _mm_cvtsd_f64(_mm_max_sd(m, _mm_unpackhi_pd(m, m)))
    }
    #[inline(always)]
    unsafe fn decay(self) -> Self {
        exponent::decay_double(self)
    }
    #[inline(always)]
    unsafe fn interleave(self, o: Self) -> (Self, Self) {
        let (lo, hi) = (_mm256_unpacklo_pd(self.0, o.0), _mm256_unpackhi_pd(self.0, o.0));
        (
            Self(_mm256_permute2f128_pd::<0x20>(lo, hi)),
            Self(_mm256_permute2f128_pd::<0x31>(lo, hi)),
        )
    }
    #[inline(always)]
    unsafe fn exponent(self) -> Self {
        // 2⁵² + e has e in its lowest bits.
        let magic = _mm256_set1_pd(4_503_599_627_370_496.0);
        let e = _mm256_srli_epi64::<52>(_mm256_castpd_si256(self.0));
        let e = _mm256_castsi256_pd(_mm256_or_si256(e, _mm256_castpd_si256(magic)));
        Self(_mm256_sub_pd(e, _mm256_set1_pd(4_503_599_627_370_496.0 + 1023.0)))
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        Self(_mm256_sqrt_pd(self.0))
    }
}

#[derive(Clone, Copy)]
pub(super) struct F64x8(__m512d);

#[inline(always)]
unsafe fn halves(v: __m512d) -> (F64x4, F64x4) {
    (
        F64x4(_mm512_castpd512_pd256(v)),
        F64x4(_mm512_extractf64x4_pd::<1>(v)),
    )
}

impl Simd for F64x8 {
    type E = f64;
    const N: usize = 8;
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn splat(x: f64) -> Self {
        Self(_mm512_set1_pd(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f64) -> Self {
        Self(_mm512_loadu_pd(p))
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f64, n: usize) -> Self {
        Self(_mm512_maskz_loadu_pd((1 << n) - 1, p))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f64) {
        _mm512_storeu_pd(p, self.0);
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f64, n: usize) {
        _mm512_mask_storeu_pd(p, (1 << n) - 1, self.0);
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        Self(_mm512_add_pd(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        Self(_mm512_sub_pd(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        Self(_mm512_mul_pd(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        Self(_mm512_div_pd(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        Self(_mm512_max_pd(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn min(self, o: Self) -> Self {
        Self(_mm512_min_pd(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn pick(self, o: Self, yes: Self, no: Self) -> Self {
        let greater = _mm512_cmp_pd_mask::<_CMP_GT_OQ>(self.0, o.0);
        Self(_mm512_mask_blend_pd(greater, no.0, yes.0))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(_mm512_roundscale_pd::<_MM_FROUND_TO_NEAREST_INT>(self.0))
    }
    #[inline(always)]
    unsafe fn pow2(self, n: Self) -> Self {
        Self(_mm512_scalef_pd(self.0, n.0))
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Self(_mm512_fmadd_pd(self.0, a.0, b.0))
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        exponent::exp_double(self)
    }
    #[inline(always)]
    unsafe fn sum(self) -> f64 {
        let (lo, hi) = halves(self.0);
        lo.add(hi).sum()
    }
    #[inline(always)]
    unsafe fn present(self) -> u64 {
        u64::from(_mm512_cmp_pd_mask::<_CMP_NEQ_UQ>(self.0, _mm512_setzero_pd()))
    }
    #[inline(always)]
    unsafe fn largest(self) -> f64 {
        let (lo, hi) = halves(self.0);
        lo.max(hi).largest()
    }
    #[inline(always)]
    unsafe fn decay(self) -> Self {
        exponent::decay_double(self)
    }
    #[inline(always)]
    unsafe fn interleave(self, o: Self) -> (Self, Self) {
        let lo = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
        let hi = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
        (
            Self(_mm512_permutex2var_pd(self.0, lo, o.0)),
            Self(_mm512_permutex2var_pd(self.0, hi, o.0)),
        )
    }
    #[inline(always)]
    unsafe fn exponent(self) -> Self {
        Self(_mm512_getexp_pd(self.0))
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        Self(_mm512_sqrt_pd(self.0))
    }
}
