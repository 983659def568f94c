//! The engine as bytes: snapshots of a state directory, `save` and `load`.

use super::choosers::{Choosers, ChoosersImage};
use super::config::{ENGINE_KIND, EngineConfig};
use super::encoder::Encoder;
use super::event::DecisionEvent;
use super::harm::Harm;
use super::items::Item;
use super::journal::Positions;
use super::learned::Learned;
use super::ledger::Ledger;
use super::pending::DecisionRecord;
use super::scope::Scope;
use super::stats::{Baseline, Progress};
use super::{Engine, Scopes};
use crate::codec::{self, Blob};
use crate::error::{Error, Result, check_finite};
use crate::item::ItemId;
use crate::lora::{BaseLora, MicroLora};
use crate::patterns::bank::Bank;
use crate::patterns::cases::{CaseMemory, ItemGate, StrayClicks};
use crate::store::read_whole;
use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Snapshots kept in a state directory: the newest, and one to fall back to if it is damaged.
const KEPT: usize = 2;

#[derive(Serialize, Deserialize)]
struct ScopeImage<'a> {
    name: Arc<str>,
    version: u64,
    #[serde(borrow)]
    cases: Blob<'a>,
    #[serde(borrow)]
    gate: Blob<'a>,
    harm: Harm,
    choosers: ChoosersImage,
    strays: StrayClicks,
    progress: Progress,
    quality: Baseline,
    #[serde(borrow)]
    micro: Option<Blob<'a>>,
    #[serde(borrow)]
    base: Option<Blob<'a>>,
    #[serde(borrow)]
    bank: Option<Blob<'a>>,
    banked: u64,
    ledger: Ledger,
    items: Vec<(ItemId, Vec<f32>)>,
}

#[derive(Serialize, Deserialize)]
struct EngineImage<'a> {
    config: EngineConfig,
    lamport: u64,
    encoder: Option<Encoder>,
    next_decision: u64,
    positions: Positions,
    #[serde(borrow)]
    scopes: Vec<ScopeImage<'a>>,
    /// Memory engines only: their journal, its next number, and the decisions that wait for feedback.
    #[serde(borrow)]
    records: Vec<(u64, Blob<'a>)>,
    next_seq: u64,
    pending: Vec<DecisionEvent>,
}

impl<'a> EngineImage<'a> {
    fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode_with(ENGINE_KIND, self.config.case_half_life_days, self)
    }

    fn from_bytes(bytes: &'a [u8]) -> Result<Self> {
        let (half_life, mut image) = codec::decode_with::<f64, Self>(ENGINE_KIND, bytes)?;
        image.config.case_half_life_days = half_life;
        Ok(image)
    }
}

fn image_of(scope: &Scope, ledger: &Ledger) -> Result<ScopeImage<'static>> {
    let live = scope.live.load();
    // In the order in which they make room.
    let items: Vec<_> = scope.items.read().iter().cloned().collect();
    Ok(ScopeImage {
        name: scope.name.clone(),
        version: live.version,
        cases: live.cases.to_bytes()?.into(),
        gate: live.gate.to_bytes()?.into(),
        harm: live.harm.clone(),
        choosers: live.choosers.image(),
        strays: live.strays,
        progress: live.progress.clone(),
        quality: live.quality,
        micro: live
            .micro
            .as_ref()
            .map(|m| m.to_bytes())
            .transpose()?
            .map(Blob::from),
        base: live
            .base
            .as_ref()
            .map(|b| b.to_bytes())
            .transpose()?
            .map(Blob::from),
        bank: live
            .bank
            .as_ref()
            .map(|b| b.to_bytes())
            .transpose()?
            .map(Blob::from),
        banked: live.banked,
        ledger: ledger.clone(),
        items: items.iter().map(|i| (i.id.clone(), i.vector.to_vec())).collect(),
    })
}

