//! Errors of downloads and of the cache, each with a remedy.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A file that could not be provided.
///
/// The field `what` names the file, its repository and its revision.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing the cache failed, or another process holds the lock of the file without making progress.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// An invalid name, or one that would point outside the cache.
    #[error("{what} `{name}` {problem}")]
    Name {
        /// The kind of name.
        what: &'static str,
        /// The name.
        name: String,
        /// The defect.
        problem: &'static str,
    },
    /// An invalid setting from the environment.
    #[error("{variable} {problem}")]
    Setting {
        /// The environment variable.
        variable: &'static str,
        /// The defect.
        problem: String,
    },
    /// Not in the cache while offline.
    #[error("{what} is not in the cache {}, and HF_HUB_OFFLINE forbids downloads: run `cargo xtask fetch` on a machine with a network, or unset HF_HUB_OFFLINE", cache.display())]
    Offline {
        /// The requested file.
        what: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The repository and the revision exist, but not the file.
    #[error("{what} does not exist in this revision; check the list of files of the repository")]
    EntryNotFound {
        /// The requested file.
        what: String,
        /// The commit, if the hub gave it.
        commit: Option<String>,
    },
    /// The repository does not exist, or is private.
    #[error(
        "{what}: the hub has no such repository, or it is private; check the name, and set HF_TOKEN for a private one"
    )]
    RepoNotFound {
        /// The requested file.
        what: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{what}: the repository has no such revision; check the branch, tag or commit")]
    RevisionNotFound {
        /// The requested file.
        what: String,
    },
    /// The repository requires its licence to be accepted first.
    #[error("{what} requires a licence: accept it on the repository's page, then {}", credentials(*.token))]
    Gated {
        /// The requested file.
        what: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// Missing or insufficient credentials (401, 403).
    #[error("the hub denied access to {what} (status {status}{message}): accept the licence on the repository's page if it has one, and {}", credentials(*.token))]
    Denied {
        /// The requested file.
        what: String,
        /// The status.
        status: u16,
        /// The message of the hub, preceded by a colon.
        message: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// Any other status for which a retry is pointless.
    #[error("cannot get {what}: status {status}{message}; is HF_ENDPOINT right?")]
    Refused {
        /// The requested file.
        what: String,
        /// The status.
        status: u16,
        /// The message of the hub, preceded by a colon.
        message: String,
    },
    /// The network or the hub failed repeatedly.
    #[error("cannot get {what}: {trouble} ({tries} {}); {}", if *.tries == 1 { "try" } else { "tries" }, trouble.advice())]
    Unreachable {
        /// The requested file.
        what: String,
        /// The failure of the last try.
        trouble: Trouble,
        /// Number of tries.
        tries: u32,
    },
    /// A response that does not come from a hub, because required headers or fields are missing or invalid.
    #[error("the response for {what} does not come from a hub: {problem}; check HF_ENDPOINT and any proxy")]
    NotAHub {
        /// The requested file.
        what: String,
        /// The defect.
        problem: String,
    },
    /// The content has another size than the hub announced.
    #[error("{what} has {found} bytes, but the hub announced {expected}; nothing was kept: run the same command again")]
    WrongSize {
        /// The requested file.
        what: String,
        /// The size that the hub announced.
        expected: u64,
        /// The size of the content.
        found: u64,
    },
    /// The content has another hash than expected.
    #[error(
        "{what} has the {kind} {found}, expected {expected}: if the transfer was damaged, run the same command again; if the repository has changed, give the new hash, or a commit as revision"
    )]
    WrongHash {
        /// The requested file.
        what: String,
        /// The hash function.
        kind: &'static str,
        /// The expected hash.
        expected: String,
        /// The hash of the content.
        found: String,
    },
}

fn credentials(token: bool) -> &'static str {
    if token {
        "check that HF_TOKEN (or the token file) belongs to an account with access and has not expired"
    } else {
        "set HF_TOKEN to a token of an account with access"
    }
}

/// A failure of the network or the hub, which may be temporary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Too many requests, or a server error.
    Status {
        /// The status.
        status: u16,
        /// The pause that the server asks for.
        wait: Option<Duration>,
    },
    /// No data within the stall timeout.
    Stalled(Duration),
    /// No connection, or a broken one.
    Connection(String),
    /// The connection ended too early.
    Short {
        /// Bytes received.
        got: u64,
        /// Bytes expected.
        size: Option<u64>,
    },
}

impl Trouble {
    fn advice(&self) -> &'static str {
        match self {
            Self::Status { status: 429, .. } => "wait a while; with HF_TOKEN set, the hub allows more requests",
            Self::Status { .. } => "the hub has an internal error: run the same command again later",
            _ => {
                "check the network, HF_ENDPOINT and HTTPS_PROXY, and run the same command again, which resumes the download; or run `cargo xtask fetch` on a machine with a network, and set HF_HUB_OFFLINE=1 here"
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
