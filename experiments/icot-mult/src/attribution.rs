//! The effect of each operand digit on each answer digit (arXiv 2510.00184, figure 2).
//!
//! For each answer digit c_k, the prompt contains the true digits before it. Let v be the token with the largest logit.
//! One operand digit is then replaced by a random different digit, and the answer prefix is kept. The decrease of v's
//! logit is averaged over problems. A reference without a model gives the frequency with which the true c_k changes
//! under the same replacement.
//!
//! Tables: `delta` (model), `reference` (arithmetic alone), `correlation` (model against reference), and
//! `published_delta` (n = 4, read off the paper's figure).

use std::collections::BTreeMap;

use crate::multiplication::Problem;
use anyhow::{Context, Result, bail};
use candle_core::{D, Tensor};
use experiment::Run;
use hooks::{HookedModel, NoHook};
use models::Decoder;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::evaluation::{CHUNK, Format};
use crate::params::Trained;
use crate::subject::{Subject, leave_open};

/// Parameters of `attribution`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Models to analyse, among those that the training produced.
    #[schemars(length(min = 1))]
    pub methods: Vec<Trained>,
    /// Number of validation problems.
    #[schemars(range(min = 1))]
    pub problems: usize,
    /// The published matrices for n = 4, by training method, as decreases of the logit: rows a3 .. a0, b3 .. b0;
    /// columns c0 .. c7. Empty by default.
    #[serde(default)]
    pub published_delta: BTreeMap<String, Vec<Vec<f64>>>,
}

/// One digit of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digit {
    /// `a` or `b`.
    operand: char,
    /// Power of ten, 0 for the units digit.
    exponent: usize,
}

impl Digit {
    /// All digits in the order of the figure's rows, from top to bottom: a_{n-1} .. a_0, b_{n-1} .. b_0.
    fn all(n: usize) -> Vec<Self> {
        ['a', 'b']
            .iter()
            .flat_map(|operand| (0..n).rev().map(|exponent| Self { operand: *operand, exponent }))
            .collect()
    }

    fn name(self) -> String {
        format!("{}{}", self.operand, self.exponent)
    }

    /// The problem with this digit replaced.
    fn replaced(self, problem: &Problem, digit: u64) -> Problem {
        let unit = 10u64.pow(self.exponent as u32);
        let set = |number: u64| number - number / unit % 10 * unit + digit * unit;
        match self.operand {
            'a' => Problem { a: set(problem.a), ..*problem },
            _ => Problem { b: set(problem.b), ..*problem },
        }
    }

    /// The valid replacements: every other digit, except a leading zero.
    fn others(self, problem: &Problem) -> Vec<u64> {
        let number = if self.operand == 'a' { problem.a } else { problem.b };
        let current = number / 10u64.pow(self.exponent as u32) % 10;
        let least = u64::from(self.exponent + 1 == problem.digits);
        (least..10).filter(|digit| *digit != current).collect()
    }
}

