//! Scalar reference of every kernel: what the SIMD tiers must agree with, and what runs where none is available.

use serde::{Deserialize, Serialize};

/// Σ aᵢbᵢ.
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    // Sixteen partial sums: the order of the vector versions, and free to vectorise.
    let mut acc = [0.0f32; 16];
    let (ca, cb) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = ca
        .remainder()
        .iter()
        .zip(cb.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in ca.zip(cb) {
        for i in 0..16 {
            acc[i] += x[i] * y[i];
        }
    }
    acc.iter().sum::<f32>() + tail
}

/// Σ (aᵢ − bᵢ)².
#[must_use]
pub fn squared_l2(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

/// Sums of squares whose square root keeps full precision in single precision.
pub(super) const SQUARES: std::ops::Range<f32> = 1e-30..f32::INFINITY;

fn norm_f64(x: &[f32]) -> f64 {
    x.iter()
        .map(|v| f64::from(*v) * f64::from(*v))
        .sum::<f64>()
        .sqrt()
}

/// Euclidean norm.
#[must_use]
pub fn norm(x: &[f32]) -> f32 {
    norm_f64(x) as f32
}

/// Scales `x` to unit length and returns its former norm; a zero vector stays zero.
pub fn normalize(x: &mut [f32]) -> f32 {
    let n = norm_f64(x);
    if n > 0.0 {
        for v in x {
            *v = (f64::from(*v) / n) as f32;
        }
    }
    n as f32
}

/// No value is NaN or infinite.
#[must_use]
pub fn all_finite(x: &[f32]) -> bool {
    x.iter().fold(true, |all, v| all & v.is_finite())
}

/// y ← y + αx.
pub fn axpy(alpha: f32, x: &[f32], y: &mut [f32]) {
    debug_assert_eq!(x.len(), y.len());
    for (y, x) in y.iter_mut().zip(x) {
        *y += alpha * x;
    }
}

/// x ← αx.
pub fn scale(alpha: f32, x: &mut [f32]) {
    for v in x {
        *v *= alpha;
    }
}

/// out = x + s·B(Ax) with `a` (rank, d) and `b` (d, rank), both row-major.
pub fn low_rank_apply(x: &[f32], a: &[f32], b: &[f32], rank: usize, s: f32, out: &mut [f32]) {
    let d = x.len();
    debug_assert_eq!(a.len(), rank * d);
    debug_assert_eq!(b.len(), rank * d);
    debug_assert_eq!(out.len(), d);
    out.copy_from_slice(x);
    for (r, row) in a.chunks_exact(d.max(1)).enumerate() {
        let h = s * dot(row, x);
        for (o, b) in out.iter_mut().zip(b[r..].iter().step_by(rank)) {
            *o += h * b;
        }
    }
}

/// [`low_rank_apply`] for each row of `x` (n, d).
pub fn low_rank_apply_rows(x: &[f32], d: usize, a: &[f32], b: &[f32], rank: usize, s: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(d.max(1)).zip(out.chunks_exact_mut(d.max(1))) {
        low_rank_apply(x, a, b, rank, s, out);
    }
}

/// Ax and Bᵀg of a rank-2 adapter, what its gradients are made of; rank 1 leaves the second entries 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Projections {
    /// Ax.
    pub ax: [f32; 2],
    /// Bᵀg.
    pub bg: [f32; 2],
}

impl Projections {
    /// Both times `s`.
    #[must_use]
    pub fn times(self, s: f32) -> Self {
        Self {
            ax: self.ax.map(|v| s * v),
            bg: self.bg.map(|v| s * v),
        }
    }
}

/// Ax and Bᵀg for rank 1 or 2.
#[must_use]
pub fn low_rank_project(x: &[f32], g: &[f32], a: &[f32], b: &[f32], rank: usize) -> Projections {
    let d = x.len();
    let mut out = Projections::default();
    for r in 0..rank {
        out.ax[r] = dot(&a[r * d..(r + 1) * d], x);
        out.bg[r] = (0..d).map(|i| b[i * rank + r] * g[i]).sum();
    }
    out
}

/// da[r] += bg[r]·x and db[·, r] += ax[r]·g for rank 1 or 2.
pub fn low_rank_update(x: &[f32], g: &[f32], by: &Projections, rank: usize, da: &mut [f32], db: &mut [f32]) {
    let d = x.len();
    for r in 0..rank {
        axpy(by.bg[r], x, &mut da[r * d..(r + 1) * d]);
        for (db, g) in db.chunks_exact_mut(rank).zip(g) {
            db[r] += by.ax[r] * g;
        }
    }
}

/// out[i] = rowᵢ·q for `rows` (n, d) row-major.
pub fn gemv(rows: &[f32], d: usize, q: &[f32], out: &mut [f32]) {
    debug_assert_eq!(rows.len(), out.len() * d);
    for (i, o) in out.iter_mut().enumerate() {
        *o = dot(&rows[i * d..(i + 1) * d], q);
    }
}

/// out (n, m) = `x` (n, d) times the rows of `w` (m, d).
pub fn thin(x: &[f32], d: usize, w: &[f32], out: &mut [f32]) {
    let m = w.len() / d;
    for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(m)) {
        gemv(w, d, x, out);
    }
}

/// See [`super::gates`].
pub fn gates(p: &mut [f32], gate: &[f32], update: &[f32], open: f32, leak: f32) {
    // SAFETY: one number per register; the caller has compared the lengths.
    unsafe { super::recurrence::gates::<super::simd::One<f32>>(p, gate, update, open, leak) }
}

