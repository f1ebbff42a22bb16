//! A small HTTP server on loopback that imitates the hub.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest, Sha256};

/// The commit of everything on the fake hub.
pub const COMMIT: &str = "607a30d783dfa663caf39e06633721c8d4cfcd7e";

/// A received request.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The first requested byte.
    pub fn first_byte(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        range.map_or(0, |first| first.parse().unwrap())
    }
}

/// A listener with its requests and the number of connections.
pub struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers every request with `answer`; one thread and one request per connection.
    pub fn start(answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let server = Self { port, connections: connections.clone(), requests: requests.clone() };
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let (answer, requests) = (answer.clone(), requests.clone());
                thread::spawn(move || {
                    let Some(request) = read_request(&stream) else { return };
                    requests.lock().unwrap().push(request.clone());
                    answer(&request, &mut stream);
                });
            }
        });
        server
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The number of connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The requests with this method.
    pub fn asked(&self, method: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.method == method).collect()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let (method, rest) = first.split_once(' ')?;
    let path = rest.split_once(' ')?.0.to_owned();
    let headers = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
    let headers =
        headers.filter_map(|line| line.split_once(": ").map(|(key, value)| (key.to_owned(), value.to_owned())));
    Some(Request { method: method.to_owned(), headers: headers.collect(), path })
}

/// Sends a status and headers.
pub fn head(stream: &mut TcpStream, status: u16, headers: &[(&str, &str)]) {
    let mut text = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
    for (name, value) in headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    text.push_str("\r\n");
    let _ = stream.write_all(text.as_bytes());
}

/// Sends a status without content.
pub fn refuse(stream: &mut TcpStream, status: u16, headers: &[(&str, &str)]) {
    let headers: Vec<_> = headers.iter().copied().chain([("Content-Length", "0")]).collect();
    head(stream, status, &headers);
}

/// One file of a repository.
#[derive(Clone)]
pub struct Page {
    pub content: Vec<u8>,
    pub etag: String,
}

impl Page {
    /// A large file, which the hub names by its sha256.
    pub fn large(content: impl Into<Vec<u8>>) -> Self {
        let content = content.into();
        Self { etag: sha256(&content), content }
    }

    /// The headers of the hub about the file.
    pub fn answer(&self, request: &Request, stream: &mut TcpStream) {
        self.begin(request, stream);
        if request.method == "GET" {
            let _ = stream.write_all(&self.content[request.first_byte()..]);
        }
    }

    /// The headers of the answer alone.
    pub fn begin(&self, request: &Request, stream: &mut TcpStream) {
        let (first, size) = (request.first_byte(), self.content.len());
        let (length, etag) = ((size - first).to_string(), format!("\"{}\"", self.etag));
        let range = format!("bytes {first}-{}/{size}", size.saturating_sub(1));
        let mut headers = vec![("X-Repo-Commit", COMMIT), ("ETag", &etag), ("Content-Length", &length)];
        if first > 0 {
            headers.push(("Content-Range", &range));
        }
        head(stream, if first > 0 { 206 } else { 200 }, &headers);
    }
}

/// The sha256 of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
