//! Facts about a file from the headers of the hub, collected over the redirects within its own host.

use ureq::http::HeaderMap;

use crate::Error;
use crate::repo::{Wanted, is_commit, is_hex};

/// A file on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The commit of the revision.
    pub commit: String,
    /// The name of the content: its sha256, git's sha1, or any plain file name.
    pub etag: String,
    /// Its size, if the hub gives it before the download.
    pub size: Option<u64>,
}

impl Facts {
    /// Whether the sha256 of the hub already differs from the expected one.
    pub fn contradict(&self, expected: Option<&str>) -> bool {
        expected.is_some_and(|expected| is_hex(&self.etag, 64) && self.etag != expected)
    }
}

/// The headers so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    commit: Option<String>,
    linked_etag: Option<String>,
    linked_size: Option<u64>,
    etag: Option<String>,
    length: Option<u64>,
}

impl Seen {
    /// Adds the headers of one response. The hub's own headers persist over redirects, while standard headers are taken
    /// from the last response. The length of a redirect is ignored, because it is not that of the file.
    pub fn see(&mut self, headers: &HeaderMap, is_redirect: bool) {
        self.commit = text(headers, "x-repo-commit").map(str::to_owned).or(self.commit.take());
        self.linked_etag = text(headers, "x-linked-etag").map(plain_etag).or(self.linked_etag.take());
        self.linked_size = number(headers, "x-linked-size").or(self.linked_size);
        self.etag = text(headers, "etag").map(plain_etag);
        self.length = number(headers, "content-length").filter(|_| !is_redirect);
    }

    pub fn commit(&self) -> Option<String> {
        self.commit.clone().filter(|commit| is_commit(commit))
    }

    pub fn facts(self, wanted: &Wanted<'_>) -> Result<Facts, Error> {
        let refuse = |problem: &str| Error::NotAHub { what: wanted.to_string(), problem: problem.to_owned() };
        let named = Some(wanted.repo.revision.clone()).filter(|revision| is_commit(revision));
        let commit = self.commit().or(named).ok_or_else(|| refuse("it has no commit in the header X-Repo-Commit"))?;
        let etag = self.linked_etag.or(self.etag).ok_or_else(|| refuse("it has no ETag header"))?;
        if !is_plain_name(&etag) {
            return Err(refuse("its ETag header is not a valid file name"));
        }
        Ok(Facts { commit, etag, size: self.linked_size.or(self.length) })
    }
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.trim().parse().ok()
}

/// First byte and, if known, total size of a range such as `bytes 5-9/10`.
pub(crate) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (span, whole) = text(headers, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((span.split_once('-')?.0.trim().parse().ok()?, whole.trim().parse().ok()))
}

/// The tag without quotes and weakness prefix; hashes in lower case, so that they can be compared.
fn plain_etag(etag: &str) -> String {
    let etag = etag.trim();
    let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    if is_hex(etag, 40) || is_hex(etag, 64) { etag.to_ascii_lowercase() } else { etag.to_owned() }
}

fn is_plain_name(etag: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=200).contains(&etag.len()) && !etag.starts_with('.') && etag.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use ureq::http::{HeaderName, HeaderValue};

    use super::*;
    use crate::Repo;

    const COMMIT: &str = "607a30d783dfa663caf39e06633721c8d4cfcd7e";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(pair).collect()
    }

    fn facts(answers: &[&[(&'static str, &str)]]) -> Result<Facts, Error> {
        let mut seen = Seen::default();
        for (index, lines) in answers.iter().enumerate() {
            seen.see(&headers(lines), index + 1 < answers.len());
        }
        seen.facts(&Wanted { repo: &Repo::model("a/b", "main"), file: Some("f") })
    }

    #[test]
    fn linked_headers_have_precedence_and_persist_over_redirects() {
        let found = facts(&[
            &[("x-repo-commit", COMMIT), ("x-linked-etag", "\"linked\""), ("x-linked-size", "10"), ("etag", "own")],
            &[("etag", "W/\"last\""), ("content-length", "99")],
        ]);
        assert_eq!(found.unwrap(), Facts { commit: COMMIT.to_owned(), etag: "linked".to_owned(), size: Some(10) });
    }

    #[test]
    fn the_length_of_a_redirect_is_ignored() {
        let found = facts(&[
            &[("x-repo-commit", COMMIT), ("etag", "\"other\""), ("content-length", "300")],
            &[("etag", "W/\"last\"")],
        ]);
        assert_eq!(found.unwrap(), Facts { commit: COMMIT.to_owned(), etag: "last".to_owned(), size: None });
    }

    #[test]
    fn responses_without_valid_headers_are_refused() {
        for etag in ["../../evil", "", "a/b", ".hidden", "a\"b", &"a".repeat(201)] {
            let error = facts(&[&[("x-repo-commit", COMMIT), ("etag", etag)]]).unwrap_err().to_string();
            assert!(error.contains("ETag"), "{error}");
        }
        let error = facts(&[&[("x-repo-commit", "../.."), ("etag", "e")]]).unwrap_err().to_string();
        assert!(error.contains("X-Repo-Commit") && error.contains("HF_ENDPOINT"), "{error}");
    }

    #[test]
    fn ranges_are_parsed() {
        let range = |value| content_range(&headers(&[("content-range", value)]));
        assert_eq!(range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(range("bytes */10"), None);
        assert_eq!(range("lines 5-9/10"), None);
    }
}
