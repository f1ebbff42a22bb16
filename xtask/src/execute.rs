//! The queue: skips tasks that are up to date and runs the rest in order. A run succeeds if its exit code is 0 and its
//! manifest matches the request.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use config::Profile;

use crate::binaries::{self, Frozen, REPORTING, Wanted};
use crate::code::{self, CodeHash, Git};
use crate::draw::{PAGE, Render, freeze_config, point_folders};
use crate::follow::Follow;
use crate::output::print_line;
use crate::places::Workspace;
use crate::plan::{Kind, Plan, Task};
use crate::runner::{self, CONTINUES, Exit, INTERRUPTED, Messages};
use crate::state::{self, Attempt, Done, Expected, Found, Outcome, Reason, Records};

/// The command that makes a task's results.
struct Start {
    command: Command,
    /// Why the results are not up to date.
    why: String,
    /// Draws the preview tables of the run.
    follow: Option<Follow>,
}

/// Where tensors live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU; results from any device count as up to date.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => name
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "expected auto, cpu or cuda:N, such as cuda:0".to_owned()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Options for carrying out a plan.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Options {
    /// Device of the runs.
    pub device: Device,
    /// Threads of each child.
    pub threads: Option<usize>,
    /// Number of children in parallel.
    pub jobs: usize,
    /// Run the selected tasks even if they are up to date.
    pub force: bool,
    /// Accept committed results as up to date.
    pub reuse: bool,
    /// Treat code changes as cosmetic.
    pub accept: bool,
    /// Start nothing new after a failure.
    pub fail_fast: bool,
    /// Only print what would run.
    pub dry_run: bool,
    /// Also run needs that were not selected; otherwise they must be up to date.
    pub run_needs: bool,
}

/// Runs a plan, draws the results, and prints the scoreboard and the path of the page. Returns the exit code.
///
/// # Errors
/// When nothing could be started, such as after a failed build; a failed experiment is reported by the exit code.
pub fn execute(workspace: &Workspace, plan: &Plan, options: &Options) -> Result<u8> {
    runner::catch_signals()?;
    note_gpu(plan, options);
    let mut queue = Queue::new(workspace, plan, options)?;
    let survey = queue.survey()?;
    if options.dry_run {
        queue.describe(&survey)?;
        return Ok(0);
    }
    if !options.run_needs {
        queue.require_needs(&survey)?;
    }
    let render = queue.prepare(&survey)?;
    let ended = queue.run_all(&survey, &render)?;
    if ended.interrupted {
        eprintln!("{CONTINUES}");
        return Ok(INTERRUPTED);
    }
    queue.draw(&render, ended)
}

/// Prints a note when a paper profile would not use the GPU of this machine.
fn note_gpu(plan: &Plan, options: &Options) {
    let paper = plan.tasks.iter().any(|task| task.variant.profile == Profile::Paper && !task.variant.rehearse);
    if paper && options.device == Device::Auto && Path::new("/dev/nvidia0").exists() {
        eprintln!("note: this runs on the CPU; `--device cuda:0` builds for the GPU of this machine and uses it");
    }
}

struct Queue<'a> {
    workspace: &'a Workspace,
    plan: &'a Plan,
    options: &'a Options,
    /// Code hash of each paper.
    codes: BTreeMap<String, CodeHash>,
    git: Git,
    /// Frozen binaries of the papers that run.
    binaries: BTreeMap<String, Frozen>,
    /// Run id of each task whose results are up to date.
    run_ids: Vec<Option<String>>,
}

/// How the queue ended.
struct Ended {
    interrupted: bool,
    status: Vec<Status>,
}

#[derive(Clone, Debug, PartialEq)]
enum Status {
    Waiting,
    Running,
    Done,
    Failed(String),
    Skipped(String),
}

impl<'a> Queue<'a> {
    fn new(workspace: &'a Workspace, plan: &'a Plan, options: &'a Options) -> Result<Self> {
        let codes = plan
            .papers()
            .into_iter()
            .map(|paper| code::hash(workspace, &paper).map(|code| (paper, code)))
            .collect::<Result<_>>()?;
        Ok(Self {
            workspace,
            plan,
            options,
            codes,
            git: Git::default(),
            binaries: BTreeMap::new(),
            run_ids: vec![None; plan.tasks.len()],
        })
    }

