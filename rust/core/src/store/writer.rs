//! The writing half of the event log: the file, the undo of failed writes, and the flusher of group commit.

use super::atomic::{self, parent};
use super::event_log::Fsync;
use super::record::{self, HEADER, Identity, Next};
use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the appending threads and the flusher share. The numbers change only under the lock of `state`; they are atomic so
/// that whoever only looks needs no lock.
#[derive(Debug)]
pub(super) struct Writer {
    pub path: PathBuf,
    pub fsync: Fsync,
    /// The process that opened the log. Its threads and locks do not exist in a forked child.
    pid: u32,
    /// The standard library's lock and condition: waiting threads stand in no table of the process. A forked child inherits
    /// such a table with threads in it that it does not have, and walks it for ever once a new one is where an old one was.
    state: Mutex<State>,
    wake: Condvar,
    open: AtomicBool,
    generation: AtomicU32,
    pub first_seq: AtomicU64,
    pub next_seq: AtomicU64,
    /// Size of the file.
    pub end: AtomicU64,
    pub appends: AtomicU64,
    pub failed_appends: AtomicU64,
    pub syncs: AtomicU64,
    pub failed_syncs: AtomicU64,
    pub checkpoints: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// None once closed.
    file: Option<Arc<File>>,
    buffer: Vec<u8>,
    /// A failed write may have left bytes after the last record that could not be cut off yet.
    torn: bool,
    /// The records below this number are on the disk, as far as a sync reported.
    synced_seq: u64,
    flusher: Option<JoinHandle<()>>,
    /// Error number of a failed sync. What it was to write may be lost although a second sync would report success, so the
    /// log takes no more records until it is opened anew.
    sync_failed: Option<i32>,
}

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        fsync: Fsync,
        file: File,
        id: Identity,
        next_seq: u64,
        end: u64,
    ) -> Self {
        Self {
            path,
            fsync,
            pid: std::process::id(),
            state: Mutex::new(State {
                file: Some(Arc::new(file)),
                buffer: Vec::new(),
                torn: false,
                synced_seq: next_seq,
                flusher: None,
                sync_failed: None,
            }),
            wake: Condvar::new(),
            open: AtomicBool::new(true),
            generation: AtomicU32::new(id.generation),
            first_seq: AtomicU64::new(id.first_seq),
            next_seq: AtomicU64::new(next_seq),
            end: AtomicU64::new(end),
            appends: AtomicU64::new(0),
            failed_appends: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            failed_syncs: AtomicU64::new(0),
            checkpoints: AtomicU64::new(0),
        }
    }

    pub(super) fn error(&self, action: &'static str, source: io::Error) -> Error {
        Error::store(action, &self.path, source)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// Appends the records; on failure the file is as it was.
    pub(super) fn append(self: &Arc<Self>, payloads: &[impl AsRef<[u8]>]) -> Result<Range<u64>> {
        let (mut guard, file) = self.enter("append to")?;
        let state = &mut *guard;
        let (first, end) = (self.next_seq.load(Relaxed), self.end.load(Relaxed));
        let seqs = first..first + payloads.len() as u64;
        if seqs.is_empty() {
            return Ok(seqs);
        }
        let appended = self.refuse_after_failed_sync(state).and_then(|()| {
            if state.torn {
                set_len(&self.path, end).map_err(|e| self.error("repair", e))?;
                state.torn = false;
            }
            state.buffer.clear();
            for (seq, payload) in seqs.clone().zip(payloads) {
                record::encode(seq, payload.as_ref(), &mut state.buffer);
            }
            (&*file)
                .write_all(&state.buffer)
                .map_err(|e| self.error("append to", e))?;
            let size = state.buffer.len() as u64;
            // A large batch must not pin its memory for good.
            state.buffer.shrink_to(1 << 20);
            self.advance(seqs.end, end + size);
            self.settle(state, &file, first)
        });
        match appended {
            Ok(()) => {
                self.appends.fetch_add(seqs.end - seqs.start, Relaxed);
                Ok(seqs)
            }
            Err(e) => {
                self.failed_appends.fetch_add(1, Relaxed);
                self.advance(first, end);
                state.torn = set_len(&self.path, end).is_err();
                Err(e)
            }
        }
    }

    /// Drops the records before `seq`.
    pub(super) fn drop_before(&self, seq: u64) -> Result<()> {
        let (mut state, _) = self.enter("checkpoint")?;
        let (first, next) = (self.first_seq.load(Relaxed), self.next_seq.load(Relaxed));
        if seq > next {
            let limit = format!("at most {next} (the next number)");
            return Err(Error::value("seq", limit, seq));
        }
        if seq <= first {
            return Ok(());
        }
        self.replace(&mut state, seq, |_, _| Ok(true))
    }

    /// Empties the records that `keep` refuses.
    pub(super) fn rewrite(&self, mut keep: impl FnMut(u64, &[u8]) -> Result<bool>) -> Result<u64> {
        let (mut state, _) = self.enter("rewrite")?;
        let mut emptied = 0;
        self.replace(&mut state, self.first_seq.load(Relaxed), |seq, payload| {
            let kept = payload.is_empty() || keep(seq, payload)?;
            emptied += u64::from(!kept);
            Ok(kept)
        })?;
        Ok(emptied)
    }

    /// Puts a file with the records from `seq` on in the log's place; those that `keep` refuses are empty in it.
    fn replace(
        &self,
        state: &mut State,
        seq: u64,
        keep: impl FnMut(u64, &[u8]) -> Result<bool>,
    ) -> Result<()> {
        self.refuse_after_failed_sync(state)?;
        let id = Identity {
            generation: self.generation.load(Relaxed).wrapping_add(1),
            first_seq: seq,
        };
        let tmp = atomic::temporary(&self.path);
        let replaced = self.copy_into(&tmp, id, keep).and_then(|new| {
            fs::rename(&tmp, &self.path).map_err(|e| self.error("replace", e))?;
            Ok(new)
        });
        let (file, end) = replaced.inspect_err(|_| {
            // The first error is the one to report; a leftover is removed at the next opening.
            let _ = fs::remove_file(&tmp);
        })?;
        state.file = Some(Arc::new(file));
        state.torn = false;
        state.synced_seq = self.next_seq.load(Relaxed);
        self.generation.store(id.generation, Relaxed);
        self.first_seq.store(id.first_seq, Relaxed);
        self.end.store(end, Relaxed);
        self.checkpoints.fetch_add(1, Relaxed);
        // If the rename may not last, neither may the records that would be appended to the new file from here on.
        atomic::sync_dir(parent(&self.path)).inspect_err(|_| state.sync_failed = Some(0))
    }

    /// A handle for reading, the first sequence number and the end, which belong together.
    pub(super) fn view(&self) -> Result<(File, u64, u64)> {
        let (_state, _) = self.enter("read")?;
        let file = File::open(&self.path).map_err(|e| self.error("read", e))?;
        Ok((file, self.first_seq.load(Relaxed), self.end.load(Relaxed)))
    }

    pub(super) fn flush(&self) -> Result<()> {
        let (mut state, file) = self.enter("sync")?;
        self.sync(&mut state, &file)
    }

    /// Stops the flusher and syncs as the policy says. False if there was nothing to close.
    pub(super) fn close(&self) -> Result<bool> {
        if self.is_foreign() || !self.open.swap(false, Relaxed) {
            return Ok(false);
        }
        let mut state = self.lock();
        if let Some(thread) = state.flusher.take() {
            self.wake.notify_all();
            drop(state);
            // A panicked flusher leaves its work to the sync below.
            thread.join().unwrap_or(());
            state = self.lock();
        }
        match state.file.take() {
            Some(file) if self.fsync != Fsync::None => self.sync(&mut state, &file)?,
            _ => {}
        }
        Ok(true)
    }

    /// A thread that panicked leaves a state that every caller checks.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.pid != std::process::id()
    }

    /// The state and the file, if this is the process that opened the log and it is not closed.
    fn enter(&self, action: &'static str) -> Result<(MutexGuard<'_, State>, Arc<File>)> {
        // First of all: in a forked child the mutex may be held by a thread that does not exist here.
        if self.is_foreign() {
            let owner = self.pid;
            let message = format!("the log belongs to process {owner}; a forked process opens its own");
            return Err(self.error(action, io::Error::other(message)));
        }
        let state = self.lock();
        match state.file.clone() {
            Some(file) if self.is_open() => Ok((state, file)),
            _ => Err(Error::value("event log", "an open log", "a closed one")),
        }
    }

    fn advance(&self, next_seq: u64, end: u64) {
        self.next_seq.store(next_seq, Relaxed);
        self.end.store(end, Relaxed);
    }

    /// What the policy asks for after records from `first` on were written.
    fn settle(self: &Arc<Self>, state: &mut State, file: &Arc<File>, first: u64) -> Result<()> {
        match self.fsync {
            Fsync::None => Ok(()),
            Fsync::Always => self.sync(state, file),
            // The flusher knows already.
            Fsync::Group(_) if state.synced_seq < first => Ok(()),
            Fsync::Group(_) if state.flusher.is_some() => {
                self.wake.notify_one();
                Ok(())
            }
            Fsync::Group(window) => {
                let writer = Arc::clone(self);
                let spawned = std::thread::Builder::new()
                    .name("sona-event-log".into())
                    .spawn(move || writer.flush_in_groups(window));
                match spawned {
                    Ok(thread) => state.flusher = Some(thread),
                    // No thread to be had: the caller waits for the disk instead.
                    Err(_) => self.sync(state, file)?,
                }
                Ok(())
            }
        }
    }

    fn sync(&self, state: &mut State, file: &File) -> Result<()> {
        self.refuse_after_failed_sync(state)?;
        let target = self.next_seq.load(Relaxed);
        if state.synced_seq < target {
            let synced = file.sync_data();
            self.note_sync(state, target, &synced);
            synced.map_err(|e| self.error("sync", e))?;
        }
        Ok(())
    }

    fn note_sync(&self, state: &mut State, target: u64, synced: &io::Result<()>) {
        self.syncs.fetch_add(1, Relaxed);
        match synced {
            Ok(()) => state.synced_seq = state.synced_seq.max(target),
            Err(e) => {
                self.failed_syncs.fetch_add(1, Relaxed);
                state.sync_failed = Some(e.raw_os_error().unwrap_or(0));
            }
        }
    }

    fn refuse_after_failed_sync(&self, state: &State) -> Result<()> {
        let cause = match state.sync_failed {
            None => return Ok(()),
            Some(0) => io::Error::other("failed before; open the log anew"),
            Some(errno) => io::Error::from_raw_os_error(errno),
        };
        Err(self.error("sync", cause))
    }

    /// The flusher: one sync per window in which something was appended. Appends go on while the disk works.
    fn flush_in_groups(&self, window: Duration) {
        let mut state = self.lock();
        while self.is_open() {
            let idle = |s: &State| s.sync_failed.is_some() || s.synced_seq >= self.next_seq.load(Relaxed);
            if idle(&state) {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.wake.wait_timeout_while(state, window, |_| self.is_open());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if let (false, Some(file)) = (idle(&state), state.file.clone()) {
                let target = self.next_seq.load(Relaxed);
                drop(state);
                let synced = file.sync_data();
                state = self.lock();
                self.note_sync(&mut state, target, &synced);
            }
        }
    }

    /// Writes the header and the records from its first number on to `tmp`, synced. Returns the new file and its size.
    fn copy_into(
        &self,
        tmp: &Path,
        id: Identity,
        mut keep: impl FnMut(u64, &[u8]) -> Result<bool>,
    ) -> Result<(File, u64)> {
        let at = |e| self.error("rewrite", e);
        let mut old = BufReader::with_capacity(1 << 16, File::open(&self.path).map_err(at)?);
        let mut left = self.end.load(Relaxed) - HEADER as u64;
        old.seek(SeekFrom::Start(HEADER as u64)).map_err(at)?;
        let file = atomic::create_temporary(tmp)?;
        let mut new = BufWriter::with_capacity(1 << 16, &file);
        new.write_all(&record::header(id)).map_err(at)?;
        let (mut payload, mut encoded) = (Vec::new(), Vec::new());
        let mut end = HEADER as u64;
        for seq in self.first_seq.load(Relaxed)..self.next_seq.load(Relaxed) {
            let kept = seq >= id.first_seq;
            match record::read(&mut old, seq, left, kept, &mut payload).map_err(at)? {
                (Next::Record, size) => left -= size,
                _ => return Err(record::damaged(&self.path, seq)),
            }
            if kept {
                encoded.clear();
                let payload = if keep(seq, &payload)? { &*payload } else { &[] };
                record::encode(seq, payload, &mut encoded);
                new.write_all(&encoded).map_err(at)?;
                end += encoded.len() as u64;
            }
        }
        new.into_inner().map_err(|e| at(e.into_error()))?;
        file.sync_all().map_err(at)?;
        Ok((file, end))
    }
}

/// Cuts the file. Through a handle of its own: Windows does not let one that appends do it.
pub(super) fn set_len(path: &Path, length: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.set_len(length)
}
