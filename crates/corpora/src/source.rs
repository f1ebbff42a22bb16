//! Sources of texts and their files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hub::{Hub, Repo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;

/// A source of texts.
///
/// Written as text, also in configurations: a path, or `hub:OWNER/NAME[@REVISION][:BEGINNING]`. A branch stays at the
/// commit that the hub's cache saw first; a commit is more precise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Source {
    /// A file that ends in `.txt` (one document), `.jsonl` (one per line) or `.parquet` (one per row), or a folder of
    /// such files. The files of a folder are read in the order of their names; subfolders are ignored.
    Local(PathBuf),
    /// A data set on the hub: its Parquet files, or its `.jsonl` files if it has none, in the order of their names.
    Hub {
        /// `OWNER/NAME`.
        id: String,
        /// A commit, tag, branch or reference such as `refs/convert/parquet`.
        revision: String,
        /// The beginning of the file names, such as `plain_text/train/`; required if there are several splits.
        beginning: Option<String>,
    },
}

const ON_THE_HUB: &str = "hub:";
const BRANCH: &str = "main";
/// The prefix of folders that the hub's own conversion to Parquet did not finish.
const PARTIAL: &str = "partial-";

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |problem| Error::Source { source_text: text.to_owned(), problem };
        let Some(rest) = text.strip_prefix(ON_THE_HUB) else {
            return if text.is_empty() { Err(refuse("it is empty")) } else { Ok(Self::Local(text.into())) };
        };
        let (repo, beginning) =
            rest.split_once(':').map_or((rest, None), |(repo, beginning)| (repo, Some(beginning.to_owned())));
        let (id, revision) = repo.split_once('@').unwrap_or((repo, BRANCH));
        if id.is_empty() || revision.is_empty() || beginning.as_deref() == Some("") {
            return Err(refuse("a part of it is empty"));
        }
        Ok(Self::Hub { id: id.to_owned(), revision: revision.to_owned(), beginning })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(formatter, "{}", path.display()),
            Self::Hub { id, revision, beginning } => {
                write!(formatter, "{ON_THE_HUB}{id}")?;
                if revision != BRANCH {
                    write!(formatter, "@{revision}")?;
                }
                beginning.as_ref().map_or(Ok(()), |beginning| write!(formatter, ":{beginning}"))
            }
        }
    }
}

impl TryFrom<String> for Source {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

/// The column (Parquet) or key (JSON lines) that holds the documents, and its type. A `.txt` file only has text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// Text.
    Text(String),
    /// Lists of token ids of the caller's tokenizer.
    Tokens(String),
}

impl Column {
    /// The usual text column, `text`.
    #[must_use]
    pub fn text() -> Self {
        Self::Text("text".to_owned())
    }

    /// The usual token column, `input_ids`.
    #[must_use]
    pub fn input_ids() -> Self {
        Self::Tokens("input_ids".to_owned())
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Text(name) | Self::Tokens(name) => name,
        }
    }

    pub(crate) fn expected(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Tokens(_) => "lists of token ids",
        }
    }
}

/// One file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    /// The name: relative to the repository on the hub, or the file name locally.
    pub name: String,
    location: Location,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Location {
    Local(PathBuf),
    Hub(Repo),
}

impl Shard {
    /// The path; fetches the file if it is on the hub and not in the cache.
    pub fn path(&self, hub: Option<&Hub>) -> Result<PathBuf, Error> {
        match (&self.location, hub) {
            (Location::Local(path), _) => Ok(path.clone()),
            (Location::Hub(repo), Some(hub)) => Ok(hub.file(repo, &self.name, None)?),
            (Location::Hub(repo), None) => Err(Error::NoHub { source_text: repo.to_string() }),
        }
    }
}

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Lines,
    Parquet,
}

const ENDINGS: &str = "`.txt`, `.jsonl` or `.parquet`";

impl Format {
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "txt" => Some(Self::Text),
            "jsonl" => Some(Self::Lines),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

impl Source {
    /// The files in reading order. Asks the hub for the list, but fetches no file.
    pub(crate) fn shards(&self, hub: Option<&Hub>) -> Result<Vec<Shard>, Error> {
        match self {
            Self::Local(path) => local(path, self),
            Self::Hub { id, revision, .. } => {
                let hub = hub.ok_or_else(|| Error::NoHub { source_text: self.to_string() })?;
                let names = hub.list(&Repo::dataset(id, revision))?;
                self.named(self.chosen(names)?)
            }
        }
    }

    /// The files with these names.
    pub(crate) fn named(&self, names: Vec<String>) -> Result<Vec<Shard>, Error> {
        let Self::Hub { id, revision, .. } = self else { return self.shards(None) };
        let repo = Repo::dataset(id, revision);
        Ok(names.into_iter().map(|name| Shard { name, location: Location::Hub(repo.clone()) }).collect())
    }

