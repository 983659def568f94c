//! The two factors of one adapter, y = x + s·B(Ax), and everything that reads them.

use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use serde::{Deserialize, Serialize};

/// A `(rank, d)` and B `(d, rank)`, row-major, with their scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Factors {
    dim: usize,
    rank: usize,
    scale: f32,
    pub(super) a: Vec<f32>,
    pub(super) b: Vec<f32>,
    identity: bool,
}

/// Row-major `(rows, cols)` to `(cols, rows)`.
pub(crate) fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for i in 0..rows {
        for j in 0..cols {
            out[j * rows + i] = x[i * cols + j];
        }
    }
    out
}

impl Factors {
    /// From A `(rank, dim)` and B `(dim, rank)`, row-major.
    pub fn new(dim: usize, rank: usize, scale: f32, a: Vec<f32>, b: Vec<f32>) -> Result<Self> {
        let mut this = Self {
            dim,
            rank,
            scale,
            a,
            b,
            identity: false,
        };
        this.validate()?;
        this.refresh();
        Ok(this)
    }

    /// Checks sizes and finiteness (of decoded or given factors).
    pub(super) fn validate(&self) -> Result<()> {
        if self.dim == 0 || self.rank == 0 {
            return Err(Error::config("hidden_dim and rank", "at least 1", 0));
        }
        let n = self
            .dim
            .checked_mul(self.rank)
            .ok_or_else(|| Error::corrupt("factors", "sizes overflow"))?;
        check_dim("A", n, self.a.len())?;
        check_dim("B", n, self.b.len())?;
        check_finite("A", &self.a)?;
        check_finite("B", &self.b)?;
        check_finite("scale", &[self.scale])
    }

    /// Recomputes what is derived; call after every write to B or the scale.
    pub(super) fn refresh(&mut self) {
        self.identity = self.scale == 0.0 || self.b.iter().all(|v| *v == 0.0);
    }

