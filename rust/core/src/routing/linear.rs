//! Bayesian linear quality per model with a part that all models share: y = b_a + z·u_a + z·v + noise.
//!
//! The hybrid model of Li et al. 2010 (algorithm 2) with the shared part eliminated, so that memory and time are linear in
//! the number of models.

use crate::error::{Error, Result, check_number};
use crate::kernels::real::inner as dot;
use serde::{Deserialize, Serialize};

/// Prior precision of a model's own coefficients and of the shared ones, in noise units.
const OWN: f64 = 8.0;
const SHARED: f64 = 2.0;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Arm {
    /// Σ w·z̃z̃ᵀ without the prior; z̃ = (1, z). Its lower right block is Σ w·zzᵀ, its lower rows are Σ w·z z̃ᵀ.
    gram: Vec<f64>,
    /// Σ w·y·z̃.
    moment: Vec<f64>,
    /// A⁻¹B and A⁻¹b.
    through: Vec<f64>,
    own: Vec<f64>,
    /// BᵀA⁻¹B and BᵀA⁻¹b, as they stand in the shared system.
    share: Vec<f64>,
    share_b: Vec<f64>,
    theta: Vec<f64>,
    /// A⁻¹: covariance of the model's own coefficients, in noise units.
    covariance: Vec<f64>,
    time: f64,
}

/// The model's state for features of `width` = 1 + components.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SharedLinear {
    width: usize,
    arms: Vec<Arm>,
    /// Σ over arms of (Σ w·zzᵀ − BᵀA⁻¹B), and its right side.
    shared: Vec<f64>,
    shared_b: Vec<f64>,
    v: Vec<f64>,
}

/// Cholesky factor in the lower triangle of `a` (n × n); false if it is not positive definite.
fn cholesky(a: &mut [f64], n: usize) -> bool {
    for j in 0..n {
        for i in j..n {
            let (head, tail) = a.split_at(i * n);
            let rowi = &tail[..n];
            let rowj = if i == j { rowi } else { &head[j * n..j * n + n] };
            let s: f64 = rowi[..j].iter().zip(&rowj[..j]).map(|(x, y)| x * y).sum();
            let v = a[i * n + j] - s;
            if i == j {
                if !(v > 0.0 && v.is_finite()) {
                    return false;
                }
                a[j * n + j] = v.sqrt();
            } else {
                a[i * n + j] = v / a[j * n + j];
            }
        }
    }
    true
}

/// Solves LLᵀX = B in place for B with `cols` columns (n × cols).
fn solve(l: &[f64], n: usize, b: &mut [f64], cols: usize) {
    let minus = |b: &mut [f64], i: usize, j: usize, by: f64| {
        let (low, high) = (i.min(j), i.max(j));
        let (head, tail) = b.split_at_mut(high * cols);
        let (first, second) = (&mut head[low * cols..(low + 1) * cols], &mut tail[..cols]);
        let (to, from) = if i > j { (second, first) } else { (first, second) };
        for (t, f) in to.iter_mut().zip(from.iter()) {
            *t -= by * f;
        }
    };
    for i in 0..n {
        for j in 0..i {
            minus(b, i, j, l[i * n + j]);
        }
        b[i * cols..(i + 1) * cols]
            .iter_mut()
            .for_each(|v| *v /= l[i * n + i]);
    }
    for i in (0..n).rev() {
        for j in i + 1..n {
            minus(b, i, j, l[j * n + i]);
        }
        b[i * cols..(i + 1) * cols]
            .iter_mut()
            .for_each(|v| *v /= l[i * n + i]);
    }
}

fn diagonal(n: usize, value: f64) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    out.iter_mut().step_by(n + 1).for_each(|v| *v = value);
    out
}

impl SharedLinear {
    /// The prior: every coefficient 0.
    #[must_use]
    pub fn new(arms: usize, components: usize) -> Self {
        let mut out = Self {
            width: components + 1,
            arms: Vec::new(),
            shared: vec![0.0; components * components],
            shared_b: vec![0.0; components],
            v: vec![0.0; components],
        };
        (0..arms).for_each(|_| out.add_arm());
        out
    }

