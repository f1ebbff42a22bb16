//! HTTP requests to the hub: redirects, error statuses and retries.

use std::io::Read;
use std::thread;
use std::time::Duration;

use hf_hub::api::RepoInfo;
use ureq::config::Config;
use ureq::http::header::{AUTHORIZATION, RANGE};
use ureq::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Body, Timeout};

use crate::facts::{Facts, Seen, number, text};
use crate::repo::Wanted;
use crate::{Error, Settings, Trouble};

/// Maximum number of tries.
const TRIES: u32 = 5;
/// Maximum number of consecutive redirects.
const HOPS: usize = 10;
/// Longest pause that a server can ask for.
const PATIENCE: Duration = Duration::from_secs(300);
/// Maximum size of a list of files, in bytes.
const LIST_LIMIT: u64 = 256 << 20;

/// Why a try failed.
pub(crate) enum Failure {
    /// Temporary: a retry may succeed.
    Passing(Trouble),
    /// The connection failed in a way that a retry does not help.
    Lasting(Trouble),
    /// The hub or the disk refused.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// A response, and the headers of the hub on the way to it.
struct Reply {
    response: Response<Body>,
    seen: Seen,
}

/// A client of the hub, with its credentials.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<HeaderValue>,
    connect_timeout: Duration,
    /// Timeout for a connection without data.
    pub stall_timeout: Duration,
    first_pause: Duration,
}

