//! Memory maps of large files that do not change.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::Error;

/// A file as a byte slice, read by the system as it is touched.
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
/// The file must not be changed while it is mapped: everything Retrace maps is written once by
/// [`crate::write_atomic`], which replaces the name and leaves mapped bytes alone.
///
/// # Errors
/// When the file cannot be opened or mapped.
pub fn map(path: &Path) -> Result<Map, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    // SAFETY: the file is only read; our writers never change a file in place (see above), and a file that
    // somebody else truncates under us ends the process with SIGBUS rather than giving wrong numbers.
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
