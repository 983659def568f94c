//! Many adapters at once: rows are grouped, so that every adapter is fetched once and stays in the cache for all its rows.

use super::AdapterPool;
use crate::error::{Error, Result, check_dim};
use crate::lora::factors::Factors;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows by adapter, ready to be computed without the pool.
#[derive(Debug)]
pub struct Grouped {
    dim: usize,
    rows: usize,
    groups: Vec<(Arc<Factors>, Vec<usize>)>,
}

impl AdapterPool {
    /// Whether `id` is, or leads to, an adapter of this pool.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.entries.contains_key(&self.resolve(id))
    }

    /// The adapters of `ids`, one per row. Nothing is fetched if an id is wrong.
    pub fn group(&mut self, ids: &[u64]) -> Result<Grouped> {
        let dim = self.config.dim;
        let mut rows: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (row, id) in ids.iter().enumerate() {
            rows.entry(self.resolve(*id)).or_default().push(row);
        }
        if let Some(id) = rows.keys().find(|id| !self.entries.contains_key(id)) {
            return Err(Error::value("ids", "adapters of this pool", id));
        }
        let mut groups = Vec::with_capacity(rows.len());
        for (id, rows) in rows {
            let adapter = self
                .get(id)?
                .ok_or_else(|| Error::value("ids", "adapters that fit into the budget together", id))?;
            groups.push((adapter.snapshot(), rows));
        }
        Ok(Grouped {
            dim,
            rows: ids.len(),
            groups,
        })
    }
}

impl Grouped {
    /// Every row through its adapter; O(rows · rank · d). Errors at the first row that is not finite.
    pub fn forward(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        check_dim("x", self.rows * self.dim, x.len())?;
        check_dim("out", x.len(), out.len())?;
        for (factors, rows) in &self.groups {
            for row in rows {
                let at = row * self.dim..(row + 1) * self.dim;
                factors.forward_into(&x[at.clone()], &mut out[at])?;
            }
        }
        Ok(())
    }
}
