//! Decisions that may still get feedback, bounded in number and bytes.

use super::event::{DecisionEvent, DecisionId};
use super::items::Item;
use super::learned::Learned;
use super::listing::Ranking;
use crate::patterns::cases::Found;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// A decision with its candidates at hand.
#[derive(Debug)]
pub struct DecisionRecord {
    /// Id.
    pub id: DecisionId,
    /// Scope.
    pub scope: Arc<str>,
    /// Query as it came.
    pub query: Box<[f32]>,
    /// Candidates in the caller's order.
    pub items: Vec<Arc<Item>>,
    /// The application's scores, if given.
    pub base: Option<Box<[f32]>>,
    /// Positions shown, best first.
    pub shown: Vec<u32>,
    /// Probability of each shown place.
    pub propensities: Vec<f32>,
    /// Version that decided.
    pub version: u64,
    /// Whether what was learned acted.
    pub acted: bool,
    /// On whose behalf; empty if unknown.
    pub user: Arc<str>,
    /// Seconds since the epoch.
    pub now: f64,
    /// In a memory journal decisions are written with their first feedback only.
    journaled: AtomicBool,
    answered: AtomicBool,
    /// Boxed: few decisions have it, and a ranking is larger than the rest of a record.
    warm: Mutex<Option<Box<Warm>>>,
}

/// A ranking with the state that made it: while that is the live one, feedback need not rank again.
#[derive(Debug)]
struct Warm {
    state: Weak<Learned>,
    ranking: Option<Ranking>,
    found: Option<Arc<Found>>,
}

/// What is still known of a decision when its feedback comes.
#[derive(Debug, Default)]
pub struct Known {
    /// The ranking, if the state is still the one that made it.
    pub ranking: Option<Ranking>,
    /// What the search found.
    pub found: Option<Arc<Found>>,
}

impl DecisionRecord {
    /// From its parts; `journaled` if the journal holds it already.
    #[must_use]
    pub fn new(event: DecisionEvent, items: Vec<Arc<Item>>, journaled: bool) -> Self {
        Self {
            id: event.id,
            scope: event.scope,
            query: event.query.into(),
            items,
            base: event.base.map(Into::into),
            shown: event.shown,
            propensities: event.propensities,
            version: event.version,
            acted: event.acted,
            user: event.user,
            now: event.now,
            journaled: AtomicBool::new(journaled),
            answered: AtomicBool::new(false),
            warm: Mutex::new(None),
        }
    }

    /// With the ranking of `state` that it came from.
    #[must_use]
    pub fn with_ranking(mut self, state: &Arc<Learned>, ranking: Ranking) -> Self {
        let state = Arc::downgrade(state);
        *self.warm.get_mut() = Some(Box::new(Warm {
            state,
            found: ranking.probe.found().cloned(),
            ranking: Some(ranking),
        }));
        self
    }

    /// What was kept that still holds for `live`. The ranking is given once.
    #[must_use]
    pub fn known(&self, live: &Arc<Learned>) -> Known {
        let mut warm = self.warm.lock();
        let Some(warm) = warm.as_mut() else {
            return Known::default();
        };
        let ranking = warm.ranking.take();
        Known {
            // A weak handle keeps the address from being used again.
            ranking: ranking.filter(|_| std::ptr::eq(warm.state.as_ptr(), Arc::as_ptr(live))),
            found: warm.found.clone(),
        }
    }

    fn ranking_bytes(&self) -> usize {
        let warm = self.warm.lock();
        let ranking = warm.as_ref().and_then(|w| w.ranking.as_ref());
        ranking.map_or(0, Ranking::nbytes)
    }

    fn found_bytes(&self) -> usize {
        let warm = self.warm.lock();
        let found = warm.as_ref().and_then(|w| w.found.as_ref());
        found.map_or(0, |f| f.nbytes())
    }

    fn drop_ranking(&self) {
        if let Some(warm) = self.warm.lock().as_mut() {
            warm.ranking = None;
        }
    }

    fn drop_found(&self) {
        *self.warm.lock() = None;
    }

    /// The journal's form.
    #[must_use]
    pub fn event(&self) -> DecisionEvent {
        DecisionEvent {
            id: self.id,
            scope: self.scope.clone(),
            query: self.query.to_vec(),
            items: self.items.iter().map(|i| i.hash).collect(),
            base: self.base.as_ref().map(|b| b.to_vec()),
            shown: self.shown.clone(),
            propensities: self.propensities.clone(),
            version: self.version,
            acted: self.acted,
            user: self.user.clone(),
            now: self.now,
        }
    }

    /// True exactly once if the journal does not hold the decision yet.
    pub fn claim_journaling(&self) -> bool {
        !self.journaled.swap(true, Ordering::AcqRel)
    }

    /// Notes that feedback came. More of it is rare, and a new search finds the same: the old one goes.
    pub fn answer(&self) {
        self.answered.store(true, Ordering::Release);
        self.drop_found();
    }

    fn is_unanswered(&self) -> bool {
        !self.answered.load(Ordering::Acquire)
    }

