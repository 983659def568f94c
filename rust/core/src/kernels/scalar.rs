//! Scalar reference of every kernel: what the SIMD tiers must agree with, and what runs where none is available.

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

/// Euclidean norm.
#[must_use]
pub fn norm(a: &[f32]) -> f32 {
    dot(a, a).sqrt()
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
    let h: Vec<f32> = a.chunks_exact(d.max(1)).map(|row| s * dot(row, x)).collect();
    for i in 0..d {
        out[i] = x[i] + dot(&b[i * rank..(i + 1) * rank], &h);
    }
}

/// out[i] = rowᵢ·q for `rows` (n, d) row-major.
pub fn gemv(rows: &[f32], d: usize, q: &[f32], out: &mut [f32]) {
    debug_assert_eq!(rows.len(), out.len() * d);
    for (row, o) in rows.chunks_exact(d).zip(out) {
        *o = dot(row, q);
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
    for (row, o) in rows.chunks_exact(d).zip(out) {
        *o = dot_i8(row, q);
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

/// Positions of the `k` largest values, best first, ties by position. NaN ranks last.
#[must_use]
pub fn top_k(values: &[f32], k: usize) -> Vec<usize> {
    let key = |i: usize| {
        if values[i].is_nan() {
            f32::NEG_INFINITY
        } else {
            values[i]
        }
    };
    let mut ids: Vec<usize> = (0..values.len()).collect();
    let by = |&a: &usize, &b: &usize| key(b).total_cmp(&key(a)).then(a.cmp(&b));
    if k < ids.len() {
        if k == 0 {
            return Vec::new();
        }
        ids.select_nth_unstable_by(k - 1, by);
        ids.truncate(k);
    }
    ids.sort_unstable_by(by);
    ids
}
