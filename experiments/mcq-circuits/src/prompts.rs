//! Questions as prompts: tokens, the part of each token, and the token of each answer.

use crate::mcq::{Part, Question, Separators, Style, text};
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use tokens::{Bos, Tokenizer};

/// A question in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The tokens, up to the position before the label of the answer.
    pub tokens: Vec<u32>,
    /// The part of each token.
    pub parts: Vec<Part>,
    /// The token of each label, in list order.
    pub answers: Vec<u32>,
    /// The index of the right option in the list.
    pub correct: usize,
}

impl Prompt {
    /// The number of options.
    pub fn options(&self) -> usize {
        self.answers.len()
    }

    /// The positions of the tokens of one part.
    pub fn places(&self, part: Part) -> impl Iterator<Item = usize> {
        self.parts.iter().enumerate().filter(move |(_, is)| **is == part).map(|(place, _)| place)
    }

    /// The position of each label.
    pub fn labels(&self) -> Vec<usize> {
        (0..self.options()).filter_map(|option| self.places(Part::Label(option)).next()).collect()
    }
}

/// Turns questions into prompts for one model.
#[derive(Debug)]
pub struct Asker {
    tokenizer: Tokenizer,
    style: Style,
    /// The separators around labels unless the question specifies others.
    separators: Separators,
}

impl Asker {
    /// Tests on `question` whether the tokenizer separates labels from the bracket before them. If not, options are
    /// written `A) text`.
    ///
    /// # Errors
    ///
    /// Fails if labels merge with other text in both formats.
    pub fn new(tokenizer: Tokenizer, style: Style, question: &Question) -> Result<Self> {
        let mut asker = Self { tokenizer, style, separators: Separators::Brackets };
        if asker.ask(question).is_err() {
            asker.separators = Separators::Closing;
            asker.ask(question).context(
                "labels are not single tokens, with or without an opening bracket before them; use another tokenizer",
            )?;
        }
        Ok(asker)
    }

    /// Encodes a question as a prompt.
    ///
    /// # Errors
    ///
    /// Fails if a label is not one token, or is a different token in the list than as the answer.
    pub fn ask(&self, question: &Question) -> Result<Prompt> {
        let separators =
            if question.separators == Separators::Brackets { self.separators } else { question.separators };
        let question = Question { separators, ..question.clone() };
        if self.style == Style::Words {
            return self.look_up(&question);
        }
        let (written, ranges) = text(&question.pieces(self.style), self.style);
        let (encoded, covered) = self.tokenizer.encode_with_offsets(&written, Bos::Default)?;
        // A token that spans two pieces belongs to the piece in which it ends.
        let part = |range: &std::ops::Range<usize>| match range.end.checked_sub(1) {
            Some(last) if !range.is_empty() => {
                ranges.iter().find(|(_, piece)| piece.contains(&last)).map(|(part, _)| *part)
            }
            _ => Some(Part::Bos),
        };
        // Spaces between words count as punctuation.
        let parts: Vec<Part> = covered.iter().map(|range| part(range).unwrap_or(Part::Punctuation)).collect();
        let answers = question.labels.iter().map(|label| self.answer(&written, &encoded.ids, label));
        let answers = answers.collect::<Result<Vec<u32>>>()?;
        let prompt = Prompt { tokens: encoded.ids, parts, answers, correct: question.correct };
        for (option, (label, answer)) in question.labels.iter().zip(&prompt.answers).enumerate() {
            let places: Vec<usize> = prompt.places(Part::Label(option)).collect();
            match places.as_slice() {
                [place] if prompt.tokens[*place] == *answer => {}
                _ => bail!("label `{label}` is a different token in the list of options than in the answer"),
            }
        }
        Ok(prompt)
    }

    /// For each option, the tokens of the prompt up to `Answer:` and the tokens of the option's text after it.
    ///
    /// # Errors
    ///
    /// Fails if the option's text changes the tokens before it.
    pub fn option_texts(&self, question: &Question) -> Result<Vec<(Vec<u32>, Vec<u32>)>> {
        let question = Question { separators: self.separators, ..question.clone() };
        let (written, _) = text(&question.pieces(self.style), self.style);
        let before = written.strip_suffix(" (").unwrap_or(&written);
        let ids = self.tokenizer.encode(before, Bos::Default)?.ids;
        let option = |option: &String| match self.tokenizer.encode(&format!("{before} {option}"), Bos::Default)?.ids {
            with if with.len() > ids.len() && with.starts_with(&ids) => Ok((ids.clone(), with[ids.len()..].to_vec())),
            _ => bail!("the option `{option}` after the prompt changes the tokens of the prompt"),
        };
        question.options.iter().map(option).collect()
    }

    /// A solved example to put before a question: the prompt, the letter and a closing bracket.
    pub fn solved(&self, question: &Question) -> String {
        let bare = Question { prelude: String::new(), separators: self.separators, ..question.clone() };
        let (written, _) = text(&bare.pieces(self.style), self.style);
        format!("{written}{})", question.labels[question.correct])
    }