impl Client {
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        check_endpoint(&settings.endpoint)?;
        Ok(Self {
            agent: agent(settings),
            endpoint: settings.endpoint.clone(),
            token: bearer(settings)?,
            connect_timeout: settings.connect_timeout,
            stall_timeout: settings.stall_timeout,
            first_pause: settings.first_pause,
        })
    }

    /// Runs `once` until it succeeds, fails permanently, or has been tried [`TRIES`] times.
    pub fn retry<T>(&self, wanted: &Wanted<'_>, mut once: impl FnMut() -> Result<T, Failure>) -> Result<T, Error> {
        let mut pause = self.first_pause;
        let mut tries = 1;
        loop {
            let (trouble, passing) = match once() {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(trouble)) => (trouble, true),
                Err(Failure::Lasting(trouble)) => (trouble, false),
            };
            let asked = if let Trouble::Status { wait: Some(wait), .. } = trouble { wait } else { Duration::ZERO };
            if !passing || tries == TRIES || asked > PATIENCE {
                return Err(Error::Unreachable { what: wanted.to_string(), trouble, tries });
            }
            let wait = pause.max(asked);
            tracing::warn!("{wanted}: {trouble}; retrying in {} s", wait.as_secs_f64());
            thread::sleep(wait);
            pause *= 2;
            tries += 1;
        }
    }

    /// The facts about a file at a revision, which may differ from that of `wanted` (its commit, for example).
    pub fn facts(&self, wanted: &Wanted<'_>, revision: &str) -> Result<Facts, Error> {
        let reply = self.retry(wanted, || self.ask(wanted, &Method::HEAD, revision, None))?;
        reply.seen.facts(wanted)
    }

    /// The files and the commit of a revision.
    pub fn info(&self, wanted: &Wanted<'_>, revision: &str) -> Result<RepoInfo, Error> {
        let bytes = self.retry(wanted, || {
            let reply = self.ask(wanted, &Method::GET, revision, None)?;
            let mut bytes = Vec::new();
            let mut reader = reply.response.into_body().into_reader().take(LIST_LIMIT);
            reader.read_to_end(&mut bytes).map_err(|error| self.failure(error.into()))?;
            Ok(bytes)
        })?;
        let malformed =
            |error: serde_json::Error| Error::NotAHub { what: wanted.to_string(), problem: error.to_string() };
        serde_json::from_slice(&bytes).map_err(malformed)
    }

    /// The content of a file from byte `from` on, or all of it if the server ignores ranges.
    pub fn content(&self, wanted: &Wanted<'_>, commit: &str, from: u64) -> Result<Response<Body>, Failure> {
        Ok(self.ask(wanted, &Method::GET, commit, Some(from).filter(|from| *from > 0))?.response)
    }

    /// One request with its redirects. A HEAD request stops at the hub: it does not follow redirects to the storage host.
    fn ask(&self, wanted: &Wanted<'_>, method: &Method, revision: &str, from: Option<u64>) -> Result<Reply, Failure> {
        let refuse = |problem: String| Failure::Final(Error::NotAHub { what: wanted.to_string(), problem });
        let start = parse(&format!("{}/{}", self.endpoint, wanted.address(revision)));
        let start = start.ok_or_else(|| refuse("its URL is invalid".to_owned()))?;
        let (mut address, mut seen, mut home) = (start.clone(), Seen::default(), true);
        for _ in 0..HOPS {
            let response = self.send(method, &address, home, from)?;
            let location = redirect(&response);
            if home {
                seen.see(response.headers(), location.is_some());
            }
            let Some(location) = location else {
                self.check_status(wanted, &response, home, &seen, from)?;
                return Ok(Reply { response, seen });
            };
            let next = join(&address, location).ok_or_else(|| refuse("it redirects to an invalid URL".to_owned()))?;
            if start.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(refuse("it redirects away from https".to_owned()));
            }
            home = home && same_host(&next, &start);
            if !home && method == Method::HEAD {
                return Ok(Reply { response, seen });
            }
            address = next;
        }
        Err(refuse(format!("it has more than {HOPS} redirects")))
    }

    /// Sends one request; the token goes to the hub itself only.
    fn send(&self, method: &Method, address: &Uri, home: bool, from: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(method).uri(address);
        if let (true, Some(token)) = (home, &self.token) {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(from) = from {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let request = request.body(()).map_err(|error| self.failure(error.into()))?;
        self.agent.run(request).map_err(|error| self.failure(error))
    }

    /// Maps a status to success or a failure.
    fn check_status(
        &self,
        wanted: &Wanted<'_>,
        response: &Response<Body>,
        home: bool,
        seen: &Seen,
        from: Option<u64>,
    ) -> Result<(), Failure> {
        let (status, headers) = (response.status(), response.headers());
        let token = self.token.is_some();
        let (what, message) = (wanted.to_string(), message(headers));
        let code = text(headers, "x-error-code").filter(|_| home);
        if status.is_success() || (from.is_some() && status == StatusCode::RANGE_NOT_SATISFIABLE) {
            return Ok(());
        }
        if status.is_server_error() || matches!(status.as_u16(), 408 | 429) {
            let wait = number(headers, "retry-after").map(Duration::from_secs);
            return Err(Failure::Passing(Trouble::Status { status: status.as_u16(), wait }));
        }
        Err(Failure::Final(match (code, status.as_u16()) {
            (Some("EntryNotFound"), _) => Error::EntryNotFound { what, commit: seen.commit() },
            (Some("RepoNotFound"), _) => Error::RepoNotFound { what },
            (Some("RevisionNotFound"), _) => Error::RevisionNotFound { what },
            (Some("GatedRepo"), _) => Error::Gated { what, token },
            (_, status @ (401 | 403)) if home => Error::Denied { what, status, message, token },
            (_, status) => Error::Refused { what, status, message },
        }))
    }

    /// Classifies errors of ureq as temporary or permanent.
    pub fn failure(&self, error: ureq::Error) -> Failure {
        use ureq::Error as Ureq;
        match error {
            Ureq::Timeout(Timeout::Resolve | Timeout::Connect) => {
                let limit = self.connect_timeout.as_secs_f64();
                Failure::Passing(Trouble::Connection(format!("no connection within {limit} s")))
            }
            Ureq::Timeout(_) => Failure::Passing(Trouble::Stalled(self.stall_timeout)),
            // the error of rustls for a bad certificate
            Ureq::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Failure::Lasting(Trouble::Connection(error.to_string()))
            }
            Ureq::Io(error) => Failure::Passing(Trouble::Connection(error.to_string())),
            Ureq::HostNotFound | Ureq::ConnectionFailed | Ureq::BodyStalled | Ureq::ConnectProxyFailed(_) => {
                Failure::Passing(Trouble::Connection(error.to_string()))
            }
            error => Failure::Lasting(Trouble::Connection(error.to_string())),
        }
    }
}