fn scope_of(image: ScopeImage<'_>, config: &EngineConfig) -> Result<Scope> {
    let cases = CaseMemory::from_bytes_within(&image.cases.0)?;
    if cases.dim() != config.dim {
        let reason = format!(
            "cases of dimension {}, the engine has {}",
            cases.dim(),
            config.dim
        );
        return Err(Error::corrupt("engine state", reason));
    }
    if !image.strays.is_valid() {
        return Err(Error::corrupt(
            "engine state",
            "the share of stray clicks is not one",
        ));
    }
    let micro = image
        .micro
        .map(|b| MicroLora::from_bytes(&b.0))
        .transpose()?
        .map(Arc::new);
    if micro.as_ref().is_some_and(|m| m.factors().dim() != config.dim) {
        return Err(Error::corrupt("engine state", "an adapter of another dimension"));
    }
    let base = image
        .base
        .map(|b| BaseLora::from_bytes(&b.0))
        .transpose()?
        .map(Arc::new);
    if base
        .as_ref()
        .is_some_and(|b| b.factors(0).is_ok_and(|f| f.dim() != config.dim))
    {
        return Err(Error::corrupt(
            "engine state",
            "a slow adapter of another dimension",
        ));
    }
    let bank = image
        .bank
        .map(|b| Bank::from_bytes(&b.0))
        .transpose()?
        .map(Arc::new);
    if !image.harm.is_valid() {
        return Err(Error::corrupt(
            "engine state",
            "impossible figures of the harm budget",
        ));
    }
    let scope = Scope::new(&image.name, config)?;
    let learned = Learned {
        version: image.version,
        cases,
        gate: ItemGate::from_bytes(&image.gate.0)?,
        harm: image.harm,
        choosers: Choosers::restored(config.min_users, image.choosers),
        strays: image.strays,
        progress: image.progress,
        quality: image.quality,
        micro,
        base,
        bank,
        banked: image.banked,
    };
    let mut ledger = image.ledger;
    ledger.restore(config.dim)?;
    {
        let mut table = scope.items.write();
        for (id, vector) in image.items {
            if vector.len() != config.dim || check_finite("item", &vector).is_err() {
                return Err(Error::corrupt(
                    "engine state",
                    format!("item {id} has an impossible vector"),
                ));
            }
            table.insert(Arc::new(Item::new(id, &vector)));
        }
    }
    Ok(Scope {
        name: scope.name,
        live: ArcSwap::from_pointee(learned),
        items: RwLock::new(scope.items.into_inner()),
        ledger: Mutex::new(ledger),
    })
}

