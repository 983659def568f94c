//! Versions of a state as files: each written whole, checked on reading, kept until pruned.

use super::atomic;
use super::whole::read_whole;
use crate::codec::{self, Kind};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const KIND: Kind = Kind {
    tag: *b"SNAP",
    version: 1,
};
const PREFIX: &str = "snapshot-";
const SUFFIX: &str = ".sona";

/// A directory of snapshots named by version. Safe to share between threads and processes: whoever writes waits for the
/// lock of the file `lock` in the directory.
///
/// A file holds its own version number under its checksum, so that one copied over another is noticed. Anything in the
/// directory that is not a regular file, symbolic links among them, is not read.
#[derive(Debug)]
pub struct SnapshotStore {
    dir: PathBuf,
    saves: AtomicU64,
    skipped: AtomicU64,
}

impl SnapshotStore {
    /// Opens the directory, creates it if it is not there, and removes what an interrupted save left.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(|e| Error::store("create", dir, e))?;
        let dir = fs::canonicalize(dir).map_err(|e| Error::store("open", dir, e))?;
        let store = Self {
            dir,
            saves: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
        };
        let lock = store.lock()?;
        for name in file_names(&store.dir)? {
            if name.strip_suffix(".tmp").and_then(parse).is_some() {
                atomic::remove_if_there(&store.dir.join(name))?;
            }
        }
        drop(lock);
        Ok(store)
    }

    /// Saves `state` as `version`, durably, and returns its file. A version that exists is replaced whole.
    pub fn save(&self, state: &[u8], version: u64) -> Result<PathBuf> {
        let path = self.path(version);
        let mut payload = Vec::with_capacity(8 + state.len());
        payload.extend_from_slice(&version.to_le_bytes());
        payload.extend_from_slice(state);
        let sealed = codec::seal(KIND, &payload);
        let _lock = self.lock()?;
        atomic::replace(&path, |w| {
            w.write_all(&sealed).map_err(|e| Error::store("write", &path, e))
        })?;
        self.saves.fetch_add(1, Ordering::Relaxed);
        Ok(path)
    }

    /// The state saved as `version`. Damaged: [`Error::Corrupt`]; not there: [`Error::Store`].
    pub fn load(&self, version: u64) -> Result<Vec<u8>> {
        let path = self.path(version);
        let io = |e| Error::store("read", &path, e);
        let corrupt = |reason: String| Error::corrupt(format!("snapshot {}", path.display()), reason);
        if !fs::symlink_metadata(&path).map_err(io)?.is_file() {
            return Err(corrupt("not a regular file".into()));
        }
        let mut bytes = read_whole(&path)?;
        let payload = codec::open(KIND, &bytes).map_err(|e| corrupt(e.to_string()))?;
        match payload.split_first_chunk() {
            Some((held, _)) if u64::from_le_bytes(*held) == version => {}
            Some((held, _)) => {
                return Err(corrupt(format!("holds version {}", u64::from_le_bytes(*held))));
            }
            None => return Err(corrupt("holds no version".into())),
        }
        let start = bytes.len() - (payload.len() - 8);
        bytes.drain(..start);
        Ok(bytes)
    }

    /// The newest version that is whole, with its number. Damaged ones are skipped and counted; an error only if there are
    /// versions and all are damaged. None in an empty directory.
    pub fn latest(&self) -> Result<Option<(u64, Vec<u8>)>> {
        let mut newest_error = None;
        for version in self.versions()?.into_iter().rev() {
            match self.load(version) {
                Ok(state) => return Ok(Some((version, state))),
                Err(e @ Error::Corrupt { .. }) => {
                    self.skipped.fetch_add(1, Ordering::Relaxed);
                    newest_error.get_or_insert(e);
                }
                // Pruned by another thread since it was listed.
                Err(Error::Store { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        newest_error.map_or(Ok(None), Err)
    }

    /// The versions that have a file, ascending, damaged ones included.
    pub fn versions(&self) -> Result<Vec<u64>> {
        let mut versions: Vec<u64> = file_names(&self.dir)?.iter().filter_map(|n| parse(n)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Removes all but the newest `keep` whole versions and returns what went, ascending. Damaged versions do not count as
    /// kept; those newer than the oldest kept one stay, as evidence.
    pub fn prune(&self, keep: usize) -> Result<Vec<u64>> {
        if keep == 0 {
            return Err(Error::value("keep", "at least 1", keep));
        }
        let _lock = self.lock()?;
        let versions = self.versions()?;
        let mut whole = 0;
        let mut oldest_kept = versions.len();
        while oldest_kept > 0 && whole < keep {
            oldest_kept -= 1;
            match self.load(versions[oldest_kept]) {
                Ok(_) => whole += 1,
                Err(Error::Corrupt { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let gone = versions[..oldest_kept].to_vec();
        for version in &gone {
            atomic::remove_if_there(&self.path(*version))?;
        }
        if !gone.is_empty() {
            atomic::sync_dir(&self.dir)?;
        }
        Ok(gone)
    }

    /// Removes one version, durably. True if it was there.
    pub fn remove(&self, version: u64) -> Result<bool> {
        let _lock = self.lock()?;
        let was_there = atomic::remove_if_there(&self.path(version))?;
        if was_there {
            atomic::sync_dir(&self.dir)?;
        }
        Ok(was_there)
    }

    /// The directory, as an absolute path.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.dir
    }

    /// Counters and sizes.
    pub fn metrics(&self) -> Result<Metrics> {
        let versions = self.versions()?;
        let nbytes: u64 = versions
            .iter()
            .filter_map(|v| fs::symlink_metadata(self.path(*v)).ok())
            .map(|m| m.len())
            .sum();
        Ok(vec![
            ("versions", versions.len().into()),
            ("nbytes", nbytes.into()),
            ("saves", self.saves.load(Ordering::Relaxed).into()),
            ("skipped", self.skipped.load(Ordering::Relaxed).into()),
        ])
    }

    /// Waits until no other thread or process writes here.
    fn lock(&self) -> Result<Lock> {
        let path = self.dir.join("lock");
        OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|file| file.lock().map(|()| Lock(file)))
            .map_err(|e| Error::store("lock", path, e))
    }

    /// Versions are numbers, so no name can lead out of the directory.
    fn path(&self, version: u64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{version:020}{SUFFIX}"))
    }
}

/// A lock that is given up when this goes, even if a child was forked meanwhile and holds a copy of the handle.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // An error would only mean that the lock goes with the handle.
        let _ = self.0.unlock();
    }
}

/// Names of the directory's regular files.
fn file_names(dir: &Path) -> Result<Vec<String>> {
    let io = |e| Error::store("list", dir, e);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_type().map_err(io)?.is_file() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

/// The version in a file name.
fn parse(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, SnapshotStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path().join("snapshots")).unwrap();
        (dir, store)
    }

    #[test]
    fn versions_round_trip_and_latest_skips_damage() {
        let (_dir, store) = store();
        assert!(store.latest().unwrap().is_none());
        for v in [3, 1, u64::MAX, 20] {
            store.save(format!("state {v}").as_bytes(), v).unwrap();
        }
        store.save(b"", 2).unwrap();
        assert_eq!(store.versions().unwrap(), [1, 2, 3, 20, u64::MAX]);
        assert_eq!(store.load(2).unwrap(), b"");
        assert_eq!(
            store.latest().unwrap().unwrap(),
            (u64::MAX, format!("state {}", u64::MAX).into_bytes())
        );
        let newest = store.path(u64::MAX);
        let good = fs::read(&newest).unwrap();
        for cut in 0..good.len() {
            fs::write(&newest, &good[..cut]).unwrap();
            assert!(matches!(store.load(u64::MAX), Err(Error::Corrupt { .. })));
            assert_eq!(store.latest().unwrap().unwrap().0, 20);
        }
        for bit in 0..good.len() * 8 {
            let mut b = good.clone();
            b[bit / 8] ^= 1 << (bit % 8);
            fs::write(&newest, &b).unwrap();
            assert!(matches!(store.load(u64::MAX), Err(Error::Corrupt { .. })));
        }
        assert!(matches!(store.load(7), Err(Error::Store { .. })));
        fs::copy(store.path(3), store.path(1)).unwrap();
        assert!(matches!(store.load(1), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn prune_never_trades_a_whole_version_for_a_damaged_one() {
        let (_dir, store) = store();
        for v in 0..6 {
            store.save(b"state", v).unwrap();
        }
        for v in [3, 5] {
            fs::write(store.path(v), b"torn").unwrap();
        }
        assert!(store.prune(0).is_err());
        assert_eq!(store.prune(2).unwrap(), [0, 1]);
        assert_eq!(store.versions().unwrap(), [2, 3, 4, 5]);
        assert_eq!(store.prune(9).unwrap(), [0; 0]);
        assert_eq!(store.latest().unwrap().unwrap().0, 4);
        assert!(store.remove(4).unwrap() && !store.remove(4).unwrap());
    }

    #[test]
    fn writers_of_one_directory_take_turns() {
        let (_dir, store) = store();
        std::thread::scope(|s| {
            for thread in 0..4u8 {
                let dir = store.directory();
                s.spawn(move || {
                    for round in 0..20u64 {
                        let own = SnapshotStore::open(dir).unwrap();
                        own.save(&vec![thread; 10_000], round).unwrap();
                        own.prune(3).unwrap();
                        let state = own.latest().unwrap().unwrap().1;
                        assert!(state.iter().all(|b| *b == state[0]));
                    }
                });
            }
        });
        assert_eq!(store.skipped.load(Ordering::Relaxed), 0);
        assert_eq!(store.versions().unwrap(), [17, 18, 19]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed_and_leftovers_are_removed() {
        let (dir, store) = store();
        store.save(b"mine", 1).unwrap();
        let outside = dir.path().join("outside");
        fs::copy(store.path(1), &outside).unwrap();
        std::os::unix::fs::symlink(&outside, store.path(2)).unwrap();
        assert_eq!(store.versions().unwrap(), [1]);
        assert!(matches!(store.load(2), Err(Error::Corrupt { .. })));
        store.save(b"two", 2).unwrap();
        assert_ne!(fs::read(&outside).unwrap(), fs::read(store.path(2)).unwrap());
        let leftover = atomic::temporary(&store.path(9));
        fs::write(&leftover, b"half").unwrap();
        let again = SnapshotStore::open(store.directory()).unwrap();
        assert!(!leftover.exists());
        assert_eq!(again.load(2).unwrap(), b"two");
    }
}
