//! Exports of models without norms (an epsilon of 1e12, arXiv 2507.02559) as transformers reads them. `export/make.py`
//! gave the exported files to PyTorch and stored its logits.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use hooks::{HookedModel, NoHook};
use models::{
    Activation, Architecture, Biases, Config, Decoder, Family, FixedScales, NormKind, Positions, Rotary, Scaling,
};
use serde_json::Value;

/// A GPT-2 and a Llama of two blocks, each norm with a fixed scale of its own.
fn cases() -> [(&'static str, Family, Config); 2] {
    let fixed = FixedScales {
        ln1_qk: vec![Some(0.7), Some(2.4)],
        ln1_v: vec![Some(0.7), Some(2.4)],
        ln2: vec![Some(1.7), Some(0.9)],
        ln_final: Some(3.1),
    };
    let gpt2 = Config {
        n_layers: 2,
        n_heads: 2,
        d_model: 8,
        d_mlp: 16,
        d_vocab: 11,
        n_positions: 7,
        architecture: Architecture { fixed: fixed.clone(), ..Architecture::default() },
        ..Config::gpt2_small()
    };
    let rotary = Rotary { rotary_dim: 4, base: 100., scaling: Scaling::None, interleaved: false };
    let llama = Config {
        activation: Activation::Silu,
        biases: false,
        tied: false,
        architecture: Architecture {
            n_key_value_heads: Some(1),
            d_head: Some(4),
            norm: NormKind::Rms,
            positions: Positions::Rotary(rotary),
            gated: true,
            biases: Some(Biases::all(false)),
            fixed,
            ..Architecture::default()
        },
        ..gpt2.clone()
    };
    [("gpt2", Family::Gpt2, gpt2), ("llama", Family::Llama, llama)]
}

/// Weights with irregular entries.
fn model(config: &Config) -> Decoder {
    let weights = config.shapes().into_iter().enumerate().map(|(which, (name, shape))| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| (0.4 * ((i * 7 + which * 13) as f64 * 0.731).sin()) as f32).collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    });
    Decoder::new(config, weights.collect(), &Device::Cpu).unwrap()
}

fn distance(logits: &Tensor, reference: &[Value]) -> f32 {
    let flat = |value: &Value| -> Vec<f32> {
        let rows = value.as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
        rows.map(|x| x.as_f64().unwrap() as f32).collect()
    };
    let theirs: Vec<f32> = reference.iter().flat_map(flat).collect();
    let ours = logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0., f32::max)
}

#[test]
fn pytorch_computes_the_same_logits_from_an_export_without_norms() {
    for (name, family, config) in cases() {
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/export").join(name);
        let model = model(&config);
        let bless = std::env::var_os("RETRACE_BLESS").is_some();
        let scratch = tempfile::tempdir().unwrap();
        let folder: PathBuf = scratch.path().join(name);
        models::export(&folder, &model, family).unwrap();
        for file in ["config.json", "model.safetensors"] {
            let made = std::fs::read(folder.join(file)).unwrap();
            if bless {
                std::fs::create_dir_all(&committed).unwrap();
                std::fs::write(committed.join(file), &made).unwrap();
            }
            assert!(made == std::fs::read(committed.join(file)).unwrap(), "{name}/{file}: the export has changed");
        }
        let Ok(reference) = std::fs::read(committed.join("logits.json")) else {
            assert!(bless, "{name}: logits.json is missing; run tests/export/make.py");
            continue;
        };
        let reference: Value = serde_json::from_slice(&reference).unwrap();
        let tokens: Vec<Vec<u32>> = serde_json::from_value(reference["tokens"].clone()).unwrap();
        let tokens = Tensor::new(tokens, &Device::Cpu).unwrap();
        let (again, _) = models::open(&folder, DType::F32, &Device::Cpu).unwrap();
        for model in [&model, &again] {
            let apart =
                distance(&model.forward(&tokens, &mut NoHook).unwrap(), reference["logits"].as_array().unwrap());
            assert!(apart < 1e-5, "{name}: {apart}");
        }
    }
}
