//! Denormals, zeros of both signs, huge values, and what is not finite.

use super::*;

/// Magnitudes of every kind, bounded so that a product of two and the sum of a few thousand stay finite.
fn wide() -> impl Strategy<Value = f32> {
    let sign = prop_oneof![Just(1.0f32), Just(-1.0)];
    let magnitude = prop_oneof![
        Just(0.0f32),
        Just(f32::from_bits(1)),
        (1u32..0x80_0000).prop_map(f32::from_bits),
        (-17i32..17, 1.0f32..10.0).prop_map(|(e, m)| m * 10f32.powi(e)),
    ];
    (sign, magnitude).prop_map(|(s, m)| s * m)
}

proptest! {
    #[test]
    fn products_of_any_magnitude_match_float64(
        pairs in proptest::collection::vec((wide(), wide()), 0..150),
        alpha in wide(),
    ) {
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        for t in tiers().into_iter().filter_map(Table::of) {
            // SAFETY: the processor has this tier, lengths agree.
            let (dot, mut sum) = (unsafe { (t.dot)(&a, &b) }, b.clone());
            // SAFETY: as above.
            unsafe { (t.axpy)(alpha, &a, &mut sum) };
            // Below the smallest normal number each product may lose half a denormal.
            let slack = 1e-45 * (a.len() + 1) as f64;
            prop_assert!((f64::from(dot) - dot64(&a, &b)).abs() <= 1e-5 * mass(&a, &b) + slack);
            for ((got, a), b) in sum.iter().zip(&a).zip(&b) {
                let (p, b) = (f64::from(alpha) * f64::from(*a), f64::from(*b));
                prop_assert!((f64::from(*got) - (p + b)).abs() <= 2e-7 * (p.abs() + b.abs()) + 3e-45);
            }
        }
    }

    #[test]
    fn norms_neither_overflow_nor_vanish(
        x in proptest::collection::vec(wide(), 1..100),
        exponent in -20i32..20,
    ) {
        let factor = 10f32.powi(exponent);
        let mut x: Vec<f32> = x.iter().map(|v| v * factor).collect();
        let before = x.clone();
        let want = dot64(&x, &x).sqrt();
        let got = f64::from(norm(&x));
        prop_assert!((got - want).abs() <= 1e-6 * want + 1e-45, "{} {}", got, want);
        prop_assert_eq!(normalize(&mut x).to_bits(), norm(&before).to_bits());
        let unit = dot64(&x, &x).sqrt();
        prop_assert!(want == 0.0 || (unit - 1.0).abs() < 1e-6, "{}", unit);
    }
}

#[test]
fn one_bad_value_anywhere_is_found() {
    for t in tables() {
        for n in (0..=70).chain([127, 128, 200]) {
            let mut x = vec![f32::MAX; n];
            // SAFETY: the processor has this tier.
            assert!(unsafe { (t.all_finite)(&x) });
            for i in 0..n {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    x[i] = bad;
                    // SAFETY: the processor has this tier.
                    let fine = unsafe { (t.all_finite)(&x) };
                    assert!(!fine, "tier {}, {bad} at {i} of {n}", t.tier.name());
                }
                x[i] = f32::from_bits(1);
            }
        }
    }
}

#[test]
fn what_is_not_finite_goes_through_products() {
    for t in tables() {
        for n in [1, 7, 16, 40, 64, 130] {
            let mut x = vec![1.0; n];
            for i in [0, n / 2, n - 1] {
                x[i] = f32::NAN;
                // SAFETY: the processor has this tier.
                assert!(unsafe { (t.dot)(&x, &vec![1.0; n]) }.is_nan());
                x[i] = f32::INFINITY;
                // SAFETY: the processor has this tier.
                assert_eq!(unsafe { (t.dot)(&x, &vec![1.0; n]) }, f32::INFINITY);
                x[i] = 1.0;
            }
        }
    }
}

#[test]
#[should_panic(expected = "lengths differ")]
fn unequal_lengths_panic() {
    let _ = dot(&[1.0; 3], &[1.0; 4]);
}

#[test]
#[should_panic(expected = "row 3 of 3")]
fn a_row_beyond_the_last_panics() {
    gather_dot(&[0.0; 6], 2, &[0, 3], &[0.0; 2], &mut [0.0; 2]);
}