    /// The files of a repository that make up the data set.
    fn chosen(&self, names: Vec<String>) -> Result<Vec<String>, Error> {
        let beginning = match self {
            Self::Hub { beginning, .. } => beginning.as_deref(),
            Self::Local(_) => None,
        };
        let with = |format| {
            let fits = |name: &&String| {
                name.starts_with(beginning.unwrap_or_default()) && Format::of(Path::new(name)) == Some(format)
            };
            names.iter().filter(fits).cloned().collect::<Vec<_>>()
        };
        let found = Some(with(Format::Parquet)).filter(|names| !names.is_empty());
        let mut found = found.unwrap_or_else(|| with(Format::Lines));
        found.sort();
        if found.is_empty() {
            return Err(Error::Empty { source_text: self.to_string(), endings: "`.parquet` or `.jsonl`" });
        }
        let is_partial = |name: &String| name.split('/').any(|part| part.starts_with(PARTIAL));
        if !beginning.is_some_and(|beginning| beginning.contains(PARTIAL)) && found.iter().any(is_partial) {
            return Err(Error::Partial { source_text: self.to_string() });
        }
        let mut kinds: Vec<String> = found.iter().map(|name| without_numbers(name)).collect();
        kinds.dedup();
        if beginning.is_none() && kinds.len() > 1 {
            return Err(Error::Mixed { source_text: self.to_string(), kinds });
        }
        Ok(found)
    }
}

fn local(path: &Path, source: &Source) -> Result<Vec<Shard>, Error> {
    let empty = || Error::Empty { source_text: source.to_string(), endings: ENDINGS };
    let shard = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Shard { name, location: Location::Local(path) }
    };
    let unread = |error: std::io::Error| Error::Read { path: path.to_owned(), reason: error.to_string() };
    if !std::fs::metadata(path).map_err(unread)?.is_dir() {
        return Format::of(path).map(|_| vec![shard(path.to_owned())]).ok_or_else(empty);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && Format::of(&path).is_some() && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(empty()) } else { Ok(files.into_iter().map(shard).collect()) }
}

/// A name with `#` in location of every number; files of one split differ in numbers only.
fn without_numbers(name: &str) -> String {
    let mut kind = String::new();
    for letter in name.chars() {
        match letter {
            '0'..='9' if kind.ends_with('#') => {}
            '0'..='9' => kind.push('#'),
            _ => kind.push(letter),
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_written_as_text() {
        let hub = |id: &str, revision: &str, beginning: Option<&str>| Source::Hub {
            id: id.to_owned(),
            revision: revision.to_owned(),
            beginning: beginning.map(str::to_owned),
        };
        for (text, source) in [
            ("a/b.txt", Source::Local("a/b.txt".into())),
            ("hub:o/n", hub("o/n", "main", None)),
            ("hub:o/n@refs/convert/parquet:plain/train/", hub("o/n", "refs/convert/parquet", Some("plain/train/"))),
            ("hub:o/n:data/train-", hub("o/n", "main", Some("data/train-"))),
        ] {
            assert_eq!(text.parse::<Source>().unwrap(), source);
            assert_eq!(source.to_string(), text);
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Source>(&json).unwrap(), source);
        }
        for text in ["", "hub:", "hub:@r", "hub:o/n@", "hub:o/n:"] {
            let error = text.parse::<Source>().unwrap_err().to_string();
            assert!(error.contains("hub:OWNER/NAME"), "{error}");
        }
    }

    #[test]
    fn the_files_of_a_data_set_belong_to_one_split() {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let chosen = |source: &str, list: &[&str]| source.parse::<Source>().unwrap().chosen(names(list));
        let files = ["README.md", "data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet", "x.jsonl"];
        assert_eq!(chosen("hub:o/n", &files).unwrap(), names(&[files[2], files[1]]));
        assert_eq!(chosen("hub:o/n:x", &files).unwrap(), ["x.jsonl"]);
        let several = ["data/test-0.parquet", "data/train-0.parquet", "data/train-1.parquet"];
        let error = chosen("hub:o/n", &several).unwrap_err().to_string();
        assert!(error.contains("data/test-#.parquet, data/train-#.parquet") && error.contains("BEGINNING"), "{error}");
        assert_eq!(chosen("hub:o/n:data/train", &several).unwrap(), names(&several[1..]));
        let part = ["plain/partial-train/0000.parquet"];
        assert!(chosen("hub:o/n", &part).unwrap_err().to_string().contains("first gigabytes"));
        assert!(chosen("hub:o/n:plain/", &part).is_err());
        assert_eq!(chosen("hub:o/n:plain/partial-train/", &part).unwrap(), part);
        let error = chosen("hub:o/n:valid", &several).unwrap_err().to_string();
        assert!(error.contains("hub:o/n:valid") && error.contains(".parquet"), "{error}");
    }

    #[test]
    fn folders_are_read_in_the_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::Local(folder.path().to_owned());
        assert!(source.shards(None).unwrap_err().to_string().contains(".jsonl"));
        for name in ["b.txt", "a.jsonl", "c.md", ".d.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names: Vec<String> = source.shards(None).unwrap().into_iter().map(|shard| shard.name).collect();
        assert_eq!(names, ["a.jsonl", "b.txt"]);
        let file = Source::Local(folder.path().join("c.md"));
        assert!(file.shards(None).unwrap_err().to_string().contains("c.md"));
        assert!(Source::Local("none".into()).shards(None).unwrap_err().to_string().contains("none"));
        let hub: Source = "hub:o/n".parse().unwrap();
        assert!(hub.shards(None).unwrap_err().to_string().contains("no hub was given"));
    }
}
