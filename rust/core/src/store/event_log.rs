//! The event log: one append-only file that keeps every acknowledged record through a killed process.
//!
//! Reference: Mohan et al. 1992 (ARIES: log before state); SQLite, *Write-Ahead Logging*; Rebello et al. 2020, *Can
//! Applications Recover from fsync Failures?* (why a failed sync is not tried again).

use super::atomic::{self, parent};
use super::reader::{self, Replay};
use super::record::{self, HEADER, Header, Identity, Next};
use super::writer::{Writer, set_len};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use parking_lot::Mutex;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// When appended records are forced from the kernel to the disk. A killed process loses nothing under any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before each append returns: a power cut loses nothing that was acknowledged.
    Always,
    /// By a background thread, this long after the first unsynced append: a power cut loses at most that window.
    Group(Duration),
    /// When the kernel likes (about 30 s on Linux), and never by the log.
    None,
}

impl Default for Fsync {
    fn default() -> Self {
        Self::Group(Duration::from_millis(100))
    }
}

/// Append-only log of records with consecutive numbers. Safe to share between threads; appends are serialised inside.
///
/// One process writes: the file `<path>.lock` is locked while the log is open. Other processes read with
/// [`EventLogReader`](super::EventLogReader). No thread runs before the first append under [`Fsync::Group`].
#[derive(Debug)]
pub struct EventLog {
    writer: Arc<Writer>,
    /// Held while the log is open. Not in `Writer`, which a flusher keeps alive: a forked child that drops its copy of the log
    /// must not keep the lock of a parent that was killed.
    lock: Mutex<Option<File>>,
    truncated_bytes: u64,
}

impl EventLog {
    /// Opens or creates the log at `path` and keeps its longest valid prefix.
    ///
    /// A torn or flipped tail is cut off and counted. A file that is no event log, or one of another version, is refused
    /// ([`Error::Corrupt`]) and left untouched; a log that is open elsewhere is refused with [`Error::Store`]. Cost: one
    /// read of the whole file, constant memory.
    pub fn open(path: impl AsRef<Path>, fsync: Fsync) -> Result<Self> {
        let path = resolve(path.as_ref())?;
        let io = |action, e| Error::store(action, &path, e);
        let lock = lock(&path)?;
        // A checkpoint that was interrupted before its rename.
        atomic::remove_if_there(&atomic::temporary(&path))?;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|e| io("open", e))?;
        let length = file.metadata().map_err(|e| io("open", e))?.len();
        let (id, next_seq, valid) = match reader::read_header(&path)?.1 {
            Header::Log(id) => {
                let (next_seq, end) = valid_prefix(&file, id.first_seq, length).map_err(|e| io("read", e))?;
                (id, next_seq, end)
            }
            Header::Unborn => (Identity::FRESH, 0, 0),
        };
        let truncated_bytes = length - valid;
        if truncated_bytes > 0 {
            set_len(&path, valid).map_err(|e| io("truncate", e))?;
        }
        if valid == 0 {
            (&file)
                .write_all(&record::header(id))
                .map_err(|e| io("create", e))?;
        }
        if fsync != Fsync::None && (valid == 0 || truncated_bytes > 0) {
            file.sync_all().map_err(|e| io("sync", e))?;
            atomic::sync_dir(parent(&path))?;
        }
        let end = valid.max(HEADER as u64);
        Ok(Self {
            writer: Arc::new(Writer::new(path, fsync, file, id, next_seq, end)),
            lock: Mutex::new(Some(lock)),
            truncated_bytes,
        })
    }

    /// Appends one record and returns its number. When this returns, the record is in the kernel (one `write`), so a killed
    /// process keeps it; when it is on the disk depends on [`Fsync`].
    ///
    /// A failed write (disk full, I/O error) is undone: the log ends where it ended, stays readable and takes later appends.
    /// After a failed sync the log stays readable but takes no more records until it is opened anew.
    pub fn append(&self, payload: &[u8]) -> Result<u64> {
        self.append_many(&[payload]).map(|seqs| seqs.start)
    }

    /// Appends all records with one `write`, or none of them, and returns their numbers. (A power cut may keep the first few.)
    pub fn append_many(&self, payloads: &[impl AsRef<[u8]>]) -> Result<Range<u64>> {
        for p in payloads {
            record::check_payload("payload", p.as_ref())?;
        }
        self.writer.append(payloads)
    }

    /// Iterates over the records numbered `from_seq` and above that are in the log now.
    pub fn replay(&self, from_seq: u64) -> Result<Replay> {
        let (file, first_seq, end) = self.writer.view()?;
        Replay::new(file, self.path(), first_seq, from_seq, end)
    }

    /// Drops the records numbered below `seq`; numbers go on where they were.
    ///
    /// The kept records are written to a temporary file that replaces the log atomically (fsync, rename, fsync of the
    /// directory). Appends wait meanwhile. On an error before the rename the log stays as it was.
    pub fn checkpoint(&self, seq: u64) -> Result<()> {
        self.writer.drop_before(seq)
    }

    /// Empties the records that `keep` refuses, for good; numbers stay. Returns how many.
    ///
    /// Written and put in place as by [`EventLog::checkpoint`]: afterwards no file of the log holds the refused payloads.
    /// Empty records are not asked about.
    pub fn rewrite(&self, keep: impl FnMut(u64, &[u8]) -> Result<bool>) -> Result<u64> {
        self.writer.rewrite(keep)
    }

    /// Forces everything that was appended to the disk, whatever the policy.
    pub fn flush(&self) -> Result<()> {
        self.writer.flush()
    }

    /// Syncs (unless the policy is [`Fsync::None`]), stops the flusher and gives up the lock. Later calls do nothing.
    pub fn close(&self) -> Result<()> {
        let closed = self.writer.close();
        if !matches!(closed, Ok(false)) {
            if let Some(lock) = self.lock.lock().take() {
                // Said aloud, because forked children may still hold copies of the handle. An error would only mean that
                // the lock goes with the last of them.
                let _ = lock.unlock();
            }
        }
        closed.map(|_| ())
    }

    /// True after [`EventLog::close`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.writer.is_open()
    }

    /// True in a forked child of the process that opened the log: nothing can be done with it here.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.writer.is_foreign()
    }

    /// Number of the first record that is still in the log.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.writer.first_seq.load(Relaxed)
    }

    /// Number that the next record will get.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.writer.next_seq.load(Relaxed)
    }

    /// Bytes of torn or flipped tail that were cut off when the log was opened.
    #[must_use]
    pub fn truncated_bytes(&self) -> u64 {
        self.truncated_bytes
    }

    /// Size of the file.
    #[must_use]
    pub fn nbytes(&self) -> u64 {
        self.writer.end.load(Relaxed)
    }

    /// The file, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.writer.path
    }

    /// The sync policy.
    #[must_use]
    pub fn fsync(&self) -> Fsync {
        self.writer.fsync
    }

    /// Counters and sizes.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let w = &*self.writer;
        let load = |a: &AtomicU64| a.load(Relaxed);
        let (first, next) = (self.first_seq(), self.next_seq());
        vec![
            ("records", next.saturating_sub(first).into()),
            ("first_seq", first.into()),
            ("next_seq", next.into()),
            ("nbytes", self.nbytes().into()),
            ("truncated_bytes", self.truncated_bytes.into()),
            ("appends", load(&w.appends).into()),
            ("failed_appends", load(&w.failed_appends).into()),
            ("syncs", load(&w.syncs).into()),
            ("failed_syncs", load(&w.failed_syncs).into()),
            ("checkpoints", load(&w.checkpoints).into()),
        ]
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        // A destructor cannot report; who wants the error calls `close`.
        let _ = self.close();
    }
}

