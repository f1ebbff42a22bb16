//! The smoke profile against committed tables. `RETRACE_BLESS=1` rewrites them, for the reviewer of `git diff`.

use std::path::{Path, PathBuf};

use tables::{Table, Tolerance, compare};

use crate::bench::{Bench, assert_same};

fn golden(experiment: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(experiment)
}

/// Rounding differs between processors and grows over the forty steps of the smoke run, so numbers have room; texts,
/// whole numbers and the rows themselves have none.
fn check(bench: &Bench, experiment: &str, names: &[&str]) {
    for name in names {
        let ours = Table::read(&bench.results(), name).unwrap();
        if std::env::var_os("RETRACE_BLESS").is_some() {
            ours.write(&golden(experiment)).unwrap();
            continue;
        }
        let path = golden(experiment).join(format!("{name}.csv"));
        let theirs = Table::read_csv_as(&path, ours.schema().clone()).unwrap();
        if let Err(mismatch) = compare(&theirs, &ours, Tolerance { relative: 1e-2, absolute: 2e-3 }) {
            panic!("{experiment}/{name}: {mismatch}");
        }
    }
}

#[test]
fn smoke_tables_are_the_golden_ones() {
    let train = Bench::new("train", &[]);
    train.finish();
    check(&train, "train", &["dynamics", "thresholds"]);
    let attribution = Bench::new("attribution", &[]).needing("icot-mult/train", &train.results());
    attribution.finish();
    check(&attribution, "attribution", &["delta", "reference", "published_delta"]);
}

#[test]
fn one_two_and_four_threads_and_a_second_run_give_the_same_bytes() {
    // the second is large enough for its steps to be split, in every way that there is
    let split =
        ["params.batch_size=96", "params.model.d_model=32", "params.model.dropout=0.1", "params.training.accumulate=2"];
    for set in [&[], split.as_slice()] {
        let one = Bench::new("train", set);
        one.finish();
        for threads in [1, 2, 4] {
            let other = Bench::new("train", set).threads(threads);
            other.finish();
            assert_same(&one.tables(), &other.tables());
        }
        let recomputed = Bench::new("train", &[set, &["params.training.recompute=true"]].concat()).threads(2);
        recomputed.finish();
        assert_same(&one.tables(), &recomputed.tables());
    }
}
