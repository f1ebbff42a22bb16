//! Problems as tensors.

use crate::multiplication::{Example, Problem, Side, Vocabulary};
use candle_core::{Device, Result, Tensor};

/// Sequences of one step, shorter ones filled up on the right.
#[derive(Debug)]
pub struct Batch {
    /// Inputs, `[batch, seq]`.
    pub inputs: Tensor,
    /// The token after each input, [`ops::IGNORED`] where it is not trained, `[batch, seq]`.
    pub targets: Tensor,
    /// Place of c_0 in each sequence.
    pub answer_starts: Vec<usize>,
    /// Position of every input when the rest of the working keeps its own, row after row.
    pub kept_positions: Vec<u32>,
}

/// Encodes problems with `removed[i]` tokens of working taken away from one side.
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

/// Positions of `seq` tokens when those from `gap` on stand where they stood before `removed` tokens went.
pub fn kept_positions(seq: usize, gap: usize, removed: usize) -> impl Iterator<Item = u32> {
    (0..seq).map(move |place| (if place < gap { place } else { place + removed }) as u32)
}

fn from_examples(examples: &[Example], removed: &[usize], vocabulary: Vocabulary, device: &Device) -> Result<Batch> {
    let longest = examples.iter().map(|example| example.tokens.len()).max().unwrap_or(1);
    let seq = longest - 1;
    let (mut inputs, mut targets, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    // filling behind a sequence lies outside of the longest; where it stands does not matter
    let most = examples.iter().zip(removed).map(|(example, removed)| example.tokens.len() + removed).max().unwrap_or(1);
    for (example, removed) in examples.iter().zip(removed) {
        positions.extend(kept_positions(seq, example.gap, *removed).map(|at| at.min(most as u32 - 1)));
        let token = |place: usize| example.tokens.get(place).copied().unwrap_or(vocabulary.padding());
        inputs.extend((0..seq).map(token));
        let trained = example.first_trained..example.tokens.len();
        targets.extend((1..=seq).map(|place| if trained.contains(&place) { token(place) } else { ops::IGNORED }));
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
    fn shorter_sequences_are_filled_up_and_the_filling_is_not_trained() {
        let problems = [Problem { a: 12, b: 34, digits: 2 }; 2];
        let batch = encode(&problems, &[0, 8], Side::Left, Vocabulary::Digits, &Device::Cpu).unwrap();
        let (rows, seq) = batch.inputs.dims2().unwrap();
        assert_eq!((rows, seq), (2, 4 * 2 + 5 + 8 - 1));
        assert_eq!(batch.answer_starts, [16, 8]);
        let targets = batch.targets.to_vec2::<u32>().unwrap();
        let trained = |row: usize| -> Vec<u32> {
            targets[row].iter().copied().filter(|target| *target != ops::IGNORED).collect()
        };
        // n = 2: a0 a1 * b0 b1 % | working of 8 | % # c0 ..: the answer of both stands at position 16
        assert_eq!(batch.kept_positions[16], 16);
        assert_eq!(batch.kept_positions[seq + 5..seq + 9], [5, 14, 15, 16]);
        // trained without working: %, #, four digits, %
        assert_eq!(trained(1), [11, 12, 8, 0, 4, 0, 11]);
        assert_eq!(trained(0).len(), 15);
    }
}
