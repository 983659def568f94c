//! What the journal records: enough to rebuild every learned bit by replay.

use super::anchors::Anchors;
use super::encoder::Encoder;
use crate::error::{Error, Result};
use crate::item::ItemId;
use crate::trajectory::TrajectoryStep;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Layout of the payloads below; a reader refuses any other.
const EVENT_VERSION: u8 = 2;

/// Identifier of a decision: the journal writer's number and a counter. Unique within a state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DecisionId(pub u64);

impl DecisionId {
    const COUNTER_BITS: u32 = 40;

    /// From the writer's number and its counter.
    #[must_use]
    pub fn new(worker: u32, counter: u64) -> Self {
        Self((u64::from(worker) << Self::COUNTER_BITS) | (counter & ((1 << Self::COUNTER_BITS) - 1)))
    }

    /// Number of the writer that made the decision.
    #[must_use]
    pub fn worker(self) -> u32 {
        (self.0 >> Self::COUNTER_BITS) as u32
    }

    /// The writer's counter.
    #[must_use]
    pub fn counter(self) -> u64 {
        self.0 & ((1 << Self::COUNTER_BITS) - 1)
    }

    /// Reads back the text form.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = text
            .strip_prefix('d')
            .and_then(|t| t.split_once('-'))
            .and_then(|(w, c)| {
                let worker = u32::from_str_radix(w, 16).ok().filter(|&w| w < 1 << 24)?;
                let counter = u64::from_str_radix(c, 16)
                    .ok()
                    .filter(|&c| c < 1 << Self::COUNTER_BITS)?;
                Some(Self::new(worker, counter))
            });
        parsed.ok_or_else(|| {
            Error::value(
                "decision_id",
                "the id of a decision (such as \"d0-1f\")",
                format!("{text:?}"),
            )
        })
    }
}

impl std::fmt::Display for DecisionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "d{:x}-{:x}", self.worker(), self.counter())
    }
}

/// A ranking that was returned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionEvent {
    /// Its id.
    pub id: DecisionId,
    /// Scope it was made in.
    pub scope: Arc<str>,
    /// Query vector as it came.
    pub query: Vec<f32>,
    /// Content addresses of all candidates, in the caller's order.
    pub items: Vec<u64>,
    /// The application's own scores, if it gave them.
    pub base: Option<Vec<f32>>,
    /// Positions shown, best first.
    pub shown: Vec<u32>,
    /// Probability with which each shown place was filled as it was.
    pub propensities: Vec<f32>,
    /// Version of the state that decided.
    pub version: u64,
    /// False if what was learned did not act (shadow, observe, canary's rest).
    pub acted: bool,
    /// On whose behalf; empty if unknown.
    pub user: Arc<str>,
    /// Seconds since the epoch.
    pub now: f64,
}

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedbackEvent {
    /// The decision.
    pub decision: DecisionId,
    /// Scope of the decision.
    pub scope: Arc<str>,
    /// Content address and reward in [−1, 1] of each judged item.
    pub rewards: Vec<(u64, f32)>,
    /// Quality in [0, 1] of the whole answer, if that was what came.
    pub quality: Option<f32>,
    /// Who says so ("click", "judge", …).
    pub source: Arc<str>,
    /// On whose behalf; empty if unknown.
    pub user: Arc<str>,
    /// False in observe mode: recorded only.
    pub learn: bool,
    /// Seconds since the epoch.
    pub now: f64,
}

/// Any other kind of request, with its steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceEvent {
    /// Scope.
    pub scope: Arc<str>,
    /// Query vector.
    pub query: Vec<f32>,
    /// What was done, in order.
    pub steps: Vec<TrajectoryStep>,
    /// Final quality in [0, 1].
    pub quality: f32,
    /// Who reports.
    pub source: Arc<str>,
    /// On whose behalf; empty if unknown.
    pub user: Arc<str>,
    /// False in observe mode.
    pub learn: bool,
    /// Seconds since the epoch.
    pub now: f64,
}

/// One record of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// An item's vector, before the first decision that lists it.
    Item {
        /// Scope that saw it.
        scope: Arc<str>,
        /// The application's id.
        id: ItemId,
        /// Vector as it came.
        vector: Vec<f32>,
    },
    /// A ranking.
    Decision(DecisionEvent),
    /// An outcome.
    Feedback(FeedbackEvent),
    /// A finished trace.
    Trace(TraceEvent),
    /// A background cycle took its input here.
    CycleStart {
        /// Scope that is trained.
        scope: Arc<str>,
        /// Seconds since the epoch.
        now: f64,
        /// Content addresses of the items that it read: what is evicted later, or came later, must not change its result.
        items: Vec<u64>,
    },
    /// What the cycle that started last in this scope found was applied here; replay computes it again.
    CyclePublish {
        /// Scope that was trained.
        scope: Arc<str>,
    },
    /// The learned state went back to an earlier version.
    Rollback {
        /// Scope, or all of them.
        scope: Option<Arc<str>>,
        /// Version that is live again.
        to: u64,
    },
    /// The anchors of a scope from here on; an empty set takes them away.
    Anchors {
        /// Scope.
        scope: Arc<str>,
        /// The set.
        anchors: Arc<Anchors>,
    },
    /// The encoder that all vectors come from.
    Encoder(Arc<Encoder>),
    /// As [`Event::CyclePublish`], where the deadline ended the training.
    CycleCut {
        /// Scope that was trained.
        scope: Arc<str>,
        /// Training steps that there was time for.
        steps: u64,
    },
}

/// An event with its place in the history: Lamport's clock (1978) orders writers that share a directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// Logical time; a learning event's stamp is the version that it makes.
    pub lamport: u64,
    /// What happened.
    pub event: Event,
}

impl Stamped {
    /// Bytes for the journal.
    pub fn encode(&self) -> Result<Vec<u8>> {
        postcard::to_extend(self, vec![EVENT_VERSION]).map_err(|e| Error::corrupt("journal event", e))
    }

    /// Reads back what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        match bytes.split_first() {
            Some((&EVENT_VERSION, rest)) => {
                let (value, rest) =
                    postcard::take_from_bytes(rest).map_err(|e| Error::corrupt("journal event", e))?;
                if rest.is_empty() {
                    Ok(value)
                } else {
                    Err(Error::corrupt("journal event", "bytes left over"))
                }
            }
            Some((v, _)) => Err(Error::corrupt(
                "journal event",
                format!("layout {v}, this build reads {EVENT_VERSION}"),
            )),
            None => Err(Error::corrupt("journal event", "empty record")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decision_ids_round_trip(worker in 0u32..1 << 24, counter in 0u64..1 << 40) {
            let id = DecisionId::new(worker, counter);
            prop_assert_eq!((id.worker(), id.counter()), (worker, counter));
            prop_assert_eq!(DecisionId::parse(&id.to_string()).unwrap(), id);
        }

        #[test]
        fn hostile_ids_and_bytes_are_refused(text in ".{0,20}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(id) = DecisionId::parse(&text) {
                prop_assert_eq!(DecisionId::parse(&id.to_string()).unwrap(), id);
            }
            let _unless_valid = Stamped::decode(&bytes);
        }
    }

    #[test]
    fn events_round_trip() {
        let s = Stamped {
            lamport: 9,
            event: Event::Item {
                scope: "default".into(),
                id: ItemId::Tuple(vec!["a".into(), 3.into()].into()),
                vector: vec![1.0, -0.5],
            },
        };
        assert_eq!(Stamped::decode(&s.encode().unwrap()).unwrap(), s);
    }
}
