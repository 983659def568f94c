use super::*;

fn values(len: usize, seed: u64) -> Vec<f64> {
    let mut x = seed;
    (0..len)
        .map(|_| {
            x = x
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) as f64 / (1u64 << 30) as f64 - 1.0
        })
        .collect()
}

/// Quadratic form: weights Σ_r φ_r(q)·φ_r(k), normalised.
fn plain(
    n: usize,
    d: usize,
    dv: usize,
    x: [&[f64]; 3],
    phi: impl Fn(&[f64]) -> Vec<f64>,
    causal: bool,
) -> Vec<f64> {
    let [q, k, v] = x;
    let mut out = vec![0.0; n * dv];
    for i in 0..n {
        let fq = phi(&q[i * d..(i + 1) * d]);
        let mut sum = 0.0;
        for j in 0..if causal { i + 1 } else { n } {
            let fk = phi(&k[j * d..(j + 1) * d]);
            let w: f64 = fq.iter().zip(&fk).map(|(a, b)| a * b).sum();
            sum += w;
            for c in 0..dv {
                out[i * dv + c] += w * v[j * dv + c];
            }
        }
        out[i * dv..(i + 1) * dv].iter_mut().for_each(|x| *x /= sum);
    }
    out
}

#[test]
fn agrees_with_the_quadratic_form() {
    let (d, dv, f, scale) = (5, 3, 11, 0.7);
    let omega = values(f * d, 4);
    for n in [1, 2, 63, 64, 65, 130] {
        let (q, k, v) = (values(n * d, 1), values(n * d, 2), values(n * dv, 3));
        let heads = Heads {
            q: &q[..],
            k: &k,
            v: &v,
            n,
            m: n,
            d,
            dv,
            scale,
            q_of: &[0],
            k_of: &[0],
            v_of: &[0],
        };
        let favor = |x: &[f64]| -> Vec<f64> {
            let half: f64 = x.iter().map(|x| 0.5 * (scale * x).powi(2)).sum();
            let direction = |w: &[f64]| w.iter().zip(x).map(|(a, b)| a * b * scale).sum::<f64>();
            omega.chunks(d).map(|w| (direction(w) - half).exp()).collect()
        };
        let elu = |x: &[f64]| -> Vec<f64> {
            x.iter()
                .map(|x| {
                    if *x > 0.0 {
                        scale * x + 1.0
                    } else {
                        (scale * x).exp()
                    }
                })
                .collect()
        };
        let relu = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| (scale * x).max(0.0) + 0.1).collect() };
        for causal in [false, true] {
            let x = [&q[..], &k, &v];
            for (features, want) in [
                (
                    Features::Favor {
                        omega: &omega,
                        eps: 0.0,
                    },
                    plain(n, d, dv, x, favor, causal),
                ),
                (Features::Elu, plain(n, d, dv, x, elu, causal)),
                (Features::Relu { eps: 0.1 }, plain(n, d, dv, x, relu, causal)),
            ] {
                let mut out = vec![0.0; n * dv];
                let call = Linear {
                    heads,
                    features,
                    causal,
                };
                call.run(&mut out);
                for (a, b) in out.iter().zip(&want) {
                    assert!(
                        (a - b).abs() < 1e-12,
                        "{features:?} n {n} causal {causal}: {a} against {b}"
                    );
                }
            }
        }
    }
}

#[test]
fn keys_of_any_size_neither_overflow_nor_vanish() {
    let k = [400.0f32, -400.0, 3.0, 4.0];
    let (q, v, omega) = ([300.0f32, -300.0], [1.0f32, 2.0], [1.0f32, -1.0, 0.5, 0.5]);
    let heads = Heads {
        q: &q[..],
        k: &k,
        v: &v,
        n: 1,
        m: 2,
        d: 2,
        dv: 1,
        scale: 1.0,
        q_of: &[0],
        k_of: &[0],
        v_of: &[0],
    };
    let features = Features::Favor {
        omega: &omega,
        eps: 0.0,
    };
    let mut out = [0.0];
    let call = Linear {
        heads,
        features,
        causal: false,
    };
    call.run(&mut out);
    assert!((1.0..=2.0).contains(&out[0]), "{}", out[0]);
}
