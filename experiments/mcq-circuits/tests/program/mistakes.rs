//! Tests the error messages for invalid input.

use trial::Trial;

use crate::PROGRAM;

fn refused(trial: &Trial, words: &[&str]) {
    trial.refused(words);
}

#[test]
fn invalid_small_models_are_reported() {
    let train = |overrides: &[&str], words: &[&str]| refused(&PROGRAM.trial("train", overrides), words);
    train(
        &["params.base.questions.items=3", "params.base.questions.options=4"],
        &["params.base.questions.items", "3", "4"],
    );
    train(&["params.base.model.n_heads=5"], &["params.base.model", "n_heads = 5"]);
    train(&["params.models=[{name: twin}, {name: twin}]"], &["`twin` comes twice"]);
}

#[test]
fn missing_models_are_reported() {
    let nodes = |overrides: &[&str]| PROGRAM.trial("nodes", overrides);
    refused(&nodes(&["needs=[]"]), &["options_first", "mcq-circuits/train", "needs"]);
    let train = PROGRAM.trial("train", &["params.base.training.steps=2"]);
    train.finish();
    let with = |subjects: &str| {
        let subjects = format!("params.common.subjects={subjects}");
        nodes(&[&subjects]).needing("mcq-circuits/train", &train.results())
    };
    refused(
        &with("[{name: other, model: \"mcq-circuits/train:nobody_late\"}]"),
        &["`nobody_late`", "options_first_late"],
    );
    refused(&with("[{name: real, model: ./nowhere.gguf}]"), &["params.subjects: real", "./nowhere.gguf"]);
    refused(
        &with(
            "[{name: same, model: \"mcq-circuits/train:options_first_late\"}, {name: same, model: \"mcq-circuits/train:question_first_late\"}]",
        ),
        &["params.subjects: `same` comes twice"],
    );
}
