//! Runs the commands in a small test workspace whose cargo, paper and `render` are shell scripts.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Stands in for cargo: `build` logs the call and prints the paths of the scripts.
const CARGO: &str = r#"#!/bin/sh
root=$(dirname "$0")
[ "$1" = build ] || exit 0
echo "build $*" >> "$root/log"
echo '{"reason":"compiler-artifact","target":{"name":"toy"},"executable":"'"$root"'/toy-script"}'
echo '{"reason":"compiler-artifact","target":{"name":"render"},"executable":"'"$root"'/render-script"}'
"#;

/// Stands in for a paper's binary. These files make it fail, stop or wait: `fail-NAME`, `interrupt-NAME`, `wait-NAME`.
const TOY: &str = r#"#!/bin/sh
if [ "$1" = list ]; then echo first; echo second; echo other; exit 0; fi
name=$2
needs=""
ids=""
all="$*"
shift 2
while [ $# -gt 0 ]; do
  case "$1" in
    --config) config=$2; shift;;
    --out) out=$2; shift;;
    --work) work=$2; shift;;
    --code-hash) code=$2; shift;;
    --need) need=${2%%=*}; folder=${2#*=}
      id=$(sed -n 's/^run_id: *//p' "$folder/run.yaml"); ids="$ids $id"
      needs="$needs  $need: $id
"; shift;;
  esac
  shift
done
echo "run $name threads=$RAYON_NUM_THREADS $all" >> "$TOY_ROOT/log"
echo "working on $name" >&2
mkdir -p "$work" "$out"
[ -e "$TOY_ROOT/fail-$name" ] && { echo "no luck with $name" >&2; exit 1; }
[ -e "$TOY_ROOT/interrupt-$name" ] && exit 130
if [ -e "$TOY_ROOT/wait-$name" ]; then
  trap 'echo "saved $name" >> "$TOY_ROOT/log"; exit 130' TERM INT
  echo "waiting $name" >> "$TOY_ROOT/log"
  while :; do sleep 0.05; done
fi
id=$( (cat "$config"; echo "$ids $code") | cksum | tr -d ' ')
{
  echo "run_id: \"$id\""
  echo "rehearsal: false"
  echo "config:"
  sed 's/^/  /' "$config"
  if [ -n "$needs" ]; then echo "needs:"; printf '%s' "$needs"; fi
  echo "code: {version: 0.1.0, hash: \"$code\"}"
  echo "machine: {device: cpu, threads: 1, system: test}"
  echo "wall_seconds: 1.5"
} > "$out/run.yaml"
"#;

/// Stands in for `render`.
const RENDER: &str = r#"#!/bin/sh
echo "render $*" >> "$TOY_ROOT/log"
command=$1
shift
points=""
while [ $# -gt 0 ]; do
  case "$1" in
    --config) config=$2; shift;;
    --out|--folder|--root) out=$2; shift;;
    --code-hash) code=$2; shift;;
    --point) id=$(sed -n 's/^run_id: *//p' "${2#*=}/run.yaml")
      points="$points  - {id: \"${2%%=*}\", keys: {}, run_id: $id}
"; shift;;
  esac
  shift
done
case "$command" in
  experiment) cksum < "$config" > "$out/report.md";;
  index) echo page > "$out/index.html";;
  scoreboard) echo "the scoreboard of $out";;
  join)
    mkdir -p "$out"
    {
      echo "run_id: \"join-$(printf '%s' "$points" | cksum | tr -d ' ')\""
      echo "rehearsal: false"
      echo "config:"
      sed 's/^/  /' "$config"
      echo "points:"
      printf '%s' "$points"
      echo "code: {version: 0.1.0, hash: \"$code\"}"
      echo "machine: {device: cpu, threads: 1, system: test}"
      echo "wall_seconds: 3.0"
    } > "$out/run.yaml";;
esac
"#;

const LOCK: &str = r#"version = 4

[[package]]
name = "reporting"
version = "0.1.0"

[[package]]
name = "toy"
version = "0.1.0"
"#;

