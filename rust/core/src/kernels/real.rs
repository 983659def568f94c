//! Kernels in either precision: what attention and the models around it are built from.
//!
//! The same generic code runs for `f32` and `f64` on every tier; the portable tier is the same code with registers of one
//! lane. Results depend on the tier by rounding only.

use super::exponent::Absorb;
use super::matmul::Product;
pub use super::neighbours::{Near, row_products, row_scores, weighted_rows};
use super::real_table::RealTable;
use super::recurrence::Scan;
use super::rows::Quotient;
use super::split::SplitTable;
use super::tier::{Tier, tier};
use super::transpose::Turn;
use num_traits::{Float, NumAssign};
use std::fmt::{Debug, Display};
use std::iter::Sum;
use std::ops::Range;

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

/// Row r of x (rows, n) ← `by`\[r\]·row.
pub fn scale_rows<T: Real>(by: &[T], x: &mut [T]) {
    assert!(
        x.is_empty() || x.len().checked_rem(by.len()) == Some(0),
        "scale_rows: expected one factor per row"
    );
    // SAFETY: x has a row per factor; the table is this processor's.
    unsafe { (T::kernels().scale_rows)(by, x) }
}

/// out (rows, n) ← the first n numbers of the rows of `x`, `stride` apart, each divided by its own of `by` (rows); zeros where
/// that is zero.
pub fn divide_rows<T: Real>(x: &[T], stride: usize, by: &[T], out: &mut [T]) {
    let rows = by.len();
    let n = out.len().checked_div(rows).unwrap_or(0);
    assert!(
        out.len() == rows * n && n <= stride && x.len() >= rows * stride,
        "divide_rows: expected x (rows, stride), by (rows), out (rows, n)"
    );
    // SAFETY: the lengths are what the kernel reads and writes; the table is this processor's.
    unsafe {
        (T::kernels().divide)(Quotient {
            x: x.as_ptr(),
            stride,
            by: by.as_ptr(),
            rows,
            n,
            out: out.as_mut_ptr(),
        });
    }
}

/// Some columns of x (rows, width) ← `value`.
pub fn fill_columns<T: Real>(x: &mut [T], width: usize, columns: Range<usize>, value: T) {
    if columns.is_empty() || x.is_empty() {
        return;
    }
    assert!(
        columns.end <= width && x.len().is_multiple_of(width),
        "fill_columns: expected columns of (rows, width)"
    );
    let (rows, from) = (x.len() / width, x[columns.start..].as_mut_ptr());
    // SAFETY: every row has these columns; the table is this processor's.
    unsafe { (T::kernels().fill)(from, rows, width, columns.len(), value) }
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
