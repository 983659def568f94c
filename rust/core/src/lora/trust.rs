//! The trust region of the fast adapter: learning may move the output of no recent query further than a given share of
//! its length.

use super::factors::{Factors, transpose};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use serde::{Deserialize, Serialize};

/// How many queries are looked back at.
pub(super) const RING: usize = 256;

/// Rows by which the ring grows.
const GROWTH: usize = 16;

/// The last [`RING`] queries; grows as they come.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct QueryRing {
    rows: Vec<f32>,
    /// Squared length of each row.
    squares: Vec<f32>,
    next: usize,
}

impl QueryRing {
    /// Takes in a query of squared length `square`.
    pub(super) fn push(&mut self, x: &[f32], square: f32) {
        let d = x.len();
        if self.rows.len() < RING * d {
            if self.rows.len() == self.rows.capacity() {
                self.rows.reserve_exact(GROWTH * d);
                self.squares.reserve_exact(GROWTH);
            }
            self.rows.extend_from_slice(x);
            self.squares.push(square);
        } else {
            self.rows[self.next * d..(self.next + 1) * d].copy_from_slice(x);
            self.squares[self.next] = square;
            self.next = (self.next + 1) % RING;
        }
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.squares.clear();
        self.next = 0;
    }

    /// A function of what is held alone, so that budgets act alike before and after a restart.
    pub(super) fn nbytes(&self, d: usize) -> usize {
        self.squares.len().next_multiple_of(GROWTH) * (d + 1) * size_of::<f32>()
    }

    pub(super) fn validate(&self, d: usize) -> Result<()> {
        let n = self.squares.len();
        if n > RING || self.rows.len() != n * d || self.next >= if n == RING { RING } else { 1 } {
            return Err(Error::corrupt("query ring", "sizes do not match"));
        }
        if !self.squares.iter().all(|s| *s >= 0.0) {
            return Err(Error::corrupt("query ring", "a squared length below 0"));
        }
        check_finite("query ring", &self.rows)
    }
}

/// Where the adapter stood when it was given: at the identity, or at factors that the caller set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Anchor {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Anchor {
    /// `None` where the adapter is the identity.
    pub(super) fn of(f: &Factors) -> Option<Self> {
        (!f.is_identity()).then(|| Self {
            a: f.a.clone(),
            b: f.b.clone(),
        })
    }

    pub(super) fn is(&self, f: &Factors) -> bool {
        self.a == f.a && self.b == f.b
    }

    pub(super) fn nbytes(&self) -> usize {
        (self.a.len() + self.b.len()) * size_of::<f32>()
    }

    pub(super) fn validate(&self, n: usize) -> Result<()> {
        check_dim("anchor", n, self.a.len())?;
        check_dim("anchor", n, self.b.len())?;
        check_finite("anchor", &self.a)?;
        check_finite("anchor", &self.b)
    }
}

/// MMᵀ of `rows` vectors of length `d`.
fn gram(rows: &[&[f32]]) -> Vec<f64> {
    let n = rows.len();
    let mut g = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let v = f64::from(kernels::dot(rows[i], rows[j]));
            g[i * n + j] = v;
            g[j * n + i] = v;
        }
    }
    g
}

/// BᵀB of B `(d, rank)`.
fn gram_columns(b: &[f32], rank: usize) -> Vec<f64> {
    let columns = transpose(b, b.len() / rank, rank);
    gram(&columns.chunks_exact(b.len() / rank).collect::<Vec<_>>())
}

/// cᵀGc, never below 0.
fn quadratic(g: &[f64], c: &[f64]) -> f64 {
    let n = c.len();
    let mut sum = 0.0;
    for i in 0..n {
        for j in 0..n {
            sum += c[i] * g[i * n + j] * c[j];
        }
    }
    sum.max(0.0)
}

/// True if ‖s·BAx‖ ≤ share·‖x‖ for *every* x, which saves the walk over the ring while the adapter is small. First by
/// the Frobenius norms, then by the largest singular value of BA (rank 1 and 2, where it has a closed form).
fn certified(f: &Factors, share: f64) -> bool {
    let bound = (share / f64::from(f.scale())).powi(2);
    let squares = |x: &[f32]| f64::from(kernels::dot(x, x));
    if squares(&f.a) * squares(&f.b) <= bound {
        return true;
    }
    if f.rank() != 2 {
        return false;
    }
    let ga = gram(&f.a.chunks_exact(f.dim()).collect::<Vec<_>>());
    let gb = gram_columns(&f.b, f.rank());
    // Largest eigenvalue of the 2 × 2 product; it is similar to a positive semi-definite matrix, so it is real.
    let m = [
        gb[0] * ga[0] + gb[1] * ga[2],
        gb[0] * ga[1] + gb[1] * ga[3],
        gb[2] * ga[0] + gb[3] * ga[2],
        gb[2] * ga[1] + gb[3] * ga[3],
    ];
    let half = (m[0] + m[3]) / 2.0;
    let det = m[0] * m[3] - m[1] * m[2];
    half + (half * half - det).max(0.0).sqrt() <= bound
}

