//! Rows that are mostly zeros, such as bags of words, times a matrix: only what is there is multiplied.

use super::real::{Mat, Near, Real, transpose, weighted_rows};

/// One value in so many may differ from zero: a product of all of them takes longer from here on.
const SPARSE: usize = 32;

/// The values of some rows that are not zero.
#[derive(Clone, Debug, Default)]
pub struct Nonzero<T> {
    /// Of each row, its last value.
    ends: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<T>,
}

impl<T: Real> Nonzero<T> {
    /// Takes the rows of `x` (n, d) instead of those before. False, and nothing of use inside, where they are not sparse. Reads no
    /// more than that takes to tell.
    #[must_use]
    pub fn gather(&mut self, x: &[T], d: usize) -> bool {
        assert!(
            x.len().checked_rem(d) == Some(0) && u32::try_from(d).is_ok(),
            "gather: expected rows of d values"
        );
        self.ends.clear();
        self.columns.clear();
        self.values.clear();
        let most = x.len() / SPARSE;
        for row in x.chunks_exact(d) {
            self.columns.reserve(d);
            self.values.reserve(d);
            let (columns, values) = (
                self.columns.spare_capacity_mut(),
                self.values.spare_capacity_mut(),
            );
            // SAFETY: both have room for the whole row; the table is this processor's, and writes as many as it says.
            unsafe {
                let more =
                    (T::kernels().nonzero)(row, columns.as_mut_ptr().cast(), values.as_mut_ptr().cast());
                self.columns.set_len(self.columns.len() + more);
                self.values.set_len(self.values.len() + more);
            }
            self.ends.push(self.values.len());
            if self.values.len() > most {
                return false;
            }
        }
        true
    }

    /// out (n, m) ← these rows · wᵀ, w as [`turned`] gives it. Where w is not finite, zeros would count: that is the caller's to check.
    pub fn multiply(&self, turned: &[T], m: usize, out: &mut [T]) {
        assert_eq!(
            out.len(),
            self.ends.len() * m,
            "nonzero rows: expected out (n, m)"
        );
        out.fill(T::ZERO);
        let mut start = 0;
        for (out, end) in out.chunks_exact_mut(m.max(1)).zip(&self.ends) {
            let near = Near::new(turned, &self.columns[start..*end], 1, m);
            weighted_rows(near, &self.values[start..*end], out);
            start = *end;
        }
    }
}

/// wᵀ (d, m) of w (m, d), or None where a value is not finite.
#[must_use]
pub fn turned<T: Real>(w: &[T], d: usize) -> Option<Vec<T>> {
    if !w.iter().all(|x| x.is_finite()) {
        return None;
    }
    let m = w.len().checked_div(d)?;
    let mut out = vec![T::ZERO; w.len()];
    transpose(m, d, Mat::new(w, d), &mut out, m);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_times_a_matrix(
            n in 0usize..7,
            d in 1usize..200,
            m in 1usize..40,
            seed in any::<u64>(),
        ) {
            let mut r = crate::rng::stream(seed, 0);
            let mut normal = || crate::rng::normal(&mut r);
            let w: Vec<f64> = (0..m * d).map(|_| normal()).collect();
            let x: Vec<f64> = (0..n * d).map(|_| normal()).map(|x| if x > 2.2 { x } else { -0.0 }).collect();
            let there = x.iter().filter(|x| **x != 0.0).count();
            let mut rows = Nonzero::default();
            let sparse = rows.gather(&x, d);
            prop_assert_eq!(sparse, there <= n * d / SPARSE);
            if sparse {
                let mut out = vec![f64::NAN; n * m];
                rows.multiply(&turned(&w, d).unwrap(), m, &mut out);
                for (i, got) in out.iter().enumerate() {
                    let (x, w) = (&x[i / m * d..][..d], &w[i % m * d..][..d]);
                    let want: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                    prop_assert!((got - want).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite() {
        let mut x = vec![0.0f32; 64];
        x[3] = f32::NAN;
        let mut rows = Nonzero::default();
        assert!(rows.gather(&x, 32));
        let mut out = [1.0; 4];
        rows.multiply(&turned(&[1.0; 64], 32).unwrap(), 2, &mut out);
        assert!(out[0].is_nan() && out[1].is_nan());
        assert_eq!(out[2..], [0.0, 0.0]);
        assert!(turned(&[f32::INFINITY, 0.0], 2).is_none());
    }
}
