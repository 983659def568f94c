//! The kernels of either precision, every tier, against float64: lengths that do and do not fill registers, operands off their
//! alignment, denormal and huge values.

use super::super::matmul::Product;
use super::super::real::Real;
use super::super::real_table::RealTable;
use super::super::recurrence::Scan;
use super::super::rows::Quotient;
use super::super::transpose::Turn;
use super::*;

/// Values of both precisions: the tables and how close they must come.
fn each<T: Real>(check: impl Fn(&RealTable<T>, f64)) {
    let unit = if size_of::<T>() == 4 { 6e-8 } else { 1.2e-16 };
    for t in tiers() {
        check(T::kernels_of(t), unit);
    }
}

fn reals<T: Real>(n: usize, seed: u64) -> Vec<T> {
    let mut r = rng::stream(seed, n as u64);
    (0..n).map(|_| T::of(rng::normal(&mut r))).collect()
}

fn wide<T: Real>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| (*x).into()).collect()
}

fn near(got: f64, want: f64, tolerance: f64, what: &str) {
    let same = got == want || got.is_nan() && want.is_nan() || (got - want).abs() <= tolerance;
    assert!(same, "{what}: {got} against {want}");
}

fn products<T: Real>() {
    each::<T>(|t, unit| {
        for (n, depth, width) in [
            (1, 1, 1),
            (1, 5, 33),
            (2, 64, 64),
            (3, 129, 17),
            (5, 7, 35),
            (7, 3, 64),
            (9, 130, 36),
            (13, 16, 70),
            (4, 0, 5),
            (48, 64, 100),
        ] {
            // One value off, so that no line begins where a register would like it to.
            let (a, b) = (reals::<T>(n * depth + 1, 1), reals::<T>(depth * width + 1, 2));
            let base = reals::<T>(n * (width + 3), 3);
            for add in [false, true] {
                let mut c = base.clone();
                let p = Product {
                    n,
                    width,
                    depth,
                    a: a[1..].as_ptr(),
                    lda: depth,
                    b: b[1..].as_ptr(),
                    ldb: width,
                    c: c.as_mut_ptr(),
                    ldc: width + 3,
                    add,
                };
                // SAFETY: the processor has this tier, the arrays have these sizes.
                unsafe { (t.multiply)(p) };
                let (a, b) = (wide(&a[1..]), wide(&b[1..]));
                for i in 0..n {
                    for j in 0..width + 3 {
                        let old: f64 = base[i * (width + 3) + j].into();
                        let terms =
                            (0..depth).map(|k| a[i * depth + k] * b[(k * width + j).min(b.len() - 1)]);
                        let (sum, mass) = terms.fold((0.0, 1.0), |(s, m), x| (s + x, m + f64::abs(x)));
                        let want = match (j < width, add) {
                            (false, _) => old,
                            (true, true) => old + sum,
                            (true, false) => sum,
                        };
                        let got: f64 = c[i * (width + 3) + j].into();
                        near(got, want, 4.0 * unit * (mass + old.abs()) * 12.0, "product");
                    }
                }
            }
        }
    });
}

#[test]
fn products_match_float64() {
    products::<f32>();
    products::<f64>();
}

/// e^−87: results below it may be 0.
const LEAST: f64 = 1.7e-38;

fn exponentials<T: Real>() {
    each::<T>(|t, unit| {
        for n in lengths() {
            let mut x = reals::<T>(n + 1, 4);
            for (i, v) in x.iter_mut().enumerate() {
                *v = match i % 9 {
                    3 => T::NEG_INFINITY,
                    4 => T::of(-1e30),
                    5 => T::of(-1e-40),
                    6 => T::of(-95.0),
                    7 => T::of(-50.0),
                    _ => T::ZERO - v.abs() * T::of(4.0),
                };
            }
            let before = wide(&x[1..]);
            // SAFETY: the processor has this tier.
            let sum: f64 = unsafe { (t.decays)(&mut x[1..], T::of(0.25)) }.into();
            let want: Vec<f64> = before.iter().map(|x| (x - 0.25).exp()).collect();
            for ((got, want), x) in wide(&x[1..]).iter().zip(&want).zip(&before) {
                // Relative, growing with the exponent; below the normal numbers absolute.
                near(*got, *want, want * unit * (6.0 + x.abs()) + LEAST, "e^x");
            }
            let total: f64 = want.iter().sum();
            near(sum, total, total * unit * (40.0 + n as f64) + LEAST, "sum of e^x");
        }
        let mut x = [T::of(f64::NAN), T::ZERO];
        // SAFETY: the processor has this tier.
        unsafe { (t.decays)(&mut x, T::ZERO) };
        assert!(x[0].is_nan() && x[1] == T::ONE);
    });
}

#[test]
fn exponentials_match_float64() {
    exponentials::<f32>();
    exponentials::<f64>();
}

