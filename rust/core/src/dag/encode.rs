//! Plans and operators as vectors.
//!
//! Each base feature has a coordinate of its own; pairs of adjoining operators and the caller's features are hashed with a
//! random sign into the rest (Weinberger et al. 2009). In a dimension too small for that, everything is hashed.

use super::plan::{OPERATORS, QueryDag};
use crate::error::Result;
use crate::kernels;

/// Rows and costs come in orders of magnitude: this many of them are 1.
const DECADES: f64 = 18.0;
const NUMBERS: usize = 8;
/// Coordinates of base features: kinds, numbers of a node, numbers of a plan.
const BASE: usize = OPERATORS.len() + NUMBERS + PLAN_NUMBERS;
const PLAN_NUMBERS: usize = 4;

/// ln(1 + x), about 1 for the largest tables.
fn magnitude(x: f64) -> f32 {
    (x.ln_1p() / DECADES).min(4.0) as f32
}

/// SplitMix64 (Steele et al. 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Adds feature `key` to a vector.
fn hashed(out: &mut [f32], from: usize, key: u64, value: f32) {
    let h = mix(key);
    let at = from + (h >> 1) as usize % (out.len() - from);
    out[at] += if h & 1 == 0 { value } else { -value };
}

/// A vector of one dimension for every plan and operator.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoder {
    dim: usize,
}

impl Encoder {
    pub(super) fn new(dim: usize) -> Self {
        Self { dim }
    }

    fn base(self, out: &mut [f32], feature: usize, value: f32) {
        if self.dim >= 2 * BASE {
            out[feature] += value;
        } else {
            hashed(out, 0, feature as u64, value);
        }
    }

    fn other(self, out: &mut [f32], key: u64, value: f32) {
        let from = if self.dim >= 2 * BASE { BASE } else { 0 };
        hashed(out, from, key, value);
    }

    /// One row per operator: its kind, sizes and place, and the caller's features.
    pub(super) fn operators(self, plan: &QueryDag) -> Result<Vec<f32>> {
        let n = plan.len();
        let (mut into, mut out_of) = (vec![(0.0, 0.0f32); n], vec![(0.0, 0.0f32); n]);
        for [u, v] in plan.edges() {
            let (u, v) = (*u as usize, *v as usize);
            into[v].0 += plan.nodes()[u].rows;
            into[v].1 += 1.0;
            out_of[u].0 += plan.nodes()[v].rows;
            out_of[u].1 += 1.0;
        }
        let depth = plan.depths()?;
        let mut rows = vec![0.0; n * self.dim];
        for (v, out) in rows.chunks_exact_mut(self.dim).enumerate() {
            let node = &plan.nodes()[v];
            self.base(out, usize::from(node.op), 1.0);
            let numbers: [f32; NUMBERS] = [
                magnitude(node.rows),
                magnitude(node.cost),
                magnitude(into[v].0),
                magnitude(out_of[v].0),
                (depth[v] as f32 / 16.0).min(4.0),
                (into[v].1 / 4.0).min(4.0),
                (out_of[v].1 / 4.0).min(4.0),
                // What an operator reads from both sides: joins multiply.
                magnitude(node.rows) * magnitude(out_of[v].0),
            ];
            for (i, x) in numbers.into_iter().enumerate() {
                self.base(out, OPERATORS.len() + i, x);
            }
            for (i, f) in node.features.iter().enumerate() {
                self.other(out, (1 << 32) + i as u64, *f);
            }
        }
        Ok(rows)
    }

    /// Adds what belongs to no single operator: pairs of adjoining kinds, sizes of the whole.
    pub(super) fn shape(self, plan: &QueryDag, depth: u32, out: &mut [f32]) {
        let share = 1.0 / plan.edges().len().max(1) as f32;
        for [u, v] in plan.edges() {
            let op = |x: &u32| u64::from(plan.nodes()[*x as usize].op);
            self.other(out, (2 << 32) + (op(u) << 8) + op(v), share);
        }
        let total: f64 = plan.nodes().iter().map(|n| n.cost).sum();
        let most = plan.nodes().iter().map(|n| n.rows).fold(0.0, f64::max);
        let numbers = [
            magnitude(plan.len() as f64) * 4.0,
            magnitude(total),
            magnitude(most),
            (depth as f32 / 16.0).min(4.0),
        ];
        for (i, x) in numbers.into_iter().enumerate() {
            self.base(out, OPERATORS.len() + NUMBERS + i, x);
        }
    }
}

/// Unit length; a vector of zeros becomes the first axis, so that every plan has a direction.
pub(super) fn directed(mut x: Vec<f32>) -> Vec<f32> {
    if kernels::normalize(&mut x) == 0.0 {
        x.fill(0.0);
        x[0] = 1.0;
    }
    x
}
