//! `index.html`, one page over all results that needs no other file, and `index.json` with the same for programs.

mod json;

use std::path::Path;

use config::Figure;
use figures::number::{human, signed};
use tables::{Kind, Schema, Table, Value};

use self::json::json;
use crate::{
    error::Error,
    report::{PREVIEW, cell, facts, heading, shown},
    run::{ClaimRow, Run, runs},
};

/// Formats onto the end of a string.
macro_rules! put {
    ($out:expr, $($part:tt)*) => { $out.push_str(&format!($($part)*)) };
}

/// Like `put`, with a line break.
macro_rules! putln {
    ($out:expr, $($part:tt)*) => {{
        put!($out, $($part)*);
        $out.push('\n');
    }};
}

const STYLE: &str = include_str!("page.css");
/// Lets a reader rotate a `scatter_3d`; a page without such a figure does not contain it.
const ROTATE: &str = include_str!("rotate.js");

/// Writes `index.html` and `index.json` over every finished run below the root; returns the number of runs.
///
/// # Errors
/// When a run or a picture cannot be read, or the files cannot be written.
pub fn index(root: &Path) -> Result<usize, Error> {
    let runs = runs(root)?;
    storage::write_atomic(&root.join("index.html"), html(&runs)?.as_bytes())?;
    let mut json = serde_json::to_string_pretty(&json(&runs)?)?;
    json.push('\n');
    storage::write_atomic(&root.join("index.json"), json.as_bytes())?;
    Ok(runs.len())
}

/// Escapes text for elements and quoted attributes.
fn esc(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Like [`esc`], with text between backticks set as code.
fn prose(text: &str) -> String {
    let escaped = esc(text);
    let parts: Vec<&str> = escaped.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return escaped;
    }
    let set = |(i, part): (usize, &&str)| if i % 2 == 1 { format!("<code>{part}</code>") } else { (*part).to_string() };
    parts.iter().enumerate().map(set).collect()
}

/// An id made of characters that every URL allows.
fn anchor(parts: &[&str]) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    parts.join("-").chars().map(plain).collect()
}

fn run_anchor(run: &Run) -> String {
    anchor(&["run", if run.path.is_empty() { "here" } else { &run.path }])
}

/// A link to a file of a run, relative to the page.
fn link(run: &Run, file: &str) -> String {
    let path = if run.path.is_empty() { file.to_string() } else { format!("{}/{file}", run.path) };
    let mut url = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => url.push(byte as char),
            byte => put!(url, "%{byte:02X}"),
        }
    }
    url
}

