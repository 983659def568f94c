//! AVX-512 with VNNI: sixteen floats, sixty-four bytes.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `lanes`"
)]

use super::avx2::{biggest, halve, quarter, quarters};
use super::entry::entries;
use super::lanes::{Bytes, Lanes};
use super::simd::Simd;
use std::arch::x86_64::*;

/// The processor and the operating system can run this tier.
pub(super) fn available() -> bool {
    super::avx2::available()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

#[derive(Clone, Copy)]
pub(super) struct F32x16(pub(super) __m512);

#[inline(always)]
unsafe fn halve16(v: __m512) -> __m128 {
    halve(_mm256_add_ps(
        _mm512_castps512_ps256(v),
        _mm512_extractf32x8_ps::<1>(v),
    ))
}

impl Simd for F32x16 {
    type E = f32;
    const N: usize = 16;
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self {
        Self(_mm512_maskz_loadu_ps((1 << n) - 1, p))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        _mm512_storeu_ps(p, self.0);
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, n: usize) {
        _mm512_mask_storeu_ps(p, (1 << n) - 1, self.0);
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        Self(_mm512_add_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        Self(_mm512_sub_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        Self(_mm512_mul_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        Self(_mm512_div_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        Self(_mm512_max_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn pick(self, o: Self, yes: Self, no: Self) -> Self {
        let greater = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, o.0);
        Self(_mm512_mask_blend_ps(greater, no.0, yes.0))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(_mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(self.0))
    }
    #[inline(always)]
    unsafe fn pow2(self, n: Self) -> Self {
        Self(_mm512_scalef_ps(self.0, n.0))
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Self(_mm512_fmadd_ps(self.0, a.0, b.0))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        quarter(halve16(self.0))
    }
    #[inline(always)]
    unsafe fn present(self) -> u64 {
        u64::from(_mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(self.0, _mm512_setzero_ps()))
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let m = _mm256_max_ps(
            _mm512_castps512_ps256(self.0),
            _mm512_extractf32x8_ps::<1>(self.0),
        );
        biggest(_mm_max_ps(
            _mm256_castps256_ps128(m),
            _mm256_extractf128_ps::<1>(m),
        ))
    }
    #[inline(always)]
    unsafe fn min(self, o: Self) -> Self {
        Self(_mm512_min_ps(self.0, o.0))
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        exponent::exp_single(self)
    }
    #[inline(always)]
    unsafe fn decay(self) -> Self {
        // Results below the normal numbers are 0: `scalef` takes a hundred cycles for each of those, and masked logits give many.
        let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, _mm512_set1_ps(-87.0));
        let (p, n) = exponent::decay_factors(self);
        Self(_mm512_maskz_scalef_ps(normal, p.0, n.0))
    }
    #[inline(always)]
    unsafe fn interleave(self, o: Self) -> (Self, Self) {
        let lo = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let hi = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        (
            Self(_mm512_permutex2var_ps(self.0, lo, o.0)),
            Self(_mm512_permutex2var_ps(self.0, hi, o.0)),
        )
    }
    #[inline(always)]
    unsafe fn exponent(self) -> Self {
        Self(_mm512_getexp_ps(self.0))
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        Self(_mm512_sqrt_ps(self.0))
    }
}

impl Lanes for F32x16 {
    #[inline(always)]
    unsafe fn fetch(p: *const f32) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(_mm512_abs_ps(self.0))
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, n: usize) {
        let k = ((1u32 << n) - 1) as __mmask16;
        _mm512_mask_cvtsepi32_storeu_epi8(p.cast(), k, _mm512_cvtps_epi32(self.0));
    }
    #[inline(always)]
    unsafe fn finite(self) -> bool {
        let zero = _mm512_sub_ps(self.0, self.0);
        _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(zero, zero) == 0
    }
    #[inline(always)]
    unsafe fn at_least(self, bar: Self) -> u32 {
        u32::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, bar.0))
    }
    #[inline(always)]
    unsafe fn sums4(v: [Self; 4]) -> [f32; 4] {
        let s = quarters([halve16(v[0].0), halve16(v[1].0), halve16(v[2].0), halve16(v[3].0)]);
        std::mem::transmute::<__m128, [f32; 4]>(s)
    }
    #[inline(always)]
    unsafe fn deinterleave(lo: Self, hi: Self) -> (Self, Self) {
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        (
            Self(_mm512_permutex2var_ps(lo.0, even, hi.0)),
            Self(_mm512_permutex2var_ps(lo.0, odd, hi.0)),
        )
    }
    #[inline(always)]
    unsafe fn twice(self) -> (Self, Self) {
        let lo = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        let hi = _mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
        (
            Self(_mm512_permutexvar_ps(lo, self.0)),
            Self(_mm512_permutexvar_ps(hi, self.0)),
        )
    }
    #[inline(always)]
    unsafe fn alternate(even: f32, odd: f32) -> Self {
        let pair = u64::from(odd.to_bits()) << 32 | u64::from(even.to_bits());
        Self(_mm512_castsi512_ps(_mm512_set1_epi64(pair.cast_signed())))
    }
}

#[derive(Clone, Copy)]
pub(super) struct I8x64(__m512i);

impl Bytes for I8x64 {
    const N: usize = 64;
    type Acc = __m512i;

    #[inline(always)]
    unsafe fn load(p: *const i8) -> Self {
        Self(_mm512_loadu_si512(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_part(p: *const i8, n: usize) -> Self {
        Self(_mm512_maskz_loadu_epi8((1 << n) - 1, p))
    }
    #[inline(always)]
    unsafe fn zero() -> __m512i {
        _mm512_setzero_si512()
    }
    /// `vpdpbusd` multiplies unsigned by signed: row + 128 is unsigned, and the 128·Σq it adds is the bias.
    #[inline(always)]
    unsafe fn mac(acc: __m512i, row: Self, q: Self) -> __m512i {
        _mm512_dpbusd_epi32(acc, _mm512_xor_si512(row.0, _mm512_set1_epi8(-128)), q.0)
    }
    #[inline(always)]
    unsafe fn bias(acc: __m512i, q: Self) -> __m512i {
        _mm512_dpbusd_epi32(acc, _mm512_set1_epi8(-128), q.0)
    }
    #[inline(always)]
    unsafe fn at_least(sums: *const i32, bar: i32) -> u32 {
        u32::from(_mm512_cmpge_epi32_mask(
            _mm512_loadu_si512(sums.cast()),
            _mm512_set1_epi32(bar),
        ))
    }
    #[inline(always)]
    unsafe fn sum(acc: __m512i) -> i32 {
        _mm512_reduce_add_epi32(acc)
    }
    #[inline(always)]
    unsafe fn sums4(acc: [__m512i; 4]) -> [i32; 4] {
        let mut h = [_mm256_setzero_si256(); 4];
        for (h, a) in h.iter_mut().zip(acc) {
            *h = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64::<1>(a));
        }
        <super::avx2::I8x32 as Bytes>::sums4(h)
    }
}

entries!(
    Tier::Avx512,
    "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
    F32x16,
    I8x64
);