/// The one spelling of a path, so that two openers of a file meet at one lock. Refuses what is no event log before anything is
/// created beside it.
fn resolve(path: &Path) -> Result<PathBuf> {
    let io = |e| Error::store("open", path, e);
    let Some(name) = path.file_name() else {
        return Err(Error::value("path", "a file name", path.display()));
    };
    match reader::read_header(path) {
        Ok(_) => fs::canonicalize(path).map_err(io),
        Err(Error::Store { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(fs::canonicalize(parent(path)).map_err(io)?.join(name))
        }
        Err(e) => Err(e),
    }
}

/// Takes the lock that belongs to the log at `path`.
fn lock(path: &Path) -> Result<File> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".lock");
    let lock_path = path.with_file_name(name);
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(&lock_path)
        .map_err(|e| Error::store("lock", &lock_path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            let busy = io::Error::new(io::ErrorKind::WouldBlock, "another writer has the log open");
            Err(Error::store("lock", path, busy))
        }
        Err(fs::TryLockError::Error(e)) => Err(Error::store("lock", lock_path, e)),
    }
}

/// Next sequence number and end of the longest valid prefix.
fn valid_prefix(file: &File, first_seq: u64, length: u64) -> io::Result<(u64, u64)> {
    let mut input = BufReader::with_capacity(1 << 16, file);
    let (mut seq, mut end) = (first_seq, HEADER as u64);
    input.seek(SeekFrom::Start(end))?;
    loop {
        match record::read(&mut input, seq, length - end, false, &mut Vec::new())? {
            (Next::Record, size) => {
                end += size;
                seq += 1;
            }
            _ => return Ok((seq, end)),
        }
    }
}
