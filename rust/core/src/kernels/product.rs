//! Rows times rows, some at a time: what is read of them, which whoever owns them may change afterwards, and then the product.

use super::nonzero::{Nonzero, turned};
use super::projection::Projection;
use super::real::Real;
use super::split;

/// Products of rows with the rows of one matrix w (m, d), by what suits the rows: the values that are not zero as long as there are
/// few, else tiles.
#[derive(Debug)]
pub struct RowProducts<T> {
    w: Vec<T>,
    d: usize,
    /// All rows so far were sparse.
    sparse: bool,
    nonzero: Nonzero<T>,
    rows: Vec<T>,
    /// `w` as either way takes it, made once it is needed.
    turned: Option<Vec<T>>,
    parted: Option<Projection<T>>,
}

impl<T: Real> RowProducts<T> {
    /// Products of rows of `d` values.
    #[must_use]
    pub fn new(d: usize) -> Self {
        Self {
            w: Vec::new(),
            d,
            sparse: true,
            nonzero: Nonzero::default(),
            rows: Vec::new(),
            turned: None,
            parted: None,
        }
    }

    /// Takes rows x (n, d) for the next product. False where neither way is at hand: they are not sparse, and the processor has no
    /// tiles.
    #[must_use]
    pub fn take(&mut self, x: &[T]) -> bool {
        self.sparse = self.sparse && self.nonzero.gather(x, self.d);
        if !self.sparse {
            self.rows.clear();
            self.rows.extend_from_slice(x);
        }
        self.sparse || split::available::<T>()
    }

    /// Keeps w (m, d), once, before the first product. Whoever finds no rows to multiply has not copied it.
    pub fn weigh(&mut self, w: &[T]) {
        self.w = w.to_vec();
    }

    /// out (n, m) ← the rows taken · wᵀ. False, and `out` not specified, where w or the rows do not allow it.
    #[must_use]
    pub fn multiply(&mut self, out: &mut [T]) -> bool {
        if self.sparse {
            self.turned = self.turned.take().or_else(|| turned(&self.w, self.d));
            let Some(turned) = &self.turned else { return false };
            self.nonzero.multiply(turned, self.w.len() / self.d, out);
            return true;
        }
        self.parted = self.parted.take().or_else(|| Projection::new(&self.w, self.d));
        self.parted.as_ref().is_some_and(|x| x.multiply(&self.rows, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_rows_then_dense_ones() {
        let (n, d, m) = (20, 64, 3);
        let w: Vec<f32> = (0..m * d).map(|i| (i % 7) as f32 - 3.0).collect();
        let mut products = RowProducts::new(d);
        products.weigh(&w);
        for dense in [false, true, false] {
            let x: Vec<f32> = (0..n * d)
                .map(|i| if dense || i % 64 == 5 { 2.0 } else { 0.0 })
                .collect();
            let mut out = vec![f32::NAN; n * m];
            if !products.take(&x) {
                // Not sparse, or not any more, without tiles.
                assert!(!split::available::<f32>() && (dense || !products.sparse));
                continue;
            }
            assert!(products.multiply(&mut out));
            for (i, got) in out.iter().enumerate() {
                let (x, w) = (&x[i / m * d..][..d], &w[i % m * d..][..d]);
                let want: f32 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                assert!((got - want).abs() < 1e-3, "{got} {want}");
            }
        }
    }

    #[test]
    fn weights_that_are_not_finite_are_refused() {
        let mut products = RowProducts::new(64);
        products.weigh(&[f32::NAN; 64]);
        assert!(products.take(&[0.0; 128]) && !products.multiply(&mut [0.0; 2]));
    }
}
