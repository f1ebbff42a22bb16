//! `bench hyperprobe`: training an encoder of hypervectors, compared with PyTorch, and reading states of a
//! SmolLM2-135M-shaped model, compared with transformers (arXiv 2509.25045).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use capture::{Keep, Recorder};
use encoder::{Encoder, Loss, Shape};
use hooks::{End, HookedModel, Layer, Point, Site, Start};
use models::{Activation, Architecture, Config, Decoder, Family, NormKind, Positions, Rotary, Scaling};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use tables::{Builder, row};
use training::{AdamW, AdamWConfig};
use vsa::{Bipolar, Vector};

use crate::peer::{self, Rounds, Worker};

/// Times encoders and states in both programs, in turn
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these tasks: encoder, ingestion
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Number of rounds; both programs run in each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(flatten)]
    common: peer::Common,
    /// Folder of the peer's Python environment
    #[arg(long, default_value = "target/peers/hyperprobe")]
    environment: PathBuf,
}

/// The shape of an encoder from a model of width 768 to hypervectors of 1,024 dimensions.
const SHAPE: Shape = Shape { d_in: 768, width: 1024, dimension: 1024, blocks: 2 };
const BATCH: usize = 64;
/// The number of steps whose losses must agree, and the number of steps per round.
const AGREE: usize = 20;
const STEPS: usize = 50;
const TOLERANCE: f64 = 1e-4;

/// The number of documents per round, their length in tokens, and the batch sizes to try.
const DOCUMENTS: usize = 256;
const TOKENS: usize = 10;
const BATCHES: [usize; 4] = [8, 32, 64, 128];

fn smollm2() -> Config {
    Config {
        n_layers: 30,
        n_heads: 9,
        d_model: 576,
        d_mlp: 1536,
        d_vocab: 49_152,
        n_positions: 2048,
        activation: Activation::Silu,
        biases: false,
        architecture: Architecture {
            n_key_value_heads: Some(3),
            norm: NormKind::Rms,
            positions: Positions::Rotary(Rotary {
                rotary_dim: 64,
                base: 100_000.,
                scaling: Scaling::None,
                interleaved: false,
            }),
            gated: true,
            ..Architecture::default()
        },
        ..Config::gpt2_small()
    }
}