    /// Takes back [`Self::claim_journaling`] after a failed write.
    pub fn unclaim_journaling(&self) {
        self.journaled.store(false, Ordering::Release);
    }

    /// Bytes without the shared items.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        std::mem::size_of::<Self>()
            + 4 * (self.query.len()
                + self.base.as_ref().map_or(0, |b| b.len())
                + self.shown.len()
                + self.propensities.len())
            + 8 * self.items.len()
            + 64
    }
}

/// Rankings kept for feedback that comes before the state changes, at most: in number, and in bytes.
const RANKINGS: (usize, usize) = (64, 4 << 20);
/// Searches kept for feedback that comes later.
const SEARCHES: (usize, usize) = (4096, 16 << 20);

/// Decisions that hold more than themselves, oldest first, with the bytes of it.
#[derive(Debug, Default)]
struct Extras {
    order: VecDeque<(DecisionId, usize)>,
    nbytes: usize,
}

impl Extras {
    fn push(&mut self, id: DecisionId, size: usize) {
        if size > 0 {
            self.order.push_back((id, size));
            self.nbytes += size;
        }
    }

    /// The oldest, if there are more than `most` in number or bytes. The newest stays.
    fn over(&mut self, (most, most_bytes): (usize, usize)) -> Option<DecisionId> {
        let over = self.order.len() > most || self.nbytes > most_bytes;
        (over && self.order.len() > 1).then(|| self.pop()).flatten()
    }

    fn pop(&mut self) -> Option<DecisionId> {
        let (id, size) = self.order.pop_front()?;
        self.nbytes -= size;
        Some(id)
    }
}

/// The most recent decisions.
#[derive(Debug)]
pub struct Pending {
    map: FxHashMap<DecisionId, Arc<DecisionRecord>>,
    order: VecDeque<DecisionId>,
    rankings: Extras,
    searches: Extras,
    nbytes: usize,
    capacity: usize,
    max_bytes: usize,
    evicted: u64,
    censored: u64,
    latest: f64,
}

impl Pending {
    /// At most `capacity` decisions and `max_bytes` bytes; the oldest go first.
    #[must_use]
    pub fn new(capacity: usize, max_bytes: usize) -> Self {
        Self {
            map: FxHashMap::default(),
            order: VecDeque::new(),
            rankings: Extras::default(),
            searches: Extras::default(),
            nbytes: 0,
            capacity,
            max_bytes,
            evicted: 0,
            censored: 0,
            latest: f64::NEG_INFINITY,
        }
    }

    /// Takes a decision.
    pub fn insert(&mut self, record: Arc<DecisionRecord>) {
        let (id, size) = (record.id, record.nbytes());
        self.rankings.push(id, record.ranking_bytes());
        self.searches.push(id, record.found_bytes());
        while let Some(old) = self.rankings.over(RANKINGS) {
            self.map.get(&old).inspect(|r| r.drop_ranking());
        }
        while let Some(old) = self.searches.over(SEARCHES) {
            self.map.get(&old).inspect(|r| r.drop_found());
        }
        self.latest = self.latest.max(record.now);
        if let Some(old) = self.map.insert(id, record) {
            self.nbytes -= old.nbytes();
        } else {
            self.order.push_back(id);
        }
        self.nbytes += size;
        // The newest always stays, however large it is.
        while self.map.len() > 1 && (self.map.len() > self.capacity || self.nbytes > self.max_bytes) {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(old) = self.map.remove(&oldest) {
                self.nbytes -= old.nbytes();
                self.evicted += 1;
                self.censored += u64::from(old.is_unanswered());
            }
        }
    }

    /// The decision, if it is still here.
    #[must_use]
    pub fn get(&self, id: DecisionId) -> Option<Arc<DecisionRecord>> {
        self.map.get(&id).cloned()
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<DecisionRecord>> {
        self.order.iter().filter_map(|id| self.map.get(id))
    }

    /// Forgets the decisions that `keep` refuses.
    pub fn retain(&mut self, mut keep: impl FnMut(&DecisionRecord) -> bool) {
        // A ranking pins the cases that it saw, which may be those to be forgotten; a search the newest of them.
        self.map.values().for_each(|r| r.drop_found());
        self.rankings = Extras::default();
        self.searches = Extras::default();
        self.map.retain(|_, r| keep(r));
        self.order.retain(|id| self.map.contains_key(id));
        self.nbytes = self.map.values().map(|r| r.nbytes()).sum();
    }

    /// Number of decisions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True if none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Bytes held, without the shared items.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.nbytes
    }

    /// Decisions that left to make room.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Decisions without feedback that left, or are older than `ttl_s` by the time of the latest one: what became of them is
    /// not known, and nothing is learned from that. O(decisions).
    #[must_use]
    pub fn censored(&self, ttl_s: f64) -> u64 {
        let old = |r: &&Arc<DecisionRecord>| r.is_unanswered() && self.latest - r.now > ttl_s;
        self.censored + self.map.values().filter(old).count() as u64
    }
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
