//! The scoreboard as plain text, for a terminal.

use std::path::Path;

use config::claims::Holds;

use crate::{
    error::Error,
    number::human,
    run::{Run, runs},
};

/// The claims of all runs below a root, or of those whose paper or `paper/experiment` is listed, as text.
///
/// # Errors
/// When a run cannot be read, or none is listed.
pub fn scoreboard(root: &Path, only: &[String]) -> Result<String, Error> {
    let all = runs(root)?;
    let listed = |run: &&Run| only.is_empty() || only.iter().any(|o| *o == run.config.paper || *o == run.name());
    let chosen: Vec<&Run> = all.iter().filter(listed).collect();
    if chosen.is_empty() {
        let asked = if only.is_empty() { String::new() } else { format!(" of {}", only.join(", ")) };
        let what = format!("there is no finished run{asked} below this folder");
        return Err(Error::Run { folder: root.into(), what });
    }
    let mut text = String::new();
    let (mut held, mut decided, mut open, mut rehearsed) = (0, 0, 0, 0);
    let (mut not_asked, mut wrong) = (0, 0);
    for run in chosen {
        let rows = run.verdicts()?;
        let note = if run.is_rehearsal() { "  REHEARSAL: numbers without meaning" } else { "" };
        text.push_str(&format!("\n{} ({}){note}\n", run.name(), run.config.profile));
        if rows.is_empty() {
            text.push_str("  no claims\n");
        }
        for row in rows {
            let (sign, word) = row.verdict();
            let unit = if row.unit.is_empty() { String::new() } else { format!(" {}", row.unit) };
            let measured = row.measured.map_or("–".into(), human);
            let mut line = format!("  {sign} {word:<12} {:<24} {measured}{unit}, threshold {}", row.id, row.threshold);
            if let Some(published) = row.published {
                line.push_str(&format!(", published {}", human(published)));
            }
            if row.n > 1 {
                line.push_str(&format!(", over {} points", row.n));
            }
            text.push_str(&format!("{line}\n      {}\n", row.claim));
            if row.outcome == Holds::Error {
                text.push_str(&format!("      {}\n", row.note));
            }
            match (run.is_rehearsal(), row.outcome) {
                (true, _) => rehearsed += 1,
                (false, Holds::Open) => open += 1,
                (false, Holds::NotAsked) => not_asked += 1,
                (false, Holds::Error) => wrong += 1,
                (false, Holds::Yes | Holds::No) => {
                    decided += 1;
                    held += usize::from(row.outcome == Holds::Yes);
                }
            }
        }
    }
    text.push_str(&format!("\n{held} of {decided} claims hold"));
    if open > 0 {
        text.push_str(&format!(", {open} not measured"));
    }
    if not_asked > 0 {
        text.push_str(&format!(", {not_asked} not asked of this size"));
    }
    if wrong > 0 {
        text.push_str(&format!(", {wrong} with an error"));
    }
    if rehearsed > 0 {
        text.push_str(&format!(", {rehearsed} only rehearsed"));
    }
    text.push('\n');
    Ok(text)
}
