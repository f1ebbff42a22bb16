//! An interrupted ingestion resumes with the shards that it has written.

use std::time::Duration;

use trial::assert_same;

use crate::PROGRAM;

#[test]
fn a_killed_ingestion_keeps_its_shards_and_gives_the_same_bytes() {
    let language = PROGRAM.trial("language", &["params.training.steps=2"]);
    language.finish();
    let states = || {
        let overrides = ["params.shard=20", "params.batch=4", "claims=[]"];
        PROGRAM.trial("states", &overrides).needing("hyperprobe/language", &language.results())
    };
    let whole = states();
    whole.finish();
    let killed = states();
    let first = killed.results().join("artifacts/toy/symbols-00000.safetensors");
    let mut child = killed.spawn();
    while !first.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the program ended before it was killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.results().join("run.yaml").exists());
    let written = std::fs::metadata(&first).unwrap().modified().unwrap();
    killed.finish();
    assert_eq!(std::fs::metadata(&first).unwrap().modified().unwrap(), written, "an existing shard is reused");
    assert_same(&whole.files(), &killed.files());
    for shard in ["artifacts/toy/symbols-00003.safetensors", "artifacts/toy/words-00000.safetensors", "stores/toy.json"]
    {
        let bytes = [&whole, &killed].map(|trial| std::fs::read(trial.results().join(shard)).unwrap());
        assert!(bytes[0] == bytes[1], "{shard} differs");
    }
}
