//! The read path: adapt and rank.

use super::config::Mode;
use super::event::{DecisionEvent, DecisionId, Event};
use super::explore::choose;
use super::items::{IdRef, Item};
use super::learned::Learned;
use super::listing::{Listing, Ranking};
use super::pending::DecisionRecord;
use super::scope::Scope;
use super::{Engine, check_name};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::rng::{RngExt, stream};
use rustc_hash::FxHashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Stream of the engine's seed that canary draws come from.
const CANARY_STREAM: u64 = 0x6361_6e61;

/// One request to rank.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Scope.
    pub scope: &'a str,
    /// Query vector, any norm.
    pub query: &'a [f32],
    /// Candidate ids, no two alike.
    pub ids: &'a [IdRef<'a>],
    /// Row-major vectors of the candidates; `None` if all were ranked before in this scope.
    pub vectors: Option<&'a [f32]>,
    /// The application's own scores; `None`: cosines.
    pub scores: Option<&'a [f32]>,
    /// Places to fill.
    pub k: usize,
    /// On whose behalf; empty if unknown.
    pub user: &'a str,
    /// Seconds since the epoch.
    pub now: f64,
}

/// A ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Id to give feedback to; `None` in mode off, and if the decision could not be written down (disk full).
    pub id: Option<DecisionId>,
    /// Positions in the caller's list, best first.
    pub order: Vec<u32>,
    /// Scores that decided, of the shown places.
    pub scores: Vec<f32>,
    /// The application's scores (or cosines) of the shown places.
    pub base_scores: Vec<f32>,
    /// Probability with which each place was filled as it was.
    pub propensities: Vec<f32>,
    /// Version of the state that decided.
    pub version: u64,
    /// Whether what was learned acted.
    pub acted: bool,
}

/// Items of a request, in its order.
type Items = Vec<Arc<Item>>;

/// An item listed twice would take two places. Known items are one content to an id, so that the addresses tell; a new one may
/// have the id of another with other content.
fn check_distinct(items: &[Arc<Item>], all_known: bool) -> Result<()> {
    let twice = if all_known {
        let mut hashes: Vec<u64> = items.iter().map(|i| i.hash).collect();
        hashes.sort_unstable();
        let pair = hashes.windows(2).find(|w| w[0] == w[1]);
        pair.and_then(|w| items.iter().find(|i| i.hash == w[0]))
    } else {
        let mut seen = FxHashSet::with_capacity_and_hasher(items.len(), Default::default());
        items.iter().find(|i| !seen.insert(&i.id))
    };
    match twice {
        None => Ok(()),
        Some(item) => Err(Error::value("ids", "distinct ids", format!("{} twice", item.id))),
    }
}

