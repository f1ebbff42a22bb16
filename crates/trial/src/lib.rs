//! Test helpers that run a paper's program on its smoke configurations in temporary folders and compare the results with
//! committed tables.

// test helpers fail by panicking
#![allow(clippy::missing_panics_doc)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use config::{Catalogue, Override, Profile};
use tables::{Table, Tolerance, compare};

/// The program of a paper.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Name of the paper.
    pub paper: &'static str,
    /// Path of the binary, `env!("CARGO_BIN_EXE_<paper>")`.
    pub binary: &'static str,
    /// The paper's folder, `env!("CARGO_MANIFEST_DIR")`.
    pub folder: &'static str,
}

impl Program {
    /// The smoke configuration of an experiment with some keys changed, not yet run.
    #[must_use]
    pub fn trial(self, experiment: &'static str, overrides: &[&str]) -> Trial {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::scan(&Path::new(self.folder).join("../..")).unwrap();
        let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().unwrap()).collect();
        let id = format!("{}/{experiment}", self.paper).parse().unwrap();
        let config = catalogue.load(&id, Profile::Smoke, &overrides).unwrap();
        std::fs::write(folder.path().join("config.yaml"), config::yaml::to_string(&config).unwrap()).unwrap();
        Trial { program: self, folder, experiment, needs: Vec::new(), threads: 1 }
    }

    /// Compares tables of a finished trial with `tests/golden/<experiment>/`; with `RETRACE_BLESS=1` writes them there.
    ///
    /// Rows, texts and whole numbers must be equal, and other numbers must agree within `tolerance`.
    pub fn check_golden(self, trial: &Trial, names: &[&str], tolerance: Tolerance) {
        let golden = Path::new(self.folder).join("tests/golden").join(trial.experiment);
        for name in names {
            let ours = Table::read(&trial.results(), name).unwrap();
            if std::env::var_os("RETRACE_BLESS").is_some() {
                ours.write(&golden).unwrap();
                continue;
            }
            let theirs = Table::read_csv_as(&golden.join(format!("{name}.csv")), ours.schema().clone()).unwrap();
            if let Err(mismatch) = compare(&theirs, &ours, tolerance) {
                panic!("{}/{name}: {mismatch}", trial.experiment);
            }
        }
    }
}

/// One experiment with a folder for its results and its checkpoints.
#[derive(Debug)]
pub struct Trial {
    program: Program,
    folder: tempfile::TempDir,
    experiment: &'static str,
    needs: Vec<String>,
    threads: usize,
}

impl Trial {
    /// Sets the number of threads.
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// Adds the results of another experiment that this one needs.
    #[must_use]
    pub fn needing(mut self, name: &str, folder: &Path) -> Self {
        self.needs.push(format!("{name}={}", folder.display()));
        self
    }

    /// Path of its configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// Folder of its results.
    #[must_use]
    pub fn results(&self) -> PathBuf {
        self.folder.path().join("results")
    }

    /// Folder of its checkpoints.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// The command that runs the program.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.program.binary);
        command.args(["run", self.experiment, "--progress", "none", "--device", "cpu"]);
        command.arg("--config").arg(self.config()).arg("--out").arg(self.results()).arg("--work").arg(self.work());
        for need in &self.needs {
            command.args(["--need", need]);
        }
        // candle reads the second variable
        command.env("RETRACE_THREADS", self.threads.to_string());
        command.env("RAYON_NUM_THREADS", self.threads.to_string()).stderr(Stdio::piped());
        command
    }

    /// Starts the program.
    #[must_use]
    pub fn spawn(&self) -> Child {
        self.command().spawn().unwrap()
    }

    /// Runs the program, which must succeed.
    pub fn finish(&self) {
        let output = self.command().output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
    }

    /// Runs the program, which must fail without a panic or results and print all of `words`. Returns its output.
    pub fn refused(&self, words: &[&str]) -> Output {
        let output = self.command().output().unwrap();
        assert!(!output.status.success());
        for word in words {
            assert!(told(&output).contains(word), "`{word}` is missing in:\n{}", told(&output));
        }
        assert!(!told(&output).contains("panicked"), "{}", told(&output));
        assert!(!self.results().join("run.yaml").exists());
        output
    }

    /// Bytes of every table and of every model's weights, by path in the folder of results.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        fn add(folder: &Path, name: &str, files: &mut BTreeMap<String, Vec<u8>>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = format!("{name}{}", path.file_name().unwrap().to_string_lossy());
                if path.is_dir() {
                    add(&path, &format!("{name}/"), files);
                } else if path.extension().is_some_and(|end| end == "csv" || end == "json" || end == "safetensors") {
                    files.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
        let mut files = BTreeMap::new();
        add(&self.results(), "", &mut files);
        files
    }
}

/// The standard error of a program.
#[must_use]
pub fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Panics with the name of the first file in which two sets of files differ.
pub fn assert_same(ours: &BTreeMap<String, Vec<u8>>, theirs: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, bytes) in ours {
        assert!(bytes == &theirs[name], "{name} differs");
    }
}
