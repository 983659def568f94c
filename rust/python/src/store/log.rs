//! `EventLog`, its replay and its reader.

use super::{path_repr, unsigned, warn_unclosed};
use crate::arrays::{detached, metrics_dict};
use crate::errors::{IntoPy, to_py};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyRange};
use sona_core::Error;
use sona_core::store::{EventLog, EventLogReader, Fsync, Replay};
use std::collections::HashSet;
use std::path::PathBuf;

type Record<'py> = (u64, Bound<'py, PyBytes>);

fn parse_fsync(name: &str) -> PyResult<Fsync> {
    match name {
        "always" => Ok(Fsync::Always),
        "group" => Ok(Fsync::default()),
        "none" => Ok(Fsync::None),
        other => Err(to_py(Error::config(
            "fsync",
            "'always', 'group' or 'none'",
            format!("{other:?}"),
        ))),
    }
}

/// Append-only log of byte records that keeps every acknowledged record through a killed process.
///
/// One file (and a lock file beside it); one process writes, others follow with `EventLogReader`. Safe to share between
/// threads; appends are serialised inside. After a fork the child opens a log of its own. Opening keeps the longest valid
/// prefix of the file: a torn or flipped tail is cut off and counted in `truncated_bytes`.
///
/// Parameters
/// ----------
/// path : str or os.PathLike
///     The file; it is created if it is not there.
/// fsync : {"group", "always", "none"}, default "group"
///     When records go from the kernel to the disk: at most 100 ms after the append, before the append returns, or when the
///     kernel likes. A killed process loses nothing under any of them; a power cut loses at most what was not on the disk.
///
/// Raises
/// ------
/// ConfigError
///     For another `fsync`.
/// CorruptStateError
///     If the file is no event log, or of another layout version; it is left untouched.
/// StoreError
///     If another writer has the log open, or the file cannot be opened.
///
/// Examples
/// --------
/// >>> import tempfile, os
/// >>> from sona.store import EventLog
/// >>> path = os.path.join(tempfile.mkdtemp(), "events")
/// >>> with EventLog(path) as log:
/// ...     log.append(b"first"), log.append(b"second")
/// (0, 1)
/// >>> with EventLog(path) as log:
/// ...     list(log.replay())
/// [(0, b'first'), (1, b'second')]
///
/// Notes
/// -----
/// Opening reads the file once (O(size), constant memory). Reference: Mohan et al. 1992 (ARIES).
#[pyclass(name = "EventLog", module = "sona.store", frozen)]
pub(crate) struct PyEventLog {
    log: EventLog,
}

#[pymethods]
impl PyEventLog {
    #[new]
    #[pyo3(signature = (path, *, fsync = "group"), text_signature = "(path, *, fsync='group')")]
    fn new(py: Python<'_>, path: PathBuf, fsync: &str) -> PyResult<Self> {
        let fsync = parse_fsync(fsync)?;
        let log = detached(py, || EventLog::open(path, fsync))?;
        Ok(Self { log })
    }

    /// Append one record and return its sequence number, counted from 0.
    ///
    /// When this returns, the record is in the kernel. A failed write is undone: the log stays as it was, readable and open
    /// for later appends; after a failed sync it takes no more records until it is opened anew.
    ///
    /// Parameters
    /// ----------
    /// payload : bytes
    ///     At most 256 MiB; may be empty.
    ///
    /// Returns
    /// -------
    /// int
    ///     Sequence number of the record.
    ///
    /// Raises
    /// ------
    /// StoreError
    ///     Disk full, I/O error, or a log inherited through a fork.
    /// CapacityError
    ///     If the payload is too large.
    /// ValueError
    ///     If the log is closed.
    #[pyo3(signature = (payload), text_signature = "(self, payload)")]
    fn append(&self, py: Python<'_>, payload: PyBackedBytes) -> PyResult<u64> {
        detached(py, || self.log.append(&payload))
    }

