//! What can go wrong between a text and its tokens, and what to do.

use std::path::PathBuf;

/// A corpus that cannot be read, packed or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read, written or locked.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The hub did not give a file.
    #[error(transparent)]
    Hub(#[from] hub::Error),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokens(#[from] tokens::Error),
    /// A source that is written wrongly.
    #[error("`{source_text}` is no source: {problem}; write a path, or `hub:OWNER/NAME@REVISION:BEGINNING`")]
    Source {
        /// What was written.
        source_text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A source on the hub, and no hub to ask.
    #[error("{source_text} is on the hub, and this run was given none: give it one, or a local path")]
    NoHub {
        /// The source.
        source_text: String,
    },
    /// A source without a file that can be read.
    #[error("{source_text} has no file that ends in {endings}; look at its list of files")]
    Empty {
        /// The source.
        source_text: String,
        /// What was looked for.
        endings: &'static str,
    },
    /// A repository whose files belong to several data sets or splits.
    #[error(
        "{source_text} has files of several kinds ({}): say which with the beginning of their names, as in `hub:OWNER/NAME@REVISION:BEGINNING`",
        kinds.join(", ")
    )]
    Mixed {
        /// The source.
        source_text: String,
        /// Their names, with `#` for every number.
        kinds: Vec<String>,
    },
    /// A repository's converted files, when only the first gigabytes were converted.
    #[error(
        "{source_text} has files of the first gigabytes alone (`partial-`): take another revision, or name them with `:BEGINNING` if they will do"
    )]
    Partial {
        /// The source.
        source_text: String,
    },
    /// A file that cannot be read as what its name says.
    #[error("cannot read {}: {reason}; is it whole, and what its name says?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file without the column.
    #[error("{} has no column `{column}`; it has {}: name one of them", path.display(), found.join(", "))]
    Column {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        column: String,
        /// What there is.
        found: Vec<String>,
    },
    /// A column that holds something else.
    #[error("column `{column}` of {} holds {found}, not {expected}: name another column", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
    /// A row that cannot be used.
    #[error("row {row} of {}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A recipe that contradicts itself or does not fit the source.
    #[error("the recipe does not work: {problem}")]
    Recipe {
        /// What is wrong with it.
        problem: String,
    },
    /// Fewer chunks than asked for.
    #[error(
        "{what} gives {found} chunks of {block} tokens, and {wanted} are needed: take more rows, or ask for fewer or shorter chunks"
    )]
    Short {
        /// Of what.
        what: String,
        /// How many there are.
        found: u64,
        /// How many were asked for.
        wanted: u64,
        /// Tokens a chunk.
        block: usize,
    },
    /// A tokenizer without the token that ends a document.
    #[error("{}: `{token}` is not one token of this tokenizer, and the recipe ends documents with it", path.display())]
    NoEnd {
        /// The tokenizer.
        path: PathBuf,
        /// The token.
        token: &'static str,
    },
    /// A packed file or its manifest is not what it should be.
    #[error("{} {problem}: delete its folder and pack it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A split that was not packed.
    #[error("{} has no split `{name}`; it has {}", folder.display(), found.join(", "))]
    NoSplit {
        /// The corpus.
        folder: PathBuf,
        /// What was asked for.
        name: String,
        /// What there is.
        found: Vec<String>,
    },
    /// The caller stopped the packing.
    #[error("stopped; what is done lies in {}, and the same command goes on from there", folder.display())]
    Stopped {
        /// The folder.
        folder: PathBuf,
    },
}

impl Error {
    pub(crate) fn damaged(path: &std::path::Path, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), problem: problem.into() }
    }
}
