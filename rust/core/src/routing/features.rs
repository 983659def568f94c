//! Principal components of the requests seen, by subspace iteration.

use crate::kernels;
use crate::rng;
use serde::{Deserialize, Serialize};

/// Most components.
pub const COMPONENTS: usize = 32;
/// Most rows that a fit looks at.
pub const MAX_ROWS: usize = 2048;
const ITERATIONS: usize = 8;

/// x ↦ basis · (x − mean).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Features {
    dim: usize,
    /// Orthonormal rows.
    basis: Vec<f32>,
    /// basis · mean.
    shift: Vec<f32>,
}

impl Features {
    /// No component yet.
    #[must_use]
    pub fn none(dim: usize) -> Self {
        Self {
            dim,
            basis: Vec::new(),
            shift: Vec::new(),
        }
    }

    /// Number of components.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shift.len()
    }

    /// The components of `rows` (n · dim). O(n · dim · components).
    #[must_use]
    pub fn fit(rows: &[f32], dim: usize) -> Self {
        let n = rows.len() / dim;
        // Directions that few rows show are noise: one for every eight.
        let r = COMPONENTS.min(dim).min(n / 8);
        if r == 0 {
            return Self::none(dim);
        }
        let mut mean = vec![0.0f32; dim];
        rows.chunks_exact(dim)
            .for_each(|x| kernels::axpy(1.0 / n as f32, x, &mut mean));
        let mut rng = rng::stream(0x9ca, 0);
        let mut basis: Vec<f32> = (0..r * dim).map(|_| rng::normal(&mut rng) as f32).collect();
        orthonormalise(&mut basis, dim);
        let mut scores = vec![0.0; n * r];
        for _ in 0..ITERATIONS {
            kernels::gemm_nt(rows, &basis, dim, &mut scores);
            let shift: Vec<f32> = basis.chunks_exact(dim).map(|b| kernels::dot(b, &mean)).collect();
            let mut next = vec![0.0; r * dim];
            for (x, s) in rows.chunks_exact(dim).zip(scores.chunks_exact(r)) {
                for ((row, s), shift) in next.chunks_exact_mut(dim).zip(s).zip(&shift) {
                    kernels::axpy(s - shift, x, row);
                }
            }
            // Σ (s − shift) over the rows is 0, so that centring x as well would change nothing.
            orthonormalise(&mut next, dim);
            basis = next;
        }
        let shift = basis.chunks_exact(dim).map(|b| kernels::dot(b, &mean)).collect();
        Self { dim, basis, shift }
    }

    /// Components of `x`, with a leading 1.
    #[must_use]
    pub fn of(&self, x: &[f32]) -> Vec<f64> {
        let mut z = vec![0.0; self.len()];
        kernels::gemv(&self.basis, self.dim, x, &mut z);
        let centred = z.iter().zip(&self.shift).map(|(z, s)| f64::from(z - s));
        std::iter::once(1.0).chain(centred).collect()
    }

    /// Whether decoded sizes agree.
    #[must_use]
    pub fn valid(&self, dim: usize) -> bool {
        self.dim == dim
            && self.len() <= COMPONENTS
            && self.basis.len() == self.len() * dim
            && kernels::all_finite(&self.basis)
            && kernels::all_finite(&self.shift)
    }
}

/// Gram–Schmidt, twice for accuracy; a row that vanishes becomes zero.
fn orthonormalise(rows: &mut [f32], dim: usize) {
    for i in 0..rows.len() / dim {
        let (before, rest) = rows.split_at_mut(i * dim);
        let row = &mut rest[..dim];
        let length = kernels::norm(row);
        for _ in 0..2 {
            for b in before.chunks_exact(dim) {
                kernels::axpy(-kernels::dot(b, row), b, row);
            }
        }
        if kernels::norm(row) <= 1e-5 * length {
            row.fill(0.0);
        } else {
            kernels::normalize(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_directions_of_most_variance() {
        let (n, d) = (400, 40);
        let mut rng = rng::stream(1, 0);
        let sd = |j: usize| if j < 3 { [9.0, 6.0, 4.0][j] } else { 0.1 };
        let rows: Vec<f32> = (0..n * d)
            .map(|i| (5.0 + sd(i % d) * rng::normal(&mut rng)) as f32)
            .collect();
        let f = Features::fit(&rows, d);
        assert_eq!(f.len(), COMPONENTS);
        for j in 0..3 {
            let row = &f.basis[j * d..(j + 1) * d];
            assert!(row[j].abs() > 0.99, "component {j}: {row:?}");
        }
        let mean: f64 = rows.chunks_exact(d).map(|x| f.of(x)[1]).sum::<f64>() / n as f64;
        assert!(mean.abs() < 1e-2, "{mean}");
        assert!(Features::fit(&rows[..d], d).len() == 0);
    }
}