    /// Append all records with one write, or none of them, and return their sequence numbers.
    ///
    /// Parameters
    /// ----------
    /// payloads : sequence of bytes
    ///     The records in order.
    ///
    /// Returns
    /// -------
    /// range
    ///     Their sequence numbers.
    ///
    /// Raises
    /// ------
    /// StoreError, CapacityError, ValueError
    ///     As `append`.
    #[pyo3(signature = (payloads), text_signature = "(self, payloads)")]
    fn append_many<'py>(
        &self,
        py: Python<'py>,
        payloads: Vec<PyBackedBytes>,
    ) -> PyResult<Bound<'py, PyRange>> {
        let seqs = detached(py, || self.log.append_many(&payloads))?;
        // Numbers stay below 2^62, see the log's layout.
        PyRange::new(py, seqs.start as isize, seqs.end as isize)
    }

    /// Iterate over the records numbered `from_seq` and above that are in the log now.
    ///
    /// Parameters
    /// ----------
    /// from_seq : int, default 0
    ///     First sequence number wanted.
    ///
    /// Returns
    /// -------
    /// Iterator[tuple[int, bytes]]
    ///     Sequence number and payload, in order; one record at a time is in memory.
    ///
    /// Raises
    /// ------
    /// CorruptStateError
    ///     From the iterator, if the file was damaged after it was opened.
    /// ValueError
    ///     If the log is closed.
    #[pyo3(signature = (from_seq = None), text_signature = "(self, from_seq=0)")]
    fn replay(&self, py: Python<'_>, from_seq: Option<&Bound<'_, PyAny>>) -> PyResult<PyEventLogReplay> {
        let from_seq = from_seq.map_or(Ok(0), |v| unsigned("from_seq", v))?;
        let replay = detached(py, || self.log.replay(from_seq))?;
        Ok(PyEventLogReplay {
            replay: Mutex::new(replay),
        })
    }

    /// Drop the records numbered below `seq`; numbers go on where they were.
    ///
    /// The kept records are copied to a new file that replaces the log atomically and durably; appends wait meanwhile.
    ///
    /// Parameters
    /// ----------
    /// seq : int
    ///     First sequence number to keep, at most `next_seq`.
    ///
    /// Raises
    /// ------
    /// StoreError
    ///     If the copy fails; the log is then as it was.
    /// ValueError
    ///     If `seq` is beyond `next_seq`, or the log is closed.
    #[pyo3(signature = (seq), text_signature = "(self, seq)")]
    fn checkpoint(&self, py: Python<'_>, seq: &Bound<'_, PyAny>) -> PyResult<()> {
        let seq = unsigned("seq", seq)?;
        detached(py, || self.log.checkpoint(seq))
    }

    /// Empty these records for good; they stay as records without a payload, and numbers stay.
    ///
    /// The others are copied to a new file that replaces the log atomically and durably; appends wait meanwhile.
    ///
    /// Parameters
    /// ----------
    /// seqs : set of int
    ///     Sequence numbers; those that are not in the log, or empty, are passed over.
    ///
    /// Returns
    /// -------
    /// int
    ///     Number of records that were emptied.
    ///
    /// Raises
    /// ------
    /// StoreError
    ///     If the copy fails; the log is then as it was.
    /// ValueError
    ///     If the log is closed.
    #[pyo3(signature = (seqs), text_signature = "(self, seqs)")]
    fn erase(&self, py: Python<'_>, seqs: HashSet<u64>) -> PyResult<u64> {
        detached(py, || self.log.rewrite(|seq, _| Ok(!seqs.contains(&seq))))
    }

    /// Force everything that was appended to the disk, whatever the policy.
    #[pyo3(signature = (), text_signature = "(self)")]
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.log.flush())
    }

    /// Sync as the policy says and give up the file; a second call does nothing.
    #[pyo3(signature = (), text_signature = "(self)")]
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.log.close())
    }

    /// Whether the log was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.log.is_closed()
    }

    /// The file, as an absolute path.
    #[getter]
    fn path(&self) -> PathBuf {
        self.log.path().into()
    }

    /// Sequence number of the first record that is still in the log.
    #[getter]
    fn first_seq(&self) -> u64 {
        self.log.first_seq()
    }

    /// Sequence number that the next record will get.
    #[getter]
    fn next_seq(&self) -> u64 {
        self.log.next_seq()
    }

    /// Bytes of torn or flipped tail that were cut off when the log was opened.
    #[getter]
    fn truncated_bytes(&self) -> u64 {
        self.log.truncated_bytes()
    }

    /// Size of the file in bytes.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.log.nbytes()
    }

    /// Counters and sizes.
    #[pyo3(signature = (), text_signature = "(self)")]
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.log.metrics())
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exc), text_signature = "(self, *_exc)")]
    fn __exit__(&self, py: Python<'_>, _exc: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let fsync = match self.log.fsync() {
            Fsync::Always => "always",
            Fsync::Group(_) => "group",
            Fsync::None => "none",
        };
        let state = if self.log.is_closed() {
            "closed".to_owned()
        } else {
            format!("{} records", self.log.next_seq() - self.log.first_seq())
        };
        let path = path_repr(py, self.log.path())?;
        Ok(format!("<EventLog({path}, fsync='{fsync}'): {state}>"))
    }
}

