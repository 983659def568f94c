//! The dense rows behind every structure: ids, float32 values, and int8 codes where asked for.
//!
//! Rows lie side by side without holes: removing one moves the last into its place, so a scan never meets a dead row.

use super::flat::Hit;
use super::params::{Metric, Params, Precision};
use crate::error::{Error, Result, check_finite};
use crate::kernels;
use crate::patterns::sketch::{Sketches, sketch};
use std::collections::HashMap;

/// Positions are 32-bit.
pub(super) const MAX_ROWS: usize = (u32::MAX / 2) as usize;

/// Signed bytes of every row: value ≈ code · scale.
#[derive(Debug, Clone, Default)]
pub(super) struct Codes {
    pub bytes: Vec<i8>,
    pub scale: Vec<f32>,
    /// ‖row‖², only for the euclidean metric (empty otherwise).
    pub squared_norm: Vec<f32>,
    /// Where the angle is what counts and a row has many more bytes than a sketch.
    pub sketches: Option<Sketches>,
}

/// Dimensions from which rows have sketches.
const SKETCHES_FROM: usize = 128;

impl Codes {
    fn new(params: &Params) -> Self {
        let sketched = params.metric == Metric::Cosine && params.dim >= SKETCHES_FROM;
        Self {
            sketches: sketched.then(Sketches::default),
            ..Self::default()
        }
    }
}

/// Rows by position, and the position of each id.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub params: Params,
    pub ids: Vec<i64>,
    pub position: HashMap<i64, u32>,
    pub data: Vec<f32>,
    pub codes: Option<Codes>,
    /// No row is longer.
    longest: f32,
}

/// Squared norm that neither overflows nor underflows for finite float32 input.
fn squared_norm(x: &[f32]) -> f64 {
    let mut acc = [0.0f64; 8];
    let chunks = x.chunks_exact(8);
    let tail = chunks.remainder();
    for c in chunks {
        for (a, v) in acc.iter_mut().zip(c) {
            *a += f64::from(*v) * f64::from(*v);
        }
    }
    acc.iter().sum::<f64>() + tail.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()
}

/// Checks vectors and brings them into the form that is stored and compared: unit length under cosine, as they are otherwise.
pub(super) fn prepare(name: &'static str, params: &Params, vectors: &mut [f32]) -> Result<()> {
    check_vectors(name, params, vectors)?;
    normalize(params, vectors);
    Ok(())
}

/// Brings finite vectors to the length at which they are compared.
pub(super) fn normalize(params: &Params, vectors: &mut [f32]) {
    if params.metric == Metric::Cosine {
        for row in vectors.chunks_exact_mut(params.dim) {
            let norm = squared_norm(row).sqrt();
            if norm > 0.0 {
                let inverse = 1.0 / norm;
                for v in row {
                    *v = (f64::from(*v) * inverse) as f32;
                }
            }
        }
    }
}

/// All finite, and (where lengths matter) short enough that no score can overflow.
pub(super) fn check_vectors(name: &'static str, params: &Params, vectors: &[f32]) -> Result<()> {
    check_finite(name, vectors)?;
    if params.metric != Metric::Cosine {
        // |q·x| ≤ |q||x| and |q − x|² ≤ (|q| + |x|)²: a quarter of the range for each squared norm keeps every score finite.
        let limit = f64::from(f32::MAX) / 4.0;
        for row in vectors.chunks_exact(params.dim) {
            let squared = squared_norm(row);
            if squared > limit {
                return Err(Error::value(
                    name,
                    format!("a squared norm up to {limit:e}"),
                    format!("{squared:e}"),
                ));
            }
        }
    }
    Ok(())
}

impl Rows {
    pub fn new(params: Params) -> Self {
        Self {
            params,
            ids: Vec::new(),
            position: HashMap::new(),
            data: Vec::new(),
            codes: (params.precision == Precision::Int8).then(|| Codes::new(&params)),
            longest: 0.0,
        }
    }

