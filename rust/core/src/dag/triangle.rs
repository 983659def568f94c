//! A Cholesky factor that grows and changes: L with L·Lᵀ = K, packed by rows.

use serde::{Deserialize, Serialize};

/// Added to a pivot that rounding took below it.
const FLOOR: f64 = 1e-10;

/// Lower triangle.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Triangle {
    n: usize,
    rows: Vec<f64>,
}

/// Eight sums side by side: one sum in order could not be vectorised.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len());
    let (a, b) = (a[..n].chunks_exact(8), b[..n].chunks_exact(8));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0.0; 8];
    for (a, b) in a.zip(b) {
        for (s, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *s += a * b;
        }
    }
    rest + sums.iter().sum::<f64>()
}

impl Triangle {
    pub(super) fn len(&self) -> usize {
        self.n
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.rows[i * (i + 1) / 2..(i + 1) * (i + 2) / 2]
    }

    fn at(i: usize, j: usize) -> usize {
        i * (i + 1) / 2 + j
    }

    /// Adds a row and column of K: `k` against those there, then the diagonal.
    pub(super) fn push(&mut self, k: &[f64], diagonal: f64) {
        let l = self.solve(k);
        let pivot = (diagonal - dot(&l, &l)).max(FLOOR).sqrt();
        self.rows.extend(l);
        self.rows.push(pivot);
        self.n += 1;
    }

    /// L⁻¹·b.
    pub(super) fn solve(&self, b: &[f64]) -> Vec<f64> {
        let mut x = Vec::with_capacity(self.n);
        for (i, b) in b.iter().enumerate().take(self.n) {
            let row = self.row(i);
            x.push((b - dot(&row[..i], &x)) / row[i]);
        }
        x
    }

    /// K⁻¹·b.
    pub(super) fn solve_all(&self, b: &[f64]) -> Vec<f64> {
        let mut x = self.solve(b);
        for i in (0..self.n).rev() {
            let row = self.row(i);
            let v = x[i] / row[i];
            x[i] = v;
            for (x, l) in x[..i].iter_mut().zip(row) {
                *x -= l * v;
            }
        }
        x
    }

    /// L·z.
    pub(super) fn times(&self, z: &[f64]) -> Vec<f64> {
        (0..self.n).map(|i| dot(self.row(i), &z[..=i])).collect()
    }

    /// Takes `delta` away from entry (i, i) of K, in place (Seeger 2004, rank-one downdate); O((n − i)²).
    pub(super) fn lower_diagonal(&mut self, i: usize, delta: f64) {
        if delta <= 0.0 {
            return;
        }
        let mut x = vec![0.0; self.n];
        x[i] = delta.sqrt();
        for k in i..self.n {
            let old = self.rows[Self::at(k, k)];
            let new = (old * old - x[k] * x[k]).max(FLOOR).sqrt();
            let (c, s) = (new / old, x[k] / old);
            self.rows[Self::at(k, k)] = new;
            for (j, x) in x.iter_mut().enumerate().skip(k + 1) {
                let l = &mut self.rows[Self::at(j, k)];
                *l = (*l - s * *x) / c;
                *x = c * *x - s * *l;
            }
        }
    }

    /// ln det K.
    pub(super) fn log_determinant(&self) -> f64 {
        2.0 * (0..self.n).map(|i| self.rows[Self::at(i, i)].ln()).sum::<f64>()
    }

    /// Sizes agree, every number is finite, every pivot positive.
    pub(super) fn is_sound(&self) -> bool {
        self.n.checked_mul(self.n + 1).map(|t| t / 2) == Some(self.rows.len())
            && self.rows.iter().all(|v| v.is_finite())
            && (0..self.n).all(|i| self.rows[Self::at(i, i)] > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kernel(points: &[f64], i: usize, j: usize) -> f64 {
        (-(points[i] - points[j]).powi(2)).exp() + if i == j { 0.3 } else { 0.0 }
    }

    fn build(points: &[f64], taken: &[f64]) -> Triangle {
        let mut t = Triangle::default();
        for (i, taken) in taken.iter().enumerate() {
            let k: Vec<f64> = (0..i).map(|j| kernel(points, i, j)).collect();
            t.push(&k, kernel(points, i, i) - taken);
        }
        t
    }

    proptest! {
        #[test]
        fn multiplies_back_and_downdates(points in proptest::collection::vec(-3.0f64..3.0, 1..12), at in 0usize..12) {
            let n = points.len();
            let at = at % n;
            let mut t = build(&points, &vec![0.0; n]);
            for i in 0..n {
                for j in 0..=i {
                    let back = dot(&t.row(i)[..=j], &t.row(j)[..=j]);
                    prop_assert!((back - kernel(&points, i, j)).abs() < 1e-9);
                }
            }
            let x = t.solve_all(&points);
            for i in 0..n {
                let back: f64 = (0..n).map(|j| kernel(&points, i, j) * x[j]).sum();
                prop_assert!((back - points[i]).abs() < 1e-8);
            }
            t.lower_diagonal(at, 0.2);
            let mut taken = vec![0.0; n];
            taken[at] = 0.2;
            let want = build(&points, &taken);
            for (a, b) in t.rows.iter().zip(&want.rows) {
                prop_assert!((a - b).abs() < 1e-8);
            }
            prop_assert!(t.is_sound());
        }
    }
}
