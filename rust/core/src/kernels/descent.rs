//! Parameter updates of the optimisers. The arithmetic is written once, in plain Rust without fused multiply-adds, and
//! compiled for each tier: every tier gives the same bits. Each update returns Σ (new − old)².

use super::stamp::tiers;

/// Partial sums of the squared step, so that the compiler can vectorise them; the order of the sums is fixed.
const LANES: usize = 16;

tiers!(
    /// p ← keep·p − rate·g.
    sgd = sgd_body(p: &mut [f32], g: &[f32], keep: f32, rate: f32) -> f32
);

tiers!(
    /// m ← mu·m + scale·g + coupled·p; p ← keep·p − rate·m.
    momentum = momentum_body(p: &mut [f32], g: &[f32], m: &mut [f32], c: &Momentum) -> f32
);

tiers!(
    /// v ← v + (scale·g)²; p ← keep·p − rate·scale·g/(√v + eps).
    adagrad = adagrad_body(p: &mut [f32], g: &[f32], v: &mut [f32], c: &Adagrad) -> f32
);

tiers!(
    /// m ← b₁m + c₁g, v ← b₂v + c₂g² with g scaled; p ← keep·p − rate·m/(√v·inv + eps).
    adamw = adamw_body(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], c: &Adam) -> f32
);

/// Coefficients of [`momentum`].
#[derive(Debug, Clone, Copy)]
pub struct Momentum {
    /// Share of the parameters that is kept.
    pub keep: f32,
    /// Step size.
    pub rate: f32,
    /// Factor of the gradients.
    pub scale: f32,
    /// Weight decay through the gradient.
    pub coupled: f32,
    /// Share of the velocity that is kept.
    pub mu: f32,
}

/// Coefficients of [`adagrad`].
#[derive(Debug, Clone, Copy)]
pub struct Adagrad {
    /// Share of the parameters that is kept.
    pub keep: f32,
    /// Step size.
    pub rate: f32,
    /// Factor of the gradients.
    pub scale: f32,
    /// Added to the root.
    pub eps: f32,
}

/// Coefficients of [`adamw`].
#[derive(Debug, Clone, Copy)]
pub struct Adam {
    /// Share of the parameters that is kept.
    pub keep: f32,
    /// Step size, divided by the bias correction of the first moment.
    pub rate: f32,
    /// Factor of the gradients.
    pub scale: f32,
    /// Decay of the first moment and its complement.
    pub first: (f32, f32),
    /// Decay of the second moment and its complement.
    pub second: (f32, f32),
    /// Reciprocal root of the bias correction of the second moment.
    pub inv: f32,
    /// Added to the root.
    pub eps: f32,
}

/// 0/0 counts as 0: a coordinate that never had a gradient stays where it is even if eps vanishes in float32.
#[inline(always)]
fn ratio(a: f32, b: f32) -> f32 {
    if b > 0.0 { a / b } else { 0.0 }
}

#[inline(always)]
fn sgd_body(p: &mut [f32], g: &[f32], keep: f32, rate: f32) -> f32 {
    walk(p, g, &mut [], &mut [], |p, g, _, _| keep * p - rate * g)
}

#[inline(always)]
fn momentum_body(p: &mut [f32], g: &[f32], m: &mut [f32], c: &Momentum) -> f32 {
    let c = *c;
    walk(p, g, m, &mut [], |p, g, m, _| {
        *m = c.mu * *m + (c.scale * g + c.coupled * p);
        c.keep * p - c.rate * *m
    })
}

#[inline(always)]
fn adagrad_body(p: &mut [f32], g: &[f32], v: &mut [f32], c: &Adagrad) -> f32 {
    let c = *c;
    walk(p, g, v, &mut [], |p, g, v, _| {
        let g = c.scale * g;
        *v += g * g;
        c.keep * p - ratio(c.rate * g, v.sqrt() + c.eps)
    })
}

#[inline(always)]
fn adamw_body(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], c: &Adam) -> f32 {
    let c = *c;
    walk(p, g, m, v, |p, g, m, v| {
        let g = c.scale * g;
        *m = c.first.0 * *m + c.first.1 * g;
        *v = c.second.0 * *v + c.second.1 * g * g;
        c.keep * p - ratio(c.rate * *m, v.sqrt() * c.inv + c.eps)
    })
}

