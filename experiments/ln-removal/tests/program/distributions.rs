//! Statistics of predictions, against properties that hold for all models.

use std::collections::BTreeMap;

use tables::{Table, Value};
use trial::{Trial, assert_same};

use crate::PROGRAM;

const NEEDS: &str = "needs=[ln-removal/pretrain]";
/// Predicted tokens of the smoke configuration: 24 sequences of 32 tokens.
const TOKENS: usize = 24 * 31;

fn pretrained(steps: &str) -> Trial {
    let pretrain = PROGRAM.trial("pretrain", &[&format!("params.training.steps={steps}")]);
    pretrain.finish();
    pretrain
}

/// `distributions` on three checkpoints, of which the first two are the same.
fn compared(pretrain: &Trial, other: &Trial, overrides: &[&str], threads: usize) -> Trial {
    let folder = |of: &Trial| of.results().join("models/toy").display().to_string();
    let models = format!(
        "params.models=[{{name: original, model: {0}}}, {{name: vanilla, model: {0}}}, {{name: ln_free, model: {1}}}]",
        folder(pretrain),
        folder(other)
    );
    let overrides = [&[NEEDS, &models], overrides].concat();
    let trial = PROGRAM.trial("distributions", &overrides);
    trial.needing("ln-removal/pretrain", &pretrain.results()).threads(threads)
}

/// Values of a column by the cells of two others.
fn by(table: &Table, keys: [&str; 2], column: &str) -> BTreeMap<(String, String), f64> {
    let [first, second] = keys.map(|key| table.values(key).unwrap());
    let keys = first.iter().zip(&second).map(|(first, second)| (first.to_string(), second.to_string()));
    keys.zip(table.floats(column).unwrap()).collect()
}

/// Sum of `tokens` by the cells of a column.
fn tokens(table: &Table, column: &str) -> BTreeMap<String, usize> {
    let mut sums = BTreeMap::new();
    for (key, count) in table.values(column).unwrap().iter().zip(table.ints("tokens").unwrap()) {
        *sums.entry(key.to_string()).or_default() += usize::try_from(count.unwrap_or(0)).unwrap();
    }
    sums
}

#[test]
fn equal_models_have_equal_statistics_and_all_tables_count_all_tokens() {
    let (pretrain, other) = (pretrained("60"), pretrained("20"));
    let trial = compared(&pretrain, &other, &[], 1);
    trial.finish();
    let table = |name: &str| Table::read(&trial.results(), name).unwrap();

    let statistics = table("statistics");
    let columns = ["mean", "ci_lower", "ci_upper"];
    let [mean, lower, upper] = columns.map(|column| by(&statistics, ["metric", "subject"], column));
    let at = |metric: &str, subject: &str| (metric.to_owned(), subject.to_owned());
    for metric in ["ce", "entropy", "ece", "accuracy"] {
        for values in [&mean, &lower, &upper] {
            assert_eq!(values[&at(metric, "original")], values[&at(metric, "vanilla")], "{metric}");
            assert_eq!(values[&at(&format!("{metric}_change"), "original vs vanilla")], 0., "{metric}");
        }
        let change = mean[&at(metric, "ln_free")] - mean[&at(metric, "original")];
        assert_eq!(mean[&at(&format!("{metric}_change"), "original vs ln_free")], change, "{metric}");
    }
    assert_eq!(upper[&at("jsd", "original vs vanilla")], 0.);
    assert!(mean[&at("jsd", "original vs ln_free")] > 0.01);
    assert_eq!(mean[&at("jsd", "original vs ln_free")], mean[&at("jsd", "vanilla vs ln_free")]);
    // the calibration error of resamples is biased upwards, so the interval need not contain its value
    for (key, mean) in mean.iter().filter(|((metric, _), _)| !metric.starts_with("ece")) {
        assert!(lower[key] <= *mean && *mean <= upper[key], "{key:?}");
    }
    // `ln_free` is trained for fewer steps and so has a larger loss
    assert!(lower[&at("ce_change", "original vs ln_free")] > 0.);

    for (name, column, subjects) in [
        ("ce_histogram", "model", 3),
        ("entropy_histogram", "model", 3),
        ("jsd_histogram", "pair", 3),
        ("calibration", "model", 3),
        ("divergence", "pair", 3),
    ] {
        let sums = tokens(&table(name), column);
        assert_eq!(sums.len(), subjects, "{name}");
        assert!(sums.values().all(|sum| *sum == TOKENS), "{name}: {sums:?}");
    }
    let joint = table("joint").filter("metric", &[Value::from("ce")]).unwrap();
    assert!(tokens(&joint, "pair").values().all(|sum| *sum <= TOKENS && *sum > TOKENS * 9 / 10));
    // values of equal models are on the diagonal
    let equal = joint.filter("pair", &[Value::from("original vs vanilla")]).unwrap();
    assert_eq!((equal.len(), equal.floats("x").unwrap()), (50, equal.floats("y").unwrap()));

    let medians = table("by_position").filter("statistic", &[Value::from("median")]).unwrap();
    assert!(tokens(&medians, "model").values().all(|sum| *sum == 2 * TOKENS));
    assert_eq!(medians.distinct("position").unwrap(), ["0-8", "8-16", "16-32"].map(Value::from));

    let divergence = table("divergence");
    let sums = by(&divergence, ["pair", "region"], "contribution");
    let sum: f64 = sums.iter().filter(|((pair, _), _)| pair == "original vs ln_free").map(|(_, part)| part).sum();
    assert!((sum - mean[&at("ce_change", "original vs ln_free")]).abs() < 1e-9);
    assert!(table("points").ints("position").unwrap().iter().all(|position| position.unwrap() < 31));
}

