//! Opens the page of results in headless Chromium at the widths of a phone and a desktop screen, and checks its layout.
//!
//! A wrapper page shows the page in a frame of the given width, inspects it after loading, and writes a verdict as JSON
//! to its own document, which Chromium prints. Host names do not resolve, so a page that needs the network fails.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::draw::PAGE;
use crate::output::print_line;
use crate::places::Workspace;

/// Widths in CSS pixels: a phone and a desktop screen.
const WIDTHS: [u32; 2] = [390, 1280];

/// Height of the frame.
const HEIGHT: u32 = 900;

/// Time after which the browser is stopped.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Names and paths of browsers to try after `CHROMIUM`.
const BROWSERS: [&str; 6] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/// Message when no browser is found.
pub const NO_BROWSER: &str =
    "THE PAGE WAS NOT CHECKED: Chromium is not installed; install `chromium`, or set the variable CHROMIUM to its path";

/// The result of the check.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// No problems.
    Good,
    /// All problems found.
    Bad(Vec<String>),
    /// There is no browser.
    NoBrowser,
}

/// Checks the page in each folder of results at all widths.
///
/// # Errors
/// When a page is missing, or the browser cannot be run or prints no verdict.
pub fn check(workspace: &Workspace, roots: &[PathBuf]) -> Result<Outcome> {
    let Some(browser) = find_browser() else { return Ok(Outcome::NoBrowser) };
    let mut problems = Vec::new();
    for root in roots {
        let page = root.join(PAGE);
        if !page.is_file() {
            bail!("{} is missing: write it with `cargo xtask reproduce`", workspace.show(&page));
        }
        for width in WIDTHS {
            let view = look(workspace, &browser, &page, width)?;
            let where_ = format!("{} at {width} px", workspace.show(&page));
            print_line(format_args!(
                "{where_}: {} experiments, {} figures, {} px wide",
                view.experiments.len(),
                view.experiments.iter().map(|experiment| experiment.figures).sum::<usize>(),
                view.scroll_width
            ))?;
            problems.extend(view.problems().into_iter().map(|problem| format!("{where_}: {problem}")));
        }
    }
    Ok(if problems.is_empty() { Outcome::Good } else { Outcome::Bad(problems) })
}

/// The first browser that exists.
fn find_browser() -> Option<PathBuf> {
    let named = env::var_os("CHROMIUM").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    named
        .into_iter()
        .chain(BROWSERS.iter().map(PathBuf::from))
        .flat_map(|browser| {
            if browser.is_absolute() {
                vec![browser]
            } else {
                env::split_paths(&path).map(|folder| folder.join(&browser)).collect()
            }
        })
        .find(|browser| browser.is_file())
}

/// The verdict of the wrapper page.
#[derive(Debug, Default, Deserialize)]
struct View {
    /// Width of the frame.
    client_width: u32,
    /// Width of the content.
    scroll_width: u32,
    /// Elements that reach beyond the frame.
    wide: Vec<String>,
    /// Rows of the scoreboard; `None` when it is missing.
    scoreboard: Option<usize>,
    experiments: Vec<Seen>,
    /// Addresses fetched besides the page.
    fetched: Vec<String>,
    /// Images with no size.
    broken: Vec<String>,
}

/// An experiment on the page.
#[derive(Debug, Default, Deserialize)]
struct Seen {
    id: String,
    figures: usize,
}

impl View {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.scroll_width > self.client_width {
            problems.push(format!(
                "it is {} px wide in a window of {}: {}",
                self.scroll_width,
                self.client_width,
                if self.wide.is_empty() { "no single element is too wide".to_owned() } else { self.wide.join(", ") }
            ));
        }
        match self.scoreboard {
            None => problems.push("there is no scoreboard".to_owned()),
            Some(0) => problems.push("the scoreboard is empty".to_owned()),
            Some(_) => {}
        }
        if self.experiments.is_empty() {
            problems.push("there is no experiment".to_owned());
        }
        for experiment in self.experiments.iter().filter(|experiment| experiment.figures == 0) {
            problems.push(format!("{} has no figure", experiment.id));
        }
        problems
            .extend(self.fetched.iter().map(|address| format!("it fetches {address}, so it is not self-contained")));
        problems.extend(self.broken.iter().map(|picture| format!("this image is empty: {picture}")));
        problems
    }
}