impl Engine {
    /// One consistent picture: no feedback is between journal and state while it is taken.
    fn image(&self, whole: bool) -> Result<EngineImage<'static>> {
        let encoder = self.encoder().map(|e| (*e).clone());
        let names = self.scope_names();
        let scopes: Vec<Arc<Scope>> = names.iter().filter_map(|n| self.scope(n)).collect();
        let ledgers: Vec<_> = scopes.iter().map(|s| s.ledger.lock()).collect();
        let journal = self.journal.lock();
        let images = scopes
            .iter()
            .zip(&ledgers)
            .map(|(s, l)| image_of(s, l))
            .collect::<Result<Vec<_>>>()?;
        let pending = if whole {
            self.pending.lock().iter().map(|r| r.event()).collect()
        } else {
            Vec::new()
        };
        Ok(EngineImage {
            config: self.config.clone(),
            lamport: journal.lamport(),
            encoder,
            next_decision: self.next_decision.load(Ordering::Relaxed),
            positions: journal.positions(),
            scopes: images,
            records: if whole {
                let records = journal.memory_records().into_iter();
                records.map(|(seq, bytes)| (seq, bytes.into())).collect()
            } else {
                Vec::new()
            },
            next_seq: journal.next_seq(),
            pending,
        })
    }

    /// Everything, also what waits for feedback. Reading it back and going on equals never having stopped.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let _no_cycle = self.between_cycles();
        let _guard = self.enter()?;
        self.image(true)?.to_bytes()
    }

    /// An engine in memory from what [`Self::to_bytes`] wrote. Bytes are treated as hostile.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut image = EngineImage::from_bytes(bytes)?;
        let corrupt = |e: Error| match e {
            Error::Corrupt { .. } => e,
            other => Error::corrupt("engine state", other),
        };
        let engine = Self::in_memory(image.config.clone()).map_err(corrupt)?;
        let (next_seq, lamport) = (image.next_seq, image.lamport);
        let pending = std::mem::take(&mut image.pending);
        let records = std::mem::take(&mut image.records);
        let records = records
            .into_iter()
            .map(|(seq, b)| (seq, b.0.into_owned()))
            .collect();
        engine.adopt(image).map_err(corrupt)?;
        engine.journal.lock().restore_memory(records, next_seq, lamport);
        for event in pending {
            if let Some(scope) = engine.scope(&event.scope) {
                let table = scope.items.read();
                let items: Option<Vec<_>> = event.items.iter().map(|h| table.by_hash(*h).cloned()).collect();
                if let Some(items) = items {
                    check_decision(&event, items.len(), engine.config.dim)?;
                    engine
                        .pending
                        .lock()
                        .insert(Arc::new(DecisionRecord::new(event, items, false)));
                }
            }
        }
        Ok(engine)
    }

    /// [`Self::from_bytes`] of the file at `path`.
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_bytes(&read_whole(path)?)
    }

    fn adopt(&self, image: EngineImage<'_>) -> Result<()> {
        image.config.check_compatible(&self.config)?;
        let mut scopes = Scopes::default();
        for s in image.scopes {
            let scope = Arc::new(scope_of(s, &self.config)?);
            scopes.insert(scope.name.clone(), scope);
        }
        if let Some(encoder) = image.encoder {
            encoder.check(self.config.dim)?;
            *self.encoder.lock() = Some(Arc::new(encoder));
        }
        self.scopes.store(Arc::new(scopes));
        self.next_decision.store(image.next_decision, Ordering::Relaxed);
        Ok(())
    }

    /// The newest snapshot that fits the journal becomes the state; returns where the journal goes on (empty: from the
    /// first event, because there is no usable snapshot).
    pub(super) fn load_snapshot(&self) -> Result<Positions> {
        let Some(store) = &self.snapshots else {
            return Ok(Positions::new());
        };
        let bytes = match store.latest() {
            Ok(Some((_, bytes))) => bytes,
            // A snapshot only saves time: without a whole one the journal tells everything.
            Ok(None) | Err(Error::Corrupt { .. }) => return Ok(Positions::new()),
            Err(e) => return Err(e),
        };
        let Ok(image) = EngineImage::from_bytes(&bytes) else {
            // Of another layout: as good as none.
            return Ok(Positions::new());
        };
        image.config.check_compatible(&self.config)?;
        if image.config.case_half_life_days != self.config.case_half_life_days {
            // What was learned under another half-life is learned again, so that the log alone decides.
            return Ok(Positions::new());
        }
        let mut journal = self.journal.lock();
        let ends = journal.end_positions()?;
        if image
            .positions
            .iter()
            .any(|(w, p)| ends.get(w).is_none_or(|end| end < p))
        {
            // The journal lost its tail (a power cut, a damaged file): what it still holds is the truth.
            return Ok(Positions::new());
        }
        let (positions, lamport) = (image.positions.clone(), image.lamport);
        self.adopt(image)?;
        journal.witness(lamport);
        Ok(positions)
    }

    /// Writes a snapshot, so that the next opening replays only what comes after it. Nothing without a state directory.
    pub fn checkpoint(&self) -> Result<()> {
        self.honour_requests()?;
        let _no_cycle = self.between_cycles();
        let _guard = self.enter()?;
        self.snapshot_to_disk()
    }

    pub(super) fn snapshot_to_disk(&self) -> Result<()> {
        let Some(store) = &self.snapshots else {
            return Ok(());
        };
        let image = self.image(false)?;
        let version = image.lamport;
        store.save(&image.to_bytes()?, version)?;
        store.prune(KEPT)?;
        Ok(())
    }

    /// BLAKE3 of what a scope has learned: cases, gate, share of stray clicks and figures, not the times and numbers of
    /// events. Equal digests mean equal answers, bit for bit.
    pub fn digest(&self, scope: &str) -> Result<[u8; 32]> {
        let live = match self.scope(scope) {
            Some(scope) => scope.live.load_full(),
            None => Arc::new(Learned::new(&self.config)?),
        };
        let mut h = blake3::Hasher::new();
        h.update(&live.cases.to_bytes()?).update(&live.gate.to_bytes()?);
        let micro = live.micro.as_ref().map(|m| m.to_bytes()).transpose()?;
        let base = live.base.as_ref().map(|b| b.to_bytes()).transpose()?;
        let bank = live.bank.as_ref().map(|b| b.to_bytes()).transpose()?;
        let rest = postcard::to_stdvec(&(
            (
                &live.progress,
                &live.quality,
                &live.harm,
                live.choosers.image(),
                live.strays,
            ),
            (micro, base, bank),
        ))
        .map_err(|e| Error::corrupt("digest", e))?;
        Ok(*h.update(&rest).finalize().as_bytes())
    }
}

fn check_decision(e: &DecisionEvent, n: usize, dim: usize) -> Result<()> {
    let ok = e.query.len() == dim
        && e.base.as_ref().is_none_or(|b| b.len() == n)
        && e.shown.iter().all(|&p| (p as usize) < n)
        && check_finite("query", &e.query).is_ok()
        && e.base.as_ref().is_none_or(|b| check_finite("base", b).is_ok());
    if ok {
        Ok(())
    } else {
        Err(Error::corrupt(
            "engine state",
            format!("decision {} is impossible", e.id),
        ))
    }
}
