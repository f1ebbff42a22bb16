//! `bench train`: tokens per second of a full training step (forward, backward, clipping, AdamW), compared with
//! PyTorch.
//!
//! Both programs start from the same weights and batch. Their rounds alternate, so that other load on the machine slows
//! both. The table reports medians over rounds and the ratios of neighbouring rounds. A row is written only if the
//! losses of the first steps agree.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use hooks::{HookedModel, NoHook};
use models::{Config, Decoder, Step};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, Value, row};
use training::{AdamW, AdamWConfig, gradient_norm};

use crate::peer::{self, Rounds, Worker, median};

/// The number of steps whose losses must agree.
const AGREE: usize = 20;
/// The maximum relative difference of the losses.
const TOLERANCE: f64 = 1e-4;

/// Options of the benchmark.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Folder of the peer's Python environment
    #[arg(long, default_value = "target/peers/train")]
    environment: PathBuf,
}

/// Options of every benchmark of training steps.
#[derive(clap::Args)]
pub struct Options {
    /// Number of rounds per case
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Approximate duration of a round, in seconds
    #[arg(long, default_value_t = 2.)]
    seconds: f64,
    /// Only cases whose name contains this text
    #[arg(long, default_value = "")]
    pub only: String,
    /// Run our program alone, without PyTorch and without a table
    #[arg(long)]
    pub alone: bool,
    #[command(flatten)]
    pub common: peer::Common,
}

/// A shape whose steps, or forward passes, are timed.
pub struct Case {
    pub name: &'static str,
    pub config: Config,
    pub batch: usize,
    pub seq: usize,
    /// The number of first positions of every sequence that are not targets.
    pub given: usize,
    pub inference: bool,
}

fn config(n_layers: usize, d_model: usize, d_vocab: usize, n_positions: usize) -> Config {
    Config { n_layers, n_heads: 4, d_model, d_mlp: 4 * d_model, d_vocab, n_positions, ..Config::gpt2_small() }
}

fn cases() -> Vec<Case> {
    let multiplication = |name, n: usize, d| {
        let seq = 4 * n + 5;
        Case { name, config: config(2, d, 16, seq), batch: 64, seq, given: 0, inference: false }
    };
    let text =
        |name, inference| Case { name, config: config(4, 256, 8192, 256), batch: 8, seq: 256, given: 0, inference };
    // Three digits, as in `icot-mult` after the whole chain of thought is removed; the operands are given.
    let task = Case {
        config: Config { d_mlp: 512, ..config(2, 64, 16, 16) },
        seq: 16,
        given: 7,
        ..multiplication("mult-n3-task", 3, 64)
    };
    vec![
        multiplication("mult-n3-d64", 3, 64),
        multiplication("mult-n3-d128", 3, 128),
        multiplication("mult-n4-d256", 4, 256),
        task,
        text("text-d256", false),
        text("text-d256-inference", true),
    ]
}

/// The settings of a case, sent to both programs.
#[derive(Clone, Serialize, Deserialize)]
pub struct Order {
    config: Config,
    weights: PathBuf,
    batch: PathBuf,
    threads: usize,
    compile: bool,
    inference: bool,
}

