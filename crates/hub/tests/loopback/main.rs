//! The hub against loopback servers: correct, slow, broken and hostile ones.

mod server;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use hub::{Error, Hub, Repo, Settings, Token, Trouble};
use server::{COMMIT, Page, Request, Server, head, refuse, sha256};
use tempfile::TempDir;

const FILE: &str = "model.safetensors";

/// A hub that gives up quickly, with an empty cache.
struct Bench {
    folder: TempDir,
    settings: Settings,
}

impl Bench {
    fn new(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(folder.path());
        settings.endpoint = server.endpoint();
        settings.proxy = false;
        settings.first_pause = Duration::from_millis(1);
        settings.stall_timeout = Duration::from_secs(5);
        Self { folder, settings }
    }

    fn hub(&self) -> Hub {
        Hub::new(self.settings.clone()).unwrap()
    }

    fn offline(&self) -> Hub {
        Hub::new(Settings { offline: true, ..self.settings.clone() }).unwrap()
    }

    /// A path inside the folder of `org/name`.
    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join("models--org--name").join(path)
    }

    fn blobs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.at("blobs")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn repo() -> Repo {
    Repo::model("org/name", "main")
}

fn content() -> Vec<u8> {
    (0..300_000_u32).map(|index| (index % 1009 * index % 251) as u8).collect()
}

/// A hub with one file. `instead` gets every GET request and its number first, and may answer it.
fn one_file(page: Page, instead: impl Fn(usize, &Request, &mut TcpStream) -> bool + Send + Sync + 'static) -> Server {
    let gets = AtomicUsize::new(0);
    Server::start(move |request, stream| {
        let number = if request.method == "GET" { gets.fetch_add(1, Ordering::SeqCst) } else { usize::MAX };
        if number == usize::MAX || !instead(number, request, stream) {
            page.answer(request, stream);
        }
    })
}

fn plain(page: Page) -> Server {
    one_file(page, |_, _, _| false)
}

/// A hub that answers every request with an error status.
fn refusing(status: u16, headers: &'static [(&'static str, &'static str)]) -> (Server, Bench) {
    let server = Server::start(move |_, stream| refuse(stream, status, headers));
    let bench = Bench::new(&server);
    (server, bench)
}

#[test]
fn a_fetched_file_has_the_same_path_as_in_python() {
    let page = Page::large(content());
    let server = plain(page.clone());
    let bench = Bench::new(&server);
    let hub = bench.hub();
    let path = hub.file(&repo(), FILE, Some(&page.etag.to_uppercase())).unwrap();
    assert_eq!(path, bench.at(&format!("snapshots/{COMMIT}/{FILE}")));
    assert_eq!(fs::read(&path).unwrap(), page.content);
    assert_eq!(fs::read_link(&path).unwrap(), Path::new(&format!("../../blobs/{}", page.etag)));
    assert_eq!(fs::read(bench.at("refs/main")).unwrap(), COMMIT.as_bytes());
    assert_eq!(bench.blobs(), [page.etag.as_str()]);
    let deep = hub.file(&repo(), "a/b/c.bin", None).unwrap();
    assert_eq!(fs::read_link(&deep).unwrap(), Path::new(&format!("../../../../blobs/{}", page.etag)));
    assert_eq!(server.asked("GET").len(), 1, "the same content under another name is not fetched again");
    assert_eq!(server.asked("HEAD")[1].path, format!("/org/name/resolve/{COMMIT}/a/b/c.bin"), "one commit for all");
    let before = server.connections();
    assert_eq!(hub.file(&repo(), FILE, Some(&page.etag)).unwrap(), path);
    assert!(hub.exists(&repo(), FILE).unwrap());
    assert_eq!(server.connections(), before, "what is cached is not asked for");
}

