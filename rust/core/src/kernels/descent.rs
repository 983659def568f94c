//! Parameter updates of the optimisers. Each rule is written once, without fused multiply-adds, and runs in registers of
//! every width: all tiers give the same bits. Each update returns Σ (new − old)², summed in the order of the tier.

#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `simd`"
)]

#[cfg(target_arch = "x86_64")]
use super::lanes::Lanes;
use super::simd::{One, Simd};
use super::tier::{Tier, tier};

/// Gradients of one slice of parameters, written down or not.
#[derive(Debug, Clone, Copy)]
pub enum Gradient<'a> {
    /// One value per parameter, times a factor: also one row of the outer product of two vectors.
    Vector(f32, &'a [f32]),
    /// Parameters `(n, 2)`: row `i` has value `i` times each factor, the outer product of two vectors row by row.
    Pairs([f32; 2], &'a [f32]),
}

impl Gradient<'_> {
    /// Number of parameters.
    fn len(&self) -> usize {
        match self {
            Self::Vector(_, g) => g.len(),
            Self::Pairs(_, g) => 2 * g.len(),
        }
    }
}

/// p ← keep·p − rate·g.
pub fn sgd(p: &mut [f32], g: Gradient<'_>, keep: f32, rate: f32) -> f32 {
    descend(p, g, &mut [], &mut [], Sgd { keep, rate })
}

/// m ← mu·m + scale·g + coupled·p; p ← keep·p − rate·m.
pub fn momentum(p: &mut [f32], g: Gradient<'_>, m: &mut [f32], c: &Momentum) -> f32 {
    descend(p, g, m, &mut [], *c)
}

/// v ← v + (scale·g)²; p ← keep·p − rate·scale·g/(√v + eps).
pub fn adagrad(p: &mut [f32], g: Gradient<'_>, v: &mut [f32], c: &Adagrad) -> f32 {
    descend(p, g, &mut [], v, *c)
}

/// m ← b₁m + c₁g, v ← b₂v + c₂g² with g scaled; p ← keep·p − rate·m/(√v·inv + eps).
pub fn adamw(p: &mut [f32], g: Gradient<'_>, m: &mut [f32], v: &mut [f32], c: &Adam) -> f32 {
    descend(p, g, m, v, *c)
}

/// Coefficients of [`sgd`].
#[derive(Clone, Copy)]
struct Sgd {
    keep: f32,
    rate: f32,
}

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

/// One rule, on registers.
trait Rule: Copy {
    /// Whether it has a first and a second moment.
    const MOMENTS: [bool; 2];

    /// Factor of the gradients.
    fn scale(&self) -> f32;
    /// The new parameters for the scaled gradients `g`; a moment that the rule does not have is zero.
    ///
    /// # Safety
    /// The contract of [`super::simd`].
    unsafe fn step<V: Simd<E = f32>>(&self, p: V, g: V, m: &mut V, v: &mut V) -> V;
}

/// a/b, and 0/0 counts as 0: a coordinate that never had a gradient stays where it is even if eps vanishes in float32.
#[inline(always)]
unsafe fn ratio<V: Simd<E = f32>>(a: V, b: V) -> V {
    b.pick(V::splat(0.0), a.div(b), V::splat(0.0))
}

impl Rule for Sgd {
    const MOMENTS: [bool; 2] = [false, false];

    fn scale(&self) -> f32 {
        self.rate
    }
    #[inline(always)]
    unsafe fn step<V: Simd<E = f32>>(&self, p: V, g: V, _: &mut V, _: &mut V) -> V {
        V::splat(self.keep).mul(p).sub(g)
    }
}

impl Rule for Momentum {
    const MOMENTS: [bool; 2] = [true, false];

    fn scale(&self) -> f32 {
        self.scale
    }
    #[inline(always)]
    unsafe fn step<V: Simd<E = f32>>(&self, p: V, g: V, m: &mut V, _: &mut V) -> V {
        *m = V::splat(self.mu)
            .mul(*m)
            .add(g.add(V::splat(self.coupled).mul(p)));
        V::splat(self.keep).mul(p).sub(V::splat(self.rate).mul(*m))
    }
}

impl Rule for Adagrad {
    const MOMENTS: [bool; 2] = [false, true];

    fn scale(&self) -> f32 {
        self.scale
    }
    #[inline(always)]
    unsafe fn step<V: Simd<E = f32>>(&self, p: V, g: V, _: &mut V, v: &mut V) -> V {
        *v = v.add(g.mul(g));
        let step = ratio(V::splat(self.rate).mul(g), v.sqrt().add(V::splat(self.eps)));
        V::splat(self.keep).mul(p).sub(step)
    }
}

impl Rule for Adam {
    const MOMENTS: [bool; 2] = [true, true];

    fn scale(&self) -> f32 {
        self.scale
    }
    #[inline(always)]
    unsafe fn step<V: Simd<E = f32>>(&self, p: V, g: V, m: &mut V, v: &mut V) -> V {
        *m = V::splat(self.first.0).mul(*m).add(V::splat(self.first.1).mul(g));
        let square = V::splat(self.second.1).mul(g).mul(g);
        *v = V::splat(self.second.0).mul(*v).add(square);
        let root = v.sqrt().mul(V::splat(self.inv)).add(V::splat(self.eps));
        let step = ratio(V::splat(self.rate).mul(*m), root);
        V::splat(self.keep).mul(p).sub(step)
    }
}

