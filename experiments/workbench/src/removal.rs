//! `bench removal`: training steps while norms are removed, and evaluation of the model without norms (arXiv 2507.02559),
//! of a GPT-2-small-shaped model, compared with transformers on PyTorch.
//!
//! The training case is half-way through the removal. Norms before MLPs and those of queries and keys divide by fixed
//! numbers; those of values and the final norm divide by their inputs' scales. Running means follow all scales. The
//! auxiliary loss keeps the final scale sigma constant over batch b and position s:
//!
//! ```text
//! loss = CE + 0.1 · mean_{b,s} (sigma_{b,s} - sigma_hat)^2
//! ```
//!
//! In the peer, the model without norms is a plain GPT-2 whose epsilon makes every norm a constant map, as in the published
//! checkpoints. Our program divides by the equivalent fixed numbers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use models::{Config, Decoder, Family, FixedScales, NormPath, Step};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};
use tables::Builder;
use training::{AdamW, AdamWConfig, gradient_norm};

use crate::peer::{self, Worker};
use crate::train::{self, Case, Options};

/// The number of steps whose losses must agree.
const AGREE: usize = 5;
/// The maximum relative difference of the losses.
const TOLERANCE: f64 = 1e-4;
/// The learning rate: a tenth of the published one, because a fresh model without warm-up diverges at that rate.
const LR: f64 = 6e-5;
/// The weight of the auxiliary loss.
const AUX: f64 = 0.1;
/// The decay of the running means per batch.
const MOMENTUM: f64 = 0.9;
const LN1_UPDATES: i32 = 3;
/// GPT-2's end-of-text token. It is not a target, and its position is excluded from the target of the final scale.
const END: u32 = 50_256;
/// A factor on the MLPs' output in a fresh model. It raises the final scale to about 16, as in the trained model, so
/// that the auxiliary loss is not negligible.
const LOUDER: f64 = 50.;

/// Options of the benchmark.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Folder of the peer's Python environment
    #[arg(long, default_value = "target/peers/removal")]
    environment: PathBuf,
}

fn cases() -> [Case; 2] {
    let case =
        |name, batch, seq, inference| Case { name, config: Config::gpt2_small(), batch, seq, given: 0, inference };
    [case("removal-step", 1, 256, false), case("removal-evaluation", 2, 1024, true)]
}

/// The mean scales of the norms' inputs.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Scales {
    ln1: Vec<f64>,
    ln2: Vec<f64>,
    ln_final: f64,
}

/// The settings of a case, sent to both programs.
#[derive(Clone, Serialize, Deserialize)]
pub struct Order {
    /// A model folder in the format of transformers.
    model: PathBuf,
    batch: PathBuf,
    /// The initial fixed divisors of the norms.
    scales: Scales,
    lr: f64,
    aux: f64,
    momentum: f64,
    ln1_updates: i32,
    end: u32,
    ignored: u32,
    threads: usize,
    compile: bool,
    inference: bool,
}

