//! Tests the error messages for invalid input.

use trial::Trial;

use crate::PROGRAM;

fn refused(trial: &Trial, words: &[&str]) {
    trial.refused(words);
}

#[test]
fn invalid_corpora_and_models_are_reported() {
    let language = |overrides: &[&str], words: &[&str]| refused(&PROGRAM.trial("language", overrides), words);
    language(&["params.corpus.relations={only: [capitals]}"], &["`capitals`", "country_capital"]);
    language(&["params.model.n_heads=5"], &["params.model", "n_heads = 5"]);
    language(&["params.corpus.relations={only: [math_root]}"], &["no document in words"]);
    let states = |overrides: &[&str], words: &[&str]| refused(&PROGRAM.trial("states", overrides), words);
    states(&["needs=[]"], &["params.sources: toy", "hyperprobe/language", "needs"]);
    states(
        &["needs=[]", "params.sources=[{name: a, model: ./nowhere.gguf}]"],
        &["params.sources: a", "./nowhere.gguf"],
    );
    states(&["needs=[]", "params.sources=[{name: a, model: x}, {name: a, model: x}]"], &["`a` comes twice"]);
    // An unknown family is reported before the first model is read.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"model_type": "llama4"}"#).unwrap();
    let sources = format!(
        "params.sources=[{{name: toy, model: \"hyperprobe/language:language\"}}, {{name: b, model: {}}}]",
        folder.path().display()
    );
    states(&["needs=[]", &sources], &["params.sources: b", "llama4", "gpt_neox"]);
}

#[test]
fn missing_encoders_and_states_are_reported() {
    let done = |trial: Trial| {
        trial.finish();
        trial
    };
    let language = done(PROGRAM.trial("language", &["params.training.steps=2"]));
    let small = [
        "params.corpus.symbols=60",
        "params.corpus.words=20",
        "params.sources=[{name: toy, model: \"hyperprobe/language:language\"}]",
    ];
    let states = done(PROGRAM.trial("states", &small).needing("hyperprobe/language", &language.results()));
    let encoder =
        |overrides: &[&str]| PROGRAM.trial("encoder", overrides).needing("hyperprobe/states", &states.results());
    refused(&encoder(&["params.variants=[{name: a, source: nobody}]"]), &["a", "no states of `nobody`"]);
    refused(&encoder(&["params.variants=[{name: a, source: toy}, {name: a, source: toy}]"]), &["`a` comes twice"]);
    refused(&PROGRAM.trial("encoder", &["needs=[]"]), &["ends in `states`", "hyperprobe/states"]);
    let few = ["params.variants=[{name: a, source: toy}]", "params.training.epochs=1", "claims=[]", "published=[]"];
    let trained = done(encoder(&few));
    let probing = PROGRAM
        .trial("probing", &["params.encoders=[b]"])
        .needing("hyperprobe/states", &states.results())
        .needing("hyperprobe/encoder", &trained.results());
    refused(&probing, &["no encoder `b`", "it has a"]);
    // A file that is not kept in the repository has to be recreated.
    std::fs::remove_file(trained.results().join("artifacts/a.safetensors")).unwrap();
    let probing = PROGRAM
        .trial("probing", &["params.encoders=[a]"])
        .needing("hyperprobe/states", &states.results())
        .needing("hyperprobe/encoder", &trained.results());
    refused(&probing, &["artifacts/a.safetensors", "cargo xtask reproduce hyperprobe/encoder"]);
}