#[test]
fn small_files_are_checked_by_their_git_hash() {
    let page = Page { content: b"hello\n".to_vec(), etag: "ce013625030ba8dba906f756967f9e9ca394464a".to_owned() };
    let server = plain(page.clone());
    let bench = Bench::new(&server);
    let data = Repo::dataset("org/name", "refs/convert/parquet");
    let path = bench.hub().file(&data, "a 1.txt", None).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"hello\n");
    assert_eq!(server.requests()[0].path, "/datasets/org/name/resolve/refs%2Fconvert%2Fparquet/a%201.txt");
    let reference = bench.folder.path().join("datasets--org--name/refs/refs/convert/parquet");
    assert_eq!(fs::read(reference).unwrap(), COMMIT.as_bytes());
    let server = plain(Page { content: b"hullo\n".to_vec(), ..page });
    let bench = Bench::new(&server);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err().to_string();
    assert!(error.contains("git sha1") && error.contains("ce013625"), "{error}");
    assert!(bench.blobs().is_empty());
}

#[test]
fn files_that_python_fetched_are_found_offline() {
    let server = plain(Page::large("other"));
    let bench = Bench::new(&server);
    fs::create_dir_all(bench.at("blobs")).unwrap();
    fs::create_dir_all(bench.at("refs")).unwrap();
    fs::create_dir_all(bench.at(&format!("snapshots/{COMMIT}"))).unwrap();
    fs::create_dir_all(bench.at(&format!(".no_exist/{COMMIT}"))).unwrap();
    fs::write(bench.at("blobs/etag"), "python's").unwrap();
    fs::write(bench.at("refs/main"), COMMIT).unwrap();
    fs::write(bench.at(&format!(".no_exist/{COMMIT}/absent")), "").unwrap();
    let path = bench.at(&format!("snapshots/{COMMIT}/{FILE}"));
    std::os::unix::fs::symlink("../../blobs/etag", &path).unwrap();
    let hub = bench.offline();
    assert_eq!(hub.file(&repo(), FILE, None).unwrap(), path);
    assert_eq!(hub.file(&repo(), FILE, Some(&sha256(b"python's"))).unwrap(), path);
    assert_eq!(hub.cached(&repo(), FILE).unwrap(), Some(path));
    assert!(!hub.exists(&repo(), "absent").unwrap());
    assert!(matches!(hub.file(&repo(), "absent", None), Err(Error::EntryNotFound { .. })));
    let error = hub.file(&repo(), FILE, Some(&sha256(b"else"))).unwrap_err();
    assert!(matches!(&error, Error::WrongHash { found, .. } if *found == sha256(b"python's")), "{error}");
    assert_eq!(server.connections(), 0);
}

#[test]
fn offline_opens_no_socket_and_gives_advice() {
    let server = plain(Page::large("x"));
    let bench = Bench::new(&server);
    let hub = bench.offline();
    assert_eq!(hub.cached(&repo(), FILE).unwrap(), None);
    for error in [
        hub.file(&repo(), FILE, None).unwrap_err(),
        hub.exists(&repo(), FILE).unwrap_err(),
        hub.list(&repo()).unwrap_err(),
        hub.refresh(&repo()).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(matches!(error, Error::Offline { .. }), "{text}");
        assert!(text.contains("cargo xtask fetch") && text.contains("unset HF_HUB_OFFLINE"), "{text}");
        assert!(text.contains("org/name at revision main"), "{text}");
    }
    assert_eq!(server.connections(), 0);
    assert_eq!(fs::read_dir(bench.folder.path()).unwrap().count(), 0, "nothing is written either");
}

#[test]
fn a_commit_is_found_without_network() {
    let page = Page::large("weights");
    let server = plain(page);
    let bench = Bench::new(&server);
    let pinned = Repo::model("org/name", COMMIT);
    let hub = bench.hub();
    let path = hub.file(&pinned, FILE, None).unwrap();
    assert!(!bench.at("refs").exists(), "a commit needs no reference");
    let before = server.connections();
    assert_eq!(hub.file(&pinned, FILE, None).unwrap(), path);
    assert_eq!(bench.offline().file(&pinned, FILE, None).unwrap(), path);
    assert_eq!(server.connections(), before);
}

#[test]
fn slow_is_not_stalled() {
    let page = Page::large(vec![7; 100]);
    let server = one_file(page.clone(), move |_, request, stream| {
        page.begin(request, stream);
        for piece in page.content.chunks(10) {
            thread::sleep(Duration::from_millis(40));
            stream.write_all(piece).unwrap();
        }
        true
    });
    let mut bench = Bench::new(&server);
    bench.settings.stall_timeout = Duration::from_millis(250);
    bench.hub().file(&repo(), FILE, None).unwrap();
    assert_eq!(server.asked("GET").len(), 1);
}

