//! The folders of a repository in the cache, as Python's `huggingface_hub` lays them out.
//!
//! ```text
//! models--owner--name/refs/<revision>             the commit of a branch or tag, without a newline
//!                     blobs/<etag>                the content
//!                     snapshots/<commit>/<file>   a relative link into blobs, or a copy where links fail
//!                     .no_exist/<commit>/<file>   empty: the hub has reported that the file does not exist
//! .locks/models--owner--name/<etag>/.lock         ours (Python locks a file `<etag>.lock` beside it)
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::repo::is_commit;
use crate::{Error, Repo};

/// The part of the cache that belongs to a repository.
pub(crate) struct Cache<'a> {
    root: &'a Path,
    repo: &'a Repo,
    folder: String,
    paths: hf_hub::CacheRepo,
}

impl<'a> Cache<'a> {
    pub fn new(root: &'a Path, repo: &'a Repo) -> Self {
        let named = repo.named(&repo.revision);
        let folder = named.folder_name();
        Self { root, repo, folder, paths: hf_hub::Cache::new(root.to_owned()).repo(named) }
    }

    /// The commit of the revision: itself, or the recorded commit of a branch or tag.
    pub fn commit(&self) -> Result<Option<String>, Error> {
        if self.repo.is_pinned() {
            return Ok(Some(self.repo.revision.clone()));
        }
        match storage::read_text(&self.reference()) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|commit| is_commit(commit))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The path of a file, if it is in the cache.
    pub fn find(&self, file: &str) -> Result<Option<PathBuf>, Error> {
        let pointer = self.commit()?.map(|commit| self.pointer(&commit, file));
        Ok(pointer.filter(|pointer| pointer.is_file()))
    }

    /// Whether the hub has reported before that the commit does not have the file.
    pub fn is_known_missing(&self, file: &str) -> Result<bool, Error> {
        Ok(self.commit()?.is_some_and(|commit| self.absence(&commit, file).is_file()))
    }

    pub fn note_missing(&self, commit: &str, file: &str) -> Result<(), Error> {
        self.note_commit(commit)?;
        Ok(storage::write_atomic(&self.absence(commit, file), b"")?)
    }

    /// Records the commit of the revision.
    pub fn note_commit(&self, commit: &str) -> Result<(), Error> {
        if self.commit()?.as_deref() != Some(commit) && self.repo.revision != commit {
            storage::write_atomic(&self.reference(), commit.as_bytes())?;
        }
        Ok(())
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.paths.blob_path(etag)
    }

    /// The path of an incomplete blob. It differs from the names of Python and hf-hub, which use other locks.
    pub fn part(&self, etag: &str) -> PathBuf {
        self.paths.blob_path(&format!("{etag}.retrace.part"))
    }

    pub fn lock_folder(&self, etag: &str) -> PathBuf {
        self.root.join(".locks").join(&self.folder).join(etag)
    }

    /// Links a blob under the name of its file; returns the path.
    pub fn link(&self, etag: &str, commit: &str, file: &str) -> Result<PathBuf, Error> {
        self.link_with(etag, commit, file, &symlink)
    }

    fn link_with(&self, etag: &str, commit: &str, file: &str, symlink: Symlink) -> Result<PathBuf, Error> {
        let pointer = self.pointer(commit, file);
        let target = format!("{}blobs/{etag}", "../".repeat(file.matches('/').count() + 2));
        if replace_link(Path::new(&target), &pointer, symlink).is_err() {
            let copy = |to: &mut dyn io::Write| io::copy(&mut File::open(self.blob(etag))?, to).map(drop);
            storage::write_atomic_with(&pointer, copy)?;
        }
        Ok(pointer)
    }

    fn pointer(&self, commit: &str, file: &str) -> PathBuf {
        self.paths.pointer_path(commit).join(file)
    }

    fn reference(&self) -> PathBuf {
        self.root.join(&self.folder).join("refs").join(&self.repo.revision)
    }

    fn absence(&self, commit: &str, file: &str) -> PathBuf {
        self.root.join(&self.folder).join(".no_exist").join(commit).join(file)
    }
}

type Symlink<'a> = &'a dyn Fn(&Path, &Path) -> io::Result<()>;

/// Creates a link under a temporary name and renames it, so that an old link is replaced atomically.
fn replace_link(target: &Path, pointer: &Path, symlink: Symlink) -> io::Result<()> {
    let folder = pointer.parent().unwrap_or(pointer);
    fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    let link = builder.prefix(storage::TEMPORARY_PREFIX).make_in(folder, |path| symlink(target, path))?;
    Ok(link.into_temp_path().persist(pointer)?)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// Turns a checked part into the blob: syncs and renames it, then syncs the folder.
pub(crate) fn keep(part: &Path, blob: &Path) -> Result<(), Error> {
    let file = File::options().write(true).open(part).map_err(io_error("open", part))?;
    file.sync_all().map_err(io_error("sync", part))?;
    fs::rename(part, blob).map_err(io_error("rename", part))?;
    if let (true, Some(folder)) = (cfg!(unix), blob.parent()) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))?;
    }
    Ok(())
}

/// Removes a file if it exists.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The size of a file; `None` if it does not exist.
pub(crate) fn size(path: &Path) -> Result<Option<u64>, Error> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("inspect", path)(error)),
    }
}

/// Adds action and path to an I/O error.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Storage(storage::Error::Io { action, path, cause })
}

/// Whether the file does not exist; also for a revision such as `a/b` where `a` is a file.
fn is_absent(error: &storage::Error) -> bool {
    let not_a_folder =
        |cause: &io::Error| matches!(cause.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory);
    error.is_not_found() || matches!(error, storage::Error::Io { cause, .. } if not_a_folder(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "607a30d783dfa663caf39e06633721c8d4cfcd7e";

    #[test]
    fn files_are_copied_where_links_fail() {
        let root = tempfile::tempdir().unwrap();
        let repo = Repo::model("a/b", "main");
        let cache = Cache::new(root.path(), &repo);
        storage::write_atomic(&cache.blob("e"), b"content").unwrap();
        let refuse = |_: &Path, _: &Path| Err(io::Error::from(io::ErrorKind::PermissionDenied));
        let path = cache.link_with("e", COMMIT, "d/f", &refuse).unwrap();
        assert!(!path.is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_dangling_link_is_ignored_and_replaced() {
        let root = tempfile::tempdir().unwrap();
        let repo = Repo::model("a/b", COMMIT);
        let cache = Cache::new(root.path(), &repo);
        let path = cache.link("gone", COMMIT, "f").unwrap();
        assert!(path.is_symlink() && cache.find("f").unwrap().is_none());
        storage::write_atomic(&cache.blob("e"), b"content").unwrap();
        assert_eq!(cache.link("e", COMMIT, "f").unwrap(), path);
        assert_eq!(cache.find("f").unwrap(), Some(path));
    }

    #[test]
    fn an_invalid_reference_is_ignored() {
        let root = tempfile::tempdir().unwrap();
        let repo = Repo::model("a/b", "main");
        let cache = Cache::new(root.path(), &repo);
        assert_eq!(cache.commit().unwrap(), None);
        storage::write_atomic(&cache.reference(), b"../../..").unwrap();
        assert_eq!(cache.commit().unwrap(), None);
        cache.note_commit(COMMIT).unwrap();
        assert_eq!(cache.commit().unwrap().as_deref(), Some(COMMIT));
        let below = Repo::model("a/b", "main/x");
        assert_eq!(Cache::new(root.path(), &below).commit().unwrap(), None);
    }
}
