//! `cargo xtask status`: shows which results are up to date, and checks the metrics that claims name. It builds and runs
//! nothing.

use std::collections::BTreeMap;

use anyhow::Result;
use config::{Catalogue, ExperimentId, Profile};

use crate::code::{self, CodeHash};
use crate::metrics::{self, Check};
use crate::output::print_line;
use crate::places::Workspace;
use crate::plan::{Kind, Plan, Request, Task};
use crate::state::{self, Expected, Found, Reason, Records};

const EXAMPLES: &str = "Examples:
  cargo xtask status                       all papers
  cargo xtask status icot-mult             one paper
  cargo xtask status --profile overnight   one profile";

/// Show which results are up to date, and why the others are not
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Papers or experiments; all when none is named
    #[arg(value_name = "PAPER[/EXPERIMENT]")]
    words: Vec<String>,
    /// Only this profile
    #[arg(long)]
    profile: Option<Profile>,
}

/// Runs the command.
///
/// # Errors
/// When a name is unknown or the sources cannot be read; mistakes in a configuration are shown in its line.
pub fn status(workspace: &Workspace, args: &Args) -> Result<u8> {
    let catalogue = Catalogue::scan(&workspace.root)?;
    let ids = catalogue.select(&args.words)?;
    let width = ids.iter().map(|id| id.to_string().len()).max().unwrap_or(0);
    let mut codes = BTreeMap::new();
    let (mut mistakes, mut unknown, mut not_checked) = (Vec::new(), Vec::new(), Vec::new());
    print_line(format_args!("{:width$}  {:9}  state", "experiment", "profile"))?;
    for id in &ids {
        for profile in catalogue.profiles(id) {
            if args.profile.is_some_and(|only| only != profile) {
                continue;
            }
            let line = match lines(workspace, &catalogue, id, profile, &mut codes) {
                Ok(line) => line,
                Err(error) => {
                    let text = format!("{error:#}");
                    let first = text.lines().next().unwrap_or_default().to_owned();
                    mistakes.push(text);
                    format!("cannot run: {first}")
                }
            };
            let (name, profile_name) = (id.to_string(), profile.to_string());
            print_line(format_args!("{name:width$}  {profile_name:9}  {line}"))?;
            // a configuration that cannot be loaded has been reported above
            let Ok(envelope) = catalogue.load(id, profile, &[]) else { continue };
            match metrics::check(workspace, id, profile, &envelope)? {
                Check::NotChecked => not_checked.push(format!("{id} ({profile})")),
                Check::Checked(problems) => unknown.extend(problems),
            }
        }
    }
    if !unknown.is_empty() {
        print_line(format_args!("\nmetrics that no finished run reports:\n  {}", unknown.join("\n  ")))?;
    }
    if !not_checked.is_empty() {
        print_line(format_args!("\nmetrics not checked, because no run has finished: {}", not_checked.join(", ")))?;
    }
    if mistakes.is_empty() {
        return Ok(0);
    }
    eprintln!("\n{}", mistakes.join("\n\n"));
    Ok(1)
}

/// The state of one experiment in one profile.
fn lines(
    workspace: &Workspace,
    catalogue: &Catalogue,
    id: &ExperimentId,
    profile: Profile,
    codes: &mut BTreeMap<String, CodeHash>,
) -> Result<String> {
    let request = Request { words: vec![id.to_string()], profile, rehearse: false, set: Vec::new(), sweep: None };
    let plan = Plan::make(workspace, catalogue, &request)?;
    for paper in plan.papers() {
        if !codes.contains_key(&paper) {
            codes.insert(paper.clone(), code::hash(workspace, &paper)?);
        }
    }
    let mut found: Vec<Found> = Vec::new();
    for task in &plan.tasks {
        let next = examine(workspace, task, &codes[&task.id.paper], &found);
        found.push(next);
    }
    let (Some(task), Some(last)) = (plan.tasks.last(), found.last()) else { return Ok("nothing to run".to_owned()) };
    let mut line = describe(last);
    if let Kind::Join(points) = &task.kind {
        let done = points.iter().filter(|(_, point)| found[*point].fresh()).count();
        let running = points.iter().any(|(_, point)| matches!(found[*point].reasons[..], [Reason::Running(_)]));
        line = format!("{line}; {done} of {} points done{}", points.len(), if running { ", one running" } else { "" });
    }
    Ok(line)
}

fn describe(found: &Found) -> String {
    match found.reasons.as_slice() {
        [] => "fresh".to_owned(),
        [Reason::NeverRun] => "never run".to_owned(),
        [reason @ (Reason::Interrupted | Reason::Running(_) | Reason::Points(..))] => reason.to_string(),
        _ => format!("stale: {}", found.why()),
    }
}

fn examine(workspace: &Workspace, task: &Task, code: &CodeHash, before: &[Found]) -> Found {
    let run_id = |index: usize| {
        before[index].manifest.as_ref().filter(|_| before[index].fresh()).map(|manifest| manifest.run_id.clone())
    };
    let fresh = |index: &usize| before[*index].fresh();
    let needs = task.needs.iter().filter(|(_, need)| fresh(need));
    let needs = needs.map(|(name, need)| (name.clone(), run_id(*need))).collect();
    let points = match &task.kind {
        Kind::Run => Vec::new(),
        Kind::Join(points) => points.iter().map(|(id, point)| (id.clone(), run_id(*point))).collect(),
    };
    let expected = Expected { root: &workspace.root, task, code, needs, points, device: None };
    let mut found = state::examine(&expected, &Records::of(workspace, &task.stem));
    let stale = task.needs.iter().filter(|(_, need)| !fresh(need));
    found.reasons.extend(stale.map(|(name, _)| Reason::NeedStale(name.clone())));
    found
}
