//! Questions as a model reads them: tokens, the part that each plays, and which token would be which answer.

use crate::mcq::{Part, Question, Separators, Style, text};
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use tokens::{Bos, Tokenizer};

/// A question in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The tokens, up to where the label of the answer belongs.
    pub tokens: Vec<u32>,
    /// What part each of them plays.
    pub parts: Vec<Part>,
    /// Token of each label, in the order of the list.
    pub answers: Vec<u32>,
    /// Which option is right, by its place in the list.
    pub correct: usize,
}

impl Prompt {
    /// Number of options.
    pub fn options(&self) -> usize {
        self.answers.len()
    }

    /// Places of the tokens that play a part.
    pub fn places(&self, part: Part) -> impl Iterator<Item = usize> {
        self.parts.iter().enumerate().filter(move |(_, is)| **is == part).map(|(place, _)| place)
    }

    /// Place of each label.
    pub fn labels(&self) -> Vec<usize> {
        (0..self.options()).filter_map(|option| self.places(Part::Label(option)).next()).collect()
    }
}

/// Turns questions into prompts of one model.
#[derive(Debug)]
pub struct Asker {
    tokenizer: Tokenizer,
    style: Style,
    /// What stands around labels unless the question says otherwise.
    separators: Separators,
}

impl Asker {
    /// Tries `question` and finds out whether the tokenizer keeps labels apart from the bracket before them; if not, options
    /// are written `A) text`.
    ///
    /// # Errors
    /// When labels are glued to something in any case.
    pub fn new(tokenizer: Tokenizer, style: Style, question: &Question) -> Result<Self> {
        let mut asker = Self { tokenizer, style, separators: Separators::Brackets };
        if asker.ask(question).is_err() {
            asker.separators = Separators::Closing;
            asker.ask(question).context("labels are no tokens of their own, with or without a bracket before them")?;
        }
        Ok(asker)
    }

    /// A question in tokens.
    ///
    /// # Errors
    /// When a label is not one token, or is another token in the list than as the answer.
    pub fn ask(&self, question: &Question) -> Result<Prompt> {
        let separators =
            if question.separators == Separators::Brackets { self.separators } else { question.separators };
        let question = Question { separators, ..question.clone() };
        if self.style == Style::Words {
            return self.look_up(&question);
        }
        let (written, ranges) = text(&question.pieces(self.style), self.style);
        let (encoded, covered) = self.tokenizer.encode_with_offsets(&written, Bos::Default)?;
        // a token that covers the end of one piece and the beginning of the next belongs to where it ends
        let part = |range: &std::ops::Range<usize>| match range.end.checked_sub(1) {
            Some(last) if !range.is_empty() => {
                ranges.iter().find(|(_, piece)| piece.contains(&last)).map(|(part, _)| *part)
            }
            _ => Some(Part::Bos),
        };
        // spaces between words are nobody's
        let parts: Vec<Part> = covered.iter().map(|range| part(range).unwrap_or(Part::Punctuation)).collect();
        let answers = question.labels.iter().map(|label| self.answer(&written, &encoded.ids, label));
        let answers = answers.collect::<Result<Vec<u32>>>()?;
        let prompt = Prompt { tokens: encoded.ids, parts, answers, correct: question.correct };
        for (option, (label, answer)) in question.labels.iter().zip(&prompt.answers).enumerate() {
            let places: Vec<usize> = prompt.places(Part::Label(option)).collect();
            match places.as_slice() {
                [place] if prompt.tokens[*place] == *answer => {}
                _ => bail!("label `{label}` is not the same token in the list of options as in the answer"),
            }
        }
        Ok(prompt)
    }

