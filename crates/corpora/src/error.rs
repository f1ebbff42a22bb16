//! Errors of reading, packing and opening a corpus. Each message says what to do.

use std::path::PathBuf;

/// A corpus that cannot be read, packed or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read, written or locked.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The hub did not provide a file.
    #[error(transparent)]
    Hub(#[from] hub::Error),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokens(#[from] tokens::Error),
    /// A source that cannot be parsed.
    #[error("`{source_text}` is not a source: {problem}; write a path, or `hub:OWNER/NAME@REVISION:BEGINNING`")]
    Source {
        /// The text.
        source_text: String,
        /// The problem.
        problem: &'static str,
    },
    /// A source on the hub, but the caller passed no hub.
    #[error("{source_text} is on the hub, but no hub was given: pass a hub, or use a local path")]
    NoHub {
        /// The source.
        source_text: String,
    },
    /// A source without readable files.
    #[error("{source_text} has no file that ends in {endings}; check its list of files")]
    Empty {
        /// The source.
        source_text: String,
        /// The file extensions that can be read.
        endings: &'static str,
    },
    /// A repository whose files belong to several data sets or splits.
    #[error(
        "{source_text} has files of several kinds ({}); select one by the beginning of its names, as in `hub:OWNER/NAME@REVISION:BEGINNING`",
        kinds.join(", ")
    )]
    Mixed {
        /// The source.
        source_text: String,
        /// Their names, with `#` in place of every number.
        kinds: Vec<String>,
    },
    /// A repository whose conversion to Parquet covers only the first gigabytes.
    #[error(
        "{source_text} only has files of the first gigabytes (`partial-`); use another revision, or select them with `:BEGINNING` if they suffice"
    )]
    Partial {
        /// The source.
        source_text: String,
    },
    /// A file that cannot be read in the format of its extension.
    #[error("cannot read {}: {reason}; check that the file is complete and matches its extension", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A file without the requested column.
    #[error("{} has no column `{column}`; use one of {}", path.display(), found.join(", "))]
    Column {
        /// The file.
        path: PathBuf,
        /// The requested name.
        column: String,
        /// The available names.
        found: Vec<String>,
    },
    /// A column of another type.
    #[error("column `{column}` of {} holds {found}, not {expected}; use another column", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The expected type.
        expected: &'static str,
        /// The type in the file.
        found: String,
    },
    /// A row that cannot be used.
    #[error("row {row} of {}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row index, from 0.
        row: usize,
        /// The problem.
        problem: String,
    },
    /// A recipe that is inconsistent or does not fit the source.
    #[error("invalid recipe: {problem}")]
    Recipe {
        /// The problem.
        problem: String,
    },
    /// Fewer chunks than requested.
    #[error(
        "{what} gives {found} chunks of {block} tokens, but {wanted} are needed; use more rows, or fewer or shorter chunks"
    )]
    Short {
        /// The split or sample that is too small.
        what: String,
        /// The number of chunks available.
        found: u64,
        /// The number of chunks requested.
        wanted: u64,
        /// Number of tokens per chunk.
        block: usize,
    },
    /// A tokenizer that lacks the end-of-document token.
    #[error("{}: the recipe ends documents with `{token}`, which is not a token of this tokenizer; set `end` to false or use another tokenizer", path.display())]
    NoEnd {
        /// The tokenizer.
        path: PathBuf,
        /// The token.
        token: &'static str,
    },
    /// A packed file or manifest that is damaged.
    #[error("{} {problem}; delete its folder and pack it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// A split that was not packed.
    #[error("{} has no split `{name}`; use one of {}", folder.display(), found.join(", "))]
    NoSplit {
        /// The corpus.
        folder: PathBuf,
        /// The requested name.
        name: String,
        /// The available names.
        found: Vec<String>,
    },
    /// The caller stopped the packing.
    #[error("stopped; finished parts are in {}, and the same command resumes from them", folder.display())]
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
