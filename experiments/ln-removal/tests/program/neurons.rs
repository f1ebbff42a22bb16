//! Confidence neurons of the small smoke model, against properties that hold for all weights.

use tables::{Table, Tolerance, Value};
use trial::{Trial, assert_same};

use crate::PROGRAM;

/// The small model twice, as `original` and as `vanilla`, so that both must give the same values.
fn trial(pretrain: &Trial, overrides: &[&str]) -> Trial {
    let small = pretrain.results().join("models/toy");
    let small = small.display();
    let models = format!("params.models=[{{name: original, model: {small}}}, {{name: vanilla, model: {small}}}]");
    let first = ["needs=[ln-removal/pretrain]", &models, "params.without_norms=original", "claims=[]"];
    let trial = PROGRAM.trial("neurons", &[&first, overrides].concat());
    trial.needing("ln-removal/pretrain", &pretrain.results())
}

fn pretrained() -> Trial {
    let pretrain = PROGRAM.trial("pretrain", &[]);
    pretrain.finish();
    pretrain
}

fn metric(folder: &std::path::Path, name: &str) -> f64 {
    let metrics = Table::read(folder, "metrics").unwrap();
    let row = metrics.filter("metric", &[Value::from(name)]).unwrap();
    assert_eq!(row.len(), 1, "{name}");
    row.floats("value").unwrap()[0]
}

#[test]
fn neurons_are_ranked_and_ablated_consistently() {
    let pretrain = pretrained();
    let neurons = trial(&pretrain, &[]);
    neurons.finish();
    let folder = neurons.results();
    let table = |name: &str| Table::read(&folder, name).unwrap();
    ranks_are_consistent(&table("neurons"));
    // both models have the same weights
    assert_eq!(metric(&folder, "vanilla.top_overlap"), 1.);
    assert_eq!(metric(&folder, "vanilla.ce_effect_ratio"), 1.);
    assert!(metric(&folder, "original.entropy_effect") > 0.);
    for (name, least) in [("neurons", 2), ("null_space", 2), ("ablation", 2), ("quartiles", 2), ("cumulative", 2)] {
        let both = ["original", "vanilla"].map(|model| table(name).filter("model", &[Value::from(model)]).unwrap());
        assert!(both[0].len() >= least);
        for column in both[0].schema().columns.iter().filter(|column| column.name != "model") {
            assert_eq!(both[0].values(&column.name).unwrap(), both[1].values(&column.name).unwrap(), "{name}");
        }
    }
    box_plots_are_ordered(&table("ablation"));
    // squared cosines with all directions sum to one, and the largest singular value is one
    let original = table("null_space").filter("model", &[Value::from("original")]).unwrap();
    let curve = |name: &str| original.filter("curve", &[Value::from(name)]).unwrap().floats("value").unwrap();
    assert!((curve("cosine").iter().map(|cosine| cosine * cosine).sum::<f64>() - 1.).abs() < 1e-9);
    assert_eq!(curve("singular")[0], 1.);
    assert!(curve("singular").windows(2).all(|pair| pair[0] >= pair[1]));
    // without ablation nothing changes, and the first entry of the cumulative ablation is the model itself
    let cumulative = table("cumulative");
    let nothing = cumulative.filter("n", &[Value::from(0usize)]).unwrap();
    assert!(nothing.floats("ce_change").unwrap().iter().all(|change| *change == 0.));
    let in_order = table("in_order").filter("model", &[Value::from("vanilla")]).unwrap();
    assert_eq!(in_order.floats("ce").unwrap()[0], metric(&folder, "vanilla.ce"));
    assert_eq!(in_order.floats("ce").unwrap()[4], metric(&folder, "in_order.ce"));
    assert_eq!(table("in_order").len(), 5 + 2);
    // the batch size does not matter
    let one_by_one = trial(&pretrain, &["params.batch=1"]);
    one_by_one.finish();
    for name in ["ablation", "cumulative", "in_order"] {
        let other = Table::read(&one_by_one.results(), name).unwrap();
        tables::compare(&table(name), &other, Tolerance { relative: 1e-3, absolute: 1e-4 }).unwrap();
    }
}

/// Every neuron occurs once, scores decrease with rank, and seven neurons are marked as highest.
fn ranks_are_consistent(neurons: &Table) {
    let original = neurons.filter("model", &[Value::from("original")]).unwrap();
    let rank: Vec<i64> = original.ints("rank").unwrap().into_iter().map(Option::unwrap).collect();
    let score = original.floats("score").unwrap();
    let mut order: Vec<usize> = (0..rank.len()).collect();
    order.sort_by_key(|neuron| rank[*neuron]);
    assert_eq!(order.iter().map(|neuron| rank[*neuron]).collect::<Vec<_>>(), (1..=128).collect::<Vec<i64>>());
    assert!(order.windows(2).all(|pair| score[pair[0]] >= score[pair[1]]));
    let (norm, logit_var) = (original.floats("norm").unwrap(), original.floats("logit_var").unwrap());
    for neuron in 0..rank.len() {
        assert!((norm[neuron] / logit_var[neuron] / score[neuron] - 1.).abs() < 1e-9);
    }
    assert_eq!(original.filter("group", &[Value::from("highest")]).unwrap().len(), 7);
}

/// Lower whisker, quartiles and upper whisker are in increasing order.
fn box_plots_are_ordered(ablation: &Table) {
    let columns = ["low", "q1", "median", "q3", "high"].map(|name| ablation.floats(name).unwrap());
    assert_eq!(ablation.len(), 2 * 3 * 2);
    for row in 0..ablation.len() {
        assert!(columns.windows(2).all(|pair| 0. <= pair[0][row] && pair[0][row] <= pair[1][row]), "row {row}");
    }
}

#[test]
fn neurons_do_not_depend_on_threads() {
    let pretrain = pretrained();
    let tables = |threads| {
        let neurons = trial(&pretrain, &[]).threads(threads);
        neurons.finish();
        neurons.files()
    };
    assert_same(&tables(1), &tables(2));
}

#[test]
fn missing_models_and_neurons_are_reported() {
    let pretrain = PROGRAM.trial("pretrain", &["params.training.steps=1"]);
    pretrain.finish();
    let refused = |change: &str, words: &[&str]| {
        trial(&pretrain, &[change]).refused(words);
    };
    refused("params.reference=bare", &["params.reference", "`bare`"]);
    refused("params.top=129", &["params.top", "129 of the 128"]);
    refused("params.ablated_in_order=200", &["params.ablated_in_order", "vanilla", "128"]);
    refused("params.cumulative_sequences=11", &["params.cumulative_sequences", "11 of 10"]);
}
