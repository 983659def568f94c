//! The truth that every learned bit can be rebuilt from: one event log per writer in a shared directory, or a bounded
//! list in memory.

mod history;
mod rewrite;
#[cfg(test)]
mod tests;

use super::event::{Event, Stamped};
use super::tombstone::Tombstone;
use crate::error::{Error, Result};
use crate::store::{EventLog, EventLogReader, Fsync};
pub use history::History;
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Payload bytes taken from another writer's log at a time.
const POLL_BYTES: usize = 4 << 20;
/// Writers that may share a directory.
const MAX_WORKERS: u32 = 1 << 20;

/// An event and the writer it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Sourced {
    /// Writer's number.
    pub worker: u32,
    /// Number of the record in that writer's log.
    pub seq: u64,
    /// The event.
    pub stamped: Stamped,
}

/// Next record to apply, by writer.
pub type Positions = BTreeMap<u32, u64>;

/// Where events go.
#[derive(Debug)]
pub struct Journal {
    backend: Backend,
    worker: u32,
    lamport: u64,
    tombstones: Vec<Arc<Tombstone>>,
}

#[derive(Debug)]
enum Backend {
    Memory {
        records: VecDeque<(u64, Vec<u8>)>,
        next_seq: u64,
        nbytes: usize,
        budget: usize,
        dropped: u64,
    },
    Directory(Directory),
}

#[derive(Debug)]
struct Directory {
    root: PathBuf,
    fsync: Fsync,
    log: EventLog,
    pid: u32,
    others: BTreeMap<u32, EventLogReader>,
}

fn log_path(events: &Path, worker: u32) -> PathBuf {
    events.join(format!("writer-{worker:05}.log"))
}

fn worker_of(path: &Path) -> Option<u32> {
    path.file_name()?
        .to_str()?
        .strip_prefix("writer-")?
        .strip_suffix(".log")?
        .parse()
        .ok()
        .filter(|&w| w < MAX_WORKERS)
}

/// Writers that have a log in `events`, in order.
fn workers(events: &Path) -> Result<Vec<u32>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(events).map_err(|e| Error::store("list", events, e))? {
        let path = entry.map_err(|e| Error::store("list", events, e))?.path();
        out.extend(worker_of(&path));
    }
    out.sort_unstable();
    Ok(out)
}

