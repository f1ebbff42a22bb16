//! Evaluation of a model on multiplication: exact match, and the accuracy, loss and gradient of each answer digit.
//!
//! Losses are cross-entropies in nats, accuracies are fractions. Gradients are those of arXiv 2510.00184, figure 7.

use crate::multiplication::{Problem, Side, Vocabulary};
use anyhow::Result;
use candle_core::{D, DType, Tensor};
use hooks::{HookedModel, NoHook};
use models::Decoder;

use crate::batch::encode;

/// Sequences in one forward pass of an evaluation.
pub const CHUNK: usize = 250;

/// The format in which problems are encoded.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Number of digits of each operand, n.
    pub digits: usize,
    /// The vocabulary.
    pub vocabulary: Vocabulary,
    /// The side from which chain-of-thought tokens are removed.
    pub side: Side,
}

/// Means over a set of problems.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Share of problems whose whole answer is right under greedy decoding.
    pub exact: f64,
    /// Teacher-forced accuracy of each digit, c_0 .. c_{2n-1}.
    pub accuracy: Vec<f64>,
    /// Teacher-forced cross-entropy of each digit, in nats.
    pub loss: Vec<f64>,
}

impl Scores {
    /// Mean accuracy over the digits.
    pub fn digit_accuracy(&self) -> f64 {
        self.accuracy.iter().sum::<f64>() / self.accuracy.len() as f64
    }
}

/// Scores a model on problems from which `removed` chain-of-thought tokens are removed.
///
/// If tokens of the chain of thought remain, exact match comes from greedy decoding of these tokens and the answer, on
/// the first `generated` problems. Without a chain of thought, greedy decoding is right exactly if all 2n
/// teacher-forced arg-maxes are right, so no decoding is needed.
pub fn score(
    model: &Decoder,
    problems: &[Problem],
    removed: usize,
    generated: usize,
    format: Format,
) -> Result<Scores> {
    let digits = 2 * format.digits;
    let (mut right, mut loss, mut exact) = (vec![0.; digits], vec![0.; digits], 0.);
    for chunk in problems.chunks(CHUNK) {
        let (logits, targets) = answer_logits(model, chunk, removed, format)?;
        let rows = chunk.len() * digits;
        let losses = ops::token_losses(&logits.reshape((rows, logits.dim(D::Minus1)?))?, &targets.flatten_all()?)?;
        let losses = losses.reshape((chunk.len(), digits))?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let hits = logits.argmax(D::Minus1)?.eq(&targets)?.to_vec2::<u8>()?;
        for (hits, losses) in hits.iter().zip(&losses) {
            for k in 0..digits {
                right[k] += f64::from(hits[k]);
                loss[k] += losses[k];
            }
            exact += f64::from(u8::from(hits.iter().all(|hit| *hit == 1)));
        }
    }
    let count = problems.len() as f64;
    let exact = if removed < format.vocabulary.working_length(format.digits) {
        greedy_exact_match(model, &problems[..generated.min(problems.len())], removed, format)?
    } else {
        exact / count
    };
    let mean = |sums: Vec<f64>| sums.into_iter().map(|sum| sum / count).collect();
    Ok(Scores { exact, accuracy: mean(right), loss: mean(loss) })
}

/// Teacher-forced logits that predict c_0 .. c_{2n-1}, and the ids of these digits.
///
/// # Shapes
/// Logits `[batch, 2n, d_vocab]`, ids `[batch, 2n]`.
pub fn answer_logits(
    model: &Decoder,
    problems: &[Problem],
    removed: usize,
    format: Format,
) -> Result<(Tensor, Tensor)> {
    let device = model.parameters()[0].1.device();
    let removed = vec![removed; problems.len()];
    let batch = encode(problems, &removed, format.side, format.vocabulary, device)?;
    let digits = 2 * format.digits;
    // all sequences have the same length, so every answer starts at the same token index
    let first = batch.answer_starts[0] - 1;
    let logits = model.forward(&batch.inputs, &mut NoHook)?.narrow(1, first, digits)?;
    let targets = batch.targets.narrow(1, first, digits)?.contiguous()?;
    Ok((logits.contiguous()?, targets))
}

