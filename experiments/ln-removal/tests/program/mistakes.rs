//! What the program answers to nonsense.

use crate::PROGRAM;

/// Runs `ioi` with changes; it must refuse with all of `words` and leave nothing.
fn refused(overrides: &[&str], words: &[&str]) {
    PROGRAM.trial("ioi", &[&["needs=[]"], overrides].concat()).refused(words);
}

#[test]
fn models_that_are_not_there_are_told() {
    refused(&["params.models=[{name: mine, model: ./nowhere}]"], &["params.models: mine", "./nowhere", "no such file"]);
    refused(&[], &["ln-removal/pretrain", "needs"]);
}

#[test]
fn sentences_and_comparisons_that_cannot_work_are_told() {
    let pretrain = PROGRAM.trial("pretrain", &["params.training.steps=1"]);
    pretrain.finish();
    let folder = pretrain.results().join("models/toy");
    let models = format!("params.models=[{{name: toy, model: {}}}]", folder.display());
    refused(&[&models, "params.sentences.template='{first} and {second} met. He'"], &["{subject}"]);
    let names = "params.sentences.names=[Xylophonia, Zbigniewina]";
    refused(&[&models, names], &["params.sentences.names", "0 of 2"]);
    let compare = "params.compare={with_norms: toy, without_norms: bare}";
    refused(&[&models, compare], &["params.compare", "`bare`"]);
}
