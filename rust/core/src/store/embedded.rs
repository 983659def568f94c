//! A key-value database in one file: the mutable side of the state, where the event log is the history.

use crate::error::{Error, Result};
use crate::metrics::Metrics;
use parking_lot::RwLock;
use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition, TableHandle};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest scope and longest key, in bytes of UTF-8.
pub const MAX_KEY: usize = 1024;

/// Page cache; the library's default of 1 GiB is not for something that lives inside an application.
const CACHE_BYTES: usize = 16 << 20;
const PAIRS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("pairs");
const LAYOUT: TableDefinition<'_, (), u32> = TableDefinition::new("layout");
const VERSION: u32 = 1;
const SUM: usize = 4;

/// Errors unless scope and key can be stored by every database behind this interface.
pub fn check_key(scope: &str, key: Option<&str>) -> Result<()> {
    for (name, text) in std::iter::once(("scope", scope)).chain(key.map(|k| ("key", k))) {
        if text.len() > MAX_KEY {
            return Err(Error::Capacity {
                name,
                limit: format!("at most {MAX_KEY} bytes"),
                got: format!("{} bytes", text.len()),
            });
        }
        if text.is_empty() || text.contains('\0') {
            return Err(Error::value(
                name,
                "text without NUL, not empty",
                format!("{text:?}"),
            ));
        }
    }
    Ok(())
}

/// Embedded database (scope, key) → value: transactional, durable when a call returns, one process at a time.
///
/// Safe to share between threads: reads run side by side, writes one after the other.
#[derive(Debug)]
pub struct EmbeddedStore {
    /// None once closed.
    db: RwLock<Option<Arc<Database>>>,
    path: PathBuf,
    pid: u32,
}

