//! One step of the cell from the zero state for many inputs at once: the candidates of a request.

use super::fastgrnn::{Factor, FastGrnn, Head, Map, apply, sigmoid};
use crate::error::{Error, Result, check_finite};
use crate::kernels::projection::Projection;
use crate::kernels::{self, Aligned, GATES, Panels};

/// Most rows of a matrix that are multiplied as they are, and least columns; others are packed. One row always stays as it is.
const FEW: usize = 12;
const LONG: usize = 32;
/// Inputs at a time: what lies between two matrices stays in the nearest cache.
const BLOCK: usize = 128;
/// Least rows and columns of a matrix for which it pays to cut the inputs in parts.
const WIDE: usize = 16;
const DEEP: usize = 64;

/// A matrix, ready to be multiplied with many rows.
#[derive(Clone, Debug)]
enum Ready {
    /// As it is.
    Few { rows: Aligned, cols: usize },
    /// Packed; and in parts, for processors that multiply those.
    Many {
        panels: Panels,
        parts: Option<Projection<f32>>,
        cols: usize,
    },
    /// int8: row by row.
    Int8(Map),
}

impl Ready {
    fn new(f: &Factor) -> Self {
        if f.is_quantized() {
            Self::Int8(vec![f.clone()])
        } else if f.rows == 1 || (f.rows <= FEW && f.cols >= LONG) {
            Self::Few {
                rows: Aligned::from(&f.w[..]),
                cols: f.cols,
            }
        } else {
            Self::Many {
                panels: Panels::pack(&f.w, f.cols),
                parts: (f.rows >= WIDE && f.cols >= DEEP)
                    .then(|| Projection::new(&f.w, f.cols))
                    .flatten(),
                cols: f.cols,
            }
        }
    }

    /// (inputs, outputs) of one row.
    fn shape(&self) -> (usize, usize) {
        match self {
            Self::Few { rows, cols } => (*cols, rows.len() / cols),
            Self::Many { panels, cols, .. } => (*cols, panels.len()),
            Self::Int8(map) => map.first().map_or((0, 0), |f| (f.cols, f.rows)),
        }
    }

    /// (n, rows) products of the inputs (n, cols), row-major.
    fn multiply(&self, x: &[f32], out: &mut [f32]) {
        match self {
            Self::Few { rows, cols } => kernels::thin(x, *cols, rows, out),
            // Inputs that cannot be cut, being huge or not finite, are multiplied as they are.
            Self::Many { panels, parts, .. } => {
                if !parts.as_ref().is_some_and(|p| p.multiply(x, out)) {
                    panels.products(x, out);
                }
            }
            Self::Int8(map) => {
                let (cols, rows) = self.shape();
                for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(rows)) {
                    apply(map, x, out);
                }
            }
        }
    }
}

/// Scores rows as [`FastGrnn::predict`] scores sequences of one step; holds what the matrices need to be fast.
#[derive(Clone, Debug)]
pub struct RowScorer {
    /// First what the inputs are multiplied with.
    w: Vec<Ready>,
    /// The biases, repeated to a multiple of the kernel's period.
    bias_gate: Vec<f32>,
    bias_update: Vec<f32>,
    open: f32,
    leak: f32,
    head: Ready,
    head_bias: Vec<f32>,
    logistic: bool,
}

impl FastGrnn {
    /// What scores many rows with the present weights.
    pub fn row_scorer(&self) -> Result<RowScorer> {
        let Some(Head { map, bias, logistic }) = &self.head else {
            return Err(Error::Learning(
                "the cell has no read-out yet: call fit first".into(),
            ));
        };
        let n = self.n_hidden;
        let period = if n.is_multiple_of(GATES) { n } else { n * GATES };
        let repeated = |b: &[f32]| b.iter().copied().cycle().take(period).collect();
        Ok(RowScorer {
            w: self.w.iter().rev().map(Ready::new).collect(),
            bias_gate: repeated(&self.bias_gate),
            bias_update: repeated(&self.bias_update),
            open: sigmoid(self.zeta) as f32,
            leak: sigmoid(self.nu) as f32,
            head: Ready::new(map),
            head_bias: bias.clone(),
            logistic: *logistic,
        })
    }
}

impl RowScorer {
    /// Scores (n · outputs) of the inputs (n · n_in).
    pub fn score(&self, x: &[f32]) -> Result<Vec<f32>> {
        let n_in = self.w.first().map_or(1, |m| m.shape().0);
        let outputs = self.head_bias.len();
        let rows = x.len() / n_in;
        let mut out = vec![0.0; rows * outputs];
        let block = BLOCK.min(rows);
        let mut held: Vec<Vec<f32>> = self.w.iter().map(|m| vec![0.0; block * m.shape().1]).collect();
        for (b, out) in x.chunks(BLOCK * n_in).zip(out.chunks_mut(BLOCK * outputs)) {
            let rows = b.len() / n_in;
            let mut last: &[f32] = b;
            for (m, to) in self.w.iter().zip(&mut held) {
                let to = &mut to[..rows * m.shape().1];
                m.multiply(last, to);
                // Every product reads all inputs, and one that is not finite leaves none of its products finite. int8 hides it.
                if matches!(m, Ready::Int8(_)) || !kernels::all_finite(to) {
                    check_finite("X", x)?;
                }
                last = to;
            }
            self.read_out(rows, &mut held, out);
        }
        Ok(out)
    }

    fn read_out(&self, rows: usize, held: &mut [Vec<f32>], out: &mut [f32]) {
        let Some(p) = held.last_mut() else { return };
        let p = &mut p[..rows * self.head.shape().0];
        kernels::gates(p, &self.bias_gate, &self.bias_update, self.open, self.leak);
        self.head.multiply(p, out);
        for y in out.chunks_exact_mut(self.head_bias.len()) {
            y.iter_mut().zip(&self.head_bias).for_each(|(y, b)| *y += b);
        }
        if self.logistic {
            out.iter_mut().for_each(|y| *y = -*y);
            kernels::exp(out);
            out.iter_mut().for_each(|y| *y = 1.0 / (1.0 + *y));
        }
    }
}