/// A number with its noun.
fn many(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

fn html(runs: &[Run]) -> Result<String, Error> {
    let mut papers: Vec<(&str, Vec<&Run>)> = Vec::new();
    for run in runs {
        match papers.last_mut() {
            Some((paper, list)) if *paper == run.config.paper => list.push(run),
            _ => papers.push((&run.config.paper, vec![run])),
        }
    }
    let mut out = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    put!(out, "<title>Retrace: results</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<div class=\"page\">\n");
    contents(&mut out, &papers);
    out.push_str("<main>\n");
    header(&mut out, &papers)?;
    scoreboard(&mut out, &papers)?;
    for (paper, list) in &papers {
        putln!(out, "<section id=\"{}\">\n<h2>{}</h2>", anchor(&["paper", paper]), esc(paper));
        for run in list {
            section(&mut out, run)?;
        }
        out.push_str("</section>\n");
    }
    out.push_str("<footer><p>Generated from the tables beside this page. <a href=\"index.json\">index.json</a> holds the same for programs.</p></footer>\n");
    out.push_str("</main>\n</div>\n");
    if out.contains("<metadata>") {
        putln!(out, "<script>\n{ROTATE}</script>");
    }
    out.push_str("</body>\n</html>\n");
    Ok(out)
}

fn contents(out: &mut String, papers: &[(&str, Vec<&Run>)]) {
    out.push_str("<nav aria-label=\"Contents\">\n<ul>\n<li><a href=\"#scoreboard\">Scoreboard</a></li>\n");
    for (paper, list) in papers {
        put!(out, "<li><strong>{}</strong>\n<ul>\n", esc(paper));
        for run in list {
            let profile =
                if run.config.profile == "cpu" { String::new() } else { format!(" ({})", run.config.profile) };
            let label = esc(&format!("{}{profile}", run.config.experiment));
            put!(out, "<li><a href=\"#{}\">{label}</a>", run_anchor(run));
            if !run.config.body.figures.is_empty() {
                out.push_str("<ul class=\"figs\">");
                for figure in &run.config.body.figures {
                    let id = anchor(&[&run_anchor(run), &figure.id]);
                    put!(out, "<li><a href=\"#{id}\">{}</a></li>", esc(&figure.title));
                }
                out.push_str("</ul>");
            }
            out.push_str("</li>\n");
        }
        out.push_str("</ul></li>\n");
    }
    out.push_str("</ul>\n</nav>\n");
}

fn header(out: &mut String, papers: &[(&str, Vec<&Run>)]) -> Result<(), Error> {
    let (mut held, mut decided) = (0, 0);
    let (mut count, mut rehearsals) = (0, 0);
    for run in papers.iter().flat_map(|(_, list)| list) {
        count += 1;
        if run.is_rehearsal() {
            rehearsals += 1;
            continue;
        }
        for holds in run.claim_rows()?.iter().filter_map(|row| row.holds()) {
            decided += 1;
            held += usize::from(holds);
        }
    }
    out.push_str("<header>\n<h1>Retrace: results</h1>\n");
    let line = match count {
        0 => "There are no finished runs yet.".to_string(),
        _ => format!(
            "{} of {}. {held} of {} hold.",
            many(count, "run"),
            many(papers.len(), "paper"),
            many(decided, "claim")
        ),
    };
    putln!(out, "<p class=\"lead\">{line}</p>");
    if rehearsals > 0 {
        putln!(
            out,
            "<p class=\"loud\">REHEARSAL: {} below {} random weights and two training steps. The numbers mean nothing.</p>",
            many(rehearsals, "run"),
            if rehearsals == 1 { "has" } else { "have" }
        );
    }
    out.push_str("</header>\n");
    Ok(())
}

fn scoreboard(out: &mut String, papers: &[(&str, Vec<&Run>)]) -> Result<(), Error> {
    out.push_str("<section id=\"scoreboard\">\n<h2>Scoreboard</h2>\n");
    let mut empty = true;
    for (paper, list) in papers {
        let mut rows = String::new();
        for run in list {
            for row in run.claim_rows()? {
                score(&mut rows, run, &row);
            }
        }
        if rows.is_empty() {
            continue;
        }
        empty = false;
        put!(
            out,
            "<h3>{}</h3>\n<div class=\"scroll\"><table class=\"board\">\n<thead><tr><th>Verdict</th><th>Claim</th>\
             <th class=\"n\">Measured</th><th>Threshold</th><th class=\"n\">Published</th><th class=\"n\">Difference</th>\
             <th>Source</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n",
            esc(paper)
        );
    }
    if empty {
        out.push_str("<p>No claims yet.</p>\n");
    }
    out.push_str("</section>\n");
    Ok(())
}

fn score(out: &mut String, run: &Run, row: &ClaimRow) {
    let (sign, verdict) = row.verdict();
    let class = match row.holds() {
        Some(true) => "yes",
        Some(false) => "no",
        None => "none",
    };
    let (class, verdict) = match run.is_rehearsal() {
        true => ("none", "✱ rehearsal".to_string()),
        false => (class, format!("{sign} {verdict}")),
    };
    let unit = if row.unit.is_empty() { String::new() } else { format!(" {}", row.unit) };
    let number = |v: Option<f64>| v.map(|v| format!("{}{}", human(v), esc(&unit))).unwrap_or_default();
    let gap = row.measured.zip(row.published).map(|(m, p)| signed(m - p)).unwrap_or_default();
    let mut origin = format!("<a href=\"#{}\">{}</a>", run_anchor(run), esc(&run.config.experiment));
    if run.config.profile != "cpu" {
        put!(origin, " ({})", esc(&run.config.profile));
    }
    if !row.artefact.is_empty() {
        put!(origin, " · {}", esc(&row.artefact));
    }
    if row.n > 1 {
        put!(origin, " · over {} points", row.n);
    }
    let measured = match row.measured {
        Some(_) => number(row.measured),
        None => "–".into(),
    };
    put!(
        out,
        "<tr><td class=\"verdict {class}\">{verdict}</td><td class=\"claim\">{}<span class=\"where\">{origin}</span></td>\
         <td class=\"n\" data-label=\"measured\">{measured}</td><td class=\"threshold\" data-label=\"threshold\">{}</td>\
         <td class=\"n\"{}>{}</td><td class=\"n\"{}>{gap}</td><td class=\"source\"{}>{}</td></tr>\n",
        prose(&row.statement),
        esc(&row.threshold.replace(">=", "≥").replace("<=", "≤")),
        label("published", row.published.is_some()),
        number(row.published),
        label("difference", !gap.is_empty()),
        label("source", !row.source.is_empty()),
        esc(&row.source),
    );
}

/// The label of a filled cell on narrow screens, where each cell has its own line.
fn label(text: &str, filled: bool) -> String {
    if filled { format!(" data-label=\"{text}\"") } else { String::new() }
}

fn section(out: &mut String, run: &Run) -> Result<(), Error> {
    let body = &run.config.body;
    putln!(out, "<section id=\"{}\">\n<h3>{}</h3>", run_anchor(run), esc(&body.title));
    putln!(out, "<p class=\"meta\">{}</p>", esc(&facts(run).join(" · ")));
    if run.is_rehearsal() {
        out.push_str(
            "<p class=\"loud\">REHEARSAL: random weights and two training steps. The numbers below mean nothing.</p>\n",
        );
    }
    for part in body.summary.split("\n\n").map(str::trim).filter(|p| !p.is_empty()) {
        putln!(out, "<p>{}</p>", prose(part));
    }
    if !body.artefacts.is_empty() {
        out.push_str("<ul class=\"artefacts\">\n");
        for artefact in &body.artefacts {
            putln!(out, "<li><strong>{}</strong>: {}</li>", esc(&artefact.id), prose(&artefact.title));
        }
        out.push_str("</ul>\n");
    }
    for figure in &body.figures {
        picture(out, run, figure)?;
    }
    if let Some(published) = run.published.as_ref().filter(|t| !t.is_empty()) {
        out.push_str("<h4>Published next to ours</h4>\n");
        beside(out, published)?;
    }
    out.push_str("<h4>Tables</h4>\n");
    let metrics = run.tables.iter().filter(|(s, _)| s.name == "metrics");
    for (schema, rows) in run.own_tables().chain(metrics) {
        preview(out, run, schema, *rows)?;
    }
    if let Some(manifest) = &run.manifest {
        let yaml = config::yaml::to_string(manifest)?;
        putln!(
            out,
            "<details><summary>Manifest of run {}: configuration, code, machine, hashes</summary>\n<pre>{}</pre>\n\
             <p class=\"note\"><a href=\"{}\">run.yaml</a> · <a href=\"{}\">report.md</a></p></details>",
            esc(&manifest.run_id),
            esc(&yaml),
            link(run, config::MANIFEST),
            link(run, "report.md")
        );
    }
    out.push_str("</section>\n");
    Ok(())
}

/// A figure with its caption, the notes of its drawing and links to its files.
fn picture(out: &mut String, run: &Run, figure: &Figure) -> Result<(), Error> {
    let file = run.folder.join(format!("{}.svg", figure.id));
    let id = anchor(&[&run_anchor(run), &figure.id]);
    putln!(out, "<figure id=\"{id}\">");
    let mut notes = String::new();
    if file.exists() {
        let svg = storage::read_text(&file)?;
        let alt = format!("{}. {}", figure.title, figure.caption);
        putln!(out, "<div class=\"plot\">{}</div>", inline(&svg, &alt));
        // the notes are part of the picture, where they are escaped
        if let Some((_, rest)) = svg.split_once("<desc>") {
            notes = rest.split_once("</desc>").map_or("", |(notes, _)| notes).to_string();
        }
    } else {
        putln!(out, "<p class=\"note\">{} is not drawn.</p>", esc(&figure.title));
    }
    let links: Vec<String> =
        figure.files().iter().map(|f| format!("<a href=\"{}\">{}</a>", link(run, f), esc(f))).collect();
    putln!(
        out,
        "<figcaption><strong>{}</strong> {} {notes} <span class=\"files\">{}</span></figcaption>\n</figure>",
        esc(&figure.artefact),
        prose(figure.caption.trim()),
        links.join(" · ")
    );
    Ok(())
}

/// An SVG document as an element of the page: without namespace, with a label for screen readers and limits of width.
fn inline(svg: &str, alt: &str) -> String {
    let width = svg
        .split_once("<svg width=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .and_then(|(width, _)| width.parse::<u32>().ok())
        .unwrap_or(640);
    let open = format!(
        "<svg role=\"img\" aria-label=\"{}\" style=\"--widest:{width}px;--least:{}px\" ",
        esc(alt.trim()),
        width.min(width * 7 / 10).max(width.min(340))
    );
    svg.replacen("<svg ", &open, 1).replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1)
}

fn beside(out: &mut String, published: &Table) -> Result<(), Error> {
    let keep = ["artefact", "statement", "ours", "published", "difference", "unit", "source", "provenance"];
    let titles = ["Rests on", "Statement", "Ours", "Published", "Difference", "Unit", "Source", "Provenance"];
    let numeric = |name: &str| matches!(name, "ours" | "published" | "difference");
    out.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
    for (name, title) in keep.iter().zip(titles) {
        put!(out, "<th{}>{title}</th>", if numeric(name) { " class=\"n\"" } else { "" });
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let columns = keep.iter().map(|c| published.values(c)).collect::<Result<Vec<_>, _>>()?;
    for row in 0..published.len() {
        out.push_str("<tr>");
        for (name, column) in keep.iter().zip(&columns) {
            let text = match (&column[row], *name) {
                (Value::Float(v), "difference") => signed(*v),
                (Value::Missing, name) if numeric(name) => "–".into(),
                (value, _) => cell(value),
            };
            put!(out, "<td{}>{}</td>", if numeric(name) { " class=\"n\"" } else { "" }, esc(&text));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
    Ok(())
}

fn preview(out: &mut String, run: &Run, schema: &Schema, rows: usize) -> Result<(), Error> {
    let file = tables::files(&schema.name, rows).swap_remove(0);
    let table = Table::read(&run.folder, &schema.name)?;
    let some = shown(table.len());
    let first = if some < table.len() { format!(", the first {PREVIEW} of them here") } else { String::new() };
    putln!(
        out,
        "<h5>{}</h5>\n<p class=\"about\">{}{}{first}: <a href=\"{}\">{}</a></p>",
        esc(&schema.name.replace('_', " ")),
        if schema.about.is_empty() { String::new() } else { format!("Each row: {}. ", esc(&schema.about)) },
        many(rows, "row"),
        link(run, &file),
        esc(&file)
    );
    out.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
    for column in &schema.columns {
        let class = if column.kind == Kind::Text { "" } else { " class=\"n\"" };
        let title = if column.about.is_empty() { String::new() } else { format!(" title=\"{}\"", esc(&column.about)) };
        put!(out, "<th{class}{title}>{}</th>", esc(&heading(&column.name, &column.unit)));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let columns = schema.columns.iter().map(|c| table.values(&c.name)).collect::<Result<Vec<_>, _>>()?;
    for row in 0..some {
        out.push_str("<tr>");
        for (column, values) in schema.columns.iter().zip(&columns) {
            let class = if column.kind == Kind::Text { "" } else { " class=\"n\"" };
            put!(out, "<td{class}>{}</td>", esc(&cell(&values[row])));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
    Ok(())
}
