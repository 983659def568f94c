//! What users chose, from the journal: the raw material of a memory graph.

use super::Engine;
use super::event::{DecisionEvent, DecisionId, Event};
use super::items::Item;
use super::journal::Positions;
use crate::error::Result;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// One judged item of one decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Click {
    /// The decision, with query and time.
    pub decision: Arc<DecisionEvent>,
    /// The item, with its vector.
    pub item: Arc<Item>,
    /// In [-1, 1].
    pub reward: f32,
}

impl Engine {
    /// Every judged item of a scope that the journal holds, in order. O(journal).
    pub fn clicks(&self, scope: &str) -> Result<Vec<Click>> {
        let _guard = self.enter()?;
        let mut items: FxHashMap<u64, Arc<Item>> = FxHashMap::default();
        if let Some(s) = self.scope(scope) {
            items.extend(s.items.read().iter().map(|i| (i.hash, i.clone())));
        }
        let journal = self.journal.lock();
        let mut decisions: FxHashMap<DecisionId, Arc<DecisionEvent>> = FxHashMap::default();
        let mut out = Vec::new();
        for s in journal.history(&Positions::new())? {
            match s?.stamped.event {
                Event::Item { id, vector, .. } => {
                    let item = Arc::new(Item::new(id, &vector));
                    items.insert(item.hash, item);
                }
                Event::Decision(d) if *d.scope == *scope => drop(decisions.insert(d.id, Arc::new(d))),
                Event::Feedback(f) => {
                    let Some(d) = decisions.get(&f.decision) else {
                        continue;
                    };
                    let known = f
                        .rewards
                        .iter()
                        .filter_map(|(hash, r)| Some((items.get(hash)?, *r)));
                    out.extend(known.map(|(item, reward)| Click {
                        decision: d.clone(),
                        item: item.clone(),
                        reward,
                    }));
                }
                _ => {}
            }
        }
        Ok(out)
    }
}
