//! `bench capture`: activations, patching and attribution of a GPT-2-small-shaped model beside TransformerLens 3 and 4.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use capture::{Keep, capture, run_with_cache, select};
use hooks::{HookedModel, Layer, Point, Site};
use models::{Config, Decoder, Family};
use patching::{Metric, Patch, Run, activation_patching, attribution_patching, each_head, each_position};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};
use tables::{Builder, row};

use crate::peer::{self, Rounds, Worker};

/// Activations, patching and attribution beside TransformerLens.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these tasks: all, resid, patch, heads, attribution
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds; both sides take turns in each (a single one for what takes either side more than 30 seconds)
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Folder of the peers' Python environments
    #[arg(long, default_value = "target/peers")]
    environments: PathBuf,
    #[command(flatten)]
    common: peer::Common,
}

/// A task: its name, what it should be faster by, and whether its memory is compared.
const TASKS: [(&str, f64, bool); 5] =
    [("all", 1.5, true), ("resid", 2., true), ("patch", 4., false), ("heads", 3., false), ("attribution", 1.5, false)];

/// Seconds from which on a task's first round counts and is the only one: it needs no warming up.
const SLOW: f64 = 30.;

/// Largest relative difference of the sides' checksums.
const TOLERANCE: f64 = 1e-3;

/// What both sides read.
#[derive(Serialize, Deserialize)]
struct Work {
    batch: Vec<Vec<u32>>,
    clean: Vec<Vec<u32>>,
    corrupted: Vec<Vec<u32>>,
    right: Vec<u32>,
    wrong: Vec<u32>,
}

/// Tokens shaped as prompts of indirect object identification: 16 of them, which differ from their corrupted versions in
/// the second subject alone, place 11.
fn work(rng: &mut ChaCha12Rng) -> Work {
    let v = 50_257u32;
    let mut draw = |count: usize| -> Vec<u32> { (0..count).map(|_| rng.random_range(0..v)).collect() };
    let batch = (0..8).map(|_| draw(128)).collect();
    let template = draw(16);
    let (right, wrong) = (draw(16), draw(16));
    let prompt = |i: usize, subject: u32| {
        let mut prompt = template.clone();
        (prompt[3], prompt[5], prompt[11]) = (right[i], wrong[i], subject);
        prompt
    };
    let clean = (0..16).map(|i| prompt(i, wrong[i])).collect();
    let corrupted = (0..16).map(|i| prompt(i, right[i])).collect();
    Work { batch, clean, corrupted, right, wrong }
}

/// Runs all tasks against both versions, prints a line for each and writes the table.
pub fn bench(arguments: &Arguments) -> Result<()> {
    let about = "capturing and patching a GPT-2-small-shaped model, ours and the peer's, by turns";
    let mut table = Builder::new(peer::columns("capture", about).float("bar", "what the ratio should reach", ""));
    let folder = tempfile::tempdir()?;
    let (model, work_file) = (folder.path().join("model"), folder.path().join("work.json"));
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    models::export(&model, &Decoder::fresh(&Config::gpt2_small(), &mut rng, &Device::Cpu)?, Family::Gpt2)?;
    storage::write_atomic(&work_file, serde_json::to_string(&work(&mut rng))?.as_bytes())?;
    let program = std::env::current_exe()?;
    let scripts = Path::new("experiments/workbench/peers");
    for version in ["3", "4"] {
        let environment = arguments.environments.join(format!("transformer-lens-{version}"));
        let python = peer::python(&environment, &scripts.join(format!("capture-{version}.txt")))?;
        let ours = || {
            let mut ours = Command::new(&program);
            ours.args(["bench", "capture-worker"]).arg(&model).arg(&work_file);
            ours
        };
        // what was freed while loading would hide growth if it was kept for a while
        let fresh = || Worker::start("retrace", ours().env("MIMALLOC_PURGE_DELAY", "0"), arguments.common.threads);
        let mut ours = Worker::start("retrace", &mut ours(), arguments.common.threads)?;
        let mut theirs = Command::new(python);
        theirs.arg(scripts.join("capture.py")).arg("--model").arg(&model).arg("--work").arg(&work_file);
        theirs.args(["--threads", &arguments.common.threads.to_string()]);
        let mut theirs = Worker::start("transformer-lens", &mut theirs, arguments.common.threads)?;
        let answer = theirs.ask("ready", 0)?;
        let peer = format!("transformer-lens {}", answer.get("version").and_then(|v| v.as_str()).unwrap_or(version));
        let load = ours.number("load", 3, "seconds")?;
        println!("loading the weights, warm: {load:.2} s");
        for (task, bar, memory) in TASKS.into_iter().filter(|(name, ..)| peer::wanted(&arguments.only, name)) {
            if let Some(line) = compare([&mut ours, &mut theirs], (task, &peer), bar, memory, arguments.rounds, &fresh)?
            {
                table.push(line)?;
            }
        }
    }
    let path = peer::write(&table.finish()?, &arguments.common.out)?;
    println!("wrote {}", path.display());
    Ok(())
}

fn seconds(side: &mut Worker, task: &str) -> Result<(f64, f64)> {
    let answer = side.ask(task, 1)?;
    let times: Vec<f64> = serde_json::from_value(answer.get("seconds").cloned().context("no seconds")?)?;
    let checksum = answer.get("checksum").and_then(serde_json::Value::as_f64).context("no checksum")?;
    Ok((times.first().copied().context("no seconds")?, checksum))
}

fn compare(
    sides: [&mut Worker; 2],
    (task, peer): (&str, &str),
    bar: f64,
    memory: bool,
    rounds: usize,
    fresh: &dyn Fn() -> Result<Worker>,
) -> Result<Option<Vec<tables::Value>>> {
    let [ours, theirs] = sides;
    let ((first, mine), (second, other)) = (seconds(ours, task)?, seconds(theirs, task)?); // warm-up, unless slow
    if (mine - other).abs() > TOLERANCE * other.abs() {
        println!("{task:12} {peer}: no row: checksums {mine} and {other}");
        return Ok(None);
    }
    let mut measured = Rounds::default();
    let slow = first.max(second) > SLOW;
    if slow {
        measured.push(first, second, second / first);
    }
    for _ in 0..if slow { 0 } else { rounds } {
        let (a, b) = (seconds(ours, task)?.0, seconds(theirs, task)?.0);
        measured.push(a, b, b / a);
    }
    let mut peaks = [f64::NAN; 2];
    if memory {
        // a process of its own: otherwise what earlier tasks freed would hide growth
        let mut fresh = fresh()?;
        for (peak, side) in peaks.iter_mut().zip([&mut fresh, theirs]) {
            side.ask("reset", 0)?;
            side.ask(task, 1)?;
            *peak = side.number("memory", 0, "kib")? / 1024.;
        }
    }
    let medians = measured.medians();
    println!(
        "{task:12} {peer}: {:.3} against {:.3} s: {:.2} ({:.2} to {:.2}), bar {bar}; {:.0} against {:.0} MiB",
        medians.ours, medians.theirs, medians.ratio, medians.worst, medians.best, peaks[0], peaks[1]
    );
    let mut cells = peer::cells(task, peer, "s", 4, medians, peaks);
    cells.extend(row![bar]);
    Ok(Some(cells))
}

/// Our side: obeys commands on standard input until it ends.
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
            other => bail!("no command `{other}`"),
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
