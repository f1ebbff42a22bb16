//! The frame of every benchmark against another program. Both programs are worker processes that read one command per
//! line, answer with one line of JSON, and run in turn.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use tables::{Schema, Table, Value, row};

/// A worker process of a benchmark.
pub struct Worker {
    name: String,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts a worker on this many threads.
    pub fn start(name: &str, command: &mut Command, threads: usize) -> Result<Self> {
        for variable in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
            command.env(variable, threads.to_string());
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}: {}", command.get_program().display()))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{name} has no pipes for its input and output")
        };
        Ok(Self { name: name.to_owned(), child, to, from: BufReader::new(from) })
    }

    /// Sends a command with a count and returns the answer.
    pub fn ask(&mut self, command: &str, count: usize) -> Result<BTreeMap<String, serde_json::Value>> {
        writeln!(self.to, "{command} {count}")?;
        self.to.flush()?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        if line.is_empty() {
            bail!("{} ended ({}); its message is above", self.name, self.child.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("{} answered `{}`", self.name, line.trim()))
    }

    /// Sends a command and returns one number of its answer.
    pub fn number(&mut self, command: &str, count: usize, key: &str) -> Result<f64> {
        let answer = self.ask(command, count)?;
        answer
            .get(key)
            .and_then(serde_json::Value::as_f64)
            .with_context(|| format!("the answer of {} has no `{key}`", self.name))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Options of every benchmark.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Number of threads of each program
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Folder of the table
    #[arg(long, default_value = "results/benchmarks")]
    pub out: PathBuf,
}

/// Whether a task is selected; without a selection all are.
pub fn wanted(only: &[String], task: &str) -> bool {
    only.is_empty() || only.iter().any(|only| only == task)
}

/// The worker process: answers each command and count on standard input with a line of JSON, until the input ends.
pub fn serve(mut answer: impl FnMut(&str, usize) -> Result<serde_json::Value>) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (command, count) = line.split_once(' ').context("a command and a count")?;
        println!("{}", answer(command, count.parse()?)?);
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// The measurements of both programs, by round.
#[derive(Debug, Default)]
pub struct Rounds {
    ours: Vec<f64>,
    theirs: Vec<f64>,
    ratios: Vec<f64>,
}

/// The medians of both programs and of the ratio, with its lowest and highest values.
#[derive(Clone, Copy, Debug)]
pub struct Medians {
    pub ours: f64,
    pub theirs: f64,
    pub ratio: f64,
    pub worst: f64,
    pub best: f64,
}

impl Rounds {
    /// Adds a round; a ratio above one means that our program is better.
    pub fn push(&mut self, ours: f64, theirs: f64, ratio: f64) {
        self.ours.push(ours);
        self.theirs.push(theirs);
        self.ratios.push(ratio);
    }

    /// The medians of all rounds.
    pub fn medians(mut self) -> Medians {
        let (ours, theirs, ratio) = (median(&mut self.ours), median(&mut self.theirs), median(&mut self.ratios));
        Medians { ours, theirs, ratio, worst: self.ratios[0], best: self.ratios[self.ratios.len() - 1] }
    }
}

/// The first columns of every benchmark's table; see [`cells`].
pub fn columns(name: &str, about: &str) -> Schema {
    Schema::new(name, about)
        .text("case", "shape or task that is timed")
        .text("peer", "program that is compared with ours, and its version")
        .float("ours", "our program's median over the rounds", "")
        .float("theirs", "the peer's median over the rounds", "")
        .text("unit", "unit of `ours` and `theirs`")
        .float("ratio", "median ratio over the rounds; above 1 our program is faster", "")
        .float("ratio_min", "lowest ratio of a round", "")
        .float("ratio_max", "highest ratio of a round", "")
        .float("peak_mib_ours", "growth of our program's resident memory", "MiB")
        .float("peak_mib_theirs", "growth of the peer's resident memory", "MiB")
}

/// The cells of [`columns`]; memory that is not finite was not measured.
pub fn cells(case: &str, peer: &str, unit: &str, digits: i32, medians: Medians, memory: [f64; 2]) -> Vec<Value> {
    let mib = memory.map(|mib| mib.is_finite().then(|| rounded(mib, 1)));
    let Medians { ours, theirs, ratio, worst, best } = medians;
    let [ours, theirs] = [ours, theirs].map(|x| rounded(x, digits));
    let [ratio, worst, best] = [ratio, worst, best].map(|x| rounded(x, 3));
    row![case, peer, ours, theirs, unit, ratio, worst, best, mib[0], mib[1]]
}

/// Writes the table of a benchmark. Existing rows of other cases and peers are kept, so that `--only` can measure a
/// part again.
pub fn write(table: &Table, folder: &Path) -> Result<PathBuf> {
    let schema = table.schema();
    let path = folder.join(format!("{}.csv", schema.name));
    let old = match Table::read_csv_as(&path, schema.clone()) {
        Err(tables::Error::Storage(e)) if e.is_not_found() => Table::from_rows(schema.clone(), [])?,
        old => old.with_context(|| {
            format!("{}: the table cannot be read; move it away to measure its rows again", path.display())
        })?,
    };
    let rows = |table: &Table| -> Result<Vec<Vec<Value>>> {
        let columns: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
        let row = |row| columns.iter().map(|column| Ok(table.value(row, column)?)).collect();
        (0..table.len()).map(row).collect()
    };
    let same = |a: &[Value], b: &[Value]| a[..2] == b[..2]; // case and peer
    let (mut rows_now, new) = (rows(&old)?, rows(table)?);
    for new in new {
        match rows_now.iter_mut().find(|old| same(old, &new)) {
            Some(old) => *old = new,
            None => rows_now.push(new),
        }
    }
    Table::from_rows(schema.clone(), rows_now)?.write(folder)?;
    Ok(path)
}

/// Rounds to this many decimals.
pub fn rounded(x: f64, digits: i32) -> f64 {
    (x * 10f64.powi(digits)).round() / 10f64.powi(digits)
}

/// The Python of a virtual environment with exactly these packages, created once under `folder`.
pub fn python(folder: &Path, requirements: &Path) -> Result<PathBuf> {
    let wanted =
        std::fs::read_to_string(requirements).with_context(|| format!("reading {}", requirements.display()))?;
    let (python, stamp) = (folder.join("bin/python"), folder.join("requirements.txt"));
    if std::fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(python);
    }
    println!("creating the peer's Python environment in {} (once; PyTorch is large)", folder.display());
    let run = |command: &mut Command| -> Result<()> {
        let status = command.status().with_context(|| format!("starting {}", command.get_program().display()))?;
        if !status.success() {
            bail!("{} failed ({status}); its message is above", command.get_program().display());
        }
        Ok(())
    };
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements))?;
    storage::write_atomic(&stamp, wanted.as_bytes())?;
    Ok(python)
}

