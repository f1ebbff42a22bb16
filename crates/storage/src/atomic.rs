//! Reads whole files, and writes them atomically.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::Error;

/// Prefix of the names of temporary files. Such files may be deleted when no run is active.
pub const TEMPORARY_PREFIX: &str = ".partial-";

/// Writes `bytes` to `path` atomically, creating parent folders. See the crate's example.
///
/// # Errors
/// When the folder cannot be created or written, or the disk is full; `path` then keeps its old content.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_atomic_with(path, |file| file.write_all(bytes))
}

/// Writes `path` atomically: `fill` gets a buffered writer.
///
/// # Errors
/// As for [`write_atomic`], or the error of `fill`.
pub fn write_atomic_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    let failed = || Error::io("write", path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io("create folder", folder))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    #[cfg(unix)]
    {
        // tempfile creates private files, but results should be readable by others
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o644));
    }
    let file = builder.tempfile_in(folder).map_err(failed())?;
    let mut writer = BufWriter::new(file);
    fill(&mut writer).map_err(failed())?;
    let file = writer.into_inner().map_err(|error| failed()(error.into_error()))?;
    file.as_file().sync_all().map_err(failed())?;
    file.persist(path).map_err(|error| failed()(error.error))?;
    sync_folder(folder)
}

/// Makes a rename durable, so that it survives a power failure.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))?;
    }
    Ok(())
}

/// Reads a whole file.
///
/// # Errors
/// When it cannot be read; the error names it.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::io("read", path))
}

/// Reads a whole file as UTF-8 text.
///
/// # Errors
/// When it cannot be read or is not UTF-8; the error names it.
pub fn read_text(path: &Path) -> Result<String, Error> {
    String::from_utf8(read(path)?).map_err(|_| Error::NotText { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_create_folders_and_replace_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c.txt");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(read_text(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_failed_write_keeps_the_old_content_and_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.txt");
        write_atomic(&path, b"old").unwrap();
        let error = write_atomic_with(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert!(error.to_string().contains("c.txt") && error.to_string().contains("free some space"), "{error}");
        assert_eq!(read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), b"").unwrap();
        let below_a_file = folder.path().join("file/x");
        assert!(write_atomic(&below_a_file, b"").unwrap_err().to_string().contains("file"));
        let missing = read(&folder.path().join("none")).unwrap_err();
        assert!(missing.is_not_found() && missing.to_string().contains("none"));
        fs::write(folder.path().join("binary"), [0xff, 0xfe]).unwrap();
        assert!(read_text(&folder.path().join("binary")).unwrap_err().to_string().contains("UTF-8"));
    }
}
