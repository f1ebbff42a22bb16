//! `bench vsa`: binding, bundling and clean-up of hypervectors, compared with torchhd (arXiv 2205.09208) on PyTorch.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use tables::{Builder, row};
use vsa::{Bipolar, Memory, Vector};

use crate::peer::{self, Rounds, Worker};

/// Times bipolar hypervectors in both programs, in turn
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these tasks: cleanup, bind, bundle
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Number of rounds; both programs run in each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(flatten)]
    common: peer::Common,
    /// Folder of the peer's Python environment
    #[arg(long, default_value = "target/peers/vsa")]
    environment: PathBuf,
}

/// The dimension in arXiv 2509.25045.
const D: usize = 4096;
/// The number of concepts in its analogy codebook.
const ITEMS: usize = 2996;
const QUERIES: usize = 10_000;
const VECTORS: usize = 100_000;

/// The name of each task, its target ratio of speed and its target ratio of memory.
const TASKS: [(&str, f64, f64); 3] = [("cleanup", 20., 8.), ("bind", 10., 8.), ("bundle", 10., 8.)];

/// Runs all tasks, prints a line for each and writes the table.
pub fn bench(arguments: &Arguments) -> Result<()> {
    let about = "bipolar hypervectors of 4,096 dimensions, in our program and in the peer, in turn";
    let schema = peer::columns("vsa", about)
        .float("bar", "target of the ratio", "")
        .float("memory_bar", "target of the ratio of memory", "")
        .float("gb_per_second", "bytes of vectors that our program processes per second", "GB/s")
        .float(
            "copy_gb_per_second",
            "bytes that this machine copies per second, on the same number of threads",
            "GB/s",
        );
    let mut table = Builder::new(schema);
    let folder = tempfile::tempdir()?;
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    for (name, count) in [("items", ITEMS), ("queries", QUERIES), ("left", VECTORS), ("right", VECTORS)] {
        let mut bytes = Vec::with_capacity(count * D / 8);
        (0..count).for_each(|_| bytes.extend(Bipolar::random(D, &mut rng).to_bytes()));
        storage::write_atomic(&folder.path().join(name), &bytes)?;
    }
    let python = peer::python(&arguments.environment, Path::new("experiments/workbench/peers/vsa.txt"))?;
    let mut ours = Command::new(std::env::current_exe()?);
    // A process that returns freed memory at once, so that growth is visible.
    ours.args(["bench", "vsa-worker"]).arg(folder.path()).env("MIMALLOC_PURGE_DELAY", "0");
    let mut ours = Worker::start("retrace", &mut ours, arguments.common.threads)?;
    let mut theirs = Command::new(python);
    theirs.arg("experiments/workbench/peers/vsa.py").arg(folder.path()).arg(arguments.common.threads.to_string());
    let mut theirs = Worker::start("torchhd", &mut theirs, arguments.common.threads)?;
    let answer = theirs.ask("ready", 0)?;
    let peer = format!("torchhd {}", answer.get("version").and_then(|v| v.as_str()).unwrap_or("?"));
    let copied = ours.number("copy", 5, "bytes_per_second")? / 1e9;
    println!("this machine copies {copied:.1} GB/s");
    for (task, bar, memory_bar) in TASKS.into_iter().filter(|(name, ..)| peer::wanted(&arguments.only, name)) {
        let mut measured = Rounds::default();
        let mut peaks = [0f64; 2];
        for round in 0..=arguments.rounds {
            let mut times = [0.; 2];
            let mut sums = [0.; 2];
            for (i, side) in [&mut ours, &mut theirs].into_iter().enumerate() {
                let answer = side.ask(task, 1)?;
                let number = |key: &str| {
                    answer.get(key).and_then(serde_json::Value::as_f64).context("the answer has no such number")
                };
                (times[i], sums[i]) = (number("seconds")?, number("checksum")?);
                peaks[i] = peaks[i].max(number("kib")? / 1024.);
            }
            if sums[0] != sums[1] {
                bail!("{task}: the results differ: checksums {} and {}", sums[0], sums[1]);
            }
            if round > 0 {
                measured.push(times[0], times[1], times[1] / times[0]);
            }
        }
        let medians = measured.medians();
        let passed = match task {
            "cleanup" => QUERIES * ITEMS,
            "bind" => 3 * VECTORS,
            _ => VECTORS,
        };
        let rate = (passed * D / 8) as f64 / medians.ours / 1e9;
        println!(
            "{task:8} {peer}: {:.4} against {:.4} s: {:.1} ({:.1} to {:.1}), bar {bar}; {:.0} against {:.0} MiB: {:.1}, bar {memory_bar}; {rate:.1} GB/s",
            medians.ours,
            medians.theirs,
            medians.ratio,
            medians.worst,
            medians.best,
            peaks[0],
            peaks[1],
            peaks[1] / peaks[0]
        );
        let mut cells = peer::cells(task, &peer, "s", 5, medians, peaks);
        cells.extend(row![bar, memory_bar, peer::rounded(rate, 1), peer::rounded(copied, 1)]);
        table.push(cells)?;
    }
    let path = peer::write(&table.finish()?, &arguments.common.out)?;
    println!("wrote {}", path.display());
    Ok(())
}

