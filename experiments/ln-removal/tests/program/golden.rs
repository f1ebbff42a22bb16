//! The smoke profile against committed tables, and against properties that hold for all models.

use std::collections::BTreeMap;

use tables::{Table, Tolerance};
use trial::{Trial, assert_same};

use crate::PROGRAM;

/// Rounding errors differ between processors and grow over the steps of the smoke run.
const TOLERANCE: Tolerance = Tolerance { relative: 2e-2, absolute: 5e-3 };

/// Pre-training and removal of the smoke profile.
pub fn models(threads: usize) -> [Trial; 2] {
    let pretrain = PROGRAM.trial("pretrain", &[]).threads(threads);
    pretrain.finish();
    let removal = PROGRAM.trial("removal", &[]).needing("ln-removal/pretrain", &pretrain.results()).threads(threads);
    removal.finish();
    [pretrain, removal]
}

fn of(experiment: &'static str, [pretrain, removal]: &[Trial; 2], overrides: &[&str]) -> Trial {
    let trial = PROGRAM.trial(experiment, overrides).needing("ln-removal/pretrain", &pretrain.results());
    trial.needing("ln-removal/removal", &removal.results())
}

#[test]
fn smoke_tables_match_the_golden_ones_and_maps_are_consistent() {
    let models = models(1);
    PROGRAM.check_golden(&models[0], &["curves", "corpus"], TOLERANCE);
    PROGRAM.check_golden(&models[1], &["losses", "validation", "events", "initial"], TOLERANCE);
    for (experiment, tables) in [
        ("evaluation", ["losses", "unseen"].as_slice()),
        ("direct", &["summary"]),
        ("norms", &["norms", "sinks"]),
        ("neurons", &["cumulative"]),
        ("distributions", &["statistics"]),
    ] {
        let trial = of(experiment, &models, &[]);
        trial.finish();
        PROGRAM.check_golden(&trial, tables, TOLERANCE);
    }
    let ioi = of("ioi", &models, &[]);
    ioi.finish();
    PROGRAM.check_golden(&ioi, &["prompts", "behaviour"], TOLERANCE);
    assert_consistent(&Table::read(&ioi.results(), "maps").unwrap());
    // models given by path have the same results, and the batch size does not matter
    let folders =
        [("original", &models[0], "toy"), ("vanilla", &models[1], "vanilla"), ("ln_free", &models[1], "ln_free")];
    let list = folders.map(|(name, trial, model)| {
        format!("{{name: {name}, model: {}}}", trial.results().join("models").join(model).display())
    });
    let list = format!("params.models=[{}]", list.join(", "));
    let by_path = PROGRAM.trial("ioi", &["needs=[]", &list, "params.batch_pairs=3"]);
    by_path.finish();
    let maps = [&ioi, &by_path].map(|trial| Table::read(&trial.results(), "maps").unwrap());
    tables::compare(&maps[0], &maps[1], Tolerance { relative: 1e-3, absolute: 1e-4 }).unwrap();
}

/// The same schedule removes RMSNorms and the norms of parallel blocks, and the exported models have no norms.
#[test]
fn norms_of_other_families_are_removed_too() {
    for family in ["llama", "gpt_neox"] {
        let family = format!("params.model.family={family}");
        let pretrain = PROGRAM.trial("pretrain", &[&family, "params.training.steps=20"]);
        pretrain.finish();
        let removal = PROGRAM.trial("removal", &[]).needing("ln-removal/pretrain", &pretrain.results());
        removal.finish();
        let summary = Table::read(&removal.results(), "summary").unwrap();
        let loss = summary.floats("loss").unwrap();
        assert!(loss.iter().all(|loss| loss.is_finite()) && loss[2] - loss[1] < 1., "{family}: {loss:?}");
        let models = ["vanilla", "ln_free"]
            .map(|name| format!("{{name: {name}, model: {}}}", removal.results().join("models").join(name).display()));
        let models = format!("params.models=[{}]", models.join(", "));
        let claims = "claims=[]";
        let direct = PROGRAM.trial("direct", &["needs=[ln-removal/pretrain]", &models, claims, "published=[]"]);
        let direct = direct.needing("ln-removal/pretrain", &pretrain.results());
        direct.finish();
        let summary = Table::read(&direct.results(), "summary").unwrap();
        let pooled = summary.floats("pooled").unwrap();
        assert!(pooled[0] > 1e-2 && pooled[2] < 1e-3, "{family}: {pooled:?}");
    }
}

