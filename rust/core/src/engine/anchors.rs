//! Anchors: requests with known answers that are never learned from and that the live state must not spoil.

use super::harm::{ARMS, Losses};
use super::items::{IdRef, Item};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::item::ItemId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Most anchors of a scope: each takes one row of losses in every published state.
const MOST: usize = 1000;
/// Most items that anchors are ranked among.
const MOST_ITEMS: usize = 100_000;

/// Requests with known answers, and the items that they are ranked among.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anchors {
    queries: Vec<Vec<f32>>,
    items: Vec<(ItemId, Vec<f32>)>,
    /// Positions of the right items of each request.
    relevant: Vec<Vec<u32>>,
    #[serde(skip)]
    table: Vec<Arc<Item>>,
    #[serde(skip)]
    address: u64,
}

impl Anchors {
    /// Checks and prepares a set; `relevant[i]` are the ids that answer row i of `queries`.
    pub fn new(
        dim: usize,
        queries: &[f32],
        ids: &[IdRef<'_>],
        vectors: &[f32],
        relevant: &[Vec<IdRef<'_>>],
    ) -> Result<Self> {
        let n = relevant.len();
        let sized = |name, rows: usize, got: usize| {
            if got == rows * dim {
                Ok(())
            } else {
                Err(Error::shape(
                    name,
                    format!("({rows}, {dim})"),
                    format!("{got} values"),
                ))
            }
        };
        sized("queries", n, queries.len())?;
        sized("vectors", ids.len(), vectors.len())?;
        let owned: Vec<ItemId> = ids.iter().map(|i| i.owned()).collect();
        let positions = relevant
            .iter()
            .map(|wanted| {
                wanted
                    .iter()
                    .map(|w| {
                        let w = w.owned();
                        let at = owned.iter().position(|i| *i == w);
                        at.map(|p| p as u32)
                            .ok_or_else(|| Error::value("relevant", "ids among `ids`", w))
                    })
                    .collect::<Result<Vec<u32>>>()
            })
            .collect::<Result<Vec<_>>>()?;
        Self {
            queries: queries.chunks_exact(dim).map(<[f32]>::to_vec).collect(),
            items: owned
                .into_iter()
                .zip(vectors.chunks_exact(dim).map(<[f32]>::to_vec))
                .collect(),
            relevant: positions,
            table: Vec::new(),
            address: 0,
        }
        .prepared(dim)
    }

    /// Checks everything, also what came from a file, and builds what is not stored.
    pub(super) fn prepared(mut self, dim: usize) -> Result<Self> {
        let n = self.queries.len();
        if n > MOST || self.items.len() > MOST_ITEMS {
            return Err(Error::Capacity {
                name: "anchors",
                limit: format!("at most {MOST} requests among {MOST_ITEMS} items"),
                got: format!("{n} among {}", self.items.len()),
            });
        }
        for q in &self.queries {
            check_dim("queries", dim, q.len())?;
            check_finite("queries", q)?;
        }
        for (_, v) in &self.items {
            check_dim("vectors", dim, v.len())?;
            check_finite("vectors", v)?;
        }
        let mut distinct: Vec<&ItemId> = self.items.iter().map(|(id, _)| id).collect();
        distinct.sort_unstable();
        if let Some(w) = distinct.windows(2).find(|w| w[0] == w[1]) {
            return Err(Error::value("ids", "each item once", format!("{} twice", w[0])));
        }
        for wanted in &self.relevant {
            if wanted.is_empty() || wanted.iter().any(|w| *w as usize >= self.items.len()) {
                return Err(Error::value(
                    "relevant",
                    "at least one id for each request",
                    "none",
                ));
            }
        }
        if self.relevant.len() != n {
            return Err(Error::value(
                "relevant",
                format!("{n} lists"),
                self.relevant.len(),
            ));
        }
        self.table = self
            .items
            .iter()
            .map(|(id, v)| Arc::new(Item::new(id.clone(), v)))
            .collect();
        let bytes = postcard::to_stdvec(&self).map_err(|e| Error::corrupt("anchors", e))?;
        let mut first = [0; 8];
        first.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..8]);
        self.address = u64::from_le_bytes(first);
        Ok(self)
    }

    /// Number of requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// True without requests.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// Request `i`.
    #[must_use]
    pub fn query(&self, i: usize) -> &[f32] {
        &self.queries[i]
    }

    /// Positions of the right items of request `i`.
    #[must_use]
    pub fn relevant(&self, i: usize) -> Vec<usize> {
        self.relevant[i].iter().map(|&p| p as usize).collect()
    }

    /// The items.
    #[must_use]
    pub fn items(&self) -> &[Arc<Item>] {
        &self.table
    }
}

/// The latest losses on each anchor, per multiplier.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AnchorLosses {
    of: u64,
    rows: Vec<[f32; ARMS.len()]>,
}

impl AnchorLosses {
    pub(super) fn new(anchors: &Anchors, losses: Vec<Losses>) -> Self {
        Self {
            of: anchors.address,
            rows: losses.into_iter().map(|l| l.map(|x| x as f32)).collect(),
        }
    }

    pub(super) fn are_of(&self, anchors: &Anchors) -> bool {
        self.of == anchors.address && self.rows.len() == anchors.len()
    }

    pub(super) fn set(&mut self, i: usize, losses: Losses) {
        self.rows[i] = losses.map(|x| x as f32);
    }

    /// Number of anchors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True without anchors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn mean(&self, arm: usize) -> Option<f64> {
        (!self.rows.is_empty())
            .then(|| self.rows.iter().map(|r| f64::from(r[arm])).sum::<f64>() / self.rows.len() as f64)
    }

    /// The mean loss is above this with the confidence of `z` standard errors.
    pub(super) fn lower(&self, arm: usize, z: f64) -> f64 {
        let n = self.rows.len() as f64;
        let Some(mean) = self.mean(arm).filter(|_| n > 1.0) else {
            return f64::NEG_INFINITY;
        };
        let variance = self
            .rows
            .iter()
            .map(|r| (f64::from(r[arm]) - mean).powi(2))
            .sum::<f64>()
            / (n - 1.0);
        mean - z * (variance / n).sqrt()
    }

    pub(super) fn is_valid(&self) -> bool {
        self.rows.len() <= MOST && self.rows.iter().flatten().all(|v| v.is_finite())
    }
}
