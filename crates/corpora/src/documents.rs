//! Reads documents one by one from files of every format, with bounded memory: at most one range of rows, or one
//! document that is longer than that.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Lines};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use hub::Hub;
use serde_json::Value;
use tokens::{Bos, END_OF_TEXT, Tokenizer};

use crate::parquet::Parquet;
use crate::source::{Format, Shard};
use crate::{Column, Error, Source};

/// A document in the form its file stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// Consecutive documents of one file.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The row of the first document.
    pub first: usize,
    pub contents: Vec<Content>,
}

/// Maximum number of lines in one batch, and bytes of text after which a batch ends.
const MOST_LINES: usize = 512;
const MOST_BYTES: usize = 1 << 24;

/// A file that is read from its start.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    column: Column,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Whether the single document is still unread.
    Text(bool),
    /// The remaining lines, the index of the next line and that of the next row; blank lines are not rows.
    Lines(Lines<BufReader<File>>, usize, usize),
    Parquet(Parquet),
}

impl Reader {
    pub fn open(path: &Path, column: &Column) -> Result<Self, Error> {
        let state = match Format::of(path) {
            Some(Format::Parquet) => State::Parquet(Parquet::open(path, column)?),
            Some(Format::Lines) => State::Lines(lines(path)?, 0, 0),
            _ if matches!(column, Column::Tokens(_)) => {
                return Err(Error::Kind {
                    path: path.to_owned(),
                    column: column.name().to_owned(),
                    expected: column.expected(),
                    found: "text, because a `.txt` file holds a single text".to_owned(),
                });
            }
            _ => State::Text(true),
        };
        Ok(Self { path: path.to_owned(), column: column.clone(), state })
    }

    /// The number of documents in a file.
    pub fn count(path: &Path, column: &Column) -> Result<usize, Error> {
        match Self::open(path, column)?.state {
            State::Text(_) => Ok(1),
            State::Parquet(parquet) => Ok(parquet.rows()),
            State::Lines(lines, ..) => {
                let mut rows = 0;
                for line in lines {
                    rows += usize::from(!line.map_err(|error| unread(path, &error))?.trim().is_empty());
                }
                Ok(rows)
            }
        }
    }

    /// The next batch that contains a wanted document.
    pub fn next(&mut self, wanted: &dyn Fn(Range<usize>) -> bool) -> Result<Option<Batch>, Error> {
        match &mut self.state {
            State::Text(to_come) => {
                if !std::mem::take(to_come) || !wanted(0..1) {
                    return Ok(None);
                }
                let text = storage::read_text(&self.path)?;
                Ok(Some(Batch { first: 0, contents: vec![Content::Text(text)] }))
            }
            State::Parquet(parquet) => parquet.next(wanted),
            State::Lines(lines, line_number, row) => {
                let (mut batch, mut bytes) = (Batch { first: *row, contents: Vec::new() }, 0);
                while batch.contents.len() < MOST_LINES && bytes < MOST_BYTES {
                    let Some(line) = lines.next() else { break };
                    let line = line.map_err(|error| unread(&self.path, &error))?;
                    let (number, this) = (*line_number, *row);
                    *line_number += 1;
                    if line.trim().is_empty() {
                        continue;
                    }
                    *row += 1;
                    if wanted(this..this + 1) {
                        bytes += line.len();
                        batch.contents.push(parse(&line, &self.path, &self.column, number)?);
                    } else if batch.contents.is_empty() {
                        batch.first = *row;
                    } else {
                        break;
                    }
                }
                Ok(Some(batch).filter(|batch| !batch.contents.is_empty()))
            }
        }
    }
}

fn lines(path: &Path) -> Result<Lines<BufReader<File>>, Error> {
    Ok(BufReader::with_capacity(1 << 18, File::open(path).map_err(|error| unread(path, &error))?).lines())
}

fn unread(path: &Path, error: &std::io::Error) -> Error {
    Error::Read { path: path.to_owned(), reason: error.to_string() }
}

fn parse(line: &str, path: &Path, column: &Column, number: usize) -> Result<Content, Error> {
    let failed =
        |reason: String| Error::Read { path: path.to_owned(), reason: format!("line {}: {reason}", number + 1) };
    let mut json: Value = serde_json::from_str(line).map_err(|error| failed(error.to_string()))?;
    let Some(object) = json.as_object_mut() else { return Err(failed("the line is not a JSON object".to_owned())) };
    let Some(value) = object.get_mut(column.name()).map(Value::take) else {
        let found = object.keys().cloned().collect();
        return Err(Error::Column { path: path.to_owned(), column: column.name().to_owned(), found });
    };
    let content = match (column, value) {
        (Column::Text(_), Value::String(text)) => Some(Content::Text(text)),
        (Column::Tokens(_), Value::Array(ids)) => {
            let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            ids.iter().map(id).collect::<Option<_>>().map(Content::Tokens)
        }
        _ => None,
    };
    content.ok_or_else(|| Error::Kind {
        path: path.to_owned(),
        column: column.name().to_owned(),
        expected: column.expected(),
        found: format!("something else in line {}", number + 1),
    })
}

