//! A model by its name, whoever made it.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use experiment::{Needed, Run};
use models::{Config, Decoder, Family};
use pretrained::Pretrained;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokens::Tokenizer;

/// The name of a model, in a configuration:
///
/// - `PAPER/EXPERIMENT:NAME`: trained by an experiment that the configuration `needs:`;
/// - a folder as on the hub, or a `.gguf` file;
/// - a repository of the hub such as `openai-community/gpt2`, or one revision of it, `openai-community/gpt2@607a30d`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Model(String);

/// A model that is ready.
pub struct Opened {
    /// The model, in f32, with the checkpoint's own weights, which take gradients.
    pub model: Decoder,
    /// Its family on the hub; none for a file in the project's own format.
    pub family: Option<Family>,
    /// Its tokenizer, or why it has none.
    pub tokenizer: Result<Tokenizer>,
    /// The file or folder that it was read from.
    pub path: PathBuf,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&str> for Model {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl From<String> for Model {
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl Model {
    /// For a model that an experiment trained: the experiment, and its name there.
    #[must_use]
    pub fn trained(&self) -> Option<(&str, &str)> {
        // a path with a colon in it is a path; an experiment has exactly one slash, between paper and name
        let (experiment, name) = self.0.split_once(':')?;
        let is_experiment = experiment.matches('/').count() == 1 && !experiment.starts_with(['.', '/', '~']);
        (is_experiment && !Path::new(&self.0).exists()).then_some((experiment, name))
    }

    /// Reads weights and tokenizer, and records local files in the run.
    ///
    /// # Errors
    /// When there is no such model, it cannot be read or does not fit into memory; the message names it.
    pub fn open(&self, run: &Run) -> Result<Opened> {
        self.open_inner(run).with_context(|| self.to_string())
    }

    fn open_inner(&self, run: &Run) -> Result<Opened> {
        match self.locate(run)? {
            Located::Own { weights, tokenizer } => {
                let model = models::load(&weights, run.device())?;
                let tokenizer = match tokenizer {
                    Some(folder) => Ok(Tokenizer::from_folder(&folder)?),
                    None => Err(anyhow::anyhow!("the experiment kept no tokenizer beside its models")),
                };
                Ok(Opened { model, family: None, tokenizer, path: weights })
            }
            Located::Published(name) => {
                let opened = Pretrained::open(&name, run.device(), pretrained::free_memory())?;
                let Pretrained { model, family, tokenizer, path } = opened;
                Ok(Opened { model, family: Some(family), tokenizer: tokenizer.map_err(anyhow::Error::from), path })
            }
        }
    }

    /// Reads the tokenizer alone, and records local files in the run.
    ///
    /// # Errors
    /// When there is no such model or it has no tokenizer.
    pub fn tokenizer(&self, run: &Run) -> Result<Tokenizer> {
        let tokenizer = match self.locate(run).with_context(|| self.to_string())? {
            Located::Own { tokenizer, .. } => {
                let folder = tokenizer.with_context(|| format!("{self}: the experiment kept no tokenizer"))?;
                Tokenizer::from_folder(&folder)
            }
            Located::Published(name) => pretrained::tokenizer(&name).with_context(|| self.to_string())?,
        };
        tokenizer.with_context(|| self.to_string())
    }

    /// Reads the configuration alone, for checks before anything runs; of a repository only `config.json` is fetched.
    ///
    /// # Errors
    /// When there is no such model, or its family is unknown.
    pub fn config(&self, run: &Run) -> Result<Config> {
        match self.locate(run).with_context(|| self.to_string())? {
            Located::Own { weights, .. } => Ok(models::load(&weights, run.device())?.config().clone()),
            Located::Published(name) => Ok(pretrained::describe(&name).with_context(|| self.to_string())?.1),
        }
    }

    fn locate(&self, run: &Run) -> Result<Located> {
        if let Some((experiment, name)) = self.trained() {
            return trained(&run.need(experiment)?, name);
        }
        let path = Path::new(&self.0);
        if path.exists() {
            run.read_input(path)?;
        }
        Ok(Located::Published(self.0.clone()))
    }
}

/// The file or folder of a model.
enum Located {
    /// In the project's own format, with the folder of the tokenizer.
    Own { weights: PathBuf, tokenizer: Option<PathBuf> },
    /// For [`pretrained`]: a path, or a repository.
    Published(String),
}

/// What a finished experiment keeps under a model's name: a folder as on the hub, or a file of our own.
fn trained(needed: &Needed, name: &str) -> Result<Located> {
    if let Ok(folder) = needed.output_folder(&format!("models/{name}")) {
        let folder = folder.into_os_string().into_string();
        return folder.map(Located::Published).map_err(|path| anyhow::anyhow!("{} is not UTF-8", path.display()));
    }
    let files = [format!("models/{name}.safetensors"), format!("artifacts/{name}.safetensors")];
    let kept = |file: &String| needed.manifest().outputs.contains_key(file);
    let Some(file) = files.iter().find(|file| kept(file)) else {
        bail!("no model `{name}` there; there are: {}", names(needed).join(", "));
    };
    let weights = needed.output(file)?;
    let tokenizer = match needed.output("models/tokenizer.json") {
        Ok(file) => {
            needed.output("models/tokenizer_config.json")?;
            file.parent().map(Path::to_owned)
        }
        Err(_) => None,
    };
    Ok(Located::Own { weights, tokenizer })
}

/// The models that a finished experiment has.
fn names(needed: &Needed) -> Vec<String> {
    let name = |file: &String| {
        let inside = file.strip_prefix("models/").or_else(|| file.strip_prefix("artifacts/"))?;
        match inside.split_once('/') {
            Some((folder, "config.json")) => Some(folder.to_owned()),
            Some(_) => None,
            None => inside.strip_suffix(".safetensors").map(str::to_owned),
        }
    };
    needed.manifest().outputs.keys().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experiments_are_told_from_paths_and_repositories() {
        let trained = |name: &str| Model::from(name).trained().map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(trained("ln-removal/removal:ln_free-2"), Some(("ln-removal/removal".into(), "ln_free-2".into())));
        for other in ["openai-community/gpt2", "gpt2@607a30d", "models/base", "./a/b:c", "/a/b:c", "x.gguf", "a:b"] {
            assert_eq!(trained(other), None, "{other}");
        }
    }
}
