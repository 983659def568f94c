//! Products and updates of vectors.

use super::*;

#[test]
fn dot_and_distance_match_float64() {
    for t in tables() {
        for n in lengths() {
            let (a, b) = (normal(n, 1), normal(n, 2));
            let diff: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x - y).collect();
            // SAFETY: the processor has this tier.
            unsafe {
                close((t.dot)(&a, &b), dot64(&a, &b), mass(&a, &b));
                close((t.squared_l2)(&a, &b), dot64(&diff, &diff), dot64(&diff, &diff));
            }
        }
    }
}

#[test]
fn matrix_products_equal_dot_bit_for_bit() {
    for t in tables() {
        for d in lengths() {
            for n in [0, 1, 2, 3, 4, 5, 9] {
                let (rows, q) = (normal(n * d, 3), normal(d, 4));
                let (mut out, mut gathered, mut squared) = (vec![7.0; n], vec![7.0; n], vec![7.0; n]);
                let index: Vec<usize> = (0..n).rev().collect();
                // SAFETY: the processor has this tier, rows are (n, d).
                unsafe {
                    (t.gemv)(&rows, d, &q, &mut out);
                    (t.gather_dot)(&rows, d, &index, &q, &mut gathered);
                    (t.gather_squared_l2)(&rows, d, &index, &q, &mut squared);
                    for i in 0..n {
                        let want = (t.dot)(&rows[i * d..(i + 1) * d], &q);
                        assert_eq!(out[i].to_bits(), want.to_bits());
                        assert_eq!(gathered[n - 1 - i].to_bits(), want.to_bits());
                        let want = (t.squared_l2)(&rows[i * d..(i + 1) * d], &q);
                        assert_eq!(squared[n - 1 - i].to_bits(), want.to_bits());
                    }
                }
            }
        }
    }
}

#[test]
fn updates_match_float64() {
    for t in tables() {
        for d in lengths() {
            let (x, y) = (normal(d, 5), normal(d, 6));
            let rows = normal(5 * d, 7);
            let (index, w) = ([4, 0, 4], [0.5, -2.0, 0.25]);
            let (mut axpy, mut scale, mut sum) = (y.clone(), x.clone(), y.clone());
            // SAFETY: the processor has this tier, lengths agree.
            unsafe {
                (t.axpy)(-1.5, &x, &mut axpy);
                (t.scale)(-1.5, &mut scale);
                (t.weighted_sum_rows)(&rows, d, &index, &w, &mut sum);
            }
            for i in 0..d {
                close(axpy[i], f64::from(y[i]) - 1.5 * f64::from(x[i]), 5.0);
                assert_eq!(scale[i], -1.5 * x[i]);
                let want: f64 = index
                    .iter()
                    .zip(w)
                    .map(|(r, w)| f64::from(rows[r * d + i]) * f64::from(w))
                    .sum();
                close(sum[i], f64::from(y[i]) + want, 10.0);
            }
        }
    }
}

#[test]
fn byte_products_are_exact() {
    for t in tables() {
        for d in lengths() {
            for n in [0, 1, 3, 4, 6] {
                let (rows, q) = (bytes(n * d, 11), bytes(d, 12));
                let (mut out, mut gathered) = (vec![7; n], vec![7; n]);
                let index: Vec<usize> = (0..n).rev().collect();
                // SAFETY: the processor has this tier, rows are (n, d).
                unsafe {
                    (t.gemv_i8)(&rows, d, &q, &mut out);
                    (t.gather_dot_i8)(&rows, d, &index, &q, &mut gathered);
                }
                for i in 0..n {
                    let row = &rows[i * d..(i + 1) * d];
                    let want = scalar::dot_i8(row, &q);
                    assert_eq!((out[i], gathered[n - 1 - i]), (want, want));
                    // SAFETY: the processor has this tier.
                    assert_eq!(unsafe { (t.dot_i8)(row, &q) }, want);
                }
            }
            let (low, high) = (vec![-127i8; d], vec![127i8; d]);
            // SAFETY: the processor has this tier.
            assert_eq!(unsafe { (t.dot_i8)(&low, &high) }, -127 * 127 * d as i32);
        }
    }
}

#[test]
fn products_with_few_vectors_match_float64() {
    for t in tables() {
        for d in [1, 4, 8, 15, 16, 17, 64, 100, 384] {
            for (n, m) in [(0, 3), (1, 1), (1, 5), (2, 4), (3, 8), (5, 1), (7, 6), (9, 12)] {
                let (x, w) = (normal(n * d, 8), normal(m * d, 9));
                let mut out = vec![f32::NAN; n * m];
                // SAFETY: the processor has this tier, the sizes agree.
                unsafe { (t.thin)(&x, d, &w, &mut out) };
                for (i, got) in out.iter().enumerate() {
                    let (x, w) = (&x[i / m * d..][..d], &w[i % m * d..][..d]);
                    close(*got, dot64(x, w), mass(x, w));
                }
            }
        }
    }
}

#[test]
fn gates_match_float64() {
    let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
    for t in tables() {
        for period in [16, 48, 64] {
            for n in [0, 1, 15, 16, 17, 64, 100, 193] {
                let (gate, update) = (normal(period, 10), normal(period, 11));
                let mut p: Vec<f32> = normal(n, 12).iter().map(|v| 4.0 * v).collect();
                // Where the exponentials end.
                for (v, extreme) in p.iter_mut().zip([-1e30, 1e30, -88.0, 88.0, -45.0, 0.0]) {
                    *v = extreme;
                }
                let before = p.clone();
                // SAFETY: the processor has this tier, the biases are of one length that registers divide.
                unsafe { (t.gates)(&mut p, &gate, &update, 0.7, 0.02) };
                for (i, got) in p.iter().enumerate() {
                    let (s, g, u) = (before[i], gate[i % period], update[i % period]);
                    let z = sigma(f64::from(s) + f64::from(g));
                    let want = (0.7 * (1.0 - z) + 0.02) * (f64::from(s) + f64::from(u)).tanh();
                    assert!((f64::from(*got) - want).abs() < 1e-6, "{s}: {got} {want}");
                }
                let mut broken = vec![f32::NAN; n];
                // SAFETY: as above.
                unsafe { (t.gates)(&mut broken, &gate, &update, 0.7, 0.02) };
                assert!(broken.iter().all(|v| v.is_nan()));
            }
        }
    }
}