#[test]
fn batches_and_threads_do_not_matter() {
    let (pretrain, other) = (pretrained("2"), pretrained("1"));
    let run = |overrides: &[&str], threads| {
        let trial = compared(&pretrain, &other, overrides, threads);
        trial.finish();
        trial
    };
    let one = run(&[], 1);
    assert_same(&one.files(), &run(&[], 2).files());
    let whole = run(&["params.batch=24"], 2);
    let [one, whole] = [&one, &whole].map(|trial| Table::read(&trial.results(), "statistics").unwrap());
    tables::compare(&one, &whole, tables::Tolerance { relative: 1e-5, absolute: 1e-6 }).unwrap();
}

#[test]
fn every_seed_is_paired_with_models_that_have_only_one() {
    let pretrain = pretrained("1");
    let folder = pretrain.results().join("models/toy").display().to_string();
    let names = ["original", "vanilla", "ln_free", "vanilla-2", "ln_free-2"];
    let models: Vec<String> = names.iter().map(|name| format!("{{name: {name}, model: {folder}}}")).collect();
    let trial = PROGRAM.trial("distributions", &[NEEDS, &format!("params.models=[{}]", models.join(", "))]);
    let trial = trial.needing("ln-removal/pretrain", &pretrain.results());
    trial.finish();
    let pairs = Table::read(&trial.results(), "divergence").unwrap().distinct("pair").unwrap();
    assert_eq!(pairs.len(), 6);
    assert!(pairs.contains(&Value::from("original vs ln_free-2")));
    assert!(!pairs.contains(&Value::from("vanilla vs vanilla-2")));
    let metrics = Table::read(&trial.results(), "metrics").unwrap();
    let names = metrics.texts("metric").unwrap();
    for name in ["jsd.original_ln_free", "jsd.original_ln_free@2", "ln_free.ce@2"] {
        assert!(names.iter().flatten().any(|metric| metric == name), "{name}");
    }
}

#[test]
fn invalid_lengths_and_edges_are_reported() {
    let pretrain = pretrained("1");
    let refused = |overrides: &[&str], words: &[&str]| {
        compared(&pretrain, &pretrain, overrides, 1).refused(words);
    };
    refused(&["params.length=49"], &["params.length", "49", "original reads at most 48"]);
    refused(&["params.position_edges=[0, 8, 8]"], &["params.position_edges", "[0, 8, 8]"]);
}
