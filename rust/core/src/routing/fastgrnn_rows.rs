//! One step of the cell from the zero state for many inputs at once: the candidates of a request.

use super::fastgrnn::{Factor, FastGrnn, Head, Map, apply, sigmoid};
use crate::error::{Error, Result};
use crate::kernels::{self, Panels};

/// Most rows of a matrix that are multiplied one by one; more are packed.
const FEW: usize = 8;

/// A matrix, ready to be multiplied with many rows.
#[derive(Clone, Debug)]
enum Ready {
    /// One pass over the inputs per row.
    Few { rows: Vec<f32>, cols: usize },
    /// Packed.
    Many { panels: Panels, cols: usize },
    /// int8: row by row.
    Int8(Map),
}

impl Ready {
    fn new(f: &Factor) -> Self {
        if f.is_quantized() {
            Self::Int8(vec![f.clone()])
        } else if f.rows <= FEW {
            Self::Few {
                rows: f.w.clone(),
                cols: f.cols,
            }
        } else {
            Self::Many {
                panels: Panels::pack(&f.w, f.cols),
                cols: f.cols,
            }
        }
    }

    /// (n, rows) products of the inputs (n, cols), row-major.
    fn multiply(&self, x: &[f32]) -> Vec<f32> {
        match self {
            Self::Few { rows, cols } => {
                let (n, m) = (x.len() / cols, rows.len() / cols);
                let (mut out, mut column) = (vec![0.0; n * m], vec![0.0; n]);
                for (j, row) in rows.chunks_exact(*cols).enumerate() {
                    kernels::gemv(x, *cols, row, &mut column);
                    for (o, c) in out.iter_mut().skip(j).step_by(m).zip(&column) {
                        *o = *c;
                    }
                }
                out
            }
            Self::Many { panels, cols } => {
                let mut out = vec![0.0; x.len() / cols * panels.len()];
                panels.products(x, &mut out);
                out
            }
            Self::Int8(map) => {
                let (rows, cols) = map.first().map_or((0, 1), |f| (f.rows, f.cols));
                let mut out = vec![0.0; x.len() / cols * rows];
                for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(rows)) {
                    apply(map, x, out);
                }
                out
            }
        }
    }
}

/// Scores rows as [`FastGrnn::predict`] scores sequences of one step; holds what the matrices need to be fast.
#[derive(Clone, Debug)]
pub struct RowScorer {
    w: Vec<Ready>,
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
        Ok(RowScorer {
            w: self.w.iter().rev().map(Ready::new).collect(),
            bias_gate: self.bias_gate.clone(),
            bias_update: self.bias_update.clone(),
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
    #[must_use]
    pub fn score(&self, x: &[f32]) -> Vec<f32> {
        let mut p = Vec::new();
        for (i, m) in self.w.iter().enumerate() {
            p = m.multiply(if i == 0 { x } else { &p });
        }
        // σ and tanh through one vectorised exponential: tanh(a) = 2σ(2a) − 1.
        let n = self.bias_gate.len();
        let mut gate = p.clone();
        for (gate, update) in gate.chunks_exact_mut(n).zip(p.chunks_exact_mut(n)) {
            for i in 0..n {
                gate[i] = -(gate[i] + self.bias_gate[i]);
                update[i] = -2.0 * (update[i] + self.bias_update[i]);
            }
        }
        kernels::exp(&mut gate);
        kernels::exp(&mut p);
        for (c, g) in p.iter_mut().zip(&gate) {
            let z = 1.0 / (1.0 + g);
            *c = (self.open * (1.0 - z) + self.leak) * (2.0 / (1.0 + *c) - 1.0);
        }
        let mut out = self.head.multiply(&p);
        for y in out.chunks_exact_mut(self.head_bias.len()) {
            for (y, b) in y.iter_mut().zip(&self.head_bias) {
                *y += b;
                if self.logistic {
                    *y = 1.0 / (1.0 + (-*y).exp());
                }
            }
        }
        out
    }
}
