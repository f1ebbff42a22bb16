//! Tests with checkpoints in the hub's format: a byte-level vocabulary with English questions, and MMLU from the hub's
//! cache without a network.

use std::path::Path;

use candle_core::Device;
use models::{Architecture, Config, Decoder, Family};
use polars::prelude::{
    DataFrame, IntoColumn, IntoSeries, ListBuilderTrait, ListStringChunkedBuilder, NamedFrom, ParquetWriter, Series,
};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use tables::{Table, Value};
use trial::told;

use crate::PROGRAM;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Writes a small GPT-2 with its own vocabulary.
fn checkpoint(folder: &Path) {
    let texts = ["The apron is red. Which color is the apron?\n(A) red\n(B) blue\nAnswer: (A)"].iter().cycle().take(20);
    let tokenizer = tokens::train_bpe(folder, texts, 300).unwrap();
    let config = Config {
        n_layers: 2,
        n_heads: 2,
        d_model: 16,
        d_mlp: 32,
        d_vocab: tokenizer.d_vocab(),
        n_positions: 600,
        architecture: Architecture::default(),
        ..Config::gpt2_small()
    };
    let model = Decoder::fresh(&config, &mut ChaCha12Rng::seed_from_u64(1), &Device::Cpu).unwrap();
    let made = folder.join("made");
    models::export(&made, &model, Family::Gpt2).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::rename(made.join(file), folder.join(file)).unwrap();
    }
}

/// Writes a split of MMLU to the hub's cache, in the layout of huggingface_hub.
fn cached(cache: &Path, split: &str, rows: usize) {
    let repo = cache.join("datasets--cais--mmlu");
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), COMMIT).unwrap();
    let folder = repo.join("snapshots").join(COMMIT).join("all");
    std::fs::create_dir_all(&folder).unwrap();
    let each = |text: &dyn Fn(usize) -> String| (0..rows).map(text).collect::<Vec<_>>();
    let mut choices = ListStringChunkedBuilder::new("choices".into(), rows, 4 * rows);
    for row in 0..rows {
        choices
            .append_values_iter(["", "a", "b", "c"].map(|choice| format!("{row}{choice}")).iter().map(String::as_str));
    }
    let columns = vec![
        Series::new("question".into(), each(&|row| format!("Which is number {row}?"))).into_column(),
        Series::new("subject".into(), each(&|row| ["anatomy", "virology"][row % 2].to_owned())).into_column(),
        choices.finish().into_series().into_column(),
        Series::new("answer".into(), (0..rows).map(|row| (row % 4) as i64).collect::<Vec<_>>()).into_column(),
    ];
    let file = std::fs::File::create(folder.join(format!("{split}-00000-of-00001.parquet"))).unwrap();
    ParquetWriter::new(file).finish(&mut DataFrame::new(rows, columns).unwrap()).unwrap();
}

#[test]
fn every_analysis_runs_on_any_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let subjects = format!("[{{name: small, model: {}}}]", folder.path().display());
    let behaviour = PROGRAM.trial(
        "behaviour",
        &["needs=[]", "published=[]", &format!("params.subjects={subjects}"), "params.shots=[0, 2]"],
    );
    behaviour.finish();
    let table = Table::read(&behaviour.results(), "behaviour").unwrap();
    let ways: Vec<Value> = table.distinct("format").unwrap();
    assert_eq!((table.len(), ways.len()), (4, 2), "one row per format (letter, text) and number of examples");
    for experiment in ["nodes", "attention", "subspaces", "mutations", "paths"] {
        let subjects = format!("params.common.subjects={subjects}");
        let trial = PROGRAM.trial(experiment, &["needs=[]", "claims=[]", "published=[]", &subjects]);
        trial.finish();
        if experiment == "nodes" {
            let metrics = Table::read(&trial.results(), "metrics").unwrap();
            let gap = metrics.filter("metric", &[Value::from("small.completeness_gap")]).unwrap();
            assert!(gap.floats("value").unwrap()[0] < 1e-4, "direct effects must add up");
        }
    }
}

#[test]
fn mmlu_is_read_from_the_hub_cache() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let cache = folder.path().join("cache");
    for (split, rows) in [("test", 80), ("validation", 24), ("dev", 10)] {
        cached(&cache, split, rows);
    }
    let ask = "mmlu: {prelude: 'About {subject}.', longest: 500, least_accuracy: 0.0}";
    let subjects =
        |ask: &str| format!("params.subjects=[{{name: small, model: {}, ask: {{{ask}}}}}]", folder.path().display());
    let trial = PROGRAM.trial(
        "behaviour",
        &["needs=[]", "published=[]", &subjects(ask), "params.shots=[0, 5]", "params.score_text=false"],
    );
    let run = |trial: &trial::Trial| {
        let mut command = trial.command();
        command.env("HF_HUB_CACHE", &cache).env("HF_HUB_OFFLINE", "1").output().unwrap()
    };
    let output = run(&trial);
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("2 subjects: anatomy, virology"), "{}", told(&output));
    let table = Table::read(&trial.results(), "behaviour").unwrap();
    assert_eq!(table.ints("questions").unwrap(), [Some(48), Some(48)]);
    let wrong = ask.replace("longest", "subjects: [anatomie], longest");
    let output = run(&PROGRAM.trial("behaviour", &["needs=[]", &subjects(&wrong)]));
    assert!(told(&output).contains("MMLU has no subject `anatomie`"), "{}", told(&output));
}