    /// Overwrites with `other` of the same shape, without allocating.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.a.copy_from_slice(&other.a);
        self.b.copy_from_slice(&other.b);
        self.scale = other.scale;
        self.identity = other.identity;
    }

    /// Length of inputs and outputs.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Rank.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Scale s.
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.scale
    }

    pub(super) fn set_scale(&mut self, scale: f32) {
        self.scale = scale;
        self.refresh();
    }

    /// A `(rank, d)`, row-major.
    #[must_use]
    pub fn a(&self) -> &[f32] {
        &self.a
    }

    /// B `(d, rank)`, row-major.
    #[must_use]
    pub fn b(&self) -> &[f32] {
        &self.b
    }

    /// True if the adapter leaves every input as it is.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.identity
    }

    /// y = x + s·B(Ax) for one vector. Untrained: `x` bit for bit. `out` is written only if `x` is finite.
    #[inline]
    pub fn forward_into(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        check_dim("x", self.dim, x.len())?;
        check_dim("out", self.dim, out.len())?;
        check_finite("x", x)?;
        if self.identity {
            out.copy_from_slice(x);
        } else {
            kernels::low_rank_apply(x, &self.a, &self.b, self.rank, self.scale, out);
        }
        Ok(())
    }

    /// s·B(Ax) for one vector.
    pub fn delta_into(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        check_dim("x", self.dim, x.len())?;
        check_dim("out", self.dim, out.len())?;
        check_finite("x", x)?;
        if self.identity {
            out.fill(0.0);
            return Ok(());
        }
        let h = |r: usize| self.scale * kernels::dot(&self.a[r * self.dim..(r + 1) * self.dim], x);
        match self.rank {
            1 => {
                let h = h(0);
                for (o, b) in out.iter_mut().zip(&self.b) {
                    *o = h * b;
                }
            }
            2 => {
                let h = [h(0), h(1)];
                for (o, b) in out.iter_mut().zip(self.b.chunks_exact(2)) {
                    *o = h[0] * b[0] + h[1] * b[1];
                }
            }
            _ => {
                let h: Vec<f32> = (0..self.rank).map(h).collect();
                kernels::gemv(&self.b, self.rank, &h, out);
            }
        }
        Ok(())
    }

    /// Rows of `x` `(n, d)` through [`Self::forward_into`], bit for bit; after an error `out` is unspecified.
    #[inline]
    pub fn forward_rows(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        if x.len() == self.dim {
            return self.forward_into(x, out);
        }
        check_dim("out", x.len(), out.len())?;
        if self.identity {
            check_finite("x", x)?;
            out.copy_from_slice(x);
            return Ok(());
        }
        kernels::low_rank_apply_rows(x, self.dim, &self.a, &self.b, self.rank, self.scale, out);
        // One value of x that is not finite makes Ax, and with it every value of that row of y, not finite.
        if out.iter().step_by(self.dim).all(|first| first.is_finite()) {
            Ok(())
        } else {
            check_finite("x", x)
        }
    }

    /// Rows of `x` `(n, d)` through [`Self::delta_into`]; stops at the first row that is not finite.
    pub fn delta_rows(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        check_dim("out", x.len(), out.len())?;
        let rows = x.chunks_exact(self.dim).zip(out.chunks_exact_mut(self.dim));
        for (i, (x, y)) in rows.enumerate() {
            self.delta_into(x, y).map_err(|e| shifted(e, i * self.dim))?;
        }
        Ok(())
    }

    /// Ax and Bᵀg; rank 1 or 2.
    pub(super) fn project(&self, x: &[f32], g: &[f32]) -> kernels::Projections {
        kernels::low_rank_project(x, g, &self.a, &self.b, self.rank)
    }

    /// Adds `weight` times the gradients of both factors for the descent gradient `g` at y:
    /// ∂A = s·(Bᵀg)xᵀ into `da` `(rank, d)`, ∂B = s·g(Ax)ᵀ into `db` `(d, rank)`.
    pub fn add_gradients(&self, x: &[f32], g: &[f32], weight: f32, da: &mut [f32], db: &mut [f32]) {
        let (d, k, s) = (self.dim, self.rank, self.scale * weight);
        if k <= 2 {
            kernels::low_rank_grad(x, g, &self.a, &self.b, k, s, da, db);
            return;
        }
        for (back, row) in self.back_project(g).iter().zip(da.chunks_exact_mut(d)) {
            kernels::axpy(s * back, x, row);
        }
        let mut hidden = vec![0.0; k];
        kernels::gemv(&self.a, d, x, &mut hidden);
        for (row, g) in db.chunks_exact_mut(k).zip(g) {
            for (o, h) in row.iter_mut().zip(&hidden) {
                *o += s * g * h;
            }
        }
    }

    /// Bᵀg.
    fn back_project(&self, g: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.rank];
        for (row, g) in self.b.chunks_exact(self.rank).zip(g) {
            for (o, b) in out.iter_mut().zip(row) {
                *o += b * g;
            }
        }
        out
    }

    /// ∂L/∂x = g + s·Aᵀ(Bᵀg).
    pub fn input_gradient(&self, g: &[f32], dx: &mut [f32]) {
        dx.copy_from_slice(g);
        for (back, a) in self.back_project(g).iter().zip(self.a.chunks_exact(self.dim)) {
            kernels::axpy(self.scale * back, a, dx);
        }
    }

    /// (∂A, ∂B, ∂x) for rows `x` and `g` `(n, d)`; the factors' gradients are summed over rows.
    pub fn gradients(&self, x: &[f32], g: &[f32]) -> Result<(Vec<f32>, Vec<f32>, Vec<f32>)> {
        check_dim("grad_y", x.len(), g.len())?;
        check_finite("x", x)?;
        check_finite("grad_y", g)?;
        let n = self.rank * self.dim;
        let (mut da, mut db, mut dx) = (vec![0.0; n], vec![0.0; n], vec![0.0; x.len()]);
        let rows = x.chunks_exact(self.dim).zip(g.chunks_exact(self.dim));
        for ((x, g), dx) in rows.zip(dx.chunks_exact_mut(self.dim)) {
            self.add_gradients(x, g, 1.0, &mut da, &mut db);
            self.input_gradient(g, dx);
        }
        Ok((da, db, dx))
    }
}

