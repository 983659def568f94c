//! The tile driver against softmax attention written out, over sizes that do and do not fill tiles.

use super::heads::Heads;
use super::heads_vjp::StoredGradients;
use super::local::local_global;
use super::rules::{BlockSparse, Causal, Dense, LocalGlobal, Mask};
use super::tile::{Blocks, Rule, Span};
use crate::kernels::real::Real;
use proptest::prelude::*;

/// Values in −1..1 from a seed.
fn values<T: Real>(len: usize, seed: u64) -> Vec<T> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            T::of((x >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
        })
        .collect()
}

/// Attention written out in double precision; a row without keys is zero.
fn plain(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    d: usize,
    dv: usize,
    scale: f64,
    bias: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut out = Vec::new();
    for (i, q) in q.chunks(d).enumerate() {
        let logits: Vec<f64> = k
            .chunks(d)
            .enumerate()
            .map(|(j, k)| scale * q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() + bias(i, j))
            .collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut row = vec![0.0; dv];
        if top > f64::NEG_INFINITY {
            let total: f64 = logits.iter().map(|x| (x - top).exp()).sum();
            for (x, v) in logits.iter().zip(v.chunks(dv)) {
                for (o, v) in row.iter_mut().zip(v) {
                    *o += (x - top).exp() / total * v;
                }
            }
        }
        out.extend(row);
    }
    out
}

fn near<T: Real>(got: &[T], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let g: f64 = (*g).into();
        assert!(
            (g - w).abs() <= tolerance * w.abs().max(1.0),
            "{i}: {g} against {w}"
        );
    }
}

struct Data<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    n: usize,
    m: usize,
    d: usize,
    dv: usize,
}

impl<T: Real> Data<T> {
    fn new(n: usize, m: usize, d: usize, dv: usize, seed: u64) -> Self {
        Self {
            q: values(n * d, seed),
            k: values(m * d, seed + 1),
            v: values(m * dv, seed + 2),
            n,
            m,
            d,
            dv,
        }
    }

    fn heads(&self) -> Heads<'_, T> {
        Heads {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            n: self.n,
            m: self.m,
            d: self.d,
            dv: self.dv,
            scale: T::of(0.7),
            q_of: &[0],
            k_of: &[0],
            v_of: &[0],
        }
    }

    fn wide(&self) -> [Vec<f64>; 3] {
        let wide = |x: &[T]| x.iter().map(|x| (*x).into()).collect();
        [wide(&self.q), wide(&self.k), wide(&self.v)]
    }

    fn check(&self, out: &[T], tolerance: f64, bias: impl Fn(usize, usize) -> f64) {
        let [q, k, v] = self.wide();
        near(out, &plain(&q, &k, &v, self.d, self.dv, 0.7, bias), tolerance);
    }
}

fn causal_bias(causal: Causal, n: usize, m: usize) -> impl Fn(usize, usize) -> f64 {
    move |i, j| {
        if j < causal.end(i, n, m) {
            0.0
        } else {
            f64::NEG_INFINITY
        }
    }
}

fn run_dense<T: Real>(data: &Data<T>, causal: Causal, blocks: Blocks) -> Vec<T> {
    let (n, m) = (data.n, data.m);
    let mut out = vec![T::ZERO; n * data.dv];
    let rule = |_| Dense {
        n,
        m,
        causal,
        mask: Mask::None,
    };
    data.heads().attend(rule, blocks, blocks.q, 0, &mut out, None);
    out
}

#[test]
fn dense_sizes() {
    for causal in [Causal::No, Causal::TopLeft, Causal::BottomRight] {
        for (n, m) in [
            (1, 1),
            (1, 70),
            (2, 3),
            (5, 1),
            (63, 64),
            (65, 257),
            (100, 100),
            (130, 40),
        ] {
            for (d, dv) in [(1, 1), (3, 5), (8, 64), (17, 33)] {
                let single = Data::<f32>::new(n, m, d, dv, 7);
                single.check(
                    &run_dense(&single, causal, Blocks::default()),
                    2e-5,
                    causal_bias(causal, n, m),
                );
                let double = Data::<f64>::new(n, m, d, dv, 7);
                double.check(
                    &run_dense(&double, causal, Blocks::default()),
                    1e-12,
                    causal_bias(causal, n, m),
                );
            }
        }
    }
}

#[test]
fn nan_reaches_only_the_rows_that_attend_it() {
    let mut data = Data::<f32>::new(9, 9, 4, 3, 3);
    data.v[5 * 3] = f32::NAN;
    data.k[7 * 4] = f32::NAN;
    let out = run_dense(&data, Causal::TopLeft, Blocks { q: 4, k: 4 });
    for (i, row) in out.chunks(3).enumerate() {
        assert_eq!(row[0].is_nan(), i >= 5, "row {i}");
        assert_eq!(row[1].is_nan(), i >= 7, "row {i}");
    }
}