/// Share of problems with the right answer after greedy decoding of the remaining chain of thought and the answer.
fn greedy_exact_match(model: &Decoder, problems: &[Problem], removed: usize, format: Format) -> Result<f64> {
    let device = model.parameters()[0].1.device();
    let mut right = 0;
    for chunk in problems.chunks(CHUNK) {
        let examples: Vec<_> =
            chunk.iter().map(|problem| format.vocabulary.encode(problem, removed, format.side)).collect();
        let (first, start) = (examples[0].first_trained, examples[0].answer_start);
        let end = start + 2 * format.digits;
        let mut rows: Vec<Vec<u32>> = examples.iter().map(|example| example.tokens[..first].to_vec()).collect();
        for length in first..end {
            let tokens = Tensor::from_vec(rows.concat(), (rows.len(), length), device)?;
            let next =
                model.forward(&tokens, &mut NoHook)?.narrow(1, length - 1, 1)?.argmax(D::Minus1)?.flatten_all()?;
            for (row, next) in rows.iter_mut().zip(next.to_vec1::<u32>()?) {
                row.push(next);
            }
        }
        right +=
            rows.iter().zip(&examples).filter(|(row, example)| row[start..end] == example.tokens[start..end]).count();
    }
    Ok(right as f64 / problems.len() as f64)
}

/// Loss and gradient of each answer digit on one batch (arXiv 2510.00184, figure 7).
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// Mean cross-entropy L_k of each digit, in nats.
    pub loss: Vec<f64>,
    /// Norm of each digit's gradient g_k over all parameters.
    pub norm: Vec<f64>,
    /// Cosine between g_k and the mean gradient over digits.
    pub cosine: Vec<f64>,
    /// Norm of the mean gradient over digits.
    pub total: f64,
}

/// Computes the loss and gradient of each digit with one forward pass and one backward pass per digit.
pub fn digit_gradients(model: &Decoder, problems: &[Problem], removed: usize, format: Format) -> Result<Gradients> {
    let (logits, targets) = answer_logits(model, problems, removed, format)?;
    let digits = 2 * format.digits;
    let (mut loss, mut gradients) = (Vec::new(), Vec::new());
    for k in 0..digits {
        let at = |tensor: &Tensor| tensor.narrow(1, k, 1)?.squeeze(1)?.contiguous();
        let mean = ops::token_losses(&at(&logits)?, &at(&targets)?)?.mean_all()?;
        loss.push(mean.to_dtype(DType::F64)?.to_scalar()?);
        let store = ops::backward(&mean)?;
        let flat: Vec<Tensor> = model
            .parameters()
            .iter()
            .filter_map(|(_, var)| store.get(var))
            .map(Tensor::flatten_all)
            .collect::<candle_core::Result<_>>()?;
        gradients.push(Tensor::cat(&flat, 0)?);
    }
    let all = Tensor::stack(&gradients, 0)?; // [2n, parameters]
    let mean = all.mean_keepdim(0)?; // [1, parameters]
    let rows = |x: &Tensor| -> Result<Vec<f64>> { Ok(x.sum(1)?.to_dtype(DType::F64)?.to_vec1()?) };
    let norm: Vec<f64> = rows(&all.sqr()?)?.into_iter().map(f64::sqrt).collect();
    let dot = rows(&all.broadcast_mul(&mean)?)?;
    let total = rows(&mean.sqr()?)?[0].sqrt();
    let cosine =
        dot.iter().zip(&norm).map(|(dot, norm)| if *norm > 0. && total > 0. { dot / (norm * total) } else { 0. });
    Ok(Gradients { loss, cosine: cosine.collect(), norm, total })
}