fn agent(settings: &Settings) -> Agent {
    let mut config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("retrace/", env!("CARGO_PKG_VERSION")))
        // a compressed response has another length than the file
        .accept_encoding("identity")
        .timeout_resolve(Some(settings.connect_timeout))
        .timeout_connect(Some(settings.connect_timeout))
        // per-read timeouts: no limit on a whole response suits every file size and network
        .timeout_per_read(Some(settings.stall_timeout))
        .timeout_per_write(Some(settings.stall_timeout));
    if !settings.proxy {
        config = config.proxy(None);
    }
    Agent::new_with_config(config.build())
}

fn check_endpoint(endpoint: &str) -> Result<(), Error> {
    if parse(endpoint).is_some_and(|address| address.query().is_none()) && !endpoint.ends_with('/') {
        return Ok(());
    }
    let problem = format!("`{endpoint}` is not a URL such as https://huggingface.co");
    Err(Error::Setting { variable: "HF_ENDPOINT", problem })
}

fn bearer(settings: &Settings) -> Result<Option<HeaderValue>, Error> {
    let Some(token) = &settings.token else { return Ok(None) };
    let problem = "contains characters that are invalid in a token".to_owned();
    let refuse = |_| Error::Setting { variable: "HF_TOKEN", problem };
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.secret())).map_err(refuse)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn message(headers: &HeaderMap) -> String {
    text(headers, "x-error-message").map_or(String::new(), |message| format!(": {message}"))
}

/// The target of a redirect.
fn redirect(response: &Response<Body>) -> Option<&str> {
    let location = text(response.headers(), "location")?;
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308).then_some(location)
}

/// An absolute http or https URL.
fn parse(text: &str) -> Option<Uri> {
    let address: Uri = text.parse().ok()?;
    let web = matches!(address.scheme_str(), Some("http" | "https"));
    (web && address.host().is_some_and(|host| !host.is_empty())).then_some(address)
}

/// Resolves the location of a redirect against the URL that it came from.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if location.starts_with("//") {
        parse(&format!("{scheme}:{location}"))
    } else if location.starts_with('/') {
        parse(&format!("{scheme}://{authority}{location}"))
    } else if location.contains("://") {
        parse(location)
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        parse(&format!("{scheme}://{authority}{folder}/{location}"))
    }
}

/// Whether two URLs have the same scheme, host and port; only then may the token be sent.
fn same_host(one: &Uri, other: &Uri) -> bool {
    let port =
        |address: &Uri| address.port_u16().or(if address.scheme_str() == Some("https") { Some(443) } else { Some(80) });
    let host = |address: &Uri| address.host().map(str::to_ascii_lowercase);
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn locations_are_resolved() {
        let base = uri("https://h:1/a/b?c");
        for (location, whole) in [
            ("/x?y=%2F", "https://h:1/x?y=%2F"),
            ("//g/x", "https://g/x"),
            ("http://g/x", "http://g/x"),
            ("x", "https://h:1/a/x"),
        ] {
            assert_eq!(join(&base, location).unwrap(), uri(whole), "{location}");
        }
        for location in ["ftp://h/x", "file:///etc/passwd", "http://"] {
            assert!(join(&base, location).is_none(), "{location}");
        }
    }

    #[test]
    fn scheme_name_and_port_must_match() {
        let same = |one, other| same_host(&uri(one), &uri(other));
        assert!(same("https://h/a", "https://H:443/b"));
        assert!(!same("https://h/a", "http://h/a"));
        assert!(!same("https://h/a", "https://h:444/a"));
        assert!(!same("https://h/a", "https://h.evil/a"));
        assert!(!same("https://h/a", "https://h@evil/a"));
    }

    #[test]
    fn endpoints_are_checked() {
        for endpoint in ["https://huggingface.co", "http://127.0.0.1:80/a/b"] {
            check_endpoint(endpoint).unwrap();
        }
        for endpoint in ["", "huggingface.co", "ftp://h", "https://h/?q", "https://h/", "https://"] {
            assert!(check_endpoint(endpoint).unwrap_err().to_string().contains("HF_ENDPOINT"), "{endpoint}");
        }
    }
}