/// Analyses every method and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let subject = Subject::open(run)?;
    let (n, format) = (subject.n(), subject.format());
    let problems = subject.held_out(run, "problems", params.problems)?;
    let reference = reference(&problems, n);
    let mut delta = Builder::new(
        digit_columns(
            Schema::new("delta", "the decrease of the top token's logit when one operand digit is replaced")
                .text("method", "training method"),
        )
        .float("delta_logit", "mean decrease of the logit", ""),
    );
    let mut correlation = Builder::new(
        Schema::new("correlation", "the agreement of one method's `delta` matrix with the reference without a model")
            .text("method", "training method")
            .float("correlation", "Pearson correlation over all cells", "")
            .float("largest", "largest cell of the `delta` matrix", ""),
    );
    let mut progress = run.task("attribution", (params.methods.len() * 2 * n) as u64, "digits");
    for (index, method) in params.methods.iter().enumerate() {
        let model = subject.model(run, *method)?;
        let mut cells = Vec::new();
        for (row, digit) in Digit::all(n).into_iter().enumerate() {
            run.check_interrupted()?;
            for k in 0..2 * n {
                // one stream per cell, so that every model sees the same replacements
                let mut rng = run.rng(&format!("swap {} c{k}", digit.name()));
                let fall = mean_fall(&model, &problems, digit, k, format, &mut rng)?;
                delta.push(row![method.to_string(), digit.name(), format!("c{k}"), fall])?;
                cells.push(fall);
            }
            progress.at((index * 2 * n + row + 1) as u64, &method.to_string());
        }
        let r = probes::correlation(&cells, &reference);
        let largest = cells.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        correlation.push(row![method.to_string(), r, largest])?;
        method.metric(run, "delta_correlation", r, "");
        method.metric(run, "delta_largest", largest, "");
    }
    leave_open(run, &params.methods, &["delta_correlation", "delta_largest"]);
    run.record(delta.finish()?);
    run.record(reference_table(&reference, n)?);
    run.record(correlation.finish()?);
    run.record(published_table(run, &params.published_delta)?);
    Ok(())
}

/// The decrease of the logit of the model's top token for c_k when `digit` is replaced, averaged over problems.
fn mean_fall(
    model: &Decoder,
    problems: &[Problem],
    digit: Digit,
    k: usize,
    format: Format,
    rng: &mut ChaCha12Rng,
) -> Result<f64> {
    let mut sum = 0.;
    for chunk in problems.chunks(CHUNK) {
        let swapped: Vec<Problem> = chunk
            .iter()
            .map(|problem| {
                let others = digit.others(problem);
                digit.replaced(problem, others[rng.random_range(0..others.len())])
            })
            .collect();
        let before = predicting_logits(model, chunk, chunk, k, format)?; // [batch, d_vocab]
        let after = predicting_logits(model, &swapped, chunk, k, format)?;
        let top = before.argmax_keepdim(D::Minus1)?;
        let fall = (before.gather(&top, 1)? - after.gather(&top, 1)?)?;
        sum += fall.sum_all()?.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
    }
    Ok(sum / problems.len() as f64)
}

/// Logits that predict c_k, given the operands of `problems` and the answer digits of `answers` before c_k.
///
/// # Shapes
/// Output `[batch, d_vocab]`.
fn predicting_logits(
    model: &Decoder,
    problems: &[Problem],
    answers: &[Problem],
    k: usize,
    format: Format,
) -> Result<Tensor> {
    let Format { digits, vocabulary, side } = format;
    let all_cot = vocabulary.working_length(digits);
    let mut rows: Vec<u32> = Vec::new();
    let mut length = 0;
    for (problem, answer) in problems.iter().zip(answers) {
        let prefix: Vec<u32> = answer.answer()[..k].iter().map(|digit| vocabulary.digit(*digit)).collect();
        let example = vocabulary.encode_answer(problem, all_cot, side, &prefix);
        length = example.answer_start + k;
        rows.extend(&example.tokens[..length]);
    }
    let device = model.parameters()[0].1.device();
    let tokens = Tensor::from_vec(rows, (problems.len(), length), device)?;
    Ok(model.forward(&tokens, &mut NoHook)?.narrow(1, length - 1, 1)?.squeeze(1)?.contiguous()?)
}

/// The frequency with which the true c_k changes over all replacements of one digit. One row of 2n cells for each
/// operand digit, in the order of [`Digit::all`].
fn reference(problems: &[Problem], n: usize) -> Vec<f64> {
    let mut cells = Vec::new();
    for digit in Digit::all(n) {
        let mut changed = vec![0usize; 2 * n];
        let mut count = 0usize;
        for problem in problems {
            let answer = problem.answer();
            for other in digit.others(problem) {
                count += 1;
                let new = digit.replaced(problem, other).answer();
                for (changed, (new, old)) in changed.iter_mut().zip(new.iter().zip(&answer)) {
                    *changed += usize::from(new != old);
                }
            }
        }
        cells.extend(changed.iter().map(|changed| *changed as f64 / count as f64));
    }
    cells
}

