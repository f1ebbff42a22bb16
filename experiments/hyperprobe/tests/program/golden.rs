//! Compares the smoke profile with committed tables and checks properties that hold for any numbers.

use tables::{Table, Tolerance, Value};
use trial::{Trial, assert_same};

use crate::PROGRAM;

/// The tolerance. Rounding differs between processors, and the differences grow over the steps of the smoke run.
const TOLERANCE: Tolerance = Tolerance { relative: 5e-2, absolute: 5e-2 };

/// Runs all experiments in order, each with the results that it needs.
fn chain(threads: usize) -> Vec<(&'static str, Trial)> {
    let run = |name: &'static str, done: &[(&'static str, Trial)]| {
        let mut trial = PROGRAM.trial(name, &[]);
        let needs: &[&str] = match name {
            "states" | "questions" => &["language"],
            "encoder" | "ablations" => &["states"],
            "probing" => &["states", "encoder"],
            _ => &[],
        };
        for need in needs {
            let (_, finished) = done.iter().find(|(is, _)| is == need).unwrap();
            trial = trial.needing(&format!("hyperprobe/{need}"), &finished.results());
        }
        let trial = trial.threads(threads);
        trial.finish();
        (name, trial)
    };
    let mut done = Vec::new();
    for name in ["algebra", "language", "states", "encoder", "probing", "ablations", "questions"] {
        let next = run(name, &done);
        done.push(next);
    }
    done
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
    let chain = chain(1);
    let of = |name: &str| &chain.iter().find(|(is, _)| *is == name).unwrap().1;
    PROGRAM.check_golden(of("algebra"), &["bundle", "capacity", "corpus", "codebooks"], TOLERANCE);
    PROGRAM.check_golden(of("language"), &["curves"], TOLERANCE);
    PROGRAM.check_golden(of("states"), &["silhouettes", "ingested", "spectrum"], TOLERANCE);
    PROGRAM.check_golden(of("encoder"), &["variants", "scores"], TOLERANCE);
    PROGRAM.check_golden(of("ablations"), &["variants"], TOLERANCE);
    PROGRAM.check_golden(of("questions"), &["fit"], TOLERANCE);
    let read = |name: &str, table: &str| Table::read(&of(name).results(), table).unwrap();

    assert_eq!(floats(&read("algebra", "identities"), "failed", &[]).iter().sum::<f64>(), 0.);
    let scores = read("encoder", "scores");
    let constant = floats(&scores, "cosine", &[("variant", "constant -1")])[0];
    assert!((constant - 0.5).abs() < 0.02, "{constant}");
    for cosine in floats(&scores, "cosine", &[("set", "test, permuted states")]) {
        assert!(cosine < 0.55, "permuted states carry no information about the target: {cosine}");
    }
    let shares = read("probing", "factors");
    for encoder in shares.distinct("encoder").unwrap() {
        let of = shares.filter("encoder", &[encoder]).unwrap();
        for area in of.distinct("area").unwrap() {
            let sum: f64 = of.filter("area", &[area]).unwrap().floats("share").unwrap().iter().sum();
            assert!((sum - 1.).abs() < 1e-9, "{sum}");
        }
    }
    let r = read("states", "correlations");
    for source in ["toy", "untrained"] {
        let r = r.filter("source", &[Value::from(source)]).unwrap();
        let (layers, others, r) = (r.ints("layer").unwrap(), r.ints("other").unwrap(), r.floats("r").unwrap());
        assert!(layers.iter().zip(&others).zip(&r).all(|((a, b), r)| a != b || (r - 1.).abs() < 1e-9));
    }
    let shown = read("questions", "proportions");
    assert!(floats(&shown, "share", &[("kind", "other")]).iter().all(|share| (0. ..=1.).contains(share)));
    assert!(!read("probing", "records").is_empty() && !read("states", "lens").is_empty());
}

#[test]
fn one_two_and_four_threads_give_the_same_bytes() {
    let one = chain(1);
    for threads in [2, 4] {
        for ((_, ours), (_, theirs)) in one.iter().zip(chain(threads)) {
            assert_same(&ours.files(), &theirs.files());
        }
    }
}