fn activations<T: Real>() {
    type Case<'a, T> = (&'a str, unsafe fn(&mut [T]), &'a dyn Fn(f64) -> f64);
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let elu = |x: f64| if x > 0.0 { x + 1.0 } else { x.exp() };
    each::<T>(|t, unit| {
        let cases: [Case<'_, T>; 2] = [
            ("softplus", t.softplus, &softplus),
            ("elu + 1", t.elu_plus_one, &elu),
        ];
        for n in lengths() {
            for (name, kernel, want) in &cases {
                let mut x = reals::<T>(n + 1, 5);
                for (i, v) in x.iter_mut().enumerate() {
                    *v = match i % 7 {
                        2 => T::of(1e30),
                        3 => T::of(-1e30),
                        4 => T::of(1e-40),
                        5 => T::of(-60.0),
                        _ => *v * T::of(5.0),
                    };
                }
                let before = wide(&x[1..]);
                // SAFETY: the processor has this tier.
                unsafe { kernel(&mut x[1..]) };
                for (got, x) in wide(&x[1..]).iter().zip(&before) {
                    let want = want(*x);
                    near(
                        *got,
                        want,
                        want * unit * (40.0 + x.abs().min(100.0)) + 1e-43,
                        name,
                    );
                }
            }
            let mut x: Vec<T> = reals::<T>(n + 1, 6).iter().map(|x| x.abs()).collect();
            for (i, v) in x.iter_mut().enumerate() {
                *v = match i % 6 {
                    1 => T::ZERO,
                    2 => T::of(1e-30),
                    3 => T::of(1e-6),
                    4 => T::of(1e6),
                    _ => *v,
                };
            }
            let before = wide(&x[1..]);
            let mut logs = x[1..].to_vec();
            // SAFETY: the processor has this tier.
            unsafe { (t.ln_1p)(&mut logs) };
            for (got, x) in wide(&logs).iter().zip(wide(&x[1..])) {
                near(*got, x.ln_1p(), x.ln_1p() * unit * 4.0, "ln(1 + x)");
            }
            let room = vec![T::of(0.5); n];
            // SAFETY: the processor has this tier, the lengths are equal.
            unsafe { (t.distances)(&mut x[1..], &room, T::of(2.0), T::of(2.0)) };
            for (got, x) in wide(&x[1..]).iter().zip(&before) {
                let want = -2.0 * (x + (x * (x + 2.0)).sqrt()).ln_1p();
                near(*got, want, want.abs() * unit * 10.0, "arcosh");
            }
            let (squares, mut x) = (vec![T::of(3.0); n], vec![T::of(-4.5); n]);
            for close in [false, true] {
                if let (true, Some(last)) = (close, x.last_mut()) {
                    *last = T::of(-4.99);
                }
                let mut x = x.clone();
                // SAFETY: as above.
                let lost = unsafe { (t.apart)(&mut x, &squares, T::of(2.0), T::of(0.01)) };
                assert_eq!(lost, close && n > 0);
                assert!(x.iter().take(n.max(1) - 1).all(|x| *x == T::of(0.5)));
            }
            let (y, z) = (reals::<T>(n + 1, 7), reals::<T>(n + 1, 8));
            let mut gated = y.clone();
            // SAFETY: the processor has this tier, the lengths are equal.
            unsafe { (t.gate_silu)(&mut gated[1..], &z[1..]) };
            for ((got, y), z) in wide(&gated[1..]).iter().zip(wide(&y[1..])).zip(wide(&z[1..])) {
                let want = y * z / (1.0 + (-z).exp());
                near(*got, want, want.abs() * unit * 10.0, "gate");
            }
        }
    });
}

#[test]
fn activations_match_float64() {
    activations::<f32>();
    activations::<f64>();
}

fn rows<T: Real>() {
    each::<T>(|t, unit| {
        for d in lengths() {
            for n in [0, 1, 3, 4, 6] {
                let (m, x) = (reals::<T>(n * d + 1, 9), reals::<T>(d + 1, 10));
                let mut out = vec![T::ONE; n];
                // SAFETY: the processor has this tier, the matrix is (n, d).
                unsafe { (t.project)(&m[1..], &x[1..], &mut out) };
                let (m, x) = (wide(&m[1..]), wide(&x[1..]));
                for (i, got) in wide(&out).iter().enumerate() {
                    let terms = (0..d).map(|k| m[i * d + k] * x[k]);
                    let (sum, mass) = terms.fold((0.0, 1.0), |(s, m), x| (s + x, m + f64::abs(x)));
                    near(*got, sum, unit * mass * 20.0, "projection");
                }
            }
        }
        for (rows, columns) in [(1, 1), (5, 3), (16, 16), (17, 33), (64, 64), (3, 40), (40, 3)] {
            let x = reals::<T>(rows * columns + 1, 11);
            let mut out = vec![T::ZERO; columns * (rows + 2)];
            let turn = Turn {
                rows,
                columns,
                x: x[1..].as_ptr(),
                ldx: columns,
                out: out.as_mut_ptr(),
                ldc: rows + 2,
            };
            // SAFETY: the processor has this tier, the arrays have these sizes.
            unsafe { (t.transpose)(turn) };
            for i in 0..rows {
                for j in 0..columns {
                    assert!(out[j * (rows + 2) + i] == x[1 + i * columns + j], "transpose");
                }
            }
            assert!(
                out.chunks(rows + 2)
                    .all(|row| row[rows..].iter().all(|x| *x == T::ZERO))
            );
        }
    });
}

