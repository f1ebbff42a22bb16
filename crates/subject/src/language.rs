//! Next-token training of a decoder.

use anyhow::Result;
use candle_core::{Device, Tensor};
use experiment::{Objective, Progress};
use models::{Decoder, Step};
use rand::RngCore;
use rand_chacha::ChaCha12Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use training::{MeanLoss, Plan};

/// What a language model reads, and how it is evaluated on the way.
pub trait LanguageTask {
    /// One evaluation.
    type Row: Serialize + DeserializeOwned;

    /// Inputs and targets of the micro-batch at a position of the training, both `[batch, seq]`. Targets that are
    /// `ops::IGNORED` count for nothing.
    ///
    /// # Errors
    /// When there is no such batch.
    fn batch(&self, position: u64) -> Result<[Tensor; 2]>;

    /// Evaluates the model. `train_loss` is the mean over the steps since the row before; `rows` are those so far.
    ///
    /// # Errors
    /// When the evaluation fails.
    fn evaluate(&mut self, step: u64, train_loss: Option<f64>, rows: &[Self::Row]) -> Result<Self::Row>;
}

/// Mean cross-entropy of the next token, in nats, as the objective of [`experiment::Run::train`].
pub struct LanguageModel<'a, T> {
    model: &'a Decoder,
    plan: &'a Plan,
    evaluate_every: u64,
    dropout: Option<ChaCha12Rng>,
    task: T,
}

impl<'a, T: LanguageTask> LanguageModel<'a, T> {
    /// Training of `model` on what `task` reads, with an evaluation before the first step, every `evaluate_every` steps
    /// and at the end. Dropout's masks come from their own random stream; without it nothing is dropped.
    pub fn new(model: &'a Decoder, plan: &'a Plan, evaluate_every: u64, dropout: Option<ChaCha12Rng>, task: T) -> Self {
        Self { model, plan, evaluate_every, dropout, task }
    }

    /// The task, at the end.
    pub fn into_task(self) -> T {
        self.task
    }
}

impl<T: LanguageTask> Objective for LanguageModel<'_, T> {
    type Row = T::Row;

    fn loss(&mut self, step: u64, micro: u32) -> Result<Tensor> {
        let position = step * u64::from(self.plan.accumulate) + u64::from(micro);
        let [inputs, targets] = self.task.batch(position)?;
        let dropout = self.dropout.as_ref().map(|stream| training::stream_at(stream, position).next_u64());
        let step = Step { dropout, recompute: self.plan.recompute, ..Step::default() };
        Ok(self.model.losses(&inputs, &targets, &[], step)?.losses.mean_all()?)
    }

    fn evaluate(&mut self, at: Progress, mean: &mut MeanLoss, rows: &[T::Row]) -> Result<Option<T::Row>> {
        if !at.is_due(self.evaluate_every) {
            return Ok(None);
        }
        self.task.evaluate(at.step, mean.take(), rows).map(Some)
    }
}

/// Sequences of different lengths as one tensor `[sequences, longest]`, filled up with `padding` at the end.
///
/// # Errors
/// When candle fails.
pub fn padded(sequences: &[Vec<u32>], padding: u32, device: &Device) -> Result<Tensor> {
    let seq = sequences.iter().map(Vec::len).max().unwrap_or(0);
    let mut ids = vec![padding; sequences.len() * seq];
    for (row, sequence) in sequences.iter().enumerate() {
        ids[row * seq..][..sequence.len()].copy_from_slice(sequence);
    }
    Ok(Tensor::from_vec(ids, (sequences.len(), seq), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_sequences_are_filled_up() {
        let ids = padded(&[vec![1, 2, 3], vec![4]], 9, &Device::Cpu).unwrap().to_vec2::<u32>().unwrap();
        assert_eq!(ids, [[1, 2, 3], [4, 9, 9]]);
    }
}
