//! Tests the error messages for invalid input.

use trial::Trial;

use crate::PROGRAM;

fn refused(trial: &Trial, words: &[&str]) {
    trial.refused(words);
}

#[test]
fn invalid_small_models_are_reported() {
    let train = |overrides: &[&str], words: &[&str]| refused(&PROGRAM.trial("train", overrides), words);
    train(&["params.questions.items=3", "params.questions.options=4"], &["params.questions.items", "3", "4"]);
    train(&["params.model.n_heads=5"], &["params.model", "n_heads = 5"]);
    train(&["params.toys=[{name: twin}, {name: twin}]"], &["`twin` comes twice"]);
}

#[test]
fn missing_models_are_reported() {
    let nodes = |overrides: &[&str]| PROGRAM.trial("nodes", overrides);
    refused(&nodes(&["needs=[]"]), &["options_first", "mcq-circuits/train", "needs"]);
    let train = PROGRAM.trial("train", &["params.training.steps=2"]);
    train.finish();
    let with = |subjects: &str| {
        let subjects = format!("params.common.subjects={subjects}");
        nodes(&[&subjects]).needing("mcq-circuits/train", &train.results())
    };
    refused(&with("[{name: other, toy: nobody}]"), &["`nobody`", "options_first, question_first"]);
    refused(&with("[{name: both, toy: options_first, model: ./x.gguf}]"), &["either `toy` or `model`"]);
    refused(&with("[{name: real, model: ./nowhere.gguf}]"), &["params.subjects: real", "./nowhere.gguf"]);
    refused(
        &with("[{name: same, toy: options_first}, {name: same, toy: question_first}]"),
        &["params.subjects: `same` comes twice"],
    );
}
