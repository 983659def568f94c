//! Dense kernels of the hot path, on the best instruction set that the processor has.
//!
//! Each kernel has a scalar reference in [`scalar`] and, on x86-64, an AVX2 and an AVX-512 version. The tier is found once
//! ([`tier`]; the environment variable `SONA_SIMD` = `scalar`, `avx2`, `avx512` or `amx` lowers it). Other architectures run the
//! reference.
//!
//! Within a tier the same inputs give the same bits, whatever the alignment and wherever a row lies: [`dot`], [`gemv`],
//! [`gather_dot`] and [`scan_top_k`] agree exactly. Tiers differ from one another by rounding.
//!
//! Lengths are part of the contract: a mismatch panics, so check at the boundary.

mod aligned;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod ball;
#[cfg(target_arch = "x86_64")]
mod bit_tiles;
#[cfg(target_arch = "x86_64")]
mod bytes;
pub mod coarse;
#[cfg(target_arch = "x86_64")]
mod coarse_tiles;
#[cfg(target_arch = "x86_64")]
mod dense;
pub mod descent;
#[cfg(target_arch = "x86_64")]
mod double;
pub mod elastic;
#[cfg(target_arch = "x86_64")]
mod entry;
mod exponent;
mod hadamard;
mod hamming;
#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod low_rank;
mod matmul;
#[cfg(target_arch = "x86_64")]
mod narrow;
pub mod nearest;
mod neighbours;
mod nonzero;
mod pages;
mod panel;
pub mod product;
pub mod projection;
pub mod real;
mod real_table;
mod recurrence;
mod room;
mod rows;
pub mod scalar;
mod scan;
mod select;
mod simd;
pub mod split;
#[cfg(target_arch = "x86_64")]
mod split_parts;
mod split_products;
pub mod split_store;
#[cfg(target_arch = "x86_64")]
mod split_tiles;
mod stamp;
mod team;
#[cfg(test)]
mod tests;
mod tier;
mod transpose;

pub use aligned::Aligned;
pub use hadamard::hadamard;
pub use hamming::{Sketch, SketchBlock, count_within, hamming, hamming_blocks, hamming_pairs, within};
pub use pages::prefer_large_pages;
pub use panel::{Panels, gemm_nt, scan_top_k_batch};
pub use room::{Pieces, copied, filled};
pub use scalar::Projections;
pub use scan::{scan_into, scan_into_i8, scan_top_k, scan_top_k_i8};
pub use select::{Score, TopK};
pub use team::Team;
pub use tier::{Tier, tier, tiers};

use tier::table;

/// Σ aᵢbᵢ.
#[inline]
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot: lengths differ");
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().dot)(a, b) }
}

/// Σ (aᵢ − bᵢ)².
#[inline]
#[must_use]
pub fn squared_l2(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "squared_l2: lengths differ");
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().squared_l2)(a, b) }
}

/// Euclidean norm. Right also where the sum of squares would overflow or lose its digits.
#[inline]
#[must_use]
pub fn norm(x: &[f32]) -> f32 {
    let s = dot(x, x);
    if scalar::SQUARES.contains(&s) {
        s.sqrt()
    } else {
        scalar::norm(x)
    }
}

/// Scales `x` to unit length and returns its former norm; a zero vector stays zero.
#[inline]
pub fn normalize(x: &mut [f32]) -> f32 {
    let s = dot(x, x);
    if scalar::SQUARES.contains(&s) {
        let n = s.sqrt();
        scale(1.0 / n, x);
        n
    } else {
        scalar::normalize(x)
    }
}

/// y ← y + αx.
#[inline]
pub fn axpy(alpha: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "axpy: lengths differ");
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().axpy)(alpha, x, y) }
}

/// x ← αx.
#[inline]
pub fn scale(alpha: f32, x: &mut [f32]) {
    // SAFETY: the table is this processor's.
    unsafe { (table().scale)(alpha, x) }
}

/// No value is NaN or infinite.
#[inline]
#[must_use]
pub fn all_finite(x: &[f32]) -> bool {
    // SAFETY: the table is this processor's.
    unsafe { (table().all_finite)(x) }
}

/// out = x + s·B(Ax) with `a` (rank, d) and `b` (d, rank), both row-major. Ranks 1 and 2 take one fused pass each way.
#[inline]
pub fn low_rank_apply(x: &[f32], a: &[f32], b: &[f32], rank: usize, s: f32, out: &mut [f32]) {
    let d = x.len();
    assert!(
        a.len() == rank * d && b.len() == rank * d && out.len() == d,
        "low_rank_apply: expected a (rank, d), b (d, rank), out (d)"
    );
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().low_rank_apply)(x, a, b, rank, s, out) }
}

