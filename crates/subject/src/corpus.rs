//! Text from files or from the hub, as packed tokens.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result};
use experiment::Run;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokens::Tokenizer;

/// A corpus, and how it is packed into sequences of one length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Corpus {
    /// A file, a folder, or `hub:OWNER/NAME@REVISION`.
    pub source: corpora::Source,
    /// The column that holds the text or the tokens.
    pub column: corpora::Column,
    /// Split, shuffling, length of the packed sequences.
    pub recipe: corpora::Recipe,
}

/// Folder of packed corpora below the project, unless `RETRACE_CORPORA` names another.
const PACKED: &str = "results/.runs/corpora";

impl Corpus {
    /// Packed sequences to train on; all of them where the recipe holds nothing out.
    ///
    /// # Errors
    /// When the text cannot be had, read or packed, or a signal asked to stop.
    pub fn training(&self, run: &Run, tokenizer: &Tokenizer) -> Result<corpora::Packed> {
        self.split(run, tokenizer, "train")
    }

    /// Packed sequences that are held out from training; all of them where the recipe holds nothing out.
    ///
    /// # Errors
    /// As [`Self::training`].
    pub fn held_out(&self, run: &Run, tokenizer: &Tokenizer) -> Result<corpora::Packed> {
        self.split(run, tokenizer, "validation")
    }

    fn split(&self, run: &Run, tokenizer: &Tokenizer, split: &str) -> Result<corpora::Packed> {
        let Self { source, column, recipe } = self;
        let hub = match source {
            corpora::Source::Hub { .. } => Some(hub::Hub::from_env()?),
            corpora::Source::Local(path) => {
                run.read_input(path)?;
                None
            }
        };
        let mut stopped = None;
        let mut watch = |_: corpora::Step<'_>| match run.check_interrupted() {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                stopped = Some(error);
                ControlFlow::Break(())
            }
        };
        let job = corpora::Job { source, column, tokenizer, recipe };
        let folder = std::env::var_os("RETRACE_CORPORA").unwrap_or_else(|| PACKED.into());
        let packed = corpora::pack(Path::new(&folder), &job, hub.as_ref(), &mut watch);
        if let Some(stopped) = stopped {
            return Err(stopped);
        }
        let corpus = packed.with_context(|| source.to_string())?;
        Ok(corpus.split(if recipe.holdout.is_some() { split } else { "all" })?)
    }
}
