//! Every site of every layer of every family against PyTorch transformers.
//!
//! The reference runs the same f32 weights in f64 (`parity/make.py`), so differences come from our side. Each
//! comparison checks magnitude (largest difference) and direction (cosine), because a wrong constant factor passes the
//! second alone. A deliberately wrong variant of each family must fail. `RETRACE_BLESS=1` writes the measured
//! differences to `parity/budget.csv`, which the documentation shows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
use hooks::{Hook, HookedModel, Site};
use models::{Architecture, Config, Decoder, Family, NormPlace, Positions, open};

/// Tolerances of logits and of all other sites.
const LOGITS: f64 = 5e-5;
const SITES: f64 = 1e-4;
/// The smallest allowed cosine.
const COSINE: f64 = 1. - 1e-8;

struct Record(BTreeMap<Site, Tensor>);

impl Hook for Record {
    fn wants(&self, site: Site) -> bool {
        !site.to_string().ends_with("hook_result")
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> Result<Tensor> {
        self.0.insert(site, tensor.clone());
        Ok(tensor)
    }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = entries.filter(|path| path.join("reference.safetensors").exists()).collect();
    cases.sort();
    assert_eq!(cases.len(), 17, "a missing case would be skipped, and so would pass");
    cases
}

fn name(case: &Path) -> String {
    case.file_name().unwrap().to_string_lossy().into_owned()
}

fn reference(case: &Path) -> (Tensor, BTreeMap<String, Tensor>) {
    let file = case.join("reference.safetensors");
    let mut tensors: BTreeMap<String, Tensor> =
        candle_core::safetensors::load(file, &Device::Cpu).unwrap().into_iter().collect();
    let tokens = tensors.remove("tokens").unwrap().to_dtype(DType::U32).unwrap();
    (tokens, tensors)
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference, and cosine. Masked entries must be masked on both sides.
fn compare(site: &str, ours: &Tensor, theirs: &Tensor) -> std::result::Result<(f64, f64), String> {
    if ours.dims() != theirs.dims() {
        return Err(format!("{site}: shape {:?}, reference {:?}", ours.dims(), theirs.dims()));
    }
    let (mut largest, mut product, mut ours_sq, mut theirs_sq) = (0f64, 0., 0., 0.);
    for (a, b) in numbers(ours).into_iter().zip(numbers(theirs)) {
        if a.is_finite() != b.is_finite() || a.is_nan() || b.is_nan() {
            return Err(format!("{site}: {a}, reference {b}"));
        }
        if a.is_finite() {
            largest = largest.max((a - b).abs());
            (product, ours_sq, theirs_sq) = (product + a * b, ours_sq + a * a, theirs_sq + b * b);
        }
    }
    if theirs_sq == 0. {
        return Err(format!("{site}: the reference is all zero"));
    }
    Ok((largest, product / (ours_sq * theirs_sq).sqrt()))
}

struct Breach(String);

/// Largest difference of the logits and of all sites, if all are within the tolerances.
fn check(model: &Decoder, case: &Path) -> std::result::Result<(f64, f64), Breach> {
    let (tokens, theirs) = reference(case);
    let mut record = Record(BTreeMap::new());
    model.forward(&tokens, &mut record).map_err(|e| Breach(e.to_string()))?;
    let ours: BTreeMap<String, Tensor> = record.0.iter().map(|(site, x)| (site.to_string(), x.clone())).collect();
    let (have, want): (Vec<_>, Vec<_>) = (ours.keys().collect(), theirs.keys().collect());
    if have != want {
        return Err(Breach(format!("sites differ: ours {have:?}, theirs {want:?}")));
    }
    let (mut logits, mut sites) = (0f64, 0f64);
    for (site, theirs) in &theirs {
        let (difference, cosine) = compare(site, &ours[site], theirs).map_err(Breach)?;
        // without LayerNorm the divisor is the constant 1e6, so its tolerance scales with it
        let size =
            if site.ends_with("hook_scale") { numbers(theirs).iter().fold(1., |m, x| x.abs().max(m)) } else { 1. };
        let tolerance = if site == "unembed.hook_out" { LOGITS } else { SITES };
        if difference > tolerance * size || cosine < COSINE {
            return Err(Breach(format!(
                "{site}: difference {difference:.1e} (tolerance {tolerance:.0e}), cosine {cosine:.10}"
            )));
        }
        sites = sites.max(difference / size);
        if site == "unembed.hook_out" {
            logits = difference;
        }
    }
    Ok((logits, sites))
}

#[test]
fn every_site_of_every_case_agrees() {
    let mut breaches = String::new();
    let mut budget = String::from("case,family,n_layers,sites,logits_f32,sites_f32,logits_f64,sites_f64\n");
    for case in cases() {
        let run = |dtype| {
            let (model, family) = open(&case, dtype, &Device::Cpu).unwrap_or_else(|e| panic!("{}: {e}", name(&case)));
            let result = check(&model, &case);
            (result, family, model.config().n_layers, model.sites().len() - model.config().n_layers)
        };
        let ((single, family, n_layers, sites), (double, ..)) = (run(DType::F32), run(DType::F64));
        match (single, double) {
            (Ok((a, b)), Ok((c, d))) => {
                // one digit, so that machines with another order of summation agree
                let coarse = |x: f64| format!("{:.0e}", x.max(1e-15));
                let _ = writeln!(
                    budget,
                    "{},{},{n_layers},{sites},{},{},{},{}",
                    name(&case),
                    family.model_type(),
                    coarse(a),
                    coarse(b),
                    coarse(c),
                    coarse(d)
                );
            }
            (single, double) => {
                let text = |result: std::result::Result<(f64, f64), Breach>| match result {
                    Ok(numbers) => format!("{numbers:?}"),
                    Err(Breach(message)) => message,
                };
                let _ = writeln!(breaches, "{}: f32 {}; f64 {}", name(&case), text(single), text(double));
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/budget.csv");
    if std::env::var_os("RETRACE_BLESS").is_some() {
        std::fs::write(&file, &budget).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    let rows = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split(',').take(4).map(str::to_owned).collect()).collect()
    };
    assert_eq!(rows(&committed), rows(&budget), "the committed budget has other cases; run with RETRACE_BLESS=1");
}

/// The README's table shows each family's largest numbers of the committed budget; `RETRACE_BLESS=1` updates it.
#[test]
fn the_readme_shows_the_budget() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let budget = std::fs::read_to_string(folder.join("tests/parity/budget.csv")).unwrap();
    let rows: Vec<Vec<&str>> = budget.lines().skip(1).map(|line| line.split(',').collect()).collect();
    let largest = |family: &str, column: usize| {
        let numbers = rows.iter().filter(|row| row[1] == family).map(|row| row[column].parse::<f64>().unwrap());
        format!("{:.0e}", numbers.fold(0., f64::max))
    };
    let path = folder.join("../../README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let mut shown = Vec::new();
    let line = |line: &str| {
        let Some(family) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) else {
            return line.to_owned();
        };
        if !rows.iter().any(|row| row[1] == family) {
            return line.to_owned();
        }
        shown.push(family.to_owned());
        let mut cells: Vec<String> = line.split('|').map(str::to_owned).collect();
        // f32 logits, f32 sites, f64 sites
        for (cell, column) in [(2, 4), (3, 5), (4, 7)] {
            cells[cell] = format!(" {} ", largest(family, column));
        }
        cells.join("|")
    };
    let expected = readme.lines().map(line).collect::<Vec<_>>().join("\n") + "\n";
    for row in &rows {
        assert!(shown.iter().any(|family| family == row[1]), "the README has no row for `{}`", row[1]);
    }
    if std::env::var_os("RETRACE_BLESS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    } else {
        assert!(readme == expected, "the README's table differs from the committed budget; run with RETRACE_BLESS=1");
    }
}

/// Checks that the same weights in a wrong model fail.
fn check_wrong(case: &str, change: impl FnOnce(&mut Config), weights: impl Fn(&str, &Tensor) -> Tensor) {
    let path = cases().into_iter().find(|path| name(path) == case).unwrap();
    let (model, _) = open(&path, DType::F64, &Device::Cpu).unwrap();
    let mut config = model.config().clone();
    change(&mut config);
    let named = model.weights().into_iter().map(|(name, x)| {
        let x = weights(&name, &x);
        (name, x)
    });
    let wrong = Decoder::new(&config, named.collect(), &Device::Cpu).unwrap();
    assert!(check(&wrong, &path).is_err(), "{case}: a wrong model passed");
}

fn same(_: &str, x: &Tensor) -> Tensor {
    x.clone()
}

fn rotary(config: &mut Config, change: impl FnOnce(&mut models::Rotary)) {
    if let Positions::Rotary(rotary) = &mut config.architecture.positions {
        change(rotary);
    }
}

#[test]
fn a_wrong_variant_of_each_family_fails() {
    let zeroed = |part: &'static str| {
        move |name: &str, x: &Tensor| if name.ends_with(part) { x.zeros_like().unwrap() } else { x.clone() }
    };
    // a missing bias, swapped axes of a square weight
    check_wrong("gpt2", |_| {}, zeroed("1.mlp.b_out"));
    check_wrong(
        "gpt2",
        |_| {},
        |name, x| if name.ends_with("0.attn.W_O") { x.t().unwrap().contiguous().unwrap() } else { x.clone() },
    );
    check_wrong("gpt2-untied", |config| config.activation = models::Activation::GeluTanh, same);
    check_wrong("gpt_neox-serial", |config| rotary(config, |r| r.interleaved = true), same);
    check_wrong("gpt_neox", |config| config.architecture.parallel = false, same);
    check_wrong("llama", |config| rotary(config, |r| r.scaling = models::Scaling::None), same);
    check_wrong("llama-plain", |config| rotary(config, |r| r.interleaved = true), same);
    check_wrong("qwen2", |_| {}, zeroed("0.attn.b_QKV"));
    check_wrong("qwen2-yarn", |config| rotary(config, |r| r.scaling = models::Scaling::Linear { factor: 4. }), same);
    check_wrong("qwen2-window", |config| config.architecture.windows = vec![Some(3); 2], same);
    check_wrong("qwen3", |_| {}, |name, x| if name.ends_with("q_norm.w") { x.ones_like().unwrap() } else { x.clone() });
    check_wrong("mistral", |config| config.architecture.windows = vec![Some(4); 2], same);
    check_wrong("olmo2", |config| config.architecture.norm_place = NormPlace::Before, same);
    check_wrong("phi3", |config| rotary(config, |r| r.rotary_dim = 8), same);
}

#[test]
fn an_exported_model_reads_back_unchanged() {
    for case in cases() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let (model, family) = open(&case, DType::F32, &Device::Cpu).unwrap();
        models::export(&out, &model, family).unwrap();
        let (again, other) = open(&out, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(family, other);
        assert_eq!(again.config(), model.config(), "{}", name(&case));
        for ((name, a), (_, b)) in model.parameters().iter().zip(again.parameters()) {
            assert_eq!(numbers(a), numbers(b), "{name}");
        }
    }
}

/// Largest difference of log-probabilities.
fn log_probability_distance(a: &Decoder, b: &Decoder, tokens: &Tensor) -> f64 {
    let log = |model: &Decoder| {
        let logits = model.forward(tokens, &mut hooks::NoHook).unwrap();
        logits.broadcast_sub(&logits.log_sum_exp(2).unwrap().unsqueeze(2).unwrap()).unwrap()
    };
    numbers(&log(a)).iter().zip(numbers(&log(b))).map(|(a, b)| (a - b).abs()).fold(0., f64::max)
}

#[test]
fn transforms_keep_log_probabilities() {
    use models::Transform::{CentreUnembed, CentreWriting, FoldNorms, FoldValueBiases, OwnKeysAndValues};
    for case in cases() {
        let (model, family) = open(&case, DType::F64, &Device::Cpu).unwrap();
        let (tokens, _) = reference(&case);
        let is_layer_norm = matches!(family, Family::Gpt2 | Family::GptNeox);
        let mut all = vec![FoldNorms, CentreUnembed, FoldValueBiases, OwnKeysAndValues];
        match model.transformed(&[CentreWriting]) {
            Ok(_) if is_layer_norm => all.insert(1, CentreWriting),
            Err(error) if !is_layer_norm => assert!(error.to_string().contains("not exact"), "{error}"),
            _ => panic!("{}: centring must succeed exactly where it is exact", name(&case)),
        }
        for some in all.iter().map(|one| vec![*one]).chain([all.clone()]) {
            let changed = model.transformed(&some).unwrap();
            let distance = log_probability_distance(&model, &changed, &tokens);
            assert!(distance < 1e-9, "{} {some:?}: {distance}", name(&case));
            let (before, after) = (model.weights(), changed.weights());
            let moved = after
                .iter()
                .any(|(name, y)| before.get(name).is_none_or(|x| x.dims() != y.dims() || numbers(x) != numbers(y)));
            let has_biases = model.config().biases().qkv;
            let shared = model.config().n_key_value_heads() < model.config().n_heads;
            let nothing_to_do = some == [FoldValueBiases] && !has_biases || some == [OwnKeysAndValues] && !shared;
            assert!(moved || nothing_to_do, "{} {some:?} did nothing", name(&case));
        }
    }
}

#[test]
fn left_padding_does_not_change_logits() {
    for case in cases() {
        let (model, _) = open(&case, DType::F64, &Device::Cpu).unwrap();
        let (tokens, theirs) = reference(&case);
        // the second sequence is three tokens shorter
        let padded = tokens.to_vec2::<u32>().unwrap();
        let short = [&[0; 3], &padded[1][..4]].concat();
        let batch = Tensor::new(vec![padded[0].clone(), short], &Device::Cpu).unwrap();
        let mut record = Record(BTreeMap::new());
        let logits = models::forward_left_padded(&model, &batch, &[0, 3], &mut record).unwrap();
        let whole = &theirs["unembed.hook_out"];
        let part = |x: &Tensor, row: usize, first: usize, count: usize| {
            numbers(&x.narrow(0, row, 1).unwrap().narrow(1, first, count).unwrap())
        };
        let largest = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0., f64::max);
        assert!(largest(part(&logits, 0, 0, 7), part(whole, 0, 0, 7)) < 1e-9, "{}", name(&case));
        assert!(largest(part(&logits, 1, 3, 4), part(whole, 1, 0, 4)) < 1e-9, "{}", name(&case));
        let site = Site::FinalNormalized;
        let seen = part(&record.0[&site], 1, 3, 4);
        assert!(largest(seen, part(&theirs[&site.to_string()], 1, 0, 4)) < 1e-9, "{}", name(&case));
    }
}

#[test]
fn every_family_has_a_case() {
    let seen: Vec<Family> = cases().iter().map(|case| models::describe_checkpoint(case).unwrap().0).collect();
    for (family, name, _) in Family::ALL {
        assert!(seen.contains(&family), "{name} has no case");
    }
    let architectures: Vec<Architecture> =
        cases().iter().map(|case| models::describe_checkpoint(case).unwrap().1.architecture).collect();
    assert!(architectures.iter().any(|architecture| architecture.windows.iter().any(Option::is_some)));
}

#[test]
fn errors_of_invalid_checkpoints_name_file_and_key() {
    let source = cases().into_iter().find(|path| name(path) == "llama").unwrap();
    let config = std::fs::read_to_string(source.join("config.json")).unwrap();
    let check = |from: &str, to: &str, expected: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        assert!(config.contains(from), "{from}");
        std::fs::write(folder.path().join("config.json"), config.replacen(from, to, 1)).unwrap();
        std::fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
        let error = open(folder.path(), DType::F32, &Device::Cpu).unwrap_err().to_string();
        for text in expected {
            assert!(error.contains(text), "{error} lacks {text}");
        }
    };
    check("\"model_type\": \"llama\"", "\"model_type\": \"mamba\"", &["config.json", "mamba", "gpt_neox", "qwen3"]);
    check("\"num_attention_heads\": 4", "\"num_attention_heads\": 3", &["config.json", "does not divide", "3"]);
    check("\"intermediate_size\": 37", "\"intermediate_size\": 38", &["gate_proj", "37", "38"]);
    check("\"hidden_size\": 20", "\"hidden_size\": -20", &["hidden_size", "-20"]);
    check("\"hidden_act\": \"silu\"", "\"hidden_act\": \"relu\"", &["hidden_act", "relu"]);
    check("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", &["model.layers.2"]);
    check("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", &["unexpected", "model.layers.1"]);
    check("\"rope_type\": \"llama3\"", "\"rope_type\": \"longrope\"", &["rope_type", "longrope", "yarn"]);
    check("{", "[", &["config.json", "invalid JSON"]);
}
