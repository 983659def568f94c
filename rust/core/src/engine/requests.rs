//! Forgetting across processes: a request in the state directory that every living writer honours at its next call.
//!
//! `forget/NAME.request` holds a tombstone and the writers that have yet to take it out of their logs; each answers with
//! `forget/NAME.WRITER.done`. The one that answers last removes the files.

use super::tombstone::Tombstone;
use crate::codec::{self, Kind};
use crate::error::{Error, Result};
use crate::store::atomic;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const KIND: Kind = Kind {
    tag: *b"FRGT",
    version: 1,
};
/// A directory that changed this lately may change again without a newer time stamp.
const COARSE: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
struct Body {
    tombstone: Tombstone,
    waiting: Vec<u32>,
}

/// A request that some writer has yet to honour.
#[derive(Debug, Clone)]
pub struct Request {
    path: PathBuf,
    /// What is to be forgotten.
    pub tombstone: Arc<Tombstone>,
    /// Writers that have yet to confirm.
    pub waiting: Vec<u32>,
}

/// The requests of a state directory.
#[derive(Debug)]
pub struct Requests {
    directory: PathBuf,
    seen: Option<SystemTime>,
}

impl Requests {
    /// Of the state directory `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            directory: root.join("forget"),
            seen: None,
        }
    }

    /// True if there may be something new since the last call. One look at the directory's time stamp.
    pub fn changed(&mut self) -> bool {
        let Ok(at) = fs::metadata(&self.directory).and_then(|m| m.modified()) else {
            return false;
        };
        if self.seen == Some(at) {
            return false;
        }
        let settled = at.elapsed().is_ok_and(|age| age > COARSE);
        self.seen = settled.then_some(at);
        true
    }

    /// Every request that waits for somebody.
    pub fn list(&self) -> Result<Vec<Request>> {
        let failed = |e| Error::store("list", &self.directory, e);
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let mut out = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|e| e != "request") {
                continue;
            }
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                // The last writer confirmed in between.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::store("read", &path, e)),
            };
            let body: Body = codec::decode(KIND, &bytes)?;
            let waiting = body
                .waiting
                .into_iter()
                .filter(|w| !done(&path, *w).exists())
                .collect();
            out.push(Request {
                path,
                tombstone: Arc::new(body.tombstone),
                waiting,
            });
        }
        out.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(out)
    }

    /// Asks the writers.
    pub fn ask(&self, tombstone: &Tombstone, waiting: Vec<u32>) -> Result<()> {
        fs::create_dir_all(&self.directory).map_err(|e| Error::store("create", &self.directory, e))?;
        let body = Body {
            tombstone: tombstone.clone(),
            waiting,
        };
        let bytes = codec::encode(KIND, &body)?;
        let name = &blake3::hash(&bytes).to_hex()[..16];
        let path = self.directory.join(format!("{name}.request"));
        atomic::replace(&path, |w| {
            w.write_all(&bytes).map_err(|e| Error::store("write", &path, e))
        })
    }

    /// Confirms for these writers.
    pub fn confirm(&self, request: &Request, writers: &[u32]) -> Result<()> {
        for w in writers {
            let path = done(&request.path, *w);
            fs::write(&path, b"").map_err(|e| Error::store("write", path, e))?;
        }
        let left = request.waiting.iter().any(|w| !done(&request.path, *w).exists());
        if !left {
            // The request first: answers without one mean nothing.
            for path in [request.path.clone()]
                .into_iter()
                .chain(self.answers(&request.path)?)
            {
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::store("remove", path, e)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn answers(&self, request: &Path) -> Result<Vec<PathBuf>> {
        let stem = request
            .file_stem()
            .map(|s| s.to_string_lossy().into_owned())
            .unwrap_or_default();
        let failed = |e| Error::store("list", &self.directory, e);
        let mut out = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
            if name.is_some_and(|n| n.starts_with(&stem) && n.ends_with(".done")) {
                out.push(path);
            }
        }
        Ok(out)
    }
}

fn done(request: &Path, worker: u32) -> PathBuf {
    request.with_extension(format!("{worker}.done"))
}
