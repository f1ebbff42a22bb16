//! An interrupted training resumes.

use std::time::Duration;

use trial::assert_same;

use crate::PROGRAM;

#[test]
fn a_killed_training_gives_the_same_bytes() {
    let whole = PROGRAM.trial("train", &[]);
    whole.finish();
    let killed = PROGRAM.trial("train", &[]);
    let checkpoints = killed.work().join("options_first");
    let has_checkpoint = || {
        let files = std::fs::read_dir(&checkpoints).into_iter().flatten().flatten();
        files.filter(|file| !file.file_name().to_string_lossy().ends_with(".kept")).count() > 0
    };
    let mut child = killed.spawn();
    // Kill it at any time after the first checkpoint.
    while !has_checkpoint() {
        assert!(child.try_wait().unwrap().is_none(), "the program ended before it was killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.results().join("run.yaml").exists());
    killed.finish();
    assert_same(&whole.files(), &killed.files());
    for model in ["options_first_late", "question_first_early", "question_first_middle"] {
        let file = format!("models/{model}.safetensors");
        let bytes = [&whole, &killed].map(|trial| std::fs::read(trial.results().join(&file)).unwrap());
        assert!(bytes[0] == bytes[1], "{file} differs");
    }
}