const SCHEMA: &str = r#"{"type": "object", "additionalProperties": false, "required": ["title", "seed", "params"],
"properties": {"title": {"type": "string"}, "summary": {"type": "string"}, "seed": {"type": "integer"},
"needs": {"type": "array", "items": {"type": "string"}}, "artefacts": {}, "published": {}, "claims": {}, "figures": {},
"sweep": {}, "params": {"type": "object", "additionalProperties": false,
"properties": {"lr": {"type": "number"}}}}}"#;

/// A test workspace: `toy/second` needs `toy/first`; `toy/other` needs nothing and has another key.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        world.write("Cargo.toml", "[workspace]\nmembers = [\"crates/*\", \"experiments/*\"]\n");
        world.write("Cargo.lock", LOCK);
        for package in ["crates/reporting", "experiments/toy"] {
            world.write(&format!("{package}/Cargo.toml"), "[package]\n");
            world.write(&format!("{package}/src/main.rs"), "//! one\n");
        }
        world.write("configs/toy/first.yaml", "title: the first\nseed: 1\nparams: {lr: 0.1}\n");
        world.write("configs/toy/second.yaml", "title: the second\nseed: 1\nneeds: [toy/first]\nparams: {lr: 0.1}\n");
        world.write("configs/toy/other.yaml", "title: another\nseed: 1\nparams: {depth: 2}\n");
        world.write("configs/toy/first.smoke.yaml", "extends: first.yaml\nparams: {lr: 0.5}\n");
        for name in ["first", "second"] {
            world.write(&format!("configs/schema/toy/{name}.json"), SCHEMA);
        }
        world.write("configs/schema/toy/other.json", &SCHEMA.replace("lr", "depth"));
        for (name, script) in [("cargo-script", CARGO), ("toy-script", TOY), ("render-script", RENDER)] {
            world.write(name, script);
            fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn replace(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from));
        self.write(name, &text.replace(from, to));
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.current_dir(self.folder.path()).args(words.split_whitespace());
        command.env("CARGO", self.path("cargo-script")).env("TOY_ROOT", self.folder.path());
        command.env_remove("RAYON_NUM_THREADS").stdin(Stdio::null());
        command
    }

    fn output(&self, words: &str) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a command that must exit with `code`. Returns its standard output and standard error.
    #[track_caller]
    fn exits(&self, code: i32, words: &str) -> String {
        let output = self.output(words);
        let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "`{words}` printed: {printed}");
        printed
    }

    /// The calls of the scripts since the previous call of this function, in order: `build`, `run NAME`, `render COMMAND`.
    fn log(&self) -> Vec<String> {
        let text = self.log_text();
        let _ = fs::remove_file(self.path("log"));
        text.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    fn log_text(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn runs(&self) -> Vec<String> {
        self.log().into_iter().filter(|line| line.starts_with("run ")).collect()
    }
}

#[track_caller]
fn assert_contains(printed: &str, expected: &[&str]) {
    for expected in expected {
        assert!(printed.contains(expected), "wanted `{expected}` in:\n{printed}");
    }
}

#[test]
fn needs_run_first_and_a_second_time_nothing_runs() {
    let world = World::new();
    let printed = world.exits(0, "reproduce toy/second");
    assert_contains(&printed, &["toy/first (cpu)", "never run", "the scoreboard of", "results/index.html"]);
    assert_eq!(
        world.log(),
        [
            "build build",
            "run first",
            "run second",
            "render experiment",
            "render experiment",
            "render index",
            "render scoreboard"
        ]
    );
    assert!(world.path("results/toy/second/report.md").is_file());
    let start = Instant::now();
    assert_contains(&world.exits(0, "reproduce toy/second"), &["the scoreboard of", "results/index.html"]);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(world.log(), ["render scoreboard"], "no build, no run, no drawing");
    assert_contains(&world.exits(0, "reproduce toy/second --dry-run"), &["fresh  toy/first (cpu)", "0 of 2 would run"]);
    assert_contains(&world.exits(0, "status"), &["toy/first   smoke      never run", "toy/second  cpu        fresh"]);
    assert_eq!(world.log(), [""; 0]);
}

#[test]
fn a_changed_configuration_makes_its_dependents_stale() {
    let world = World::new();
    world.exits(0, "reproduce");
    world.log();
    world.replace("configs/toy/first.yaml", "0.1", "0.2");
    let printed = world.exits(0, "reproduce --dry-run");
    assert_contains(&printed, &["stale  toy/first (cpu) (took 1.5 s): config: params.lr was 0.1, is 0.2"]);
    assert_contains(
        &printed,
        &["stale  toy/second (cpu) (took 1.5 s): toy/first is not up to date", "fresh  toy/other"],
    );
    assert_eq!(world.log(), [""; 0]);
    world.exits(0, "reproduce");
    assert_eq!(world.runs(), ["run first", "run second"]);
}

#[test]
fn changed_code_is_run_again_or_accepted() {
    let world = World::new();
    world.exits(0, "reproduce");
    world.log();
    world.write("experiments/toy/src/main.rs", "//! two\n");
    assert_contains(&world.exits(0, "reproduce --dry-run"), &["code changed: toy", "--accept"]);
    assert_contains(&world.exits(0, "reproduce --accept --dry-run"), &["0 of 3 would run"]);
    assert_contains(&world.exits(0, "status toy/other"), &["stale: code changed: toy"]);
    world.exits(0, "reproduce --accept");
    assert_eq!(world.log(), ["render scoreboard"]);
    world.exits(0, "reproduce");
    assert_eq!(world.log(), ["render scoreboard"]);
    world.write("experiments/toy/src/main.rs", "//! three\n");
    world.exits(0, "reproduce toy/other");
    assert_eq!(world.runs(), ["run other"]);
}

#[test]
fn changed_titles_and_drawing_code_redraw_without_a_run() {
    let world = World::new();
    world.exits(0, "reproduce toy/first");
    world.log();
    world.replace("configs/toy/first.yaml", "the first", "a better title");
    world.exits(0, "reproduce toy/first");
    assert_eq!(world.log(), ["render experiment", "render index", "render scoreboard"]);
    world.write("crates/reporting/src/main.rs", "//! two\n");
    world.exits(0, "reproduce toy/first");
    assert_eq!(world.log(), ["build build", "render experiment", "render index", "render scoreboard"]);
    world.exits(0, "render toy/first");
    assert_eq!(world.log(), ["render experiment", "render index", "render scoreboard"]);
}

#[test]
fn a_failure_stops_only_what_needs_it() {
    let world = World::new();
    world.write("fail-first", "");
    let printed = world.exits(1, "reproduce");
    assert_contains(
        &printed,
        &["toy/first (cpu): exit code 1", "toy/second (cpu): not run, it needs toy/first", "keeps the rest"],
    );
    assert_eq!(world.runs(), ["run first", "run other"]);
    assert_contains(&world.exits(0, "status"), &["the last attempt failed: exit code 1"]);
    assert_contains(&world.exits(1, "reproduce --fail-fast"), &["toy/first (cpu): exit code 1"]);
    assert_eq!(world.runs(), ["run first"]);
    world.remove("fail-first");
    world.exits(0, "reproduce");
    assert_eq!(world.runs(), ["run first", "run second"]);
}

#[test]
fn parallel_runs_prefix_their_messages() {
    let world = World::new();
    world.write("fail-other", "");
    let printed = world.exits(1, "reproduce --jobs 2");
    assert_contains(&printed, &["[toy/first] working on first", "    no luck with other"]);
    let log = world.log_text();
    assert!(log.contains("--progress plain") && !log.contains("threads= "), "{log}");
}

#[test]
fn interrupted_runs_resume_with_the_same_command() {
    let world = World::new();
    world.write("interrupt-first", "");
    let printed = world.exits(130, "reproduce toy/second");
    assert_contains(&printed, &["interrupted; the same command continues"]);
    assert_eq!(world.runs(), ["run first"]);
    assert_contains(&world.exits(0, "status toy/first"), &["interrupted; it will resume"]);
    let work = |log: &str| log.split("--work ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    world.exits(130, "reproduce toy/second --force");
    let first = work(&world.log_text());
    assert!(!world.log_text().contains("--fresh"), "it resumes from its checkpoint");
    assert!(Path::new(&first).is_dir());
    // other code must not continue from these checkpoints, unless it is accepted
    world.write("experiments/toy/src/main.rs", "//! two\n");
    world.log();
    world.exits(130, "reproduce toy/first");
    assert_ne!(work(&world.log_text()), first);
    world.remove("interrupt-first");
    world.log();
    world.exits(0, "reproduce toy/second");
    assert!(!Path::new(&work(&world.log_text())).exists(), "checkpoints of a finished run are removed");
}

#[test]
fn accepted_code_resumes_from_the_checkpoints() {
    let world = World::new();
    let work = |log: &str| log.split("--work ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    world.write("interrupt-first", "");
    world.exits(130, "reproduce toy/first");
    let first = work(&world.log_text());
    world.log();
    world.write("experiments/toy/src/main.rs", "//! two\n");
    world.exits(130, "reproduce toy/first --accept");
    assert_eq!(work(&world.log_text()), first);
}

#[test]
fn force_starts_again() {
    let world = World::new();
    world.exits(0, "reproduce toy/second");
    world.log();
    world.exits(0, "reproduce toy/second --force");
    let log = world.log_text();
    assert!(log.contains("run second") && log.contains("--fresh"), "{log}");
    assert_eq!(world.runs(), ["run second"], "what it needs is not forced");
}

#[test]
fn a_signal_reaches_the_child_and_the_same_command_continues() {
    let world = World::new();
    world.write("wait-first", "");
    let mut child = world.command("reproduce toy/second").stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while !world.log_text().contains("waiting first") {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", world.log_text());
        thread::sleep(Duration::from_millis(20));
    }
    assert_contains(&world.exits(0, "status toy/first"), &["running now"]);
    assert_contains(&world.exits(1, "clean --all"), &["in progress"]);
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(world.log_text().contains("saved first"), "{}", world.log_text());
    world.remove("wait-first");
    world.log();
    world.exits(0, "reproduce toy/second");
    assert_eq!(world.runs(), ["run first", "run second"]);
}

#[test]
fn a_killed_command_leaves_an_interrupted_run() {
    let world = World::new();
    world.write("wait-first", "");
    let mut child = world.command("reproduce toy/first").spawn().unwrap();
    let start = Instant::now();
    while !world.log_text().contains("waiting first") {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", world.log_text());
        thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_contains(&world.exits(0, "status toy/first"), &["cpu        interrupted"]);
    // the orphan waits for a signal: find its process by the folder in its command line
    world.remove("wait-first");
    let orphans = Command::new("sh")
        .arg("-c")
        .arg(format!("ps -eo pid,args | grep '{}' | grep -v grep | awk '{{print $1}}'", world.folder.path().display()))
        .output()
        .unwrap();
    for id in String::from_utf8_lossy(&orphans.stdout).split_whitespace() {
        let _ = Command::new("kill").args(["-TERM", id]).status();
    }
}

#[test]
fn overrides_have_their_own_folder() {
    let world = World::new();
    world.exits(0, "reproduce");
    world.log();
    let printed = world.exits(0, "reproduce toy --set params.lr=0.7");
    assert_contains(&printed, &["(cpu, with overrides)", "results/.runs/set-"]);
    // `other` does not know the key and is up to date as it is
    assert_eq!(world.runs(), ["run first", "run second"]);
    world.exits(0, "reproduce");
    assert_eq!(world.runs(), [""; 0], "the committed results are as they were");
    world.exits(0, "reproduce toy --set params.lr=0.7");
    assert_eq!(world.runs(), [""; 0]);
    // a task that reads an overridden result is overridden too; tasks shared with the default are not run again
    world.exits(0, "reproduce toy/second --set params.lr=0.8");
    assert_eq!(world.runs(), ["run second"]);
    let printed = world.exits(1, "reproduce --set params.lrr=1");
    assert_contains(&printed, &["params.lrr", "did you mean `lr`?", "nothing was run"]);
    assert_eq!(world.log(), [""; 0]);
}

#[test]
fn all_mistakes_of_all_configurations_come_before_anything_runs() {
    let world = World::new();
    world.write("configs/toy/first.yaml", "title: the first\nsede: 1\nparams: {lrr: 0.1}\n");
    world.write("configs/toy/other.yaml", "title: another\nseed: one\nparams: {depth: 2}\n");
    let printed = world.exits(1, "reproduce");
    assert_contains(&printed, &["did you mean `seed`?", "did you mean `lr`?", "other.yaml:2", "nothing was run"]);
    assert_eq!(world.log(), [""; 0]);
    assert_contains(&world.exits(1, "status"), &["cannot run"]);
}

#[test]
fn unknown_names_are_answered_with_the_nearest() {
    let world = World::new();
    assert_contains(&world.exits(1, "reproduce toy/frist"), &["did you mean `toy/first`?"]);
    assert_contains(&world.exits(1, "run toy"), &["is not one experiment", "toy/first"]);
    assert_contains(&world.exits(1, "reproduce toy/second --profile smoke"), &["has no profile smoke", "it has cpu"]);
    assert_contains(&world.exits(2, "reproduce --profile smok"), &["did you mean `smoke`?"]);
    assert_contains(&world.exits(2, "reproduce --device gpu"), &["cuda:N"]);
    assert_contains(&world.exits(2, "reproduce --set lr"), &["key=value"]);
    world.write("configs/toy/fourth.yaml", "title: t\nseed: 1\nparams: {}\n");
    assert_contains(
        &world.exits(1, "reproduce toy/fourth"),
        &["experiments/toy does not have", "first, second, other"],
    );
    world.write("configs/ghost/a.yaml", "title: t\nseed: 1\nparams: {}\n");
    assert_contains(&world.exits(1, "reproduce ghost"), &["no package experiments/ghost", "cargo xtask new ghost"]);
}

#[test]
fn overridden_needs_are_run_in_place_of_those_of_the_file() {
    let world = World::new();
    world.exits(0, "reproduce toy/second --set needs=[toy/other]");
    assert_eq!(world.runs(), ["run other", "run second"]);
    assert_contains(&world.exits(1, "reproduce toy/second --set needs=[toy/othr]"), &["toy/othr", "`toy/other`"]);
}

#[test]
fn circular_needs_are_reported() {
    let world = World::new();
    world.write("configs/toy/first.yaml", "title: t\nseed: 1\nneeds: [toy/second]\nparams: {lr: 0.1}\n");
    let printed = world.exits(1, "reproduce");
    assert_contains(&printed, &["circle", "first.yaml:3", "second.yaml:3"]);
}

#[test]
fn run_requires_needs_that_are_up_to_date() {
    let world = World::new();
    let printed = world.exits(1, "run toy/second");
    assert_contains(&printed, &["toy/first (cpu): never run", "cargo xtask reproduce"]);
    world.exits(0, "run toy/first");
    world.log();
    world.exits(0, "run toy/second");
    assert_eq!(world.runs(), ["run second"]);
}

#[test]
fn experiments_without_the_profile_are_left_out() {
    let world = World::new();
    let printed = world.exits(0, "reproduce --profile smoke");
    assert_contains(&printed, &["toy/second has no profile smoke: left out", "results/.runs/smoke/index.html"]);
    assert_eq!(world.runs(), ["run first"]);
    assert!(world.path("results/.runs/smoke/toy/first/run.yaml").is_file());
    assert_contains(&world.exits(0, "list"), &["toy/first  [smoke, cpu]", "the first", "needs    toy/first"]);
}

#[test]
fn a_fresh_clone_runs_again_unless_told_to_reuse() {
    let world = World::new();
    world.exits(0, "reproduce");
    fs::remove_dir_all(world.path("results/.runs")).unwrap();
    world.log();
    assert_contains(&world.exits(0, "reproduce --dry-run"), &["not made on this machine", "3 of 3 would run"]);
    world.exits(0, "reproduce --reuse");
    assert_eq!(world.runs(), [""; 0]);
    world.exits(0, "reproduce");
    assert_eq!(world.log(), ["render scoreboard"]);
    // a reused result that was edited is not up to date
    fs::remove_dir_all(world.path("results/.runs")).unwrap();
    world.replace("results/toy/other/run.yaml", "depth: 2", "depth: 3");
    world.exits(0, "reproduce --reuse");
    assert_eq!(world.runs(), ["run other"]);
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let world = World::new();
    for words in ["list", "status", "reproduce --dry-run"] {
        let mut child = world.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words}");
        assert_eq!(output.status.code(), Some(0), "{words}");
    }
}

#[test]
fn a_sweep_redoes_nothing_that_was_finished() {
    let world = World::new();
    assert_contains(&world.exits(1, "sweep toy/first"), &["--grid"]);
    let printed = world.exits(0, "sweep toy/first --grid seed=1,2 --grid params.lr=0.1,0.2 --jobs 2");
    assert_contains(
        &printed,
        &["toy/first lr-0.1_seed-1_", "the scoreboard of", "results/.runs/sweeps/cpu/index.html"],
    );
    let log = world.log();
    assert_eq!(log.iter().filter(|line| *line == "run first").count(), 4);
    assert_eq!(log.iter().filter(|line| *line == "render join").count(), 1);
    world.exits(0, "sweep toy/first --grid seed=1,2 --grid params.lr=0.1,0.2");
    assert_eq!(world.log(), ["render scoreboard"]);
    world.exits(0, "sweep toy/first --grid seed=1,2,3 --grid params.lr=0.1,0.2");
    let log = world.log();
    assert_eq!(log.iter().filter(|line| *line == "run first").count(), 2, "only the new seed");
    assert!(log.contains(&"render join".to_owned()));
    assert_contains(&world.exits(1, "sweep toy/first --grid seed=1,x"), &["seed", "nothing was run"]);
    assert_contains(&world.exits(1, "sweep toy/first --grid params.lrr=1"), &["did you mean `lr`?"]);
    assert_contains(&world.exits(1, "sweep toy/first --grid seed=1,2 --set seed=3"), &["`seed`", "--set", "--grid"]);
    assert!(!world.path("results/toy").exists(), "committed results are untouched");
}

#[test]
fn a_file_with_a_sweep_runs_its_points_and_joins_them() {
    let world = World::new();
    world.write("configs/toy/first.overnight.yaml", "extends: first.yaml\nsweep:\n  grid:\n    seed: [1, 2]\n");
    world.write("configs/toy/second.overnight.yaml", "extends: second.yaml\n");
    world.write("interrupt-second", "");
    world.exits(130, "reproduce --profile overnight");
    assert_contains(&world.exits(0, "status"), &["overnight  fresh; 2 of 2 points done"]);
    assert_eq!(world.runs(), ["run first", "run first", "run second"]);
    world.remove("interrupt-second");
    world.exits(0, "reproduce --profile overnight");
    assert_eq!(world.runs(), ["run second"]);
    assert!(world.path("results/toy/first/overnight/run.yaml").is_file());
    // a changed title of a sweep is redrawn without a run
    world.replace("configs/toy/first.overnight.yaml", "extends", "title: better\nextends");
    world.exits(0, "reproduce --profile overnight");
    assert_eq!(world.log(), ["render experiment", "render index", "render scoreboard"]);
}

#[test]
fn a_binary_that_writes_no_manifest_has_failed() {
    let world = World::new();
    world.replace("toy-script", "} > \"$out/run.yaml\"", "} > /dev/null");
    assert_contains(&world.exits(1, "reproduce toy/first"), &["left no run.yaml"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let world = World::new();
    world.write("results", "a file where the folder should be");
    let printed = world.exits(1, "reproduce toy/first");
    assert_contains(&printed, &["results"]);
}
