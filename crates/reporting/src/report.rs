//! `report.md`: one run in Markdown, beside its pictures.

use config::Figure;
use figures::number::{duration, human, signed};
use tables::{Kind, Schema, Table, Value};

use crate::{
    error::Error,
    run::{ClaimRow, Run},
};

/// Rows of a table shown where it is too long to show whole.
pub(crate) const PREVIEW: usize = 8;
/// Tables up to this many rows are shown whole.
pub(crate) const SMALL: usize = 24;

/// The text of a cell, with four significant digits and true minus signs.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Float(v) => human(*v),
        Value::Int(v) => v.to_string().replace('-', "−"),
        Value::Text(text) => text.clone(),
        Value::Missing => String::new(),
    }
}

/// The heading of a column, with its unit.
pub(crate) fn heading(name: &str, unit: &str) -> String {
    let name = name.replace('_', " ");
    if unit.is_empty() { name } else { format!("{name} ({unit})") }
}

/// How many rows of a table are shown.
pub(crate) fn shown(rows: usize) -> usize {
    if rows <= SMALL { rows } else { PREVIEW }
}

/// The experiment, its profile, seed, machine and run time, as short phrases.
pub(crate) fn facts(run: &Run) -> Vec<String> {
    let mut facts = vec![run.name(), format!("profile {}", run.config.profile)];
    if let Some(m) = &run.manifest {
        if m.points.is_empty() {
            facts.push(format!("seed {}", run.config.body.seed));
        } else {
            facts.push(format!("sweep of {} points", m.points.len()));
        }
        facts.push(format!("run {}", m.run_id));
        facts.push(format!("{} on {}, {} threads", duration(m.wall_seconds), m.machine.device, m.machine.threads));
    } else {
        facts.push("still running".into());
    }
    facts
}

/// Text on one line, escaped for Markdown.
fn md(text: &str) -> String {
    let mut out = String::new();
    for c in text.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

fn table(head: &[(String, bool)], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head.iter().map(|(h, _)| md(h)).collect());
    text.push_str(&line(head.iter().map(|(_, right)| if *right { "---:" } else { "---" }.into()).collect()));
    for row in rows {
        text.push_str(&line(row.iter().map(|c| md(c)).collect()));
    }
    text.push('\n');
    text
}

fn preview(schema: &Schema, table_: &Table) -> Result<String, Error> {
    let head: Vec<_> = schema.columns.iter().map(|c| (heading(&c.name, &c.unit), c.kind != Kind::Text)).collect();
    let columns = schema.columns.iter().map(|c| table_.values(&c.name)).collect::<Result<Vec<_>, _>>()?;
    let rows = (0..shown(table_.len())).map(|r| columns.iter().map(|c| cell(&c[r])).collect());
    Ok(table(&head, rows))
}

/// The text of the report; `drawn` holds each drawn figure with its notes.
pub(crate) fn report(run: &Run, drawn: &[(Figure, Vec<String>)]) -> Result<String, Error> {
    let mut text = head(run);
    text.push_str(&claims(&run.claim_rows()?));
    text.push_str(&pictures(drawn));
    if let Some(published) = run.published.as_ref().filter(|t| !t.is_empty()) {
        text.push_str("## Published next to ours\n\n");
        text.push_str(&preview_all(published)?);
    }
    text.push_str(&tables(run)?);
    if let Some(manifest) = &run.manifest {
        let yaml = config::yaml::to_string(manifest)?;
        // a fence longer than any in the text
        let fence = "`".repeat(yaml.split(|c| c != '`').map(str::len).max().unwrap_or(0).max(2) + 1);
        text.push_str(&format!(
            "## Manifest\n\n<details>\n<summary>run.yaml</summary>\n\n{fence}yaml\n{yaml}{fence}\n\n</details>\n"
        ));
    }
    Ok(text)
}

/// Title, warnings, facts, summary and artefacts.
fn head(run: &Run) -> String {
    let body = &run.config.body;
    let mut text = format!("# {}\n\n", md(&body.title));
    if run.is_rehearsal() {
        text.push_str("> **REHEARSAL: random weights and two training steps. The numbers below mean nothing.**\n\n");
    }
    if run.manifest.is_none() {
        text.push_str("> **Still running: tables and figures show what there is so far.**\n\n");
    }
    text.push_str(&format!("{}\n\n", facts(run).iter().map(|f| md(f)).collect::<Vec<_>>().join(" · ")));
    if !body.summary.trim().is_empty() {
        text.push_str(&format!("{}\n\n", body.summary.trim()));
    }
    for artefact in &body.artefacts {
        text.push_str(&format!("- **{}**: {}\n", md(&artefact.id), md(&artefact.title)));
    }
    if !body.artefacts.is_empty() {
        text.push('\n');
    }
    text
}

