//! One column of a Parquet file, a stretch of rows at a time; the only place here that knows polars.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use polars::prelude::{
    Column as Cells, DataType, FileMetadataRef, ParallelStrategy, ParquetReader, PolarsError, SerReader,
};

use crate::documents::{Batch, Content};
use crate::{Column, Error};

/// Rows that are decoded together at most; a row group of the file is never crossed.
const MOST: usize = 2048;

/// A file whose footer has been read.
#[derive(Debug)]
pub(crate) struct Parquet {
    path: PathBuf,
    column: Column,
    footer: FileMetadataRef,
    /// Stretches of rows still to come, the next one last.
    stretches: Vec<Range<usize>>,
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
        let mut stretches = Vec::new();
        let mut first = 0;
        for group in &footer.row_groups {
            let end = first + group.num_rows();
            stretches.extend((first..end).step_by(MOST).map(|from| from..end.min(from + MOST)));
            first = end;
        }
        stretches.reverse();
        Ok(Self { path: path.to_owned(), column: column.clone(), footer, stretches })
    }

    pub fn rows(&self) -> usize {
        self.footer.num_rows
    }

    /// The next stretch with a row that is wanted.
    pub fn next(&mut self, wanted: &dyn Fn(Range<usize>) -> bool) -> Result<Option<Batch>, Error> {
        while let Some(stretch) = self.stretches.pop() {
            if wanted(stretch.clone()) {
                return self.read(stretch).map(Some);
            }
        }
        Ok(None)
    }

    fn read(&self, stretch: Range<usize>) -> Result<Batch, Error> {
        let failed = |error: PolarsError| unread(&self.path, &error);
        let mut reader = ParquetReader::new(open(&self.path)?);
        reader.set_metadata(self.footer.clone());
        let frame = reader
            .with_columns(Some(vec![self.column.name().to_owned()]))
            .with_slice(Some((stretch.start, stretch.len())))
            .read_parallel(ParallelStrategy::None)
            .finish()
            .map_err(failed)?;
        let cells = frame.column(self.column.name()).map_err(failed)?;
        if cells.len() != stretch.len() {
            let reason = format!("{} rows came for rows {stretch:?}", cells.len());
            return Err(Error::Read { path: self.path.clone(), reason });
        }
        let contents = match self.column {
            Column::Text(_) => self.texts(cells, stretch.start)?,
            Column::Tokens(_) => self.tokens(cells, stretch.start)?,
        };
        Ok(Batch { first: stretch.start, contents })
    }

    fn texts(&self, cells: &Cells, first: usize) -> Result<Vec<Content>, Error> {
        let cells = cells.str().map_err(|_| self.other(cells))?;
        let text = |(at, text): (usize, Option<&str>)| {
            text.map(|text| Content::Text(text.to_owned())).ok_or_else(|| self.bad(first + at, "it has no text"))
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
            let list = lists.get_as_series(at).ok_or_else(|| bad("it has no tokens"))?;
            let list = list.cast(&DataType::Int64).map_err(|error| unread(&self.path, &error))?;
            let ids = list.i64().map_err(|error| unread(&self.path, &error))?;
            let id = |id: Option<i64>| {
                let id = id.ok_or_else(|| bad("a token is missing"))?;
                u32::try_from(id).map_err(|_| bad(&format!("{id} is no token id")))
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
