//! The FastGRNN cell (Kusupati et al. 2018): two gates that share their matrices, optionally of low rank, optionally int8.
//!
//! p = Wx + Uh; z = σ(p + b_gate); c = tanh(p + b_update); h′ = (σ(ζ)(1 − z) + σ(ν))·c + z·h.

use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite, check_number};
use crate::kernels;
use crate::metrics::Metrics;
use crate::rng;
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"GRNN",
    version: 1,
};
/// Longest side of a matrix.
pub const MAX_SIDE: usize = 1 << 16;
/// Most weights of one matrix.
const MAX_WEIGHTS: usize = 1 << 26;

/// A dense factor, in float32 or in int8 with one scale per row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Factor {
    pub rows: usize,
    pub cols: usize,
    /// Row-major; empty once quantised.
    pub w: Vec<f32>,
    q: Vec<i8>,
    scales: Vec<f32>,
}

impl Factor {
    pub(super) fn new(rows: usize, cols: usize, w: Vec<f32>) -> Self {
        debug_assert_eq!(w.len(), rows * cols);
        Self {
            rows,
            cols,
            w,
            q: Vec::new(),
            scales: Vec::new(),
        }
    }

    fn quantized(&self) -> Self {
        let mut q = vec![0i8; self.w.len()];
        let scales = (self.w.chunks(self.cols).zip(q.chunks_mut(self.cols)))
            .map(|(row, codes)| kernels::quantize_i8(row, codes))
            .collect();
        Self {
            rows: self.rows,
            cols: self.cols,
            w: Vec::new(),
            q,
            scales,
        }
    }

    pub(super) fn is_quantized(&self) -> bool {
        !self.scales.is_empty()
    }

    fn apply(&self, x: &[f32], out: &mut [f32]) {
        if !self.is_quantized() {
            return kernels::gemv(&self.w, self.cols, x, out);
        }
        let mut codes = vec![0i8; x.len()];
        let scale = kernels::quantize_i8(x, &mut codes);
        let mut sums = vec![0i32; self.rows];
        kernels::gemv_i8(&self.q, self.cols, &codes, &mut sums);
        for ((o, s), row) in out.iter_mut().zip(sums).zip(&self.scales) {
            *o = s as f32 * scale * row;
        }
    }

    fn valid(&self) -> bool {
        let n = self.rows.saturating_mul(self.cols);
        let sides = (1..=MAX_SIDE).contains(&self.rows) && (1..=MAX_SIDE).contains(&self.cols);
        let values = if self.is_quantized() {
            self.w.is_empty() && self.q.len() == n && self.scales.len() == self.rows
        } else {
            self.w.len() == n && self.q.is_empty()
        };
        sides && values && kernels::all_finite(&self.w) && kernels::all_finite(&self.scales)
    }

    fn bytes(&self) -> usize {
        4 * (self.w.len() + self.scales.len()) + self.q.len()
    }
}

/// A matrix as one factor, or as the product of two thin ones (left · right).
pub(super) type Map = Vec<Factor>;

pub(super) fn apply(map: &Map, x: &[f32], out: &mut [f32]) {
    match &map[..] {
        [left, right] => {
            let mut inner = vec![0.0; right.rows];
            right.apply(x, &mut inner);
            left.apply(&inner, out);
        }
        [only] => only.apply(x, out),
        _ => {}
    }
}

fn map_valid(map: &Map, rows: usize, cols: usize) -> bool {
    map.iter().all(Factor::valid)
        && match &map[..] {
            [f] => (f.rows, f.cols) == (rows, cols),
            [l, r] => l.rows == rows && l.cols == r.rows && r.cols == cols,
            _ => false,
        }
}

/// The read-out that training adds: outputs are V·h + b, through σ if trained on the logistic loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Head {
    pub map: Factor,
    pub bias: Vec<f32>,
    pub logistic: bool,
}

/// The cell, with a read-out once it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FastGrnn {
    pub(super) n_in: usize,
    pub(super) n_hidden: usize,
    pub(super) w: Map,
    pub(super) u: Map,
    pub(super) bias_gate: Vec<f32>,
    pub(super) bias_update: Vec<f32>,
    pub(super) zeta: f64,
    pub(super) nu: f64,
    pub(super) head: Option<Head>,
    pub(super) seed: u64,
    pub(super) steps: u64,
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn side(name: &'static str, n: usize) -> Result<()> {
    if (1..=MAX_SIDE).contains(&n) {
        Ok(())
    } else {
        Err(Error::config(name, format!("1 to {MAX_SIDE}"), n))
    }
}

