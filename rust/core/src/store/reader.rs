//! Reading the event log: replay inside the writing process, tailing from another one.

use super::record::{self, HEADER, Header, Identity, Next};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const BUFFER: usize = 1 << 16;

/// Records in order, read from the file as the iteration goes: memory is one record and a buffer of 64 KiB.
///
/// The end is fixed when the replay starts; records that are appended later are not seen.
#[derive(Debug)]
pub struct Replay {
    input: BufReader<File>,
    path: PathBuf,
    seq: u64,
    from_seq: u64,
    left: u64,
    payload: Vec<u8>,
}

impl Replay {
    /// Over the records `first_seq..` that stand between the header and `end` bytes of `file`.
    pub(super) fn new(mut file: File, path: &Path, first_seq: u64, from_seq: u64, end: u64) -> Result<Self> {
        file.seek(SeekFrom::Start(HEADER as u64))
            .map_err(|e| Error::store("read", path, e))?;
        Ok(Self {
            input: BufReader::with_capacity(BUFFER, file),
            path: path.into(),
            seq: first_seq,
            from_seq,
            left: end.saturating_sub(HEADER as u64),
            payload: Vec::new(),
        })
    }

    fn advance(&mut self) -> Result<Option<(u64, Vec<u8>)>> {
        loop {
            let keep = self.seq >= self.from_seq;
            let (next, size) = record::read(&mut self.input, self.seq, self.left, keep, &mut self.payload)
                .map_err(|e| Error::store("read", &self.path, e))?;
            match next {
                Next::End => return Ok(None),
                // The file changed underneath.
                Next::Invalid => return Err(record::damaged(&self.path, self.seq)),
                Next::Record => {
                    let seq = self.seq;
                    self.seq += 1;
                    self.left -= size;
                    if keep {
                        return Ok(Some((seq, std::mem::take(&mut self.payload))));
                    }
                }
            }
        }
    }
}

impl Iterator for Replay {
    type Item = Result<(u64, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.advance();
        if item.is_err() {
            self.left = 0;
        }
        item.transpose()
    }
}

/// Follows a log that another process writes: takes no lock, never writes.
///
/// A record is seen when it is in the file, which may be before it is on the disk. Records that a checkpoint dropped before
/// they were polled are counted in [`EventLogReader::missed`].
#[derive(Debug)]
pub struct EventLogReader {
    path: PathBuf,
    /// The file that `at` belongs to; a checkpoint or rewrite puts another one in its place.
    file: Option<Identity>,
    at: u64,
    next_seq: u64,
    missed: u64,
}

impl EventLogReader {
    /// Opens for reading from record `from_seq`; the file must be an event log.
    pub fn open(path: impl AsRef<Path>, from_seq: u64) -> Result<Self> {
        let path = path.as_ref();
        read_header(path)?;
        Ok(Self {
            path: path.into(),
            file: None,
            at: HEADER as u64,
            next_seq: from_seq,
            missed: 0,
        })
    }

    /// The complete records that came since the last call, at most about `max_bytes` of payload (at least one record, if there
    /// is one). A record that is still being written is left for the next call.
    pub fn poll(&mut self, max_bytes: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        let (mut file, header) = read_header(&self.path)?;
        let Header::Log(id) = header else {
            return Ok(Vec::new());
        };
        let io = |e| Error::store("read", &self.path, e);
        let size = file.metadata().map_err(io)?.len();
        let mut seq = self.next_seq;
        if self.file != Some(id) {
            // First poll, or another file: find our place by sequence number.
            self.missed += id.first_seq.saturating_sub(self.next_seq);
            self.next_seq = self.next_seq.max(id.first_seq);
            self.file = Some(id);
            self.at = HEADER as u64;
            seq = id.first_seq;
        }
        if size < self.at {
            return Err(Error::corrupt(
                format!("event log {}", self.path.display()),
                format!("has {size} bytes, {} were read before", self.at),
            ));
        }
        file.seek(SeekFrom::Start(self.at)).map_err(io)?;
        let mut input = BufReader::with_capacity(BUFFER, file);
        let (mut out, mut bytes, mut payload) = (Vec::new(), 0, Vec::new());
        while bytes < max_bytes.max(1) {
            let keep = seq >= self.next_seq;
            let (next, len) =
                record::read(&mut input, seq, size - self.at, keep, &mut payload).map_err(io)?;
            if !matches!(next, Next::Record) {
                break;
            }
            self.at += len;
            if keep {
                bytes += len as usize;
                out.push((seq, std::mem::take(&mut payload)));
                self.next_seq = seq + 1;
            }
            seq += 1;
        }
        if seq < self.next_seq {
            // Not there yet: start over next time, the numbers before `from_seq` still have to be passed.
            self.file = None;
        }
        Ok(out)
    }

    /// Number of the record that the next poll begins with.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Records that were dropped by a checkpoint before this reader saw them.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens `path` and judges its header.
pub(super) fn read_header(path: &Path) -> Result<(File, Header)> {
    let io = |e| Error::store("open", path, e);
    // Asked before opening: to open a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::corrupt(
            format!("event log {}", path.display()),
            "not a regular file",
        ));
    }
    let mut file = File::open(path).map_err(io)?;
    let mut head = Vec::with_capacity(HEADER);
    (&mut file)
        .take(HEADER as u64)
        .read_to_end(&mut head)
        .map_err(io)?;
    let header = record::parse_header(path, &head)?;
    Ok((file, header))
}
