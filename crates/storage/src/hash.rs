//! Content hashes (BLAKE3, hexadecimal).

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Error;

/// The hash of bytes, as 64 hex digits.
#[must_use]
pub fn hash_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The hash of the content of a file, which is read in pieces.
///
/// # Errors
/// When it cannot be read.
pub fn hash_file(path: &Path) -> Result<String, Error> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(Error::io("read", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Hash of a file's content, or of the names and contents of all files in a folder.
///
/// # Errors
/// When it is missing or cannot be read.
pub fn hash_path(path: &Path) -> Result<String, Error> {
    if !path.is_dir() {
        return hash_file(path);
    }
    let mut files = Vec::new();
    collect(path, &|_| true, &|name| !name.starts_with('.'), &mut files)?;
    Ok(hash_files(&[(path, files)])?.to_hex().to_string())
}

/// The hash over the files of each root, by name relative to the root and by content.
fn hash_files(roots: &[(&Path, Vec<PathBuf>)]) -> Result<blake3::Hash, Error> {
    let mut hasher = blake3::Hasher::new();
    for (root, files) in roots {
        let mut files = files.clone();
        files.sort();
        for file in files {
            let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
            hasher.update(name.as_bytes());
            hasher.update(&[0]);
            hasher.update(hash_file(&file)?.as_bytes());
        }
        hasher.update(&[1]);
    }
    Ok(hasher.finalize())
}

/// The hash over names and contents of all files below `roots` that `keep` accepts.
///
/// Folders named `target`, and all entries whose names start with a dot, are left out.
/// The hash depends on contents and on names relative to their root, but not on times or the location of the roots.
///
/// # Errors
/// When a file or folder cannot be read.
pub fn hash_tree(roots: &[PathBuf], keep: &dyn Fn(&Path) -> bool) -> Result<String, Error> {
    let mut all = Vec::new();
    for root in roots {
        let mut files = Vec::new();
        collect(root, keep, &|name| !name.starts_with('.') && name != "target", &mut files)?;
        all.push((root.as_path(), files));
    }
    Ok(hash_files(&all)?.to_hex().to_string())
}

/// Adds the files at or below `path` that `keep` accepts, in folders and under names that `enter` accepts.
fn collect(
    path: &Path,
    keep: &dyn Fn(&Path) -> bool,
    enter: &dyn Fn(&str) -> bool,
    files: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    if path.is_file() {
        if keep(path) {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
        let entry = entry.map_err(Error::io("list", path))?;
        let name = entry.file_name();
        if enter(&name.to_string_lossy()) {
            collect(&entry.path(), keep, enter, files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_hash_depends_on_names_and_contents_only() {
        let make = |name: &str, text: &str| {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("src")).unwrap();
            fs::create_dir(folder.path().join("target")).unwrap();
            fs::write(folder.path().join("src").join(name), text).unwrap();
            fs::write(folder.path().join("target/junk"), text.len().to_string()).unwrap();
            hash_tree(&[folder.path().to_owned()], &|_| true).unwrap()
        };
        assert_eq!(make("a.rs", "x"), make("a.rs", "x"));
        assert_ne!(make("a.rs", "x"), make("a.rs", "y"));
        assert_ne!(make("a.rs", "x"), make("b.rs", "x"));
    }

    #[test]
    fn a_path_hash_covers_every_visible_file_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let hash = || hash_path(folder.path()).unwrap();
        fs::write(folder.path().join("model.safetensors"), "one").unwrap();
        let first = hash();
        fs::write(folder.path().join(".lock"), "").unwrap();
        assert_eq!(hash(), first);
        fs::create_dir(folder.path().join("target")).unwrap();
        fs::write(folder.path().join("target/data"), "x").unwrap();
        assert_ne!(hash(), first);
        let file = folder.path().join("model.safetensors");
        assert_eq!(hash_path(&file).unwrap(), hash_bytes(b"one"));
        assert!(hash_path(&folder.path().join("nowhere")).unwrap_err().to_string().contains("nowhere"));
    }

    #[test]
    fn file_and_bytes_agree() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("f"), b"abc").unwrap();
        assert_eq!(hash_file(&folder.path().join("f")).unwrap(), hash_bytes(b"abc"));
    }
}