impl FastGrnn {
    /// A cell with Gaussian weights of variance 1/columns. A rank makes the matrix a product of two thin ones.
    pub fn new(
        n_in: usize,
        n_hidden: usize,
        rank_w: Option<usize>,
        rank_u: Option<usize>,
        (zeta, nu): (f64, f64),
        seed: u64,
    ) -> Result<Self> {
        side("n_in", n_in)?;
        side("n_hidden", n_hidden)?;
        if n_in.max(n_hidden) * n_hidden > MAX_WEIGHTS {
            return Err(Error::config(
                "n_hidden",
                format!("at most {MAX_WEIGHTS} weights in a matrix"),
                format!("{n_hidden} with n_in {n_in}"),
            ));
        }
        for (name, value) in [("zeta", zeta), ("nu", nu)] {
            check_number(name, value)?;
        }
        let mut rng = rng::stream(seed, 0);
        let mut dense = |rows: usize, cols: usize| {
            let sd = 1.0 / (cols as f64).sqrt();
            let w = (0..rows * cols).map(|_| (sd * rng::normal(&mut rng)) as f32);
            Factor::new(rows, cols, w.collect())
        };
        let mut map = |name, rank: Option<usize>, cols: usize| match rank {
            None => Ok(vec![dense(n_hidden, cols)]),
            Some(r) if (1..=n_hidden.min(cols)).contains(&r) => Ok(vec![dense(n_hidden, r), dense(r, cols)]),
            Some(r) => Err(Error::config(name, format!("1 to {}", n_hidden.min(cols)), r)),
        };
        let w = map("rank_w", rank_w, n_in)?;
        let u = map("rank_u", rank_u, n_hidden)?;
        Ok(Self {
            n_in,
            n_hidden,
            w,
            u,
            bias_gate: vec![1.0; n_hidden],
            bias_update: vec![1.0; n_hidden],
            zeta,
            nu,
            head: None,
            seed,
            steps: 0,
        })
    }

