//! Kernels in either precision: what attention and the models around it are built from.
//!
//! The same generic code runs for `f32` and `f64` on every tier; the portable tier is the same code with registers of one
//! lane. Results depend on the tier by rounding only.

use super::exponent::Absorb;
use super::matmul::Product;
pub use super::neighbours::{Near, row_products, row_scores, weighted_rows};
use super::recurrence::Scan;
use super::simd::One;
use super::split::SplitTable;
use super::tier::{Tier, tier};
use super::transpose::Turn;
use num_traits::{Float, NumAssign};
use std::fmt::{Debug, Display};
use std::iter::Sum;

/// `f32` or `f64`.
pub trait Real:
    Float + NumAssign + Sum + Default + Debug + Display + Send + Sync + 'static + Into<f64> + private::Sealed
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// −∞.
    const NEG_INFINITY: Self;
    /// Rounds to this precision.
    fn of(x: f64) -> Self;
    /// The kernels of a tier that this processor can run.
    #[doc(hidden)]
    fn kernels_of(tier: Tier) -> &'static RealTable<Self>;
    #[doc(hidden)]
    #[inline]
    fn kernels() -> &'static RealTable<Self> {
        Self::kernels_of(tier())
    }
    /// The kernels that split numbers, where tier and precision have them.
    #[doc(hidden)]
    #[inline]
    fn split_kernels() -> Option<&'static SplitTable<Self>> {
        None
    }
}

mod private {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

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

/// A row-major matrix inside a slice: `stride` values from one row to the next.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, T> {
    data: &'a [T],
    stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Rows of `data`, each `stride` after the one before.
    #[must_use]
    pub fn new(data: &'a [T], stride: usize) -> Self {
        Self { data, stride }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (self.stride >= columns && (rows - 1) * self.stride + columns <= self.data.len())
    }
}

/// C (n, width) ← A (n, depth) · B (depth, width), plus C itself with `add`; C's rows are `ldc` apart. Panics if a matrix is
/// too short. Each sum runs over the depth in order.
#[allow(clippy::too_many_arguments, reason = "three matrices, three sizes")]
pub fn matmul<T: Real>(
    n: usize,
    depth: usize,
    width: usize,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    c: &mut [T],
    ldc: usize,
    add: bool,
) {
    let out = Mat::new(&*c, ldc);
    assert!(
        a.holds(n, depth) && b.holds(depth, width) && out.holds(n, width),
        "matmul: expected A (n, depth), B (depth, width), C (n, width)"
    );
    // SAFETY: the three matrices hold what is read and written; the table is this processor's.
    unsafe {
        (T::kernels().multiply)(Product {
            n,
            width,
            depth,
            a: a.data.as_ptr(),
            lda: a.stride,
            b: b.data.as_ptr(),
            ldb: b.stride,
            c: c.as_mut_ptr(),
            ldc,
            add,
        });
    }
}

/// Largest value; −∞ for none. NaN is passed over where another number follows.
#[must_use]
pub fn largest<T: Real>(x: &[T]) -> T {
    // SAFETY: the table is this processor's.
    unsafe { (T::kernels().largest)(x) }
}

/// x ← e^{x − shift} for x ≤ shift; returns the sum. e^{−∞} is 0, NaN stays NaN.
pub fn exp_minus<T: Real>(x: &mut [T], shift: T) -> T {
    // SAFETY: the table is this processor's.
    unsafe { (T::kernels().decays)(x, shift) }
}

/// One step of the online softmax for `top.len()` rows: `logits` become weights relative to the new maximum `top`; the `sum` of
/// weights and the sums of weighted values `acc` of the steps before fade to it. Panics if a length differs.
pub fn absorb<T: Real>(logits: &mut [T], top: &mut [T], sum: &mut [T], acc: &mut [T]) {
    let rows = top.len();
    let of = |x: &[T]| x.len().checked_div(rows).unwrap_or(0);
    let (width, dv) = (of(logits), of(acc));
    assert!(
        sum.len() == rows && logits.len() == rows * width && acc.len() == rows * dv,
        "absorb: expected logits (rows, w), top and sum (rows), acc (rows, dv)"
    );
    // SAFETY: the lengths are what the kernel reads and writes; the table is this processor's.
    unsafe {
        (T::kernels().absorb)(Absorb {
            rows,
            width,
            logits: logits.as_mut_ptr(),
            top: top.as_mut_ptr(),
            sum: sum.as_mut_ptr(),
            acc: acc.as_mut_ptr(),
            dv,
        });
    }
}

/// out (columns, rows) ← x (rows, columns) transposed; the rows of out are `ldc` apart. Panics if one is too short.
pub fn transpose<T: Real>(rows: usize, columns: usize, x: Mat<'_, T>, out: &mut [T], ldc: usize) {
    assert!(
        x.holds(rows, columns) && Mat::new(&*out, ldc).holds(columns, rows),
        "transpose: expected x (rows, columns) and out (columns, rows)"
    );
    // SAFETY: both hold what is read and written; the table is this processor's.
    unsafe {
        (T::kernels().transpose)(Turn {
            rows,
            columns,
            x: x.data.as_ptr(),
            ldx: x.stride,
            out: out.as_mut_ptr(),
            ldc,
        });
    }
}

/// x ← e^x.
pub fn exp_in_place<T: Real>(x: &mut [T]) {
    // SAFETY: the table is this processor's.
    unsafe { (T::kernels().exp)(x) }
}

