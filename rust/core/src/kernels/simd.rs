//! What a vector register of either precision must offer so that each algorithm is written once.
//!
//! Contract of every function here and of every generic kernel built on it: the processor has the instructions of the
//! implementing type, and pointers are valid for the lanes that are touched. All of it is `inline(always)`, so that it
//! takes on the `target_feature` of the entry point that instantiates it.
#![allow(unsafe_op_in_unsafe_fn, reason = "one contract for the module, stated above")]

use super::exponent;
use super::real::Real;

/// A register of floats.
pub(super) trait Simd: Copy {
    /// Type of a lane.
    type E: Real;
    /// Lanes per register.
    const N: usize;
    /// There are registers enough for six rows of four.
    const WIDE: bool;

    unsafe fn splat(x: Self::E) -> Self;
    unsafe fn load(p: *const Self::E) -> Self;
    /// The first `n < N` lanes; the others are zero.
    unsafe fn load_part(p: *const Self::E, n: usize) -> Self;
    unsafe fn store(self, p: *mut Self::E);
    /// Stores the first `n < N` lanes only.
    unsafe fn store_part(self, p: *mut Self::E, n: usize);
    unsafe fn add(self, o: Self) -> Self;
    unsafe fn sub(self, o: Self) -> Self;
    unsafe fn mul(self, o: Self) -> Self;
    unsafe fn div(self, o: Self) -> Self;
    /// Lane by lane the larger; `o` where either is NaN.
    unsafe fn max(self, o: Self) -> Self;
    /// Lane by lane the smaller; `o` where either is NaN.
    unsafe fn min(self, o: Self) -> Self;
    /// Lane by lane `yes` where `self > o`, else `no`.
    unsafe fn pick(self, o: Self, yes: Self, no: Self) -> Self;
    /// Nearest integer, ties to even.
    unsafe fn round(self) -> Self;
    /// `self · 2ⁿ` for integers `n` between the least exponent of a denormal and the largest exponent, rounded once.
    unsafe fn pow2(self, n: Self) -> Self;
    /// `self * a + b`, rounded once where the processor can.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    unsafe fn sqrt(self) -> Self;
    /// ⌊log₂ self⌋ of positive normal numbers, as a number.
    unsafe fn exponent(self) -> Self;
    /// e^self; NaN stays NaN.
    unsafe fn exp(self) -> Self;
    /// e^self for self ≤ 0, to a few units in the last place; −∞ gives 0, NaN stays NaN. Below the normal numbers: 0 or the
    /// denormal.
    unsafe fn decay(self) -> Self;
    /// Lanes of both by turns: `(a₀ b₀ a₁ b₁ …)` of the lower halves, then of the upper halves. `N > 1`.
    unsafe fn interleave(self, o: Self) -> (Self, Self);
    /// Sum of the lanes by halving.
    unsafe fn sum(self) -> Self::E;
    /// Largest lane.
    unsafe fn largest(self) -> Self::E;
    /// A bit for each lane that is not zero, NaN among them.
    unsafe fn present(self) -> u64;
}

/// One number as a register: the portable form of the generic kernels.
#[derive(Clone, Copy)]
pub(super) struct One<T>(T);

macro_rules! one {
    ($t:ty, $bits:ty, $bias:literal, $mantissa:literal, $exp:path, $decay:path) => {
        impl Simd for One<$t> {
            type E = $t;
            const N: usize = 1;
            const WIDE: bool = false;

            #[inline(always)]
            unsafe fn splat(x: $t) -> Self {
                Self(x)
            }
            #[inline(always)]
            unsafe fn load(p: *const $t) -> Self {
                Self(*p)
            }
            #[inline(always)]
            unsafe fn load_part(_: *const $t, _: usize) -> Self {
                Self(0.0)
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut $t) {
                *p = self.0;
            }
            #[inline(always)]
            unsafe fn store_part(self, _: *mut $t, _: usize) {}
            #[inline(always)]
            unsafe fn add(self, o: Self) -> Self {
                Self(self.0 + o.0)
            }
            #[inline(always)]
            unsafe fn sub(self, o: Self) -> Self {
                Self(self.0 - o.0)
            }
            #[inline(always)]
            unsafe fn mul(self, o: Self) -> Self {
                Self(self.0 * o.0)
            }
            #[inline(always)]
            unsafe fn div(self, o: Self) -> Self {
                Self(self.0 / o.0)
            }
            #[inline(always)]
            unsafe fn max(self, o: Self) -> Self {
                Self(if self.0 > o.0 { self.0 } else { o.0 })
            }
            #[inline(always)]
            unsafe fn min(self, o: Self) -> Self {
                Self(if self.0 < o.0 { self.0 } else { o.0 })
            }
            #[inline(always)]
            unsafe fn pick(self, o: Self, yes: Self, no: Self) -> Self {
                if self.0 > o.0 { yes } else { no }
            }
            #[inline(always)]
            unsafe fn round(self) -> Self {
                Self(self.0.round_ties_even())
            }
            #[inline(always)]
            unsafe fn pow2(self, n: Self) -> Self {
                // Two factors, because 2ⁿ itself may lie outside the exponent range; only the second product can round.
                let n = n.0 as i32;
                let half = n >> 1;
                let power = |k: i32| <$t>::from_bits(((k + $bias) as $bits) << $mantissa);
                Self(self.0 * power(half) * power(n - half))
            }
            #[inline(always)]
            unsafe fn fma(self, a: Self, b: Self) -> Self {
                Self(self.0 * a.0 + b.0)
            }
            #[inline(always)]
            unsafe fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            unsafe fn sqrt(self) -> Self {
                Self(self.0.sqrt())
            }
            #[inline(always)]
            unsafe fn exponent(self) -> Self {
                Self((self.0.to_bits() >> $mantissa) as $t - $bias as $t)
            }
            #[inline(always)]
            unsafe fn decay(self) -> Self {
                $decay(self)
            }
            #[inline(always)]
            unsafe fn interleave(self, o: Self) -> (Self, Self) {
                (self, o)
            }
            #[inline(always)]
            unsafe fn sum(self) -> $t {
                self.0
            }
            #[inline(always)]
            unsafe fn present(self) -> u64 {
                u64::from(self.0 != 0.0)
            }
            #[inline(always)]
            unsafe fn largest(self) -> $t {
                self.0
            }
        }
    };
}
one!(f32, u32, 127, 23, exponent::exp_single, exponent::decay_single);
one!(f64, u64, 1023, 52, exponent::exp_double, exponent::decay_double);
