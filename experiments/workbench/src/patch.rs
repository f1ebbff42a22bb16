//! `bench capture`: activations, patching and attribution of a GPT-2-small-shaped model, compared with TransformerLens
//! 3 and 4. `bench mcq`: the total effect of every head and MLP at the last position, of a small and of a
//! GPT-2-small-shaped model.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use capture::{Keep, capture, run_with_cache, select};
use hooks::{HookedModel, Layer, Point, Site};
use models::{Config, Decoder, Family};
use patching::{
    Metric, Node, Patch, Run, Writes, activation_patching, attribution_patching, each_head, each_position, patch_nodes,
    run_nodes,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};
use tables::{Builder, row};

use crate::peer::{self, Rounds, Worker};

/// Times analyses of activations, compared with TransformerLens
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these tasks (capture: all, resid, patch, heads, attribution; mcq: toy, gpt2-small)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Number of rounds; both programs run in each (a single round if either takes more than 30 seconds)
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Folder of the peers' Python environments
    #[arg(long, default_value = "target/peers")]
    environments: PathBuf,
    #[command(flatten)]
    common: peer::Common,
}

/// A task to time.
struct Task {
    /// The name in the table.
    case: &'static str,
    /// The command to both programs.
    command: &'static str,
    /// The target of the ratio.
    bar: f64,
    /// Whether memory is compared.
    memory: bool,
}

const CAPTURE: [Task; 5] = [
    Task { case: "all", command: "all", bar: 1.5, memory: true },
    Task { case: "resid", command: "resid", bar: 2., memory: true },
    Task { case: "patch", command: "patch", bar: 4., memory: false },
    Task { case: "heads", command: "heads", bar: 3., memory: false },
    Task { case: "attribution", command: "attribution", bar: 1.5, memory: false },
];

/// A task whose first round takes longer than this many seconds needs no warm-up, so that round is the only one.
const SLOW: f64 = 30.;

/// The maximum relative difference of the checksums.
const TOLERANCE: f64 = 1e-3;

/// The input of both programs.
#[derive(Serialize, Deserialize)]
struct Work {
    batch: Vec<Vec<u32>>,
    clean: Vec<Vec<u32>>,
    corrupted: Vec<Vec<u32>>,
    right: Vec<u32>,
    wrong: Vec<u32>,
}

/// Random tokens in the shape of prompts for indirect object identification: 16 prompts, each with a corrupted version
/// that differs only in the second subject, at position 11.
fn work(rng: &mut ChaCha12Rng) -> Work {
    let v = 50_257u32;
    let mut sample = |count: usize| -> Vec<u32> { (0..count).map(|_| rng.random_range(0..v)).collect() };
    let batch = (0..8).map(|_| sample(128)).collect();
    let template = sample(16);
    let (right, wrong) = (sample(16), sample(16));
    let prompt = |i: usize, subject: u32| {
        let mut prompt = template.clone();
        (prompt[3], prompt[5], prompt[11]) = (right[i], wrong[i], subject);
        prompt
    };
    let clean = (0..16).map(|i| prompt(i, wrong[i])).collect();
    let corrupted = (0..16).map(|i| prompt(i, right[i])).collect();
    Work { batch, clean, corrupted, right, wrong }
}

/// Random prompts for circuit analysis: `count` prompts of `seq` tokens with a source prompt and a pair of answer
/// tokens each.
fn prompts(count: usize, seq: usize, d_vocab: u32, rng: &mut ChaCha12Rng) -> Work {
    let mut sample = |count: usize| -> Vec<u32> { (0..count).map(|_| rng.random_range(0..d_vocab)).collect() };
    let clean: Vec<Vec<u32>> = (0..count).map(|_| sample(seq)).collect();
    let corrupted = (0..count).map(|_| sample(seq)).collect();
    Work { batch: clean[..1].to_vec(), clean, corrupted, right: sample(count), wrong: sample(count) }
}