/// Runs both tasks, prints a line for each and writes the table.
pub fn bench(arguments: &Arguments) -> Result<()> {
    let about = "training an encoder of hypervectors (steps), and reading states of a model (documents), in our program \
                 and in the peer, in turn";
    let mut table = Builder::new(peer::columns("hyperprobe", about).float("bar", "target of the ratio", ""));
    let folder = tempfile::tempdir()?;
    prepare(folder.path())?;
    let python = peer::python(&arguments.environment, Path::new("experiments/workbench/peers/hyperprobe.txt"))?;
    let mut ours = Command::new(std::env::current_exe()?);
    // The setting that experiments use.
    ours.args(["bench", "hyperprobe-worker"]).arg(folder.path()).env("CANDLE_NUM_THREADS", "1");
    let mut ours = Worker::start("retrace", &mut ours, arguments.common.threads)?;
    let mut theirs = Command::new(python);
    theirs.arg("experiments/workbench/peers/hyperprobe.py").arg(folder.path());
    theirs.arg(arguments.common.threads.to_string());
    let mut theirs = Worker::start("transformers", &mut theirs, arguments.common.threads)?;
    let versions = theirs.ask("ready", 0)?;
    let version = |key: &str| versions.get(key).and_then(|v| v.as_str()).unwrap_or("?").to_owned();
    if peer::wanted(&arguments.only, "encoder") {
        let peer = format!("pytorch {}", version("torch"));
        let losses = |side: &mut Worker| -> Result<Vec<f64>> {
            let answer = side.ask("losses", AGREE)?;
            serde_json::from_value(answer.get("losses").cloned().context("the answer has no losses")?).context("losses")
        };
        let (mine, other) = (losses(&mut ours)?, losses(&mut theirs)?);
        let apart = mine.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0., f64::max);
        if apart > TOLERANCE {
            bail!("encoder: losses differ by {apart:.1e} within {AGREE} steps");
        }
        let mut rounds = Rounds::default();
        for round in 0..=arguments.rounds {
            let speed =
                |side: &mut Worker| Ok::<f64, anyhow::Error>(STEPS as f64 / side.number("steps", STEPS, "seconds")?);
            let (mine, other) = (speed(&mut ours)?, speed(&mut theirs)?);
            if round > 0 {
                rounds.push(mine, other, mine / other);
            }
        }
        let memory = memory([&mut ours, &mut theirs])?;
        push(&mut table, ("encoder", &peer, "steps/s", 1.), rounds, memory)?;
    }
    if peer::wanted(&arguments.only, "ingestion") {
        let peer = format!("transformers {}", version("transformers"));
        let check = |side: &mut Worker| side.number("states", 32, "checksum");
        let (mine, other) = (check(&mut ours)?, check(&mut theirs)?);
        if (mine - other).abs() > 1e-3 * other.abs() {
            bail!("ingestion: the results differ: checksums {mine} and {other}");
        }
        let best = |side: &mut Worker| -> Result<usize> {
            let mut best = (f64::INFINITY, BATCHES[0]);
            for batch in BATCHES {
                best = [best, (side.number("states", batch, "seconds")?, batch)]
                    .into_iter()
                    .fold((f64::INFINITY, batch), |best, next| if next.0 < best.0 { next } else { best });
            }
            Ok(best.1)
        };
        let (own, others) = (best(&mut ours)?, best(&mut theirs)?);
        println!("best batch sizes: {own} (ours), {others} (peer)");
        let mut rounds = Rounds::default();
        for _ in 0..arguments.rounds {
            let mine = DOCUMENTS as f64 / ours.number("states", own, "seconds")?;
            let other = DOCUMENTS as f64 / theirs.number("states", others, "seconds")?;
            rounds.push(mine, other, mine / other);
        }
        let memory = memory([&mut ours, &mut theirs])?;
        push(&mut table, ("ingestion", &peer, "documents/s", 1.3), rounds, memory)?;
    }
    let path = peer::write(&table.finish()?, &arguments.common.out)?;
    println!("wrote {}", path.display());
    Ok(())
}

fn memory(sides: [&mut Worker; 2]) -> Result<[f64; 2]> {
    let [ours, theirs] = sides;
    Ok([ours.number("memory", 0, "peak_kib")? / 1024., theirs.number("memory", 0, "peak_kib")? / 1024.])
}

fn push(
    table: &mut Builder,
    (case, peer, unit, bar): (&str, &str, &str, f64),
    rounds: Rounds,
    memory: [f64; 2],
) -> Result<()> {
    let medians = rounds.medians();
    println!(
        "{case:10} {peer}: {:.1} against {:.1} {unit}: {:.2} ({:.2} to {:.2}), bar {bar}; {:.0} against {:.0} MiB",
        medians.ours, medians.theirs, medians.ratio, medians.worst, medians.best, memory[0], memory[1]
    );
    let mut cells = peer::cells(case, peer, unit, 1, medians, memory);
    cells.extend(row![bar]);
    Ok(table.push(cells)?)
}

/// Writes the shared input: an encoder's weights and a batch for it, a model, and documents.
fn prepare(folder: &Path) -> Result<()> {
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let encoder = Encoder::fresh(SHAPE, &mut rng, &Device::Cpu)?;
    weights::save(&folder.join("encoder.safetensors"), &Default::default(), &encoder.weights())?;
    let states: Vec<f32> = (0..BATCH * SHAPE.d_in).map(|_| rng.random_range(-3f32..3.)).collect();
    let targets: Vec<Bipolar> = (0..BATCH).map(|_| Bipolar::random(SHAPE.dimension, &mut rng)).collect();
    let tensors = [
        ("states".to_owned(), Tensor::from_vec(states, (BATCH, SHAPE.d_in), &Device::Cpu)?),
        ("targets".to_owned(), encoder::targets(&targets.iter().collect::<Vec<_>>(), &Device::Cpu)?),
    ];
    weights::save(&folder.join("batch.safetensors"), &Default::default(), &tensors.into_iter().collect())?;
    let config = smollm2();
    let ids: Vec<u32> = (0..DOCUMENTS * TOKENS).map(|_| rng.random_range(0..config.d_vocab as u32)).collect();
    let documents = Tensor::from_vec(ids, (DOCUMENTS, TOKENS), &Device::Cpu)?;
    let documents = [("documents".to_owned(), documents)].into_iter().collect();
    weights::save(&folder.join("documents.safetensors"), &Default::default(), &documents)?;
    models::export(&folder.join("model"), &Decoder::fresh(&config, &mut rng, &Device::Cpu)?, Family::Llama)?;
    Ok(())
}

