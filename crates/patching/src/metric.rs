//! Metrics: one number per sequence, computed from the logits.

use candle_core::{D, Device, Result, Tensor};

type Of<'a> = Box<dyn Fn(&Tensor) -> Result<Tensor> + 'a>;

/// One number per sequence, computed from the logits at its last positions.
pub struct Metric<'a> {
    last: usize,
    of: Of<'a>,
}

impl<'a> Metric<'a> {
    /// Any function of the logits at the `last` positions, `[batch, last, d_vocab]` to `[batch]`.
    pub fn new(last: usize, of: impl Fn(&Tensor) -> Result<Tensor> + 'a) -> Self {
        Self { last, of: Box::new(of) }
    }

    /// Logit of the right token minus that of the wrong one at the last position; one of each per sequence.
    #[must_use]
    pub fn logit_difference(right: &[u32], wrong: &[u32]) -> Self {
        let (right, wrong) = (right.to_vec(), wrong.to_vec());
        Self::new(1, move |logits| chosen(logits, &right)? - chosen(logits, &wrong)?)
    }

    /// Negative log-probability in nats of each sequence's answer at the last position, with the softmax over the
    /// options.
    #[must_use]
    pub fn restricted_loss(answers: &[u32], options: &[u32]) -> Self {
        let (answers, options) = (answers.to_vec(), options.to_vec());
        Self::new(1, move |logits| {
            let (_, _, v) = logits.dims3()?;
            if let Some(token) = options.iter().chain(&answers).find(|token| **token as usize >= v) {
                candle_core::bail!("token {token} is outside the vocabulary of {v}");
            }
            let options = Tensor::new(options.as_slice(), logits.device())?;
            let among = last(logits)?.index_select(&options, 1)?; // [batch, options]
            among.log_sum_exp(1)? - chosen(logits, &answers)?
        })
    }

    /// Kullback-Leibler divergence in nats at the last position from the distribution of `reference` logits
    /// `[batch, d_vocab]`: `sum p_ref (log p_ref - log p)`.
    #[must_use]
    pub fn divergence(reference: &Tensor) -> Self {
        let reference = reference.clone();
        Self::new(1, move |logits| {
            let log = log_softmax(&reference)?;
            (log.exp()? * (&log - log_softmax(&last(logits)?)?)?)?.sum(D::Minus1)
        })
    }

    /// How many of the last positions the metric reads.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.last
    }

    /// The metric of each sequence, `[batch]`.
    ///
    /// # Errors
    /// When the logits do not fit the metric.
    pub fn of(&self, logits: &Tensor) -> Result<Tensor> {
        let (batch, _, _) = logits.dims3()?;
        let numbers = (self.of)(logits)?;
        if numbers.dims() != [batch] {
            candle_core::bail!(
                "the metric returned shape {:?} for a batch of {batch}, expected [{batch}]",
                numbers.dims()
            );
        }
        Ok(numbers)
    }
}

fn last(logits: &Tensor) -> Result<Tensor> {
    let (_, seq, _) = logits.dims3()?;
    logits.narrow(1, seq - 1, 1)?.squeeze(1)
}

/// One logit per sequence at the last position, `[batch]`.
fn chosen(logits: &Tensor, tokens: &[u32]) -> Result<Tensor> {
    let (batch, _, v) = logits.dims3()?;
    if tokens.len() != batch {
        candle_core::bail!("the metric has {} tokens for a batch of {batch}", tokens.len());
    }
    if let Some(token) = tokens.iter().find(|token| **token as usize >= v) {
        candle_core::bail!("token {token} is outside the vocabulary of {v}");
    }
    let tokens = Tensor::new(tokens, &Device::Cpu)?.to_device(logits.device())?.unsqueeze(1)?;
    last(logits)?.contiguous()?.gather(&tokens, 1)?.squeeze(1)
}

/// Made of differentiable operations, for [`attribution_patching`](crate::attribution_patching).
fn log_softmax(x: &Tensor) -> Result<Tensor> {
    x.broadcast_sub(&x.log_sum_exp(D::Minus1)?.unsqueeze(D::Minus1)?)
}