/// out[i] = q · row `index[i]` of `rows` (n, d).
pub fn gather_dot(rows: &[f32], d: usize, index: &[usize], q: &[f32], out: &mut [f32]) {
    for (i, o) in index.iter().zip(out) {
        *o = dot(&rows[i * d..(i + 1) * d], q);
    }
}

/// out[i] = Σ (q − row `index[i]`)² for `rows` (n, d).
pub fn gather_squared_l2(rows: &[f32], d: usize, index: &[usize], q: &[f32], out: &mut [f32]) {
    for (i, o) in index.iter().zip(out) {
        *o = squared_l2(q, &rows[i * d..(i + 1) * d]);
    }
}

/// out[i] = q · row `index[i]` of signed bytes, `rows` (n, d).
pub fn gather_dot_i8(rows: &[i8], d: usize, index: &[usize], q: &[i8], out: &mut [i32]) {
    for (i, o) in index.iter().zip(out) {
        *o = dot_i8(&rows[i * d..(i + 1) * d], q);
    }
}

/// out += Σ wᵢ · row `index[i]` of `rows` (n, d).
pub fn weighted_sum_rows(rows: &[f32], d: usize, index: &[usize], w: &[f32], out: &mut [f32]) {
    for (i, w) in index.iter().zip(w) {
        axpy(*w, &rows[i * d..(i + 1) * d], out);
    }
}

/// Σ aᵢbᵢ of signed bytes in 32 bits. Values lie in −127..=127.
#[must_use]
pub fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    debug_assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum()
}

/// out[i] = rowᵢ·q for signed bytes, `rows` (n, d) row-major.
pub fn gemv_i8(rows: &[i8], d: usize, q: &[i8], out: &mut [i32]) {
    debug_assert_eq!(rows.len(), out.len() * d);
    for (i, o) in out.iter_mut().enumerate() {
        *o = dot_i8(&rows[i * d..(i + 1) * d], q);
    }
}

/// x ← softmax(x/τ), in place. An empty slice stays empty.
pub fn softmax(x: &mut [f32], temperature: f32) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for v in x.iter_mut() {
        *v = ((*v - max) / temperature).exp();
        sum += f64::from(*v);
    }
    let inv = (1.0 / sum) as f32;
    for v in x {
        *v *= inv;
    }
}

/// x ← e^x.
pub fn exp(x: &mut [f32]) {
    for v in x {
        *v = v.exp();
    }
}

/// ln Σ e^x; −∞ for an empty slice.
#[must_use]
pub fn log_sum_exp(x: &[f32]) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max.is_infinite() {
        return max;
    }
    let sum: f64 = x.iter().map(|v| f64::from((v - max).exp())).sum();
    (f64::from(max) + sum.ln()) as f32
}

/// The step of symmetric bytes for values up to `largest`; 1 where there is nothing to resolve.
pub(super) fn byte_scale(largest: f32) -> f32 {
    let s = largest / 127.0;
    if s > 0.0 { s } else { 1.0 }
}

/// q = round(x / s), ties to even, with s = max|x| / 127; returns s, and 1 for a row of zeros.
pub fn quantize_i8(x: &[f32], q: &mut [i8]) -> f32 {
    let s = byte_scale(x.iter().fold(0.0, |m, v| v.abs().max(m)));
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x / s).clamp(-127.0, 127.0).round_ties_even() as i8;
    }
    s
}

/// out (n, width) = rows (n, d) · panel (d, width).
pub fn tile(rows: &[f32], d: usize, panel: &[f32], width: usize, out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(d).zip(out.chunks_exact_mut(width)) {
        out.fill(0.0);
        for (x, line) in row.iter().zip(panel.chunks_exact(width)) {
            axpy(*x, line, out);
        }
    }
}

/// Bit `i` is set where `x[i] >= bars[i]`, or `>= bars[0]` if there is one bar; up to 64 values.
#[must_use]
pub fn reach(x: &[f32], bars: &[f32]) -> u64 {
    let pairs = x.iter().zip(bars.iter().cycle()).enumerate();
    pairs.fold(0, |bits, (i, (v, bar))| bits | u64::from(v >= bar) << i)
}

/// Bit `i` is set where `x[i] >= bar`, for up to 64 values.
#[must_use]
pub fn reach_i32(x: &[i32], bar: i32) -> u64 {
    x.iter().rev().fold(0, |bits, v| bits << 1 | u64::from(*v >= bar))
}

/// out[j] ← the largest of out[j] and x[j], x[j + m], … over whole rows of m = `out.len()`; NaN is passed over. Returns whether
/// there is no NaN.
#[must_use]
pub fn maxima(x: &[f32], out: &mut [f32]) -> bool {
    for row in x.chunks_exact(out.len().max(1)) {
        for (m, v) in out.iter_mut().zip(row) {
            *m = m.max(*v);
        }
    }
    !x.iter().any(|v| v.is_nan())
}

/// Positions of the `k` largest values, best first, ties by position. NaN ranks with −∞, −0 with +0.
#[must_use]
pub fn top_k(values: &[f32], k: usize) -> Vec<usize> {
    let key = |i: usize| {
        if values[i].is_nan() {
            f32::NEG_INFINITY
        } else {
            values[i] + 0.0
        }
    };
    let mut ids: Vec<usize> = (0..values.len()).collect();
    ids.sort_by(|a, b| key(*b).total_cmp(&key(*a)));
    ids.truncate(k);
    ids
}
