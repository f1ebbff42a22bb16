//! The toy's text: documents from a seed, as one long row of tokens.

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use datasets::prose::{self, Kinds};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use tokens::{Bos, END_OF_TEXT, Tokenizer};

/// Documents that the vocabulary is learned from.
const SAMPLE: u64 = 4000;

/// Where documents come from: which kinds, and from which random stream.
#[derive(Clone, Debug)]
pub struct Documents {
    /// How often each kind comes.
    pub kinds: Kinds,
    /// What they are drawn from, by number.
    pub stream: ChaCha12Rng,
}

impl Documents {
    fn texts(&self, numbers: std::ops::Range<u64>) -> impl Iterator<Item = String> + Send + use<> {
        let Self { kinds, stream } = self.clone();
        numbers.map(move |number| prose::document(&kinds, &mut datasets::at(&stream, number)))
    }
}

/// Learns a vocabulary from the first documents of a stream and writes it into `folder`.
pub fn vocabulary(folder: &std::path::Path, documents: &Documents, d_vocab: usize) -> Result<Tokenizer> {
    tokens::train_bpe(folder, documents.texts(0..SAMPLE), d_vocab).context("params.model.d_vocab")
}

/// Rows of tokens to train on and to be judged by.
pub struct Corpus {
    /// Documents, each behind an end of text.
    pub train: Vec<u32>,
    /// Other documents of the same kinds.
    pub validation: Vec<u32>,
}

impl Corpus {
    /// Draws documents until both parts have as many tokens as asked for.
    pub fn new(tokenizer: &Tokenizer, documents: &Documents, train: usize, validation: usize) -> Result<Self> {
        let end = tokenizer.id(END_OF_TEXT).context("the toy's vocabulary has an end of text")?;
        let mut all = Vec::with_capacity(train + validation + 200);
        for text in documents.texts(0..u64::MAX) {
            if all.len() >= train + validation {
                break;
            }
            all.push(end);
            all.extend(tokenizer.encode(&text, Bos::Never)?.ids);
        }
        let mut train_part = all;
        train_part.truncate(train + validation);
        let validation = train_part.split_off(train);
        Ok(Self { train: train_part, validation })
    }
}

/// `rows` windows at random places: inputs and the tokens after each, `[rows, seq]`.
pub fn windows(tokens: &[u32], rows: usize, seq: usize, rng: &mut impl Rng, device: &Device) -> Result<[Tensor; 2]> {
    if tokens.len() <= seq {
        bail!("a corpus of {} tokens has no window of {seq} and the token after", tokens.len());
    }
    let starts: Vec<usize> = (0..rows).map(|_| rng.random_range(0..tokens.len() - seq)).collect();
    let part = |shift: usize| {
        let ids: Vec<u32> =
            starts.iter().flat_map(|start| &tokens[start + shift..start + shift + seq]).copied().collect();
        Tensor::from_vec(ids, (rows, seq), device)
    };
    Ok([part(0)?, part(1)?])
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn parts_have_the_sizes_asked_for_and_windows_are_shifted_by_one() {
        let kinds = Kinds { stories: 1, reports: 1, dialogues: 1, inventories: 1, lists: 1 };
        let documents = Documents { kinds, stream: ChaCha12Rng::seed_from_u64(1) };
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = vocabulary(folder.path(), &documents, 400).unwrap();
        let corpus = Corpus::new(&tokenizer, &documents, 3000, 500).unwrap();
        assert_eq!((corpus.train.len(), corpus.validation.len()), (3000, 500));
        assert!(corpus.train.iter().all(|id| (*id as usize) < tokenizer.d_vocab()));
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let [inputs, targets] = windows(&corpus.train, 3, 20, &mut rng, &Device::Cpu).unwrap();
        let (inputs, targets) = (inputs.to_vec2::<u32>().unwrap(), targets.to_vec2::<u32>().unwrap());
        for (inputs, targets) in inputs.iter().zip(&targets) {
            assert_eq!(inputs[1..], targets[..19]);
        }
        assert!(windows(&corpus.train[..20], 1, 20, &mut rng, &Device::Cpu).is_err());
    }
}
