//! Loads a file into an [`Envelope`]: reads, merges overlays, applies overrides, checks, and deserialises.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::check::check;
use crate::envelope::Envelope;
use crate::error::{Error, Mistake, shown};
use crate::located::{At, Node, Origin, Parsed};
use crate::overlay::{Override, apply, read};
use crate::profile::{ExperimentId, Profile};
use crate::schema::schema as schema_of;
use crate::semantics::{self, Known};

/// Loads a configuration file from any folder.
///
/// `paper`, `experiment` and `profile` come from the file if it has them (resolved files do), or else from its path.
/// Without a schema, `params` may be anything.
///
/// # Errors
/// When the file cannot be read; or with all mistakes at once, each with its line.
pub fn load_file(path: &Path, schema: Option<&Value>, overrides: &[Override]) -> Result<Envelope, Error> {
    let mut parsed = read(path)?;
    let mut names = Names::from_path(path);
    if let Some(tree) = &mut parsed.node {
        let mistakes = names.take(tree);
        parsed.mistakes.extend(mistakes);
    }
    let open = schema.is_none().then(schema_of::<BTreeMap<String, Value>>);
    let schema = schema.or(open.as_ref()).unwrap_or(&Value::Bool(true));
    resolve(parsed, &shown(path), names, &Rules { schema, overrides, known: None })
}

/// The experiment's own parameters.
///
/// # Errors
/// When they do not fit `P`, which a check against its schema rules out.
pub fn params<P: DeserializeOwned>(envelope: &Envelope) -> Result<P, Error> {
    let origin = || format!("params of {} ({})", envelope.id(), envelope.profile);
    P::deserialize(&envelope.body.params).map_err(|source| Error::Shape { origin: origin(), source })
}

impl Envelope {
    /// Name of the experiment.
    pub fn id(&self) -> ExperimentId {
        ExperimentId { paper: self.paper.clone(), name: self.experiment.clone() }
    }

    /// The same configuration with some keys changed.
    ///
    /// # Errors
    /// With all mistakes at once, each with the text of its override.
    pub fn with(&self, overrides: &[Override], schema: &Value) -> Result<Envelope, Error> {
        let origin = format!("{} ({})", self.id(), self.profile);
        let value =
            serde_json::to_value(&self.body).map_err(|source| Error::Shape { origin: origin.clone(), source })?;
        let at = At::start(Origin::Whole(origin.clone()), "");
        let parsed = Parsed { node: Some(Node::from_value(&value, &at)), mistakes: Vec::new() };
        let names =
            Names { paper: self.paper.clone(), experiment: self.experiment.clone(), profile: self.profile.clone() };
        resolve(parsed, &origin, names, &Rules { schema, overrides, known: None })
    }

    /// One point of the sweep: its keys set, the sweep removed.
    ///
    /// # Errors
    /// As [`Envelope::with`].
    pub fn at_point(&self, point: &[Override], schema: &Value) -> Result<Envelope, Error> {
        let mut single = self.clone();
        single.body.sweep = None;
        single.with(point, schema)
    }
}

/// The schema and rules for a tree, and the overrides to apply.
pub(crate) struct Rules<'a> {
    pub(crate) schema: &'a Value,
    pub(crate) overrides: &'a [Override],
    pub(crate) known: Option<Known<'a>>,
}

/// Turns a tree into an envelope.
pub(crate) fn resolve(parsed: Parsed, origin: &str, names: Names, rules: &Rules<'_>) -> Result<Envelope, Error> {
    let Parsed { node, mut mistakes } = parsed;
    let Some(mut tree) = node else { return Err(Error::mistakes(origin, mistakes)) };
    mistakes.extend(apply(&mut tree, rules.overrides));
    let (value, told) = check(&tree, rules.schema);
    mistakes.extend(told);
    mistakes.extend(semantics::check(&tree, &value, rules.schema, rules.known));
    if !mistakes.is_empty() {
        return Err(Error::mistakes(origin, mistakes));
    }
    let body = serde_json::from_value(value).map_err(|source| Error::Shape { origin: origin.to_owned(), source })?;
    Ok(Envelope { paper: names.paper, experiment: names.experiment, profile: names.profile, body })
}