/// [`low_rank_apply`] for each row of `x` (n, d): the same bits as one call per row.
pub fn low_rank_apply_rows(x: &[f32], d: usize, a: &[f32], b: &[f32], rank: usize, s: f32, out: &mut [f32]) {
    assert!(
        a.len() == rank * d
            && b.len() == rank * d
            && out.len() == x.len()
            && x.len().is_multiple_of(d.max(1)),
        "low_rank_apply_rows: expected x (n, d), a (rank, d), b (d, rank), out (n, d)"
    );
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().low_rank_apply_rows)(x, d, a, b, rank, s, out) }
}

/// Adds the gradients of y = x + s·B(Ax) for ∂L/∂y = `g`: da += s·(Bᵀg)xᵀ, db += s·g(Ax)ᵀ. Rank 1 or 2, the factors'
/// layouts as in [`low_rank_apply`].
#[allow(
    clippy::too_many_arguments,
    reason = "two vectors, two factors, two gradients"
)]
pub fn low_rank_grad(
    x: &[f32],
    g: &[f32],
    a: &[f32],
    b: &[f32],
    rank: usize,
    s: f32,
    da: &mut [f32],
    db: &mut [f32],
) {
    let size = check_low_rank(x, g, a, b, rank);
    assert!(
        da.len() == size && db.len() == size,
        "low_rank_grad: expected da as a, db as b"
    );
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe {
        let by = (table().low_rank_project)(x, g, a, b, rank).times(s);
        (table().low_rank_update)(x, g, &by, rank, da, db);
    }
}

/// Ax and Bᵀg, what the gradients of y = x + s·B(Ax) are made of. Rank 1 or 2.
#[must_use]
pub fn low_rank_project(x: &[f32], g: &[f32], a: &[f32], b: &[f32], rank: usize) -> Projections {
    check_low_rank(x, g, a, b, rank);
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().low_rank_project)(x, g, a, b, rank) }
}

/// a[r] += bg[r]·x and b[·, r] += ax[r]·g. Rank 1 or 2.
pub fn low_rank_update(x: &[f32], g: &[f32], by: &Projections, rank: usize, a: &mut [f32], b: &mut [f32]) {
    check_low_rank(x, g, a, b, rank);
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().low_rank_update)(x, g, by, rank, a, b) }
}

/// One step of plain gradient descent on both factors: [`low_rank_grad`] times −`lr`, in place.
pub fn low_rank_step(x: &[f32], g: &[f32], a: &mut [f32], b: &mut [f32], rank: usize, s: f32, lr: f32) {
    check_low_rank(x, g, a, b, rank);
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe {
        let by = (table().low_rank_project)(x, g, a, b, rank).times(-lr * s);
        (table().low_rank_update)(x, g, &by, rank, a, b);
    }
}

fn check_low_rank(x: &[f32], g: &[f32], a: &[f32], b: &[f32], rank: usize) -> usize {
    let size = rank * x.len();
    assert!(rank == 1 || rank == 2, "rank must be 1 or 2");
    assert!(
        g.len() == x.len() && a.len() == size && b.len() == size,
        "expected g (d), a (rank, d), b (d, rank)"
    );
    size
}

/// x ← e^x, within 2 units in the last place; NaN stays NaN, overflow is ∞, underflow runs through the denormals to 0.
#[inline]
pub fn exp(x: &mut [f32]) {
    // SAFETY: the table is this processor's.
    unsafe { (table().exp)(x) }
}

/// x ← softmax(x/τ), in place, for finite x and τ > 0. An empty slice stays empty.
#[inline]
pub fn softmax(x: &mut [f32], temperature: f32) {
    // SAFETY: the table is this processor's.
    unsafe { (table().softmax)(x, temperature) }
}

/// ln Σ e^x; −∞ for an empty slice.
#[inline]
#[must_use]
pub fn log_sum_exp(x: &[f32]) -> f32 {
    // SAFETY: the table is this processor's.
    unsafe { (table().log_sum_exp)(x) }
}

/// q = round(x / s), ties to even, with s = max|x| / 127, for finite x; returns s, and 1 for a row of zeros.
#[inline]
pub fn quantize_i8(x: &[f32], q: &mut [i8]) -> f32 {
    assert_eq!(x.len(), q.len(), "quantize_i8: lengths differ");
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().quantize_i8)(x, q) }
}

/// out[i] = rowᵢ·q for `rows` (n, d) row-major.
#[inline]
pub fn gemv(rows: &[f32], d: usize, q: &[f32], out: &mut [f32]) {
    assert!(
        rows.len() == out.len() * d && q.len() == d,
        "gemv: expected rows (n, d), q (d), out (n)"
    );
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().gemv)(rows, d, q, out) }
}

/// out (n, m) = `x` (n, d) times the rows of `w` (m, d), for few rows of `w`: `x` is read once. Many are better packed
/// ([`Panels`]).
#[inline]
pub fn thin(x: &[f32], d: usize, w: &[f32], out: &mut [f32]) {
    let (n, m) = (
        x.len().checked_div(d).unwrap_or(0),
        w.len().checked_div(d).unwrap_or(0),
    );
    assert!(
        d > 0 && x.len() == n * d && w.len() == m * d && out.len() == n * m,
        "thin: expected x (n, d), w (m, d), out (n, m)"
    );
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().thin)(x, d, w, out) }
}

