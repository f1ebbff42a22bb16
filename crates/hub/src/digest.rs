//! The hashes by which the hub names content.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::cache::io_error;
use crate::repo::is_hex;

/// The sha256 of a file, by which the hub names large files.
pub(crate) fn sha256(path: &Path) -> Result<String, Error> {
    read_into(Sha256::new(), path)
}

/// The sha1 of a file as git computes it, by which the hub names small files.
pub(crate) fn git_sha1(path: &Path, size: u64) -> Result<String, Error> {
    read_into(Sha1::new_with_prefix(format!("blob {size}\0")), path)
}

/// The sha256 of a caller, checked and in lower case.
pub(crate) fn checked(sha256: &str) -> Result<String, Error> {
    if is_hex(sha256, 64) {
        return Ok(sha256.to_ascii_lowercase());
    }
    Err(Error::Name { what: "sha256", name: sha256.to_owned(), problem: "must be 64 hex digits" })
}

fn read_into<D: Digest>(mut hasher: D, path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(io_error("read", path))?;
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer).map_err(io_error("read", path))? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "hello\n").unwrap();
        assert_eq!(sha256(&path).unwrap(), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        assert_eq!(git_sha1(&path, 6).unwrap(), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert!(sha256(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn hashes_need_64_hex_digits() {
        assert_eq!(checked(&"A".repeat(64)).unwrap(), "a".repeat(64));
        assert!(checked("abc").unwrap_err().to_string().contains("64 hex digits"));
    }
}