fn claims(rows: &[ClaimRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head = [
        ("", false),
        ("claim", false),
        ("measured", true),
        ("threshold", false),
        ("published", true),
        ("difference", true),
        ("unit", false),
        ("rests on", false),
        ("source", false),
    ]
    .map(|(h, right)| (h.to_string(), right));
    let lines = rows.iter().map(|row| {
        let (sign, verdict) = row.verdict();
        let gap = row.measured.zip(row.published).map(|(m, p)| m - p);
        vec![
            format!("{sign} {verdict}"),
            row.statement.clone(),
            row.measured.map_or("–".into(), human),
            row.threshold.replace(">=", "≥").replace("<=", "≤"),
            row.published.map_or("–".into(), human),
            gap.map_or("–".into(), signed),
            row.unit.clone(),
            row.artefact.clone(),
            row.source.clone(),
        ]
    });
    format!("## Scoreboard\n\n{}", table(&head, lines))
}

fn pictures(drawn: &[(Figure, Vec<String>)]) -> String {
    let mut text = if drawn.is_empty() { String::new() } else { "## Figures\n\n".to_string() };
    for (figure, notes) in drawn {
        text.push_str(&format!("### {}: {}\n\n", md(&figure.artefact), md(&figure.title)));
        text.push_str(&format!("![{}]({}.svg)\n\n", md(&figure.title), figure.id));
        for line in std::iter::once(figure.caption.trim()).chain(notes.iter().map(String::as_str)) {
            if !line.is_empty() {
                text.push_str(&format!("{}\n", md(line)));
            }
        }
        let links: Vec<String> = figure.files().iter().map(|file| format!("[{file}]({file})")).collect();
        text.push_str(&format!("{}\n\n", links.join(" · ")));
    }
    text
}

/// The first rows of every table of the experiment, and of its metrics.
fn tables(run: &Run) -> Result<String, Error> {
    let mut text = String::from("## Tables\n\n");
    for (schema, rows) in run.own_tables() {
        let file = &schema.name;
        text.push_str(&format!("### {}\n\n", md(file)));
        let about =
            if schema.about.is_empty() { String::new() } else { format!("Each row is {}.\n", md(&schema.about)) };
        let first =
            if shown(*rows) < *rows { format!(", of which these are the first {PREVIEW}") } else { String::new() };
        text.push_str(&format!("{about}{rows} rows{first}: {}.\n\n", links(file, *rows)));
        text.push_str(&preview(schema, &Table::read(&run.folder, file)?)?);
    }
    for (schema, rows) in run.tables.iter().filter(|(s, _)| s.name == "metrics") {
        text.push_str(&format!("### metrics\n\n{rows} rows: [metrics.csv](metrics.csv).\n\n"));
        text.push_str(&preview(schema, &Table::read(&run.folder, "metrics")?)?);
    }
    Ok(text)
}

/// Links to the files of a table.
fn links(table: &str, rows: usize) -> String {
    tables::files(table, rows).iter().map(|file| format!("[{file}]({file})")).collect::<Vec<_>>().join(" · ")
}

/// All published numbers beside ours.
fn preview_all(published: &Table) -> Result<String, Error> {
    let schema = published.schema();
    let keep = ["artefact", "statement", "ours", "published", "difference", "unit", "source", "provenance"];
    let head: Vec<_> =
        keep.iter().map(|c| (c.to_string(), schema.get(c).is_ok_and(|c| c.kind != Kind::Text))).collect();
    let columns = keep.iter().map(|c| published.values(c)).collect::<Result<Vec<_>, _>>()?;
    let rows = (0..published.len()).map(|r| {
        let texts = keep.iter().zip(&columns).map(|(name, c)| match (&c[r], *name) {
            (Value::Float(v), "difference") => signed(*v),
            (Value::Missing, "ours" | "published" | "difference") => "–".into(),
            (value, _) => cell(value),
        });
        texts.collect()
    });
    Ok(table(&head, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_takes_text_literally() {
        assert_eq!(md("a|b <i> *c*\nd_e"), "a\\|b &lt;i&gt; \\*c\\* d\\_e");
    }
}