/// Multiple of the length of [`gates`]' biases.
pub const GATES: usize = 16;

/// p ← (open·(1 − z) + leak)·c with z = σ(p + gate), c = tanh(p + update): a FastGRNN step from the zero state. The biases, of
/// a length that [`GATES`] divides, repeat along `p`.
#[inline]
pub fn gates(p: &mut [f32], gate: &[f32], update: &[f32], open: f32, leak: f32) {
    let n = gate.len();
    assert!(
        n > 0 && n.is_multiple_of(GATES) && update.len() == n,
        "gates: expected biases of one length, a multiple of 16"
    );
    // SAFETY: the table is this processor's, the lengths agree, and registers divide the period.
    unsafe { (table().gates)(p, gate, update, open, leak) }
}

/// out[i] = q · row `index[i]` of `rows` (n, d).
#[inline]
pub fn gather_dot(rows: &[f32], d: usize, index: &[usize], q: &[f32], out: &mut [f32]) {
    check_index(rows.len(), d, index);
    assert!(
        q.len() == d && out.len() == index.len(),
        "gather_dot: expected q (d), one output per index"
    );
    // SAFETY: the table is this processor's, every row lies in `rows`, the lengths agree.
    unsafe { (table().gather_dot)(rows, d, index, q, out) }
}

/// out[i] = Σ (q − row `index[i]`)² for `rows` (n, d).
#[inline]
pub fn gather_squared_l2(rows: &[f32], d: usize, index: &[usize], q: &[f32], out: &mut [f32]) {
    check_index(rows.len(), d, index);
    assert!(
        q.len() == d && out.len() == index.len(),
        "gather_squared_l2: expected q (d), one output per index"
    );
    // SAFETY: the table is this processor's, every row lies in `rows`, the lengths agree.
    unsafe { (table().gather_squared_l2)(rows, d, index, q, out) }
}

/// out[i] = q · row `index[i]` of signed bytes in −127..=127, `rows` (n, d).
#[inline]
pub fn gather_dot_i8(rows: &[i8], d: usize, index: &[usize], q: &[i8], out: &mut [i32]) {
    check_index(rows.len(), d, index);
    assert!(
        q.len() == d && out.len() == index.len(),
        "gather_dot_i8: expected q (d), one output per index"
    );
    // SAFETY: the table is this processor's, every row lies in `rows`, the lengths agree.
    unsafe { (table().gather_dot_i8)(rows, d, index, q, out) }
}

/// out += Σ wᵢ · row `index[i]` of `rows` (n, d).
#[inline]
pub fn weighted_sum_rows(rows: &[f32], d: usize, index: &[usize], w: &[f32], out: &mut [f32]) {
    check_index(rows.len(), d, index);
    assert!(
        out.len() == d && w.len() == index.len(),
        "weighted_sum_rows: expected out (d), one weight per index"
    );
    // SAFETY: the table is this processor's, every row lies in `rows`, the lengths agree.
    unsafe { (table().weighted_sum_rows)(rows, d, index, w, out) }
}

/// Σ aᵢbᵢ of signed bytes in 32 bits. Values lie in −127..=127.
#[inline]
#[must_use]
pub fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    assert_eq!(a.len(), b.len(), "dot_i8: lengths differ");
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().dot_i8)(a, b) }
}

/// out[i] = rowᵢ·q for signed bytes in −127..=127, `rows` (n, d) row-major.
#[inline]
pub fn gemv_i8(rows: &[i8], d: usize, q: &[i8], out: &mut [i32]) {
    assert!(
        rows.len() == out.len() * d && q.len() == d,
        "gemv_i8: expected rows (n, d), q (d), out (n)"
    );
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().gemv_i8)(rows, d, q, out) }
}

/// Positions of the `k` largest values, best first, ties by position. NaN ranks with −∞, −0 with +0.
#[must_use]
pub fn top_k(values: &[f32], k: usize) -> Vec<usize> {
    select::top_k(values, k)
}

/// [`top_k`]; `None` where a value is NaN.
#[must_use]
pub fn winners(values: &[f32], k: usize) -> Option<Vec<usize>> {
    select::winners(values, k)
}

/// Asks for the cache lines of `x` ahead of use. Nothing happens where the processor has no such instruction.
#[inline]
pub fn prefetch<T>(x: &[T]) {
    #[cfg(target_arch = "x86_64")]
    lanes::prefetch_row(x.as_ptr(), size_of_val(x));
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

fn check_index(len: usize, d: usize, index: &[usize]) {
    let n = len.checked_div(d).unwrap_or(0);
    let highest = index.iter().fold(0, |m, i| m.max(*i));
    assert!(index.is_empty() || highest < n, "row {highest} of {n}");
}