impl EmbeddedStore {
    /// Opens or creates the database at `path`. After a crash it is repaired to the last committed state.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let opened = Self {
            db: RwLock::new(None),
            path: path.into(),
            pid: std::process::id(),
        };
        let db = opened.run("open", || {
            Ok(Database::builder().set_cache_size(CACHE_BYTES).create(path)?)
        })?;
        opened.check_layout(&db)?;
        *opened.db.write() = Some(Arc::new(db));
        Ok(opened)
    }

    /// Stores `value`; what was there is replaced.
    pub fn put(&self, scope: &str, key: &str, value: &[u8]) -> Result<()> {
        self.put_many(scope, &[(key, value)])
    }

    /// Stores all pairs or none of them: one transaction, one sync.
    pub fn put_many(&self, scope: &str, pairs: &[(impl AsRef<str>, impl AsRef<[u8]>)]) -> Result<()> {
        check_key(scope, None)?;
        for (key, value) in pairs {
            check_key(scope, Some(key.as_ref()))?;
            super::record::check_payload("value", value.as_ref())?;
        }
        let db = self.database()?;
        self.run("write to", || {
            let tx = db.begin_write()?;
            {
                let mut table = tx.open_table(PAIRS)?;
                for (key, value) in pairs {
                    let mut sealed = Vec::with_capacity(value.as_ref().len() + SUM);
                    sealed.extend_from_slice(value.as_ref());
                    sealed.extend_from_slice(&checksum(scope, key.as_ref(), value.as_ref()));
                    table.insert((scope, key.as_ref()), &*sealed)?;
                }
            }
            Ok(tx.commit()?)
        })
    }

    /// The value, if the key is there.
    pub fn get(&self, scope: &str, key: &str) -> Result<Option<Vec<u8>>> {
        check_key(scope, Some(key))?;
        let db = self.database()?;
        let found = self.run("read", || {
            let table = db.begin_read()?.open_table(PAIRS)?;
            let sealed = table.get((scope, key))?;
            Ok(sealed.map(|v| unseal(scope, key, v.value())))
        })?;
        found
            .map(|value| value.ok_or_else(|| self.damaged(scope, key)))
            .transpose()
    }

    /// Removes the key. True if it was there.
    pub fn delete(&self, scope: &str, key: &str) -> Result<bool> {
        check_key(scope, Some(key))?;
        let db = self.database()?;
        self.run("write to", || {
            let tx = db.begin_write()?;
            let was_there = tx.open_table(PAIRS)?.remove((scope, key))?.is_some();
            tx.commit()?;
            Ok(was_there)
        })
    }

    /// All pairs of the scope, ascending by the bytes of the key: one consistent view.
    pub fn scan(&self, scope: &str) -> Result<Vec<(String, Vec<u8>)>> {
        check_key(scope, None)?;
        let db = self.database()?;
        self.run("read", || {
            let table = db.begin_read()?.open_table(PAIRS)?;
            let mut pairs = Vec::new();
            for entry in table.range((scope, "")..)? {
                let (key, value) = entry?;
                let (owner, name) = key.value();
                if owner != scope {
                    break;
                }
                let Some(value) = unseal(scope, name, value.value()) else {
                    return Ok(Err(self.damaged(scope, name)));
                };
                pairs.push((name.to_owned(), value));
            }
            Ok(Ok(pairs))
        })?
    }

    /// Closes the file once running calls are through, and gives up its lock. Later calls do nothing.
    pub fn close(&self) {
        if !self.is_inherited() {
            let db = self.db.write().take();
            // The last handle saves the allocator's state; on a damaged file that may trip an assertion too.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
        }
    }

    /// True after [`EmbeddedStore::close`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.is_inherited() && self.db.read().is_none()
    }

    /// True in a forked child of the process that opened the store: nothing can be done with it here.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.pid != std::process::id()
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of pairs and size of the file.
    pub fn metrics(&self) -> Result<Metrics> {
        let db = self.database()?;
        let pairs = self.run("read", || Ok(db.begin_read()?.open_table(PAIRS)?.len()?))?;
        let file = std::fs::metadata(&self.path).map_err(|e| Error::store("read", &self.path, e))?;
        Ok(vec![("pairs", pairs.into()), ("nbytes", file.len().into())])
    }

    fn database(&self) -> Result<Arc<Database>> {
        // Before the lock, which a thread that does not exist in a forked child may hold.
        if self.is_inherited() {
            let owner = self.pid;
            let message = format!("the database belongs to process {owner}; a forked process opens its own");
            return Err(Error::store("use", &self.path, io::Error::other(message)));
        }
        let open = self.db.read().clone();
        open.ok_or_else(|| Error::value("store", "an open store", "a closed one"))
    }

    /// Refuses a database that somebody else, or a newer layout, wrote; stamps a new one.
    fn check_layout(&self, db: &Database) -> Result<()> {
        let found = self.run("open", || {
            let tx = db.begin_read()?;
            if tx.list_tables()?.all(|t| t.name() != LAYOUT.name()) {
                let foreign =
                    tx.list_tables()?.next().is_some() || tx.list_multimap_tables()?.next().is_some();
                return Ok(if foreign { Some(0) } else { None });
            }
            let stamp = tx.open_table(LAYOUT)?.get(())?.map_or(0, |v| v.value());
            Ok(Some(stamp))
        })?;
        match found {
            Some(VERSION) => Ok(()),
            Some(0) => Err(self.corrupt("a database of something else")),
            Some(other) => Err(self.corrupt(format!("layout version {other}, this build reads {VERSION}"))),
            None => self.run("create", || {
                let tx = db.begin_write()?;
                tx.open_table(LAYOUT)?.insert((), VERSION)?;
                tx.open_table(PAIRS)?;
                Ok(tx.commit()?)
            }),
        }
    }

    /// Runs a call of the library; its assertions, which a damaged file can trip, become errors.
    fn run<T>(&self, action: &'static str, f: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(result) => result.map_err(|e| self.error(action, e)),
            Err(_) => Err(self.corrupt("the database is damaged")),
        }
    }

    fn damaged(&self, scope: &str, key: &str) -> Error {
        self.corrupt(format!("the value of {key:?} in scope {scope:?} is damaged"))
    }

    fn corrupt(&self, reason: impl ToString) -> Error {
        Error::corrupt(format!("database {}", self.path.display()), reason)
    }

    fn error(&self, action: &'static str, e: redb::Error) -> Error {
        use redb::Error as E;
        match e {
            E::Io(e)
                if !matches!(
                    e.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Error::store(action, &self.path, e)
            }
            E::DatabaseAlreadyOpen => {
                let busy = io::Error::new(io::ErrorKind::WouldBlock, "another process has the database open");
                Error::store(action, &self.path, busy)
            }
            E::PreviousIo | E::DatabaseClosed => {
                Error::store(action, &self.path, io::Error::other(e.to_string()))
            }
            e => self.corrupt(e),
        }
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        if self.is_inherited() {
            // The file, its lock and its unsaved pages are the parent's: closing here would write and unlock for it.
            std::mem::forget(self.db.get_mut().take());
        } else {
            self.close();
        }
    }
}

/// Checksum of a pair: the library notices torn commits, but not a bit that flipped in a page.
fn checksum(scope: &str, key: &str, value: &[u8]) -> [u8; SUM] {
    let mut h = crc32fast::Hasher::new();
    // NUL occurs in neither text, so the parts cannot shift into each other.
    for part in [scope.as_bytes(), b"\0", key.as_bytes(), b"\0", value] {
        h.update(part);
    }
    h.finalize().to_le_bytes()
}

/// The value without its checksum, if that is right.
fn unseal(scope: &str, key: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let (value, sum) = sealed.split_last_chunk::<SUM>()?;
    (checksum(scope, key, value) == *sum).then(|| value.to_vec())
}
