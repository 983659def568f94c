//! Small dense matrices in double precision, row-major.

/// c = a·b for (n, n) matrices.
pub(super) fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let mut c = vec![0.0; n * n];
    for i in 0..n {
        for k in 0..n {
            let x = a[i * n + k];
            for j in 0..n {
                c[i * n + j] += x * b[k * n + j];
            }
        }
    }
    c
}

/// The transpose of an (n, n) matrix.
pub(super) fn transposed(a: &[f64], n: usize) -> Vec<f64> {
    (0..n * n).map(|k| a[k % n * n + k / n]).collect()
}

/// Lower Cholesky factor of a symmetric (n, n) matrix; `None` unless it is positive definite.
pub(super) fn cholesky(a: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let (row, other) = (&l[i * n..i * n + j], &l[j * n..j * n + j]);
            let rest = a[i * n + j] - row.iter().zip(other).map(|(x, y)| x * y).sum::<f64>();
            l[i * n + j] = if i == j {
                if !(rest > 0.0 && rest.is_finite()) {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / l[j * n + j]
            };
        }
    }
    Some(l)
}

/// Logarithm of the determinant whose Cholesky factor is `l`.
pub(super) fn log_det(l: &[f64], n: usize) -> f64 {
    2.0 * (0..n).map(|i| l[i * n + i].ln()).sum::<f64>()
}

/// Solves l·y = x in place for one right side.
pub(super) fn forward(l: &[f64], n: usize, x: &mut [f64]) {
    for i in 0..n {
        let known: f64 = l[i * n..i * n + i].iter().zip(&*x).map(|(a, b)| a * b).sum();
        x[i] = (x[i] - known) / l[i * n + i];
    }
}

/// The stationary covariance Σ = AΣAᵀ + Q by doubling (Smith 1968); `None` if A is not stable.
pub(super) fn stationary(a: &[f64], q: &[f64], n: usize) -> Option<Vec<f64>> {
    let (mut power, mut sigma) = (a.to_vec(), q.to_vec());
    for _ in 0..64 {
        let step = product(&product(&power, &sigma, n), &transposed(&power, n), n);
        let (mut moved, mut size) = (0.0f64, 0.0f64);
        for (s, d) in sigma.iter_mut().zip(&step) {
            *s += d;
            moved = moved.max(d.abs());
            size = size.max(s.abs());
        }
        if !size.is_finite() {
            return None;
        }
        if moved <= 1e-16 * size {
            return Some(sigma);
        }
        power = product(&power, &power, n);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_process_in_closed_form() {
        let s = stationary(&[0.9], &[2.0], 1).unwrap();
        assert!((s[0] - 2.0 / (1.0 - 0.81)).abs() < 1e-9);
        assert!(stationary(&[1.0], &[1.0], 1).is_none());
    }

    #[test]
    fn factor_of_a_known_matrix() {
        let a = [4.0, 2.0, 2.0, 5.0];
        let l = cholesky(&a, 2).unwrap();
        assert_eq!(l, [2.0, 0.0, 1.0, 2.0]);
        assert!((log_det(&l, 2) - 16f64.ln()).abs() < 1e-12);
        let mut x = [2.0, 5.0];
        forward(&l, 2, &mut x);
        assert_eq!(x, [1.0, 2.0]);
        assert!(cholesky(&[1.0, 2.0, 2.0, 1.0], 2).is_none());
    }
}
