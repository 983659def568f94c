//! Files that are replaced whole: a reader sees the old bytes or the new ones, never a mixture.

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The temporary file beside `path`, on the same file system so that the rename is atomic.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// The directory that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Makes a creation, rename or removal in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    // Windows has no handle on a directory that could be flushed; its renames are journaled by the file system.
    if cfg!(unix) {
        File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| Error::store("sync directory", dir, e))?;
    }
    Ok(())
}

/// A fresh file that did not exist, opened for appending and reading. A leftover of a crash is removed first; a symbolic
/// link put in its place is removed, not followed.
pub(crate) fn create_temporary(tmp: &Path) -> Result<File> {
    remove_if_there(tmp)?;
    OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .open(tmp)
        .map_err(|e| Error::store("create", tmp, e))
}

/// Removes a file; one that is not there is no error. True if it was there.
pub(crate) fn remove_if_there(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::store("remove", path, e)),
    }
}

/// Puts a synced temporary file in the place of `path`, durably.
pub(crate) fn publish(tmp: &Path, path: &Path) -> Result<()> {
    fs::rename(tmp, path).map_err(|e| Error::store("replace", path, e))?;
    sync_dir(parent(path))
}

/// Writes the whole of `path` through `fill`: temporary file, fsync, rename, fsync of the directory. On any error the file
/// that was there before stays as it was.
pub fn replace<T>(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    if path.file_name().is_none() {
        return Err(Error::value("path", "a file name", path.display()));
    }
    let tmp = temporary(path);
    let file = create_temporary(&tmp)?;
    let written = (|| {
        let mut out = std::io::BufWriter::with_capacity(1 << 16, &file);
        let value = fill(&mut out)?;
        out.flush()
            .and_then(|()| file.sync_all())
            .map_err(|e| Error::store("write", path, e))?;
        publish(&tmp, path)?;
        Ok(value)
    })();
    if written.is_err() {
        // The first error is the one to report; a leftover is removed by the next writer.
        let _ = fs::remove_file(&tmp);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_keeps_the_old_bytes_on_error_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace(&path, |w| {
            w.write_all(b"old").map_err(|e| Error::store("write", "a", e))
        })
        .unwrap();
        let failed: Result<()> = replace(&path, |w| {
            let _ = w.write_all(&[7; 1 << 18]);
            Err(Error::Learning("stop".into()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_place_of_the_temporary_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("a"), dir.path().join("victim"));
        fs::write(&victim, b"precious").unwrap();
        std::os::unix::fs::symlink(&victim, temporary(&path)).unwrap();
        replace(&path, |w| {
            w.write_all(b"new").map_err(|e| Error::store("write", "a", e))
        })
        .unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
