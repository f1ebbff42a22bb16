//! Tokens per second of a full training step: forward, backward, clipping, AdamW.
//!
//! Each case is timed in rounds that alternate with the machine's largest square matrix product, so that a busy
//! neighbour slows both; medians are reported, and the share of that product's speed.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use hooks::NoHook;
use models::{Activation, Config, Decoder, Initialisation};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use tables::{Builder, Schema, row};
use training::{AdamW, AdamWConfig, gradient_norm};

/// Options of the bench.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rounds per case.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Steps per round.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Folder for `train.csv`.
    #[arg(long, default_value = "results/benchmarks")]
    out: PathBuf,
}

struct Case {
    name: &'static str,
    config: Config,
    batch: usize,
    seq: usize,
}

fn config(n_layers: usize, d_model: usize, d_vocab: usize, n_positions: usize) -> Config {
    Config {
        n_layers,
        n_heads: 4,
        d_model,
        d_mlp: 4 * d_model,
        d_vocab,
        n_positions,
        activation: Activation::GeluTanh,
        biases: true,
        tied: true,
        norm_eps: 1e-5,
        dropout: 0.,
        initialisation: Initialisation::Gpt2,
    }
}

fn cases() -> Vec<Case> {
    let multiplication =
        |name, n: usize, d| Case { name, config: config(2, d, 16, 4 * n + 5), batch: 64, seq: 4 * n + 5 };
    vec![
        multiplication("mult-n3-d64", 3, 64),
        multiplication("mult-n3-d128", 3, 128),
        multiplication("mult-n4-d256", 4, 256),
        Case { name: "text-d256", config: config(4, 256, 8192, 256), batch: 8, seq: 256 },
    ]
}

/// Runs all cases, prints a line for each and writes the table.
pub fn bench(arguments: &Arguments) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("train", "tokens per second of a full training step")
            .text("case", "shape")
            .int("threads", "threads used")
            .float("ours", "median", "tokens/s")
            .float("ours_min", "slowest round", "tokens/s")
            .float("ours_max", "fastest round", "tokens/s")
            .float(
                "share_of_sgemm_peak",
                "arithmetic done, over that of a 1024-cubed f32 product in the same rounds",
                "fraction",
            ),
    );
    for case in cases() {
        let (mut speeds, mut products) = (Vec::new(), Vec::new());
        let mut step = stepper(&case)?;
        step()?;
        for _ in 0..arguments.rounds {
            products.push(product_flops()?);
            let started = Instant::now();
            for _ in 0..arguments.steps {
                step()?;
            }
            let tokens = (arguments.steps * case.batch * case.seq) as f64;
            speeds.push(tokens / started.elapsed().as_secs_f64());
        }
        let speed = median(&mut speeds);
        let share = speed * flops_per_token(&case) / median(&mut products);
        let threads = candle_core::utils::get_num_threads();
        println!("{:14} {speed:9.0} tokens/s, {:.0} % of the sgemm peak, {threads} threads", case.name, share * 100.);
        let (slowest, fastest) = (speeds[0], speeds[speeds.len() - 1]);
        table.push(row![
            case.name,
            threads,
            speed.round(),
            slowest.round(),
            fastest.round(),
            (share * 1000.).round() / 1000.
        ])?;
    }
    let path = table.finish()?.write(&arguments.out)?;
    println!("wrote {}", path.display());
    Ok(())
}

/// A closure that takes one training step on random tokens.
fn stepper(case: &Case) -> Result<impl FnMut() -> Result<()>> {
    let device = Device::Cpu;
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let model = Decoder::fresh(&case.config, &mut rng, &device)?;
    let variables: Vec<Var> = model.parameters().iter().map(|(_, var)| var.clone()).collect();
    let decays: Vec<bool> = variables.iter().map(|var| var.dims().len() > 1).collect();
    let adamw = AdamWConfig { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
    let mut adam = AdamW::new(adamw, &variables)?;
    let (batch, seq, vocabulary) = (case.batch, case.seq, case.config.d_vocab);
    let mut draw = |count: usize| -> Vec<u32> { (0..count).map(|_| rng.random_range(0..vocabulary as u32)).collect() };
    let inputs = Tensor::from_vec(draw(batch * seq), (batch, seq), &device)?;
    let targets = Tensor::from_vec(draw(batch * seq), batch * seq, &device)?;
    Ok(move || {
        let logits = model.forward_training(&inputs, 0, &mut NoHook)?.reshape((batch * seq, vocabulary))?;
        let store = ops::token_losses(&logits, &targets)?.mean_all()?.backward()?;
        let mut gradients: Vec<Tensor> = variables.iter().filter_map(|var| store.get(var).cloned()).collect();
        let norm = gradient_norm(&gradients)?;
        for gradient in &mut gradients {
            *gradient = (&*gradient * (1. / norm.max(1.)))?;
        }
        Ok(adam.update(&variables, &decays, &gradients, 1.)?)
    })
}

/// Floating-point operations of a training step per token: 6 per weight of a product, and attention.
fn flops_per_token(case: &Case) -> f64 {
    let Config { n_layers, d_model: d, d_mlp, d_vocab, .. } = case.config;
    let weights = n_layers * (4 * d * d + 2 * d * d_mlp) + d * d_vocab;
    (6 * weights + 12 * n_layers * case.seq * d) as f64
}

/// Speed of a 1024-cubed f32 product, in operations per second.
fn product_flops() -> Result<f64> {
    let side = 1024;
    let x = Tensor::ones((side, side), candle_core::DType::F32, &Device::Cpu)?;
    x.matmul(&x)?;
    let started = Instant::now();
    let repeats = 3;
    for _ in 0..repeats {
        x.matmul(&x)?;
    }
    Ok((repeats * 2 * side * side * side) as f64 / started.elapsed().as_secs_f64())
}

/// The middle value; sorts.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