#[test]
fn huge_logits_and_no_keys() {
    let mut data = Data::<f32>::new(3, 4, 2, 2, 5);
    data.q.iter_mut().for_each(|x| *x *= 1e4);
    data.check(&run_dense(&data, Causal::No, Blocks::default()), 1e-3, |_, _| 0.0);
    let empty = Data::<f32>::new(3, 0, 2, 2, 5);
    assert_eq!(run_dense(&empty, Causal::No, Blocks::default()), vec![0.0; 6]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn window_with_global_tokens(n in 1usize..150, window in 0usize..80, causal: bool, global in proptest::collection::vec(0usize..150, 0..4)) {
        let global: Vec<usize> = global.into_iter().filter(|g| *g < n).collect();
        let data = Data::<f64>::new(n, n, 3, 2, 11);
        let rule = LocalGlobal::new(n, window, global.clone(), causal);
        let mut out = vec![0.0; n * 2];
        local_global(&data.heads(), &rule, Blocks { q: 16, k: 32 }, &mut out, None);
        data.check(&out, 1e-12, |i, j| {
            let seen = i.abs_diff(j) <= window || global.contains(&i) || global.contains(&j);
            if seen && (!causal || j <= i) { 0.0 } else { f64::NEG_INFINITY }
        });
    }

    #[test]
    fn block_layouts(n in 1usize..90, block in 1usize..40, causal: bool, seed: u64) {
        let blocks = n.div_ceil(block);
        let layout: Vec<bool> = values::<f64>(blocks * blocks, seed).iter().map(|x| *x > 0.0).collect();
        let data = Data::<f64>::new(n, n, 3, 2, 11);
        let rule = |_| BlockSparse { n, block, layout: &layout, causal };
        let mut out = vec![0.0; n * 2];
        data.heads().attend(rule, Blocks { q: 16, k: 32 }, block, 0, &mut out, None);
        data.check(&out, 1e-12, |i, j| {
            let seen = layout[i / block * blocks + j / block] && (!causal || j <= i);
            if seen { 0.0 } else { f64::NEG_INFINITY }
        });
    }

    #[test]
    fn gradients_against_differences(n in 1usize..12, m in 1usize..14, bottom: bool, seed in 0u64..1000) {
        let causal = if bottom { Causal::BottomRight } else { Causal::No };
        let data = Data::<f64>::new(n, m, 3, 2, seed);
        let mask: Vec<f64> = values(n * m, seed + 9);
        let dout: Vec<f64> = values(n * 2, seed + 5);
        let loss = |q: &[f64], k: &[f64], v: &[f64], mask: &[f64]| {
            let heads = Heads { q, k, v, ..data.heads() };
            let mut out = vec![0.0; n * 2];
            heads.attend(|_| Dense { n, m, causal, mask: Mask::Float(mask, [m, 1]) }, Blocks { q: 4, k: 8 }, 4, 0, &mut out, None);
            out.iter().zip(&dout).map(|(a, b)| a * b).sum::<f64>()
        };
        let heads = data.heads();
        let rule = |_| Dense { n, m, causal, mask: Mask::Float(&mask, [m, 1]) };
        let (mut out, mut lse) = (vec![0.0; n * 2], vec![0.0; n]);
        heads.attend(rule, Blocks::default(), 64, 0, &mut out, Some(&mut lse));
        let zeros = |x: &[f64]| vec![0.0; x.len()];
        let mut grads = StoredGradients { q: zeros(&data.q), k: zeros(&data.k), v: zeros(&data.v), mask: zeros(&mask), mask_len: n * m };
        heads.vjp(rule, |_| (0, [m, 1]), 5, &out, &lse, &dout, &mut grads);
        let parts = [&data.q, &data.k, &data.v, &mask];
        for (which, got) in [&grads.q, &grads.k, &grads.v, &grads.mask].into_iter().enumerate() {
            for at in 0..got.len() {
                let moved = |by: f64| {
                    let mut p: Vec<Vec<f64>> = parts.iter().map(|x| x.to_vec()).collect();
                    p[which][at] += by;
                    loss(&p[0], &p[1], &p[2], &p[3])
                };
                let want = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                prop_assert!((got[at] - want).abs() < 1e-7, "{which}[{at}]: {} against {want}", got[at]);
            }
        }
    }
}

#[test]
fn spans_of_a_window_are_ordered_and_narrow() {
    let rule = LocalGlobal::new(1000, 10, vec![0, 990, 500], false);
    let mut spans: Vec<Span> = Vec::new();
    let queries: Vec<usize> = (200..264).collect();
    Rule::<f32>::spans(&rule.local_only(), &queries, &mut spans);
    let found: Vec<(usize, usize)> = spans.iter().map(|s| (s.start, s.end)).collect();
    assert_eq!(found, vec![(0, 1), (190, 274), (500, 501), (990, 991)]);
}