/// The flat index of a value that is not finite, in the whole batch.
#[cold]
fn shifted(err: Error, start: usize) -> Error {
    match err {
        Error::NotFinite { name, index, value } => Error::NotFinite {
            name,
            index: index + start,
            value,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{self, RngExt};
    use proptest::prelude::*;

    fn draw(n: usize, seed: u64) -> Vec<f32> {
        let mut g = rng::stream(seed, 0);
        (0..n).map(|_| g.random::<f32>() - 0.5).collect()
    }

    /// y in float64 straight from the definition.
    fn reference(a: &[f32], b: &[f32], r: usize, s: f32, x: &[f64]) -> Vec<f64> {
        let d = x.len();
        let h: Vec<f64> = (0..r)
            .map(|k| (0..d).map(|i| f64::from(a[k * d + i]) * x[i]).sum())
            .collect();
        (0..d)
            .map(|i| x[i] + f64::from(s) * (0..r).map(|k| f64::from(b[i * r + k]) * h[k]).sum::<f64>())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn forward_and_gradients_follow_the_definition(d in 1usize..40, r in 1usize..5, seed in 0u64..1000) {
            let (a, b) = (draw(r * d, seed), draw(r * d, seed + 1));
            let f = Factors::new(d, r, 0.7, a.clone(), b.clone()).unwrap();
            prop_assert_eq!(f.b(), &b);
            let (x, g) = (draw(d, seed + 2), draw(d, seed + 3));
            let x64: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            let mut y = vec![0.0; d];
            f.forward_into(&x, &mut y).unwrap();
            for (y, w) in y.iter().zip(reference(&a, &b, r, 0.7, &x64)) {
                prop_assert!((f64::from(*y) - w).abs() < 1e-5 * (1.0 + w.abs()));
            }
            // Central differences of L = g·y in each input and factor.
            let loss = |a: &[f32], b: &[f32], x: &[f64]| -> f64 {
                reference(a, b, r, 0.7, x).iter().zip(&g).map(|(y, g)| y * f64::from(*g)).sum()
            };
            let (da, db, dx) = f.gradients(&x, &g).unwrap();
            for i in 0..r * d {
                let bump = |v: &[f32], e: f32| { let mut v = v.to_vec(); v[i] += e; v };
                // L is linear in each single entry, so a wide step is exact up to rounding of the entry itself.
                let wa = (loss(&bump(&a, 0.5), &b, &x64) - loss(&bump(&a, -0.5), &b, &x64)) / 1.0;
                let wb = (loss(&a, &bump(&b, 0.5), &x64) - loss(&a, &bump(&b, -0.5), &x64)) / 1.0;
                prop_assert!((f64::from(da[i]) - wa).abs() < 1e-4, "{} {}", da[i], wa);
                prop_assert!((f64::from(db[i]) - wb).abs() < 1e-4, "{} {}", db[i], wb);
            }
            for i in 0..d {
                let bump = |e: f64| { let mut v = x64.clone(); v[i] += e; v };
                let want = loss(&a, &b, &bump(0.5)) - loss(&a, &b, &bump(-0.5));
                prop_assert!((f64::from(dx[i]) - want).abs() < 1e-4);
            }
        }

        #[test]
        fn a_single_bad_value_is_always_found(d in 1usize..70, at in 0usize..70, bad in 0usize..3, trained in any::<bool>()) {
            let at = at % d;
            let mut a = draw(2 * d, 1);
            a[at] = 0.0; // the hardest place: the factor is blind there
            let b = if trained { draw(2 * d, 2) } else { vec![0.0; 2 * d] };
            let f = Factors::new(d, 2, 0.7, a, b).unwrap();
            let mut x = draw(d, 3);
            x[at] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][bad];
            let mut y = vec![9.0; d];
            let err = f.forward_into(&x, &mut y).unwrap_err();
            let found = matches!(err, Error::NotFinite { index, .. } if index == at);
            prop_assert!(found, "{}", err);
            prop_assert!(y.iter().all(|v| *v == 9.0));
            prop_assert!(f.delta_into(&x, &mut y).is_err());
            // In a batch the check reads one result per row only.
            let mut rows = draw(3 * d, 4);
            rows[2 * d..].copy_from_slice(&x);
            let err = f.forward_rows(&rows, &mut vec![0.0; 3 * d]).unwrap_err();
            let found = matches!(err, Error::NotFinite { index, .. } if index == 2 * d + at);
            prop_assert!(found, "{}", err);
        }
    }

    #[test]
    fn untrained_is_the_identity_bit_for_bit() {
        let f = Factors::new(5, 2, 0.7, draw(10, 0), vec![0.0; 10]).unwrap();
        let x = [-0.0, 1.5, f32::MIN_POSITIVE / 2.0, -3.0, 1e30];
        let mut y = [1.0; 5];
        f.forward_into(&x, &mut y).unwrap();
        assert!(x.iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