/// A document and its location.
struct Located {
    row: usize,
    content: Content,
}

/// The documents of a source in order, from [`Source::rows`]. Files are fetched as they are reached.
///
/// The iterator ends after an error.
pub struct Rows<'a> {
    hub: Option<&'a Hub>,
    column: Column,
    shards: IntoIter<Shard>,
    path: PathBuf,
    reader: Option<Reader>,
    pending: VecDeque<Located>,
}

impl Source {
    /// Iterates over the documents, in the order of the files and their rows.
    ///
    /// # Errors
    ///
    /// Fails if there are no files to read, or if the hub is needed and its file list is not available. Each row fails
    /// if its file cannot be fetched or read, lacks the column, or the row is empty.
    pub fn rows<'a>(&self, hub: Option<&'a Hub>, column: &Column) -> Result<Rows<'a>, Error> {
        let shards = self.shards(hub)?.into_iter();
        let column = column.clone();
        Ok(Rows { hub, column, shards, path: PathBuf::new(), reader: None, pending: VecDeque::new() })
    }
}

impl Rows<'_> {
    fn located(&mut self) -> Result<Option<Located>, Error> {
        loop {
            if let Some(located) = self.pending.pop_front() {
                return Ok(Some(located));
            }
            if let Some(reader) = &mut self.reader
                && let Some(Batch { first, contents }) = reader.next(&|_| true)?
            {
                let located = contents.into_iter().enumerate();
                self.pending.extend(located.map(|(at, content)| Located { row: first + at, content }));
                continue;
            }
            let Some(shard) = self.shards.next() else {
                self.reader = None;
                return Ok(None);
            };
            self.path = shard.path(self.hub)?;
            self.reader = Some(Reader::open(&self.path, &self.column)?);
        }
    }

    fn end(&mut self) {
        self.shards = Vec::new().into_iter();
        self.reader = None;
        self.pending.clear();
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Content, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let located = self.located();
        if located.is_err() {
            self.end();
        }
        Some(located.transpose()?.map(|located| located.content))
    }
}

impl<'a> Rows<'a> {
    /// The documents as tokens of `tokenizer`; with `end`, each is followed by [`END_OF_TEXT`].
    ///
    /// # Errors
    ///
    /// Fails if `end` is set and the tokenizer lacks that token. Each row fails as in [`Source::rows`], and if a text
    /// cannot be encoded or an id lies outside the vocabulary.
    pub fn tokens<'b>(self, tokenizer: &'b Tokenizer, end: bool) -> Result<TokenRows<'a, 'b>, Error> {
        Ok(TokenRows { rows: self, encoder: Encoder::new(tokenizer, end)? })
    }
}

/// Documents as tokens, from [`Rows::tokens`].
pub struct TokenRows<'a, 'b> {
    rows: Rows<'a>,
    encoder: Encoder<'b>,
}

impl Iterator for TokenRows<'_, '_> {
    type Item = Result<Vec<u32>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let encoded = self.rows.located().and_then(|located| {
            located.map(|located| self.encoder.encode(located.content, &self.rows.path, located.row)).transpose()
        });
        if encoded.is_err() {
            self.rows.end();
        }
        encoded.transpose()
    }
}

/// Encodes documents.
pub(crate) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The token after every document, if any.
    end: Option<u32>,
}

impl<'a> Encoder<'a> {
    pub fn new(tokenizer: &'a Tokenizer, end: bool) -> Result<Self, Error> {
        let none = || Error::NoEnd { path: tokenizer.path().to_owned(), token: END_OF_TEXT };
        let end = end.then(|| tokenizer.id(END_OF_TEXT).ok_or_else(none)).transpose()?;
        Ok(Self { tokenizer, end })
    }

    /// Appends the end as a token. The paper's code appends it as text and then encodes, which gives the same tokens if
    /// it is a special token.
    pub fn encode(&self, content: Content, path: &Path, row: usize) -> Result<Vec<u32>, Error> {
        let bad = |problem: String| Error::Row { path: path.to_owned(), row, problem };
        let mut ids = match content {
            Content::Text(text) => {
                self.tokenizer.encode(&text, Bos::Never).map_err(|error| bad(error.to_string()))?.ids
            }
            Content::Tokens(ids) => {
                let d_vocab = self.tokenizer.d_vocab();
                if let Some(id) = ids.iter().find(|&&id| id as usize >= d_vocab) {
                    let path = self.tokenizer.path().display();
                    return Err(bad(format!(
                        "token {id} lies outside the vocabulary of {path}, whose last id is {}",
                        d_vocab - 1
                    )));
                }
                ids
            }
        };
        ids.extend(self.end);
        Ok(ids)
    }
}
