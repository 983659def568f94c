//! What a register of single precision or of bytes must offer beyond [`Simd`], so that each algorithm is written once.
//!
//! Contract of every function here and of every generic kernel built on it: the processor has the instructions of the
//! implementing type, and pointers are valid for the lanes that are touched. All of it is `inline(always)`, so that it
//! takes on the `target_feature` of the entry point that instantiates it.

use super::simd::Simd;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// A register of `f32`, with what only single precision needs.
pub(super) trait Lanes: Simd<E = f32> {
    /// Hints that `p` will be read; any address is allowed.
    unsafe fn fetch(p: *const f32);
    unsafe fn abs(self) -> Self;
    /// Nearest integers as signed bytes (values lie in −128..=127), the first `n <= N` of them stored.
    unsafe fn store_i8(self, p: *mut i8, n: usize);
    /// No lane is NaN or infinite.
    unsafe fn finite(self) -> bool;
    /// Bit `i` is set where lane `i` is not below that of `bar`.
    unsafe fn at_least(self, bar: Self) -> u32;
    /// The four sums at once, each by the tree of [`Simd::sum`].
    unsafe fn sums4(v: [Self; 4]) -> [f32; 4];
    /// Splits `2 * N` floats `e0 o0 e1 o1 …` into `(e, o)`.
    unsafe fn deinterleave(lo: Self, hi: Self) -> (Self, Self);
    /// Every lane twice: `v0 v0 v1 v1 …` in two registers.
    unsafe fn twice(self) -> (Self, Self);
    /// `even odd even odd …`.
    unsafe fn alternate(even: f32, odd: f32) -> Self;
}

/// A register of signed bytes with a register of 32-bit sums.
pub(super) trait Bytes: Copy {
    /// Bytes per register.
    const N: usize;
    /// The 32-bit sums.
    type Acc: Copy;

    unsafe fn load(p: *const i8) -> Self;
    /// The first `n < N` bytes; the others are zero.
    unsafe fn load_part(p: *const i8, n: usize) -> Self;
    unsafe fn zero() -> Self::Acc;
    /// Adds the products of `row` and `q`, plus a bias that depends on `q` alone.
    unsafe fn mac(acc: Self::Acc, row: Self, q: Self) -> Self::Acc;
    /// Adds the bias of [`Bytes::mac`] alone.
    unsafe fn bias(acc: Self::Acc, q: Self) -> Self::Acc;
    /// Bit `i` is set where `sums[i] >= bar`, for the sums of one register.
    unsafe fn at_least(sums: *const i32, bar: i32) -> u32;
    unsafe fn sum(acc: Self::Acc) -> i32;
    unsafe fn sums4(acc: [Self::Acc; 4]) -> [i32; 4];
}

/// Asks for the cache lines of one row of `bytes` bytes.
#[inline(always)]
pub(super) fn prefetch_row<T>(row: *const T, bytes: usize) {
    for at in (0..bytes).step_by(64) {
        // SAFETY: a prefetch reads nothing that the program can see, and SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(row.cast::<i8>().wrapping_add(at)) };
    }
}