/// The first log that no living process holds: writers that ended are taken over, so their number stays small.
fn claim(events: &Path, fsync: Fsync) -> Result<(u32, EventLog)> {
    for worker in 1..MAX_WORKERS {
        match EventLog::open(log_path(events, worker), fsync) {
            Ok(log) => return Ok((worker, log)),
            Err(Error::Store { source, .. }) if source.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Err(Error::Capacity {
        name: "state directory",
        limit: format!("at most {MAX_WORKERS} writers"),
        got: "one more".into(),
    })
}

impl Journal {
    /// A journal in memory that forgets its oldest records over `budget` bytes.
    #[must_use]
    pub fn memory(budget: usize) -> Self {
        let backend = Backend::Memory {
            records: VecDeque::new(),
            next_seq: 0,
            nbytes: 0,
            budget,
            dropped: 0,
        };
        Self {
            backend,
            worker: 0,
            lamport: 0,
            tombstones: Vec::new(),
        }
    }

    /// Opens or creates the journal of a state directory.
    pub fn open(root: &Path, fsync: Fsync) -> Result<Self> {
        let events = root.join("events");
        fs::create_dir_all(&events).map_err(|e| Error::store("create", &events, e))?;
        let (worker, log) = claim(&events, fsync)?;
        let dir = Directory {
            root: root.into(),
            fsync,
            log,
            pid: std::process::id(),
            others: BTreeMap::new(),
        };
        Ok(Self {
            backend: Backend::Directory(dir),
            worker,
            lamport: 0,
            tombstones: Vec::new(),
        })
    }

    /// Number of this writer; 0 in memory.
    #[must_use]
    pub fn worker(&self) -> u32 {
        self.worker
    }

    /// Latest logical time that was seen.
    #[must_use]
    pub fn lamport(&self) -> u64 {
        self.lamport
    }

    /// Takes note of an event that was replayed.
    pub fn witness(&mut self, lamport: u64) {
        self.lamport = self.lamport.max(lamport);
    }

    /// From now on events that it hides are read from no log: a living writer has yet to take them out of its own.
    pub fn hide(&mut self, tombstone: Arc<Tombstone>) {
        self.lamport = self.lamport.max(tombstone.until());
        if !self.tombstones.contains(&tombstone) {
            self.tombstones.push(tombstone);
        }
    }

    /// True if events survive the process.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        matches!(self.backend, Backend::Directory(_))
    }

    /// The state directory.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        match &self.backend {
            Backend::Directory(d) => Some(&d.root),
            Backend::Memory { .. } => None,
        }
    }

    /// In a forked child: continue in an own log (in memory: under an own number, so that no two processes give out the same
    /// decision id).
    pub fn after_fork(&mut self) -> Result<()> {
        let Backend::Directory(dir) = &mut self.backend else {
            self.worker = 1 + std::process::id() % ((1 << 24) - 1);
            return Ok(());
        };
        if dir.pid == std::process::id() {
            return Ok(());
        }
        let (worker, log) = claim(&dir.root.join("events"), dir.fsync)?;
        // The parent's log becomes one to follow, from where the fork left it.
        let parent = self.worker;
        let reader = EventLogReader::open(dir.log.path(), dir.log.next_seq())?;
        dir.others.insert(parent, reader);
        dir.log = log;
        dir.pid = std::process::id();
        self.worker = worker;
        Ok(())
    }

    /// Appends; when this returns, a killed process keeps the event (if durable). Returns its logical time.
    pub fn append(&mut self, event: Event) -> Result<u64> {
        self.append_all(vec![event])
    }

    /// Appends several events in one write: all of them or none. Returns the logical time of the last.
    pub fn append_all(&mut self, events: Vec<Event>) -> Result<u64> {
        let mut lamport = self.lamport;
        let mut payloads = Vec::with_capacity(events.len());
        for event in events {
            lamport += 1;
            payloads.push(Stamped { lamport, event }.encode()?);
        }
        match &mut self.backend {
            Backend::Directory(dir) => {
                dir.log.append_many(&payloads)?;
            }
            Backend::Memory {
                records,
                next_seq,
                nbytes,
                budget,
                dropped,
            } => {
                for bytes in payloads {
                    // An encoder doubles as it writes: up to half of what it leaves is room. A copy, because what is
                    // freed whole serves the next encoder, and what is cut off serves nobody.
                    let bytes = bytes.as_slice().to_vec();
                    *nbytes += bytes.len();
                    records.push_back((*next_seq, bytes));
                    *next_seq += 1;
                }
                while *nbytes > *budget {
                    let Some((_, old)) = records.pop_front() else {
                        break;
                    };
                    *nbytes -= old.len();
                    *dropped += 1;
                }
            }
        }
        self.lamport = lamport;
        Ok(lamport)
    }

    /// Records of a memory journal, for saving; empty for a directory.
    #[must_use]
    pub fn memory_records(&self) -> Vec<(u64, Vec<u8>)> {
        match &self.backend {
            Backend::Memory { records, .. } => records.iter().cloned().collect(),
            Backend::Directory(_) => Vec::new(),
        }
    }

    /// Puts back what [`Self::memory_records`] gave; `next_seq` and `lamport` continue from there.
    pub fn restore_memory(&mut self, saved: Vec<(u64, Vec<u8>)>, seq: u64, lamport: u64) {
        if let Backend::Memory {
            records,
            next_seq,
            nbytes,
            ..
        } = &mut self.backend
        {
            *nbytes = saved.iter().map(|(_, b)| b.len()).sum();
            *records = saved.into();
            *next_seq = seq;
            self.lamport = lamport;
        }
    }

    /// Next record of this writer's own log.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        match &self.backend {
            Backend::Directory(d) => d.log.next_seq(),
            Backend::Memory { next_seq, .. } => *next_seq,
        }
    }

    /// From now on [`Self::poll`] returns what others append after `positions`.
    pub fn follow(&mut self, positions: &Positions) -> Result<()> {
        let own = self.worker;
        let Backend::Directory(dir) = &mut self.backend else {
            return Ok(());
        };
        dir.others.clear();
        for (&worker, &seq) in positions {
            let path = log_path(&dir.root.join("events"), worker);
            if worker != own && path.exists() {
                dir.others.insert(worker, EventLogReader::open(path, seq)?);
            }
        }
        Ok(())
    }

    /// What other writers appended since the last call, merged by logical time.
    pub fn poll(&mut self) -> Result<Vec<Sourced>> {
        let own = self.worker;
        let Backend::Directory(dir) = &mut self.backend else {
            return Ok(Vec::new());
        };
        let events = dir.root.join("events");
        let mut out = Vec::new();
        for worker in workers(&events)?.into_iter().filter(|&w| w != own) {
            let reader = match dir.others.entry(worker) {
                std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
                std::collections::btree_map::Entry::Vacant(e) => {
                    e.insert(EventLogReader::open(log_path(&events, worker), 0)?)
                }
            };
            loop {
                let batch = reader.poll(POLL_BYTES)?;
                if batch.is_empty() {
                    break;
                }
                for (seq, bytes) in batch.into_iter().filter(|(_, b)| !b.is_empty()) {
                    out.push(Sourced {
                        worker,
                        seq,
                        stamped: Stamped::decode(&bytes)?,
                    });
                }
            }
        }
        out.sort_by_key(|s| (s.stamped.lamport, s.worker, s.seq));
        for s in &out {
            self.lamport = self.lamport.max(s.stamped.lamport);
        }
        out.retain(|s| !self.tombstones.iter().any(|t| t.hides(&s.stamped)));
        Ok(out)
    }

    /// Where replay has to continue after everything seen so far.
    #[must_use]
    pub fn positions(&self) -> Positions {
        let mut out = Positions::from([(self.worker, self.next_seq())]);
        if let Backend::Directory(dir) = &self.backend {
            out.extend(dir.others.iter().map(|(w, r)| (*w, r.next_seq())));
        }
        out
    }

    /// Where every writer's log ends now.
    pub fn end_positions(&self) -> Result<Positions> {
        let mut out = Positions::from([(self.worker, self.next_seq())]);
        if let Backend::Directory(dir) = &self.backend {
            let events = dir.root.join("events");
            for worker in workers(&events)?.into_iter().filter(|&w| w != self.worker) {
                let mut reader = EventLogReader::open(log_path(&events, worker), 0)?;
                while !reader.poll(POLL_BYTES)?.is_empty() {}
                out.insert(worker, reader.next_seq());
            }
        }
        Ok(out)
    }

    /// Forces everything to the disk.
    pub fn flush(&self) -> Result<()> {
        match &self.backend {
            Backend::Directory(d) if d.pid == std::process::id() => d.log.flush(),
            _ => Ok(()),
        }
    }

    /// Flushes and gives up the log.
    pub fn close(&self) -> Result<()> {
        match &self.backend {
            Backend::Directory(d) => d.log.close(),
            Backend::Memory { .. } => Ok(()),
        }
    }

    /// Bytes held or on disk for this writer, events dropped for the budget, bytes cut off at opening.
    #[must_use]
    pub fn sizes(&self) -> (u64, u64, u64) {
        match &self.backend {
            Backend::Directory(d) => (d.log.nbytes(), 0, d.log.truncated_bytes()),
            Backend::Memory { nbytes, dropped, .. } => (*nbytes as u64, *dropped, 0),
        }
    }
}
