//! Best low-rank approximation of a sum of low-rank products, without ever forming the large matrix.

use super::factors::Factors;
use crate::error::{Error, Result, check_dim};
use crate::kernels;

/// Dense float64 matrix in columns, which is how the rotations below walk over it.
#[derive(Debug, Clone)]
struct Columns {
    rows: usize,
    cols: Vec<Vec<f64>>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

impl Columns {
    fn zeros(rows: usize, cols: usize) -> Self {
        Self {
            rows,
            cols: vec![vec![0.0; rows]; cols],
        }
    }

    fn identity(n: usize) -> Self {
        let mut out = Self::zeros(n, n);
        for i in 0..n {
            out.cols[i][i] = 1.0;
        }
        out
    }

    /// self · otherᵀ for two matrices of as many columns.
    fn times_transposed(&self, other: &Self) -> Self {
        let mut out = Self::zeros(self.rows, other.rows);
        for (x, y) in self.cols.iter().zip(&other.cols) {
            for (o, y) in out.cols.iter_mut().zip(y) {
                for (o, x) in o.iter_mut().zip(x) {
                    *o += x * y;
                }
            }
        }
        out
    }

    /// self · other.
    fn times(&self, other: &Self) -> Self {
        let mut out = Self::zeros(self.rows, other.cols.len());
        for (o, y) in out.cols.iter_mut().zip(&other.cols) {
            for (x, y) in self.cols.iter().zip(y) {
                for (o, x) in o.iter_mut().zip(x) {
                    *o += x * y;
                }
            }
        }
        out
    }
}

/// Thin QR by Householder reflections (Golub & Van Loan, algorithm 5.2.1), for at least as many rows as columns. Q has
/// orthonormal columns whatever the rank.
fn thin_qr(m: &Columns) -> (Columns, Columns) {
    let (rows, n) = (m.rows, m.cols.len());
    let mut r = m.clone();
    let mut mirrors: Vec<Vec<f64>> = Vec::with_capacity(n);
    for j in 0..n {
        let mut v = vec![0.0; rows];
        v[j..].copy_from_slice(&r.cols[j][j..]);
        let norm = dot(&v, &v).sqrt();
        v[j] += if v[j] < 0.0 { -norm } else { norm };
        let len = dot(&v, &v);
        if len > 0.0 {
            for c in &mut r.cols[j..] {
                reflect(&v, len, c);
            }
        }
        mirrors.push(v);
    }
    let mut q = Columns::zeros(rows, n);
    for (j, c) in q.cols.iter_mut().enumerate() {
        c[j] = 1.0;
        for v in mirrors.iter().rev() {
            reflect(v, dot(v, v), c);
        }
    }
    let mut upper = Columns::zeros(n, n);
    for (j, c) in upper.cols.iter_mut().enumerate() {
        c[..=j].copy_from_slice(&r.cols[j][..=j]);
    }
    (q, upper)
}

/// c ← (I − 2vvᵀ/vᵀv)c.
fn reflect(v: &[f64], len: f64, c: &mut [f64]) {
    if len > 0.0 {
        let f = 2.0 * dot(v, c) / len;
        for (c, v) in c.iter_mut().zip(v) {
            *c -= f * v;
        }
    }
}

/// Singular value decomposition M = W Vᵀ with W's columns orthogonal, their lengths the singular values, largest first:
/// one-sided Jacobi rotations (Hestenes 1958). For the small matrices of this module.
fn jacobi_svd(m: &Columns) -> (Columns, Vec<f64>, Columns) {
    let n = m.cols.len();
    let (mut w, mut v) = (m.clone(), Columns::identity(n));
    for _ in 0..60 {
        let mut rotated = false;
        for p in 0..n {
            for q in p + 1..n {
                let (a, b) = (dot(&w.cols[p], &w.cols[p]), dot(&w.cols[q], &w.cols[q]));
                let c = dot(&w.cols[p], &w.cols[q]);
                if c == 0.0 || c.abs() <= 1e-15 * (a * b).sqrt() {
                    continue;
                }
                rotated = true;
                let zeta = (b - a) / (2.0 * c);
                let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let cos = 1.0 / t.hypot(1.0);
                for m in [&mut w, &mut v] {
                    let (left, right) = m.cols.split_at_mut(q);
                    for (x, y) in left[p].iter_mut().zip(&mut right[0]) {
                        (*x, *y) = (cos * (*x - t * *y), cos * (t * *x + *y));
                    }
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let sigma: Vec<f64> = w.cols.iter().map(|c| dot(c, c).sqrt()).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| sigma[j].total_cmp(&sigma[i]).then(i.cmp(&j)));
    let pick = |m: &Columns| Columns {
        rows: m.rows,
        cols: order.iter().map(|&i| m.cols[i].clone()).collect(),
    };
    (pick(&w), order.iter().map(|&i| sigma[i]).collect(), pick(&v))
}

/// A rank-`rank` product that stands for a sum of products.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// A `(rank, d)`, row-major. Rows of components that are not needed are zero, as are their columns of B.
    pub a: Vec<f32>,
    /// B `(d, rank)`, row-major.
    pub b: Vec<f32>,
    /// How many components carry something.
    pub used: usize,
    /// ‖sum − BA‖ / ‖sum‖ in the Frobenius norm; 0 for a zero sum.
    pub relative_error: f64,
}

impl Merged {
    /// As factors in the place of `f`, whose scale stays: components that are not needed keep its row of A and get a zero
    /// column of B, so that they can still learn.
    pub(super) fn fitted(&self, f: &Factors) -> Result<(Vec<f32>, Vec<f32>)> {
        if f.scale() == 0.0 {
            return Err(Error::value(
                "scale",
                "other than 0, to hold a merged adapter",
                0.0,
            ));
        }
        let (mut a, mut b) = (self.a.clone(), self.b.clone());
        a[self.used * f.dim()..].copy_from_slice(&f.a()[self.used * f.dim()..]);
        kernels::scale(1.0 / f.scale(), &mut b);
        Ok((a, b))
    }
}

/// Components of a sum of products, largest first: u carries the singular values.
struct Components {
    d: usize,
    u: Columns,
    sigma: Vec<f64>,
    v: Columns,
}

impl Components {
    /// Of Σ wᵢ·sᵢ·BᵢAᵢ; O(d·k² + k³), k the sum of the ranks.
    fn of(terms: &[(f64, &Factors)]) -> Result<Self> {
        let Some(d) = terms.first().map(|t| t.1.dim()) else {
            return Err(Error::value("factors", "at least one pair", 0));
        };
        let (mut left, mut right) = (Columns::zeros(d, 0), Columns::zeros(d, 0));
        for (weight, f) in terms {
            check_dim("factors", d, f.dim())?;
            let s = weight * f64::from(f.scale());
            for r in 0..f.rank() {
                left.cols.push(
                    f.b()
                        .chunks_exact(f.rank())
                        .map(|b| s * f64::from(b[r]))
                        .collect(),
                );
                right
                    .cols
                    .push(f.a()[r * d..(r + 1) * d].iter().map(|a| f64::from(*a)).collect());
            }
        }
        // left · rightᵀ = Q₁ (R₁R₂ᵀ) Q₂ᵀ: only the small middle is decomposed. With more columns than rows the product itself
        // is the small matrix.
        let (u, sigma, v) = if left.cols.len() <= d {
            let ((q1, r1), (q2, r2)) = (thin_qr(&left), thin_qr(&right));
            let (w, sigma, v) = jacobi_svd(&r1.times_transposed(&r2));
            (q1.times(&w), sigma, q2.times(&v))
        } else {
            jacobi_svd(&left.times_transposed(&right))
        };
        Ok(Self { d, u, sigma, v })
    }

    /// The product of the `rank` components from `first` on; the singular values are shared out evenly between A and B.
    fn product(&self, first: usize, rank: usize) -> Merged {
        let d = self.d;
        let total: f64 = self.sigma.iter().map(|s| s * s).sum();
        let lost: f64 = self.sigma.iter().skip(first + rank).map(|s| s * s).sum();
        let floor = self.sigma.first().map_or(0.0, |s| s * 1e-12);
        let held = self.sigma.iter().skip(first).take(rank);
        let used = held.take_while(|s| **s > floor).count();
        let (mut a, mut b) = (vec![0.0f32; rank * d], vec![0.0f32; rank * d]);
        for k in 0..used {
            // B gets u/√σ, A gets √σ·v.
            let root = self.sigma[first + k].sqrt();
            for i in 0..d {
                a[k * d + i] = (root * self.v.cols[first + k][i]) as f32;
                b[i * rank + k] = (self.u.cols[first + k][i] / root) as f32;
            }
        }
        Merged {
            a,
            b,
            used,
            relative_error: if total > 0.0 { (lost / total).sqrt() } else { 0.0 },
        }
    }
}

/// Best approximation of Σ wᵢ·sᵢ·BᵢAᵢ by one product BA of the given rank (Eckart & Young 1936); O(d·k² + k³), k the
/// sum of the ranks.
pub fn merge_products(terms: &[(f64, &Factors)], rank: usize) -> Result<Merged> {
    if rank == 0 {
        return Err(Error::value("rank", "at least 1", rank));
    }
    Ok(Components::of(terms)?.product(0, rank))
}

/// x + y as two products of the ranks of x and y: the largest components in the first, the rest in the second. Nothing is
/// lost, because the rank of a sum is at most the sum of the ranks.
pub fn rearranged(x: &Factors, y: &Factors) -> Result<(Merged, Merged)> {
    let parts = Components::of(&[(1.0, x), (1.0, y)])?;
    Ok((parts.product(0, x.rank()), parts.product(x.rank(), y.rank())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{self, RngExt};
    use proptest::prelude::*;

    fn factors(d: usize, r: usize, seed: u64) -> Factors {
        let mut g = rng::stream(seed, 9);
        let mut draw = |n: usize| (0..n).map(|_| g.random::<f32>() - 0.5).collect::<Vec<f32>>();
        let (a, b) = (draw(r * d), draw(r * d));
        Factors::new(d, r, 0.7, a, b).unwrap()
    }

    fn product(a: &[f32], b: &[f32], d: usize, r: usize) -> Vec<f64> {
        let mut m = vec![0.0; d * d];
        for i in 0..d {
            for j in 0..d {
                for k in 0..r {
                    m[i * d + j] += f64::from(b[i * r + k]) * f64::from(a[k * d + j]);
                }
            }
        }
        m
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Exact where the rank suffices; where it does not, the reported error is the measured one, and no random
        /// product of that rank comes closer.
        #[test]
        fn is_the_best_approximation(d in 1usize..14, r1 in 1usize..4, r2 in 1usize..4, rank in 1usize..8, seed in 0u64..300) {
            let (f, g) = (factors(d, r1, seed), factors(d, r2, seed + 1));
            let mut sum = product(f.a(), f.b(), d, r1);
            for (s, p) in sum.iter_mut().zip(product(g.a(), g.b(), d, r2)) {
                *s = 0.7 * (1.5 * *s - 0.25 * p);
            }
            let m = merge_products(&[(1.5, &f), (-0.25, &g)], rank).unwrap();
            let got = product(&m.a, &m.b, d, rank);
            let norm = |x: &[f64]| dot(x, x).sqrt();
            let gap: Vec<f64> = sum.iter().zip(&got).map(|(a, b)| a - b).collect();
            prop_assert!((norm(&gap) / norm(&sum) - m.relative_error).abs() < 1e-5);
            if rank >= d.min(r1 + r2) { prop_assert!(m.relative_error < 1e-9); }
            let h = factors(d, rank, seed + 2);
            let other: Vec<f64> = sum.iter().zip(product(h.a(), h.b(), d, rank)).map(|(a, b)| a - b).collect();
            prop_assert!(norm(&gap) <= norm(&other) + 1e-6);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Both parts together are the sum, and the first is the best of its rank.
        #[test]
        fn rearranging_loses_nothing(d in 1usize..14, r1 in 1usize..6, r2 in 1usize..3, seed in 0u64..300) {
            let (f, g) = (factors(d, r1, seed), factors(d, r2, seed + 1));
            let (first, rest) = rearranged(&f, &g).unwrap();
            let given = [product(f.a(), f.b(), d, r1), product(g.a(), g.b(), d, r2)];
            let parts = [product(&first.a, &first.b, d, r1), product(&rest.a, &rest.b, d, r2)];
            for i in 0..d * d {
                let want = 0.7 * (given[0][i] + given[1][i]);
                prop_assert!((want - parts[0][i] - parts[1][i]).abs() < 1e-5);
            }
            prop_assert_eq!(&first, &merge_products(&[(1.0, &f), (1.0, &g)], r1).unwrap());
            prop_assert!(rest.relative_error < 1e-6);
        }
    }

    #[test]
    fn a_zero_sum_is_zero() {
        let f = Factors::new(3, 2, 1.0, vec![1.0; 6], vec![0.0; 6]).unwrap();
        let m = merge_products(&[(1.0, &f)], 2).unwrap();
        assert_eq!((m.used, m.relative_error), (0, 0.0));
        assert!(m.b.iter().all(|v| *v == 0.0));
        assert!(merge_products(&[], 2).is_err());
    }
}