    fn records(&self, task: &Task) -> Records {
        Records::of(self.workspace, &task.stem)
    }

    /// Checks whether one task is up to date, given the run ids of earlier tasks.
    fn examine(&self, task: &Task, stale: &[bool]) -> Found {
        let is_stale = |index: usize| stale.get(index).copied().unwrap_or(false);
        let needs = task
            .needs
            .iter()
            .filter(|(_, need)| !is_stale(*need))
            .map(|(name, need)| (name.clone(), self.run_ids[*need].clone()))
            .collect();
        let points = match &task.kind {
            Kind::Run => Vec::new(),
            Kind::Join(points) => points.iter().map(|(id, point)| (id.clone(), self.run_ids[*point].clone())).collect(),
        };
        let device = (task.selected && self.options.device != Device::Auto).then(|| self.options.device.to_string());
        let expected =
            Expected { root: &self.workspace.root, task, code: &self.codes[&task.id.paper], needs, points, device };
        let mut found = state::examine(&expected, &self.records(task));
        for (name, need) in &task.needs {
            if is_stale(*need) {
                found.reasons.push(Reason::NeedStale(name.clone()));
            }
        }
        found
    }

    /// Checks all tasks, and applies `--accept`, `--reuse` and `--force`.
    fn survey(&mut self) -> Result<Vec<Found>> {
        let mut survey: Vec<Found> = Vec::with_capacity(self.plan.tasks.len());
        let mut stale = Vec::with_capacity(self.plan.tasks.len());
        for (index, task) in self.plan.tasks.iter().enumerate() {
            let mut found = self.examine(task, &stale);
            self.apply_accept_and_reuse(task, &mut found)?;
            if found.fresh() {
                self.run_ids[index] = found.manifest.as_ref().map(|manifest| manifest.run_id.clone());
            }
            if self.options.force && task.selected {
                found.reasons.insert(0, Reason::Forced);
            }
            stale.push(!found.fresh());
            survey.push(found);
        }
        Ok(survey)
    }

    /// Applies `--accept` and `--reuse` to what was found.
    fn apply_accept_and_reuse(&self, task: &Task, found: &mut Found) -> Result<()> {
        let code = &self.codes[&task.id.paper];
        let records = self.records(task);
        let accepted = found.reasons.iter().all(|reason| match reason {
            Reason::NotMadeHere => self.options.reuse,
            Reason::Code(_) => self.options.accept,
            _ => false,
        });
        if let (Some(manifest), true, false) = (&found.manifest, accepted, found.fresh()) {
            let mut done = records.done().filter(|done| done.run_id == manifest.run_id).unwrap_or_else(|| Done {
                run_id: manifest.run_id.clone(),
                code: CodeHash { hash: manifest.code.hash.clone(), parts: BTreeMap::new() },
                accepted: Vec::new(),
            });
            if done.code.hash == code.hash {
                done.code = code.clone();
            } else {
                done.accepted.push(code.hash.clone());
            }
            if !self.options.dry_run {
                records.set_done(&done)?;
                eprintln!("{}: accepted as up to date ({})", task.label(), found.why());
            }
            found.reasons.clear();
        } else if let (true, Some(mut attempt)) = (self.options.accept && !self.options.dry_run, records.attempt())
            && attempt.code != code.hash
            && !attempt.accepted.contains(&code.hash)
        {
            attempt.accepted.push(code.hash.clone());
            records.set_attempt(&attempt)?;
        }
        Ok(())
    }

    /// Prints which tasks are fresh and which would run.
    fn describe(&self, survey: &[Found]) -> Result<()> {
        for (task, found) in self.plan.tasks.iter().zip(survey) {
            let took = found.manifest.as_ref().map(|manifest| Duration::from_secs_f64(manifest.wall_seconds.max(0.0)));
            let took = took.map(|took| format!(" (took {})", show(took))).unwrap_or_default();
            if found.fresh() {
                print_line(format_args!("fresh  {}", task.label()))?;
            } else {
                print_line(format_args!("stale  {}{took}: {}", task.label(), found.why()))?;
            }
        }
        let stale = survey.iter().filter(|found| !found.fresh()).count();
        print_line(format_args!("{stale} of {} would run", survey.len()))
    }