/// Runs `f(p, g, &mut m, &mut v)` over all parameters; a state that the rule does not have is an empty slice.
#[inline(always)]
fn walk(
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    f: impl Fn(f32, f32, &mut f32, &mut f32) -> f32,
) -> f32 {
    let n = p.len();
    assert!(
        g.len() == n && (m.is_empty() || m.len() == n) && (v.is_empty() || v.len() == n),
        "descent: lengths differ"
    );
    let mut acc = [0.0f32; LANES];
    // Full blocks are arrays of fixed length: that is what lets the compiler keep them in registers.
    let mut block = |p: &mut [f32; LANES], g: &[f32; LANES], m: &mut [f32; LANES], v: &mut [f32; LANES]| {
        for i in 0..LANES {
            let new = f(p[i], g[i], &mut m[i], &mut v[i]);
            let step = new - p[i];
            p[i] = new;
            acc[i] += step * step;
        }
    };
    let (pb, p_tail) = p.as_chunks_mut::<LANES>();
    let (gb, g_tail) = g.as_chunks::<LANES>();
    let (mb, m_tail) = m.as_chunks_mut::<LANES>();
    let (vb, v_tail) = v.as_chunks_mut::<LANES>();
    let mut none = ([0.0; LANES], [0.0; LANES]);
    let (mut mb, mut vb) = (mb.iter_mut(), vb.iter_mut());
    for (p, g) in pb.iter_mut().zip(gb) {
        block(
            p,
            g,
            mb.next().unwrap_or(&mut none.0),
            vb.next().unwrap_or(&mut none.1),
        );
    }
    if !p_tail.is_empty() {
        let padded = |x: &[f32]| {
            let mut out = [0.0; LANES];
            out[..x.len()].copy_from_slice(x);
            out
        };
        let (mut pt, gt, mut mt, mut vt) = (padded(p_tail), padded(g_tail), padded(m_tail), padded(v_tail));
        block(&mut pt, &gt, &mut mt, &mut vt);
        for (to, from) in [(p_tail, pt), (m_tail, mt), (v_tail, vt)] {
            to.copy_from_slice(&from[..to.len()]);
        }
    }
    acc.iter().sum()
}

#[cfg(test)]
mod tests {
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
            let moved = adamw(&mut p, &g, &mut m, &mut v, &adam);
            for i in 0..n {
                assert_eq!((p[i], m[i], v[i]), want[i]);
            }
            let sum: f32 = p.iter().zip(&before).map(|(a, b)| (a - b) * (a - b)).sum();
            assert!((moved - sum).abs() <= 1e-5 * sum);
            let mut q = before.clone();
            sgd(&mut q, &g, 0.9, 0.1);
            for i in 0..n {
                assert_eq!(q[i], 0.9 * before[i] - 0.1 * g[i]);
            }
        }
    }

    #[test]
    fn tiers_agree_bit_for_bit() {
        let n = 53;
        let (g, m, v) = (data(n, 0.7), data(n, 0.9), vec![0.2; n]);
        let c = Adagrad {
            keep: 0.99,
            rate: 0.1,
            scale: 0.5,
            eps: 1e-10,
        };
        let (mut p, mut w) = (data(n, 0.3), v.clone());
        let (mut q, mut x) = (p.clone(), v.clone());
        assert_eq!(
            adagrad(&mut p, &g, &mut w, &c),
            adagrad_body(&mut q, &g, &mut x, &c)
        );
        assert_eq!((p, w), (q, x));
        let c = Momentum {
            keep: 1.0,
            rate: 0.1,
            scale: 1.0,
            coupled: 0.01,
            mu: 0.9,
        };
        let (mut p, mut w) = (data(n, 0.3), m.clone());
        let (mut q, mut x) = (p.clone(), m);
        assert_eq!(
            momentum(&mut p, &g, &mut w, &c),
            momentum_body(&mut q, &g, &mut x, &c)
        );
        assert_eq!((p, w), (q, x));
    }
}