#[test]
fn a_silent_server_times_out_and_the_part_is_kept() {
    let page = Page::large(content());
    let server = one_file(page.clone(), move |number, request, stream| {
        page.begin(request, stream);
        if number == 0 {
            stream.write_all(&page.content[..1000]).unwrap();
        }
        thread::sleep(Duration::from_secs(2));
        true
    });
    let mut bench = Bench::new(&server);
    bench.settings.stall_timeout = Duration::from_millis(100);
    let start = Instant::now();
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(1800), "{:?}", start.elapsed());
    let stalled = Trouble::Stalled(Duration::from_millis(100));
    assert!(matches!(&error, Error::Unreachable { trouble, tries: 5, .. } if *trouble == stalled), "{error}");
    assert!(error.to_string().contains("no data for 0.1 s (5 tries)"), "{error}");
    let part = fs::read_dir(bench.at("blobs")).unwrap().next().unwrap().unwrap();
    assert_eq!(part.metadata().unwrap().len(), 1000);
    assert!(bench.hub().cached(&repo(), FILE).unwrap().is_none());
}

#[test]
fn a_server_that_never_answers_times_out() {
    let server = Server::start(|_, _| thread::sleep(Duration::from_secs(2)));
    let mut bench = Bench::new(&server);
    bench.settings.stall_timeout = Duration::from_millis(50);
    let error = bench.hub().exists(&repo(), FILE).unwrap_err();
    assert!(matches!(error, Error::Unreachable { trouble: Trouble::Stalled(_), .. }), "{error}");
}

#[test]
fn a_refused_connection_gives_advice() {
    let server = plain(Page::large("x"));
    let mut bench = Bench::new(&server);
    bench.settings.endpoint = "http://127.0.0.1:1".to_owned();
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err().to_string();
    assert!(error.contains("refused") && error.contains("(5 tries)") && error.contains("cargo xtask fetch"), "{error}");
    assert!(error.contains("`model.safetensors` of model org/name at revision main"), "{error}");
}

#[test]
fn not_found_errors_name_what_is_missing() {
    let (server, bench) = refusing(404, &[("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", COMMIT)]);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err();
    assert!(matches!(&error, Error::EntryNotFound { commit: Some(commit), .. } if commit == COMMIT), "{error}");
    assert_eq!(server.connections(), 1, "not found is not tried again");
    assert!(!bench.hub().exists(&repo(), FILE).unwrap());
    assert!(!bench.offline().exists(&repo(), FILE).unwrap(), "the answer is kept");
    assert!(bench.at(&format!(".no_exist/{COMMIT}/{FILE}")).is_file(), "where Python keeps it");
    let (_server, bench) = refusing(404, &[("X-Error-Code", "RepoNotFound")]);
    let error = bench.hub().exists(&repo(), FILE).unwrap_err();
    assert!(matches!(error, Error::RepoNotFound { .. }), "{error}");
    let (_server, bench) = refusing(404, &[("X-Error-Code", "RevisionNotFound")]);
    let error = bench.hub().exists(&repo(), FILE).unwrap_err();
    assert!(matches!(error, Error::RevisionNotFound { .. }), "{error}");
    let (_server, bench) = refusing(404, &[]);
    let error = bench.hub().exists(&repo(), FILE).unwrap_err();
    assert!(
        matches!(error, Error::Refused { status: 404, .. }),
        "a 404 without the headers of the hub proves nothing: {error}"
    );
}

