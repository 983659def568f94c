//! Nearest remembered vectors: exact scan or navigable graph, float32 or int8, with insert, update and delete in place.

mod audit;
mod beam;
mod cost;
mod flat;
mod graph;
#[cfg(test)]
mod graph_tests;
mod hnsw;
mod near;
mod params;
mod rows;
mod saved;
mod state;
#[cfg(test)]
mod tests;

pub use flat::Hit;
pub use params::{Kind, MAX_DIM, Metric, Params, Precision};

use crate::error::{Error, Result, check_dim};
use crate::metrics::Metrics;
use parking_lot::{Mutex, RwLock};
use state::State;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Rows that one write lock appends at most: what a reader may have to wait for.
const APPEND: usize = 256;

/// Results of one call may fill this many slots.
const MAX_RESULTS: usize = 1 << 28;

#[derive(Debug, Default)]
struct Counters {
    added: AtomicU64,
    updated: AtomicU64,
    removed: AtomicU64,
    unknown_removed: AtomicU64,
    queries: AtomicU64,
    tie_rescans: AtomicU64,
}

/// Vectors under 64-bit ids, searched by similarity.
///
/// Shared between threads: writers take turns; a search waits for a writer at most while it appends up to 256 rows or
/// writes the link lists of one row (microseconds), never for a whole `add`. An `add` of many rows becomes visible row
/// by row.
#[derive(Debug)]
pub struct VectorIndex {
    params: Params,
    /// Held by the one writer at work; `state` is locked for writing only while a prepared change goes in.
    writer: Mutex<()>,
    state: RwLock<State>,
    counters: Counters,
}

impl VectorIndex {
    /// An empty index.
    pub fn try_new(params: Params) -> Result<Self> {
        params.validate()?;
        Ok(Self::from_state(State::new(params)))
    }

    fn from_state(state: State) -> Self {
        Self {
            params: state.rows.params,
            writer: Mutex::new(()),
            state: RwLock::new(state),
            counters: Counters::default(),
        }
    }

    /// Parameters as given.
    #[must_use]
    pub fn params(&self) -> Params {
        self.params
    }

