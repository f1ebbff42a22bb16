//! What can be asked for: a repository at a revision, and a file in it.

use std::fmt::{self, Write};

use crate::Error;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Weights, configuration, tokenizer.
    Model,
    /// Data.
    Dataset,
}

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repo {
    /// What it holds.
    pub kind: Kind,
    /// Its name, such as `openai-community/gpt2`.
    pub id: String,
    /// A branch, a tag, or better a commit (40 hex digits), which can never mean something else tomorrow.
    pub revision: String,
}

impl Repo {
    /// A repository of weights.
    pub fn model(id: impl Into<String>, revision: impl Into<String>) -> Self {
        Self { kind: Kind::Model, id: id.into(), revision: revision.into() }
    }

    /// A repository of data.
    pub fn dataset(id: impl Into<String>, revision: impl Into<String>) -> Self {
        Self { kind: Kind::Dataset, id: id.into(), revision: revision.into() }
    }

    /// True when the revision is a commit.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        is_commit(&self.revision)
    }

    /// The same in hf-hub's words, at a revision of its own.
    pub(crate) fn named(&self, revision: &str) -> hf_hub::Repo {
        let kind = match self.kind {
            Kind::Model => hf_hub::RepoType::Model,
            Kind::Dataset => hf_hub::RepoType::Dataset,
        };
        hf_hub::Repo::with_revision(self.id.clone(), kind, revision.to_owned())
    }

    /// Refuses names that would lead out of the cache or mean another address on the hub.
    fn check(&self) -> Result<(), Error> {
        match (repo_problem(&self.id), revision_problem(&self.revision)) {
            (Some(problem), _) => Err(Error::Name { what: "repository", name: self.id.clone(), problem }),
            (_, Some(problem)) => Err(Error::Name { what: "revision", name: self.revision.clone(), problem }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Model => "model",
            Kind::Dataset => "data set",
        };
        write!(formatter, "{kind} {} at revision {}", self.id, self.revision)
    }
}

/// A checked question: a file of a repository, or the repository itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub repo: &'a Repo,
    pub file: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    pub fn file(repo: &'a Repo, file: &'a str) -> Result<Self, Error> {
        repo.check()?;
        match file_problem(file) {
            Some(problem) => Err(Error::Name { what: "file", name: file.to_owned(), problem }),
            None => Ok(Self { repo, file: Some(file) }),
        }
    }

    pub fn repo(repo: &'a Repo) -> Result<Self, Error> {
        repo.check()?;
        Ok(Self { repo, file: None })
    }

    /// Where the hub has it, below the endpoint.
    pub fn address(&self, revision: &str) -> String {
        let repo = self.repo.named(revision);
        match self.file {
            Some(file) => format!("{}/resolve/{}/{}", repo.url(), repo.url_revision(), encode(file)),
            None => format!("api/{}", repo.api_url()),
        }
    }
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file {
            Some(file) => write!(formatter, "`{file}` of {}", self.repo),
            None => write!(formatter, "the list of files of {}", self.repo),
        }
    }
}

/// True for 40 hex digits, lower case, as the hub writes them.
pub(crate) fn is_commit(text: &str) -> bool {
    is_hex(text, 40) && !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// True for that many hex digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The rules of `huggingface_hub`.
fn repo_problem(id: &str) -> Option<&'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let parts: Vec<&str> = id.split('/').collect();
    if id.is_empty() || parts.len() > 2 || id.len() > 96 {
        Some("must be `name` or `owner/name`, of 96 characters at most")
    } else if parts.iter().any(|part| part.is_empty() || !part.bytes().all(plain)) {
        Some("must be `name` or `owner/name`, of letters, digits, `-`, `_` and `.`")
    } else if parts.iter().any(|part| part.starts_with(['-', '.']) || part.ends_with(['-', '.'])) {
        Some("has a part that starts or ends with `-` or `.`")
    } else if id.contains("--") || id.contains("..") || id.ends_with(".git") {
        Some("has `--` or `..` in it, or ends with `.git`")
    } else {
        None
    }
}

/// Narrower than git's rules: what needs no escaping in an address and is a plain path below `refs/`.
fn revision_problem(revision: &str) -> Option<&'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+@=/".contains(&byte);
    if revision.is_empty() {
        Some("is empty: give a branch, a tag or a commit, such as `main`")
    } else if revision.len() > 200 || !revision.bytes().all(plain) {
        Some("may only have letters, digits and `-_.+@=/`: give the commit instead")
    } else if revision.contains("..") || revision.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
        Some("has an empty part, or a part that starts with `.`, or `..`: give the commit instead")
    } else {
        None
    }
}

fn file_problem(file: &str) -> Option<&'static str> {
    if file.is_empty() {
        Some("is empty")
    } else if file.starts_with('/') {
        Some("is absolute: give the path inside the repository")
    } else if file.contains('\\') || (cfg!(windows) && file.contains(':')) {
        Some("has a backslash or a drive: parts are separated by `/`")
    } else if file.chars().any(char::is_control) {
        Some("has a control character")
    } else if file.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("has an empty part, `.` or `..`, which would lead out of its folder")
    } else {
        None
    }
}

/// Percent-encodes a file name for an address; `/` stays.
fn encode(file: &str) -> String {
    let mut text = String::with_capacity(file.len());
    for byte in file.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // writing to a string cannot fail
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(repo: &Repo, file: &str, complaint: Option<&str>) {
        match (Wanted::file(repo, file), complaint) {
            (Ok(_), None) => {}
            (Err(error), Some(complaint)) => assert!(error.to_string().contains(complaint), "{error}"),
            (result, _) => panic!("{repo}, {file}: {result:?}"),
        }
    }

    #[test]
    fn good_names_pass() {
        for id in ["gpt2", "openai-community/gpt2", "a/b.c_d-1"] {
            check(&Repo::model(id, "main"), "model.safetensors", None);
        }
        for revision in ["main", "refs/pr/1", "v1.0", "607a30d783dfa663caf39e06633721c8d4cfcd7e"] {
            check(&Repo::dataset("a/b", revision), "data/train 0..1.parquet", None);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let repo = Repo::model("a/b", "main");
        for file in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "a\\b", "a\nb"] {
            check(&repo, file, Some("file `"));
        }
        for id in ["", "/", "a/b/c", "../a", "a/..", "a--b/c", "a b", ".a", "a/b.git", "a\\b", "a?b", "https://h/x"] {
            check(&Repo::model(id, "main"), "x", Some("repository `"));
        }
        for revision in ["", "..", "a/../b", "/main", "a//b", ".hidden", "a b", "a\\b", "a?b", "a#b", "a%2Fb"] {
            check(&Repo::model("a/b", revision), "x", Some("revision `"));
        }
    }

    #[test]
    fn addresses_are_escaped() {
        let repo = Repo::dataset("a/b", "refs/pr/1");
        let wanted = Wanted::file(&repo, "d/ü 1#?.txt").unwrap();
        assert_eq!(wanted.address(&repo.revision), "datasets/a/b/resolve/refs%2Fpr%2F1/d/%C3%BC%201%23%3F.txt");
        let repo = Repo::model("a/b", "main");
        assert_eq!(Wanted::repo(&repo).unwrap().address("main"), "api/models/a/b/revision/main");
    }

    #[test]
    fn only_a_whole_commit_pins() {
        assert!(Repo::model("a", "0123456789abcdef0123456789abcdef01234567").is_pinned());
        assert!(!Repo::model("a", "0123456").is_pinned() && !Repo::model("a", "main").is_pinned());
    }
}