#[test]
fn denied_access_gives_advice() {
    let (server, mut bench) = refusing(401, &[("X-Error-Message", "Invalid username or password.")]);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err().to_string();
    assert!(error.contains("set HF_TOKEN") && error.contains("status 401: Invalid username"), "{error}");
    bench.settings.token = Token::new("hf_secret");
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err().to_string();
    assert!(error.contains("has not expired") && !error.contains("hf_secret"), "{error}");
    assert_eq!(server.connections(), 2, "a refusal is not tried again");
    let (_server, bench) = refusing(403, &[]);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err();
    assert!(matches!(error, Error::Denied { status: 403, token: false, .. }), "{error}");
    let (_server, bench) = refusing(403, &[("X-Error-Code", "GatedRepo")]);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err();
    assert!(matches!(error, Error::Gated { .. }) && error.to_string().contains("accept it"), "{error}");
    let (_server, bench) = refusing(401, &[("X-Error-Code", "RepoNotFound")]);
    let error = bench.hub().list(&repo()).unwrap_err();
    assert!(matches!(error, Error::RepoNotFound { .. }), "{error}");
}

#[test]
fn server_errors_are_retried() {
    let page = Page::large(content());
    let server = one_file(page.clone(), |number, _, stream| {
        if number < 4 {
            refuse(stream, [500, 503, 429, 502][number], &[]);
        }
        number < 4
    });
    let bench = Bench::new(&server);
    bench.hub().file(&repo(), FILE, None).unwrap();
    assert_eq!(server.asked("GET").len(), 5);
    let (server, bench) = refusing(500, &[]);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err();
    let status = Trouble::Status { status: 500, wait: None };
    assert!(matches!(&error, Error::Unreachable { trouble, .. } if *trouble == status), "{error}");
    assert_eq!(server.connections(), 5);
}

#[test]
fn short_pauses_are_respected_and_long_ones_refused() {
    let server = one_file(Page::large("x"), |number, _, stream| {
        if number == 0 {
            refuse(stream, 429, &[("Retry-After", "1")]);
        }
        number == 0
    });
    let start = Instant::now();
    Bench::new(&server).hub().file(&repo(), FILE, None).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    let (server, bench) = refusing(429, &[("Retry-After", "86400")]);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err().to_string();
    assert!(error.contains("asks to wait for 86400 s (1 try)") && error.contains("HF_TOKEN"), "{error}");
    assert_eq!(server.connections(), 1);
}

#[test]
fn an_interrupted_download_is_resumed() {
    let page = Page::large(content());
    let server = one_file(page.clone(), move |number, request, stream| {
        if number < 2 {
            page.begin(request, stream);
            let first = request.first_byte();
            stream.write_all(&page.content[first..first + 50_000]).unwrap();
        }
        number < 2
    });
    let bench = Bench::new(&server);
    let largest = Arc::new(AtomicU64::new(0));
    let seen = largest.clone();
    let hub = bench.hub().watched(move |progress| {
        assert_eq!((progress.file, progress.total), (FILE, Some(300_000)));
        assert!(progress.done >= seen.swap(progress.done, Ordering::SeqCst), "never back");
    });
    let path = hub.file(&repo(), FILE, None).unwrap();
    assert_eq!(fs::read(path).unwrap(), content());
    assert_eq!(largest.load(Ordering::SeqCst), 300_000);
    let firsts: Vec<usize> = server.asked("GET").iter().map(Request::first_byte).collect();
    assert_eq!(firsts, [0, 50_000, 100_000]);
}

#[test]
fn an_interrupted_download_of_unknown_size_is_resumed() {
    let page = Page::large(content());
    let etag = page.etag.clone();
    let server = Server::start(move |request, stream| {
        let (first, named) = (request.first_byte(), [("X-Repo-Commit", COMMIT), ("ETag", etag.as_str())]);
        if request.method == "HEAD" {
            head(stream, 200, &named);
        } else if first == 0 {
            head(stream, 200, &[("Transfer-Encoding", "chunked")]);
            stream.write_all(b"3e8\r\n").unwrap();
            stream.write_all(&page.content[..1000]).unwrap();
        } else {
            page.answer(request, stream);
        }
    });
    let bench = Bench::new(&server);
    bench.hub().file(&repo(), FILE, None).unwrap();
    let firsts: Vec<usize> = server.asked("GET").iter().map(Request::first_byte).collect();
    assert_eq!(firsts, [0, 1000]);
}

