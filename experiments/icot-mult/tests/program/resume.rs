//! Runs that are killed or stopped at any moment continue to the same results.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use trial::{Trial, assert_same, told};

use crate::PROGRAM;

/// Two methods, with enough steps to be killed ten times and frequent checkpoints.
const LONG: [&str; 4] = [
    "params.methods=[sft, icot]",
    "params.training.steps=2000",
    "params.training.checkpoint_every=10",
    "params.icot.steps_per_token=40",
];

fn long() -> Trial {
    PROGRAM.trial("train", &LONG).threads(2)
}

fn kill(child: &mut Child) {
    assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed; increase params.training.steps");
    // SIGKILL: the program cannot clean up
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Waits until a checkpoint file is being written below `folder`.
fn wait_for_write(folder: &Path, child: &mut Child) {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
        for method in ["sft", "icot"] {
            let entries = std::fs::read_dir(folder.join(method)).into_iter().flatten().flatten();
            for entry in entries {
                if entry.file_name().to_string_lossy().starts_with(storage::TEMPORARY_PREFIX) {
                    return;
                }
            }
        }
        assert!(child.try_wait().unwrap().is_none(), "the run ended before a checkpoint write was observed");
    }
    panic!("no checkpoint write was observed within a minute");
}

#[test]
fn ten_kills_including_three_during_checkpoint_writes_change_no_byte() {
    let undisturbed = long();
    undisturbed.finish();
    let killed = long();
    let mut rng = ChaCha12Rng::seed_from_u64(10);
    for round in 0..10 {
        let mut child = killed.spawn();
        if round % 4 == 1 {
            wait_for_write(&killed.work(), &mut child);
        } else {
            std::thread::sleep(Duration::from_millis(rng.random_range(1..120)));
        }
        kill(&mut child);
        assert!(!killed.results().join("run.yaml").exists(), "an unfinished run has no manifest");
    }
    killed.finish();
    assert_same(&undisturbed.files(), &killed.files());
}

#[test]
fn a_signal_saves_and_the_same_command_continues() {
    let undisturbed = long();
    undisturbed.finish();
    for signal in ["-INT", "-TERM"] {
        let stopped = long();
        let child = stopped.spawn();
        let mut waiting = Duration::from_secs(20);
        while !stopped.work().join("sft").exists() && !waiting.is_zero() {
            std::thread::sleep(Duration::from_millis(5));
            waiting = waiting.saturating_sub(Duration::from_millis(5));
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", told(&output));
        assert!(told(&output).contains("the same command continues"));
        stopped.finish();
        assert_same(&undisturbed.files(), &stopped.files());
    }
}

#[test]
fn a_damaged_checkpoint_is_skipped_and_a_foreign_one_is_an_error() {
    let undisturbed = long();
    undisturbed.finish();
    let damaged = long();
    let mut child = damaged.spawn();
    let folder = damaged.work().join("sft");
    let files = || -> Vec<_> {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")).collect();
        files.sort();
        files
    };
    while files().len() < 2 {
        std::thread::sleep(Duration::from_millis(2));
    }
    kill(&mut child);
    let newest = files().pop().unwrap();
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 3]).unwrap();
    let output = damaged.command().output().unwrap();
    assert!(output.status.success() && told(&output).contains("trying the checkpoint before it"), "{}", told(&output));
    assert_same(&undisturbed.files(), &damaged.files());

    let foreign = PROGRAM.trial("train", &["seed=2"]);
    std::fs::create_dir_all(foreign.work().join("sft")).unwrap();
    std::fs::write(foreign.work().join("sft").join(newest.file_name().unwrap()), bytes).unwrap();
    let output = foreign.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("belongs to another configuration"), "{}", told(&output));
}

#[test]
fn a_second_run_in_the_same_folder_is_an_error() {
    let trial = long();
    let mut first = trial.spawn();
    while !trial.work().join("sft").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let second = trial.command().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(told(&second).contains(&format!("in use by process {}", first.id())), "{}", told(&second));
    kill(&mut first);
}
