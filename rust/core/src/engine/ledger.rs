//! Facts about feedback that no rollback undoes: what was counted already, and how much each user and source sent.

use super::anchors::Anchors;
use super::config::EngineConfig;
use super::event::FeedbackEvent;
use crate::error::Result;
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Feedback remembered for recognising repeats, at most, and per trajectory of the engine's capacity.
const REMEMBERED: usize = 1 << 20;
const REMEMBERED_PER_TRAJECTORY: usize = 100;
/// Users whose rate is tracked at a time.
const TRACKED: usize = 1 << 16;

/// What became of a feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Learn from it.
    Learn,
    /// The same feedback came before.
    Duplicate,
    /// Its user or source sent too much within the minute.
    Capped,
    /// It came too long after its decision.
    Expired,
}

/// Counters of one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCount {
    /// Feedback that was learned from.
    pub learned: u64,
    /// Feedback over the cap.
    pub capped: u64,
    /// Feedback that came too late.
    pub expired: u64,
}

/// Duplicates, caps and counts of one scope. Depends on the events alone, so that replay decides alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    order: VecDeque<u64>,
    #[serde(skip)]
    seen: FxHashSet<u64>,
    minutes: BTreeMap<String, (i64, u32)>,
    /// By source.
    pub sources: BTreeMap<String, SourceCount>,
    /// Feedback that came before.
    pub duplicates: u64,
    /// Queries and qualities of traces that the next background cycle takes in.
    pub traces: VecDeque<(Vec<f32>, f32)>,
    /// Traces that are no longer there: taken in, or gone to make room.
    traces_gone: u64,
    /// Requests with known answers that the live state must not spoil.
    pub anchors: Option<Arc<Anchors>>,
}