/// Opens a page at one width.
fn look(workspace: &Workspace, browser: &Path, page: &Path, width: u32) -> Result<View> {
    let folder = workspace.local().join("page");
    let wrapper = folder.join(format!("check-{width}.html"));
    let page = page.canonicalize().with_context(|| format!("cannot find {}", page.display()))?;
    storage::write_atomic(&wrapper, wrapper_page(&address(&page), width).as_bytes())?;
    let profile = folder.join(format!("browser-{}-{width}", std::process::id()));
    let mut command = Command::new(browser);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"])
        .args(["--no-first-run", "--disable-extensions", "--allow-file-access-from-files"])
        .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("--window-size={},{}", width.max(800) + 40, HEIGHT + 100))
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(address(&wrapper.canonicalize().with_context(|| format!("cannot find {}", wrapper.display()))?));
    let output = output_in_time(&mut command);
    let _ = fs::remove_dir_all(&profile);
    let output = output.with_context(|| format!("{} did not open the page", browser.display()))?;
    verdict(&output).with_context(|| {
        format!("{} gave no verdict on {}; it printed {} characters", browser.display(), page.display(), output.len())
    })
}

/// The standard output of a command; an error when it takes too long.
fn output_in_time(command: &mut Command) -> Result<String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("it could not be started")?;
    let pipe = child.stdout.take().context("its output is lost")?;
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        let mut pipe = pipe;
        std::io::Read::read_to_end(&mut pipe, &mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let start = Instant::now();
    loop {
        if child.try_wait().context("it was lost")?.is_some() {
            break;
        }
        if start.elapsed() > TIMEOUT {
            let _ = child.kill();
            let _ = child.wait();
            bail!("it took longer than {} seconds", TIMEOUT.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    }
    reader.join().ok().context("its output is lost")?.context("its output cannot be read")
}

/// The verdict in a dumped document.
fn verdict(document: &str) -> Result<View> {
    let (_, rest) = document.split_once(VERDICT).context("no verdict in the document")?;
    let (json, _) = rest.split_once("</pre>").context("no end of the verdict")?;
    serde_json::from_str(json).with_context(|| format!("cannot read the verdict: {json}"))
}

const VERDICT: &str = "<pre id=\"verdict\">";

/// A `file:` address.
fn address(path: &Path) -> String {
    let mut address = "file://".to_owned();
    for byte in path.to_string_lossy().replace('\\', "/").bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~:".contains(&byte) {
            address.push(char::from(byte));
        } else {
            let _ = write!(address, "%{byte:02X}");
        }
    }
    address
}

/// The HTML of the wrapper page.
fn wrapper_page(address: &str, width: u32) -> String {
    format!(
        r#"<!doctype html>
<meta charset="utf-8">
<title>page check</title>
<iframe id="page" src="{address}" style="width:{width}px;height:{HEIGHT}px;border:0"></iframe>
<script>
{SCRIPT}
</script>
"#
    )
}

/// Inspects the page in the frame.
const SCRIPT: &str = include_str!("page.js");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_found_in_the_document() {
        let document = r#"<html><body><pre id="verdict">{"client_width":390,"scroll_width":400,"wide":["table"],
            "scoreboard":0,"experiments":[{"id":"p/e","figures":0}],"fetched":["https://a"],"broken":[]}</pre></body></html>"#;
        let problems = verdict(document).unwrap().problems();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(verdict("<html></html>").is_err());
    }

    #[test]
    fn addresses_are_escaped() {
        assert_eq!(address(Path::new("/a b/ü#.html")), "file:///a%20b/%C3%BC%23.html");
    }

    #[test]
    fn a_good_page_passes_and_the_problems_of_a_bad_one_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace { root: folder.path().to_owned(), cargo: "cargo".into() };
        let root = folder.path().join("results");
        fs::create_dir_all(&root).unwrap();
        let check = |body: &str| {
            fs::write(
                root.join(PAGE),
                format!("<!doctype html><meta name=viewport content='width=device-width'><body>{body}"),
            )
            .unwrap();
            check(&workspace, std::slice::from_ref(&root)).unwrap()
        };
        let good = "<table id=scoreboard><tbody><tr><td>x</table><section data-experiment='p/e'><figure>\
            <svg width=100 height=50 viewBox='0 0 100 50'><rect width=100 height=50></rect></svg></figure></section>";
        match check(good) {
            Outcome::NoBrowser => eprintln!("{NO_BROWSER}"),
            outcome => {
                assert_eq!(outcome, Outcome::Good);
                let bad = "<div style='width:1500px'>wide</div><section data-experiment='p/e'></section>\
                    <details><img alt=lost src='https://example.org/x.png'></details>";
                let Outcome::Bad(problems) = check(bad) else { panic!("a bad page passed") };
                for expected in ["wide in a window", "no scoreboard", "p/e has no figure", "example.org", "lost"] {
                    assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
                }
            }
        }
    }
}