impl Drop for PyEventLog {
    fn drop(&mut self) {
        if !self.log.is_closed() && !self.log.is_inherited() {
            warn_unclosed("event log", self.log.path());
        }
    }
}

/// Iterator of `EventLog.replay`: sequence number and payload of each record.
#[pyclass(name = "EventLogReplay", module = "sona.store", frozen)]
pub(crate) struct PyEventLogReplay {
    replay: Mutex<Replay>,
}

#[pymethods]
impl PyEventLogReplay {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Record<'py>>> {
        let record = detached(py, || self.replay.lock().next().transpose())?;
        Ok(record.map(|(seq, payload)| (seq, PyBytes::new(py, &payload))))
    }
}

/// Follows an event log that another process writes; takes no lock and never writes.
///
/// Safe to share between threads. A record is seen when it is in the file, which may be before it is on the disk.
///
/// Parameters
/// ----------
/// path : str or os.PathLike
///     The log's file.
/// from_seq : int, default 0
///     First sequence number wanted.
///
/// Raises
/// ------
/// StoreError
///     If there is no such file.
/// CorruptStateError
///     If it is no event log.
///
/// Examples
/// --------
/// >>> import tempfile, os
/// >>> from sona.store import EventLog, EventLogReader
/// >>> path = os.path.join(tempfile.mkdtemp(), "events")
/// >>> with EventLog(path) as log:
/// ...     reader = EventLogReader(path)
/// ...     _ = log.append(b"first")
/// ...     reader.poll(), reader.poll()
/// ([(0, b'first')], [])
#[pyclass(name = "EventLogReader", module = "sona.store", frozen)]
pub(crate) struct PyEventLogReader {
    reader: Mutex<EventLogReader>,
}

#[pymethods]
impl PyEventLogReader {
    #[new]
    #[pyo3(signature = (path, *, from_seq = None), text_signature = "(path, *, from_seq=0)")]
    fn new(path: PathBuf, from_seq: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let from_seq = from_seq.map_or(Ok(0), |v| unsigned("from_seq", v))?;
        let reader = EventLogReader::open(path, from_seq).py()?;
        Ok(Self {
            reader: Mutex::new(reader),
        })
    }

    /// Return the complete records that came since the last call.
    ///
    /// Parameters
    /// ----------
    /// max_bytes : int, default 16 MiB
    ///     Stop after about this many bytes; the rest comes with the next call. At least one record is returned if there is one.
    ///
    /// Returns
    /// -------
    /// list of (int, bytes)
    ///     Sequence number and payload, in order; empty if there is nothing new.
    ///
    /// Raises
    /// ------
    /// CorruptStateError
    ///     If the file became shorter than what was read, or is no event log any more.
    #[pyo3(signature = (max_bytes = 16 << 20), text_signature = "(self, max_bytes=16777216)")]
    fn poll<'py>(&self, py: Python<'py>, max_bytes: usize) -> PyResult<Vec<Record<'py>>> {
        let records = detached(py, || self.reader.lock().poll(max_bytes))?;
        Ok(records
            .into_iter()
            .map(|(seq, payload)| (seq, PyBytes::new(py, &payload)))
            .collect())
    }

    /// Sequence number that the next poll begins with.
    #[getter]
    fn next_seq(&self) -> u64 {
        self.reader.lock().next_seq()
    }

    /// Records that a checkpoint dropped before this reader saw them.
    #[getter]
    fn missed(&self) -> u64 {
        self.reader.lock().missed()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let reader = self.reader.lock();
        let path = path_repr(py, reader.path())?;
        Ok(format!("EventLogReader({path}, from_seq={})", reader.next_seq()))
    }
}