/// Runs both cases, prints a line for each and writes the table.
pub fn bench(arguments: &Arguments) -> Result<()> {
    let Arguments { options, environment } = arguments;
    let about = "training steps while norms are removed, and evaluation without norms, of a GPT-2-small-shaped model, \
                 in our program and in the peer, in turn";
    let mut table = Builder::new(train::columns("removal", about));
    for case in cases().into_iter().filter(|case| case.name.contains(&options.only)) {
        let work = tempfile::tempdir()?;
        let order = prepare(&case, work.path(), options.common.threads)?;
        if options.alone {
            train::alone(&case, ours(&order)?, options)?;
            continue;
        }
        for (peer, compile) in [("pytorch-eager", false), ("pytorch-compile", true)] {
            let order = Order { compile, ..order.clone() };
            let mut sides = [ours(&order)?, theirs(peer, &order, environment)?];
            let apart = train::apart(&mut sides, AGREE)?;
            if apart > TOLERANCE {
                println!(
                    "{:20} {peer:16} no row, because the losses differ by {apart:.1e} within {AGREE} steps",
                    case.name
                );
                continue;
            }
            println!("{:20} {peer:16} losses agree to {apart:.1e}", case.name);
            table.push(train::by_turns(&case, peer, &mut sides, options)?)?;
        }
    }
    if !options.alone {
        let path = peer::write(&table.finish()?, &options.common.out)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Writes the model and the batch for both programs.
fn prepare(case: &Case, folder: &Path, threads: usize) -> Result<Order> {
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let mut named = Decoder::fresh(&case.config, &mut rng, &Device::Cpu)?.weights();
    for (name, weight) in &mut named {
        if name.ends_with("W_out") {
            *weight = (weight.detach() * LOUDER)?;
        }
    }
    let mut model = Decoder::new(&case.config, named, &Device::Cpu)?;
    let Case { batch, seq, .. } = *case;
    let (tokens, targets) = windows(case, &mut rng)?;
    let scales = scales(&model, &tokens, &targets)?;
    if case.inference {
        model.set_fixed_scales(every_norm(&scales))?;
    }
    let order = Order {
        model: folder.join("model"),
        batch: folder.join("batch.safetensors"),
        scales,
        lr: LR,
        aux: AUX,
        momentum: MOMENTUM,
        ln1_updates: LN1_UPDATES,
        end: END,
        ignored: ops::IGNORED,
        threads,
        compile: false,
        inference: case.inference,
    };
    models::export(&order.model, &model, Family::Gpt2)?;
    let tensors = [("tokens", tokens), ("targets", targets)].map(|(name, tensor)| (name.to_owned(), tensor));
    weights::save(&order.batch, &Default::default(), &tensors.into_iter().collect())?;
    println!("{:20} {batch} x {seq} tokens, final scale {:.1}", case.name, order.scales.ln_final);
    Ok(order)
}

/// Random tokens with an end of text in the middle of each row, and the next tokens as targets. The ends of text of a
/// training step and the position after an evaluated sequence are not targets.
fn windows(case: &Case, rng: &mut ChaCha12Rng) -> Result<(Tensor, Tensor)> {
    let Case { batch, seq, inference, .. } = *case;
    let (mut tokens, mut targets) = (Vec::new(), Vec::new());
    for _ in 0..batch {
        let mut row: Vec<u32> = (0..=seq).map(|_| rng.random_range(0..END)).collect();
        row[seq / 2] = END;
        tokens.extend_from_slice(&row[..seq]);
        if inference {
            row[seq] = ops::IGNORED;
        } else {
            row.iter_mut().filter(|id| **id == END).for_each(|id| *id = ops::IGNORED);
        }
        targets.extend_from_slice(&row[1..]);
    }
    let tensor = |ids| Tensor::from_vec(ids, (batch, seq), &Device::Cpu);
    Ok((tensor(tokens)?, tensor(targets)?))
}

fn scales(model: &Decoder, tokens: &Tensor, targets: &Tensor) -> Result<Scales> {
    let step = Step { norm_scales: true, ..Step::default() };
    means(&model.losses(tokens, targets, &[], step)?.norm_scales.context("the pass recorded no scales of norms")?)
}

fn means(norm_scales: &models::NormScales) -> Result<Scales> {
    let ln_final = norm_scales.ln_final.detach().to_dtype(DType::F64)?.mean_all()?.to_scalar()?;
    Ok(Scales { ln1: norm_scales.ln1.clone(), ln2: norm_scales.ln2.clone(), ln_final })
}

/// Fixed scales for all norms.
fn every_norm(scales: &Scales) -> FixedScales {
    let some = |list: &[f64]| -> Vec<Option<f64>> { list.iter().copied().map(Some).collect() };
    let ln1 = some(&scales.ln1);
    FixedScales { ln1_qk: ln1.clone(), ln1_v: ln1, ln2: some(&scales.ln2), ln_final: Some(scales.ln_final) }
}

fn ours(order: &Order) -> Result<Worker> {
    let order_json = serde_json::to_string(order)?;
    let mut command = Command::new(std::env::current_exe()?);
    // The setting that experiments use.
    command.args(["bench", "removal-worker", &order_json]).env("CANDLE_NUM_THREADS", "1");
    Worker::start("retrace", &mut command, order.threads)
}

fn theirs(peer: &str, order: &Order, environment: &Path) -> Result<Worker> {
    let scripts = Path::new("experiments/workbench/peers");
    let python = peer::python(environment, &scripts.join("removal.txt"))?;
    let order_json = serde_json::to_string(order)?;
    Worker::start(peer, Command::new(python).arg(scripts.join("removal.py")).arg(order_json), order.threads)
}

/// The worker process: answers commands on standard input until it ends.
pub fn work(order: &str) -> Result<()> {
    let order: Order = serde_json::from_str(order).context("the settings of a benchmark")?;
    let start = peer::resident_kib();
    let model = models::open(&order.model, DType::F32, &Device::Cpu)?.0;
    let mut batch = weights::load(&order.batch, &Device::Cpu)?.tensors;
    let (Some(tokens), Some(targets)) = (batch.remove("tokens"), batch.remove("targets")) else {
        bail!("{}: the batch has no tokens or no targets", order.batch.display());
    };
    let mut side: Box<dyn Side> = if order.inference {
        Box::new(Evaluation { model: model.frozen(), tokens, targets })
    } else {
        Box::new(Removal::new(model, tokens, targets, &order)?)
    };
    peer::serve(|command, count| {
        Ok(match command {
            "losses" => serde_json::json!({"losses": side.losses(count)?}),
            "time" => {
                let started = Instant::now();
                for _ in 0..count {
                    side.step()?;
                }
                serde_json::json!({"seconds": started.elapsed().as_secs_f64()})
            }
            "product" => serde_json::json!({"flops": train::product_flops(count)?}),
            "memory" => serde_json::json!({"peak_kib": peer::growth_kib(start)}),
            other => bail!("unknown command `{other}`"),
        })
    })
}

/// A timed computation, with the numbers that must agree.
trait Side {
    fn step(&mut self) -> Result<Vec<f64>>;

    /// The numbers of this many steps.
    fn losses(&mut self, count: usize) -> Result<Vec<f64>> {
        Ok((0..count).map(|_| self.step()).collect::<Result<Vec<_>>>()?.concat())
    }
}

/// Evaluation of an unchanged model, as in `ln-removal/evaluation`.
struct Evaluation {
    model: Decoder,
    tokens: Tensor,
    targets: Tensor,
}

impl Side for Evaluation {
    /// The loss of every token.
    fn step(&mut self) -> Result<Vec<f64>> {
        // There is no backward pass, so blocks need not be kept.
        let how = Step { recompute: true, ..Step::default() };
        let losses = self.model.losses(&self.tokens, &self.targets, &[], how)?.losses.detach();
        Ok(losses.to_dtype(DType::F64)?.to_vec1()?)
    }

    /// A single pass, because all passes are equal.
    fn losses(&mut self, _: usize) -> Result<Vec<f64>> {
        self.step()
    }
}

struct Removal {
    model: Decoder,
    tokens: Tensor,
    targets: Tensor,
    /// The positions that count in the target of the final scale.
    counted: Vec<bool>,
    /// The divisors of the norms before MLPs.
    ln2: Vec<f64>,
    /// The running means. Queries and keys divide by those before attention until values do as well.
    ema: Scales,
    variables: Vec<Var>,
    decays: Vec<bool>,
    adam: AdamW,
}

impl Removal {
    fn new(model: Decoder, tokens: Tensor, targets: Tensor, order: &Order) -> Result<Self> {
        let ids = tokens.to_vec2::<u32>()?;
        let counted = ids.iter().flat_map(|row| row.iter().enumerate().map(|(i, id)| i > 0 && *id != END));
        let variables: Vec<Var> = model.parameters().iter().map(|(_, var)| var.clone()).collect();
        let adamw = AdamWConfig { lr: LR, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
        Ok(Self {
            counted: counted.collect(),
            ln2: order.scales.ln2.clone(),
            ema: order.scales.clone(),
            decays: variables.iter().map(|var| var.dims().len() > 1).collect(),
            adam: AdamW::new(adamw, &variables)?,
            variables,
            model,
            tokens,
            targets,
        })
    }

    /// `mean (sigma - sigma_hat)^2`, sigma_hat without gradient.
    fn auxiliary(&self, sigma: &Tensor) -> Result<Tensor> {
        let values = sigma.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let counted = values.iter().zip(&self.counted).filter(|(_, counted)| **counted);
        let (sum, count) = counted.fold((0., 0usize), |(sum, count), (sigma, _)| (sum + sigma, count + 1));
        Ok((sigma - sum / count as f64)?.sqr()?.mean_all()?)
    }

    fn follow(&mut self, seen: &Scales) {
        let update = |ema: &mut f64, seen: f64, updates: i32| {
            let kept = MOMENTUM.powi(updates);
            *ema = kept * *ema + (1. - kept) * seen;
        };
        let Self { ema, .. } = self;
        ema.ln1.iter_mut().zip(&seen.ln1).for_each(|(ema, seen)| update(ema, *seen, LN1_UPDATES));
        ema.ln2.iter_mut().zip(&seen.ln2).for_each(|(ema, seen)| update(ema, *seen, 1));
        update(&mut ema.ln_final, seen.ln_final, 1);
    }
}

impl Side for Removal {
    /// The cross-entropy, the weighted auxiliary loss, and the mean of all running means.
    fn step(&mut self) -> Result<Vec<f64>> {
        let mut fixed = FixedScales::default();
        for (layer, (ln1, ln2)) in self.ema.ln1.iter().zip(&self.ln2).enumerate() {
            fixed.set(NormPath::QueriesKeys(layer), Some(*ln1));
            fixed.set(NormPath::Mlp(layer), Some(*ln2));
        }
        self.model.set_fixed_scales(fixed)?;
        let how = Step { norm_scales: true, ..Step::default() };
        let losses = self.model.losses(&self.tokens, &self.targets, &[], how)?;
        let norm_scales = losses.norm_scales.context("the pass recorded no scales of norms")?;
        self.follow(&means(&norm_scales)?);
        let ce = losses.losses.mean_all()?;
        let aux = (self.auxiliary(&norm_scales.ln_final)? * AUX)?;
        let store = ops::backward(&(&ce + &aux)?)?;
        let gradients: Vec<Tensor> = self.variables.iter().filter_map(|var| store.get(var).cloned()).collect();
        let norm = gradient_norm(&gradients)?;
        self.adam.update(&self.variables, &self.decays, &gradients, 1., 1. / norm.max(1.))?;
        let number = |x: &Tensor| x.detach().to_dtype(DType::F64)?.to_scalar::<f64>();
        let Scales { ln1, ln2, ln_final } = &self.ema;
        let scales = ln1.iter().chain(ln2).sum::<f64>() + ln_final;
        Ok(vec![number(&ce)?, number(&aux)?, scales / (ln1.len() + ln2.len() + 1) as f64])
    }
}
