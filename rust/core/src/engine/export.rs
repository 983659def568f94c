//! What leaves the engine: preferences from the journal, adapters.

use super::Engine;
use super::event::{DecisionEvent, DecisionId, Event};
use super::items::Item;
use super::journal::Positions;
use crate::error::{Error, Result};
use crate::item::ItemId;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// An item that was chosen over one that was shown and not chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Preference {
    /// The decision, with scope, query, user and time.
    pub decision: Arc<DecisionEvent>,
    /// What was chosen.
    pub chosen: ItemId,
    /// What was passed over.
    pub rejected: ItemId,
    /// Reward of the chosen item, above 0.
    pub reward: f32,
    /// Probability with which the chosen item's place was filled as it was; `None` if it was not shown.
    pub propensity: Option<f32>,
    /// Who said so.
    pub source: Arc<str>,
    /// On whose behalf.
    pub user: Arc<str>,
}

/// Factors of an adapter: A (r, d) and B (d, r) by rows, α, r and d.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFactors {
    /// A.
    pub a: Vec<f32>,
    /// B.
    pub b: Vec<f32>,
    /// The update is (α/r)·B·A.
    pub alpha: f64,
    /// Rank.
    pub rank: usize,
}

impl Engine {
    /// Every preference that the journal holds, in order. O(journal).
    pub fn preferences(&self) -> Result<Vec<Preference>> {
        let _guard = self.enter()?;
        let mut ids: FxHashMap<u64, ItemId> = FxHashMap::default();
        for scope in self.scopes.load().values() {
            ids.extend(scope.items.read().iter().map(|i| (i.hash, i.id.clone())));
        }
        let journal = self.journal.lock();
        let mut decisions: FxHashMap<DecisionId, Arc<DecisionEvent>> = FxHashMap::default();
        let mut out = Vec::new();
        for s in journal.history(&Positions::new())? {
            match s?.stamped.event {
                Event::Item { id, vector, .. } => {
                    let item = Item::new(id, &vector);
                    ids.insert(item.hash, item.id);
                }
                Event::Decision(d) => drop(decisions.insert(d.id, Arc::new(d))),
                Event::Feedback(f) => {
                    let Some(d) = decisions.get(&f.decision) else {
                        continue;
                    };
                    let shown: Vec<u64> = d
                        .shown
                        .iter()
                        .filter_map(|&p| d.items.get(p as usize).copied())
                        .collect();
                    for (chosen, reward) in f.rewards.iter().filter(|(_, r)| *r > 0.0) {
                        let place = shown.iter().position(|h| h == chosen);
                        for rejected in shown.iter().filter(|h| f.rewards.iter().all(|(c, _)| c != *h)) {
                            if let (Some(a), Some(b)) = (ids.get(chosen), ids.get(rejected)) {
                                out.push(Preference {
                                    decision: d.clone(),
                                    chosen: a.clone(),
                                    rejected: b.clone(),
                                    reward: *reward,
                                    propensity: place.and_then(|p| d.propensities.get(p).copied()),
                                    source: f.source.clone(),
                                    user: f.user.clone(),
                                });
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(out)
    }

    /// The slow adapter of a scope, else its fast one; an error if it has none.
    pub fn adapter(&self, scope: &str) -> Result<AdapterFactors> {
        let live = self.scope(scope).map(|s| s.live.load_full());
        let base = live.as_ref().and_then(|l| l.base.as_deref());
        if let Some(base) = base {
            let f = base.factors(0)?;
            return Ok(AdapterFactors {
                a: f.a().to_vec(),
                b: f.b().to_vec(),
                alpha: f64::from(f.scale()) * f.rank() as f64,
                rank: f.rank(),
            });
        }
        let Some(micro) = live.as_ref().and_then(|l| l.micro.as_deref()) else {
            return Err(Error::Learning(format!(
                "scope {scope:?} has no adapter: a background cycle must have published one, or traces have trained one"
            )));
        };
        let f = micro.factors();
        Ok(AdapterFactors {
            a: f.a().to_vec(),
            b: f.b().to_vec(),
            alpha: f64::from(f.scale()) * f.rank() as f64,
            rank: f.rank(),
        })
    }
}