/// Patching S2 before the first block gives the clean run. Patching any position before S2 has no effect.
fn assert_consistent(maps: &Table) {
    let text = |column| -> Vec<String> { maps.texts(column).unwrap().into_iter().map(Option::unwrap).collect() };
    let (method, position) = (text("method"), text("position"));
    let (layer, effect) = (maps.ints("layer").unwrap(), maps.floats("effect").unwrap());
    let index = |label: &str| -> usize { label.split(' ').next().unwrap().parse().unwrap() };
    let cells =
        (0..maps.len()).map(|row| ((method[row].clone(), layer[row].unwrap(), index(&position[row])), effect[row]));
    let effects: BTreeMap<(String, i64, usize), f64> = cells.collect();
    let s2 = index(position.iter().find(|label| label.ends_with(" S2")).unwrap());
    for ((method, layer, position), effect) in &effects {
        if *position < s2 {
            assert_eq!(*effect, 0., "{method} block {layer} position {position}");
        }
        if method == "activation" && *layer == 0 {
            let expected = if *position == s2 { 1. } else { 0. };
            assert!((effect - expected).abs() < 1e-5, "position {position}: {effect}");
        }
    }
}

#[test]
fn one_two_and_four_threads_give_the_same_bytes() {
    let one = models(1);
    for threads in [2, 4] {
        for (one, other) in one.iter().zip(&models(threads)) {
            assert_same(&one.files(), &other.files());
        }
    }
    for experiment in ["ioi", "evaluation", "direct", "norms"] {
        let on = |threads| {
            let trial = of(experiment, &one, &[]).threads(threads);
            trial.finish();
            trial.files()
        };
        let one = on(1);
        assert_same(&one, &on(2));
        assert_same(&one, &on(4));
    }
}

/// A local text file is packed once and the packed corpus is reused.
#[test]
fn local_files_are_packed_once() {
    let pretrain = PROGRAM.trial("pretrain", &["params.training.steps=2"]);
    pretrain.finish();
    let folder = tempfile::tempdir().unwrap();
    let (file, packed) = (folder.path().join("mine.jsonl"), folder.path().join("packed"));
    let line = |i: usize| format!("{{\"text\": \"Mary gave {i} rings to John, and John gave a key to Mary.\"}}\n");
    std::fs::write(&file, (0..60).map(line).collect::<String>()).unwrap();
    let text = format!(
        "params.texts=[{{name: mine, sequences: 6, text: {{corpus: {{source: {}, column: {{text: text}}, recipe: {{block: 32, end: true}}}}}}}}]",
        file.display()
    );
    let model = format!("params.models=[{{name: small, model: {}}}]", pretrain.results().join("models/toy").display());
    let overrides = ["needs=[]", &model, &text, "params.length=24", "claims=[]", "published=[]", "figures=[]"];
    let mut losses = Vec::new();
    for _ in 0..2 {
        let trial = PROGRAM.trial("evaluation", &overrides);
        let status = trial.command().env("RETRACE_CORPORA", &packed).status().unwrap();
        assert!(status.success());
        losses.push(Table::read(&trial.results(), "losses").unwrap().floats("ce").unwrap());
    }
    assert_eq!(losses[0], losses[1]);
    assert_eq!(std::fs::read_dir(&packed).unwrap().flatten().filter(|entry| entry.path().is_dir()).count(), 1);
}
