//! Memory maps of large files that do not change.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::Error;

/// A memory-mapped file. It dereferences to its bytes, which the system loads on access.
#[derive(Debug)]
pub struct Map(memmap2::Mmap);

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps a file into memory.
///
/// The file must not change while it is mapped. [`crate::write_atomic`] is safe: it replaces the name and does not touch
/// mapped bytes.
///
/// # Errors
/// When the file cannot be opened or mapped.
pub fn map(path: &Path) -> Result<Map, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    // SAFETY: the file is only read, and our writers never change a file in place (see above). If another program
    // truncates it, the process ends with SIGBUS instead of computing wrong numbers.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("map", path))?;
    Ok(Map(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        crate::write_atomic(&path, b"bytes").unwrap();
        assert_eq!(&*map(&path).unwrap(), b"bytes");
        assert!(map(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
