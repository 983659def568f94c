//! The engine: adapt, rank, feedback; scopes, modes, versions; a journal that everything can be rebuilt from.
//!
//! ```text
//! rank ── reads one immutable snapshot (arc-swap) ──► decision ──► journal
//! feedback ── journal (durable) ──► Loop A: case, gate, figures ──► next snapshot, published whole
//! ```
//!
//! Lock order: cycles → fork gate (shared) → scope ledger → scope items → journal → pending. Readers of `adapt` take none.

pub mod anchors;
mod background;
mod choosers;
mod clicks;
pub mod config;
mod directory;
pub mod encoder;
pub mod event;
mod explore;
mod export;
mod feedback;
mod forget;
pub mod harm;
pub mod items;
pub mod journal;
mod learn;
pub mod learned;
pub mod ledger;
pub mod listing;
pub mod pending;
mod promote;
mod rank;
mod replay;
pub mod requests;
mod rollback;
mod scope;
mod state;
pub mod stats;
pub mod tombstone;
mod view;

pub use background::CycleReport;
pub use clicks::Click;
pub use config::{EngineConfig, Exploration, Mode};
pub use directory::read_config;
pub use event::{DecisionId, TraceEvent};
pub use export::{AdapterFactors, Preference};
pub use feedback::{Feedback, Outcome};
pub use forget::Removed;
pub use items::IdRef;
pub use promote::Promotion;
pub use rank::{Decision, Request};
pub use scope::{Scope, check_name};
pub use view::{Explanation, ScopeReport};

use crate::error::{Error, Result};
use crate::store::{Fsync, SnapshotStore};
use arc_swap::ArcSwap;
use journal::Journal;
use parking_lot::Mutex;
use pending::Pending;
use rustc_hash::FxHashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes of decisions kept in memory until their feedback comes.
const PENDING_BYTES: usize = 64 << 20;

type Scopes =
    imbl::GenericHashMap<Arc<str>, Arc<Scope>, rustc_hash::FxBuildHasher, imbl::shared_ptr::DefaultSharedPtr>;

/// Counters of the engine. They start at zero with each process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub adapted: AtomicU64,
    pub ranked: AtomicU64,
    pub feedback: AtomicU64,
    pub learned: AtomicU64,
    pub recorded_only: AtomicU64,
    pub rebuilt: AtomicU64,
    pub orphans: AtomicU64,
    pub failed_writes: AtomicU64,
}

/// Learns from outcomes, in this process. Safe to share between threads: readers take no lock, writers are serialised per
/// scope.
pub struct Engine {
    config: EngineConfig,
    mode: AtomicU8,
    scopes: ArcSwap<Scopes>,
    journal: Mutex<Journal>,
    pending: Mutex<Pending>,
    snapshots: Option<SnapshotStore>,
    requests: Option<Mutex<requests::Requests>>,
    next_decision: AtomicU64,
    closed: AtomicBool,
    /// Held while a background cycle runs or the engine is pictured: a picture never falls between a cycle's start and end.
    cycles: std::sync::Mutex<()>,
    /// Cycles that replay has seen begin and not yet end, by scope and writer.
    open_cycles: Mutex<FxHashMap<(Arc<str>, u32), background::CycleInput>>,
    /// Scope with which the next background cycle begins, if the last one did not reach it.
    next_scope: Mutex<Option<Arc<str>>>,
    gate: RwLock<()>,
    /// Leaf lock, but for the journal.
    encoder: Mutex<Option<Arc<encoder::Encoder>>>,
    counters: Counters,
}

/// See [`Engine::hold_for_fork`].
#[derive(Debug)]
pub struct ForkGuard<'a> {
    _gate: RwLockWriteGuard<'a, ()>,
    _cycles: std::sync::MutexGuard<'a, ()>,
}

impl Engine {
    /// An engine that lives in memory.
    pub fn in_memory(config: EngineConfig) -> Result<Self> {
        config.check()?;
        let journal = Journal::memory(config.journal_bytes);
        Self::assemble(config, journal, None)
    }