#[test]
fn the_part_of_an_earlier_run_is_used_or_replaced() {
    let page = Page::large(content());
    let start = |length: usize, answer: fn(&Page, &Request, &mut TcpStream)| {
        let shown = page.clone();
        let server = one_file(page.clone(), move |number, request, stream| {
            if number == 0 {
                answer(&shown, request, stream);
            }
            number == 0
        });
        let bench = Bench::new(&server);
        fs::create_dir_all(bench.at("blobs")).unwrap();
        let mut part = page.content.clone();
        part.resize(length, 0);
        fs::write(bench.at(&format!("blobs/{}.retrace.part", page.etag)), part).unwrap();
        let path = bench.hub().file(&repo(), FILE, None).unwrap();
        assert_eq!(fs::read(path).unwrap(), page.content);
        assert_eq!(bench.blobs(), [page.etag.as_str()]);
        server.asked("GET").iter().map(Request::first_byte).collect::<Vec<_>>()
    };
    assert_eq!(start(1000, Page::answer), [1000]);
    assert_eq!(start(300_000, Page::answer), [0_usize; 0], "whole already");
    assert_eq!(start(300_001, Page::answer), [0], "too long");
    let ignores_ranges = |page: &Page, _: &Request, stream: &mut TcpStream| {
        head(stream, 200, &[("Content-Length", "300000")]);
        stream.write_all(&page.content).unwrap();
    };
    assert_eq!(start(1000, ignores_ranges), [1000]);
    assert_eq!(start(1000, |_, _, stream| refuse(stream, 416, &[])), [1000, 0]);
    let wrong_range = |page: &Page, _: &Request, stream: &mut TcpStream| {
        head(stream, 206, &[("Content-Length", "300000"), ("Content-Range", "bytes 0-299999/300000")]);
        stream.write_all(&page.content).unwrap();
    };
    assert_eq!(start(1000, wrong_range), [1000, 0]);
}

#[test]
fn wrong_content_never_enters_the_cache() {
    let good = Page::large(content());
    let mut bad = good.clone();
    bad.content[17] ^= 1;
    let server = plain(bad.clone());
    let bench = Bench::new(&server);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::WrongHash { kind: "sha256", .. }), "{text}");
    assert!(text.contains(&good.etag) && text.contains(&sha256(&bad.content)), "{text}");
    assert!(bench.blobs().is_empty(), "the part is gone");
    assert!(!bench.at("snapshots").exists() && !bench.at("refs").exists());
    let other = sha256(b"other");
    let error = bench.hub().file(&repo(), FILE, Some(&other)).unwrap_err().to_string();
    assert!(error.contains(&other) && error.contains(&good.etag), "{error}");
    assert_eq!(server.asked("GET").len(), 1, "the hub's own hash is enough to see that");
    let named = Page { etag: "no-hash-1".to_owned(), ..good.clone() };
    let server = plain(named);
    let bench = Bench::new(&server);
    let error = bench.hub().file(&repo(), FILE, Some(&other)).unwrap_err().to_string();
    assert!(error.contains(&other) && error.contains(&good.etag), "{error}");
    assert!(bench.blobs().is_empty());
    bench.hub().file(&repo(), FILE, Some(&good.etag)).unwrap();
}

#[test]
fn a_damaged_blob_is_fetched_again() {
    let page = Page::large(content());
    let server = plain(page.clone());
    let bench = Bench::new(&server);
    let path = bench.hub().file(&repo(), FILE, None).unwrap();
    fs::write(&path, "damaged").unwrap();
    let error = bench.offline().file(&repo(), FILE, Some(&page.etag)).unwrap_err();
    assert!(matches!(error, Error::WrongHash { .. }), "{error}");
    assert_eq!(bench.hub().file(&repo(), FILE, Some(&page.etag)).unwrap(), path);
    assert_eq!(fs::read(path).unwrap(), page.content);
}

#[test]
fn content_longer_than_announced_is_refused() {
    let server = Server::start(|request, stream| {
        if request.method == "HEAD" {
            let headers = [("X-Repo-Commit", COMMIT), ("X-Linked-ETag", "\"e\""), ("X-Linked-Size", "10")];
            refuse(stream, 200, &headers);
        } else {
            head(stream, 200, &[]);
            stream.write_all(&[0; 1000]).unwrap();
        }
    });
    let bench = Bench::new(&server);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err();
    assert!(matches!(error, Error::WrongSize { expected: 10, .. }), "{error}");
    assert!(bench.blobs().is_empty());
}

