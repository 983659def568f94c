//! Large files read in one piece, by two threads into large pages.

use crate::error::{Error, Result};
use crate::kernels::{Team, prefer_large_pages};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Bytes from which on threads and large pages are worth their start.
const LARGE: usize = 1 << 23;
/// Bytes that a thread reads at a time.
const PART: usize = 1 << 22;

/// The bytes of the file at `path`.
pub fn read_whole(path: &Path) -> Result<Vec<u8>> {
    read(path).map_err(|e| Error::store("read", path, e))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if len < LARGE {
        return fs::read(path);
    }
    match read_large(&file, len, PART) {
        // It became shorter meanwhile: what is there now, whose checksum will tell.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => fs::read(path),
        read => read,
    }
}

#[cfg(unix)]
fn read_large(file: &File, len: usize, part: usize) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    // Fresh zeros from the system: pages appear when they are written.
    let mut bytes = vec![0; len];
    prefer_large_pages(&mut bytes);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let failed = parking_lot::Mutex::new(None);
    let parts = bytes.chunks_mut(part).enumerate().collect();
    Team::new(threads).run(parts, |(i, out): (usize, &mut [u8])| {
        if let Err(e) = file.read_exact_at(out, (i * part) as u64) {
            *failed.lock() = Some(e);
        }
    });
    failed.into_inner().map_or(Ok(bytes), Err)
}

#[cfg(not(unix))]
fn read_large(_: &File, _: usize, _: usize) -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_files_come_back_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        for len in [0, 1, LARGE - 1, LARGE, 2 * PART + 1, 3 * PART + 4097] {
            let bytes: Vec<u8> = (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            assert!(read_whole(&path).unwrap() == bytes, "{len}");
        }
        let missing = read_whole(&dir.path().join("other"));
        assert!(
            matches!(missing, Err(Error::Store { source, .. }) if source.kind() == io::ErrorKind::NotFound)
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_became_shorter_is_an_end_that_nobody_expected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::write(&path, vec![1u8; 5000]).unwrap();
        let error = read_large(&File::open(&path).unwrap(), 9000, 1000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