    /// One more model.
    pub fn add_arm(&mut self) {
        let (w, r) = (self.width, self.width - 1);
        self.arms.push(Arm {
            gram: vec![0.0; w * w],
            moment: vec![0.0; w],
            through: vec![0.0; w * r],
            own: vec![0.0; w],
            share: vec![0.0; r * r],
            share_b: vec![0.0; r],
            theta: vec![0.0; w],
            covariance: diagonal(w, 1.0 / OWN),
            time: 0.0,
        });
    }

    /// Expected y of a model at z̃.
    #[must_use]
    pub fn predict(&self, arm: usize, z: &[f64]) -> f64 {
        dot(&self.arms[arm].theta, z) + dot(&self.v, &z[1..])
    }

    /// Expected y of every model at z̃; O(models · width).
    pub fn predict_all(&self, z: &[f64], out: &mut [f64]) {
        let common = dot(&self.v, &z[1..]);
        for (o, arm) in out.iter_mut().zip(&self.arms) {
            *o += common + dot(&arm.theta, z);
        }
    }

    /// Standard deviation of every model's own part at z̃, in noise units; O(models · width²).
    #[must_use]
    pub fn deviations(&self, z: &[f64]) -> Vec<f64> {
        let deviation = |arm: &Arm| -> f64 {
            let rows = arm.covariance.chunks_exact(self.width).zip(z);
            rows.map(|(row, zi)| zi * dot(row, z)).sum()
        };
        self.arms.iter().map(|a| deviation(a).max(0.0).sqrt()).collect()
    }

    /// One outcome at time `now` (counted in outcomes); what the model showed before counts `decay` per unit of time.
    /// O(width³) for the arm, O(models · width²) for the coefficients that share.
    pub fn update(&mut self, arm: usize, z: &[f64], y: f64, decay: f64, now: f64) {
        let (w, r) = (self.width, self.width - 1);
        let a = &mut self.arms[arm];
        let keep = decay.powf((now - a.time).max(0.0));
        a.time = now;
        self.exchange(arm, -1.0);
        let a = &mut self.arms[arm];
        for i in 0..w {
            for j in 0..w {
                a.gram[i * w + j] = keep * a.gram[i * w + j] + z[i] * z[j];
            }
            a.moment[i] = keep * a.moment[i] + y * z[i];
        }
        let mut l = a.gram.clone();
        l.iter_mut().step_by(w + 1).for_each(|v| *v += OWN);
        if cholesky(&mut l, w) {
            // B: rows of z̃ against z.
            for i in 0..w {
                a.through[i * r..(i + 1) * r].copy_from_slice(&a.gram[i * w + 1..(i + 1) * w]);
            }
            solve(&l, w, &mut a.through, r);
            a.own.copy_from_slice(&a.moment);
            solve(&l, w, &mut a.own, 1);
            a.covariance = diagonal(w, 1.0);
            solve(&l, w, &mut a.covariance, w);
            a.share.fill(0.0);
            a.share_b.fill(0.0);
            for i in 0..w {
                let b = &a.gram[i * w + 1..(i + 1) * w];
                for (j, b) in b.iter().enumerate() {
                    a.share_b[j] += b * a.own[i];
                    let row = &mut a.share[j * r..(j + 1) * r];
                    for (s, t) in row.iter_mut().zip(&a.through[i * r..(i + 1) * r]) {
                        *s += b * t;
                    }
                }
            }
        }
        self.exchange(arm, 1.0);
        self.solve_shared();
    }

    /// Adds the arm's part to the shared system, or takes it out.
    fn exchange(&mut self, arm: usize, sign: f64) {
        let (w, r) = (self.width, self.width - 1);
        let a = &self.arms[arm];
        for i in 0..r {
            for j in 0..r {
                let zz = a.gram[(i + 1) * w + j + 1];
                self.shared[i * r + j] += sign * (zz - a.share[i * r + j]);
            }
            self.shared_b[i] += sign * (a.moment[i + 1] - a.share_b[i]);
        }
    }

    fn solve_shared(&mut self) {
        let r = self.width - 1;
        let mut l = self.shared.clone();
        l.iter_mut().step_by(r + 1).for_each(|v| *v += SHARED);
        if r > 0 && cholesky(&mut l, r) {
            self.v.copy_from_slice(&self.shared_b);
            solve(&l, r, &mut self.v, 1);
        }
        for a in &mut self.arms {
            for (i, t) in a.theta.iter_mut().enumerate() {
                *t = a.own[i] - dot(&a.through[i * r..(i + 1) * r], &self.v);
            }
        }
    }