/// Runs all cases, prints a line for each and writes the table.
pub fn bench(arguments: &Arguments) -> Result<()> {
    let Arguments { options, environment } = arguments;
    let mut table = Builder::new(columns(
        "train",
        "full training steps (or forward passes), in our program and in the peer, in turn",
    ));
    let work = tempfile::tempdir()?;
    for case in cases().into_iter().filter(|case| case.name.contains(&options.only)) {
        let order = prepare(&case, work.path(), options.common.threads)?;
        if options.alone {
            alone(&case, ours(&order)?, options)?;
            continue;
        }
        for (peer, compile) in [("pytorch-eager", false), ("pytorch-compile", true)] {
            let order = Order { compile, ..order.clone() };
            let mut sides = [ours(&order)?, theirs(peer, &order, environment)?];
            let apart = apart(&mut sides, AGREE)?;
            if apart > TOLERANCE {
                println!(
                    "{:20} {peer:16} no row, because the losses differ by {apart:.1e} within {AGREE} steps",
                    case.name
                );
                continue;
            }
            table.push(by_turns(&case, peer, &mut sides, options)?)?;
        }
    }
    if !options.alone {
        let path = peer::write(&table.finish()?, &options.common.out)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// The columns of a benchmark of training steps.
pub fn columns(name: &str, about: &str) -> Schema {
    peer::columns(name, about).float(
        "share_of_sgemm_peak",
        "our operations per second divided by those of the fastest square matrix product of the same run",
        "",
    )
}

/// Writes the weights and the batch for both programs.
fn prepare(case: &Case, folder: &Path, threads: usize) -> Result<Order> {
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let model = Decoder::fresh(&case.config, &mut rng, &Device::Cpu)?;
    let (weights, batch) = (folder.join("weights.safetensors"), folder.join("batch.safetensors"));
    weights::save(&weights, &Default::default(), &model.weights())?;
    let vocabulary = case.config.d_vocab as u32;
    let mut sample = |given: usize| {
        let ids = (0..case.batch * case.seq).map(|i| match rng.random_range(0..vocabulary) {
            _ if i % case.seq < given => ops::IGNORED,
            id => id,
        });
        Tensor::from_vec(ids.collect::<Vec<u32>>(), (case.batch, case.seq), &Device::Cpu)
    };
    let tensors = [("tokens".to_owned(), sample(0)?), ("targets".to_owned(), sample(case.given)?)];
    weights::save(&batch, &Default::default(), &tensors.into_iter().collect())?;
    Ok(Order { config: case.config.clone(), weights, batch, threads, compile: false, inference: case.inference })
}

fn ours(order: &Order) -> Result<Worker> {
    let program = std::env::current_exe()?;
    let order_json = serde_json::to_string(order)?;
    Worker::start("retrace", Command::new(program).args(["bench", "train-worker", &order_json]), order.threads)
}

fn theirs(peer: &str, order: &Order, environment: &Path) -> Result<Worker> {
    let scripts = Path::new("experiments/workbench/peers");
    let python = peer::python(environment, &scripts.join("requirements.txt"))?;
    let order_json = serde_json::to_string(order)?;
    Worker::start(peer, Command::new(python).arg(scripts.join("train.py")).arg(order_json), order.threads)
}

/// Runs both programs in turn, ours first; prints a line and returns the cells of [`columns()`].
pub fn by_turns(case: &Case, peer: &str, sides: &mut [Worker; 2], options: &Options) -> Result<Vec<Value>> {
    let [ours, theirs] = sides;
    let steps = steps_per_round(theirs, options.seconds)?;
    ours.number("time", steps, "seconds")?;
    let (mut rounds, mut peak) = (Rounds::default(), 0f64);
    let tokens = (steps * case.batch * case.seq) as f64;
    for _ in 0..options.rounds {
        let mine = tokens / ours.number("time", steps, "seconds")?;
        let other = tokens / theirs.number("time", steps, "seconds")?;
        rounds.push(mine, other, mine / other);
        for side in [&mut *ours, &mut *theirs] {
            peak = peak.max(side.number("product", 1024, "flops")?);
        }
    }
    let memory = [ours, theirs].map(|side| side.number("memory", 0, "peak_kib").map(|kib| kib / 1024.));
    let [memory, their_memory] = memory;
    let (memory, their_memory) = (memory?, their_memory?);
    let medians = rounds.medians();
    let share = medians.ours * flops_per_token(case) / peak;
    println!(
        "{:20} {peer:16} {:8.0} against {:8.0} tokens/s: {:.2} ({:.2} to {:.2}); {memory:.0} against \
         {their_memory:.0} MiB; {:.0} % of {:.0} GFLOP/s",
        case.name,
        medians.ours,
        medians.theirs,
        medians.ratio,
        medians.worst,
        medians.best,
        share * 100.,
        peak / 1e9,
    );
    let mut cells = peer::cells(case.name, peer, "tokens/s", 0, medians, [memory, their_memory]);
    cells.extend(row![peer::rounded(share, 3)]);
    Ok(cells)
}

/// The largest difference between the losses of both programs over the first steps.
pub fn apart([ours, theirs]: &mut [Worker; 2], steps: usize) -> Result<f64> {
    let losses = |side: &mut Worker| -> Result<Vec<f64>> {
        let answer = side.ask("losses", steps)?;
        serde_json::from_value(answer.get("losses").cloned().context("the answer has no losses")?).context("losses")
    };
    let (mine, other) = (losses(ours)?, losses(theirs)?);
    if mine.len() != other.len() {
        bail!("our program has {} losses, but the peer has {}", mine.len(), other.len());
    }
    if let Some(loss) = mine.iter().chain(&other).find(|loss| !loss.is_finite()) {
        bail!("a loss is {loss}");
    }
    Ok(mine.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0., f64::max))
}

fn steps_per_round(worker: &mut Worker, seconds: f64) -> Result<usize> {
    worker.number("time", 3, "seconds")?;
    let three = worker.number("time", 3, "seconds")?;
    Ok(((seconds * 3. / three) as usize).max(2))
}

/// Runs our program alone and prints a line.
pub fn alone(case: &Case, mut ours: Worker, options: &Options) -> Result<()> {
    let steps = steps_per_round(&mut ours, options.seconds)?;
    let tokens = (steps * case.batch * case.seq) as f64;
    let mut speeds = Vec::new();
    for _ in 0..options.rounds {
        speeds.push(tokens / ours.number("time", steps, "seconds")?);
    }
    let (speed, peak) = (median(&mut speeds), ours.number("product", 1024, "flops")?);
    let memory = ours.number("memory", 0, "peak_kib")? / 1024.;
    let share = speed * flops_per_token(case) / peak;
    println!(
        "{:20} {speed:8.0} tokens/s, {:.0} % of {:.0} GFLOP/s, {memory:.0} MiB",
        case.name,
        share * 100.,
        peak / 1e9
    );
    Ok(())
}

/// The floating-point operations per token: 6 per weight of a matrix product plus attention for a training step, a
/// third of that for a forward pass.
///
/// After the heads of the last block, positions that are not targets need none.
fn flops_per_token(case: &Case) -> f64 {
    let Config { n_layers, d_model: d, d_mlp, d_vocab, .. } = case.config;
    let after = d * d + 2 * d * d_mlp;
    let everywhere = n_layers * (3 * d * d + after) - after;
    let counted = (after + d * d_vocab) as f64 * (case.seq - case.given) as f64 / case.seq as f64;
    let step = 6. * (everywhere as f64 + counted) + (12 * n_layers * case.seq * d) as f64;
    if case.inference { step / 3. } else { step }
}

/// The worker process: answers commands on standard input until it ends.
pub fn work(order: &str) -> Result<()> {
    let order: Order = serde_json::from_str(order).context("the settings of a benchmark")?;
    let start = peer::resident_kib();
    let device = Device::Cpu;
    let model = Decoder::new(&order.config, weights::load(&order.weights, &device)?.tensors, &device)?;
    let mut batch = weights::load(&order.batch, &device)?.tensors;
    let (Some(tokens), Some(targets)) = (batch.remove("tokens"), batch.remove("targets")) else {
        bail!("{}: the batch has no tokens or no targets", order.batch.display());
    };
    let variables: Vec<Var> = model.parameters().iter().map(|(_, var)| var.clone()).collect();
    let decays: Vec<bool> = variables.iter().map(|var| var.dims().len() > 1).collect();
    let adamw = AdamWConfig { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
    let mut adam = AdamW::new(adamw, &variables)?;
    let mut step = || -> Result<f64> {
        let loss = model.losses(&tokens, &targets, &[], Step::default())?.losses.mean_all()?;
        let store = ops::backward(&loss)?;
        let gradients: Vec<Tensor> = variables.iter().filter_map(|var| store.get(var).cloned()).collect();
        let norm = gradient_norm(&gradients)?;
        adam.update(&variables, &decays, &gradients, 1., 1. / norm.max(1.))?;
        Ok(loss.to_dtype(DType::F64)?.to_scalar()?)
    };
    peer::serve(|command, count| {
        Ok(match command {
            "losses" => serde_json::json!({"losses": (0..count).map(|_| step()).collect::<Result<Vec<f64>>>()?}),
            "time" => {
                let started = Instant::now();
                for _ in 0..count {
                    if order.inference {
                        model.forward(&tokens, &mut NoHook)?;
                    } else {
                        step()?;
                    }
                }
                serde_json::json!({"seconds": started.elapsed().as_secs_f64()})
            }
            "product" => serde_json::json!({"flops": product_flops(count)?}),
            "memory" => serde_json::json!({"peak_kib": peer::growth_kib(start)}),
            other => bail!("unknown command `{other}`"),
        })
    })
}

/// The speed of a square f32 matrix product, the faster of candle's and ours, in operations per second.
pub fn product_flops(side: usize) -> Result<f64> {
    let x = Tensor::ones((side, side), DType::F32, &Device::Cpu)?;
    let flops = |product: &dyn Fn() -> candle_core::Result<Tensor>| -> Result<f64> {
        product()?;
        let started = Instant::now();
        let repeats = 3;
        for _ in 0..repeats {
            product()?;
        }
        Ok((repeats * 2 * side * side * side) as f64 / started.elapsed().as_secs_f64())
    };
    Ok(flops(&|| x.matmul(&x))?.max(flops(&|| ops::linear(&x, &x, None))?))
}