    /// Number of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.read().rows.len()
    }

    /// True without vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if `id` is stored.
    #[must_use]
    pub fn contains(&self, id: i64) -> bool {
        self.state.read().rows.position.contains_key(&id)
    }

    /// Structure in use: [`Kind::Hnsw`] if asked for, or where an automatic index has chosen it; else [`Kind::Flat`].
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.state.read().kind()
    }

    /// Bytes held for vectors, codes, ids and links.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.state.read().nbytes()
    }

    /// Checks what [`add`](Self::add) would refuse, without changing anything.
    pub fn check(&self, ids: &[i64], vectors: &[f32]) -> Result<()> {
        check_dim("vectors", ids.len() * self.params.dim, vectors.len())?;
        rows::check_vectors("vectors", &self.params, vectors)
    }

    /// Stores row-major `vectors` under `ids`. A known id gets the new vector; of equal ids in one call the last wins.
    ///
    /// Nothing is stored if a value is not finite. Cost per row: a copy when flat; when the graph is in use, the search
    /// for neighbours and the repair of their lists. An automatic index that passes the crossover links four old rows
    /// with every new one until all are linked, and scans until then. When as many rows
    /// have changed as half of those stored, the search width is measured anew on 100 vectors like the stored ones.
    pub fn add(&self, ids: &[i64], vectors: &[f32]) -> Result<()> {
        self.check(ids, vectors)?;
        let d = self.params.dim;
        for (ids, vectors) in ids.chunks(APPEND).zip(vectors.chunks(APPEND * d)) {
            let mut prepared = vectors.to_vec();
            rows::prepare("vectors", &self.params, &mut prepared)?;
            let _turn = self.writer.lock();
            self.append(ids, &prepared)?;
        }
        Ok(())
    }

    /// Stores a few prepared rows, then links them. The caller holds the writer's turn.
    fn append(&self, ids: &[i64], prepared: &[f32]) -> Result<()> {
        let mut known = Vec::new();
        let added = {
            let mut state = self.state.write();
            let before = state.rows.len();
            let new = ids
                .iter()
                .filter(|id| !state.rows.position.contains_key(id))
                .count();
            state.rows.reserve(new)?;
            for (&id, row) in ids.iter().zip(prepared.chunks_exact(self.params.dim)) {
                match state.rows.position.get(&id).copied() {
                    Some(p) if state.graph.as_ref().is_some_and(|g| (p as usize) < g.len()) => {
                        known.push((p as usize, row));
                    }
                    Some(p) => {
                        state.rows.overwrite(p as usize, row);
                        self.counters.updated.fetch_add(1, Relaxed);
                    }
                    None => state.rows.push(id, row),
                }
            }
            state.count_changes(ids.len());
            state.choose_structure();
            state.rows.len() - before
        };
        self.counters.added.fetch_add(added as u64, Relaxed);
        for (position, row) in known {
            self.relink(position, row);
            self.counters.updated.fetch_add(1, Relaxed);
        }
        let budget = self.state.read().link_budget(added);
        for _ in 0..budget {
            let plan = self.state.read().plan_link();
            if let Some((level, edits)) = plan {
                self.state.write().apply_link(level, edits);
            }
        }
        self.audit();
        Ok(())
    }

    /// Measures how wide the graph must be searched, when enough rows have changed. The caller holds the writer's turn.
    fn audit(&self) {
        if self.state.read().audit_due() {
            let widths = self.state.read().measure_widths();
            self.state.write().apply_widths(widths);
        }
    }

    fn relink(&self, position: usize, row: &[f32]) {
        let edits = self.state.read().plan_unlink(position);
        self.state.write().overwrite(position, row, edits);
        let edits = self.state.read().plan_relink(position);
        self.state.write().apply_relink(position, edits);
    }

    /// Removes `ids` and returns how many were stored. Unknown ids are counted in [`metrics`](Self::metrics).
    pub fn remove(&self, ids: &[i64]) -> usize {
        let mut removed = 0;
        for id in ids {
            let _turn = self.writer.lock();
            let plan = {
                let state = self.state.read();
                state
                    .rows
                    .position
                    .get(id)
                    .map(|&p| (p as usize, state.plan_unlink(p as usize)))
            };
            if let Some((position, edits)) = plan {
                {
                    let mut state = self.state.write();
                    state.remove(position, edits);
                    state.count_changes(1);
                    state.choose_structure();
                }
                self.audit();
                removed += 1;
            }
        }
        self.counters.removed.fetch_add(removed as u64, Relaxed);
        self.counters
            .unknown_removed
            .fetch_add((ids.len() - removed) as u64, Relaxed);
        removed
    }

    fn prepare_queries(&self, name: &'static str, queries: &mut [f32], k: usize) -> Result<()> {
        let d = self.params.dim;
        if !queries.len().is_multiple_of(d) {
            return Err(Error::Dimension {
                name,
                expected: d,
                got: queries.len(),
            });
        }
        if k == 0 {
            return Err(Error::value("k", "at least 1", k));
        }
        let count = queries.len() / d;
        if k.saturating_mul(count.max(1)) > MAX_RESULTS {
            return Err(Error::Capacity {
                name: "k",
                limit: format!("at most {MAX_RESULTS} results in one call"),
                got: format!("{k} for each of {count} queries"),
            });
        }
        rows::prepare(name, &self.params, queries)
    }

    /// Roughly how many products a search of `queries` takes: what a caller weighs against the price of a thread switch.
    #[must_use]
    pub fn work(&self, queries: usize) -> usize {
        let state = self.state.read();
        let per_query = if state.graph_width() > 0 {
            1_000
        } else {
            state.rows.len()
        };
        per_query * self.params.dim * queries
    }

    /// The best `k` for one query, best first, equal scores by id; fewer if fewer are stored.
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Hit>> {
        check_dim("query", self.params.dim, query.len())?;
        Ok(self.search_batch(query.to_vec(), k)?.pop().unwrap_or_default())
    }

    /// The best `k` for each row-major query, all against the same state.
    pub fn search_batch(&self, mut queries: Vec<f32>, k: usize) -> Result<Vec<Vec<Hit>>> {
        let d = self.params.dim;
        self.prepare_queries("query", &mut queries, k)?;
        let state = self.state.read();
        let (hits, ties): (Vec<_>, Vec<_>) = state.search_batch(&queries, k).into_iter().unzip();
        let ties = ties.into_iter().filter(|tie| *tie).count() as u64;
        self.counters
            .queries
            .fetch_add((queries.len() / d) as u64, Relaxed);
        self.counters.tie_rescans.fetch_add(ties, Relaxed);
        Ok(hits)
    }

    /// Share of the true best `k` that a search returns, averaged over queries: a returned row counts if it scores at
    /// least as high as the exact `k`-th. 1 without queries or rows.
    pub fn recall_at(&self, k: usize, mut queries: Vec<f32>) -> Result<f64> {
        self.prepare_queries("queries", &mut queries, k)?;
        let state = self.state.read();
        let (mut wanted, mut right) = (0usize, 0usize);
        let found = state.search_batch(&queries, k);
        for (q, (hits, _)) in queries.chunks_exact(self.params.dim).zip(found) {
            let exact = flat::search(&state.rows, q, k, None).0;
            wanted += exact.len();
            right += flat::shared(&hits, &exact);
        }
        Ok(if wanted == 0 {
            1.0
        } else {
            right as f64 / wanted as f64
        })
    }

    /// Sizes and counters. Counters start at zero when an index is made or loaded.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let state = self.state.read();
        let c = &self.counters;
        let (links, levels) = state.graph.as_ref().map_or((0, 0), |g| {
            (g.link_count(), g.entry.map_or(0, |e| g.level(e) + 1))
        });
        vec![
            ("count", state.rows.len().into()),
            ("nbytes", state.nbytes().into()),
            ("graph_levels", levels.into()),
            ("graph_links", links.into()),
            ("graph_pending", state.pending().into()),
            ("graph_width", state.graph_width().into()),
            ("added", c.added.load(Relaxed).into()),
            ("updated", c.updated.load(Relaxed).into()),
            ("removed", c.removed.load(Relaxed).into()),
            ("unknown_removed", c.unknown_removed.load(Relaxed).into()),
            ("queries", c.queries.load(Relaxed).into()),
            ("tie_rescans", c.tie_rescans.load(Relaxed).into()),
        ]
    }

    /// The whole index as bytes; loading them continues bit for bit. Waits for the 256 rows that a running `add` is at.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let _turn = self.writer.lock();
        saved::write(&self.state.read())
    }

    /// Reads back [`to_bytes`](Self::to_bytes). Every size, id, value and link is checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        saved::read(bytes).map(Self::from_state)
    }
}