/// Runs the tasks of `bench capture` against both versions, prints a line for each and writes the table.
pub fn bench(arguments: &Arguments) -> Result<()> {
    let about = "capturing and patching a GPT-2-small-shaped model, in our program and in the peer, in turn";
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let model = Decoder::fresh(&Config::gpt2_small(), &mut rng, &Device::Cpu)?;
    metric(arguments, ("capture", about), &[(model, work(&mut rng), &CAPTURE)])
}

/// Runs the tasks of `bench mcq` against both versions, prints a line for each and writes the table.
pub fn bench_circuits(arguments: &Arguments) -> Result<()> {
    let about = "total effect of every head and MLP at the last position: of a small model with 512 prompts \
                 of 29 tokens, and of a GPT-2-small-shaped model with 8 prompts of 64; in our program \
                 and in the peer, in turn";
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let small = Config {
        n_layers: 3,
        n_heads: 4,
        d_model: 64,
        d_mlp: 256,
        d_vocab: 132,
        n_positions: 40,
        ..Config::gpt2_small()
    };
    let gpt2 = Config::gpt2_small();
    let fresh = |config: &Config, rng: &mut ChaCha12Rng| Decoder::fresh(config, rng, &Device::Cpu);
    let cases = [
        (fresh(&small, &mut rng)?, prompts(512, 29, 132, &mut rng), &SMALL_MODEL),
        (fresh(&gpt2, &mut rng)?, prompts(8, 64, 50_257, &mut rng), &GPT2_SMALL),
    ];
    metric(arguments, ("mcq", about), &cases.map(|(model, work, tasks)| (model, work, tasks.as_slice())))
}

const SMALL_MODEL: [Task; 1] = [Task { case: "toy", command: "nodes", bar: 4., memory: false }];
const GPT2_SMALL: [Task; 1] = [Task { case: "gpt2-small", command: "nodes", bar: 4., memory: false }];

fn metric(arguments: &Arguments, (name, about): (&str, &str), cases: &[(Decoder, Work, &[Task])]) -> Result<()> {
    let mut table = Builder::new(peer::columns(name, about).float("bar", "target of the ratio", ""));
    let folder = tempfile::tempdir()?;
    let program = std::env::current_exe()?;
    let scripts = Path::new("experiments/workbench/peers");
    for (number, (model, work, tasks)) in cases.iter().enumerate() {
        let wanted = || tasks.iter().filter(|task| peer::wanted(&arguments.only, task.case));
        if wanted().next().is_none() {
            continue;
        }
        let model_folder = folder.path().join(format!("model-{number}"));
        let work_file = folder.path().join(format!("work-{number}.json"));
        models::export(&model_folder, model, Family::Gpt2)?;
        storage::write_atomic(&work_file, serde_json::to_string(work)?.as_bytes())?;
        for version in ["3", "4"] {
            let environment = arguments.environments.join(format!("transformer-lens-{version}"));
            let python = peer::python(&environment, &scripts.join(format!("capture-{version}.txt")))?;
            let ours = || {
                let mut ours = Command::new(&program);
                ours.args(["bench", "capture-worker"]).arg(&model_folder).arg(&work_file);
                ours
            };
            // Memory freed while loading would hide growth if the allocator kept it.
            let fresh = || Worker::start("retrace", ours().env("MIMALLOC_PURGE_DELAY", "0"), arguments.common.threads);
            let mut ours = Worker::start("retrace", &mut ours(), arguments.common.threads)?;
            let mut theirs = Command::new(python);
            theirs.arg(scripts.join("capture.py")).arg("--model").arg(&model_folder).arg("--work").arg(&work_file);
            theirs.args(["--threads", &arguments.common.threads.to_string()]);
            let mut theirs = Worker::start("transformer-lens", &mut theirs, arguments.common.threads)?;
            let answer = theirs.ask("ready", 0)?;
            let peer =
                format!("transformer-lens {}", answer.get("version").and_then(|v| v.as_str()).unwrap_or(version));
            let load = ours.number("load", 3, "seconds")?;
            println!("loading the weights, warm: {load:.2} s");
            for task in wanted() {
                let line = compare([&mut ours, &mut theirs], (task, &peer), arguments.rounds, &fresh)?;
                line.into_iter().try_for_each(|line| table.push(line))?;
            }
        }
    }
    let path = peer::write(&table.finish()?, &arguments.common.out)?;
    println!("wrote {}", path.display());
    Ok(())
}