/// The columns that name one cell: an operand digit and an answer digit.
fn digit_columns(schema: Schema) -> Schema {
    schema
        .text("digit", "operand digit, a0 is the units digit of the first operand")
        .text("answer", "answer digit, c0 is the units digit")
}

fn reference_table(cells: &[f64], n: usize) -> Result<tables::Table> {
    let mut table = Builder::new(
        digit_columns(Schema::new(
            "reference",
            "the probability that the true answer digit changes when one operand digit is replaced",
        ))
        .float("p_change", "probability that the answer digit changes", "fraction"),
    );
    for (digit, cells) in Digit::all(n).iter().zip(cells.chunks(2 * n)) {
        for (k, cell) in cells.iter().enumerate() {
            table.push(row![digit.name(), format!("c{k}"), *cell])?;
        }
    }
    Ok(table.finish()?)
}

fn published_table(run: &Run, published: &BTreeMap<String, Vec<Vec<f64>>>) -> Result<tables::Table> {
    let mut table = Builder::new(
        digit_columns(
            Schema::new(
                "published_delta",
                "one cell of the paper's matrices for n = 4, read off the colours of figure 2",
            )
            .text("method", "training method"),
        )
        .float("delta_logit", "mean decrease of the logit; values below 0.05 are recorded as 0", ""),
    );
    for (method, rows) in published {
        let reference = published_reference();
        let cells: Vec<f64> = rows.concat();
        if rows.len() != 8 || cells.len() != 64 {
            bail!(
                "params.published_delta.{method}: expected 8 rows of 8 numbers, found {} rows and {} numbers",
                rows.len(),
                cells.len()
            );
        }
        for (digit, row) in Digit::all(4).iter().zip(rows) {
            for (k, cell) in row.iter().enumerate() {
                table.push(row![method.as_str(), digit.name(), format!("c{k}"), *cell])?;
            }
        }
        run.metric(&format!("published.{method}.delta_correlation"), probes::correlation(&cells, &reference), "");
    }
    table.finish().context("published_delta")
}

/// The reference for n = 4, from a fixed set of problems.
fn published_reference() -> Vec<f64> {
    let problems: Vec<Problem> =
        (0..500u64).map(|i| Problem { a: 1000 + i * 7919 % 9000, b: 1000 + i * 6271 % 9000, digits: 4 }).collect();
    reference(&problems, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_changes_one_digit_and_never_makes_a_leading_zero() {
        let problem = Problem { a: 305, b: 999, digits: 3 };
        let digit = Digit { operand: 'a', exponent: 2 };
        assert_eq!(digit.others(&problem), [1, 2, 4, 5, 6, 7, 8, 9]);
        assert_eq!(digit.replaced(&problem, 7), Problem { a: 705, ..problem });
        let inner = Digit { operand: 'a', exponent: 1 };
        assert_eq!(inner.others(&problem), (1..10).collect::<Vec<_>>());
        assert_eq!(inner.replaced(&problem, 4).a, 345);
        let names: Vec<String> = Digit::all(2).iter().map(|digit| digit.name()).collect();
        assert_eq!(names, ["a1", "a0", "b1", "b0"]);
    }

    #[test]
    fn the_reference_matches_the_published_matrix() {
        // arXiv 2510.00184, n = 4: the row of a0 is .812 .889 .899 .913 .854 .202 .020 .002
        let cells = published_reference();
        let row = &cells[3 * 8..4 * 8];
        for (cell, expected) in row.iter().zip([0.812, 0.889, 0.899, 0.913, 0.854, 0.202, 0.020, 0.002]) {
            assert!((cell - expected).abs() < 0.03, "{row:?}");
        }
        assert_eq!(&cells[..3], [0., 0., 0.]);
    }
}
