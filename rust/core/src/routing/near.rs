//! Rows of unit length near a request, without reading every row in full: signed bytes rule out those that are surely far.

use crate::kernels;

/// Longest rows whose products in bytes fit 32 bits.
const LONGEST: usize = 1 << 16;

/// Rows in bytes, with what each byte stands for and how far the bytes are from the row.
#[derive(Debug, Clone, Default)]
pub(super) struct Screen {
    codes: Vec<i8>,
    scales: Vec<f32>,
    errors: Vec<f32>,
}

/// Bytes of `x`, their scale, and the length of what they miss.
fn bytes(x: &[f32], codes: &mut [i8]) -> (f32, f32) {
    let scale = kernels::quantize_i8(x, codes);
    let missed = x.iter().zip(codes).map(|(x, q)| x - scale * f32::from(*q));
    (scale, missed.map(|e| e * e).sum::<f32>().sqrt())
}

impl Screen {
    /// Notes row `row`, which is `x`; rows are noted in order, or again.
    pub fn place(&mut self, row: usize, x: &[f32]) {
        let n = self.scales.len().max(row + 1);
        self.codes.resize(n * x.len(), 0);
        self.scales.resize(n, 0.0);
        self.errors.resize(n, 0.0);
        (self.scales[row], self.errors[row]) = bytes(x, &mut self.codes[row * x.len()..(row + 1) * x.len()]);
    }

    /// The rows of `rows` (n, dim) whose cosine with the unit vector `x` is above `least`, in order, with this cosine: bit for bit
    /// what products with all rows would give.
    pub fn above(&self, rows: &[f32], x: &[f32], least: f32) -> Vec<(usize, f32)> {
        let (d, n) = (x.len(), rows.len() / x.len());
        let maybe: Vec<usize> = if d <= LONGEST && self.scales.len() == n {
            let mut codes = vec![0; d];
            let (scale, missed) = bytes(x, &mut codes);
            let mut products = vec![0; n];
            kernels::gemv_i8(&self.codes, d, &codes, &mut products);
            // |x·r − x̂·r̂| ≤ |x − x̂||r| + |x̂||r − r̂|, and the rounding of both products.
            let slack = missed + 1e-5 + d as f32 * f32::EPSILON;
            let reach = 1.0 + missed + 1e-5;
            let known = products.iter().zip(&self.scales).zip(&self.errors);
            (known.enumerate())
                .filter(|(_, ((p, s), e))| scale * **s * **p as f32 + slack + reach * **e > least)
                .map(|(i, _)| i)
                .collect()
        } else {
            (0..n).collect()
        };
        let mut cosines = vec![0.0; maybe.len()];
        kernels::gather_dot(rows, d, &maybe, x, &mut cosines);
        (maybe.into_iter().zip(cosines))
            .filter(|(_, s)| *s > least)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_all_products_find(d in 1usize..70, n in 0usize..60, seed in 0u64..1000, least in -1.1f32..1.0) {
            let mut rng = rng::stream(seed, 0);
            let mut rows: Vec<f32> = (0..(n + 1) * d).map(|_| rng::normal(&mut rng) as f32).collect();
            // Some rows are near one another, one is zero.
            for i in 1..=n {
                let (first, rest) = rows.split_at_mut(d);
                let near = f32::from(u8::from(i % 2 == 0)) * 3.0;
                kernels::axpy(near, first, &mut rest[(i - 1) * d..i * d]);
            }
            rows.chunks_exact_mut(d).for_each(|r| { kernels::normalize(r); });
            if n > 2 {
                rows[2 * d..3 * d].fill(0.0);
            }
            let (x, rows) = rows.split_at(d);
            let mut screen = Screen::default();
            for (i, r) in rows.chunks_exact(d).enumerate() {
                screen.place(i, r);
            }
            let mut all = vec![0.0; n];
            kernels::gemv(rows, d, x, &mut all);
            let want: Vec<(usize, f32)> = all.iter().copied().enumerate().filter(|(_, s)| *s > least).collect();
            prop_assert_eq!(screen.above(rows, x, least), want.clone());
            // Without bytes the same.
            prop_assert_eq!(Screen::default().above(rows, x, least), want);
        }
    }
}
