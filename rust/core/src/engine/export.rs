//! What leaves the engine: preferences from the journal, adapters.

use super::Engine;
use super::event::{DecisionEvent, DecisionId, Event};
use super::items::Item;
use super::journal::Positions;
use crate::error::{Error, Result};
use crate::item::ItemId;
use crate::lora::{Factors, MicroLora};
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

    /// The slow adapter of a scope with its fast one merged in, exactly: the ranks add up. An error if it has neither.
    pub fn adapter(&self, scope: &str) -> Result<AdapterFactors> {
        let live = self.scope(scope).map(|s| s.live.load_full());
        let live = live.as_deref();
        let base = live
            .and_then(|l| l.base.as_deref())
            .map(|b| b.factors(0))
            .transpose()?;
        let micro = live.and_then(|l| l.micro.as_deref()).map(MicroLora::factors);
        match (base, micro) {
            (Some(base), Some(micro)) if !micro.is_identity() => Ok(sum_of(base, micro)),
            (Some(one), _) | (None, Some(one)) => Ok(AdapterFactors {
                a: one.a().to_vec(),
                b: one.b().to_vec(),
                alpha: f64::from(one.scale()) * one.rank() as f64,
                rank: one.rank(),
            }),
            (None, None) => Err(Error::Learning(format!(
                "scope {scope:?} has no adapter: a background cycle must have published one, or traces have trained one"
            ))),
        }
    }
}

/// Both deltas as one: rows of A below each other, columns of B beside each other, the scales in B.
fn sum_of(x: &Factors, y: &Factors) -> AdapterFactors {
    let rank = x.rank() + y.rank();
    let mut b = Vec::with_capacity(x.dim() * rank);
    for (p, q) in x.b().chunks_exact(x.rank()).zip(y.b().chunks_exact(y.rank())) {
        b.extend(p.iter().map(|v| v * x.scale()));
        b.extend(q.iter().map(|v| v * y.scale()));
    }
    AdapterFactors {
        a: [x.a(), y.a()].concat(),
        b,
        alpha: rank as f64,
        rank,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_is_exact() {
        let draw = |n: usize, k: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * k).sin()).collect() };
        let d = 7;
        let x = Factors::new(d, 3, 0.5, draw(3 * d, 0.7), draw(3 * d, 1.3)).unwrap();
        let y = Factors::new(d, 2, 0.7, draw(2 * d, 0.3), draw(2 * d, 2.1)).unwrap();
        let both = sum_of(&x, &y);
        let scale = (both.alpha / both.rank as f64) as f32;
        let merged = Factors::new(d, both.rank, scale, both.a, both.b).unwrap();
        let q = draw(d, 0.9);
        let (mut a, mut b, mut sum) = (vec![0.0; d], vec![0.0; d], vec![0.0; d]);
        x.delta_into(&q, &mut a).unwrap();
        y.delta_into(&q, &mut b).unwrap();
        merged.delta_into(&q, &mut sum).unwrap();
        for i in 0..d {
            assert!((a[i] + b[i] - sum[i]).abs() < 1e-5, "{i}");
        }
    }
}
