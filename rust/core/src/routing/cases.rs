//! Remembered requests as unit vectors, with what each model made of them; a ring of bounded size.

use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use rustc_hash::{FxHashMap, FxHasher};
use serde::{Deserialize, Serialize};
use std::hash::Hasher;

/// Largest number of values in a table.
const MAX_VALUES: usize = 1 << 30;

/// Rows of unit length with one outcome per model; NaN where a model was not tried. The oldest row gives way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cases {
    dim: usize,
    capacity: usize,
    rows: Vec<f32>,
    /// Per model, one value per row.
    quality: Vec<Vec<f32>>,
    /// What was expected before anything was learned.
    offset: Vec<Vec<f32>>,
    next: usize,
    evicted: u64,
    #[serde(skip)]
    place: FxHashMap<u64, u32>,
}

/// Copy of `x` with length one; a zero vector stays zero.
pub fn unit(name: &'static str, dim: usize, x: &[f32]) -> Result<Vec<f32>> {
    check_dim(name, dim, x.len())?;
    check_finite(name, x)?;
    let mut x = x.to_vec();
    // Scaled first, so that no square overflows.
    let top = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    if top > 0.0 {
        x.iter_mut().for_each(|v| *v /= top);
        kernels::normalize(&mut x);
    }
    Ok(x)
}

fn hash(x: &[f32]) -> u64 {
    let mut h = FxHasher::default();
    x.iter().for_each(|v| h.write_u32(v.to_bits()));
    h.finish()
}

impl Cases {
    /// An empty table for `models` models.
    pub fn new(models: usize, dim: usize, capacity: usize) -> Result<Self> {
        if dim == 0 {
            return Err(Error::config("dim", "at least 1", dim));
        }
        let values = capacity.saturating_mul(dim.saturating_add(2 * models));
        if capacity == 0 || capacity > u32::MAX as usize || values > MAX_VALUES {
            let most = MAX_VALUES / (dim.saturating_add(2 * models));
            return Err(Error::config("capacity", format!("1 to {most}"), capacity));
        }
        Ok(Self {
            dim,
            capacity,
            rows: Vec::new(),
            quality: vec![Vec::new(); models],
            offset: vec![Vec::new(); models],
            next: 0,
            evicted: 0,
            place: FxHashMap::default(),
        })
    }

    /// Length of a row.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Most rows.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len() / self.dim
    }

    /// Rows that gave way.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Row `i`.
    #[must_use]
    pub fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.dim..(i + 1) * self.dim]
    }

    /// Outcomes of a model, NaN where it was not tried.
    #[must_use]
    pub fn quality(&self, model: usize) -> &[f32] {
        &self.quality[model]
    }

    /// What was expected of a model on each row before anything was learned, NaN where it was not tried.
    #[must_use]
    pub fn offset(&self, model: usize) -> &[f32] {
        &self.offset[model]
    }

    /// Replaces what was expected of a model, where it was tried.
    pub fn set_offset(&mut self, row: usize, model: usize, offset: f32) {
        self.offset[model][row] = offset;
    }

    /// Rows from the oldest to the youngest.
    pub fn in_order(&self) -> impl Iterator<Item = usize> + use<> {
        let n = self.len();
        let oldest = if n == self.capacity { self.next } else { 0 };
        (0..n).map(move |i| (oldest + i) % n)
    }

    /// All rows, one after the other.
    #[must_use]
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// Number of outcomes of a model.
    #[must_use]
    pub fn count(&self, model: usize) -> usize {
        self.quality[model].iter().filter(|q| !q.is_nan()).count()
    }

    /// One more model, not tried on any row.
    pub fn add_model(&mut self) {
        let n = self.len();
        self.quality.push(vec![f32::NAN; n]);
        self.offset.push(vec![f32::NAN; n]);
    }

    /// Forgets every outcome of a model.
    pub fn clear_model(&mut self, model: usize) {
        self.quality[model].fill(f32::NAN);
        self.offset[model].fill(f32::NAN);
    }

    /// Notes an outcome at the unit vector `x`; returns (row, whether the row is new). Outcomes of different models on
    /// equal vectors share a row; a second outcome of a model is a row of its own.
    pub fn learn(&mut self, x: &[f32], model: usize, quality: f32) -> (usize, bool) {
        let key = hash(x);
        let known = self.place.get(&key).map(|i| *i as usize);
        let free = |i: &usize| self.quality[model][*i].is_nan() && self.row(*i) == x;
        let (row, new) = match known.filter(free) {
            Some(i) => (i, false),
            None => (self.add(key, x), true),
        };
        self.quality[model][row] = quality;
        (row, new)
    }

    /// Outcome of a model on the youngest row equal to `x`, if it was tried there.
    #[must_use]
    pub fn outcome(&self, x: &[f32], model: usize) -> Option<f32> {
        let row = *self.place.get(&hash(x))? as usize;
        let q = self.quality[model][row];
        (self.row(row) == x && !q.is_nan()).then_some(q)
    }

    fn columns_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        self.quality.iter_mut().chain(&mut self.offset)
    }

    fn add(&mut self, key: u64, x: &[f32]) -> usize {
        let row = self.next;
        if self.len() < self.capacity {
            self.rows.extend_from_slice(x);
            self.columns_mut().for_each(|c| c.push(f32::NAN));
        } else {
            let old = hash(self.row(row));
            if self.place.get(&old) == Some(&(row as u32)) {
                self.place.remove(&old);
            }
            self.rows[row * self.dim..(row + 1) * self.dim].copy_from_slice(x);
            self.columns_mut().for_each(|c| c[row] = f32::NAN);
            self.evicted = self.evicted.saturating_add(1);
        }
        self.place.insert(key, row as u32);
        self.next = (row + 1) % self.capacity;
        row
    }

    /// Cosine of the unit vector `x` with every row.
    #[must_use]
    pub fn similarities(&self, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        kernels::gemv(&self.rows, self.dim, x, &mut out);
        out
    }

    /// Mean of a column over the `k` rows of it that are most similar; NaN without any. Ties go to the older place.
    #[must_use]
    pub fn nearest_mean(column: &[f32], similarity: &[f32], k: usize) -> f64 {
        let known: Vec<f32> = (column.iter().zip(similarity))
            .map(|(v, s)| if v.is_nan() { f32::NEG_INFINITY } else { *s })
            .collect();
        let mut near = kernels::top_k(&known, k.min(known.len()));
        near.retain(|i| known[*i] > f32::NEG_INFINITY);
        if near.is_empty() {
            return f64::NAN;
        }
        near.iter().map(|i| f64::from(column[*i])).sum::<f64>() / near.len() as f64
    }

    /// Checks a decoded table and restores what is not stored.
    pub fn restore(&mut self, models: usize, what: &str) -> Result<()> {
        Self::new(models, self.dim, self.capacity).map_err(|e| Error::corrupt(what, e))?;
        let n = self.rows.len() / self.dim;
        let columns = || self.quality.iter().chain(&self.offset);
        let fine = self.rows.len() == n * self.dim
            && n <= self.capacity
            && self.next < self.capacity
            && (n == self.capacity || self.next == n)
            && self.quality.len() == models
            && self.offset.len() == models
            && columns().all(|c| c.len() == n && c.iter().all(|v| v.is_nan() || v.is_finite()))
            && kernels::all_finite(&self.rows);
        if !fine {
            return Err(Error::corrupt(what, "a table of cases whose sizes do not agree"));
        }
        // In the order of time, so that the youngest of equal rows is found again.
        self.place = self.in_order().map(|i| (hash(self.row(i)), i as u32)).collect();
        Ok(())
    }
}
