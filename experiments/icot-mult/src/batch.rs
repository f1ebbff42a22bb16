//! Encodes problems as padded token tensors with next-token targets.

use crate::multiplication::{Example, Problem, Side, Vocabulary};
use candle_core::{Device, Result, Tensor};

/// The sequences of one step. Shorter sequences are padded on the right.
#[derive(Debug)]
pub struct Batch {
    /// Input ids, `[batch, seq]`.
    pub inputs: Tensor,
    /// The token after each input, or [`ops::IGNORED`] where there is no loss, `[batch, seq]`.
    pub targets: Tensor,
    /// Token index of c_0 in each sequence.
    pub answer_starts: Vec<usize>,
    /// Position ids of all inputs, row by row, if the tokens after the removed part keep their original positions.
    pub kept_positions: Vec<u32>,
}

/// Encodes problems. `removed[i]` chain-of-thought tokens of problem i are removed from one side.
pub fn encode(
    problems: &[Problem],
    removed: &[usize],
    side: Side,
    vocabulary: Vocabulary,
    device: &Device,
) -> Result<Batch> {
    let examples: Vec<Example> =
        problems.iter().zip(removed).map(|(problem, removed)| vocabulary.encode(problem, *removed, side)).collect();
    from_examples(&examples, removed, vocabulary, device)
}

/// Position ids of `seq` tokens if those from index `gap` on keep the positions they had before `removed` tokens were
/// removed.
pub fn kept_positions(seq: usize, gap: usize, removed: usize) -> impl Iterator<Item = u32> {
    (0..seq).map(move |index| (if index < gap { index } else { index + removed }) as u32)
}

fn from_examples(examples: &[Example], removed: &[usize], vocabulary: Vocabulary, device: &Device) -> Result<Batch> {
    let longest = examples.iter().map(|example| example.tokens.len()).max().unwrap_or(1);
    let seq = longest - 1;
    let (mut inputs, mut targets, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    // positions of padding are clamped to those that exist; padding has no loss, so its position does not matter
    let positions_in_use =
        examples.iter().zip(removed).map(|(example, removed)| example.tokens.len() + removed).max().unwrap_or(1);
    for (example, removed) in examples.iter().zip(removed) {
        positions.extend(
            kept_positions(seq, example.gap, *removed).map(|position| position.min(positions_in_use as u32 - 1)),
        );
        let token = |index: usize| example.tokens.get(index).copied().unwrap_or(vocabulary.padding());
        inputs.extend((0..seq).map(token));
        let trained = example.first_trained..example.tokens.len();
        targets.extend((1..=seq).map(|index| if trained.contains(&index) { token(index) } else { ops::IGNORED }));
    }
    Ok(Batch {
        inputs: Tensor::from_vec(inputs, (examples.len(), seq), device)?,
        targets: Tensor::from_vec(targets, (examples.len(), seq), device)?,
        kept_positions: positions,
        answer_starts: examples.iter().map(|example| example.answer_start).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_sequences_are_padded_and_padding_has_no_loss() {
        let problems = [Problem { a: 12, b: 34, digits: 2 }; 2];
        let batch = encode(&problems, &[0, 8], Side::Left, Vocabulary::Digits, &Device::Cpu).unwrap();
        let (rows, seq) = batch.inputs.dims2().unwrap();
        assert_eq!((rows, seq), (2, 4 * 2 + 5 + 8 - 1));
        assert_eq!(batch.answer_starts, [16, 8]);
        let targets = batch.targets.to_vec2::<u32>().unwrap();
        let trained = |row: usize| -> Vec<u32> {
            targets[row].iter().copied().filter(|target| *target != ops::IGNORED).collect()
        };
        // n = 2: a0 a1 * b0 b1 % | 8 chain-of-thought tokens | % # c0 ..: both answers start at position 16
        assert_eq!(batch.kept_positions[16], 16);
        assert_eq!(batch.kept_positions[seq + 5..seq + 9], [5, 14, 15, 16]);
        // targets without a chain of thought: %, #, four digits, %
        assert_eq!(trained(1), [11, 12, 8, 0, 4, 0, 11]);
        assert_eq!(trained(0).len(), 15);
    }
}