/// The worker process: answers commands on standard input until it ends.
pub fn serve(folder: &Path) -> Result<()> {
    let device = Device::Cpu;
    let start = peer::resident_kib();
    let encoder = Encoder::from_weights(SHAPE, &weights::load(&folder.join("encoder.safetensors"), &device)?.tensors)?;
    let mut batch = weights::load(&folder.join("batch.safetensors"), &device)?.tensors;
    let (Some(states), Some(targets)) = (batch.remove("states"), batch.remove("targets")) else {
        bail!("{}: the batch has no states or no targets", folder.display());
    };
    let variables: Vec<Var> = encoder.parameters().into_iter().map(|parameter| parameter.var).collect();
    let decays: Vec<bool> = variables.iter().map(|var| var.dims().len() > 1).collect();
    let settings = AdamWConfig { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-4 };
    let mut adam = AdamW::new(settings, &variables)?;
    let mut key = 0;
    let mut step = |dropout: f64| -> Result<f64> {
        key += 2;
        let dropout = (dropout > 0.).then_some((dropout, key));
        let loss = encoder::loss(Loss::Published, &encoder.forward(&states, dropout)?, &targets)?;
        let store = ops::backward(&loss)?;
        let gradients: Vec<Tensor> = variables.iter().filter_map(|var| store.get(var).cloned()).collect();
        adam.update(&variables, &decays, &gradients, 1., 1.)?;
        Ok(loss.to_dtype(DType::F64)?.to_scalar()?)
    };
    let documents = weights::load(&folder.join("documents.safetensors"), &device)?.tensors;
    let documents = documents.get("documents").context("the file has no documents")?.clone();
    let mut model = None;
    peer::serve(|command, count| {
        Ok(match command {
            "losses" => serde_json::json!({"losses": (0..count).map(|_| step(0.)).collect::<Result<Vec<f64>>>()?}),
            "steps" => {
                let started = Instant::now();
                for _ in 0..count {
                    step(0.2)?;
                }
                serde_json::json!({"seconds": started.elapsed().as_secs_f64()})
            }
            "states" => {
                if model.is_none() {
                    model = Some(models::open(&folder.join("model"), DType::F32, &device)?.0.frozen());
                }
                let model = model.as_ref().context("the model is not loaded")?;
                let started = Instant::now();
                let mut sum = 0.;
                for first in (0..DOCUMENTS).step_by(count) {
                    let ids = documents.narrow(0, first, count.min(DOCUMENTS - first))?.contiguous()?;
                    sum += read(model, &ids)?;
                }
                serde_json::json!({"seconds": started.elapsed().as_secs_f64(), "checksum": sum})
            }
            "memory" => serde_json::json!({"peak_kib": peer::growth_kib(start)}),
            other => bail!("unknown command `{other}`"),
        })
    })
}

/// Reads the states of the last tokens over the second half of the layers, as the paper's experiments do; returns the
/// sum of their sizes.
fn read(model: &Decoder, ids: &Tensor) -> Result<f64> {
    let n_layers = model.n_layers();
    let blocks = (n_layers / 2..n_layers).map(|index| Site::Block(Layer(index - 1), Point::ResidPost));
    let sites: Vec<Site> = blocks.chain([Site::FinalNormalized]).collect();
    let last = Keep { positions: Some(vec![-1]), heads: None };
    let mut recorder = Recorder::new(model, &sites)?.keeping(last);
    model.forward_between(Start::Tokens(ids), End::LastLogits(1), &mut recorder)?;
    let mut sum = 0.;
    for site in sites {
        sum += f64::from(recorder.get(site)?.abs()?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(sum)
}