fn seconds(side: &mut Worker, task: &str) -> Result<(f64, f64)> {
    let answer = side.ask(task, 1)?;
    let times: Vec<f64> = serde_json::from_value(answer.get("seconds").cloned().context("the answer has no times")?)?;
    let checksum = answer.get("checksum").and_then(serde_json::Value::as_f64).context("the answer has no checksum")?;
    Ok((times.first().copied().context("the answer has no times")?, checksum))
}

fn compare(
    sides: [&mut Worker; 2],
    (task, peer): (&Task, &str),
    rounds: usize,
    fresh: &dyn Fn() -> Result<Worker>,
) -> Result<Option<Vec<tables::Value>>> {
    let [ours, theirs] = sides;
    let Task { case, command, bar, memory } = *task;
    let ((first, mine), (second, other)) = (seconds(ours, command)?, seconds(theirs, command)?); // warm-up, unless slow
    if (mine - other).abs() > TOLERANCE * other.abs() {
        println!("{case:12} {peer}: no row, because the checksums differ: {mine} and {other}");
        return Ok(None);
    }
    let mut measured = Rounds::default();
    let slow = first.max(second) > SLOW;
    if slow {
        measured.push(first, second, second / first);
    }
    for _ in 0..if slow { 0 } else { rounds } {
        let (a, b) = (seconds(ours, command)?.0, seconds(theirs, command)?.0);
        measured.push(a, b, b / a);
    }
    let mut peaks = [f64::NAN; 2];
    if memory {
        // Use a fresh process, because memory freed by earlier tasks would hide growth.
        let mut fresh = fresh()?;
        for (peak, side) in peaks.iter_mut().zip([&mut fresh, theirs]) {
            side.ask("reset", 0)?;
            side.ask(command, 1)?;
            *peak = side.number("memory", 0, "kib")? / 1024.;
        }
    }
    let medians = measured.medians();
    println!(
        "{case:12} {peer}: {:.3} against {:.3} s: {:.2} ({:.2} to {:.2}), bar {bar}; {:.0} against {:.0} MiB",
        medians.ours, medians.theirs, medians.ratio, medians.worst, medians.best, peaks[0], peaks[1]
    );
    let mut cells = peer::cells(case, peer, "s", 4, medians, peaks);
    cells.extend(row![bar]);
    Ok(Some(cells))
}

/// The worker process: answers commands on standard input until it ends.
pub fn serve(folder: &Path, work: &Path) -> Result<()> {
    let text = std::fs::read(work).with_context(|| format!("reading {}", work.display()))?;
    let work: Work = serde_json::from_slice(&text)?;
    let (model, _) = models::open(folder, DType::F32, &Device::Cpu)?;
    let side = Side { model: model.frozen(), work };
    drop(model);
    let mut start = 0;
    peer::serve(|command, count| {
        Ok(match command {
            "load" => {
                let started = Instant::now();
                for _ in 0..count {
                    models::open(folder, DType::F32, &Device::Cpu)?;
                }
                serde_json::json!({ "seconds": started.elapsed().as_secs_f64() / count as f64 })
            }
            "reset" => {
                peer::forget_peak();
                start = peer::resident_kib();
                serde_json::json!({})
            }
            "memory" => serde_json::json!({ "kib": peer::growth_kib(start) }),
            task => {
                let (mut times, mut checksum) = (Vec::new(), 0.);
                for _ in 0..count {
                    let started = Instant::now();
                    checksum = side.run(task)?;
                    times.push(started.elapsed().as_secs_f64());
                }
                serde_json::json!({ "seconds": times, "checksum": checksum })
            }
        })
    })
}