/// The growth of the process's peak resident memory since `start`, in KiB.
pub fn growth_kib(start: u64) -> u64 {
    status("VmHWM").saturating_sub(start)
}

/// The current resident memory, in KiB.
pub fn resident_kib() -> u64 {
    status("VmRSS")
}

/// Resets the peak resident memory, where the system supports it.
pub fn forget_peak() {
    // Without this, growth counts from the start of the process and is too large.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// A line of the process's status; 0 where the system has none.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The median; sorts the values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use tables::Builder;

    use super::*;

    #[test]
    fn measuring_a_part_again_keeps_the_other_rows() {
        let folder = tempfile::tempdir().unwrap();
        let table = |rows: &[(&str, &str, f64)]| {
            let mut table = Builder::new(columns("bench", "a benchmark"));
            for (case, peer, ours) in rows {
                let medians = Medians { ours: *ours, theirs: 2., ratio: 1., worst: 1., best: 1. };
                table.push(cells(case, peer, "s", 3, medians, [f64::NAN; 2])).unwrap();
            }
            table.finish().unwrap()
        };
        write(&table(&[("a", "p", 1.), ("a", "q", 2.), ("b", "p", 3.)]), folder.path()).unwrap();
        let path = write(&table(&[("c", "p", 4.), ("a", "q", 5.)]), folder.path()).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let seen: Vec<String> =
            text.lines().skip(1).map(|line| line.split(',').take(3).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(seen, ["a p 1.0", "a q 5.0", "b p 3.0", "c p 4.0"]);
        // An unreadable table is not overwritten.
        let broken = folder.path().join("bench.csv");
        std::fs::write(&broken, "case,peer\na,p\n").unwrap();
        let refused = write(&table(&[("a", "p", 1.)]), folder.path()).unwrap_err();
        assert!(format!("{refused:#}").contains("bench.csv: the table cannot be read"), "{refused:#}");
        assert_eq!(std::fs::read_to_string(broken).unwrap(), "case,peer\na,p\n");
    }
}