    /// (inputs, hidden units).
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        (self.n_in, self.n_hidden)
    }

    /// (rank of W, rank of U); none for a full matrix.
    #[must_use]
    pub fn ranks(&self) -> (Option<usize>, Option<usize>) {
        let rank = |m: &Map| m.get(1).map(|f| f.rows);
        (rank(&self.w), rank(&self.u))
    }

    /// (ζ, ν).
    #[must_use]
    pub fn gates(&self) -> (f64, f64) {
        (self.zeta, self.nu)
    }

    /// Number of outputs of the read-out; 0 before training.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.head.as_ref().map_or(0, |h| h.map.rows)
    }

    /// True if the matrices are int8.
    #[must_use]
    pub fn is_quantized(&self) -> bool {
        self.w.iter().any(Factor::is_quantized)
    }

    /// Replaces the cell's weights. A matrix comes as its factors: one, or (left, right) of the cell's rank.
    pub fn set_weights(
        &mut self,
        w: Vec<Vec<f32>>,
        u: Vec<Vec<f32>>,
        bias_gate: Vec<f32>,
        bias_update: Vec<f32>,
        gates: (Option<f64>, Option<f64>),
    ) -> Result<()> {
        if self.is_quantized() {
            return Err(Error::value(
                "weights",
                "a cell that is not quantised",
                "an int8 cell",
            ));
        }
        let fit = |name, map: &Map, parts: Vec<Vec<f32>>| -> Result<Map> {
            check_dim(name, map.len(), parts.len())?;
            (map.iter().zip(parts))
                .map(|(f, part)| {
                    check_dim(name, f.rows * f.cols, part.len())?;
                    check_finite(name, &part)?;
                    Ok(Factor::new(f.rows, f.cols, part))
                })
                .collect()
        };
        let w = fit("W", &self.w, w)?;
        let u = fit("U", &self.u, u)?;
        for (name, b) in [("bias_gate", &bias_gate), ("bias_update", &bias_update)] {
            check_dim(name, self.n_hidden, b.len())?;
            check_finite(name, b)?;
        }
        for (name, value) in [("zeta", gates.0), ("nu", gates.1)] {
            check_number(name, value.unwrap_or(0.0))?;
        }
        (self.w, self.u) = (w, u);
        (self.bias_gate, self.bias_update) = (bias_gate, bias_update);
        self.zeta = gates.0.unwrap_or(self.zeta);
        self.nu = gates.1.unwrap_or(self.nu);
        Ok(())
    }

    fn step(&self, x: &[f32], h: &mut [f32], p: &mut [f32], uh: &mut [f32], open: f32, leak: f32) {
        apply(&self.w, x, p);
        apply(&self.u, h, uh);
        for i in 0..self.n_hidden {
            let s = p[i] + uh[i];
            let z = 1.0 / (1.0 + (-(s + self.bias_gate[i])).exp());
            let c = (s + self.bias_update[i]).tanh();
            h[i] = (open * (1.0 - z) + leak) * c + z * h[i];
        }
    }

    /// Hidden states (T · n_hidden) over the inputs `x` (T · n_in), from `h` (zeros if none).
    pub fn run(&self, x: &[f32], h: Option<&[f32]>) -> Result<Vec<f32>> {
        if !x.len().is_multiple_of(self.n_in) {
            return Err(Error::Dimension {
                name: "x",
                expected: self.n_in,
                got: x.len(),
            });
        }
        check_finite("x", x)?;
        let mut state = vec![0.0; self.n_hidden];
        if let Some(h) = h {
            check_dim("h", self.n_hidden, h.len())?;
            check_finite("h", h)?;
            state.copy_from_slice(h);
        }
        let (open, leak) = (sigmoid(self.zeta) as f32, sigmoid(self.nu) as f32);
        let (mut p, mut uh) = (vec![0.0; self.n_hidden], vec![0.0; self.n_hidden]);
        let mut out = Vec::with_capacity(x.len() / self.n_in * self.n_hidden);
        for row in x.chunks_exact(self.n_in) {
            self.step(row, &mut state, &mut p, &mut uh, open, leak);
            out.extend_from_slice(&state);
        }
        Ok(out)
    }

    /// What the trained read-out says after the inputs `x`.
    pub fn predict(&self, x: &[f32]) -> Result<Vec<f64>> {
        if self.head.is_none() {
            return Err(Error::Learning(
                "the cell has no read-out yet: call fit first".into(),
            ));
        }
        let states = self.run(x, None)?;
        let zero = vec![0.0; self.n_hidden];
        Ok(self.read_out(states.rchunks(self.n_hidden).next().unwrap_or(&zero)))
    }

    /// What the read-out says of a hidden state; nothing before training.
    pub(super) fn read_out(&self, h: &[f32]) -> Vec<f64> {
        let Some(head) = &self.head else {
            return Vec::new();
        };
        let mut y = vec![0.0; head.map.rows];
        head.map.apply(h, &mut y);
        let squash = |v: f64| if head.logistic { sigmoid(v) } else { v };
        y.iter()
            .zip(&head.bias)
            .map(|(y, b)| squash(f64::from(y + b)))
            .collect()
    }

    /// The same cell with int8 matrices, symmetric, one scale per row; inputs are quantised as they come.
    pub fn quantize(&self) -> Self {
        let all = |m: &Map| m.iter().map(Factor::quantized).collect();
        if self.is_quantized() {
            return self.clone();
        }
        Self {
            w: all(&self.w),
            u: all(&self.u),
            ..self.clone()
        }
    }

    /// Numbers that training can move: matrices, biases, ζ, ν and the read-out.
    #[must_use]
    pub fn param_count(&self) -> usize {
        let size = |m: &Map| m.iter().map(|f| f.rows * f.cols).sum::<usize>();
        let head = self.head.as_ref().map_or(0, |h| h.map.rows * (h.map.cols + 1));
        size(&self.w) + size(&self.u) + 2 * self.n_hidden + 2 + head
    }

    /// Sizes.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let factors = || self.w.iter().chain(&self.u);
        vec![
            ("param_count", self.param_count().into()),
            ("matrix_bytes", factors().map(Factor::bytes).sum::<usize>().into()),
            ("quantized", u64::from(self.is_quantized()).into()),
            ("outputs", self.outputs().into()),
            ("train_steps", self.steps.into()),
        ]
    }

    /// The whole state.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// The cell that [`FastGrnn::to_bytes`] wrote; anything else is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let c: Self = codec::decode(KIND, bytes)?;
        c.check().map_err(|e| Error::corrupt("FastGRNN state", e))?;
        Ok(c)
    }

    /// Checks decoded sizes and values.
    pub(super) fn check(&self) -> Result<()> {
        let c = self;
        let n = c.n_hidden;
        let head = c.head.as_ref().is_none_or(|h| {
            h.map.valid() && h.map.cols == n && h.bias.len() == h.map.rows && kernels::all_finite(&h.bias)
        });
        let fine = head
            && (1..=MAX_SIDE).contains(&c.n_in)
            && (1..=MAX_SIDE).contains(&n)
            && map_valid(&c.w, n, c.n_in)
            && map_valid(&c.u, n, n)
            && [&c.bias_gate, &c.bias_update]
                .iter()
                .all(|b| b.len() == n && kernels::all_finite(b))
            && c.zeta.is_finite()
            && c.nu.is_finite();
        if fine {
            Ok(())
        } else {
            Err(Error::value(
                "cell",
                "sizes that agree and finite values",
                "others",
            ))
        }
    }
}