#[test]
fn a_huge_announced_length_allocates_nothing() {
    let server = Server::start(|request, stream| {
        let size = ("Content-Length", "9223372036854775807");
        head(stream, 200, &[("X-Repo-Commit", COMMIT), ("ETag", "\"e\""), size]);
        if request.method == "GET" {
            stream.write_all(b"tiny").unwrap();
        }
    });
    let bench = Bench::new(&server);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err().to_string();
    assert!(error.contains("of 9223372036854775807 bytes"), "{error}");
}

#[test]
fn responses_without_size_and_hash_are_refused() {
    let server = Server::start(|request, stream| {
        head(stream, 200, &[("X-Repo-Commit", COMMIT), ("ETag", "\"e\"")]);
        if request.method == "GET" {
            stream.write_all(b"who knows").unwrap();
        }
    });
    let bench = Bench::new(&server);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err().to_string();
    assert!(error.contains("neither size nor hash"), "{error}");
    assert!(bench.blobs().is_empty());
    bench.hub().file(&repo(), FILE, Some(&sha256(b"who knows"))).unwrap();
}

#[test]
fn the_token_is_sent_to_the_hub_only() {
    let page = Page::large(content());
    let shown = page.clone();
    let store = Server::start(move |request, stream| shown.answer(request, stream));
    let (location, etag) = (format!("{}/bucket/{}?sig=x%2Fy", store.endpoint(), page.etag), page.etag.clone());
    let server = Server::start(move |request, stream| {
        if !request.path.starts_with("/moved/") {
            return refuse(stream, 307, &[("Location", &format!("/moved{}", request.path))]);
        }
        let headers = [
            ("X-Repo-Commit", COMMIT),
            ("X-Linked-ETag", &etag),
            ("X-Linked-Size", "300000"),
            ("ETag", "\"of the redirect\""),
            ("Location", &location),
        ];
        refuse(stream, 302, &headers);
    });
    let mut bench = Bench::new(&server);
    bench.settings.token = Token::new("hf_secret");
    bench.hub().file(&repo(), FILE, None).unwrap();
    assert_eq!(bench.blobs(), [page.etag.as_str()]);
    let requests = server.requests();
    assert_eq!(requests.len(), 4, "twice a head, twice a file: {requests:?}");
    assert!(requests.iter().all(|request| request.header("authorization") == Some("Bearer hf_secret")));
    let requests = store.requests();
    assert_eq!(requests.len(), 1, "the head is not followed: {requests:?}");
    assert_eq!(requests[0].path, format!("/bucket/{}?sig=x%2Fy", page.etag));
    assert_eq!(requests[0].header("authorization"), None);
    assert_eq!(requests[0].header("accept-encoding"), Some("identity"));
}

#[test]
fn redirect_loops_end() {
    let (server, bench) = refusing(302, &[("Location", "/again")]);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err();
    assert!(matches!(&error, Error::NotAHub { problem, .. } if problem.contains("redirects")), "{error}");
    assert_eq!(server.connections(), 10);
    let (_server, bench) = refusing(302, &[("Location", "file:///etc/passwd")]);
    let error = bench.hub().file(&repo(), FILE, None).unwrap_err();
    assert!(matches!(error, Error::NotAHub { .. }), "{error}");
}

#[test]
fn hostile_names_reach_neither_disk_nor_hub() {
    let server = plain(Page { etag: "../../../evil".to_owned(), ..Page::large("x") });
    let bench = Bench::new(&server);
    let hub = bench.hub();
    for file in ["", "../x", "/x", "a/../../x", "a\\b"] {
        assert!(matches!(hub.file(&repo(), file, None), Err(Error::Name { .. })), "{file}");
        assert!(matches!(hub.cached(&repo(), file), Err(Error::Name { .. })), "{file}");
    }
    let bad = Repo::model("../name", "main");
    assert!(matches!(hub.list(&bad), Err(Error::Name { .. })));
    assert!(matches!(hub.file(&repo(), FILE, Some("abc")), Err(Error::Name { .. })));
    assert_eq!(server.connections(), 0);
    let error = hub.file(&repo(), FILE, None).unwrap_err();
    assert!(matches!(&error, Error::NotAHub { problem, .. } if problem.contains("ETag")), "{error}");
    assert_eq!(fs::read_dir(bench.folder.path()).unwrap().count(), 0);
}

