//! What can be wrong with a configuration, and how it is told: all mistakes at once, each with its place.

use std::fmt;
use std::io;

use storage::nearest;

/// What can be wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Mistakes in the files or overrides, in order of their places.
    #[error("{}", tell(.origin, .mistakes))]
    Mistakes {
        /// The file that was asked for.
        origin: String,
        /// All of them.
        mistakes: Vec<Mistake>,
    },
    /// A file that could not be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A name that does not exist.
    #[error("{}", tell_unknown(.kind, .word, .nearest, .known))]
    Unknown {
        /// What it should name, such as `experiment`.
        kind: &'static str,
        /// The name.
        word: String,
        /// What was probably meant.
        nearest: Option<String>,
        /// What there is.
        known: Vec<String>,
    },
    /// Text that should name an experiment.
    #[error("`{0}` is not of the form <paper>/<experiment>")]
    NotAnId(String),
    /// A folder of configurations that does not hold to the rules of names.
    #[error("{path}: {reason}")]
    Layout {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Data that does not fit its type.
    #[error("{origin}: {source}")]
    Shape {
        /// Where it came from.
        origin: String,
        /// What does not fit.
        source: serde_json::Error,
    },
    /// A value that cannot be written as YAML.
    #[error("cannot be written as YAML: {0}")]
    Write(String),
    /// A sweep without sense.
    #[error("{0}")]
    Sweep(String),
    /// Experiments that need each other in a circle, one line per edge.
    #[error("`needs` goes round in a circle:\n  {}", .0.join("\n  "))]
    Cycle(Vec<String>),
}

impl Error {
    /// An unknown name with the nearest of those that there are.
    pub(crate) fn unknown<I>(kind: &'static str, word: &str, known: I) -> Error
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let known: Vec<String> = known.into_iter().map(Into::into).collect();
        let nearest = nearest(word, known.iter().map(String::as_str));
        Error::Unknown { kind, word: word.to_owned(), nearest, known }
    }

    /// The mistakes, sorted by place and each told once.
    pub(crate) fn mistakes(origin: &str, mut mistakes: Vec<Mistake>) -> Error {
        mistakes.sort();
        mistakes.dedup();
        Error::Mistakes { origin: origin.to_owned(), mistakes }
    }
}

/// One thing wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where.
    pub place: Place,
    /// Path of the key, such as `params.model.d_model`; empty for the file as a whole.
    pub key: String,
    /// What is wrong, and what was probably meant.
    pub what: String,
}

impl Mistake {
    /// The same mistake, in what a variant changes.
    pub(crate) fn of_variant(self, name: &str) -> Mistake {
        Mistake { what: format!("{}, in the variant `{name}`", self.what), ..self }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file.
    File {
        /// Its path, relative to the current folder where possible.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// How many characters of the line it covers.
        width: usize,
        /// The line itself.
        excerpt: String,
    },
    /// In an override, by its words.
    Set(String),
    /// In something that has no lines, by name.
    Whole(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line, column, .. } => write!(f, "{path}:{line}:{column}"),
            Place::Set(words) => write!(f, "--set {words}"),
            Place::Whole(name) => f.write_str(name),
        }
    }
}

/// `, did you mean `x`?` or nothing.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |name| format!(", did you mean `{name}`?"))
}

/// The path as given, without the current folder in front of it.
pub(crate) fn shown(path: &std::path::Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(&here).unwrap_or(path);
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

fn tell(origin: &str, mistakes: &[Mistake]) -> String {
    let count = mistakes.len();
    let mut text = format!("{origin}: {count} mistake{}", if count == 1 { "" } else { "s" });
    for mistake in mistakes {
        text.push_str(&format!("\n  {mistake}"));
        if let Place::File { line, column, width, excerpt, .. } = &mistake.place {
            text.push_str(&caret(*line, *column, *width, excerpt));
        }
    }
    text
}

/// The line with a row of carets below; nothing for lines too long to help.
fn caret(line: usize, column: usize, width: usize, excerpt: &str) -> String {
    let length = excerpt.chars().count();
    if length == 0 || length > 160 || column > length {
        return String::new();
    }
    let clean: String = excerpt.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let carets = "^".repeat(width.clamp(1, length + 1 - column));
    format!("\n{line:>7} | {clean}\n{:>7} | {}{carets}", "", " ".repeat(column - 1))
}

fn tell_unknown(kind: &str, word: &str, nearest: &Option<String>, known: &[String]) -> String {
    let guess = nearest.as_ref().map_or_else(String::new, |name| format!(", did you mean `{name}`?"));
    let known = if known.is_empty() { " none".to_owned() } else { format!("\n  {}", known.join("\n  ")) };
    format!("unknown {kind} `{word}`{guess}\nthere are:{known}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_shows_its_line() {
        let place = Place::File {
            path: "configs/icot-mult/train.yaml".into(),
            line: 12,
            column: 5,
            width: 7,
            excerpt: "    d_modle: 64".into(),
        };
        let what = "unknown key, did you mean `d_model`?".to_owned();
        let mistake = Mistake { place, key: "params.model.d_modle".into(), what };
        let error = Error::mistakes("configs/icot-mult/train.yaml", vec![mistake.clone(), mistake]);
        let expected = "\
configs/icot-mult/train.yaml: 1 mistake
  configs/icot-mult/train.yaml:12:5: params.model.d_modle: unknown key, did you mean `d_model`?
     12 |     d_modle: 64
        |     ^^^^^^^";
        assert_eq!(error.to_string(), expected);
    }
}