/// Σ aᵢbᵢ in this precision.
#[must_use]
pub fn inner<T: Real>(a: &[T], b: &[T]) -> T {
    assert_eq!(a.len(), b.len(), "inner: lengths differ");
    // SAFETY: equal lengths; the table is this processor's.
    unsafe { (T::kernels().dot)(a, b) }
}

/// y ← y + αx in this precision.
pub fn add_scaled<T: Real>(alpha: T, x: &[T], y: &mut [T]) {
    assert_eq!(x.len(), y.len(), "add_scaled: lengths differ");
    // SAFETY: equal lengths; the table is this processor's.
    unsafe { (T::kernels().axpy)(alpha, x, y) }
}

/// x ← αx in this precision.
pub fn scale_by<T: Real>(alpha: T, x: &mut [T]) {
    // SAFETY: the table is this processor's.
    unsafe { (T::kernels().scale)(alpha, x) }
}

/// out[i] = rowᵢ·x for `matrix` (out, x).
pub fn project<T: Real>(matrix: &[T], x: &[T], out: &mut [T]) {
    assert_eq!(
        matrix.len(),
        x.len() * out.len(),
        "project: expected matrix (out, x)"
    );
    // SAFETY: the matrix holds a row of x's length per output; the table is this processor's.
    unsafe { (T::kernels().project)(matrix, x, out) }
}

/// One selective scan over `steps` steps of `d` channels with `n` states: h ← e^{ΔA}·h + Δu·B, y = C·h.
///
/// `u`, `delta`, `y` (steps, d); `a`, `h` (n, d), transposed; `b`, `c` (steps, n). Panics if a length differs.
#[allow(clippy::too_many_arguments, reason = "the operands of the recurrence")]
pub fn selective_scan<T: Real>(
    d: usize,
    n: usize,
    u: &[T],
    delta: &[T],
    a: &[T],
    b: &[T],
    c: &[T],
    h: &mut [T],
    y: &mut [T],
) {
    let steps = u.len().checked_div(d).unwrap_or(0);
    assert!(
        u.len() == steps * d && delta.len() == u.len() && y.len() == u.len(),
        "selective_scan: expected u, delta and y (steps, d)"
    );
    assert!(
        a.len() == n * d && h.len() == n * d && b.len() == steps * n && c.len() == steps * n,
        "selective_scan: expected a and h (n, d), b and c (steps, n)"
    );
    // SAFETY: the lengths are what the kernel reads and writes; the table is this processor's.
    unsafe {
        (T::kernels().scan)(Scan {
            steps,
            d,
            n,
            u: u.as_ptr(),
            delta: delta.as_ptr(),
            a: a.as_ptr(),
            b: b.as_ptr(),
            c: c.as_ptr(),
            h: h.as_mut_ptr(),
            y: y.as_mut_ptr(),
        });
    }
}

/// h ← decay·h + gain·b; returns h·c.
pub fn decay_step<T: Real>(h: &mut [T], decay: T, gain: T, b: &[T], c: &[T]) -> T {
    assert!(
        h.len() == b.len() && h.len() == c.len(),
        "decay_step: lengths differ"
    );
    // SAFETY: equal lengths; the table is this processor's.
    unsafe { (T::kernels().decay_step)(h, decay, gain, b, c) }
}

/// x ← ln(1 + x) for x ≥ 0, without cancellation near 0.
pub fn ln_1p_in_place<T: Real>(x: &mut [T]) {
    // SAFETY: the table is this processor's.
    unsafe { (T::kernels().ln_1p)(x) }
}

/// x ← ln(1 + e^x), without overflow.
pub fn softplus<T: Real>(x: &mut [T]) {
    // SAFETY: the table is this processor's.
    unsafe { (T::kernels().softplus)(x) }
}

/// y ← y·z/(1 + e^{−z}).
pub fn gate_silu<T: Real>(y: &mut [T], z: &[T]) {
    assert_eq!(y.len(), z.len(), "gate_silu: lengths differ");
    // SAFETY: equal lengths; the table is this processor's.
    unsafe { (T::kernels().gate_silu)(y, z) }
}

/// x ← elu(x) + 1: x + 1 above 0, e^x below.
pub fn elu_plus_one<T: Real>(x: &mut [T]) {
    // SAFETY: the table is this processor's.
    unsafe { (T::kernels().elu_plus_one)(x) }
}

/// x ← x + own + squares: ‖q − k‖² from x = −2q·k, ‖q‖² and ‖k‖². Returns whether one came out below `near` times its sum of
/// squares, so that it has lost digits.
pub fn squared_distances<T: Real>(x: &mut [T], squares: &[T], own: T, near: T) -> bool {
    assert_eq!(x.len(), squares.len(), "squared_distances: lengths differ");
    // SAFETY: equal lengths; the table is this processor's.
    unsafe { (T::kernels().apart)(x, squares, own, near) }
}

/// x ← −p·arcosh(1 + z), z = x·factor·room, or 0 where that is negative; without cancellation near 0.
pub fn ball_distances<T: Real>(x: &mut [T], room: &[T], factor: T, p: T) {
    assert_eq!(x.len(), room.len(), "ball_distances: lengths differ");
    // SAFETY: equal lengths; the table is this processor's.
    unsafe { (T::kernels().distances)(x, room, factor, p) }
}
