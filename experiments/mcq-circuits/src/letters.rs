//! Metrics of the label logits of a prompt (arXiv 2307.09458).
//!
//! ```text
//! m    = z_c - mean_j z_j          net logit, in logits
//! loss = logsumexp_j(z_j) - z_c    loss among the labels, in nats
//! ```

use anyhow::Result;
use candle_core::{DType, Result as CandleResult, Tensor};
use probes::mean;

use crate::prompts::Prompt;

/// The logits of the labels of one prompt, in list order.
pub type Letters = Vec<f64>;

/// Returns a function from logits `[batch, 1, d_vocab]` to label logits `[batch, options]`, with each prompt's own
/// labels.
pub fn reader(prompts: &[&Prompt]) -> impl Fn(&Tensor) -> CandleResult<Tensor> + use<> {
    let options = prompts.first().map_or(0, |prompt| prompt.options());
    let ids: Vec<u32> = prompts.iter().flat_map(|prompt| prompt.answers.iter().copied()).collect();
    move |logits: &Tensor| {
        let (rows, _, _) = logits.dims3()?;
        let last = logits.squeeze(1)?.contiguous()?;
        last.gather(&Tensor::from_slice(&ids, (rows, options), logits.device())?, 1)
    }
}

/// Copies label logits to the host, one row per prompt.
pub fn rows(letters: &Tensor) -> Result<Vec<Letters>> {
    Ok(letters.to_dtype(DType::F64)?.to_vec2()?)
}

/// Each logit minus their mean.
pub fn net(letters: &[f64]) -> Letters {
    let middle = mean(letters);
    letters.iter().map(|z| z - middle).collect()
}

/// The net logit `m = z_c - mean_j z_j`; 0 if no label is preferred.
pub fn net_logit(letters: &[f64], correct: usize) -> f64 {
    letters[correct] - mean(letters)
}

/// The loss among the labels in nats, `logsumexp(z) - z_c`; ln N if no label is preferred.
pub fn loss(letters: &[f64], correct: usize) -> f64 {
    let most = letters.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + letters.iter().map(|z| (z - most).exp()).sum::<f64>().ln() - letters[correct]
}

/// The index of the largest logit.
pub fn choice(letters: &[f64]) -> usize {
    (0..letters.len()).fold(0, |best, k| if letters[k] > letters[best] { k } else { best })
}

/// Means over prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The loss among the labels, in nats.
    pub loss: f64,
    /// The net logit of the right label.
    pub m: f64,
    /// The share of prompts whose right label has the largest logit.
    pub accuracy: f64,
}

impl Summary {
    /// The means over these prompts.
    pub fn of(letters: &[Letters], correct: &[usize]) -> Self {
        let over = |of: &dyn Fn(&[f64], usize) -> f64| {
            mean(&letters.iter().zip(correct).map(|(z, c)| of(z, *c)).collect::<Vec<f64>>())
        };
        Self { loss: over(&loss), m: over(&net_logit), accuracy: over(&|z, c| if choice(z) == c { 1. } else { 0. }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_match_their_formulas() {
        let z = [1., 3., 0., -2.];
        assert!((net_logit(&z, 1) - 2.5).abs() < 1e-12);
        // The correct logit minus the mean of the others is N / (N - 1) times the net logit.
        let others = z[1] - (z[0] + z[2] + z[3]) / 3.;
        assert!((others - 4. / 3. * net_logit(&z, 1)).abs() < 1e-12);
        assert!((loss(&[0.; 4], 2) - 4f64.ln()).abs() < 1e-12);
        let by_hand = (1f64.exp() + 3f64.exp() + 1. + (-2f64).exp()).ln() - 3.;
        assert!((loss(&z, 1) - by_hand).abs() < 1e-12);
        // A constant added to all labels changes nothing.
        let shifted = z.map(|z| z + 1000.);
        assert!((loss(&shifted, 1) - by_hand).abs() < 1e-9 && (net_logit(&shifted, 1) - 2.5).abs() < 1e-9);
        assert_eq!((choice(&z), net(&z).iter().sum::<f64>().abs() < 1e-12), (1, true));
        let summary = Summary::of(&[z.to_vec(), z.to_vec()], &[1, 0]);
        assert_eq!(summary.accuracy, 0.5);
    }
}
