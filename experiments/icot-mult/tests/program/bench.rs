//! A folder of its own for each run of the program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use config::{Catalogue, Override, Profile};

/// Root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// One experiment with a folder for its results and its checkpoints.
pub struct Bench {
    folder: tempfile::TempDir,
    experiment: &'static str,
    needs: Vec<String>,
    threads: usize,
}

impl Bench {
    /// The smoke configuration with some keys changed.
    pub fn new(experiment: &'static str, overrides: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::scan(&root()).unwrap();
        let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().unwrap()).collect();
        let id = format!("icot-mult/{experiment}").parse().unwrap();
        let config = catalogue.load(&id, Profile::Smoke, &overrides).unwrap();
        std::fs::write(folder.path().join("config.yaml"), config::yaml::to_string(&config).unwrap()).unwrap();
        Self { folder, experiment, needs: Vec::new(), threads: 1 }
    }

    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    pub fn needing(mut self, name: &str, folder: &Path) -> Self {
        self.needs.push(format!("{name}={}", folder.display()));
        self
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    pub fn results(&self) -> PathBuf {
        self.folder.path().join("results")
    }

    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icot-mult"));
        command.args(["run", self.experiment, "--progress", "none", "--device", "cpu"]);
        command.arg("--config").arg(self.config()).arg("--out").arg(self.results()).arg("--work").arg(self.work());
        for need in &self.needs {
            command.args(["--need", need]);
        }
        // the second is what candle goes by
        command.env("RETRACE_THREADS", self.threads.to_string());
        command.env("RAYON_NUM_THREADS", self.threads.to_string()).stderr(Stdio::piped());
        command
    }

    pub fn spawn(&self) -> Child {
        self.command().spawn().unwrap()
    }

    /// Runs to the end, which must be a good one.
    pub fn finish(&self) {
        let output = self.command().output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
    }

    /// Bytes of every table, by file name.
    pub fn tables(&self) -> BTreeMap<String, Vec<u8>> {
        let files = std::fs::read_dir(self.results()).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.extension().is_some_and(|extension| extension == "csv" || extension == "json"))
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
            .collect()
    }
}

/// What a program said.
pub fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Fails, naming the file, where two sets of tables differ.
pub fn assert_same(ours: &BTreeMap<String, Vec<u8>>, theirs: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, bytes) in ours {
        assert!(bytes == &theirs[name], "{name} differs");
    }
}
