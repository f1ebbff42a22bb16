//! The text format of the problems, and baselines that predict without any arithmetic (arXiv 2510.00184, section 2).
//!
//! For each answer digit c_k over uniformly sampled problems: the mean and standard deviation of the running column
//! sum, the mean absolute error of always predicting that mean, and the entropy of the digit in nats.
//!
//! Tables: `lines` (whole examples as text), `sums` (statistics of the running sums and digits).

use crate::multiplication::{Problem, Split};
use anyhow::Result;
use experiment::Run;
use probes::{mean, standard_deviation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

/// Parameters of `data`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Numbers of digits n of each operand. Every n gets its own rows in `sums`.
    #[schemars(length(min = 1), inner(range(min = 1, max = 9)))]
    pub digits: Vec<usize>,
    /// Number of problems sampled for each n.
    #[schemars(range(min = 1))]
    pub problems: usize,
    /// Pairs of operands whose examples are written out in `lines`.
    pub lines: Vec<[u64; 2]>,
}

/// Samples the problems and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let mut lines = Builder::new(
        Schema::new("lines", "one example as text, with the units digit of every number first")
            .int("a", "first operand")
            .int("b", "second operand")
            .text("line", "operands || chain of thought #### answer")
            .text("running_sums", "running column sums, units digit first"),
    );
    for [a, b] in &params.lines {
        let digits = a.to_string().len();
        anyhow::ensure!(
            digits == b.to_string().len() && digits < 10,
            "params.lines: {a} and {b} must have the same number of digits, at most nine"
        );
        let problem = Problem { a: *a, b: *b, digits };
        let sums: Vec<String> = problem.running_sums().iter().map(u32::to_string).collect();
        lines.push(row![*a, *b, problem.line(), sums.join(" ")])?;
    }
    let mut table = Builder::new(
        Schema::new("sums", "one answer digit over uniformly sampled problems")
            .int("n", "number of digits of each operand")
            .text("digit", "answer digit, c0 is the units digit")
            .float("mean", "mean of the running column sum", "")
            .float("standard_deviation", "standard deviation of the running column sum", "")
            .float("mae_of_mean", "mean absolute error of always predicting the mean running column sum", "")
            .float("entropy", "entropy of the answer digit", "nats"),
    );
    for n in &params.digits {
        run.check_interrupted()?;
        let mut rng = run.rng(&format!("problems of {n} digits"));
        let split = Split::new(*n, None, 0, 0, &mut rng)?;
        let problems = split.batch(&rng, 0, run.samples(params.problems));
        let sums: Vec<Vec<u32>> = problems.iter().map(Problem::running_sums).collect();
        for k in 0..2 * n {
            let values: Vec<f64> = sums.iter().map(|sums| f64::from(sums[k])).collect();
            let centre = mean(&values);
            let error = mean(&values.iter().map(|value| (value - centre).abs()).collect::<Vec<_>>());
            let entropy = entropy(sums.iter().map(|sums| (sums[k] % 10) as usize));
            table.push(row![*n, format!("c{k}"), centre, standard_deviation(&values), error, entropy])?;
            run.metric(&format!("n{n}.c{k}.mae_of_mean"), error, "");
            run.metric(&format!("n{n}.c{k}.entropy"), entropy, "nats");
        }
    }
    run.record(lines.finish()?);
    run.record(table.finish()?);
    Ok(())
}

/// Entropy of the empirical distribution of the digits, in nats.
fn entropy(digits: impl Iterator<Item = usize>) -> f64 {
    let mut counts = [0f64; 10];
    digits.for_each(|digit| counts[digit] += 1.);
    let total: f64 = counts.iter().sum();
    counts.iter().filter(|count| **count > 0.).map(|count| -(count / total) * (count / total).ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uniform_distribution_has_entropy_ln_ten() {
        assert!((entropy(0..10) - 10f64.ln()).abs() < 1e-12 && entropy([3, 3].into_iter()) == 0.);
    }
}
