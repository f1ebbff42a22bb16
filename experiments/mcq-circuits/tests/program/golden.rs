//! Compares the smoke profile with committed tables and checks properties that hold for any numbers.

use tables::{Table, Tolerance, Value};
use trial::{Trial, assert_same};

use crate::PROGRAM;

/// The tolerance. Rounding differs between processors, and the differences grow over the steps of the smoke run.
const TOLERANCE: Tolerance = Tolerance { relative: 5e-2, absolute: 5e-2 };

/// Runs every analysis on trained small models.
fn analyses(train: &Trial, threads: usize) -> Vec<(&'static str, Trial)> {
    let names = ["behaviour", "nodes", "attention", "subspaces", "mutations", "paths"];
    let run = |name| {
        let trial = PROGRAM.trial(name, &[]).needing("mcq-circuits/train", &train.results()).threads(threads);
        trial.finish();
        (name, trial)
    };
    names.map(run).into_iter().collect()
}

fn floats(table: &Table, column: &str, of: &[(&str, &str)]) -> Vec<f64> {
    let mut table = table.clone();
    for (column, value) in of {
        table = table.filter(column, &[Value::from(*value)]).unwrap();
    }
    assert!(!table.is_empty(), "{of:?}");
    table.floats(column).unwrap()
}

#[test]
fn smoke_tables_match_the_golden_ones_and_identities_hold() {
    let train = PROGRAM.trial("train", &[]);
    train.finish();
    PROGRAM.check_golden(&train, &["curves", "sets", "stages"], TOLERANCE);
    let analyses = analyses(&train, 1);
    let of = |name: &str| &analyses.iter().find(|(is, _)| *is == name).unwrap().1;
    PROGRAM.check_golden(of("behaviour"), &["behaviour", "letters"], TOLERANCE);
    PROGRAM.check_golden(of("nodes"), &["pairs"], TOLERANCE);
    let read = |name: &str, table: &str| Table::read(&of(name).results(), table).unwrap();

    let sets = read("nodes", "sets");
    let nodes = 6.; // two blocks of two heads and an MLP
    let whole = sets.filter("k", &[Value::Int(nodes as i64)]).unwrap().filter("kinds", &[Value::from("both")]).unwrap();
    for r in
        floats(&whole, "r", &[("mode", "denoising")]).into_iter().chain(floats(&whole, "r", &[("mode", "noising")]))
    {
        assert!((r - 1.).abs() < 1e-2, "patching all nodes must give the whole change: {r}");
    }
    let effects = read("nodes", "effects");
    for subject in ["options_first", "question_first"] {
        let shares = floats(&effects, "cum_share", &[("subject", subject)]);
        assert!(shares.is_sorted() && (shares.last().unwrap() - 1.).abs() < 1e-9);
        let (direct, total) =
            (floats(&effects, "delta_de", &[("subject", subject)]), floats(&effects, "te", &[("subject", subject)]));
        let indirect = floats(&effects, "ie", &[("subject", subject)]);
        for ((direct, total), indirect) in direct.iter().zip(&total).zip(&indirect) {
            assert!((total - direct - indirect).abs() < 1e-9);
        }
    }
    let matrices = read("attention", "matrices");
    for head in matrices.distinct("head").unwrap() {
        let cells = matrices.filter("head", std::slice::from_ref(&head)).unwrap();
        for subject in cells.distinct("subject").unwrap() {
            let cells = cells.filter("subject", &[subject]).unwrap();
            for matrix in ["labels", "options"] {
                let sum: f64 = floats(&cells, "value", &[("matrix", matrix)]).iter().sum();
                assert!((sum - 1.).abs() < 1e-9, "{head:?} {matrix}: {sum}");
            }
        }
    }
    let variance = read("subspaces", "variance");
    assert!(!variance.is_empty(), "the smoke models must have letter heads, or these checks are empty");
    let share = |factor: &str| floats(&variance, "share", &[("factor", factor)]);
    let sums: Vec<f64> =
        share("position").iter().zip(share("letter")).zip(share("residual")).map(|((p, l), r)| p + l + r).collect();
    // Queries of the first block do not vary.
    let vary = sums.iter().filter(|sum| !sum.is_nan());
    assert!(vary.clone().count() > 3 && vary.into_iter().all(|sum| (sum - 1.).abs() < 1e-9), "{sums:?}");
    let ranks = read("subspaces", "ranks");
    let width = 16; // d_model over heads
    for subject in ranks.distinct("subject").unwrap() {
        let rows = ranks.filter("subject", &[subject]).unwrap().filter("heads", &[Value::from("all")]).unwrap();
        let own = floats(&rows, "m", &[("edit", "none")])[0];
        let all = rows.filter("rank", &[Value::Int(width)]).unwrap();
        for m in all.floats("m").unwrap() {
            assert!((m - own).abs() < 1e-4, "the full rank must change nothing: {m} {own}");
        }
    }
    assert!(!read("mutations", "mutations").is_empty() && !read("paths", "paths").is_empty());
}

#[test]
fn one_two_and_four_threads_give_the_same_bytes() {
    let train = |threads| {
        let train = PROGRAM.trial("train", &["params.base.training.steps=60"]).threads(threads);
        train.finish();
        train
    };
    let one = train(1);
    let analysed = analyses(&one, 1);
    for threads in [2, 4] {
        assert_same(&one.files(), &train(threads).files());
        for ((_, ours), (_, theirs)) in analysed.iter().zip(analyses(&one, threads)) {
            assert_same(&ours.files(), &theirs.files());
        }
    }
}