/// The three names that follow from the path of a configuration.
pub(crate) struct Names {
    pub(crate) paper: String,
    pub(crate) experiment: String,
    pub(crate) profile: String,
}

impl Names {
    /// `<paper>/<experiment>[.<profile>].yaml`.
    fn from_path(path: &Path) -> Names {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let folder = real.parent().and_then(Path::file_name).unwrap_or_default();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let (experiment, profile) = match stem.rsplit_once('.') {
            Some((experiment, profile)) if profile.parse::<Profile>().is_ok() => (experiment, profile),
            _ => (&*stem, Profile::Cpu.name()),
        };
        Names {
            paper: folder.to_string_lossy().into_owned(),
            experiment: experiment.to_owned(),
            profile: profile.to_owned(),
        }
    }

    /// Takes the names that a resolved file states.
    fn take(&mut self, tree: &mut Node) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        for (key, name) in
            [("paper", &mut self.paper), ("experiment", &mut self.experiment), ("profile", &mut self.profile)]
        {
            let Some(entry) = tree.take(key) else { continue };
            match entry.node.text() {
                Some(text) => text.clone_into(name),
                None => mistakes.push(entry.node.at.mistake(key, "expected text")),
            }
            if key == "profile"
                && let Err(Error::Unknown { nearest, .. }) = name.parse::<Profile>()
            {
                let guess = nearest.map_or_else(String::new, |nearest| format!(", did you mean `{nearest}`?"));
                mistakes.push(entry.node.at.mistake(key, format!("unknown profile{guess}")));
            }
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::located::{parse, parse_bytes};
    use crate::{Sweep, Threshold, yaml};

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Params {
        lr: f64,
        model: Model,
        schedule: Schedule,
        #[serde(default)]
        methods: Vec<String>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Model {
        #[schemars(range(min = 1))]
        d_model: usize,
        n_layers: Option<usize>,
    }

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case", deny_unknown_fields)]
    enum Schedule {
        Constant,
        Cosine { warmup: u64 },
        Steps(Vec<u64>),
    }

    const BASE: &str = "\
# yaml-language-server: $schema=../schema/p/train.json
title: A title
seed: 1
artefacts: [{id: M-F2, title: Heat map}]
params:
  lr: 1e-3
  model:
    d_model: 64
  schedule:
    cosine:
      warmup: 10
";

    const CLAIM: &str =
        "claims:\n- {id: a, artefact: M-F2, statement: high, metric: acc, threshold: {at_least: 0.9}}\n";
    const FIGURE: &str = "figures:\n- {id: a, artefact: M-F2, title: t, kind: line, table: t, x: a, y: b}\n";

    /// Loads `train.yaml`, or the last of several files.
    fn load(files: &[(&str, &str)], sets: &[&str]) -> Result<Envelope, Error> {
        let folder = tempfile::tempdir().unwrap();
        let paper = folder.path().join("p");
        std::fs::create_dir(&paper).unwrap();
        for (name, text) in files {
            std::fs::write(paper.join(name), text).unwrap();
        }
        let overrides: Vec<Override> = sets.iter().map(|set| set.parse().unwrap()).collect();
        let loaded = load_file(&paper.join(files.last().unwrap().0), Some(&schema_of::<Params>()), &overrides);
        loaded.map_err(|error| hide(error, &format!("{}/", paper.display())))
    }

    fn hide(error: Error, folder: &str) -> Error {
        let Error::Mistakes { origin, mut mistakes } = error else { return error };
        for mistake in &mut mistakes {
            mistake.what = mistake.what.replace(folder, "");
            if let crate::Place::File { path, .. } = &mut mistake.place {
                *path = path.replace(folder, "");
            }
        }
        Error::Mistakes { origin: origin.replace(folder, ""), mistakes }
    }

    fn told(error: &Error) -> Vec<String> {
        match error {
            Error::Mistakes { mistakes, .. } => mistakes.iter().map(ToString::to_string).collect(),
            other => vec![other.to_string()],
        }
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], sets: &[&str], expected: &[&str]) {
        match load(files, sets) {
            Ok(_) => assert!(expected.is_empty(), "no mistakes instead of {expected:?}"),
            Err(error) => assert_eq!(told(&error), expected),
        }
    }

    /// The base file and more text, with this wrong.
    #[track_caller]
    fn more(text: &str, expected: &[&str]) {
        check(&[("train.yaml", &format!("{BASE}{text}"))], &[], expected);
    }

    #[test]
    fn a_good_file() {
        let envelope = load(&[("train.yaml", BASE)], &[]).unwrap();
        assert_eq!((&*envelope.paper, &*envelope.experiment, &*envelope.profile), ("p", "train", "cpu"));
        assert_eq!(envelope.body.title, "A title");
        let params: Params = params(&envelope).unwrap();
        assert_eq!((params.lr, params.model.d_model, params.schedule), (0.001, 64, Schedule::Cosine { warmup: 10 }));
        assert!(params.methods.is_empty() && params.model.n_layers.is_none());
    }

    #[test]
    fn three_mistakes_in_one_message() {
        let text = BASE.replace("d_model:", "d_modle:").replace("seed: 1", "sed: 1").replace("lr: 1e-3", "lr: fast");
        let error = load(&[("train.yaml", &text)], &[]).unwrap_err();
        let expected = "\
train.yaml: 3 mistakes
  train.yaml:3:1: sed: unknown key, did you mean `seed`?
      3 | sed: 1
        | ^^^
  train.yaml:6:7: params.lr: expected a number, found the text `fast`
      6 |   lr: fast
        |       ^^^^
  train.yaml:8:5: params.model.d_modle: unknown key, did you mean `d_model`?
      8 |     d_modle: 64
        |     ^^^^^^^";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn overlays_and_overrides() {
        let smoke = "extends: train.yaml\nparams:\n  model: {d_model: 8}\n  schedule: constant\n";
        let both = [("train.yaml", BASE), ("train.smoke.yaml", smoke)];
        let envelope = load(&both, &["params.lr=2", "params.model.n_layers=3"]).unwrap();
        assert_eq!(envelope.profile, "smoke");
        let expected = json!({"lr": 2.0, "model": {"d_model": 8, "n_layers": 3}, "schedule": "constant"});
        assert_eq!(envelope.body.params, expected);
        // A later layer may choose another variant, and take an optional key away.
        let envelope = load(&both, &["params.schedule.steps=[1, 2]", "params.model.n_layers=null"]).unwrap();
        assert_eq!(envelope.body.params["schedule"], json!({"steps": [1, 2]}));
        assert_eq!(envelope.body.params["model"], json!({"d_model": 8}));
        let steps = "extends: train.yaml\nparams: {schedule: {steps: [3]}}\n";
        let envelope = load(&[("train.yaml", BASE), ("train.paper.yaml", steps)], &[]).unwrap();
        assert_eq!(envelope.body.params["schedule"], json!({"steps": [3]}));
    }

    #[test]
    fn mistakes_carry_the_name_of_their_file() {
        let smoke = "extends: train.yaml\nparams:\n  lrr: 1\n  model:\n    d_model: 0\n";
        check(
            &[("train.yaml", BASE), ("train.smoke.yaml", smoke)],
            &["params.lrx=1", "params.model.n_layers=x"],
            &[
                "train.smoke.yaml:3:3: params.lrr: unknown key, did you mean `lr`?",
                "train.smoke.yaml:5:14: params.model.d_model: must be at least 1, found 0",
                "--set params.lrx=1: params.lrx: unknown key, did you mean `lr`?",
                "--set params.model.n_layers=x: params.model.n_layers: expected a whole number, found the text `x`",
            ],
        );
        check(
            &[("train.yaml", &BASE.replace("  lr: 1e-3\n", ""))],
            &["params.lrr=1"],
            &["--set params.lrr=1: params.lrr: unknown key, did you mean `lr`?"],
        );
        check(&[("train.yaml", BASE)], &["lr=1"], &["--set lr=1: lr: unknown key, did you mean `params.lr`?"]);
        check(
            &[("train.yaml", BASE)],
            &["artefacts.3.id=x"],
            &["--set artefacts.3.id=x: artefacts.3: `3` is no item of this list, which has 0 to 0"],
        );
        check(
            &[("train.yaml", BASE)],
            &["seed.x=1"],
            &["--set seed.x=1: seed: expected a whole number, found a mapping"],
        );
        check(&[("train.yaml", BASE)], &["seed="], &["--set seed=: seed: expected a whole number, found nothing"]);
    }

    #[test]
    fn extends_that_lead_nowhere() {
        check(
            &[("train.yaml", BASE), ("train.smoke.yaml", "extends: trian.yaml\n")],
            &[],
            &["train.smoke.yaml:1:10: extends: no file trian.yaml, did you mean `train.yaml`?"],
        );
        check(&[("train.yaml", "extends: [a]\n")], &[], &["train.yaml:1:10: extends: must be the name of a file"]);
        let circle = [("train.yaml", "extends: b.yaml\n"), ("b.yaml", "title: x\nextends: train.yaml\n")];
        let error = told(&load(&circle, &[]).unwrap_err()).remove(0);
        assert!(error.starts_with("train.yaml:1:10: extends: goes round in a circle: "), "{error}");
        let error = told(&load(&[("train.yaml", "extends: train.yaml\n")], &[]).unwrap_err()).remove(0);
        assert!(error.contains("goes round in a circle: ") && error.contains("train.yaml > "), "{error}");
        assert!(matches!(load_file(Path::new("no/such.yaml"), None, &[]), Err(Error::Read { .. })));
    }

    #[test]
    fn syntax_and_duplicates_with_all_the_rest() {
        let text = BASE.replace("seed: 1", "seed: 1\nseed: 2").replace("d_model: 64", "d_model: 6.5");
        check(
            &[("train.yaml", &text)],
            &[],
            &[
                "train.yaml:4:1: seed: duplicate key, first on line 3",
                "train.yaml:9:14: params.model.d_model: expected a whole number, found the number 6.5",
            ],
        );
        let error = load(&[("train.yaml", "title: x\n  seed: [")], &[]).unwrap_err();
        assert_eq!(told(&error).len(), 1);
        check(
            &[("train.yaml", "")],
            &[],
            &[
                "train.yaml:1:1: missing key `params`",
                "train.yaml:1:1: missing key `seed`",
                "train.yaml:1:1: missing key `title`",
            ],
        );
    }

    #[test]
    fn enums() {
        let other = |text: &str| BASE.replace("cosine:\n      warmup: 10", text);
        check(
            &[("train.yaml", &other("cosin:\n      warmup: 10"))],
            &[],
            &[
                "train.yaml:10:5: params.schedule.cosin: unknown variant, did you mean `cosine`? (expected one of `constant`, `cosine: ..`, `steps: ..`)",
            ],
        );
        check(
            &[("train.yaml", &other("cosine:\n      warm_up: 10"))],
            &[],
            &["train.yaml:11:7: params.schedule.cosine.warm_up: unknown key, did you mean `warmup`?"],
        );
        check(
            &[("train.yaml", BASE)],
            &["params.schedule=constnat"],
            &[
                "--set params.schedule=constnat: params.schedule: unknown value `constnat`, did you mean `constant`? (expected one of `constant`, `cosine: ..`, `steps: ..`)",
            ],
        );
        check(
            &[("train.yaml", BASE)],
            &["params.schedule=5"],
            &[
                "--set params.schedule=5: params.schedule: expected one of `constant`, `cosine: ..`, `steps: ..`, found the number 5",
            ],
        );
    }

    #[test]
    fn claims_and_figures() {
        more(CLAIM, &[]);
        more(
            &CLAIM.replace("M-F2", "M-F3"),
            &["train.yaml:13:21: claims.0.artefact: `M-F3` is not among `artefacts`, did you mean `M-F2`?"],
        );
        more(
            &CLAIM.replace("at_least: 0.9", "at_lest: 0.9"),
            &[
                "train.yaml:13:69: claims.0.threshold.at_lest: unknown variant, did you mean `at_least`? (expected one of `at_least: ..`, `at_most: ..`, `between: ..`)",
            ],
        );
        more(
            &CLAIM.replace("at_least: 0.9", "between: [2, 1]"),
            &["train.yaml:13:78: claims.0.threshold.between: the first number must be the smaller one, found 2 and 1"],
        );
        more(&format!("{CLAIM}{}", &CLAIM[8..]), &["train.yaml:14:8: claims.1.id: `a` is there already"]);
        more(&format!("{CLAIM}claims_asked: {{only: [a]}}\n"), &[]);
        more(
            &format!("{CLAIM}claims_asked: {{except: [ab]}}\n"),
            &["train.yaml:14:25: claims_asked.except.0: there is no claim `ab`"],
        );
        more(FIGURE, &[]);
        more(&FIGURE.replace(", y: b", ""), &["train.yaml:13:3: figures.0: a figure of kind `line` needs `y`"]);
        more(
            &FIGURE.replace("y: b", "y: b, bins: 3"),
            &["train.yaml:13:71: figures.0.bins: means nothing in a figure of kind `line`"],
        );
        more(
            &FIGURE.replace("y: b", "y: b, x_range: [1, 1]"),
            &["train.yaml:13:80: figures.0.x_range: the first number must be the smaller one, found 1 and 1"],
        );
        more(
            &FIGURE.replace("y: b", "y: b, rules: [{label: chance}]"),
            &[
                "train.yaml:13:79: figures.0.rules.0: exactly one of `x`, `y`, `diagonal: true` must say where the line is",
            ],
        );
        more(
            &FIGURE.replace("id: a", "id: a/b"),
            &["train.yaml:13:8: figures.0.id: becomes a file name: letters, digits, `-` and `_` only"],
        );
        more("needs: [train]\n", &["train.yaml:12:9: needs.0: `train` is not of the form <paper>/<experiment>"]);
    }

    #[test]
    fn an_overlay_inherits_claims_and_says_which_it_asks() {
        let base = format!("{BASE}{CLAIM}claims_asked: {{only: [a]}}\n");
        let smoke = "extends: train.yaml\nclaims_asked: none\n";
        let envelope = load(&[("train.yaml", &base), ("train.smoke.yaml", smoke)], &[]).unwrap();
        assert_eq!(envelope.body.claims.len(), 1);
        assert_eq!(envelope.body.claims_asked, crate::ClaimsAsked::None);
    }

    #[test]
    fn sweeps() {
        more("sweep: {grid: {seed: [1, 2], params.model.d_model: [8, 16]}}\n", &[]);
        more("sweep: {grid: {params.schedule: [constant, {cosine: {warmup: 1}}]}}\n", &[]);
        more("sweep:\n  grid: {seed: []}\n", &["train.yaml:12:1: sweep: a sweep of 0 points: `seed` has no values"]);
        more("sweep: {grid: {}}\n", &["train.yaml:12:1: sweep: a sweep without keys"]);
        more("sweep: {list: []}\n", &["train.yaml:12:1: sweep: a sweep of 0 points"]);
        more(
            "sweep: {grid: {params.model.d_modle: [1]}}\n",
            &["train.yaml:12:16: params.model.d_modle: unknown key, did you mean `d_model`?"],
        );
        more(
            "sweep: {grid: {params.model.d_model: [1, x]}}\n",
            &["train.yaml:12:42: params.model.d_model: expected a whole number, found the text `x`"],
        );
        more(
            "sweep: {grid: {title: [a, b]}}\n",
            &["train.yaml:12:16: title: only `seed` and keys below `params` can be swept"],
        );
        more(
            "sweep: {random: {count: 0, seed: 1, keys: {params.lr: {uniform: [0, 1]}}}}\n",
            &[
                "train.yaml:12:1: sweep: a sweep of 0 points: `count` is 0",
                "train.yaml:12:25: sweep.random.count: must be at least 1, found 0",
            ],
        );
        more(
            "sweep: {random: {count: 2, seed: 1, keys: {seed: {uniform: [0, 1]}}}}\n",
            &[
                "train.yaml:12:61: seed: expected a whole number, found the number 0.0; write 0",
                "train.yaml:12:64: seed: expected a whole number, found the number 1.0; write 1",
            ],
        );
        more(
            "sweep: {gird: {seed: [1]}}\n",
            &[
                "train.yaml:12:9: sweep.gird: unknown variant, did you mean `grid`? (expected one of `grid: ..`, `list: ..`, `random: ..`)",
            ],
        );
    }

    #[test]
    fn a_resolved_file_is_read_back() {
        let text = format!(
            "{BASE}{CLAIM}{FIGURE}sweep: {{list: [{{seed: 3, params.lr: 1}}]}}\npublished: [{{artefact: M-F2, metric: acc, statement: x, source: y, provenance: read}}]\n"
        );
        let envelope = load(&[("train.smoke.yaml", &text)], &[]).unwrap();
        let resolved = yaml::to_string(&envelope).unwrap();
        assert!(!resolved.contains('!'), "{resolved}");
        assert!(resolved.starts_with("paper: p\nexperiment: train\nprofile: smoke\ntitle: A title\n"), "{resolved}");
        assert_eq!(load(&[("elsewhere.yaml", &resolved)], &[]).unwrap(), envelope);
        assert_eq!(yaml::from_str::<Envelope>(&resolved, "x").unwrap(), envelope);
        assert_eq!(envelope.body.claims[0].threshold, Threshold::AtLeast(0.9));
        let typo = resolved.replace("profile: smoke", "profile: smoek");
        let error = load(&[("elsewhere.yaml", &typo)], &[]).unwrap_err();
        assert_eq!(told(&error), ["elsewhere.yaml:3:10: profile: unknown profile, did you mean `smoke`?"]);
    }

    #[test]
    fn with_and_at_point() {
        let schema = schema_of::<Params>();
        let text = format!("{BASE}sweep: {{grid: {{seed: [1, 2], params.lr: [1, 1e-2]}}}}\n");
        let envelope = load(&[("train.yaml", &text)], &[]).unwrap();
        let points = envelope.body.sweep.as_ref().map(Sweep::points).unwrap().unwrap();
        let point = envelope.at_point(&points[3], &schema).unwrap();
        assert_eq!((point.body.seed, &point.body.params["lr"], point.body.sweep), (2, &json!(0.01), None));
        assert_ne!(envelope.identity(), envelope.with(&points[3], &schema).unwrap().identity());
        let error = envelope.with(&["params.lrr=1".parse().unwrap()], &schema).unwrap_err();
        assert!(told(&error)[0].starts_with("--set params.lrr=1: params.lrr: unknown key"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            try_all(parse_bytes(Origin::File("x.yaml".into()), &bytes));
        }

        #[test]
        fn no_broken_file_panics(cut in 0..400_usize, length in 0..40_usize, with in "[a-z0-9:{}\\[\\], \\n*&!|>'\"-]{0,12}") {
            let whole = format!("{BASE}{CLAIM}{FIGURE}sweep: {{grid: {{seed: [1, 2], params.lr: [1, 1e-2]}}}}\n");
            let cut = cut.min(whole.len());
            let end = (cut + length).min(whole.len());
            try_all(parse(Origin::File("x.yaml".into()), &format!("{}{with}{}", &whole[..cut], &whole[end..])));
        }
    }

    fn try_all(parsed: Parsed) {
        let names = Names { paper: "p".into(), experiment: "x".into(), profile: "cpu".into() };
        let overrides = ["params.lr=1".parse().unwrap(), "claims.0.threshold.at_most=2".parse().unwrap()];
        let rules = Rules { schema: &schema_of::<Params>(), overrides: &overrides, known: None };
        if let Err(error) = resolve(parsed, "x.yaml", names, &rules) {
            assert!(!error.to_string().is_empty());
        }
    }
}
