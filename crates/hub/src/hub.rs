//! The way in: cache first, then the hub.

use std::fmt;
use std::path::{Path, PathBuf};

use hf_hub::api::RepoInfo;

use crate::cache::Cache;
use crate::client::Client;
use crate::download::Download;
use crate::facts::Facts;
use crate::repo::{Wanted, is_commit};
use crate::{Error, Repo, Settings, digest};

/// How far a download is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The repository.
    pub repo: &'a Repo,
    /// The file.
    pub file: &'a str,
    /// Bytes on disk, those of an earlier, broken download included.
    pub done: u64,
    /// Bytes in all, if the hub says so.
    pub total: Option<u64>,
}

type Watch = Box<dyn Fn(&Progress<'_>) + Send + Sync>;

/// The hub and its cache.
pub struct Hub {
    settings: Settings,
    /// Nothing when offline: without a client there is nothing that could open a socket.
    client: Option<Client>,
    watch: Watch,
}

impl fmt::Debug for Hub {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub as the environment describes it, see [`Settings::from_env`].
    ///
    /// # Errors
    /// As [`Settings::from_env`] and [`Hub::new`].
    pub fn from_env() -> Result<Self, Error> {
        Self::new(Settings::from_env()?)
    }

    /// A hub with settings of one's own. Opens no connection.
    ///
    /// # Errors
    /// When the endpoint is not an address, or the token has characters that no header may have.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let client = if settings.offline { None } else { Some(Client::new(&settings)?) };
        Ok(Self { settings, client, watch: Box::new(|_| {}) })
    }

    /// Calls `watch` at the start of every download and after each piece of it (128 KiB at most).
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

    /// The path of a file, fetched if it is not in the cache.
    ///
    /// With `sha256` (64 hex digits), the content is compared with it, also that of a file in the cache.
    ///
    /// # Errors
    /// When a name is no name, the file is nowhere to be had, or its content is not the expected one.
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

    /// The path of a file if it is in the cache; the hub is not asked and the content not looked at.
    ///
    /// # Errors
    /// When a name is no name, or the cache cannot be read.
    pub fn cached(&self, repo: &Repo, file: &str) -> Result<Option<PathBuf>, Error> {
        Wanted::file(repo, file)?;
        self.cache(repo).find(file)
    }

    /// Whether the repository has the file.
    ///
    /// A no of the hub is kept in the cache, so that the question can be answered offline the next time.
    ///
    /// # Errors
    /// When that cannot be found out: anything but a clear no of the hub ([`Error::EntryNotFound`]) is an error.
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

    /// The files of a revision, sorted. Always asks the hub.
    ///
    /// # Errors
    /// When the hub cannot be asked or refuses.
    pub fn list(&self, repo: &Repo) -> Result<Vec<String>, Error> {
        let wanted = Wanted::repo(repo)?;
        let info = remembered(self.online(&wanted)?, &self.cache(repo), &wanted, Client::info)?;
        let mut files: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
        files.sort();
        Ok(files)
    }

    /// Asks the hub what a branch or tag stands for now, and takes files from there from now on.
    ///
    /// # Errors
    /// When the hub cannot be asked or refuses.
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

    /// Whether a file in the cache will do; offline, where no other can be had, another content is an error.
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

/// Asks about the commit that a branch stood for at first, so that one repository's files fit together; about the
/// branch itself if there is none, or the hub has lost it.
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

/// As [`remembered`], but a file that is not there or not the expected one is looked for where the branch is now.
fn current_facts(
    client: &Client,
    cache: &Cache<'_>,
    wanted: &Wanted<'_>,
    expected: Option<&str>,
) -> Result<Facts, Error> {
    let remembers = !wanted.repo.is_pinned() && cache.commit()?.is_some();
    match remembered(client, cache, wanted, Client::facts) {
        Ok(facts) if !facts.deny(expected) => Ok(facts),
        Ok(_) | Err(Error::EntryNotFound { .. }) if remembers => client.facts(wanted, &wanted.repo.revision),
        result => result,
    }
}
