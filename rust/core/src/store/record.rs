//! Layout of the event log on disk.
//!
//! Header, 28 bytes: `b"SONA-LOG" | version u32 | generation u32 | first sequence number u64 | crc32 u32` (of what is before
//! it). The generation counts rewrites, so that a reader knows that its position in the file is of no use any more.
//! Record: `len u32 | seq u64 | crc32 u32 | payload`; the checksum covers length, sequence number and payload, so that a
//! flip anywhere in the record shows. Little endian throughout.

use crate::error::{Error, Result};
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Largest payload of one record, in bytes.
pub const MAX_PAYLOAD: usize = 1 << 28;

/// No log gets here (at 10⁶ records a second it takes 146,000 years); a file that claims it is hostile.
const MAX_SEQ: u64 = 1 << 62;
pub(super) const HEADER: usize = 28;
pub(super) const RECORD_HEAD: usize = 16;
const MAGIC: &[u8; 8] = b"SONA-LOG";
const VERSION: u32 = 1;

/// Which file a log is: changes whenever records are dropped or rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// Rewrites so far.
    pub generation: u32,
    /// Number of the first record.
    pub first_seq: u64,
}

impl Identity {
    pub(super) const FRESH: Self = Self {
        generation: 0,
        first_seq: 0,
    };
}

/// The header of a log.
pub(super) fn header(id: Identity) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    h[..8].copy_from_slice(MAGIC);
    h[8..12].copy_from_slice(&VERSION.to_le_bytes());
    h[12..16].copy_from_slice(&id.generation.to_le_bytes());
    h[16..24].copy_from_slice(&id.first_seq.to_le_bytes());
    let sum = crc32fast::hash(&h[..24]);
    h[24..].copy_from_slice(&sum.to_le_bytes());
    h
}

/// What the first bytes of a file say.
pub(super) enum Header {
    /// Nothing yet, or the torn header of a log that was just being created: it holds no record.
    Unborn,
    /// A log.
    Log(Identity),
}

/// Judges the first (up to [`HEADER`]) bytes of the file at `path`.
pub(super) fn parse_header(path: &Path, h: &[u8]) -> Result<Header> {
    let fail = |reason: String| Err(Error::corrupt(format!("event log {}", path.display()), reason));
    if h.len() < HEADER {
        // Only a fresh log is created in place, so only its header can be torn.
        return if header(Identity::FRESH).starts_with(h) {
            Ok(Header::Unborn)
        } else {
            fail("not an event log (no header)".into())
        };
    }
    if &h[..8] != MAGIC {
        return fail("not an event log (bad magic)".into());
    }
    let version = u32_at(h, 8);
    if version != VERSION {
        return fail(format!("layout version {version}, this build reads {VERSION}"));
    }
    let id = Identity {
        generation: u32_at(h, 12),
        first_seq: u64_at(h, 16),
    };
    if h[..HEADER] != header(id) {
        return fail("header checksum does not match".into());
    }
    if id.first_seq > MAX_SEQ {
        return fail(format!("impossible first sequence number {}", id.first_seq));
    }
    Ok(Header::Log(id))
}

/// Appends the record to `out`.
pub(super) fn encode(seq: u64, payload: &[u8], out: &mut Vec<u8>) {
    let head = head_bytes(payload.len() as u32, seq);
    let mut sum = crc32fast::Hasher::new();
    sum.update(&head);
    sum.update(payload);
    out.extend_from_slice(&head);
    out.extend_from_slice(&sum.finalize().to_le_bytes());
    out.extend_from_slice(payload);
}

/// Errors if `bytes` are too many for a record.
pub(super) fn check_payload(name: &'static str, bytes: &[u8]) -> Result<()> {
    if bytes.len() <= MAX_PAYLOAD {
        return Ok(());
    }
    Err(Error::Capacity {
        name,
        limit: format!("at most {MAX_PAYLOAD} bytes"),
        got: format!("{} bytes", bytes.len()),
    })
}

/// A record that was whole when the log was opened and is not now.
pub(super) fn damaged(path: &Path, seq: u64) -> Error {
    Error::corrupt(
        format!("event log {}", path.display()),
        format!("record {seq} is damaged"),
    )
}

/// What stands at a position of the log.
pub(super) enum Next {
    /// A whole, valid record; its payload is in the buffer (if it was asked for).
    Record,
    /// Fewer bytes than a record, a wrong checksum or number: torn, flipped, or still being written.
    Invalid,
    /// The end.
    End,
}

/// Reads the record `seq` of at most `limit` bytes from `input`. With `keep`, the payload goes into `payload`; without, it
/// is checked in pieces and `payload` stays empty. Nothing is allocated for a length beyond `limit`.
pub(super) fn read(
    input: &mut impl Read,
    seq: u64,
    limit: u64,
    keep: bool,
    payload: &mut Vec<u8>,
) -> std::io::Result<(Next, u64)> {
    payload.clear();
    let mut head = [0; RECORD_HEAD];
    if limit == 0 {
        return Ok((Next::End, 0));
    }
    if limit < RECORD_HEAD as u64 || !fill(input, &mut head)? {
        return Ok((Next::Invalid, 0));
    }
    let len = u32_at(&head, 0) as usize;
    let size = (RECORD_HEAD + len) as u64;
    if len > MAX_PAYLOAD || size > limit || u64_at(&head, 4) != seq {
        return Ok((Next::Invalid, 0));
    }
    let mut sum = crc32fast::Hasher::new();
    sum.update(&head[..12]);
    if keep {
        payload.resize(len, 0);
        if !fill(input, payload)? {
            return Ok((Next::Invalid, 0));
        }
        sum.update(payload);
    } else {
        let mut piece = [0; 8192];
        let mut left = len;
        while left > 0 {
            let part = &mut piece[..left.min(8192)];
            if !fill(input, part)? {
                return Ok((Next::Invalid, 0));
            }
            sum.update(part);
            left -= part.len();
        }
    }
    Ok(if sum.finalize() == u32_at(&head, 12) {
        (Next::Record, size)
    } else {
        (Next::Invalid, 0)
    })
}

/// Fills `out`; false if the input ends before.
fn fill(input: &mut impl Read, out: &mut [u8]) -> std::io::Result<bool> {
    match input.read_exact(out) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

fn head_bytes(len: u32, seq: u64) -> [u8; 12] {
    let mut h = [0; 12];
    h[..4].copy_from_slice(&len.to_le_bytes());
    h[4..].copy_from_slice(&seq.to_le_bytes());
    h
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}
