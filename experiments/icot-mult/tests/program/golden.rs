//! The smoke profile against committed tables. `RETRACE_BLESS=1` rewrites them, to be reviewed with `git diff`.

use tables::{Table, Tolerance, Value};
use trial::assert_same;

use crate::PROGRAM;

/// Rounding errors differ between processors and grow over the forty steps of the smoke run.
const TOLERANCE: Tolerance = Tolerance { relative: 1e-2, absolute: 2e-3 };

#[test]
fn smoke_tables_of_training_and_attribution_match_the_golden_ones() {
    let train = PROGRAM.trial("train", &[]);
    train.finish();
    PROGRAM.check_golden(&train, &["dynamics", "thresholds"], TOLERANCE);
    let attribution = PROGRAM.trial("attribution", &[]).needing("icot-mult/train", &train.results());
    attribution.finish();
    PROGRAM.check_golden(&attribution, &["delta", "reference", "published_delta"], TOLERANCE);
}

#[test]
fn smoke_tables_of_the_analyses_match_the_golden_ones() {
    let train = PROGRAM.trial("train", &[]);
    train.finish();
    // analyses inherit the errors of training; sums over many problems are less sensitive
    let tables: [(&'static str, &[&str]); 4] = [
        ("probes", &["errors"]),
        ("attention", &["entropy"]),
        // the chosen head and digits may depend on the last bit of a barely trained model
        ("geometry", &[]),
        ("fourier", &["fits", "power"]),
    ];
    for (experiment, names) in tables {
        let trial = PROGRAM.trial(experiment, &[]).needing("icot-mult/train", &train.results());
        trial.finish();
        PROGRAM.check_golden(&trial, names, Tolerance { relative: 0.05, absolute: 0.02 });
        let again = PROGRAM.trial(experiment, &[]).needing("icot-mult/train", &train.results()).threads(2);
        again.finish();
        assert_same(&trial.files(), &again.files());
    }
    let data = PROGRAM.trial("data", &[]);
    data.finish();
    PROGRAM.check_golden(&data, &["lines", "sums"], Tolerance { relative: 1e-9, absolute: 1e-9 });
    for experiment in ["deeper", "ablations"] {
        let trial = PROGRAM.trial(experiment, &[]);
        trial.finish();
        let name = if experiment == "deeper" { "dynamics" } else { "stability" };
        PROGRAM.check_golden(&trial, &[name], TOLERANCE);
    }
}

#[test]
fn analyses_accept_other_trainings_and_report_invalid_parameters() {
    let deeper = PROGRAM.trial("deeper", &[]);
    deeper.finish();
    let with = |set: &[&str]| {
        let set = [&["needs=[icot-mult/deeper]", "params.methods=[sft]", "claims=[]", "figures=[]"], set].concat();
        PROGRAM.trial("geometry", &set).needing("icot-mult/deeper", &deeper.results())
    };
    with(&[]).finish();
    for (set, word) in [
        ("params.digit=9", "there is no c9"),
        ("params.head=7", "there is no head 7"),
        ("params.problems=90", "held out 50"),
        ("params.methods=[aux]", "has no model `aux`"),
    ] {
        let output = with(&[set]).command().output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(trial::told(&output).contains(word), "{word}: {}", trial::told(&output));
    }
}

#[test]
fn models_with_kept_positions_have_only_the_positions_in_use() {
    let trial = PROGRAM.trial("train", &["params.icot.keep_positions=true", "params.methods=[icot, sft, cot]"]);
    trial.finish();
    // the first two methods end without a chain of thought, so their models have as few positions as plain ones
    let positions = |method: &str| {
        let model = trial.results().join(format!("models/{method}.safetensors"));
        models::load(&model, &candle_core::Device::Cpu).unwrap().config().n_positions
    };
    assert_eq!(["icot", "sft", "cot"].map(positions), [13, 13, 21]);
    let attribution = PROGRAM
        .trial("attribution", &["params.methods=[icot, sft]", "claims=[]", "figures=[]"])
        .needing("icot-mult/train", &trial.results());
    attribution.finish();
}

#[test]
fn seeds_differ_and_the_worst_decides_a_claim() {
    let claims = "claims=[{id: c, artefact: M-ACC, statement: s, metric: sft.c0.loss, threshold: {at_most: 9}}]";
    let trial = PROGRAM.trial("train", &["params.methods=[sft, sft-2]", "published=[]", "figures=[]", claims]);
    trial.finish();
    let losses = Table::read(&trial.results(), "accuracy_digits").unwrap();
    let of = |method: &str| {
        let rows = losses.filter("method", &[Value::from(method)]).unwrap().filter("digit", &[Value::from("c0")]);
        rows.unwrap().floats("loss").unwrap()[0]
    };
    let (first, second) = (of("sft"), of("sft-2"));
    assert!((first - second).abs() > 1e-6, "{first} {second}");
    let claim = Table::read(&trial.results(), "claims").unwrap();
    assert_eq!(claim.floats("measured").unwrap(), [first.max(second)]);
    let alone = PROGRAM.trial("train", &["params.methods=[sft-2]", "published=[]", "figures=[]", "claims=[]"]);
    alone.finish();
    let file = |trial: &trial::Trial| std::fs::read(trial.results().join("models/sft-2.safetensors")).unwrap();
    assert_eq!(file(&trial), file(&alone), "a seed does not depend on what else is trained");
}

#[test]
fn one_two_and_four_threads_and_a_second_run_give_the_same_bytes() {
    // the second configuration is large enough for its steps to be split between threads in every way
    let split =
        ["params.batch_size=96", "params.model.d_model=32", "params.model.dropout=0.1", "params.training.accumulate=2"];
    for set in [&[], split.as_slice()] {
        let one = PROGRAM.trial("train", set);
        one.finish();
        for threads in [1, 2, 4] {
            let other = PROGRAM.trial("train", set).threads(threads);
            other.finish();
            assert_same(&one.files(), &other.files());
        }
        let recomputed = PROGRAM.trial("train", &[set, &["params.training.recompute=true"]].concat()).threads(2);
        recomputed.finish();
        assert_same(&one.files(), &recomputed.files());
    }
}
