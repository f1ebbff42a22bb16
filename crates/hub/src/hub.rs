//! [`Hub`]: files from the cache or, if they are missing there, from the hub.

use std::fmt;
use std::path::{Path, PathBuf};

use hf_hub::api::RepoInfo;

use crate::cache::Cache;
use crate::client::Client;
use crate::download::Download;
use crate::facts::Facts;
use crate::repo::{Wanted, is_commit};
use crate::{Error, Repo, Settings, digest};

/// The progress of a download.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The repository.
    pub repo: &'a Repo,
    /// The file.
    pub file: &'a str,
    /// Bytes on disk, including those of an earlier, interrupted download.
    pub done: u64,
    /// Total number of bytes, if the hub gives it.
    pub total: Option<u64>,
}

type Watch = Box<dyn Fn(&Progress<'_>) + Send + Sync>;

/// The hub and its cache. See the crate's example.
pub struct Hub {
    settings: Settings,
    /// `None` offline: without a client, nothing can open a socket.
    client: Option<Client>,
    watch: Watch,
}

impl fmt::Debug for Hub {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub with the settings of the environment, see [`Settings::from_env`].
    ///
    /// # Errors
    /// As for [`Settings::from_env`] and [`Hub::new`].
    pub fn from_env() -> Result<Self, Error> {
        Self::new(Settings::from_env()?)
    }

    /// A hub with the given settings. Opens no connection.
    ///
    /// # Errors
    /// When the endpoint is not a URL, or the token has characters that are invalid in a header.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let client = if settings.offline { None } else { Some(Client::new(&settings)?) };
        Ok(Self { settings, client, watch: Box::new(|_| {}) })
    }

    /// Calls `watch` at the start of every download and after each chunk of it (at most 128 KiB).
    #[must_use]
    pub fn watched(mut self, watch: impl Fn(&Progress<'_>) + Send + Sync + 'static) -> Self {
        self.watch = Box::new(watch);
        self
    }

    /// The settings in use.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The path of a file, which is fetched if it is not in the cache.
    ///
    /// With `sha256` (64 hex digits), the content is compared with it, even if the file is in the cache.
    ///
    /// # Errors
    /// When a name is invalid, the file cannot be fetched, or its content has another hash.
    pub fn file(&self, repo: &Repo, file: &str, sha256: Option<&str>) -> Result<PathBuf, Error> {
        let wanted = Wanted::file(repo, file)?;
        let expected = sha256.map(digest::checked).transpose()?;
        let cache = self.cache(repo);
        let cached = cache.find(file)?;
        if let Some(path) = &cached
            && self.is_expected(&wanted, path, expected.as_deref())?
        {
            return Ok(path.clone());
        }
        if self.client.is_none() && cache.is_known_missing(file)? {
            return Err(Error::EntryNotFound { what: wanted.to_string(), commit: cache.commit()? });
        }
        self.fetch(self.online(&wanted)?, &cache, wanted, expected.as_deref())
    }

    /// The path of a file if it is in the cache. Neither contacts the hub nor checks the content.
    ///
    /// # Errors
    /// When a name is invalid, or the cache cannot be read.
    pub fn cached(&self, repo: &Repo, file: &str) -> Result<Option<PathBuf>, Error> {
        Wanted::file(repo, file)?;
        self.cache(repo).find(file)
    }

    /// Whether the repository has the file.
    ///
    /// A negative answer of the hub is recorded in the cache, so that it is available offline.
    ///
    /// # Errors
    /// When the hub neither confirms the file nor reports that it does not exist ([`Error::EntryNotFound`]).
    pub fn exists(&self, repo: &Repo, file: &str) -> Result<bool, Error> {
        let wanted = Wanted::file(repo, file)?;
        let cache = self.cache(repo);
        if cache.find(file)?.is_some() {
            return Ok(true);
        }
        if cache.is_known_missing(file)? {
            return Ok(false);
        }
        match remembered(self.online(&wanted)?, &cache, &wanted, Client::facts) {
            Ok(_) => Ok(true),
            Err(Error::EntryNotFound { commit, .. }) => {
                commit.map_or(Ok(()), |commit| cache.note_missing(&commit, file)).map(|()| false)
            }
            Err(error) => Err(error),
        }
    }

    /// The files of a revision, sorted. Always contacts the hub.
    ///
    /// # Errors
    /// When the hub cannot be reached or refuses.
    pub fn list(&self, repo: &Repo) -> Result<Vec<String>, Error> {
        let wanted = Wanted::repo(repo)?;
        let info = remembered(self.online(&wanted)?, &self.cache(repo), &wanted, Client::info)?;
        let mut files: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
        files.sort();
        Ok(files)
    }

    /// Moves a branch or tag to its current commit on the hub, and returns that commit. Later files come from there.
    ///
    /// # Errors
    /// When the hub cannot be reached or refuses.
    pub fn refresh(&self, repo: &Repo) -> Result<String, Error> {
        let wanted = Wanted::repo(repo)?;
        let RepoInfo { sha, .. } = self.online(&wanted)?.info(&wanted, &repo.revision)?;
        if !is_commit(&sha) {
            let problem = format!("`{sha}` is not a commit");
            return Err(Error::NotAHub { what: wanted.to_string(), problem });
        }
        self.cache(repo).note_commit(&sha)?;
        Ok(sha)
    }

    fn cache<'a>(&'a self, repo: &'a Repo) -> Cache<'a> {
        Cache::new(&self.settings.cache, repo)
    }

    fn online(&self, wanted: &Wanted<'_>) -> Result<&Client, Error> {
        let offline = || Error::Offline { what: wanted.to_string(), cache: self.settings.cache.clone() };
        self.client.as_ref().ok_or_else(offline)
    }

    /// Whether a cached file has the expected hash; offline, where it cannot be replaced, another hash is an error.
    fn is_expected(&self, wanted: &Wanted<'_>, path: &Path, expected: Option<&str>) -> Result<bool, Error> {
        let Some(expected) = expected else { return Ok(true) };
        let found = digest::sha256(path)?;
        if found == expected || self.client.is_some() {
            return Ok(found == expected);
        }
        Err(Error::WrongHash { what: wanted.to_string(), kind: "sha256", expected: expected.to_owned(), found })
    }

    fn fetch(
        &self,
        client: &Client,
        cache: &Cache<'_>,
        wanted: Wanted<'_>,
        expected: Option<&str>,
    ) -> Result<PathBuf, Error> {
        let file = wanted.file.unwrap_or_default();
        let facts = current_facts(client, cache, &wanted, expected)?;
        let tell = |done, total| (self.watch)(&Progress { repo: wanted.repo, file, done, total });
        Download { client, cache, wanted, facts: &facts, expected, tell: &tell }.run()?;
        let path = cache.link(&facts.etag, &facts.commit, file)?;
        cache.note_commit(&facts.commit)?;
        Ok(path)
    }
}

/// Asks about the recorded commit of a branch, so that the files of a repository fit together. Asks about the branch itself
/// if no commit is recorded, or the hub no longer has it.
fn remembered<T>(
    client: &Client,
    cache: &Cache<'_>,
    wanted: &Wanted<'_>,
    ask: impl Fn(&Client, &Wanted<'_>, &str) -> Result<T, Error>,
) -> Result<T, Error> {
    if let Some(commit) = cache.commit()?
        && commit != wanted.repo.revision
    {
        match ask(client, wanted, &commit) {
            Err(Error::RevisionNotFound { .. }) => {}
            result => return result,
        }
    }
    ask(client, wanted, &wanted.repo.revision)
}

/// As [`remembered`], but if the file is missing at the recorded commit or has another hash, asks about the branch itself.
fn current_facts(
    client: &Client,
    cache: &Cache<'_>,
    wanted: &Wanted<'_>,
    expected: Option<&str>,
) -> Result<Facts, Error> {
    let remembers = !wanted.repo.is_pinned() && cache.commit()?.is_some();
    match remembered(client, cache, wanted, Client::facts) {
        Ok(facts) if !facts.contradict(expected) => Ok(facts),
        Ok(_) | Err(Error::EntryNotFound { .. }) if remembers => client.facts(wanted, &wanted.repo.revision),
        result => result,
    }
}