/// Runs a rule over all parameters; a moment that it does not have is an empty slice.
fn descend<R: Rule>(p: &mut [f32], g: Gradient<'_>, m: &mut [f32], v: &mut [f32], rule: R) -> f32 {
    let [first, second] = R::MOMENTS.map(|has| if has { p.len() } else { 0 });
    assert!(
        g.len() == p.len() && m.len() == first && v.len() == second,
        "descent: lengths differ"
    );
    let walk = Walk {
        p: p.as_mut_ptr(),
        m: m.as_mut_ptr(),
        v: v.as_mut_ptr(),
        rule,
    };
    match tier() {
        // SAFETY: `tier` names only what this processor has, and the lengths agree.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 | Tier::Amx => unsafe { avx512(&walk, g) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => unsafe { avx2(&walk, g) },
        // SAFETY: as above; this needs nothing of the processor.
        _ => unsafe { walk.one_by_one(g) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn avx512<R: Rule>(walk: &Walk<R>, g: Gradient<'_>) -> f32 {
    // SAFETY: the caller's.
    unsafe { walk.by_registers::<super::avx512::F32x16>(g) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<R: Rule>(walk: &Walk<R>, g: Gradient<'_>) -> f32 {
    // SAFETY: the caller's.
    unsafe { walk.by_registers::<super::avx2::F32x8>(g) }
}

/// Parameters and moments of equal length, and what to do with them.
struct Walk<R> {
    p: *mut f32,
    m: *mut f32,
    v: *mut f32,
    rule: R,
}

impl<R: Rule> Walk<R> {
    /// One full register at `i`.
    #[inline(always)]
    unsafe fn full<V: Simd<E = f32>>(&self, i: usize, g: V, sum: V) -> V {
        let old = V::load(self.p.add(i));
        let [first, second] = R::MOMENTS;
        let mut m = if first {
            V::load(self.m.add(i))
        } else {
            V::splat(0.0)
        };
        let mut v = if second {
            V::load(self.v.add(i))
        } else {
            V::splat(0.0)
        };
        let new = self.rule.step(old, g, &mut m, &mut v);
        new.store(self.p.add(i));
        if first {
            m.store(self.m.add(i));
        }
        if second {
            v.store(self.v.add(i));
        }
        let step = new.sub(old);
        step.fma(step, sum)
    }

    unsafe fn one_by_one(&self, g: Gradient<'_>) -> f32 {
        let scale = self.rule.scale();
        let mut sum = One::<f32>::splat(0.0);
        match g {
            Gradient::Vector(k, g) => {
                for (i, g) in g.iter().enumerate() {
                    sum = self.full(i, One::splat(k * scale * g), sum);
                }
            }
            Gradient::Pairs(k, g) => {
                for (i, g) in g.iter().enumerate() {
                    sum = self.full(2 * i, One::splat(k[0] * scale * g), sum);
                    sum = self.full(2 * i + 1, One::splat(k[1] * scale * g), sum);
                }
            }
        }
        sum.sum()
    }
}

#[cfg(target_arch = "x86_64")]
impl<R: Rule> Walk<R> {
    /// The first `n < N` lanes at `i`.
    #[inline(always)]
    unsafe fn part<V: Lanes>(&self, i: usize, n: usize, g: V, sum: V) -> V {
        let old = V::load_part(self.p.add(i), n);
        let [first, second] = R::MOMENTS;
        let none = V::splat(0.0);
        let mut m = if first {
            V::load_part(self.m.add(i), n)
        } else {
            none
        };
        let mut v = if second {
            V::load_part(self.v.add(i), n)
        } else {
            none
        };
        let new = self.rule.step(old, g, &mut m, &mut v);
        new.store_part(self.p.add(i), n);
        if first {
            m.store_part(self.m.add(i), n);
        }
        if second {
            v.store_part(self.v.add(i), n);
        }
        let step = new.sub(old);
        step.fma(step, sum)
    }

    #[inline(always)]
    unsafe fn by_registers<V: Lanes>(&self, g: Gradient<'_>) -> f32 {
        let scale = self.rule.scale();
        let mut sum = V::splat(0.0);
        let mut i = 0;
        match g {
            Gradient::Vector(k, g) => {
                let k = V::splat(k * scale);
                while i + V::N <= g.len() {
                    sum = self.full(i, V::load(g.as_ptr().add(i)).mul(k), sum);
                    i += V::N;
                }
                if i < g.len() {
                    let n = g.len() - i;
                    let tail = V::load_part(g.as_ptr().add(i), n).mul(k);
                    sum = self.part(i, n, tail, sum);
                }
            }
            Gradient::Pairs([k0, k1], g) => {
                let k = V::alternate(k0 * scale, k1 * scale);
                while i + V::N <= g.len() {
                    let (lo, hi) = V::load(g.as_ptr().add(i)).twice();
                    sum = self.full(2 * i, lo.mul(k), sum);
                    sum = self.full(2 * i + V::N, hi.mul(k), sum);
                    i += V::N;
                }
                let n = 2 * (g.len() - i);
                if n > 0 {
                    let (lo, hi) = V::load_part(g.as_ptr().add(i), n / 2).twice();
                    if n < V::N {
                        sum = self.part(2 * i, n, lo.mul(k), sum);
                    } else {
                        sum = self.full(2 * i, lo.mul(k), sum);
                        sum = self.part(2 * i + V::N, n - V::N, hi.mul(k), sum);
                    }
                }
            }
        }
        sum.sum()
    }
}

#[cfg(test)]
#[path = "descent_tests.rs"]
mod tests;
