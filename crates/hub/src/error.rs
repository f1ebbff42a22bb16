//! What can go wrong between the hub and the disk, and what to do.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A file that could not be had.
///
/// `what` in its variants names the file, its repository and its revision.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing the cache failed, or another process holds the file's lock and does nothing.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A name that would lead out of the cache, or that no repository can have.
    #[error("{what} `{name}` {problem}")]
    Name {
        /// Which name.
        what: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A setting from the environment that makes no sense.
    #[error("{variable} {problem}")]
    Setting {
        /// The environment variable.
        variable: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Not in the cache, and the hub may not be asked.
    #[error("{what} is not in the cache {}, and HF_HUB_OFFLINE forbids to ask the hub: run `cargo xtask fetch` where there is a network, or unset HF_HUB_OFFLINE", cache.display())]
    Offline {
        /// What was asked for.
        what: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The repository is there, and the revision, but no such file.
    #[error("{what} does not exist: the repository has no such file in this revision; look at its list of files")]
    EntryNotFound {
        /// What was asked for.
        what: String,
        /// The commit that the hub looked at, if it said so.
        commit: Option<String>,
    },
    /// No such repository, or one that only its owners can see.
    #[error(
        "{what}: the hub has no such repository, or does not show it to everybody; check the name, and for a private one set HF_TOKEN"
    )]
    RepoNotFound {
        /// What was asked for.
        what: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{what}: the repository has no such revision")]
    RevisionNotFound {
        /// What was asked for.
        what: String,
    },
    /// The owner wants a licence accepted first.
    #[error("{what} is behind a licence: accept it on the repository's page, then {}", credentials(*.token))]
    Gated {
        /// What was asked for.
        what: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// The hub wants other credentials (401, 403).
    #[error("the hub refused {what} (status {status}{message}): accept the licence on the repository's page if it has one, and {}", credentials(*.token))]
    Denied {
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
        /// What the hub said, with a colon before it.
        message: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// Any other status that another try does not help.
    #[error("cannot get {what}: status {status}{message}; is HF_ENDPOINT right?")]
    Refused {
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
        /// What the hub said, with a colon before it.
        message: String,
    },
    /// The network or the hub failed, again and again.
    #[error("cannot get {what}: {trouble} ({tries} {}); {}", if *.tries == 1 { "try" } else { "tries" }, trouble.advice())]
    Unreachable {
        /// What was asked for.
        what: String,
        /// What happened on the last try.
        trouble: Trouble,
        /// How many times it was tried.
        tries: u32,
    },
    /// The answer lacks what a hub always says, or says something that cannot be.
    #[error("the answer for {what} is not a hub's: {problem}; is HF_ENDPOINT right, or a proxy in between?")]
    NotAHub {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The content has another size than the hub said.
    #[error(
        "{what} came with {found} bytes, the hub had said {expected}; nothing was kept: run the same command again"
    )]
    WrongSize {
        /// What was asked for.
        what: String,
        /// What the hub said.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// The content has another hash than expected.
    #[error(
        "{what} has the {kind} {found}, expected {expected}: if it was damaged on the way, run the same command again; if the repository has changed, give its new hash, or a commit as revision"
    )]
    WrongHash {
        /// What was asked for.
        what: String,
        /// Which hash.
        kind: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
}

fn credentials(token: bool) -> &'static str {
    if token {
        "check that HF_TOKEN (or the token file) belongs to an account that may read it and has not expired"
    } else {
        "set HF_TOKEN to a token of an account that may read it"
    }
}

/// A failure of the network or the hub, which may have passed the next time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Too many requests, or an error of the server's own.
    Status {
        /// The status.
        status: u16,
        /// How long the server wants to be left alone.
        wait: Option<Duration>,
    },
    /// Nothing came for too long.
    Stalled(Duration),
    /// No connection, or a broken one.
    Connection(String),
    /// The connection ended too early.
    Short {
        /// Bytes that are there.
        got: u64,
        /// Bytes that should be there.
        size: Option<u64>,
    },
}

impl Trouble {
    fn advice(&self) -> &'static str {
        match self {
            Self::Status { status: 429, .. } => "wait a while; with HF_TOKEN set, the hub allows more requests",
            Self::Status { .. } => "the hub has a fault of its own: run the same command again later",
            _ => {
                "check the network, HF_ENDPOINT and HTTPS_PROXY, and run the same command again, which goes on from what is there; or run `cargo xtask fetch` where there is a network, and set HF_HUB_OFFLINE=1 here"
            }
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { status, wait: Some(wait) } => {
                write!(formatter, "the hub answered {status} and asks to wait for {} s", wait.as_secs())
            }
            Self::Status { status, wait: None } => write!(formatter, "the hub answered {status}"),
            Self::Stalled(limit) => write!(formatter, "no data for {} s", limit.as_secs_f64()),
            Self::Connection(reason) => formatter.write_str(reason),
            Self::Short { got, size: Some(size) } => {
                write!(formatter, "the connection ended after {got} of {size} bytes")
            }
            Self::Short { got, size: None } => write!(formatter, "the connection ended after {got} bytes"),
        }
    }
}