    /// Fails when a need that was not selected is not up to date.
    fn require_needs(&self, survey: &[Found]) -> Result<()> {
        let missing: Vec<String> = self
            .plan
            .tasks
            .iter()
            .zip(survey)
            .filter(|(task, found)| !task.selected && task.is_drawn() && !found.fresh())
            .map(|(task, found)| format!("  {}: {}", task.label(), found.why()))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let profile = self.plan.tasks.first().map_or(Profile::Cpu, |task| task.variant.profile);
        bail!(
            "these needs are not up to date:\n{}\n\
             run `cargo xtask reproduce --profile {profile}` with the same name to run them too",
            missing.join("\n")
        )
    }

    /// Freezes the configurations and binaries of all tasks that will run.
    fn prepare(&mut self, survey: &[Found]) -> Result<Render<'a>> {
        let mut wanted =
            Wanted { packages: vec![REPORTING.to_owned()], cuda: matches!(self.options.device, Device::Cuda(_)) };
        let mut stale: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (task, _) in self.plan.tasks.iter().zip(survey).filter(|(_, found)| !found.fresh()) {
            freeze_config(self.workspace, &task.envelope)?;
            if task.kind == Kind::Run {
                stale.entry(&task.id.paper).or_default().push(&task.id.name);
            }
        }
        wanted.packages.extend(stale.keys().map(|paper| (*paper).to_owned()));
        self.binaries = binaries::ensure(self.workspace, &wanted)?;
        let render = self.binaries.remove(REPORTING).context("`render` was not built")?;
        for (paper, names) in stale {
            let frozen = &self.binaries[paper];
            self.codes.insert(paper.to_owned(), frozen.code.clone());
            let known = runner::ask(Command::new(&frozen.path).arg("list"))?;
            if let Some(name) = names.iter().find(|name| !known.lines().any(|line| line.trim() == **name)) {
                let nearest = config::nearest(name, known.lines())
                    .map(|nearest| format!(", did you mean `{nearest}`?"))
                    .unwrap_or_default();
                bail!(
                    "configs/{paper}/{name}.yaml configures an experiment that experiments/{paper} does not have{nearest} \
                     (there are: {})",
                    known.lines().collect::<Vec<_>>().join(", ")
                );
            }
        }
        if !self.binaries.is_empty() {
            self.git = code::git(self.workspace);
        }
        Ok(Render::with(self.workspace, render))
    }

    /// Runs everything that is not up to date, up to `--jobs` at once.
    fn run_all(&mut self, survey: &[Found], render: &Render<'_>) -> Result<Ended> {
        let count = self.plan.tasks.len();
        let expected = survey.iter().filter(|found| !found.fresh()).count();
        let several = self.options.jobs > 1 && expected > 1;
        let mut ended = Ended { interrupted: false, status: vec![Status::Waiting; count] };
        let mut started = vec![None; count];
        let mut position = 0;
        let mut stop = false;
        thread::scope(|scope| -> Result<()> {
            let (send, receive) = mpsc::channel();
            let mut running = 0_usize;
            loop {
                stop |= runner::interrupted();
                let ready = if stop || running >= self.options.jobs { None } else { self.next(&mut ended.status) };
                if let Some(index) = ready {
                    let task = &self.plan.tasks[index];
                    match self.start(task, render, several) {
                        Ok(None) => ended.status[index] = Status::Done,
                        Ok(Some(Start { mut command, why, follow })) => {
                            position += 1;
                            eprintln!("[{position}/{}] {}: {why}", expected.max(position), task.label());
                            ended.status[index] = Status::Running;
                            started[index] = Some(Instant::now());
                            running += 1;
                            let send = send.clone();
                            let messages = if several { Messages::Prefixed(prefix(task)) } else { Messages::Direct };
                            scope.spawn(move || {
                                let over = AtomicBool::new(false);
                                let exit = thread::scope(|inner| {
                                    inner.spawn(|| follow.map(|follow| follow.until(&over)));
                                    let exit = runner::run(&mut command, &messages);
                                    over.store(true, Ordering::Relaxed);
                                    exit
                                });
                                // the receiver lives as long as anything runs
                                let _ = send.send((index, exit));
                            });
                        }
                        Err(error) => {
                            ended.status[index] = Status::Failed(format!("{error:#}"));
                            stop |= self.options.fail_fast;
                        }
                    }
                    if ended.status[index] == Status::Done {
                        self.run_ids[index] = state::manifest(&task.folder)?.map(|manifest| manifest.run_id);
                    }
                    continue;
                }
                if running == 0 {
                    break;
                }
                let (index, exit) =
                    receive.recv().context("a thread that waits for a run has ended without a result")?;
                running -= 1;
                let took = started[index].map(|start: Instant| start.elapsed()).unwrap_or_default();
                let status = self.finish(index, exit, took);
                match &status {
                    Ok(Some(Status::Done)) => {}
                    Ok(None) => ended.interrupted = true,
                    _ => stop |= self.options.fail_fast,
                }
                ended.status[index] = match status {
                    Ok(Some(status)) => status,
                    Ok(None) => Status::Skipped("interrupted".to_owned()),
                    Err(error) => Status::Failed(format!("{error:#}")),
                };
                if let Status::Failed(why) = &ended.status[index] {
                    eprintln!("failed: {}: {}", self.plan.tasks[index].label(), why.lines().next().unwrap_or_default());
                }
            }
            Ok(())
        })?;
        ended.interrupted |= runner::interrupted();
        Ok(ended)
    }

    /// The next task whose predecessors are done. Marks tasks that can no longer run as skipped.
    fn next(&self, status: &mut [Status]) -> Option<usize> {
        for index in 0..status.len() {
            if status[index] != Status::Waiting {
                continue;
            }
            let after = self.plan.tasks[index].after();
            let lost = after.iter().find(|before| matches!(status[**before], Status::Failed(_) | Status::Skipped(_)));
            if let Some(lost) = lost {
                status[index] = Status::Skipped(format!("it needs {}", self.plan.tasks[*lost].label()));
            } else if after.iter().all(|before| status[*before] == Status::Done) {
                return Some(index);
            }
        }
        None
    }

    /// The command that makes a task's results; `None` when they are up to date.
    fn start(&self, task: &Task, render: &Render<'_>, several: bool) -> Result<Option<Start>> {
        let mut found = self.examine(task, &[]);
        let records = self.records(task);
        let attempt = records.attempt();
        if self.options.force && task.selected {
            found.reasons.insert(0, Reason::Forced);
        }
        if found.fresh() {
            return Ok(None);
        }
        let code = self.codes[&task.id.paper].hash.clone();
        let identity = storage::hash_bytes(task.envelope.identity().as_bytes());
        // only the code that wrote a checkpoint, or code accepted as equivalent, may resume from it
        let resumes = attempt.as_ref().is_some_and(|attempt| {
            attempt.identity == identity && (attempt.code == code || attempt.accepted.contains(&code))
        });
        let (origin, accepted) = match &attempt {
            Some(attempt) if resumes => (attempt.code.clone(), attempt.accepted.clone()),
            _ => (code.clone(), Vec::new()),
        };
        let config = freeze_config(self.workspace, &task.envelope)?;
        let (command, follow) = match &task.kind {
            Kind::Join(points) => (render.join_command(task, &point_folders(self.plan, points), &config, &code), None),
            Kind::Run => {
                let work = self.work(task, &identity, &origin);
                let folder = work.join(config::PREVIEW);
                let draw = render.preview_command(&folder, &config, &task.id.paper);
                let follow = Follow { shown: self.workspace.show(&folder), folder, command: draw };
                let mut command = self.run_command(task, &config, &work, &code, several)?;
                // a run interrupted under --force resumes; a finished run starts again
                if self.options.force && task.selected && !resumes {
                    command.arg("--fresh");
                }
                (command, Some(follow))
            }
        };
        let running = Outcome::Running(std::process::id());
        records.set_attempt(&Attempt { outcome: running, identity, code: origin, accepted })?;
        Ok(Some(Start { command, why: found.why(), follow }))
    }

    /// Folder for a task's checkpoints: different for each configuration, code and input.
    fn work(&self, task: &Task, identity: &str, code: &str) -> PathBuf {
        let mut text = format!("{identity}\n{code}\n{}\n", task.variant.rehearse);
        for (name, need) in &task.needs {
            text += &format!("{name} {}\n", self.run_ids[*need].as_deref().unwrap_or_default());
        }
        task.variant.work(self.workspace, &task.id, &storage::hash_bytes(text.as_bytes()))
    }

    fn run_command(&self, task: &Task, config: &Path, work: &Path, code: &str, several: bool) -> Result<Command> {
        let frozen = self
            .binaries
            .get(&task.id.paper)
            .ok_or_else(|| anyhow!("{} went out of date during the other runs: repeat the command", task.label()))?;
        let mut command = binaries::program(&frozen.path);
        command.current_dir(&self.workspace.root).arg("run").arg(&task.id.name);
        command.arg("--config").arg(config).arg("--out").arg(&task.folder).arg("--work").arg(work);
        for (name, need) in &task.needs {
            let mut need_folder = std::ffi::OsString::from(format!("{name}="));
            need_folder.push(&self.plan.tasks[*need].folder);
            command.arg("--need").arg(need_folder);
        }
        command.args(["--device", &self.options.device.to_string()]);
        command.args(["--progress", if several { "plain" } else { "auto" }]);
        command.args(["--code-hash", code]);
        if task.variant.rehearse {
            command.arg("--rehearse");
        }
        if let Some(commit) = &self.git.commit {
            command.args(["--git-commit", commit]);
        }
        if let Some(dirty) = self.git.dirty {
            command.args(["--git-dirty", &dirty.to_string()]);
        }
        // candle's threads for element-wise operations spin while they wait for each other, which wastes time when
        // several runs share the machine
        const CANDLE: &str = "CANDLE_NUM_THREADS";
        if std::env::var_os(CANDLE).is_none() {
            command.env(CANDLE, "1");
        }
        let share = || thread::available_parallelism().map_or(1, |cores| (cores.get() / self.options.jobs).max(1));
        if let Some(threads) = self.options.threads.or_else(|| several.then(share)) {
            // candle reads the second variable
            command.env("RETRACE_THREADS", threads.to_string()).env("RAYON_NUM_THREADS", threads.to_string());
        }
        Ok(command)
    }

    /// Checks the exit code and the results of a child; `None` when it was interrupted.
    fn finish(&mut self, index: usize, exit: Result<Exit>, took: Duration) -> Result<Option<Status>> {
        let task = &self.plan.tasks[index];
        let records = self.records(task);
        let attempt = records.attempt();
        let set = |outcome: Outcome| match attempt.clone() {
            Some(attempt) => records.set_attempt(&Attempt { outcome, ..attempt }),
            None => Ok(()),
        };
        match exit {
            Ok(Exit::Done) => {
                let manifest = state::manifest(&task.folder)?
                    .with_context(|| format!("it exited with code 0 but left no {}", config::MANIFEST))?;
                let code = self.codes[&task.id.paper].clone();
                let before = records.done();
                records.set_done(&Done { run_id: manifest.run_id.clone(), code, accepted: Vec::new() })?;
                let found = self.examine(task, &[]);
                if !found.fresh() {
                    let why = format!("exit code 0, but its results do not match the request: {}", found.why());
                    if let Some(before) = before {
                        records.set_done(&before)?;
                    }
                    set(Outcome::Failed(why.clone()))?;
                    return Ok(Some(Status::Failed(why)));
                }
                self.run_ids[index] = Some(manifest.run_id);
                if let (Kind::Run, Some(attempt)) = (&task.kind, &attempt) {
                    // the checkpoints are no longer needed; errors are ignored
                    let _ = std::fs::remove_dir_all(self.work(task, &attempt.identity, &attempt.code));
                }
                eprintln!("done: {} in {}", task.label(), show(took));
                Ok(Some(Status::Done))
            }
            Ok(Exit::Interrupted) => {
                set(Outcome::Interrupted)?;
                Ok(None)
            }
            // the signal came before it started
            Err(_) if runner::interrupted() => {
                set(Outcome::Interrupted)?;
                Ok(None)
            }
            Ok(Exit::Failed { why, tail }) => {
                set(Outcome::Failed(why.clone()))?;
                let tail: String = tail.iter().map(|line| format!("\n    {line}")).collect();
                Ok(Some(Status::Failed(why + &tail)))
            }
            Err(error) => {
                set(Outcome::Failed(format!("{error:#}")))?;
                Err(error)
            }
        }
    }

    /// Draws changed results, writes the pages, and prints the scoreboard and the failures.
    fn draw(&self, render: &Render<'_>, mut ended: Ended) -> Result<u8> {
        let mut pages: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        for (index, task) in self.plan.tasks.iter().enumerate() {
            if !task.is_drawn() {
                continue;
            }
            if task.selected {
                pages.entry(task.root.clone()).or_default().push(task.id.to_string());
            }
            if ended.status[index] == Status::Done && !render.is_current(task) {
                if runner::interrupted() {
                    break;
                }
                if let Err(error) = render.experiment(&task.variant, &task.stem, &task.folder, &task.envelope) {
                    ended.status[index] = Status::Failed(format!("{error:#}"));
                }
            }
        }
        let mut failures: Vec<String> = Vec::new();
        for (task, status) in self.plan.tasks.iter().zip(&ended.status) {
            match status {
                Status::Failed(why) => failures.push(format!("  {}: {why}", task.label())),
                Status::Skipped(why) => failures.push(format!("  {}: not run, {why}", task.label())),
                Status::Waiting => failures.push(format!("  {}: not run, because of --fail-fast", task.label())),
                Status::Done | Status::Running => {}
            }
        }
        for (root, only) in &pages {
            let any = self.plan.tasks.iter().zip(&ended.status).any(|(task, status)| {
                task.root == *root
                    && task.is_drawn()
                    && (*status == Status::Done || task.folder.join(config::MANIFEST).is_file())
            });
            if !any || runner::interrupted() {
                continue;
            }
            if let Err(error) = render.index(root, false).and_then(|()| render.scoreboard(root, only)) {
                failures.push(format!("  {error:#}"));
            }
            print_line(format_args!("page: {}", root.join(PAGE).display()))?;
        }
        if runner::interrupted() {
            eprintln!("{CONTINUES}");
            return Ok(INTERRUPTED);
        }
        if failures.is_empty() {
            return Ok(0);
        }
        eprintln!("\nfailed:\n{}\nthe same command retries these and keeps the rest", failures.join("\n"));
        Ok(1)
    }
}

/// Prefix of a child's messages.
fn prefix(task: &Task) -> String {
    match &task.point {
        Some(point) => format!("{} {point}", task.id),
        None => task.id.to_string(),
    }
}

/// A duration with a readable unit, such as `75 s` or `2.5 h`.
pub fn show(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", (seconds + 30) / 60),
        _ => format!("{:.1} h", time.as_secs_f64() / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse_and_print() {
        for word in ["auto", "cpu", "cuda:0", "cuda:3"] {
            assert_eq!(word.parse::<Device>().unwrap().to_string(), word);
        }
        for word in ["gpu", "cuda:x", "cuda:-1", ""] {
            assert!(word.parse::<Device>().unwrap_err().contains("cuda:0"));
        }
    }

    #[test]
    fn durations_are_short() {
        let check = |seconds: f64| show(Duration::from_secs_f64(seconds));
        assert_eq!(check(1.25), "1.2 s");
        assert_eq!(check(75.0), "75 s");
        assert_eq!(check(600.0), "10 min");
        assert_eq!(check(9000.0), "2.5 h");
    }
}