struct Side {
    model: Decoder,
    work: Work,
}

impl Side {
    fn run(&self, task: &str) -> Result<f64> {
        let metric = Metric::logit_difference(&self.work.right, &self.work.wrong);
        let n_layers = self.model.n_layers();
        match task {
            "all" => {
                let sites = select(&self.model, &["*"])?;
                let (_, seen) = run_with_cache(&self.model, &tensor(&self.work.batch)?, &sites)?;
                mean_size(seen.get(Site::Block(Layer(5), Point::ResidPost))?)
            }
            "resid" => {
                let sites = select(&self.model, &["blocks.*.hook_resid_post"])?;
                let seen = capture(&self.model, &tensor(&self.work.batch)?, &sites, &Keep::default())?;
                mean_size(seen.get(Site::Block(Layer(5), Point::ResidPost))?)
            }
            "patch" => self.patch(&each_position(n_layers, Point::ResidPre, self.work.clean[0].len()), &metric),
            "heads" => self.patch(&each_head(n_layers, Point::Z, self.model.n_heads()), &metric),
            "attribution" => self.attribution(&metric),
            "nodes" => self.nodes(&metric),
            other => bail!("unknown command `{other}`"),
        }
    }

    fn patch(&self, patches: &[Patch], metric: &Metric<'_>) -> Result<f64> {
        let mut sites: Vec<Site> = patches.iter().map(Patch::site).collect();
        sites.dedup();
        let source = Run::new(&self.model, &tensor(&self.work.clean)?, &sites)?;
        let base = Run::new(&self.model, &tensor(&self.work.corrupted)?, &sites)?;
        let effects = activation_patching(&self.model, &base, &source, patches, metric)?;
        let mean = |numbers: &Vec<f64>| numbers.iter().sum::<f64>() / numbers.len() as f64;
        Ok(effects.patched.iter().map(|numbers| mean(numbers).abs()).sum())
    }

    /// Replaces each node's write at the last position by its write in the prompt's source, one node at a time.
    fn nodes(&self, metric: &Metric<'_>) -> Result<f64> {
        let source = run_nodes(&self.model, &tensor(&self.work.corrupted)?)?;
        let writes = Writes::of(&source, self.model.n_layers())?;
        let base = run_nodes(&self.model, &tensor(&self.work.clean)?)?;
        let groups: Vec<Vec<Node>> = Node::all(&self.model).into_iter().map(|node| vec![node]).collect();
        let patched = patch_nodes(&self.model, &base, &writes, &groups, &|logits| metric.of(logits))?;
        let size = |x: &Tensor| -> Result<f64> { Ok(x.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>()?.abs()) };
        patched.iter().map(size).sum()
    }

    fn attribution(&self, metric: &Metric<'_>) -> Result<f64> {
        let layers = (0..self.model.n_layers()).map(Layer);
        let sites: Vec<Site> = layers.map(|layer| Site::Block(layer, Point::ResidPre)).collect();
        let tokens = tensor(&self.work.corrupted)?;
        let source = capture(&self.model, &tensor(&self.work.clean)?, &sites, &Keep::default())?;
        let maps = attribution_patching(&self.model, &tokens, &source, &sites, metric)?;
        let map = |x: &Tensor| -> Result<f64> { Ok(x.mean(0)?.abs()?.sum_all()?.to_dtype(DType::F64)?.to_scalar()?) };
        maps.values().map(map).sum()
    }
}

fn tensor(ids: &[Vec<u32>]) -> candle_core::Result<Tensor> {
    Tensor::new(ids.to_vec(), &Device::Cpu)
}

fn mean_size(x: &Tensor) -> Result<f64> {
    Ok(x.to_dtype(DType::F64)?.abs()?.mean_all()?.to_scalar()?)
}
