//! MMLU (arXiv 2009.03300) in the format of `cais/mmlu` on the hub: Parquet files with a question, a subject, four
//! choices and the index of the right one.

use std::fs::File;
use std::path::{Path, PathBuf};

use polars::prelude::{DataFrame, DataType, ParquetReader, PolarsError, SerReader};

use super::{Order, Question, Separators, letters};

/// One question of MMLU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The subject, such as `college_biology`.
    pub subject: String,
    /// The question.
    pub question: String,
    /// The four choices.
    pub choices: Vec<String>,
    /// The index of the right choice, from 0.
    pub answer: usize,
}

/// An MMLU file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Mmlu {
    /// The file cannot be read.
    #[error("cannot read {}: {reason}; fetch the file again", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The file is not an MMLU table.
    #[error("{} is not an MMLU table: {reason}; use a Parquet file with the columns question, subject, choices, answer", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
}

/// The 57 subjects.
pub const SUBJECTS: [&str; 57] = [
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "business_ethics",
    "clinical_knowledge",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_medicine",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "econometrics",
    "electrical_engineering",
    "elementary_mathematics",
    "formal_logic",
    "global_facts",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_european_history",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_mathematics",
    "high_school_microeconomics",
    "high_school_physics",
    "high_school_psychology",
    "high_school_statistics",
    "high_school_us_history",
    "high_school_world_history",
    "human_aging",
    "human_sexuality",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "machine_learning",
    "management",
    "marketing",
    "medical_genetics",
    "miscellaneous",
    "moral_disputes",
    "moral_scenarios",
    "nutrition",
    "philosophy",
    "prehistory",
    "professional_accounting",
    "professional_law",
    "professional_medicine",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
    "virology",
    "world_religions",
];

impl Row {
    /// Reads a Parquet file.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read or lacks a column, or if a row does not have four choices and an answer among
    /// them.
    pub fn read(path: &Path) -> Result<Vec<Self>, Mmlu> {
        let unread = |reason: String| Mmlu::Read { path: path.to_owned(), reason };
        let file = File::open(path).map_err(|error| unread(error.to_string()))?;
        let frame = ParquetReader::new(file).finish().map_err(|error| unread(error.to_string()))?;
        rows(&frame).map_err(|reason| Mmlu::Table { path: path.to_owned(), reason })
    }

    /// Whether all choices differ.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.choices.iter().enumerate().all(|(at, choice)| !self.choices[..at].contains(choice))
    }

    /// The question as a prompt; `{subject}` in the prelude is replaced by the subject's name.
    #[must_use]
    pub fn ask(&self, prelude: &str) -> Question {
        Question {
            prelude: prelude.replace("{subject}", &self.subject.replace('_', " ")),
            question: self.question.trim().to_owned(),
            options: self.choices.iter().map(|choice| choice.trim().to_owned()).collect(),
            labels: letters(self.choices.len()),
            correct: self.answer,
            separators: Separators::Brackets,
            order: Order::QuestionFirst,
            blank_before: None,
        }
    }
}

fn rows(frame: &DataFrame) -> Result<Vec<Row>, String> {
    let words = |error: PolarsError| error.to_string();
    let text = |name: &str| -> Result<Vec<String>, String> {
        let column = frame.column(name).map_err(words)?.str().map_err(words)?;
        let cell = |(row, cell): (usize, Option<&str>)| {
            cell.map(str::to_owned).ok_or_else(|| format!("row {row} has no {name}"))
        };
        column.iter().enumerate().map(cell).collect()
    };
    let (question, subject) = (text("question")?, text("subject")?);
    let answers = frame.column("answer").map_err(words)?.cast(&DataType::Int64).map_err(words)?;
    let answers = answers.i64().map_err(words)?;
    let choices = frame.column("choices").map_err(words)?.list().map_err(words)?;
    let mut rows = Vec::with_capacity(question.len());
    for (row, (question, subject)) in question.into_iter().zip(subject).enumerate() {
        let list = choices.get_as_series(row).ok_or_else(|| format!("row {row} has no choices"))?;
        let list: Vec<String> = list.str().map_err(words)?.iter().flatten().map(str::to_owned).collect();
        let answer = answers.get(row).and_then(|answer| usize::try_from(answer).ok());
        match answer {
            Some(answer) if list.len() == 4 && answer < 4 => {
                rows.push(Row { subject, question, choices: list, answer });
            }
            _ => return Err(format!("row {row} has {} choices and the answer {answer:?}", list.len())),
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use polars::prelude::{
        IntoColumn, IntoSeries, ListBuilderTrait, ListStringChunkedBuilder, NamedFrom, ParquetWriter, Series,
    };

    use super::*;

    fn write(path: &Path, rows: &[(&str, &[&str], usize)]) {
        let row = |&(question, choices, answer): &(&str, &[&str], usize)| Row {
            subject: "college_biology".to_owned(),
            question: question.to_owned(),
            choices: choices.iter().map(|&choice| choice.to_owned()).collect(),
            answer,
        };
        let rows: Vec<Row> = rows.iter().map(row).collect();
        let texts = |name: &str, text: fn(&Row) -> &str| {
            Series::new(name.into(), rows.iter().map(text).collect::<Vec<_>>()).into_column()
        };
        let mut choices = ListStringChunkedBuilder::new("choices".into(), rows.len(), 4 * rows.len());
        rows.iter().for_each(|row| choices.append_values_iter(row.choices.iter().map(String::as_str)));
        let answers: Vec<i64> = rows.iter().map(|row| row.answer as i64).collect();
        let columns = vec![
            texts("question", |row| &row.question),
            texts("subject", |row| &row.subject),
            choices.finish().into_series().into_column(),
            Series::new("answer".into(), answers).into_column(),
        ];
        let mut frame = DataFrame::new(rows.len(), columns).unwrap();
        let file = File::create(path).unwrap();
        ParquetWriter::new(file).finish(&mut frame).unwrap();
    }

    #[test]
    fn rows_become_prompts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.parquet");
        write(&path, &[("What is it? ", &["a", "b", "c", "d"], 2), ("And?", &["a", "a", "c", "d"], 0)]);
        let rows = Row::read(&path).unwrap();
        assert_eq!((rows.len(), rows[0].is_clear(), rows[1].is_clear()), (2, true, false));
        let question = rows[0].ask("About {subject}.");
        assert_eq!((question.prelude.as_str(), question.question.as_str()), ("About college biology.", "What is it?"));
        assert_eq!((question.correct, question.labels.concat()), (2, "ABCD".to_owned()));
        assert!(SUBJECTS.is_sorted() && SUBJECTS.contains(&rows[0].subject.as_str()));
    }

    #[test]
    fn invalid_files_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.parquet");
        let error = || Row::read(&path).unwrap_err().to_string();
        assert!(error().contains("cannot read"));
        std::fs::write(&path, "no parquet").unwrap();
        assert!(error().contains("cannot read"));
        write(&path, &[("What?", &["a", "b"], 0)]);
        assert!(error().contains("row 0 has 2 choices"));
        write(&path, &[("What?", &["a", "b", "c", "d"], 4)]);
        assert!(error().contains("Some(4)"));
    }
}
