//! The toy's text: documents from a seed, as rows of tokens.

use crate::prose::{self, Kinds};
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use tokens::{Bos, END_OF_TEXT, Tokenizer};

/// Documents that the vocabulary is learned from.
const SAMPLE: u64 = 4000;
/// Number of the first document that nobody trains on.
const HELD_OUT: u64 = 1 << 32;

/// Documents as tokens, one after the other.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Vec<u32>>> + 'a>;

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
        numbers.map(move |number| prose::document(&kinds, &mut training::stream_at(&stream, number)))
    }

    /// Documents to train on, each behind an end of text, as many as are asked for.
    pub fn training<'a>(&self, tokenizer: &'a Tokenizer) -> Result<Rows<'a>> {
        self.tokens(tokenizer, 0..HELD_OUT)
    }

    /// Other documents, which nobody trains on.
    pub fn held_out<'a>(&self, tokenizer: &'a Tokenizer) -> Result<Rows<'a>> {
        self.tokens(tokenizer, HELD_OUT..u64::MAX)
    }

    fn tokens<'a>(&self, tokenizer: &'a Tokenizer, numbers: std::ops::Range<u64>) -> Result<Rows<'a>> {
        if self.kinds.is_empty() {
            bail!("the weights of all kinds of documents are zero, so there is nothing to read");
        }
        let end = tokenizer.id(END_OF_TEXT).context("the toy's vocabulary has an end of text")?;
        Ok(Box::new(self.texts(numbers).map(move |text| {
            let mut document = vec![end];
            document.extend(tokenizer.encode(&text, Bos::Never)?.ids);
            Ok(document)
        })))
    }
}

/// Learns a vocabulary from the first documents of a stream and writes it into `folder`.
pub fn vocabulary(folder: &std::path::Path, documents: &Documents, d_vocab: usize) -> Result<Tokenizer> {
    tokens::train_bpe(folder, documents.texts(0..SAMPLE), d_vocab).context("params.model.d_vocab")
}

/// The first tokens of some documents, one document after the other.
pub fn first_tokens(documents: impl Iterator<Item = Result<Vec<u32>>>, count: usize) -> Result<Vec<u32>> {
    let mut all = Vec::with_capacity(count + 200);
    for document in documents {
        all.extend(document?);
        if all.len() >= count {
            break;
        }
    }
    if all.len() < count {
        bail!("the text ends after {} tokens, {count} are needed", all.len());
    }
    all.truncate(count);
    Ok(all)
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
        let kinds = Kinds { stories: 1, reports: 1, dialogues: 1, inventories: 1, lists: 1, listings: 0 };
        let documents = Documents { kinds, stream: ChaCha12Rng::seed_from_u64(1) };
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = vocabulary(folder.path(), &documents, 400).unwrap();
        let train = first_tokens(documents.training(&tokenizer).unwrap(), 3000).unwrap();
        let held_out = first_tokens(documents.held_out(&tokenizer).unwrap(), 500).unwrap();
        assert_eq!((train.len(), held_out.len()), (3000, 500));
        assert_ne!(train[..500], held_out);
        assert!(train.iter().all(|id| (*id as usize) < tokenizer.d_vocab()));
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let [inputs, targets] = windows(&train, 3, 20, &mut rng, &Device::Cpu).unwrap();
        let (inputs, targets) = (inputs.to_vec2::<u32>().unwrap(), targets.to_vec2::<u32>().unwrap());
        for (inputs, targets) in inputs.iter().zip(&targets) {
            assert_eq!(inputs[1..], targets[..19]);
        }
        assert!(windows(&train[..20], 1, 20, &mut rng, &Device::Cpu).is_err());
        let few = documents.held_out(&tokenizer).unwrap().take(1);
        assert!(first_tokens(few, 500).unwrap_err().to_string().contains("500 are needed"));
        let nothing = Documents {
            kinds: Kinds { stories: 0, reports: 0, dialogues: 0, inventories: 0, lists: 0, ..kinds },
            ..documents
        };
        assert!(nothing.training(&tokenizer).is_err());
    }
}