#[test]
fn concurrent_requests_fetch_once() {
    let page = Page::large(content());
    let server = one_file(page.clone(), move |_, request, stream| {
        page.begin(request, stream);
        for piece in page.content.chunks(100_000) {
            thread::sleep(Duration::from_millis(50));
            stream.write_all(piece).unwrap();
        }
        true
    });
    let bench = Bench::new(&server);
    let barrier = Barrier::new(4);
    let paths: Vec<PathBuf> = thread::scope(|scope| {
        let ask = || {
            let hub = bench.hub();
            barrier.wait();
            hub.file(&repo(), FILE, None).unwrap()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(paths.iter().all(|path| *path == paths[0] && fs::read(path).unwrap() == content()));
    assert_eq!(server.asked("GET").len(), 1);
}

#[test]
fn a_list_names_the_files_and_a_refresh_moves_the_branch() {
    let server = Server::start(|request, stream| {
        let newer = "f".repeat(40);
        let sha = if request.path.contains(COMMIT) { COMMIT } else { &newer };
        let list = r#"[{"rfilename":"b/c.txt"},{"rfilename":"a.txt","size":1}]"#;
        let body = format!(r#"{{"id":"org/name","sha":"{sha}","tags":[],"siblings":{list}}}"#);
        head(stream, 200, &[("Content-Length", &body.len().to_string())]);
        stream.write_all(body.as_bytes()).unwrap();
    });
    let bench = Bench::new(&server);
    let hub = bench.hub();
    assert_eq!(hub.list(&repo()).unwrap(), ["a.txt", "b/c.txt"]);
    assert_eq!(hub.refresh(&repo()).unwrap(), "f".repeat(40));
    assert_eq!(fs::read_to_string(bench.at("refs/main")).unwrap(), "f".repeat(40));
    hub.list(&repo()).unwrap();
    let paths: Vec<String> = server.requests().into_iter().map(|request| request.path).collect();
    let of = |revision: &str| format!("/api/models/org/name/revision/{revision}");
    assert_eq!(paths, [of("main"), of("main"), of(&"f".repeat(40))], "the list is that of the remembered commit");
    let (_server, bench) = refusing(200, &[]);
    let error = bench.hub().list(&repo()).unwrap_err();
    assert!(matches!(error, Error::NotAHub { .. }), "{error}");
}

#[test]
fn a_commit_that_the_hub_no_longer_has_is_replaced() {
    let page = Page::large("new");
    let lost = "0".repeat(40);
    let gone = lost.clone();
    let server = Server::start(move |request, stream| {
        if request.path.contains(&gone) {
            return refuse(stream, 404, &[("X-Error-Code", "RevisionNotFound")]);
        }
        page.answer(request, stream);
    });
    let bench = Bench::new(&server);
    fs::create_dir_all(bench.at("refs")).unwrap();
    fs::write(bench.at("refs/main"), lost).unwrap();
    bench.hub().file(&repo(), FILE, None).unwrap();
    assert_eq!(fs::read_to_string(bench.at("refs/main")).unwrap(), COMMIT);
}

#[test]
fn the_current_branch_is_searched_for_the_expected_content() {
    let (old, new) = (Page::large("old"), Page::large("new"));
    let wanted = new.etag.clone();
    let before = "0".repeat(40);
    let earlier = before.clone();
    let server = Server::start(move |request, stream| {
        let page = if request.path.contains(&earlier) { &old } else { &new };
        page.answer(request, stream);
    });
    let bench = Bench::new(&server);
    fs::create_dir_all(bench.at("refs")).unwrap();
    fs::write(bench.at("refs/main"), before).unwrap();
    let path = bench.hub().file(&repo(), FILE, Some(&wanted)).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"new");
}
