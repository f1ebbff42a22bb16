//! The scoreboard as plain text, for a terminal.

use std::path::Path;

use config::claims::Holds;
use figures::number::human;

use crate::{
    error::Error,
    run::{ClaimRow, Run, runs},
};

/// The claims of the runs below a root as text: of all runs, or of those whose paper or `paper/experiment` is listed.
///
/// # Errors
/// When a run cannot be read, or no finished run is listed.
pub fn scoreboard(root: &Path, only: &[String]) -> Result<String, Error> {
    let all = runs(root)?;
    let listed = |run: &&Run| only.is_empty() || only.iter().any(|o| *o == run.config.paper || *o == run.name());
    let chosen: Vec<&Run> = all.iter().filter(listed).collect();
    if chosen.is_empty() {
        let of = if only.is_empty() { String::new() } else { format!(" of {}", only.join(", ")) };
        let problem = format!("there is no finished run{of} below this folder");
        return Err(Error::Run { folder: root.into(), problem });
    }
    let mut text = String::new();
    let mut totals = Totals::default();
    for run in chosen {
        let rows = run.claim_rows()?;
        let note = if run.is_rehearsal() { "  REHEARSAL: the numbers mean nothing" } else { "" };
        text.push_str(&format!("\n{} ({}){note}\n", run.name(), run.config.profile));
        if rows.is_empty() {
            text.push_str("  no claims\n");
        }
        for row in rows {
            text.push_str(&lines(&row));
            totals.add(run, &row);
        }
    }
    text.push_str(&totals.in_words());
    Ok(text)
}

/// Verdict and numbers of a claim, and its statement on the next line.
fn lines(row: &ClaimRow) -> String {
    let (sign, verdict) = row.verdict();
    let unit = if row.unit.is_empty() { String::new() } else { format!(" {}", row.unit) };
    let measured = row.measured.map_or("–".into(), human);
    let mut line = format!("  {sign} {verdict:<12} {:<24} {measured}{unit}, threshold {}", row.id, row.threshold);
    if let Some(published) = row.published {
        line.push_str(&format!(", published {}", human(published)));
    }
    if row.n > 1 {
        line.push_str(&format!(", over {} points", row.n));
    }
    line.push_str(&format!("\n      {}\n", row.statement));
    if row.outcome == Holds::Error {
        line.push_str(&format!("      {}\n", row.note));
    }
    line
}

/// Numbers of claims, by outcome.
#[derive(Default)]
struct Totals {
    held: usize,
    decided: usize,
    open: usize,
    not_asked: usize,
    wrong: usize,
    rehearsed: usize,
}

impl Totals {
    fn add(&mut self, run: &Run, row: &ClaimRow) {
        match (run.is_rehearsal(), row.outcome) {
            (true, _) => self.rehearsed += 1,
            (false, Holds::Open) => self.open += 1,
            (false, Holds::NotAsked) => self.not_asked += 1,
            (false, Holds::Error) => self.wrong += 1,
            (false, Holds::Yes | Holds::No) => {
                self.decided += 1;
                self.held += usize::from(row.outcome == Holds::Yes);
            }
        }
    }

    fn in_words(&self) -> String {
        let mut text = format!("\n{} of {} claims hold", self.held, self.decided);
        let counts = [
            (self.open, "not measured"),
            (self.not_asked, "not asked of this size"),
            (self.wrong, "with an error in the configuration"),
            (self.rehearsed, "only rehearsed"),
        ];
        for (count, words) in counts.into_iter().filter(|(count, _)| *count > 0) {
            text.push_str(&format!(", {count} {words}"));
        }
        text.push('\n');
        text
    }
}
