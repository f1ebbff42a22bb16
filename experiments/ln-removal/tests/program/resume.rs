//! A training that is killed goes on where it was.

use std::time::Duration;

use trial::assert_same;

use crate::PROGRAM;

#[test]
fn a_killed_training_ends_with_the_same_bytes() {
    let whole = PROGRAM.trial("pretrain", &[]);
    whole.finish();
    let killed = PROGRAM.trial("pretrain", &[]);
    let checkpoints = killed.work().join("toy");
    let mut child = killed.spawn();
    // after the first checkpoint, wherever it is then
    while std::fs::read_dir(&checkpoints).map_or(0, |files| files.flatten().count()) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "the program ended before it was killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.results().join("run.yaml").exists());
    killed.finish();
    assert_same(&whole.tables(), &killed.tables());
    for file in ["models/toy/model.safetensors", "models/toy/tokenizer.json", "models/toy/config.json"] {
        let bytes = [&whole, &killed].map(|trial| std::fs::read(trial.results().join(file)).unwrap());
        assert!(bytes[0] == bytes[1], "{file} differs");
    }
}