    /// Encodes a question of whole words by vocabulary look-up. The result equals the tokenizer's, but is much faster,
    /// which matters in training.
    fn look_up(&self, question: &Question) -> Result<Prompt> {
        let id = |word: &str| self.tokenizer.id(word).with_context(|| format!("the vocabulary has no token `{word}`"));
        let (mut tokens, mut parts) =
            (vec![self.tokenizer.bos().context("the tokenizer of a small model needs a BOS token")?], vec![Part::Bos]);
        for piece in question.pieces(self.style) {
            for word in piece.text.split(' ') {
                tokens.push(id(word)?);
                parts.push(piece.part);
            }
        }
        let answers = question.labels.iter().map(|label| id(label)).collect::<Result<_>>()?;
        Ok(Prompt { tokens, parts, answers, correct: question.correct })
    }

    /// The token of a label after the prompt.
    fn answer(&self, written: &str, ids: &[u32], label: &str) -> Result<u32> {
        let with = self.tokenizer.encode(&format!("{written}{label}"), Bos::Default)?.ids;
        match with.split_last() {
            Some((answer, before)) if before == ids => Ok(*answer),
            _ => bail!("label `{label}` after the prompt is not a single additional token"),
        }
    }

    /// The text of a token, for labels of figures.
    pub fn word(&self, id: u32) -> String {
        let word = self.tokenizer.decode(&[id]).unwrap_or_default();
        let word = word.trim_matches(' ').replace('\n', "\\n");
        if word.is_empty() { "space".to_owned() } else { word }
    }
}

/// Groups the prompts into batches of at most `most` prompts of equal length; every prompt appears once.
pub fn batches(prompts: &[Prompt], most: usize) -> Vec<Vec<usize>> {
    tokens::of_one_length(prompts.iter().map(|prompt| prompt.tokens.len()), most)
}

/// The tokens of some prompts of equal length, `[batch, seq]`.
pub fn tokens(prompts: &[Prompt], rows: &[usize], device: &Device) -> Result<Tensor> {
    let ids: Vec<&[u32]> = rows.iter().map(|row| prompts[*row].tokens.as_slice()).collect();
    let seq = ids.first().map_or(0, |ids| ids.len());
    Ok(Tensor::from_vec(ids.concat(), (rows.len(), seq), device)?)
}

#[cfg(test)]
mod tests {
    use crate::mcq::{Mutation, Order, Regime, Task, Toy, World};
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;

    fn toy() -> Toy {
        Toy {
            items: 32,
            options: 4,
            task: Task::Copy,
            orders: vec![Order::OptionsFirst],
            regime: Regime::Mixed,
            prelude_share: 0.,
            separator_share: 0.,
            blank_share: 0.,
            held_out: 0.05,
        }
    }

    #[test]
    fn parts_of_small_model_prompts_are_at_the_specified_positions() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = tokens::word_level(folder.path(), &toy().vocabulary(), toy().bos()).unwrap();
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let world = World::new(&toy(), &mut rng);
        let mut question = world.ask(Order::OptionsFirst, 2, &mut rng);
        let asker = Asker::new(tokenizer, Style::Words, &question).unwrap();
        assert_eq!(asker.separators, Separators::Brackets);
        let prompt = asker.ask(&question).unwrap();
        assert_eq!((prompt.tokens.len(), prompt.correct), (29, 2));
        assert_eq!(prompt.labels(), [2, 7, 12, 17]);
        assert_eq!(prompt.places(Part::Content(1)).collect::<Vec<_>>(), [9]);
        assert_eq!(prompt.places(Part::End(3)).collect::<Vec<_>>(), [20]);
        assert_eq!(prompt.places(Part::Final).collect::<Vec<_>>(), [26, 27, 28]);
        assert_eq!(prompt.places(Part::Bos).collect::<Vec<_>>(), [0]);
        assert_eq!(prompt.tokens[23], prompt.tokens[14], "the question names the right item");
        question.order = Order::QuestionFirst;
        let prompt = asker.ask(&question).unwrap();
        assert_eq!(prompt.labels(), [7, 12, 17, 22]);
        for mutation in [Mutation::LowerCase, Mutation::Symbols, Mutation::SeparatorDash, Mutation::SeparatorSquare] {
            let mut changed = question.clone();
            mutation.apply(&mut changed, &mut rng);
            asker.ask(&changed).unwrap();
        }
        // Vocabulary look-up equals the tokenizer.
        let (written, _) = text(&question.pieces(Style::Words), Style::Words);
        assert_eq!(asker.ask(&question).unwrap().tokens, asker.tokenizer.encode(&written, Bos::Always).unwrap().ids);
        question.labels[0] = "Ä".to_owned();
        assert!(asker.ask(&question).is_err());
    }

    #[test]
    fn batches_contain_every_prompt_once_and_one_length_each() {
        let prompt = |length| Prompt { tokens: vec![0; length], parts: vec![], answers: vec![], correct: 0 };
        let prompts: Vec<Prompt> = [3, 4, 3, 3, 4, 3].map(prompt).into_iter().collect();
        assert_eq!(batches(&prompts, 3), [vec![0, 2, 3], vec![5], vec![1, 4]]);
        assert_eq!(tokens(&prompts, &[1, 4], &Device::Cpu).unwrap().dims(), [2, 4]);
    }
}
