//! Fuzzes addresses of hook points, and patterns of them.

#![no_main]

use std::sync::LazyLock;

use candle_core::Device;
use hooks::Site;
use libfuzzer_sys::fuzz_target;
use models::{Config, Decoder};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

static MODEL: LazyLock<Decoder> = LazyLock::new(|| {
    let config =
        Config { n_layers: 3, n_heads: 2, d_model: 4, d_mlp: 4, d_vocab: 5, n_positions: 4, ..Config::gpt2_small() };
    Decoder::fresh(&config, &mut ChaCha12Rng::seed_from_u64(1), &Device::Cpu).unwrap()
});

fuzz_target!(|text: &str| {
    match text.parse::<Site>() {
        Ok(site) => {
            let shown = site.to_string();
            assert_eq!(shown.parse::<Site>().unwrap(), site, "{text} reads as {shown}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = capture::select(&*MODEL, &[text]);
});
