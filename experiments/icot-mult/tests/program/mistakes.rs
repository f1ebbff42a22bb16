//! Error messages for invalid input.

use std::fs;

use tables::Table;
use trial::told;

use crate::PROGRAM;

/// Runs an edited configuration. The program must exit with code 2 and print all of `words`.
fn refused(edit: impl Fn(String) -> String, words: &[&str]) {
    let trial = PROGRAM.trial("train", &[]);
    let text = edit(fs::read_to_string(trial.config()).unwrap());
    fs::write(trial.config(), text).unwrap();
    let output = trial.refused(words);
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
}

#[test]
fn three_mistakes_are_reported_together() {
    refused(
        |text| text.replace("d_model:", "d_modle:").replace("steps: 40", "steps: many").replace("gelu_tanh", "gelu"),
        &["3 mistakes", "d_modle", "`d_model`", "many", "gelu_tanh", "config.yaml:"],
    );
}

#[test]
fn a_claim_on_an_unknown_metric_is_an_error_of_that_claim_alone() {
    let claim = |id: &str, metric: &str| {
        format!("{{id: {id}, artefact: M-ACC, statement: s, metric: {metric}, threshold: {{at_most: 99}}}}")
    };
    let claims = format!("claims=[{}, {}]", claim("mistyped", "sft.c0.lost"), claim("good", "sft.c0.loss"));
    let trial = PROGRAM.trial("train", &[&claims, "claims_asked=all"]);
    let output = trial.command().output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("sft.c0.lost"), "{}", told(&output));
    let claims = Table::read(&trial.results(), "claims").unwrap();
    let texts = |column: &str| claims.texts(column).unwrap().into_iter().map(Option::unwrap_or_default);
    assert_eq!(texts("holds").collect::<Vec<_>>(), ["error", "yes"]);
    assert!(texts("note").next().unwrap().contains("did you mean `sft.c0.loss`?"));
    assert!(Table::read(&trial.results(), "accuracy").is_ok() && trial.results().join("run.yaml").exists());
}

#[test]
fn invalid_methods_are_reported() {
    for (methods, word) in [("[sft, sft]", "`sft` comes twice"), ("[icot-1]", "not sft, icot"), ("[icto]", "icto")] {
        let trial = PROGRAM.trial("train", &[&format!("params.methods={methods}"), "claims=[]", "published=[]"]);
        let output = trial.command().output().unwrap();
        assert!(!output.status.success() && told(&output).contains(word), "{}", told(&output));
    }
}

#[test]
fn unknown_devices_and_experiments_are_reported() {
    let trial = PROGRAM.trial("train", &[]);
    let message = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_icot-mult"));
        let output = command.args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        told(&output)
    };
    assert!(message(&["schema", "trian"]).contains("did you mean `train`?"));
    let output = trial.command().args(["--device", "gpu"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output).contains("--device"), "{}", told(&output));
}

#[test]
fn missing_needs_are_reported() {
    let trial = PROGRAM.trial("attribution", &[]);
    let output = trial.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("icot-mult/train"), "{}", told(&output));
    let empty = tempfile::tempdir().unwrap();
    let trial = PROGRAM.trial("attribution", &[]).needing("icot-mult/train", empty.path());
    let output = trial.command().output().unwrap();
    assert!(told(&output).contains("cargo xtask reproduce icot-mult/train"), "{}", told(&output));
}

#[test]
fn impossible_models_are_reported() {
    let trial = PROGRAM.trial("train", &["params.model.n_heads=3"]);
    let output = trial.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("n_heads = 3 does not divide d_model = 16"), "{}", told(&output));
    let trial = PROGRAM.trial("train", &["params.aux.heads=[0, 2]"]);
    let output = trial.command().output().unwrap();
    assert!(told(&output).contains("head 2 does not exist"), "{}", told(&output));
    let trial = PROGRAM.trial("train", &["params.task.validation=9000"]);
    let output = trial.command().output().unwrap();
    assert!(told(&output).contains("8100"), "{}", told(&output));
}

#[test]
fn a_results_folder_that_cannot_be_created_is_named() {
    let trial = PROGRAM.trial("train", &[]);
    fs::write(trial.results(), b"a file in the way").unwrap();
    let output = trial.command().output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert!(told(&output).contains("results"), "{}", told(&output));
}