/// Scales the adapter back until ‖Δ(x)‖ ≤ share·‖x‖ for every query in the ring, where Δ is what learning added to the
/// anchor; true if it had to.
pub(super) fn enforce(f: &mut Factors, ring: &QueryRing, anchor: Option<&Anchor>, share: f64) -> bool {
    let scaled = match anchor {
        None => !certified(f, share) && from_identity(f, ring, share),
        Some(anchor) => from_anchor(f, ring, anchor, share),
    };
    if scaled {
        f.refresh();
    }
    scaled
}

/// Rounding of the float32 factors must not end outside the region.
const INSIDE: f64 = 1.0 - 1e-6;

/// Mx for all queries at once, `(rows of M, n)`: the ring streams through the cache once per row of M `(_, d)`.
fn project(m: &[f32], d: usize, ring: &QueryRing) -> Vec<f32> {
    let n = ring.squares.len();
    let mut out = vec![0.0; m.len() / d * n];
    for (out, row) in out.chunks_exact_mut(n.max(1)).zip(m.chunks_exact(d)) {
        kernels::gemv(&ring.rows, d, row, out);
    }
    out
}

/// Column `i` of what [`project`] gave.
fn column(h: &[f32], n: usize, i: usize) -> impl Iterator<Item = f64> + '_ {
    h.chunks_exact(n).map(move |row| f64::from(row[i]))
}

/// Δ = s·BA: linear in B, so one factor brings the worst query onto the border.
fn from_identity(f: &mut Factors, ring: &QueryRing, share: f64) -> bool {
    let g = gram_columns(&f.b, f.rank());
    let s2 = f64::from(f.scale()).powi(2);
    let h = project(&f.a, f.dim(), ring);
    let n = ring.squares.len();
    let mut worst = 0.0f64;
    let mut c = vec![0.0; f.rank()];
    for (i, square) in ring.squares.iter().enumerate() {
        if *square > 0.0 {
            for (c, h) in c.iter_mut().zip(column(&h, n, i)) {
                *c = h;
            }
            worst = worst.max(s2 * quadratic(&g, &c) / f64::from(*square));
        }
    }
    let worst = worst.sqrt();
    if worst <= share {
        return false;
    }
    kernels::scale((share / worst * INSIDE) as f32, &mut f.b);
    true
}

/// With A = A₀ + c·dA and B = B₀ + c·dB, Δx = s(c·u + c²·w), u = dB A₀x + B₀ dA x, w = dB dA x. The bound
/// c‖u‖ + c²‖w‖ grows with c, so its root is the largest safe c for one query; the smallest of them serves all.
fn from_anchor(f: &mut Factors, ring: &QueryRing, anchor: &Anchor, share: f64) -> bool {
    let (d, r) = (f.dim(), f.rank());
    // Δ = s(dB A₀ + B dA), so this holds for every x: no need to walk over the ring.
    let length = |square: f32| f64::from(square).sqrt();
    let moved = |x: &[f32], from: &[f32]| length(kernels::squared_l2(x, from));
    let s = f64::from(f.scale()).abs();
    let of_b = moved(&f.b, &anchor.b) * length(kernels::dot(&anchor.a, &anchor.a));
    let of_a = moved(&f.a, &anchor.a) * length(kernels::dot(&f.b, &f.b));
    if s * (of_b + of_a) <= share {
        return false;
    }
    let sub = |x: &[f32], y: &[f32]| -> Vec<f32> { x.iter().zip(y).map(|(x, y)| x - y).collect() };
    let (da, db) = (sub(&f.a, &anchor.a), sub(&f.b, &anchor.b));
    let columns = [transpose(&db, d, r), transpose(&anchor.b, d, r)].concat();
    let g = gram(&columns.chunks_exact(d).collect::<Vec<_>>());
    let (h0, dh) = (project(&anchor.a, d, ring), project(&da, d, ring));
    let n = ring.squares.len();
    let mut best = 1.0f64;
    // Coordinates of a vector in the columns (dB, B₀).
    let mut c = vec![0.0; 2 * r];
    for (i, square) in ring.squares.iter().enumerate() {
        let bound = share * f64::from(*square).sqrt();
        for (k, (h0, dh)) in column(&h0, n, i).zip(column(&dh, n, i)).enumerate() {
            (c[k], c[r + k]) = (h0 + dh, dh);
        }
        if bound == 0.0 || s * quadratic(&g, &c).sqrt() <= bound {
            continue;
        }
        for (c, h0) in c.iter_mut().zip(column(&h0, n, i)) {
            *c = h0;
        }
        let u = s * quadratic(&g, &c).sqrt();
        for (k, dh) in column(&dh, n, i).enumerate() {
            (c[k], c[r + k]) = (dh, 0.0);
        }
        let w = s * quadratic(&g, &c).sqrt();
        // The positive root of w·c² + u·c = bound, in the form that survives w = 0.
        best = best.min(2.0 * bound / (u + (u * u + 4.0 * w * bound).sqrt()));
    }
    if best >= 1.0 {
        return false;
    }
    let c = (best * INSIDE) as f32;
    for (p, (d, a)) in f.a.iter_mut().zip(da.iter().zip(&anchor.a)) {
        *p = a + c * d;
    }
    for (p, (d, a)) in f.b.iter_mut().zip(db.iter().zip(&anchor.b)) {
        *p = a + c * d;
    }
    true
}