/// The worker process: answers commands on standard input until it ends.
pub fn serve(folder: &Path) -> Result<()> {
    peer::serve(|command, count| {
        Ok(match command {
            "copy" => {
                let (from, mut to) = (vec![1u8; 1 << 28], vec![0u8; 1 << 28]);
                let copy = |to: &mut [u8]| {
                    let threads = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
                    let part = from.len().div_ceil(threads);
                    std::thread::scope(|scope| {
                        for (from, to) in from.chunks(part).zip(to.chunks_mut(part)) {
                            scope.spawn(|| to.copy_from_slice(from));
                        }
                    });
                };
                copy(&mut to);
                let started = Instant::now();
                (0..count).for_each(|_| copy(&mut to));
                let seconds = started.elapsed().as_secs_f64();
                serde_json::json!({ "bytes_per_second": (count * from.len()) as f64 / seconds })
            }
            task => {
                peer::forget_peak();
                let start = peer::resident_kib();
                let (seconds, checksum) = run(folder, task)?;
                serde_json::json!({ "seconds": seconds, "checksum": checksum, "kib": peer::growth_kib(start) })
            }
        })
    })
}

fn read(folder: &Path, name: &str) -> Result<Vec<Bipolar>> {
    let bytes = std::fs::read(folder.join(name)).with_context(|| format!("reading {name}"))?;
    let width = Bipolar::byte_length(D);
    bytes
        .chunks_exact(width)
        .map(|vector| Bipolar::from_bytes(D, vector).context("the file has bits beyond the dimension"))
        .collect()
}

fn run(folder: &Path, task: &str) -> Result<(f64, f64)> {
    match task {
        "cleanup" => {
            let mut memory = Memory::empty(D);
            memory.extend(&read(folder, "items")?);
            let queries = read(folder, "queries")?;
            let started = Instant::now();
            let hits = memory.nearest_all(&queries, 1);
            let seconds = started.elapsed().as_secs_f64();
            // The indices of equally near items may differ, but their cosines may not.
            Ok((seconds, (hits.iter().map(|hits| hits[0].cosine * D as f64).sum::<f64>()).round()))
        }
        "bind" => {
            let (left, right) = (read(folder, "left")?, read(folder, "right")?);
            let started = Instant::now();
            let bound = vsa::bind_all(&left, &right);
            let seconds = started.elapsed().as_secs_f64();
            Ok((seconds, (bound.iter().map(Bipolar::mean).sum::<f64>() * D as f64).round()))
        }
        "bundle" => {
            let left = read(folder, "left")?;
            let started = Instant::now();
            let sum = vsa::bundle_all(&left);
            let seconds = started.elapsed().as_secs_f64();
            Ok((seconds, sum.values().iter().map(|value| f64::from(value.abs())).sum()))
        }
        other => bail!("unknown command `{other}`"),
    }
}
