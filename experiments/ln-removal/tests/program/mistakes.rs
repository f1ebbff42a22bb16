//! Error messages for invalid input.

use crate::PROGRAM;

/// Runs `ioi` with overrides. It must fail with all of `words` in its message and leave no results.
fn refused(overrides: &[&str], words: &[&str]) {
    PROGRAM.trial("ioi", &[&["needs=[]"], overrides].concat()).refused(words);
}

#[test]
fn missing_models_are_reported() {
    refused(&["params.models=[{name: mine, model: ./nowhere}]"], &["params.models: mine", "./nowhere", "no such file"]);
    refused(&[], &["ln-removal/pretrain", "needs"]);
}

#[test]
fn invalid_sentences_and_comparisons_are_reported() {
    let pretrain = PROGRAM.trial("pretrain", &["params.training.steps=1"]);
    pretrain.finish();
    let folder = pretrain.results().join("models/toy");
    let models = format!("params.models=[{{name: small, model: {}}}]", folder.display());
    refused(&[&models, "params.sentences.template='{first} and {second} met. He'"], &["{subject}"]);
    let names = "params.sentences.names=[Xylophonia, Zbigniewina]";
    refused(&[&models, names], &["params.sentences.names", "0 of 2"]);
    let compare = "params.compare={with_norms: small, without_norms: bare}";
    refused(&[&models, compare], &["params.compare", "`bare`"]);
}
