use super::*;

fn data(n: usize, k: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * k).sin()).collect()
}

/// Against the formulas written plainly, for lengths around the block size; the bits must agree.
#[test]
fn every_length_follows_the_formulas() {
    let adam = Adam {
        keep: 0.99,
        rate: 0.1,
        scale: 0.5,
        first: (0.9, 0.1),
        second: (0.999, 0.001),
        inv: 3.0,
        eps: 1e-8,
    };
    for n in 0..70 {
        let (mut p, g, mut m, mut v) = (data(n, 0.3), data(n, 0.7), data(n, 0.9), vec![0.2; n]);
        let want: Vec<(f32, f32, f32)> = (0..n)
            .map(|i| {
                let g = adam.scale * g[i];
                let m = 0.9 * m[i] + 0.1 * g;
                let v = 0.999 * v[i] + 0.001 * g * g;
                (
                    adam.keep * p[i] - adam.rate * m / (v.sqrt() * adam.inv + adam.eps),
                    m,
                    v,
                )
            })
            .collect();
        let before = p.clone();
        let moved = adamw(&mut p, Gradient::Vector(1.0, &g), &mut m, &mut v, &adam);
        for i in 0..n {
            assert_eq!((p[i], m[i], v[i]), want[i]);
        }
        let sum: f32 = p.iter().zip(&before).map(|(a, b)| (a - b) * (a - b)).sum();
        assert!((moved - sum).abs() <= 1e-5 * sum);
        let mut q = before.clone();
        sgd(&mut q, Gradient::Vector(1.0, &g), 0.9, 0.1);
        for i in 0..n {
            assert_eq!(q[i], 0.9 * before[i] - 0.1 * g[i]);
        }
    }
}

/// The instance of the portable tier and that of the processor's, for every rule, length and form of gradient.
#[test]
fn tiers_agree_bit_for_bit() {
    fn check<R: Rule>(rule: R, n: usize, g: Gradient<'_>) {
        let [first, second] = R::MOMENTS.map(|has| if has { n } else { 0 });
        let (mut p, mut m, mut v) = (data(n, 0.3), data(first, 0.9), vec![0.2; second]);
        let (mut q, mut w, mut x) = (p.clone(), m.clone(), v.clone());
        let moved = descend(&mut p, g, &mut m, &mut v, rule);
        let walk = Walk {
            p: q.as_mut_ptr(),
            m: w.as_mut_ptr(),
            v: x.as_mut_ptr(),
            rule,
        };
        // SAFETY: the lengths agree.
        let plain = unsafe { walk.one_by_one(g) };
        assert!((moved - plain).abs() <= 1e-5 * plain);
        assert_eq!((p, m, v), (q, w, x));
    }
    let adagrad = Adagrad {
        keep: 0.99,
        rate: 0.1,
        scale: 0.5,
        eps: 1e-10,
    };
    let momentum = Momentum {
        keep: 1.0,
        rate: 0.1,
        scale: 1.0,
        coupled: 0.01,
        mu: 0.9,
    };
    let adam = Adam {
        keep: 0.99,
        rate: 0.1,
        scale: 0.5,
        first: (0.9, 0.1),
        second: (0.999, 0.001),
        inv: 3.0,
        eps: 1e-8,
    };
    for n in 0..70 {
        let g = data(n, 0.7);
        for g in [Gradient::Vector(0.5, &g), Gradient::Pairs([0.5, -2.0], &g)] {
            check(adagrad, g.len(), g);
            check(momentum, g.len(), g);
            check(adam, g.len(), g);
            check(Sgd { keep: 0.9, rate: 0.3 }, g.len(), g);
        }
    }
}

/// The outer product that is never written down takes the same step as the one that is, to the bit.
#[test]
fn pairs_are_the_outer_product_row_by_row() {
    let k = [0.5f32, -2.0];
    let c = Adam {
        keep: 0.99,
        rate: 0.1,
        scale: 1.0,
        first: (0.9, 0.1),
        second: (0.999, 0.001),
        inv: 3.0,
        eps: 1e-8,
    };
    for n in 0..40 {
        let g = data(n, 0.7);
        let written: Vec<f32> = g.iter().flat_map(|g| k.map(|k| k * g)).collect();
        let (mut p, mut m, mut v) = (data(2 * n, 0.3), data(2 * n, 0.9), vec![0.2; 2 * n]);
        let (mut q, mut w, mut x) = (p.clone(), m.clone(), v.clone());
        let moved = adamw(&mut p, Gradient::Pairs(k, &g), &mut m, &mut v, &c);
        let whole = adamw(&mut q, Gradient::Vector(1.0, &written), &mut w, &mut x, &c);
        assert_eq!((moved, p, m, v), (whole, q, w, x));
    }
}