    /// For each option, the tokens of the prompt up to `Answer:` and those of what the option says behind it.
    ///
    /// # Errors
    /// When the option's words change the tokens before them.
    pub fn option_texts(&self, question: &Question) -> Result<Vec<(Vec<u32>, Vec<u32>)>> {
        let question = Question { separators: self.separators, ..question.clone() };
        let (written, _) = text(&question.pieces(self.style), self.style);
        let before = written.strip_suffix(" (").unwrap_or(&written);
        let ids = self.tokenizer.encode(before, Bos::Default)?.ids;
        let option = |option: &String| match self.tokenizer.encode(&format!("{before} {option}"), Bos::Default)?.ids {
            with if with.len() > ids.len() && with.starts_with(&ids) => Ok((ids.clone(), with[ids.len()..].to_vec())),
            _ => bail!("`{option}` behind the prompt changes the tokens of the prompt"),
        };
        question.options.iter().map(option).collect()
    }

    /// A solved example as it stands before a question: the prompt, the letter, and a closed bracket.
    pub fn solved(&self, question: &Question) -> String {
        let bare = Question { prelude: String::new(), separators: self.separators, ..question.clone() };
        let (written, _) = text(&bare.pieces(self.style), self.style);
        format!("{written}{})", question.labels[question.correct])
    }

    /// A question of whole words, word by word: what the tokenizer gives, in a fraction of the time, which counts in
    /// training.
    fn look_up(&self, question: &Question) -> Result<Prompt> {
        let id = |word: &str| self.tokenizer.id(word).with_context(|| format!("the vocabulary has no `{word}`"));
        let (mut tokens, mut parts) = (vec![self.tokenizer.bos().context("a toy has a BOS")?], vec![Part::Bos]);
        for piece in question.pieces(self.style) {
            for word in piece.text.split(' ') {
                tokens.push(id(word)?);
                parts.push(piece.part);
            }
        }
        let answers = question.labels.iter().map(|label| id(label)).collect::<Result<_>>()?;
        Ok(Prompt { tokens, parts, answers, correct: question.correct })
    }

    /// The token of a label behind the prompt.
    fn answer(&self, written: &str, ids: &[u32], label: &str) -> Result<u32> {
        let with = self.tokenizer.encode(&format!("{written}{label}"), Bos::Default)?.ids;
        match with.split_last() {
            Some((answer, before)) if before == ids => Ok(*answer),
            _ => bail!("label `{label}` behind the prompt is not one token more"),
        }
    }

    /// A token as text, for labels of figures.
    pub fn word(&self, id: u32) -> String {
        let word = self.tokenizer.decode(&[id]).unwrap_or_default();
        let word = word.trim_matches(' ').replace('\n', "\\n");
        if word.is_empty() { "space".to_owned() } else { word }
    }
}

/// Which prompts go through the model together: at most `most`, all of one length; every prompt once.
pub fn batches(prompts: &[Prompt], most: usize) -> Vec<Vec<usize>> {
    tokens::of_one_length(prompts.iter().map(|prompt| prompt.tokens.len()), most)
}

/// Tokens of some prompts of one length, `[batch, seq]`.
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
    fn parts_of_toy_prompts_are_where_the_specification_says() {
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
        // word by word is what the tokenizer gives
        let (written, _) = text(&question.pieces(Style::Words), Style::Words);
        assert_eq!(asker.ask(&question).unwrap().tokens, asker.tokenizer.encode(&written, Bos::Always).unwrap().ids);
        question.labels[0] = "Ä".to_owned();
        assert!(asker.ask(&question).is_err());
    }

    #[test]
    fn batches_hold_every_prompt_once_and_one_length_each() {
        let prompt = |length| Prompt { tokens: vec![0; length], parts: vec![], answers: vec![], correct: 0 };
        let prompts: Vec<Prompt> = [3, 4, 3, 3, 4, 3].map(prompt).into_iter().collect();
        assert_eq!(batches(&prompts, 3), [vec![0, 2, 3], vec![5], vec![1, 4]]);
        assert_eq!(tokens(&prompts, &[1, 4], &Device::Cpu).unwrap().dims(), [2, 4]);
    }
}
