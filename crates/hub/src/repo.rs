//! Repositories, revisions and file names, checked before they reach the disk or the network.

use std::fmt::{self, Write};

use crate::Error;

/// The kind of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A model: weights, configuration, tokenizer.
    Model,
    /// A data set.
    Dataset,
}

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repo {
    /// The kind of the repository.
    pub kind: Kind,
    /// Its name, such as `openai-community/gpt2`.
    pub id: String,
    /// A branch, a tag or a commit (40 hex digits). Prefer a commit, because it can never change.
    pub revision: String,
}

impl Repo {
    /// A model repository.
    pub fn model(id: impl Into<String>, revision: impl Into<String>) -> Self {
        Self { kind: Kind::Model, id: id.into(), revision: revision.into() }
    }

    /// A data set repository.
    pub fn dataset(id: impl Into<String>, revision: impl Into<String>) -> Self {
        Self { kind: Kind::Dataset, id: id.into(), revision: revision.into() }
    }

    /// Whether the revision is a commit.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        is_commit(&self.revision)
    }

    /// The repository as a type of hf-hub, at another revision.
    pub(crate) fn named(&self, revision: &str) -> hf_hub::Repo {
        let kind = match self.kind {
            Kind::Model => hf_hub::RepoType::Model,
            Kind::Dataset => hf_hub::RepoType::Dataset,
        };
        hf_hub::Repo::with_revision(self.id.clone(), kind, revision.to_owned())
    }

    /// Refuses names that would point outside the cache or change the meaning of a URL.
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

/// A checked request: a file of a repository, or the repository itself.
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

    /// The path of the URL below the endpoint.
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

/// Whether a text is 40 lower-case hex digits, as the hub writes commits.
pub(crate) fn is_commit(text: &str) -> bool {
    is_hex(text, 40) && !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Whether a text consists of that many hex digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The naming rules of `huggingface_hub`.
fn repo_problem(id: &str) -> Option<&'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let parts: Vec<&str> = id.split('/').collect();
    if id.is_empty() || parts.len() > 2 || id.len() > 96 {
        Some("must be `name` or `owner/name`, with at most 96 characters")
    } else if parts.iter().any(|part| part.is_empty() || !part.bytes().all(plain)) {
        Some("must be `name` or `owner/name`, made of letters, digits, `-`, `_` and `.`")
    } else if parts.iter().any(|part| part.starts_with(['-', '.']) || part.ends_with(['-', '.'])) {
        Some("has a part that starts or ends with `-` or `.`")
    } else if id.contains("--") || id.contains("..") || id.ends_with(".git") {
        Some("contains `--` or `..`, or ends with `.git`")
    } else {
        None
    }
}

/// Stricter than git's rules: a revision needs no escaping in a URL and is a plain path below `refs/`.
fn revision_problem(revision: &str) -> Option<&'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+@=/".contains(&byte);
    if revision.is_empty() {
        Some("is empty: give a branch, a tag or a commit, such as `main`")
    } else if revision.len() > 200 || !revision.bytes().all(plain) {
        Some("may only contain letters, digits and `-_.+@=/`: give the commit instead")
    } else if revision.contains("..") || revision.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
        Some("contains `..`, an empty part, or a part that starts with `.`: give the commit instead")
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
        Some("contains a backslash or a drive: separate parts by `/`")
    } else if file.chars().any(char::is_control) {
        Some("contains a control character")
    } else if file.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("contains an empty part, `.` or `..`, which could point outside its folder")
    } else {
        None
    }
}

/// Percent-encodes a file name for a URL, except `/`.
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