    /// Takes everything out that a model showed.
    pub fn clear_arm(&mut self, arm: usize) {
        self.exchange(arm, -1.0);
        self.arms.remove(arm);
        self.add_arm();
        if let Some(fresh) = self.arms.pop() {
            self.arms.insert(arm, fresh);
        }
        self.solve_shared();
    }

    /// Checks decoded sizes and values.
    pub fn check(&self, arms: usize, components: usize) -> Result<()> {
        let (w, r) = (components + 1, components);
        let mut parts = vec![(&self.shared, r * r), (&self.shared_b, r), (&self.v, r)];
        for a in &self.arms {
            parts.extend([(&a.gram, w * w), (&a.moment, w), (&a.through, w * r), (&a.own, w)]);
            parts.extend([(&a.share, r * r), (&a.share_b, r), (&a.theta, w)]);
            parts.push((&a.covariance, w * w));
            check_number("time", a.time)?;
        }
        if self.width != w || self.arms.len() != arms || parts.iter().any(|(v, n)| v.len() != *n) {
            return Err(Error::value("state", "sizes that agree", "others"));
        }
        (parts.iter().flat_map(|(v, _)| v.iter())).try_for_each(|v| check_number("state", *v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{self, RngExt};

    /// The joint posterior mean by one dense solve.
    fn dense(rows: &[(usize, Vec<f64>, f64)], arms: usize, r: usize) -> Vec<f64> {
        let w = r + 1;
        let n = arms * w + r;
        let mut a = vec![0.0; n * n];
        let mut b = vec![0.0; n];
        for i in 0..n {
            a[i * n + i] = if i < arms * w { OWN } else { SHARED };
        }
        for (arm, z, y) in rows {
            let mut f = vec![0.0; n];
            f[arm * w..(arm + 1) * w].copy_from_slice(z);
            f[arms * w..].copy_from_slice(&z[1..]);
            for i in 0..n {
                b[i] += y * f[i];
                for j in 0..n {
                    a[i * n + j] += f[i] * f[j];
                }
            }
        }
        assert!(cholesky(&mut a, n));
        solve(&a, n, &mut b, 1);
        b
    }

    #[test]
    fn equals_the_dense_posterior() {
        for (arms, r) in [(1, 0), (3, 4), (5, 2)] {
            let mut rng = rng::stream(2, 0);
            let mut model = SharedLinear::new(arms, r);
            let mut rows = Vec::new();
            for t in 0..60 {
                let z: Vec<f64> = std::iter::once(1.0)
                    .chain((0..r).map(|_| rng::normal(&mut rng)))
                    .collect();
                let (arm, y) = (rng.random_range(0..arms), rng::normal(&mut rng));
                model.update(arm, &z, y, 1.0, f64::from(t));
                rows.push((arm, z, y));
            }
            let want = dense(&rows, arms, r);
            let z = &rows[0].1;
            for (a, got) in model.deviations(z).into_iter().enumerate() {
                let mut own = model.arms[a].gram.clone();
                own.iter_mut().step_by(r + 2).for_each(|v| *v += OWN);
                let mut solved = z.clone();
                assert!(cholesky(&mut own, r + 1));
                solve(&own, r + 1, &mut solved, 1);
                assert!((got * got - dot(z, &solved)).abs() < 1e-9);
            }
            for a in 0..arms {
                for (got, want) in model.arms[a].theta.iter().zip(&want[a * (r + 1)..]) {
                    assert!((got - want).abs() < 1e-9, "{got} {want}");
                }
            }
            for (got, want) in model.v.iter().zip(&want[arms * (r + 1)..]) {
                assert!((got - want).abs() < 1e-9);
            }
            if arms > 1 {
                model.clear_arm(0);
                rows.retain(|r| r.0 != 0);
                let want = dense(&rows, arms, r);
                assert!(
                    (model.predict(1, &rows[0].1) - {
                        let z = &rows[0].1;
                        dot(&want[r + 1..2 * (r + 1)], z) + dot(&want[arms * (r + 1)..], &z[1..])
                    })
                    .abs()
                        < 1e-9
                );
            }
        }
    }
}