impl Engine {
    /// Moves the query by what the scope has learned; the identity, bit for bit, while nothing is known or may act.
    /// `rows` and `out` are row-major with rows of length `dim`.
    pub fn adapt(&self, scope: &str, rows: &[f32], out: &mut [f32]) -> Result<()> {
        let dim = self.config.dim;
        if rows.len() != out.len() || !rows.len().is_multiple_of(dim) {
            return Err(Error::Dimension {
                name: "x",
                expected: dim,
                got: rows.len(),
            });
        }
        check_finite("x", rows)?;
        self.counters
            .adapted
            .fetch_add((rows.len() / dim) as u64, Ordering::Relaxed);
        if matches!(self.mode(), Mode::On | Mode::Canary) {
            let scopes = self.scopes.load();
            if let Some(scope) = scopes.get(scope) {
                let live = scope.live.load();
                for (x, y) in rows.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
                    live.adapt(x, y)?;
                }
                return Ok(());
            }
        }
        check_name(scope)?;
        out.copy_from_slice(rows);
        Ok(())
    }

    /// Ranks candidates and remembers the decision for its feedback.
    pub fn rank(&self, request: &Request<'_>) -> Result<Decision> {
        let dim = self.config.dim;
        check_dim("query", dim, request.query.len())?;
        check_finite("query", request.query)?;
        let n = request.ids.len();
        if let Some(v) = request.vectors {
            if v.len() != n * dim {
                return Err(Error::shape(
                    "vectors",
                    format!("({n}, {dim})"),
                    format!("{} values", v.len()),
                ));
            }
        }
        if let Some(s) = request.scores {
            check_dim("scores", n, s.len())?;
            check_finite("scores", s)?;
        }
        if !request.now.is_finite() {
            return Err(Error::value("now", "finite seconds", request.now));
        }
        self.honour_requests()?;
        let _guard = self.enter()?;
        let mode = self.mode();
        let scope = match self.scope(request.scope) {
            Some(scope) if mode != Mode::Off => scope,
            _ => {
                // Nothing is recorded in mode off, and no scope comes to be by a request that is refused: both look into
                // one that nobody keeps.
                let nobodys = Arc::new(Scope::new(request.scope, &self.config)?);
                if mode == Mode::Off {
                    nobodys
                } else {
                    self.lookup(&nobodys, request)?;
                    self.scope_or_new(request.scope)?
                }
            }
        };
        let (items, on_record) = match self.intern(&scope, request) {
            Ok(items) => (items, true),
            // The disk is full: the answer does not depend on it. The decision takes no feedback.
            Err(Error::Store { .. }) => (self.lookup(&scope, request)?.0, false),
            Err(e) => return Err(e),
        };
        let live = scope.live.load_full();
        let listing = Listing::new(&items);
        let candidates = listing.candidates()?;
        let ranking = live.score(request.query, &candidates, request.scores)?;
        let number = self.next_decision.fetch_add(1, Ordering::Relaxed);
        let acted = match mode {
            Mode::On => true,
            Mode::Canary => {
                stream(self.config.seed ^ number.rotate_left(29), CANARY_STREAM).random::<f32>()
                    < self.config.canary_share
            }
            _ => false,
        };
        let scores = if acted {
            &ranking.learned
        } else {
            &ranking.scored.base
        };
        let how = if acted {
            self.config.exploration
        } else {
            super::Exploration::None
        };
        let shown = choose(scores, request.k, how, self.config.seed, number);
        self.counters.ranked.fetch_add(1, Ordering::Relaxed);
        let pick = |from: &[f32]| {
            shown
                .order
                .iter()
                .map(|&p| from[p as usize])
                .collect::<Vec<f32>>()
        };
        let mut decision = Decision {
            id: None,
            scores: pick(scores),
            base_scores: pick(&ranking.scored.base),
            order: shown.order,
            propensities: shown.propensities,
            version: live.version,
            acted,
        };
        if mode != Mode::Off && on_record {
            decision.id = match self.record(&scope, request, items, &decision, number, (&live, ranking)) {
                Ok(id) => Some(id),
                Err(Error::Store { .. }) => None,
                Err(e) => return Err(e),
            };
        }
        Ok(decision)
    }

    /// The items of a request, and those of them that are new here or changed.
    fn lookup(&self, scope: &Scope, request: &Request<'_>) -> Result<(Items, Items)> {
        let mut fresh = Vec::new();
        let items = scope.lookup(request.ids, request.vectors, self.config.dim, &mut fresh)?;
        check_distinct(&items, fresh.is_empty())?;
        Ok((items, fresh))
    }

    /// The items of a request; new ones enter the scope's table and (if durable) the journal, in that order of locks.
    pub(super) fn intern(&self, scope: &Scope, request: &Request<'_>) -> Result<Vec<Arc<Item>>> {
        let (items, fresh) = self.lookup(scope, request)?;
        if fresh.is_empty() || self.mode() == Mode::Off {
            return Ok(items);
        }
        let mut table = scope.items.write();
        // Another thread may have brought them meanwhile. A content that comes back is noted again: replay must know which one
        // is the current one, and which goes first when room is needed.
        let fresh: Vec<_> = fresh
            .into_iter()
            .filter(|i| {
                table
                    .get(IdRef::Other(&i.id))
                    .is_none_or(|now| now.hash != i.hash)
            })
            .collect();
        let mut journal = self.journal.lock();
        if journal.is_durable() && !fresh.is_empty() {
            let event = |i: &Arc<Item>| Event::Item {
                scope: scope.name.clone(),
                id: i.id.clone(),
                vector: i.vector.to_vec(),
            };
            self.written(journal.append_all(fresh.iter().map(event).collect()))?;
        }
        drop(journal);
        for item in fresh {
            table.insert(item);
        }
        table.evict_to(self.config.item_bytes);
        Ok(items)
    }

    fn record(
        &self,
        scope: &Scope,
        request: &Request<'_>,
        items: Vec<Arc<Item>>,
        decision: &Decision,
        number: u64,
        (live, ranking): (&Arc<Learned>, Ranking),
    ) -> Result<DecisionId> {
        let mut event = DecisionEvent {
            id: DecisionId::new(0, number),
            scope: scope.name.clone(),
            query: request.query.to_vec(),
            items: items.iter().map(|i| i.hash).collect(),
            base: request.scores.map(<[f32]>::to_vec),
            shown: decision.order.clone(),
            propensities: decision.propensities.clone(),
            version: decision.version,
            acted: decision.acted,
            user: request.user.into(),
            now: request.now,
        };
        let mut journal = self.journal.lock();
        let durable = journal.is_durable();
        let counter = if durable { journal.next_seq() } else { number };
        event.id = DecisionId::new(journal.worker(), counter);
        let id = event.id;
        let record = if durable {
            self.written(journal.append(Event::Decision(event.clone())))?;
            DecisionRecord::new(event, items, true)
        } else {
            DecisionRecord::new(event, items, false)
        };
        drop(journal);
        let record = Arc::new(record.with_ranking(live, ranking));
        self.pending.lock().insert(record);
        Ok(id)
    }

    pub(super) fn written<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.counters.failed_writes.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}
