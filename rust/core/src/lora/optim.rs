//! First-order optimisers with PyTorch's update formulas, on flat float32 parameters.

use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use crate::kernels::descent::{self, Gradient};
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"OPTM",
    version: 1,
};
/// Most parameters of one optimiser: its state takes a gigabyte or two then.
const MAX_PARAMS: usize = 1 << 28;

/// Update rule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Rule {
    /// Gradient descent, with momentum if above 0.
    Sgd {
        /// Momentum μ.
        momentum: f64,
    },
    /// AdaGrad (Duchi 2011).
    Adagrad {
        /// Added to the root.
        eps: f64,
    },
    /// Adam (Kingma 2015); weight decay is decoupled (Loshchilov 2019).
    AdamW {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root.
        eps: f64,
    },
}

impl Rule {
    /// The defaults behind the public names "sgd", "adagrad" and "adamw".
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "sgd" => Ok(Self::Sgd { momentum: 0.0 }),
            "adagrad" => Ok(Self::Adagrad { eps: 1e-10 }),
            "adamw" => Ok(Self::AdamW {
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
            }),
            _ => Err(Error::config(
                "optimizer",
                "\"adamw\", \"adagrad\" or \"sgd\"",
                format!("{name:?}"),
            )),
        }
    }

    /// The public name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sgd { .. } => "sgd",
            Self::Adagrad { .. } => "adagrad",
            Self::AdamW { .. } => "adamw",
        }
    }

    fn validate(&self) -> Result<()> {
        let unit = |name, v: f64| {
            if (0.0..1.0).contains(&v) {
                Ok(())
            } else {
                Err(Error::config(name, "a number in [0, 1)", v))
            }
        };
        let eps_ok = |eps: f64| {
            if eps >= 0.0 && eps.is_finite() {
                Ok(())
            } else {
                Err(Error::config("eps", "a finite number, 0 or above", eps))
            }
        };
        match *self {
            Self::Sgd { momentum } => unit("momentum", momentum),
            Self::Adagrad { eps } => eps_ok(eps),
            Self::AdamW { beta1, beta2, eps } => {
                unit("betas", beta1)?;
                unit("betas", beta2)?;
                eps_ok(eps)
            }
        }
    }

    /// Length of the (first, second) state vector for `n` parameters.
    fn state_len(&self, n: usize) -> (usize, usize) {
        match self {
            Self::Sgd { momentum } if *momentum == 0.0 => (0, 0),
            Self::Sgd { .. } => (n, 0),
            Self::Adagrad { .. } => (0, n),
            Self::AdamW { .. } => (n, n),
        }
    }
}

/// The coefficients of one step, the same for all slices.
enum Step {
    Sgd { keep: f32, rate: f32 },
    Momentum(descent::Momentum),
    Adagrad(descent::Adagrad),
    AdamW(descent::Adam),
}

/// A rule with its state for `n` parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    rule: Rule,
    n: usize,
    weight_decay: f64,
    /// Decay the parameters directly instead of through the gradient.
    decoupled: bool,
    steps: u64,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Optimizer {
    /// AdamW always decays decoupled; SGD does so if `decoupled`, otherwise through the gradient as PyTorch's does.
    pub fn new(rule: Rule, n: usize, weight_decay: f64, decoupled: bool) -> Result<Self> {
        rule.validate()?;
        if !(1..=MAX_PARAMS).contains(&n) {
            return Err(Error::config("n", format!("1 to {MAX_PARAMS}"), n));
        }
        check_rate("weight_decay", weight_decay)
            .map_err(|_| Error::config("weight_decay", "a finite number, 0 or above", weight_decay))?;
        let (first, second) = rule.state_len(n);
        Ok(Self {
            rule,
            n,
            weight_decay,
            decoupled: decoupled || matches!(rule, Rule::AdamW { .. }),
            steps: 0,
            first: vec![0.0; first],
            second: vec![0.0; second],
        })
    }

    /// Number of parameters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.n
    }

    /// Never true: an optimiser has at least one parameter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Steps taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The rule.
    #[must_use]
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Weight decay.
    #[must_use]
    pub fn weight_decay(&self) -> f64 {
        self.weight_decay
    }

    /// Bytes of state.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        (self.first.len() + self.second.len()) * size_of::<f32>()
    }

    /// Forgets the state.
    pub fn reset(&mut self) {
        self.steps = 0;
        self.first.fill(0.0);
        self.second.fill(0.0);
    }

    /// One step on parameters that lie in several slices, with the gradients multiplied by `gscale`. The slices
    /// together are `n` long. Returns the squared length of the step.
    pub fn step(&mut self, lr: f64, gscale: f32, parts: &mut [(&mut [f32], Gradient<'_>)]) -> f64 {
        debug_assert_eq!(parts.iter().map(|p| p.0.len()).sum::<usize>(), self.n);
        self.steps += 1;
        let t = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let (keep, coupled) = if self.decoupled {
            ((1.0 - lr * self.weight_decay) as f32, 0.0)
        } else {
            (1.0, self.weight_decay as f32)
        };
        let step = match self.rule {
            // Plain descent: the coupled decay is a factor of the parameters too.
            Rule::Sgd { momentum: 0.0 } => Step::Sgd {
                keep: keep - lr as f32 * coupled,
                rate: lr as f32 * gscale,
            },
            // PyTorch's buffer starts as the first gradient; with a zero buffer that is the same sum.
            Rule::Sgd { momentum } => Step::Momentum(descent::Momentum {
                keep,
                rate: lr as f32,
                scale: gscale,
                coupled,
                mu: momentum as f32,
            }),
            Rule::Adagrad { eps } => Step::Adagrad(descent::Adagrad {
                keep,
                rate: lr as f32,
                scale: gscale,
                eps: eps as f32,
            }),
            Rule::AdamW { beta1, beta2, eps } => Step::AdamW(descent::Adam {
                keep,
                rate: (lr / (1.0 - beta1.powi(t))) as f32,
                scale: gscale,
                first: (beta1 as f32, (1.0 - beta1) as f32),
                second: (beta2 as f32, (1.0 - beta2) as f32),
                inv: (1.0 / (1.0 - beta2.powi(t)).sqrt()) as f32,
                eps: eps as f32,
            }),
        };
        let mut moved = 0.0;
        let mut at = 0;
        for (p, g) in parts.iter_mut() {
            let g = *g;
            let span = at..at + p.len();
            at += p.len();
            moved += f64::from(match &step {
                Step::Sgd { keep, rate } => descent::sgd(p, g, *keep, *rate),
                Step::Momentum(c) => descent::momentum(p, g, &mut self.first[span], c),
                Step::Adagrad(c) => descent::adagrad(p, g, &mut self.second[span], c),
                Step::AdamW(c) => {
                    let (first, second) = (&mut self.first[span.clone()], &mut self.second[span]);
                    descent::adamw(p, g, first, second, c)
                }
            });
        }
        moved
    }

    /// Checked step on one slice.
    pub fn step_checked(&mut self, lr: f64, params: &mut [f32], grads: &[f32]) -> Result<()> {
        check_dim("params", self.n, params.len())?;
        check_dim("grads", self.n, grads.len())?;
        check_finite("params", params)?;
        check_finite("grads", grads)?;
        self.step(lr, 1.0, &mut [(params, Gradient::Vector(1.0, grads))]);
        Ok(())
    }

    /// Checks decoded state.
    pub(super) fn validate(&self) -> Result<()> {
        self.rule.validate()?;
        let (first, second) = self.rule.state_len(self.n);
        check_dim("optimiser state", first, self.first.len())?;
        check_dim("optimiser state", second, self.second.len())?;
        check_finite("optimiser state", &self.first)?;
        check_finite("optimiser state", &self.second)?;
        if self.second.iter().any(|v| *v < 0.0) || self.n == 0 {
            return Err(Error::corrupt("optimiser", "second moment below 0"));
        }
        check_rate("weight_decay", self.weight_decay)
    }

    /// Serialises.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let this: Self = codec::decode(KIND, bytes)?;
        this.validate().map_err(|e| Error::corrupt("optimiser", e))?;
        Ok(this)
    }
}

