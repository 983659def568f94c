//! Whom to forget, without naming them: what a living writer has yet to take out of its log.

use super::event::{DecisionId, Event, Stamped};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A user or a source, by digest: a request that waits in the state directory must not be a trace of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Everything of a user.
    User([u8; 32]),
    /// All feedback of a source.
    Source([u8; 32]),
}

fn digest(kind: &str, name: &str) -> [u8; 32] {
    blake3::derive_key(kind, name.as_bytes())
}

impl Target {
    /// A user.
    #[must_use]
    pub fn user(name: &str) -> Self {
        Self::User(digest("sona forget user", name))
    }

    /// A source.
    #[must_use]
    pub fn source(name: &str) -> Self {
        Self::Source(digest("sona purge source", name))
    }

    /// True if `name` is the user to forget.
    #[must_use]
    pub fn is_user(&self, name: &str) -> bool {
        matches!(self, Self::User(d) if !name.is_empty() && *d == digest("sona forget user", name))
    }

    fn is_source(&self, name: &str) -> bool {
        matches!(self, Self::Source(d) if *d == digest("sona purge source", name))
    }
}

/// What is to be forgotten, up to a logical time: whoever comes back later is welcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    target: Target,
    until: u64,
    /// Decisions made for the user or judged by them.
    decisions: BTreeSet<DecisionId>,
}

impl Tombstone {
    /// Nothing is marked yet; see [`Self::mark`].
    #[must_use]
    pub fn new(target: Target, until: u64) -> Self {
        Self {
            target,
            until,
            decisions: BTreeSet::new(),
        }
    }

    /// Last logical time that is forgotten.
    #[must_use]
    pub fn until(&self) -> u64 {
        self.until
    }

    /// Whom.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Number of decisions that go.
    #[must_use]
    pub fn decisions(&self) -> usize {
        self.decisions.len()
    }

    /// True if the decision goes.
    #[must_use]
    pub fn takes(&self, decision: DecisionId) -> bool {
        self.decisions.contains(&decision)
    }

    /// First pass over the history: notes the decisions that the event marks.
    pub fn mark(&mut self, s: &Stamped) {
        if s.lamport > self.until {
            return;
        }
        match &s.event {
            Event::Decision(d) if self.target.is_user(&d.user) => drop(self.decisions.insert(d.id)),
            Event::Feedback(f) if self.target.is_user(&f.user) => drop(self.decisions.insert(f.decision)),
            _ => {}
        }
    }

    /// True if the event is forgotten.
    #[must_use]
    pub fn hides(&self, s: &Stamped) -> bool {
        if s.lamport > self.until {
            return false;
        }
        match &s.event {
            Event::Decision(d) => self.takes(d.id) || self.target.is_user(&d.user),
            Event::Feedback(f) => {
                self.takes(f.decision) || self.target.is_user(&f.user) || self.target.is_source(&f.source)
            }
            Event::Trace(t) => self.target.is_user(&t.user) || self.target.is_source(&t.source),
            Event::Item { .. }
            | Event::Anchors { .. }
            | Event::Encoder(_)
            | Event::CycleStart { .. }
            | Event::CyclePublish { .. }
            | Event::CycleCut { .. }
            | Event::Rollback { .. } => false,
        }
    }
}