    /// Rows from stored arrays, already prepared; says what is impossible about them.
    pub fn from_parts(params: Params, ids: Vec<i64>, data: Vec<f32>) -> Result<Self, String> {
        let mut rows = Self::new(params);
        if ids.len() * params.dim != data.len() {
            return Err("ids and vectors do not match".into());
        }
        rows.position = ids.iter().enumerate().map(|(p, id)| (*id, p as u32)).collect();
        if rows.position.len() != ids.len() {
            return Err("an id occurs twice".into());
        }
        let unit = |row: &[f32]| squared_norm(row) < 1.001;
        if params.metric == Metric::Cosine && !data.chunks_exact(params.dim).all(unit) {
            return Err("a row is longer than 1".into());
        }
        if let Some(codes) = &mut rows.codes {
            codes.bytes = vec![0; data.len()];
            codes.scale = vec![0.0; ids.len()];
            if params.metric == Metric::Euclidean {
                codes.squared_norm = vec![0.0; ids.len()];
            }
        }
        rows.ids = ids;
        rows.data = data;
        for p in 0..rows.len() {
            rows.encode(p);
        }
        Ok(rows)
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn row(&self, position: usize) -> &[f32] {
        let d = self.params.dim;
        &self.data[position * d..(position + 1) * d]
    }

    /// Ids and scores of some rows for a prepared query: the one definition that every search ends with, so that flat,
    /// int8, batched and graph searches return equal bits for equal pairs.
    pub fn hits(&self, query: &[f32], positions: &[usize]) -> Vec<Hit> {
        let mut scores = vec![0.0; positions.len()];
        match self.params.metric {
            Metric::Cosine | Metric::Dot => {
                kernels::gather_dot(&self.data, self.params.dim, positions, query, &mut scores);
            }
            Metric::Euclidean => {
                kernels::gather_squared_l2(&self.data, self.params.dim, positions, query, &mut scores);
                kernels::scale(-1.0, &mut scores);
            }
        }
        // Adding 0 turns −0 into +0.
        let hit = |(&p, s): (&usize, f32)| Hit {
            id: self.ids[p],
            score: s + 0.0,
        };
        positions.iter().zip(scores).map(hit).collect()
    }

    /// Bound on the difference between two orders of summing one product with `query`.
    pub fn rounding(&self, query: &[f32]) -> f32 {
        // Cauchy–Schwarz bounds the sum of magnitudes; each of d additions rounds by at most half an ulp of it.
        let length = squared_norm(query).sqrt() as f32;
        self.params.dim as f32 * f32::EPSILON * length * self.longest
    }

    /// Makes room for `more` rows: exactly, or a quarter of what is there if that is more, so that growth stays amortised
    /// without holding twice what is used.
    pub fn reserve(&mut self, more: usize) -> Result<()> {
        let n = self.len();
        if n + more > MAX_ROWS {
            return Err(Error::Capacity {
                name: "ids",
                limit: format!("at most {MAX_ROWS} rows"),
                got: (n + more).to_string(),
            });
        }
        if n + more <= self.ids.capacity() {
            return Ok(());
        }
        let (d, more) = (self.params.dim, more.max(n / 4));
        self.ids.reserve_exact(more);
        self.position.reserve(more);
        self.data.reserve_exact(more * d);
        if let Some(codes) = &mut self.codes {
            codes.bytes.reserve_exact(more * d);
            codes.scale.reserve_exact(more);
            if let Some(sketches) = &mut codes.sketches {
                sketches.reserve(more);
            }
        }
        Ok(())
    }

    /// Appends a prepared row under an id that is not present.
    pub fn push(&mut self, id: i64, row: &[f32]) {
        let position = self.len();
        self.position.insert(id, position as u32);
        self.ids.push(id);
        self.data.extend_from_slice(row);
        if let Some(codes) = &mut self.codes {
            codes.bytes.resize((position + 1) * self.params.dim, 0);
            codes.scale.push(0.0);
            if self.params.metric == Metric::Euclidean {
                codes.squared_norm.push(0.0);
            }
        }
        self.encode(position);
    }

    /// Replaces the row at `position`.
    pub fn overwrite(&mut self, position: usize, row: &[f32]) {
        let d = self.params.dim;
        self.data[position * d..(position + 1) * d].copy_from_slice(row);
        self.encode(position);
    }

    fn encode(&mut self, position: usize) {
        let d = self.params.dim;
        self.longest = match self.params.metric {
            Metric::Cosine => 1.0,
            _ => self.longest.max(squared_norm(self.row(position)).sqrt() as f32),
        };
        let Some(codes) = &mut self.codes else { return };
        let range = position * d..(position + 1) * d;
        let row = &self.data[range.clone()];
        codes.scale[position] = kernels::quantize_i8(row, &mut codes.bytes[range]);
        if let Some(s) = codes.squared_norm.get_mut(position) {
            *s = squared_norm(row) as f32;
        }
        if let Some(sketches) = &mut codes.sketches {
            let sketch = sketch(row);
            if position < sketches.len() {
                sketches.set(position, &sketch);
            } else {
                sketches.push(&sketch);
            }
        }
    }

    /// Moves row `from` over row `to`; `from`'s own place is left for the caller to drop or fill.
    pub fn move_row(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let d = self.params.dim;
        self.data.copy_within(from * d..(from + 1) * d, to * d);
        self.ids[to] = self.ids[from];
        self.position.insert(self.ids[to], to as u32);
        if let Some(codes) = &mut self.codes {
            codes.bytes.copy_within(from * d..(from + 1) * d, to * d);
            codes.scale[to] = codes.scale[from];
            if let Some(sketches) = &mut codes.sketches {
                sketches.set(to, &sketches.get(from));
            }
            if self.params.metric == Metric::Euclidean {
                codes.squared_norm[to] = codes.squared_norm[from];
            }
        }
    }

    /// Drops the last row's storage (its id must be unmapped already) and gives memory back when three quarters are idle.
    pub fn pop(&mut self) {
        let n = self.len().saturating_sub(1);
        let d = self.params.dim;
        self.ids.truncate(n);
        self.data.truncate(n * d);
        let shrink = self.data.capacity() / 4 > self.data.len().max(1024);
        if let Some(codes) = &mut self.codes {
            codes.bytes.truncate(n * d);
            codes.scale.truncate(n);
            codes.squared_norm.truncate(n);
            if let Some(sketches) = &mut codes.sketches {
                sketches.truncate(n);
                if shrink {
                    sketches.shrink_to(2 * n);
                }
            }
            if shrink {
                codes.bytes.shrink_to(2 * n * d);
                codes.scale.shrink_to(2 * n);
                codes.squared_norm.shrink_to(2 * n);
            }
        }
        if shrink {
            self.ids.shrink_to(2 * n);
            self.data.shrink_to(2 * n * d);
            self.position.shrink_to(2 * n);
        }
    }

    /// Bytes held on the heap.
    pub fn nbytes(&self) -> usize {
        let codes = self.codes.as_ref().map_or(0, |c| {
            let sketches = c.sketches.as_ref().map_or(0, Sketches::nbytes);
            c.bytes.capacity() + 4 * (c.scale.capacity() + c.squared_norm.capacity()) + sketches
        });
        // A hash table slot: key and value padded to 16 bytes, one control byte, load factor 7/8.
        8 * self.ids.capacity() + 4 * self.data.capacity() + codes + self.position.capacity() * 17 * 8 / 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn unit_length_survives_extreme_scales() {
        let params = Params::new(3);
        for s in [1e-38f32, 1e-20, 1.0, 1e20, 1e38] {
            let mut x = vec![s, -2.0 * s, 2.0 * s];
            prepare("x", &params, &mut x).unwrap();
            for (got, want) in x.iter().zip([1.0 / 3.0, -2.0 / 3.0, 2.0 / 3.0]) {
                assert!((got - want).abs() < 1e-6, "{s}: {x:?}");
            }
        }
        let mut zero = vec![0.0; 3];
        prepare("x", &params, &mut zero).unwrap();
        assert_eq!(zero, vec![0.0; 3]);
    }

    #[test]
    fn lengths_that_could_overflow_a_score_are_refused() {
        let params = Params {
            metric: Metric::Dot,
            ..Params::new(2)
        };
        assert!(check_vectors("x", &params, &[1e19, 1e18]).is_err());
        assert!(check_vectors("x", &params, &[5e18, 1e18]).is_ok());
    }
}
