//! Exponentials and quantisation.

use super::*;

#[test]
fn exp_is_within_two_ulp_over_its_whole_range() {
    for t in tables() {
        let mut worst = 0.0f64;
        let xs: Vec<f32> = (0..2_000_003)
            .map(|i| -105.0 + i as f32 * (195.0 / 2e6))
            .collect();
        let mut got = xs.clone();
        // SAFETY: the processor has this tier.
        unsafe { (t.exp)(&mut got) };
        for (x, y) in xs.iter().zip(got) {
            let want = f64::from(*x).exp();
            if want > f64::from(f32::MAX) * (1.0 + 3e-8) {
                assert_eq!(y, f32::INFINITY, "exp({x})");
                continue;
            }
            let ulp = 2f64.powi((want.log2().floor() as i32).max(-126) - 23);
            worst = worst.max((f64::from(y) - want).abs() / ulp);
        }
        eprintln!("tier {}: exp within {worst:.3} ulp", t.tier.name());
        assert!(worst < 2.0, "{worst}");
        let mut special = [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            0.0,
            -0.0,
            f32::MAX,
            f32::MIN,
        ];
        // SAFETY: the processor has this tier.
        unsafe { (t.exp)(&mut special) };
        assert!(special[0].is_nan());
        assert_eq!(special[1..], [f32::INFINITY, 0.0, 1.0, 1.0, f32::INFINITY, 0.0]);
    }
}

#[test]
fn softmax_and_log_sum_exp_match_float64() {
    for t in tables() {
        for n in lengths().skip(1) {
            for shift in [0.0f32, 1e4, -1e4] {
                let x: Vec<f32> = normal(n, 21).iter().map(|v| 3.0 * v + shift).collect();
                let mut p = x.clone();
                // SAFETY: the processor has this tier.
                let lse = unsafe {
                    (t.softmax)(&mut p, 0.5);
                    (t.log_sum_exp)(&x)
                };
                let max = f64::from(x.iter().copied().fold(f32::MIN, f32::max));
                let sum = |tau: f64| x.iter().map(|v| ((f64::from(*v) - max) / tau).exp()).sum::<f64>();
                close(lse, max + sum(1.0).ln(), 1.0 + max.abs());
                for (x, p) in x.iter().zip(&p) {
                    let want = ((f64::from(*x) - max) / 0.5).exp() / sum(0.5);
                    close(*p, want, 3.0 * want.max(1e-7));
                }
            }
        }
        // SAFETY: the processor has this tier.
        unsafe {
            assert_eq!((t.log_sum_exp)(&[]), f32::NEG_INFINITY);
            assert_eq!((t.log_sum_exp)(&[f32::NEG_INFINITY; 3]), f32::NEG_INFINITY);
            (t.softmax)(&mut [], 1.0);
        }
    }
}

#[test]
fn bytes_quantise_alike_in_every_tier() {
    for t in tables() {
        for n in lengths() {
            for factor in [0.0, 1.0, 1e-30, 1e30, 1e-40] {
                let x: Vec<f32> = normal(n, 22).iter().map(|v| v * factor).collect();
                let (mut q, mut want) = (vec![7i8; n], vec![0i8; n]);
                let s = scalar::quantize_i8(&x, &mut want);
                // SAFETY: the processor has this tier.
                assert_eq!(unsafe { (t.quantize_i8)(&x, &mut q) }, s);
                assert_eq!(q, want);
                if factor == 1.0 {
                    for (x, q) in x.iter().zip(&q) {
                        assert!((x - f32::from(*q) * s).abs() <= 0.5001 * s);
                    }
                }
            }
        }
    }
}