#[test]
fn projections_and_transpositions_match() {
    rows::<f32>();
    rows::<f64>();
}

fn scans<T: Real>() {
    each::<T>(|t, unit| {
        for d in [1, 2, 7, 8, 9, 16, 17, 35] {
            let (steps, n) = (6, 3);
            let (u, delta) = (reals::<T>(steps * d, 12), reals::<T>(steps * d, 13));
            let delta: Vec<T> = delta.iter().map(|x| x.abs()).collect();
            let a: Vec<T> = reals::<T>(n * d, 14).iter().map(|x| T::ZERO - x.abs()).collect();
            let (b, c) = (reals::<T>(steps * n, 15), reals::<T>(steps * n, 16));
            let (mut h, mut y) = (reals::<T>(n * d, 17), vec![T::ZERO; steps * d]);
            let mut state = wide(&h);
            let scan = Scan {
                steps,
                d,
                n,
                u: u.as_ptr(),
                delta: delta.as_ptr(),
                a: a.as_ptr(),
                b: b.as_ptr(),
                c: c.as_ptr(),
                h: h.as_mut_ptr(),
                y: y.as_mut_ptr(),
            };
            // SAFETY: the processor has this tier, the arrays have these sizes.
            unsafe { (t.scan)(scan) };
            let (u, delta, a, b, c) = (wide(&u), wide(&delta), wide(&a), wide(&b), wide(&c));
            for s in 0..steps {
                for j in 0..d {
                    let step = delta[s * d + j];
                    let mut want = 0.0;
                    for k in 0..n {
                        let cell = &mut state[k * d + j];
                        *cell = (step * a[k * d + j]).exp() * *cell + step * u[s * d + j] * b[s * n + k];
                        want += *cell * c[s * n + k];
                    }
                    near(y[s * d + j].into(), want, unit * 200.0, "scan");
                }
            }
            for (got, want) in wide(&h).iter().zip(&state) {
                near(*got, *want, unit * 200.0, "state");
            }
        }
    });
}

#[test]
fn selective_scans_match_float64() {
    scans::<f32>();
    scans::<f64>();
}

fn strips<T: Real>() {
    each::<T>(|t, unit| {
        for (rows, n, stride) in [
            (1, 1, 1),
            (3, 5, 7),
            (4, 16, 16),
            (5, 33, 48),
            (2, 64, 70),
            (7, 0, 3),
        ] {
            let x = reals::<T>(rows * stride, 18);
            let mut by = reals::<T>(rows, 19);
            by[rows / 2] = T::ZERO;
            let mut broken = x.clone();
            broken[rows / 2 * stride..][..stride].fill(T::NEG_INFINITY);
            let mut out = vec![T::ONE; rows * n];
            let quotient = Quotient {
                x: broken.as_ptr(),
                stride,
                by: by.as_ptr(),
                rows,
                n,
                out: out.as_mut_ptr(),
            };
            // SAFETY: the processor has this tier, the arrays have these sizes.
            unsafe { (t.divide)(quotient) };
            let mut scaled = x.clone();
            // SAFETY: as above.
            unsafe { (t.scale_rows)(&by, &mut scaled) };
            let mut filled = x.clone();
            // SAFETY: as above.
            unsafe { (t.fill)(filled.as_mut_ptr(), rows, stride, n, T::ONE) };
            let (x, by) = (wide(&x), wide(&by));
            for (i, got) in wide(&out).iter().enumerate() {
                let (r, j) = (i / n, i % n);
                let want = if by[r] == 0.0 {
                    0.0
                } else {
                    x[r * stride + j] / by[r]
                };
                near(*got, want, unit * 4.0 * want.abs(), "quotient");
            }
            for (i, (scaled, filled)) in wide(&scaled).iter().zip(wide(&filled)).enumerate() {
                let (r, j) = (i / stride, i % stride);
                near(*scaled, x[i] * by[r], unit * 2.0 * scaled.abs(), "scaled row");
                assert_eq!(filled, if j < n { 1.0 } else { x[i] }, "row {r}, column {j}");
            }
        }
    });
}

#[test]
fn rows_are_divided_scaled_and_filled() {
    strips::<f32>();
    strips::<f64>();
}
