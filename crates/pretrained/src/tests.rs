use candle_core::Tensor;
use hooks::{HookedModel, NoHook};
use models::Config;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;

fn folder() -> tempfile::TempDir {
    let config =
        Config { n_layers: 1, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, n_positions: 6, ..Config::gpt2_small() };
    let model = Decoder::fresh(&config, &mut ChaCha12Rng::seed_from_u64(1), &Device::Cpu).unwrap();
    let folder = tempfile::tempdir().unwrap();
    models::export(folder.path(), &model, Family::Gpt2).unwrap();
    folder
}

fn refusal(name: &str, memory: Option<usize>) -> String {
    match Pretrained::open(name, &Device::Cpu, memory) {
        Ok(_) => panic!("{name} was opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_folder_opens_and_says_that_it_has_no_tokenizer() {
    let folder = folder();
    let opened = Pretrained::open(folder.path().to_str().unwrap(), &Device::Cpu, free_memory()).unwrap();
    assert_eq!(opened.family, Family::Gpt2);
    let tokens = Tensor::new(&[[1u32, 2, 3]], &Device::Cpu).unwrap();
    assert_eq!(opened.model.forward(&tokens, &mut NoHook).unwrap().dims(), [1, 3, 11]);
    let missing = opened.tokenizer.unwrap_err().to_string();
    assert!(missing.contains("tokenizer.json"), "{missing}");
}

#[test]
fn weights_that_do_not_fit_are_refused_before_they_are_read() {
    let folder = folder();
    let name = folder.path().to_str().unwrap();
    let refused = refusal(name, Some(100));
    assert!(refused.contains(name) && refused.contains("MiB are free"), "{refused}");
    assert!(Pretrained::open(name, &Device::Cpu, Some(1 << 20)).is_ok());
}

#[test]
fn a_path_that_is_not_there_is_no_repository() {
    for name in ["./nowhere", "/no/such/folder", "model.gguf", "a/b/c"] {
        let refused = refusal(name, None);
        assert!(refused.contains("no such file or folder"), "{refused}");
    }
}

#[test]
fn an_index_names_each_shard_once() {
    let folder = tempfile::tempdir().unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    let write = |text: &str| storage::write_atomic(&index, text.as_bytes()).unwrap();
    write(r#"{"weight_map": {"a": "two", "b": "one", "c": "two"}}"#);
    assert_eq!(find::shards(&index).unwrap(), ["one", "two"]);
    for wrong in ["{", "{}", r#"{"weight_map": 3}"#] {
        write(wrong);
        let refused = find::shards(&index).unwrap_err().to_string();
        assert!(refused.contains("index.json") && refused.contains("fetch"), "{refused}");
    }
}