    /// Opens or creates a state directory and brings back everything that was acknowledged.
    pub fn open(config: EngineConfig, root: &Path, fsync: Fsync) -> Result<Self> {
        config.check()?;
        std::fs::create_dir_all(root).map_err(|e| Error::store("create", root, e))?;
        directory::claim_config(root, &config)?;
        let journal = Journal::open(root, fsync)?;
        let snapshots = SnapshotStore::open(root.join("snapshots"))?;
        let mut engine = Self::assemble(config, journal, Some(snapshots))?;
        let requests = requests::Requests::new(root);
        let unanswered = requests.list()?;
        engine.requests = Some(Mutex::new(requests));
        for r in &unanswered {
            engine.journal.lock().hide(r.tombstone.clone());
        }
        engine.restore()?;
        engine.honour_for_the_dead(&unanswered)?;
        Ok(engine)
    }

    fn assemble(config: EngineConfig, journal: Journal, snapshots: Option<SnapshotStore>) -> Result<Self> {
        Learned::new(&config)?;
        Ok(Self {
            mode: AtomicU8::new(config.mode as u8),
            scopes: ArcSwap::from_pointee(Scopes::default()),
            pending: Mutex::new(Pending::new(config.capacity, PENDING_BYTES)),
            journal: Mutex::new(journal),
            snapshots,
            requests: None,
            next_decision: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            cycles: std::sync::Mutex::new(()),
            open_cycles: Mutex::new(FxHashMap::default()),
            next_scope: Mutex::new(None),
            gate: RwLock::new(()),
            encoder: Mutex::new(None),
            counters: Counters::default(),
            config,
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// How much of what was learned may act.
    #[must_use]
    pub fn mode(&self) -> Mode {
        Mode::from_u8(self.mode.load(Ordering::Acquire))
    }

    /// Changes the mode, from the next call on.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Release);
    }

    /// Waits until no call is inside that holds a lock and no background cycle runs, and keeps it so until dropped: around
    /// `fork`, so that the child finds every lock free. The locks are of the standard library, which keeps no process-wide
    /// list of waiters that a child would inherit.
    #[must_use]
    pub fn hold_for_fork(&self) -> ForkGuard<'_> {
        let cycles = self.between_cycles();
        ForkGuard {
            _gate: self.gate.write().unwrap_or_else(PoisonError::into_inner),
            _cycles: cycles,
        }
    }

    fn between_cycles(&self) -> std::sync::MutexGuard<'_, ()> {
        self.cycles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> Result<RwLockReadGuard<'_, ()>> {
        let guard = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Learning("the engine is closed".into()));
        }
        Ok(guard)
    }

    /// The scope, if anything was recorded in it.
    #[must_use]
    pub fn scope(&self, name: &str) -> Option<Arc<Scope>> {
        self.scopes.load().get(name).cloned()
    }

    /// Names of all scopes, sorted.
    #[must_use]
    pub fn scope_names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.scopes.load().keys().cloned().collect();
        names.sort();
        names
    }

    fn scope_or_new(&self, name: &str) -> Result<Arc<Scope>> {
        if let Some(scope) = self.scope(name) {
            return Ok(scope);
        }
        let fresh = Arc::new(Scope::new(name, &self.config)?);
        let mut refused = false;
        self.scopes.rcu(|scopes| {
            refused = false;
            if scopes.contains_key(name) {
                return scopes.clone();
            }
            if scopes.len() >= self.config.max_scopes {
                refused = true;
                return scopes.clone();
            }
            Arc::new(scopes.update(fresh.name.clone(), fresh.clone()))
        });
        if refused {
            let limit = format!("at most {} scopes (max_scopes)", self.config.max_scopes);
            return Err(Error::Capacity {
                name: "scope",
                limit,
                got: format!("one more, {name:?}"),
            });
        }
        self.scope(name).ok_or_else(|| Error::Scope {
            scope: name.into(),
            reason: "it was removed".into(),
        })
    }

    /// In a forked child: continue with an own journal.
    pub fn after_fork(&self) -> Result<()> {
        self.journal.lock().after_fork()
    }

    /// Writes a snapshot (if durable), flushes and gives up the files. Calling it again does nothing.
    pub fn close(&self) -> Result<()> {
        self.honour_requests()?;
        let _no_cycle = self.between_cycles();
        let _guard = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let saved = self.snapshot_to_disk();
        let journal = self.journal.lock();
        let closed = journal.flush().and_then(|()| journal.close());
        saved.and(closed)
    }

    /// True after [`Self::close`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

use learned::Learned;
