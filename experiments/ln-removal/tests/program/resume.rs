//! A training that is killed continues from its last checkpoint.

use std::time::Duration;

use trial::{Trial, assert_same};

use crate::PROGRAM;

/// Kills a trial after its first checkpoint in `part` of its work folder, then lets it finish.
fn kill_and_finish(trial: &Trial, part: &str) {
    let checkpoints = trial.work().join(part);
    let mut child = trial.spawn();
    while std::fs::read_dir(&checkpoints).map_or(0, |files| files.flatten().count()) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "the program ended before it was killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!trial.results().join("run.yaml").exists());
    trial.finish();
}

fn assert_same_files(whole: &Trial, killed: &Trial, files: &[&str]) {
    for file in files {
        let bytes = [whole, killed].map(|trial| std::fs::read(trial.results().join(file)).unwrap());
        assert!(bytes[0] == bytes[1], "{file} differs");
    }
}

#[test]
fn a_killed_training_ends_with_the_same_bytes() {
    let whole = PROGRAM.trial("pretrain", &[]);
    whole.finish();
    let killed = PROGRAM.trial("pretrain", &[]);
    kill_and_finish(&killed, "toy");
    assert_same(&whole.files(), &killed.files());
    let files = ["models/toy/model.safetensors", "models/toy/tokenizer.json", "models/toy/config.json"];
    assert_same_files(&whole, &killed, &files);
}

/// The tables and the model contain running means, fixed scales and losses.
#[test]
fn a_killed_removal_ends_with_the_same_scales_and_losses() {
    let pretrain = PROGRAM.trial("pretrain", &["params.training.steps=20"]);
    pretrain.finish();
    let removal = || PROGRAM.trial("removal", &[]).needing("ln-removal/pretrain", &pretrain.results()).threads(1);
    let whole = removal();
    whole.finish();
    let killed = removal();
    kill_and_finish(&killed, "ln_free");
    assert_same(&whole.files(), &killed.files());
    assert_same_files(&whole, &killed, &["models/ln_free/model.safetensors", "models/vanilla/model.safetensors"]);
}
