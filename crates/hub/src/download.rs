//! Downloads one file into the cache: under a lock, resumed, checked, and then renamed.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::StatusCode;

use crate::cache::{self, Cache, io_error, keep, remove};
use crate::client::{Client, Failure};
use crate::facts::{Facts, content_range, number};
use crate::repo::{Wanted, is_hex};
use crate::{Error, Trouble, digest};

/// Interval between attempts to take a lock that is held.
const POLL: Duration = Duration::from_millis(50);
/// How long the file of a lock's holder may stop growing, as a multiple of the stall timeout.
const HOLDER_SILENCE: u32 = 10;

/// A download.
pub(crate) struct Download<'a> {
    pub client: &'a Client,
    pub cache: &'a Cache<'a>,
    pub wanted: Wanted<'a>,
    pub facts: &'a Facts,
    /// The sha256 of the caller.
    pub expected: Option<&'a str>,
    /// Called with the bytes so far and the total size.
    pub tell: &'a dyn Fn(u64, Option<u64>),
}

impl Download<'_> {
    /// Ensures that the blob exists, complete and with the expected content.
    pub fn run(&self) -> Result<(), Error> {
        if self.facts.contradict(self.expected) {
            return Err(self.wrong_hash("sha256", self.expected.unwrap_or_default(), &self.facts.etag));
        }
        let (blob, part) = (self.cache.blob(&self.facts.etag), self.part());
        let _lock = self.lock()?;
        if self.has(&blob)? {
            return self.check_expected(&blob);
        }
        let size = self.client.retry(&self.wanted, || self.transfer(&part))?;
        if let Err(error) = self.check(&part, size).and_then(|()| self.check_expected(&part)) {
            remove(&part)?;
            return Err(error);
        }
        keep(&part, &blob)
    }

    fn part(&self) -> PathBuf {
        self.cache.part(&self.facts.etag)
    }

    /// Takes the lock of the blob. Waits for another process that fetches the same file as long as that file grows.
    fn lock(&self) -> Result<storage::Lock, Error> {
        let folder = self.cache.lock_folder(&self.facts.etag);
        let (mut size, mut since) = (None, Instant::now());
        loop {
            match storage::Lock::acquire(&folder) {
                Err(error @ storage::Error::Locked { .. }) => {
                    let now = cache::size(&self.part())?;
                    if now != size {
                        (size, since) = (now, Instant::now());
                    } else if since.elapsed() > self.client.stall_timeout * HOLDER_SILENCE {
                        return Err(error.into());
                    }
                    thread::sleep(POLL);
                }
                result => return Ok(result?),
            }
        }
    }

    /// Whether the blob already exists; a damaged one is removed. The content is hashed only if the caller gave a hash.
    fn has(&self, blob: &Path) -> Result<bool, Error> {
        let Some(size) = cache::size(blob)? else { return Ok(false) };
        let sound = match self.expected {
            None => self.check_size(size, self.facts.size),
            // its name is not a hash of its content
            Some(_) if !self.is_named_by_hash() => self.check_expected(blob),
            Some(_) => self.check(blob, Some(size)),
        };
        match sound {
            Ok(()) => Ok(true),
            Err(Error::WrongSize { .. } | Error::WrongHash { .. }) => remove(blob).map(|()| false),
            Err(error) => Err(error),
        }
    }

    /// One attempt: fetches the missing bytes of the part; returns the size that the server gave.
    fn transfer(&self, part: &Path) -> Result<Option<u64>, Failure> {
        let mut start = cache::size(part)?;
        if let (Some(have), Some(size)) = (start, self.facts.size) {
            if have == size {
                return Ok(Some(size));
            } else if have > size {
                remove(part)?;
                start = None;
            }
        }
        let response = self.client.content(&self.wanted, &self.facts.commit, start.unwrap_or(0))?;
        let (start, size) = match response.status() {
            StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
                Some((first, size)) if Some(first) == start => (first, size),
                _ => return Err(self.restart(part, StatusCode::PARTIAL_CONTENT)),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(self.restart(part, StatusCode::RANGE_NOT_SATISFIABLE)),
            _ => (0, number(response.headers(), "content-length")),
        };
        let size = self.facts.size.or(size);
        let mut file = open(part, start)?;
        self.pour(&mut response.into_body().into_reader(), &mut file, start, size)?;
        Ok(size)
    }

    /// Discards the part, for a server that does not resume at its end.
    fn restart(&self, part: &Path, status: StatusCode) -> Failure {
        match remove(part) {
            Ok(()) => Failure::Passing(Trouble::Status { status: status.as_u16(), wait: None }),
            Err(error) => error.into(),
        }
    }

    /// Appends the response to the part, which is kept if the connection breaks.
    fn pour(&self, body: &mut dyn Read, file: &mut File, start: u64, size: Option<u64>) -> Result<(), Failure> {
        let mut buffer = vec![0; 1 << 17];
        let mut done = start;
        (self.tell)(done, size);
        loop {
            let count = match body.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Err(Failure::Passing(Trouble::Short { got: done, size }));
                }
                Err(error) => return Err(self.client.failure(error.into())),
            };
            if count == 0 {
                break;
            }
            done += count as u64;
            if let Some(size) = size.filter(|size| done > *size) {
                remove(&self.part())?;
                return Err(self.wrong_size(size, done).into());
            }
            file.write_all(&buffer[..count]).map_err(io_error("write", &self.part()))?;
            (self.tell)(done, size);
        }
        if size.is_some_and(|size| done < size) {
            return Err(Failure::Passing(Trouble::Short { got: done, size }));
        }
        Ok(())
    }

    /// Compares size and hash with those of the hub; at least one of them must be known.
    fn check(&self, path: &Path, named_size: Option<u64>) -> Result<(), Error> {
        let size = cache::size(path)?.unwrap_or(0);
        self.check_size(size, self.facts.size.or(named_size))?;
        let etag = &self.facts.etag;
        if is_hex(etag, 64) {
            self.compare("sha256", etag, &digest::sha256(path)?)
        } else if is_hex(etag, 40) {
            self.compare("git sha1", etag, &digest::git_sha1(path, size)?)
        } else if self.facts.size.or(named_size).is_none() && self.expected.is_none() {
            let problem = "it has neither size nor hash".to_owned();
            Err(Error::NotAHub { what: self.wanted.to_string(), problem })
        } else {
            Ok(())
        }
    }

    fn is_named_by_hash(&self) -> bool {
        is_hex(&self.facts.etag, 64) || is_hex(&self.facts.etag, 40)
    }

    fn check_size(&self, found: u64, expected: Option<u64>) -> Result<(), Error> {
        match expected {
            Some(expected) if expected != found => Err(self.wrong_size(expected, found)),
            _ => Ok(()),
        }
    }

    fn check_expected(&self, path: &Path) -> Result<(), Error> {
        // an etag of 64 digits equals the expected hash, and has already been compared
        match self.expected {
            Some(expected) if !is_hex(&self.facts.etag, 64) => self.compare("sha256", expected, &digest::sha256(path)?),
            _ => Ok(()),
        }
    }

    fn compare(&self, kind: &'static str, expected: &str, found: &str) -> Result<(), Error> {
        if expected == found { Ok(()) } else { Err(self.wrong_hash(kind, expected, found)) }
    }

    fn wrong_hash(&self, kind: &'static str, expected: &str, found: &str) -> Error {
        let (expected, found) = (expected.to_owned(), found.to_owned());
        Error::WrongHash { what: self.wanted.to_string(), kind, expected, found }
    }

    fn wrong_size(&self, expected: u64, found: u64) -> Error {
        Error::WrongSize { what: self.wanted.to_string(), expected, found }
    }
}

/// Opens the part for appending at byte `start`, creating its folder.
fn open(part: &Path, start: u64) -> Result<File, Error> {
    if let Some(folder) = part.parent() {
        fs::create_dir_all(folder).map_err(io_error("create folder", folder))?;
    }
    let file = File::options().create(true).append(true).open(part).map_err(io_error("open", part))?;
    file.set_len(start).map_err(io_error("shorten", part))?;
    Ok(file)
}