/// Errors unless `v` can be a learning rate or a decay.
pub(super) fn check_rate(name: &'static str, v: f64) -> Result<()> {
    if v.is_finite() && v >= 0.0 {
        Ok(())
    } else {
        Err(Error::value(name, "a finite number, 0 or above", v))
    }
}

/// `g` scaled down to length `max_norm` if it is longer; the former length.
pub fn clip_by_norm(g: &mut [f32], max_norm: f64) -> f64 {
    let norm = g.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    if norm > max_norm {
        kernels::scale((max_norm / norm) as f32, g);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adamw_follows_its_formula_in_float64() {
        let rule = Rule::parse("adamw").unwrap();
        let mut opt = Optimizer::new(rule, 3, 0.1, false).unwrap();
        let mut p = [1.0f32, -2.0, 0.5];
        let mut q = [1.0f64, -2.0, 0.5];
        let (mut m, mut v) = ([0.0f64; 3], [0.0f64; 3]);
        for t in 1..=9 {
            let g: Vec<f32> = (0..3).map(|i| ((t * 3 + i) as f32).sin()).collect();
            opt.step_checked(0.01, &mut p, &g).unwrap();
            for i in 0..3 {
                let gi = f64::from(g[i]);
                m[i] = 0.9 * m[i] + 0.1 * gi;
                v[i] = 0.999 * v[i] + 0.001 * gi * gi;
                let (mh, vh) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.999f64.powi(t)));
                q[i] = q[i] * (1.0 - 0.01 * 0.1) - 0.01 * mh / (vh.sqrt() + 1e-8);
                assert!((f64::from(p[i]) - q[i]).abs() < 1e-5);
            }
        }
        let back = Optimizer::from_bytes(&opt.to_bytes().unwrap()).unwrap();
        assert_eq!(back, opt);
    }

    #[test]
    fn split_parameters_take_the_same_step() {
        for rule in ["sgd", "adagrad", "adamw"] {
            let rule = Rule::parse(rule).unwrap();
            let g: Vec<f32> = (0..40).map(|i| (i as f32).cos()).collect();
            let mut whole = vec![0.5f32; 40];
            let mut split = whole.clone();
            let (mut o1, mut o2) = (
                Optimizer::new(rule, 40, 0.01, true).unwrap(),
                Optimizer::new(rule, 40, 0.01, true).unwrap(),
            );
            for _ in 0..3 {
                o1.step(0.1, 0.5, &mut [(&mut whole, Gradient::Vector(1.0, &g))]);
                let (l, r) = split.split_at_mut(17);
                let (gl, gr) = (Gradient::Vector(1.0, &g[..17]), Gradient::Vector(1.0, &g[17..]));
                o2.step(0.1, 0.5, &mut [(l, gl), (r, gr)]);
            }
            assert_eq!(whole, split);
        }
    }

    #[test]
    fn bad_parameters_are_refused() {
        assert!(Rule::parse("adam").is_err());
        assert!(Optimizer::new(Rule::Sgd { momentum: 1.0 }, 3, 0.0, false).is_err());
        assert!(Optimizer::new(Rule::Sgd { momentum: 0.0 }, 0, 0.0, false).is_err());
        assert!(Optimizer::new(Rule::Sgd { momentum: 0.0 }, 3, f64::NAN, false).is_err());
    }
}
