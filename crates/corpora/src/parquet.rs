//! Reads one column of a Parquet file in ranges of rows. This is the only module of the crate that uses polars.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use polars::prelude::{
    Column as Cells, DataType, FileMetadataRef, ParallelStrategy, ParquetReader, PolarsError, SerReader,
};

use crate::documents::{Batch, Content};
use crate::{Column, Error};

/// Maximum number of rows that are decoded together; a range never crosses a row group.
const MOST: usize = 2048;

/// A file whose footer has been read.
#[derive(Debug)]
pub(crate) struct Parquet {
    path: PathBuf,
    column: Column,
    footer: FileMetadataRef,
    /// The remaining ranges of rows, the next one last.
    ranges: Vec<Range<usize>>,
}

impl Parquet {
    pub fn open(path: &Path, column: &Column) -> Result<Self, Error> {
        let failed = |error: PolarsError| unread(path, &error);
        let mut reader = ParquetReader::new(open(path)?);
        let footer = reader.get_metadata().map_err(failed)?.clone();
        let schema = reader.schema().map_err(failed)?;
        if !schema.contains(column.name()) {
            let found = schema.iter_names().map(ToString::to_string).collect();
            return Err(Error::Column { path: path.to_owned(), column: column.name().to_owned(), found });
        }
        let mut ranges = Vec::new();
        let mut first = 0;
        for group in &footer.row_groups {
            let end = first + group.num_rows();
            ranges.extend((first..end).step_by(MOST).map(|from| from..end.min(from + MOST)));
            first = end;
        }
        ranges.reverse();
        Ok(Self { path: path.to_owned(), column: column.clone(), footer, ranges })
    }

    pub fn rows(&self) -> usize {
        self.footer.num_rows
    }

    /// The next range with a wanted row.
    pub fn next(&mut self, wanted: &dyn Fn(Range<usize>) -> bool) -> Result<Option<Batch>, Error> {
        while let Some(range) = self.ranges.pop() {
            if wanted(range.clone()) {
                return self.read(range).map(Some);
            }
        }
        Ok(None)
    }

    fn read(&self, range: Range<usize>) -> Result<Batch, Error> {
        let failed = |error: PolarsError| unread(&self.path, &error);
        let mut reader = ParquetReader::new(open(&self.path)?);
        reader.set_metadata(self.footer.clone());
        let frame = reader
            .with_columns(Some(vec![self.column.name().to_owned()]))
            .with_slice(Some((range.start, range.len())))
            .read_parallel(ParallelStrategy::None)
            .finish()
            .map_err(failed)?;
        let cells = frame.column(self.column.name()).map_err(failed)?;
        if cells.len() != range.len() {
            let reason = format!("read {} rows instead of the rows {range:?}", cells.len());
            return Err(Error::Read { path: self.path.clone(), reason });
        }
        let contents = match self.column {
            Column::Text(_) => self.texts(cells, range.start)?,
            Column::Tokens(_) => self.tokens(cells, range.start)?,
        };
        Ok(Batch { first: range.start, contents })
    }

    fn texts(&self, cells: &Cells, first: usize) -> Result<Vec<Content>, Error> {
        let cells = cells.str().map_err(|_| self.other(cells))?;
        let text = |(at, text): (usize, Option<&str>)| {
            text.map(|text| Content::Text(text.to_owned())).ok_or_else(|| self.bad(first + at, "the text is missing"))
        };
        cells.iter().enumerate().map(text).collect()
    }

    fn tokens(&self, cells: &Cells, first: usize) -> Result<Vec<Content>, Error> {
        let other = || self.other(cells);
        let DataType::List(inner) = cells.dtype() else { return Err(other()) };
        if !inner.is_integer() {
            return Err(other());
        }
        let lists = cells.list().map_err(|_| other())?;
        let tokens = |at: usize| {
            let bad = |problem: &str| self.bad(first + at, problem);
            let list = lists.get_as_series(at).ok_or_else(|| bad("the list of tokens is missing"))?;
            let list = list.cast(&DataType::Int64).map_err(|error| unread(&self.path, &error))?;
            let ids = list.i64().map_err(|error| unread(&self.path, &error))?;
            let id = |id: Option<i64>| {
                let id = id.ok_or_else(|| bad("a token is missing"))?;
                u32::try_from(id).map_err(|_| bad(&format!("{id} is not a token id")))
            };
            ids.iter().map(id).collect::<Result<_, _>>().map(Content::Tokens)
        };
        (0..lists.len()).map(tokens).collect()
    }

    fn bad(&self, row: usize, problem: &str) -> Error {
        Error::Row { path: self.path.clone(), row, problem: problem.to_owned() }
    }

    fn other(&self, cells: &Cells) -> Error {
        Error::Kind {
            path: self.path.clone(),
            column: self.column.name().to_owned(),
            expected: self.column.expected(),
            found: cells.dtype().to_string(),
        }
    }
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|error| Error::Read { path: path.to_owned(), reason: error.to_string() })
}

fn unread(path: &Path, error: &PolarsError) -> Error {
    Error::Read { path: path.to_owned(), reason: error.to_string() }
}
