//! The table of kernels of one precision on one tier, stamped out for each.

use super::exponent::Absorb;
use super::matmul::Product;
use super::neighbours::Near;
use super::real::Real;
use super::recurrence::Scan;
use super::rows::Quotient;
use super::simd::One;
use super::split::SplitTable;
use super::tier::{Tier, tier};
use super::transpose::Turn;

/// The kernels of one precision on one tier. Callers have checked lengths.
#[doc(hidden)]
#[allow(missing_debug_implementations, reason = "a table of functions")]
#[allow(clippy::type_complexity, reason = "the types are the kernels' signatures")]
pub struct RealTable<T> {
    pub(super) multiply: unsafe fn(Product<T>),
    pub(super) largest: unsafe fn(&[T]) -> T,
    pub(super) decays: unsafe fn(&mut [T], T) -> T,
    pub(super) absorb: unsafe fn(Absorb<T>),
    pub(super) transpose: unsafe fn(Turn<T>),
    pub(super) exp: unsafe fn(&mut [T]),
    pub(super) dot: unsafe fn(&[T], &[T]) -> T,
    pub(super) axpy: unsafe fn(T, &[T], &mut [T]),
    pub(super) scale: unsafe fn(T, &mut [T]),
    pub(super) scale_rows: unsafe fn(&[T], &mut [T]),
    pub(super) divide: unsafe fn(Quotient<T>),
    /// Rows at a pointer, their distance, how much of each, and what it becomes.
    pub(super) fill: unsafe fn(*mut T, usize, usize, usize, T),
    pub(super) nonzero: unsafe fn(&[T], *mut u32, *mut T) -> usize,
    /// Rows of one matrix times one vector.
    pub(super) project: unsafe fn(&[T], &[T], &mut [T]),
    pub(super) scan: unsafe fn(Scan<T>),
    pub(super) decay_step: unsafe fn(&mut [T], T, T, &[T], &[T]) -> T,
    pub(super) ln_1p: unsafe fn(&mut [T]),
    pub(super) softplus: unsafe fn(&mut [T]),
    pub(super) gate_silu: unsafe fn(&mut [T], &[T]),
    /// Numbers per edge and head, values of a node.
    pub(super) weighted: unsafe fn(Near<'_, T>, &[T], &mut [T]),
    pub(super) products: unsafe fn(Near<'_, T>, &[T], &mut [T]),
    pub(super) scores: unsafe fn(Near<'_, T>, &[T], &[T], T, &mut [T]),
    pub(super) elu_plus_one: unsafe fn(&mut [T]),
    pub(super) apart: unsafe fn(&mut [T], &[T], T, T) -> bool,
    pub(super) distances: unsafe fn(&mut [T], &[T], T, T),
}

macro_rules! table {
    ($name:ident, $t:ty, $lanes:ty, $($features:literal)?) => {
        mod $name {
            use super::super::{ball, exponent, matmul, neighbours, recurrence, rows, transpose};
            use super::*;

            $(#[target_feature(enable = $features)])?
            unsafe fn multiply(p: Product<$t>) {
                // SAFETY: the caller's contract, on this tier's processor.
                unsafe { matmul::multiply::<$lanes>(p) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn largest(x: &[$t]) -> $t {
                // SAFETY: the slice's own length.
                unsafe { exponent::largest::<$lanes>(x.as_ptr(), x.len()) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn decays(x: &mut [$t], shift: $t) -> $t {
                // SAFETY: the slice's own length.
                unsafe { exponent::decays::<$lanes>(x.as_mut_ptr(), x.len(), shift) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn absorb(a: Absorb<$t>) {
                // SAFETY: the caller's contract, on this tier's processor.
                unsafe { exponent::absorb::<$lanes>(a) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn turn(t: Turn<$t>) {
                // SAFETY: the caller's contract, on this tier's processor.
                unsafe { transpose::transpose::<$lanes>(t) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn exp(x: &mut [$t]) {
                // SAFETY: the slice's own length.
                unsafe { exponent::exp::<$lanes>(x.as_mut_ptr(), x.len()) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn dot(a: &[$t], b: &[$t]) -> $t {
                // SAFETY: the caller has compared the lengths.
                unsafe { rows::dot::<$lanes>(a.as_ptr(), b.as_ptr(), a.len()) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn axpy(alpha: $t, x: &[$t], y: &mut [$t]) {
                // SAFETY: the caller has compared the lengths.
                unsafe { rows::axpy::<$lanes>(alpha, x.as_ptr(), y.as_mut_ptr(), x.len()) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn scale(alpha: $t, x: &mut [$t]) {
                // SAFETY: the slice's own length.
                unsafe { rows::scale::<$lanes>(alpha, x.as_mut_ptr(), x.len()) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn scale_rows(by: &[$t], x: &mut [$t]) {
                let n = x.len().checked_div(by.len()).unwrap_or(0);
                for (r, by) in by.iter().enumerate() {
                    // SAFETY: the caller has checked that x is (by, n).
                    unsafe { rows::scale::<$lanes>(*by, x.as_mut_ptr().add(r * n), n) }
                }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn divide(q: Quotient<$t>) {
                // SAFETY: the caller's contract, on this tier's processor.
                unsafe { rows::divide::<$lanes>(q) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn fill(x: *mut $t, rows: usize, stride: usize, n: usize, value: $t) {
                // SAFETY: the caller's contract, on this tier's processor.
                unsafe { rows::fill::<$lanes>(x, rows, stride, n, value) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn nonzero(x: &[$t], columns: *mut u32, values: *mut $t) -> usize {
                // SAFETY: the caller has room for the whole row.
                unsafe { rows::nonzero::<$lanes>(x.as_ptr(), x.len(), columns, values) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn project(matrix: &[$t], x: &[$t], out: &mut [$t]) {
                // SAFETY: the caller has checked that the matrix is (out, x).
                unsafe { rows::project::<$lanes>(matrix.as_ptr(), x.as_ptr(), x.len(), out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn scan(s: Scan<$t>) {
                // SAFETY: the caller's contract, on this tier's processor.
                unsafe { recurrence::scan::<$lanes>(s) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn decay_step(h: &mut [$t], decay: $t, gain: $t, b: &[$t], c: &[$t]) -> $t {
                // SAFETY: the caller has compared the lengths.
                unsafe { recurrence::decay_step::<$lanes>(h.as_mut_ptr(), decay, gain, b.as_ptr(), c.as_ptr(), h.len()) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn ln_1p(x: &mut [$t]) {
                // SAFETY: the slice's own length.
                unsafe { recurrence::ln_1p::<$lanes>(x.as_mut_ptr(), x.len()) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn softplus(x: &mut [$t]) {
                // SAFETY: the slice's own length.
                unsafe { recurrence::softplus::<$lanes>(x.as_mut_ptr(), x.len()) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn gate_silu(y: &mut [$t], z: &[$t]) {
                // SAFETY: the caller has compared the lengths.
                unsafe { recurrence::gate_silu::<$lanes>(y.as_mut_ptr(), z.as_ptr(), y.len()) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn weighted(x: Near<'_, $t>, alpha: &[$t], out: &mut [$t]) {
                // SAFETY: the caller has checked sizes and numbers.
                unsafe { neighbours::weighted::<$lanes>(x, alpha, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn products(x: Near<'_, $t>, own: &[$t], out: &mut [$t]) {
                // SAFETY: the caller has checked sizes and numbers.
                unsafe { neighbours::products::<$lanes>(x, own, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn scores(x: Near<'_, $t>, own: &[$t], att: &[$t], slope: $t, out: &mut [$t]) {
                // SAFETY: the caller has checked sizes and numbers.
                unsafe { neighbours::scores::<$lanes>(x, own, att, slope, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn elu_plus_one(x: &mut [$t]) {
                // SAFETY: the slice's own length.
                unsafe { recurrence::elu_plus_one::<$lanes>(x.as_mut_ptr(), x.len()) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn apart(x: &mut [$t], squares: &[$t], own: $t, near: $t) -> bool {
                // SAFETY: the caller has compared the lengths.
                unsafe { ball::apart::<$lanes>(x.as_mut_ptr(), squares.as_ptr(), x.len(), own, near) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn distances(x: &mut [$t], room: &[$t], factor: $t, p: $t) {
                // SAFETY: the caller has compared the lengths.
                unsafe { ball::distances::<$lanes>(x.as_mut_ptr(), room.as_ptr(), x.len(), factor, p) }
            }
            pub(super) static TABLE: RealTable<$t> = RealTable {
                multiply,
                largest,
                decays,
                absorb,
                transpose: turn,
                exp,
                dot,
                axpy,
                scale,
                scale_rows,
                divide,
                fill,
                nonzero,
                project,
                scan,
                decay_step,
                ln_1p,
                softplus,
                gate_silu,
                weighted,
                products,
                scores,
                elu_plus_one,
                apart,
                distances,
            };
        }
    };
}

table!(portable_f32, f32, One<f32>,);
table!(portable_f64, f64, One<f64>,);
#[cfg(target_arch = "x86_64")]
table!(avx2_f32, f32, super::super::avx2::F32x8, "avx2,fma");
#[cfg(target_arch = "x86_64")]
table!(avx2_f64, f64, super::super::double::F64x4, "avx2,fma");
#[cfg(target_arch = "x86_64")]
table!(
    avx512_f32,
    f32,
    super::super::avx512::F32x16,
    "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"
);
#[cfg(target_arch = "x86_64")]
table!(
    avx512_f64,
    f64,
    super::super::double::F64x8,
    "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"
);

macro_rules! real {
    ($t:ty, $portable:ident, $avx2:ident, $avx512:ident, $amx:expr) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = <$t>::NEG_INFINITY;

            #[inline]
            #[allow(
                clippy::cast_possible_truncation,
                reason = "rounding is what it is for"
            )]
            fn of(x: f64) -> Self {
                x as Self
            }
            #[inline]
            fn kernels_of(tier: Tier) -> &'static RealTable<Self> {
                match tier {
                    #[cfg(target_arch = "x86_64")]
                    Tier::Avx2 => &$avx2::TABLE,
                    #[cfg(target_arch = "x86_64")]
                    Tier::Avx512 | Tier::Amx => &$avx512::TABLE,
                    _ => &$portable::TABLE,
                }
            }
            #[cfg(target_arch = "x86_64")]
            #[inline]
            fn split_kernels() -> Option<&'static SplitTable<Self>> {
                if tier() == Tier::Amx { $amx } else { None }
            }
        }
    };
}
real!(
    f32,
    portable_f32,
    avx2_f32,
    avx512_f32,
    Some(&super::split_tiles::TABLE)
);
real!(f64, portable_f64, avx2_f64, avx512_f64, None);