/// Identity of a feedback: same decision, same judgement, same source and user.
fn fingerprint(e: &FeedbackEvent) -> u64 {
    let mut h = blake3::Hasher::new();
    h.update(&e.decision.0.to_le_bytes());
    let mut rewards = e.rewards.clone();
    rewards.sort_by_key(|(item, _)| *item);
    for (item, reward) in rewards {
        h.update(&item.to_le_bytes()).update(&reward.to_le_bytes());
    }
    h.update(&e.quality.map_or([0xff; 4], f32::to_le_bytes));
    h.update(&(e.source.len() as u64).to_le_bytes())
        .update(e.source.as_bytes())
        .update(e.user.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&h.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

impl Ledger {
    /// True if this very feedback was counted before.
    #[must_use]
    pub fn is_duplicate(&self, e: &FeedbackEvent) -> bool {
        self.seen.contains(&fingerprint(e))
    }

    /// Counts a feedback on a decision of time `decided` and says what to do with it.
    pub fn admit(&mut self, e: &FeedbackEvent, decided: f64, config: &EngineConfig) -> Verdict {
        let key = fingerprint(e);
        if !self.seen.insert(key) {
            self.duplicates += 1;
            return Verdict::Duplicate;
        }
        self.order.push_back(key);
        let most = config.capacity.saturating_mul(REMEMBERED_PER_TRAJECTORY);
        if self.order.len() > most.min(REMEMBERED) {
            if let Some(old) = self.order.pop_front() {
                self.seen.remove(&old);
            }
        }
        if e.now - decided > config.decision_ttl_s {
            self.sources.entry(e.source.to_string()).or_default().expired += 1;
            return Verdict::Expired;
        }
        self.within_caps(&e.user, &e.source, e.now, config)
    }

    /// Counts an outcome against the caps of its user and source: `Learn` or `Capped`.
    pub fn within_caps(&mut self, user: &str, source: &str, now: f64, config: &EngineConfig) -> Verdict {
        let minute = (now / 60.0).floor() as i64;
        let user_cap = if user.is_empty() {
            0
        } else {
            config.user_cap_per_minute
        };
        let source_cap = config.source_caps.get(source).copied();
        let user_ok = user_cap == 0 || self.count(format!("u:{user}"), minute) <= user_cap;
        let source_ok = source_cap.is_none_or(|cap| self.count(format!("s:{source}"), minute) <= cap);
        let entry = self.sources.entry(source.to_owned()).or_default();
        if user_ok && source_ok {
            entry.learned += 1;
            Verdict::Learn
        } else {
            entry.capped += 1;
            Verdict::Capped
        }
    }

    /// Keeps a trace for the next background cycle; the oldest go over `capacity`.
    pub fn keep_trace(&mut self, query: &[f32], quality: f32, capacity: usize) {
        if self.traces.len() >= capacity && self.traces.pop_front().is_some() {
            self.traces_gone += 1;
        }
        self.traces.push_back((query.to_vec(), quality));
    }

    /// How many traces there ever were.
    #[must_use]
    pub fn traces_seen(&self) -> u64 {
        self.traces_gone + self.traces.len() as u64
    }

    /// Lets go of the traces up to the `seen`-th: a cycle has taken them in.
    pub fn drop_traces(&mut self, seen: u64) {
        while self.traces_gone < seen && self.traces.pop_front().is_some() {
            self.traces_gone += 1;
        }
    }

    fn count(&mut self, who: String, minute: i64) -> u32 {
        if self.minutes.len() >= TRACKED && !self.minutes.contains_key(&who) {
            // Only the current minute matters: what is older says nothing any more.
            self.minutes.retain(|_, (m, _)| *m >= minute);
        }
        let slot = self.minutes.entry(who).or_insert((minute, 0));
        if slot.0 != minute {
            *slot = (minute, 0);
        }
        slot.1 += 1;
        slot.1
    }

    /// Rebuilds what is not serialised.
    pub fn restore(&mut self, dim: usize) -> Result<()> {
        self.seen = FxHashSet::from_iter(self.order.iter().copied());
        if let Some(anchors) = self.anchors.take() {
            self.anchors = Some(Arc::new((*anchors).clone().prepared(dim)?));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::DecisionId;
    use super::*;

    fn feedback(decision: u64, user: &str, source: &str, now: f64) -> FeedbackEvent {
        FeedbackEvent {
            decision: DecisionId(decision),
            scope: "s".into(),
            rewards: vec![(1, 1.0)],
            quality: None,
            source: source.into(),
            user: user.into(),
            learn: true,
            now,
        }
    }

    #[test]
    fn repeats_are_recognised_after_a_round_trip() {
        let config = EngineConfig::new(2);
        let mut l = Ledger::default();
        assert_eq!(
            l.admit(&feedback(1, "u", "click", 0.0), 0.0, &config),
            Verdict::Learn
        );
        let bytes = postcard::to_stdvec(&l).unwrap();
        let mut l: Ledger = postcard::from_bytes(&bytes).unwrap();
        l.restore(2).unwrap();
        assert!(l.is_duplicate(&feedback(1, "u", "click", 99.0)));
        assert_eq!(
            l.admit(&feedback(1, "u", "click", 99.0), 0.0, &config),
            Verdict::Duplicate
        );
        assert_eq!(
            l.admit(&feedback(1, "v", "click", 99.0), 0.0, &config),
            Verdict::Learn
        );
        assert_eq!(l.duplicates, 1);
    }

    #[test]
    fn one_user_cannot_flood() {
        let config = EngineConfig {
            user_cap_per_minute: 3,
            ..EngineConfig::new(2)
        };
        let mut l = Ledger::default();
        let learned = (0..10)
            .filter(|&i| l.admit(&feedback(i, "u", "click", 1.0), 0.0, &config) == Verdict::Learn)
            .count();
        assert_eq!(learned, 3);
        assert_eq!(
            l.admit(&feedback(11, "v", "click", 1.0), 0.0, &config),
            Verdict::Learn
        );
        assert_eq!(
            l.admit(&feedback(12, "u", "click", 61.0), 0.0, &config),
            Verdict::Learn
        );
        assert_eq!(
            l.sources["click"],
            SourceCount {
                learned: 5,
                capped: 7,
                expired: 0,
            }
        );
    }

    #[test]
    fn named_sources_have_their_own_cap() {
        let config = EngineConfig {
            source_caps: BTreeMap::from([("bot".into(), 2)]),
            ..EngineConfig::new(2)
        };
        let mut l = Ledger::default();
        let learned = (0..5)
            .filter(|&i| l.admit(&feedback(i, "", "bot", 1.0), 0.0, &config) == Verdict::Learn)
            .count();
        assert_eq!(learned, 2);
        assert_eq!(
            l.admit(&feedback(9, "", "click", 1.0), 0.0, &config),
            Verdict::Learn
        );
    }

    #[test]
    fn late_feedback_is_counted_and_not_learned() {
        let config = EngineConfig {
            decision_ttl_s: 10.0,
            ..EngineConfig::new(2)
        };
        let mut l = Ledger::default();
        assert_eq!(
            l.admit(&feedback(1, "u", "click", 110.0), 100.0, &config),
            Verdict::Learn
        );
        assert_eq!(
            l.admit(&feedback(2, "u", "click", 110.1), 100.0, &config),
            Verdict::Expired
        );
        assert_eq!((l.sources["click"].learned, l.sources["click"].expired), (1, 1));
    }
}
