//! Prompts for indirect object identification, IOI (arXiv 2211.00593). A prompt names two people, then repeats one name
//! (the subject, S). The correct continuation is the other name (the indirect object, IO).
//!
//! Prompts come in pairs that differ only in the repeated name and therefore in the answer. Each is the corrupted
//! version of the other.

use rand::Rng;
use rand::seq::IndexedRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The placeholders of a template.
const PLACEHOLDERS: [&str; 5] = ["{first}", "{second}", "{subject}", "{place}", "{object}"];

/// A sentence template and the words for its placeholders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sentences {
    /// The sentence with the placeholders {first} and {second} (the two names), {subject} (the repeated name), {place}
    /// and {object}. It ends before the answer, without a space.
    pub template: String,
    /// First names.
    #[schemars(length(min = 2))]
    pub names: Vec<String>,
    /// Names of locations.
    #[schemars(length(min = 1))]
    pub places: Vec<String>,
    /// Names of objects that are given.
    #[schemars(length(min = 1))]
    pub objects: Vec<String>,
}

/// The words of one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The first name.
    pub first: String,
    /// The second name.
    pub second: String,
    /// Whether the first name is the repeated one.
    pub repeats_first: bool,
    /// The location.
    pub place: String,
    /// The object that is given.
    pub object: String,
}

impl Prompt {
    /// The repeated name, S.
    #[must_use]
    pub fn subject(&self) -> &str {
        if self.repeats_first { &self.first } else { &self.second }
    }

    /// The name that occurs once, IO: the right answer.
    #[must_use]
    pub fn indirect_object(&self) -> &str {
        if self.repeats_first { &self.second } else { &self.first }
    }

    /// The text of the prompt, up to the answer.
    #[must_use]
    pub fn text(&self, template: &str) -> String {
        let words = [&self.first, &self.second, self.subject(), &self.place, &self.object];
        PLACEHOLDERS
            .iter()
            .zip(words)
            .fold(template.to_owned(), |text, (placeholder, word)| text.replace(placeholder, word))
    }
}

/// Invalid [`Sentences`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The template lacks a placeholder.
    #[error("the template `{template}` has no {placeholder}")]
    Placeholder {
        /// The template.
        template: String,
        /// The missing placeholder.
        placeholder: &'static str,
    },
    /// The template ends with a space, which is part of the answer's token.
    #[error("the template `{0}` ends with a space; remove it, since the answer's token begins with one")]
    Space(String),
    /// There are fewer than two distinct names.
    #[error("there are {0} distinct names; at least two are needed")]
    Names(usize),
}

impl Sentences {
    /// Samples two names, a location and an object `samples` times. Each sample gives two pairs of prompts, one for
    /// each order of the names. The two prompts of a pair differ in the repeated name.
    ///
    /// # Errors
    /// If the template lacks a placeholder for a name or ends with a space, or there are fewer than two distinct names.
    pub fn pairs(&self, samples: usize, rng: &mut impl Rng) -> Result<Vec<[Prompt; 2]>, Error> {
        if let Some(placeholder) = PLACEHOLDERS[..3].iter().find(|placeholder| !self.template.contains(**placeholder)) {
            return Err(Error::Placeholder { template: self.template.clone(), placeholder });
        }
        if self.template.ends_with(char::is_whitespace) {
            return Err(Error::Space(self.template.clone()));
        }
        let mut names: Vec<&String> = self.names.iter().collect();
        names.sort_unstable();
        names.dedup();
        if names.len() < 2 {
            return Err(Error::Names(names.len()));
        }
        let mut pairs = Vec::with_capacity(2 * samples);
        for _ in 0..samples {
            let two: Vec<&&String> = names.choose_multiple(rng, 2).collect();
            let mut word = |words: &[String]| words.choose(rng).cloned().unwrap_or_default();
            let (place, object) = (word(&self.places), word(&self.objects));
            for (first, second) in [(two[0], two[1]), (two[1], two[0])] {
                pairs.push([true, false].map(|repeats_first| Prompt {
                    first: (**first).clone(),
                    second: (**second).clone(),
                    repeats_first,
                    place: place.clone(),
                    object: object.clone(),
                }));
            }
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn sentences() -> Sentences {
        let words = |words: &str| words.split(' ').map(str::to_owned).collect();
        Sentences {
            template: "Then, {first} and {second} went to the {place}. {subject} gave a {object} to".to_owned(),
            names: words("Ann Bob Cleo"),
            places: words("shop park"),
            objects: words("pen"),
        }
    }

    #[test]
    fn the_prompts_of_a_pair_differ_in_the_repeated_name() {
        let sentences = sentences();
        let pairs = sentences.pairs(8, &mut ChaCha12Rng::seed_from_u64(1)).unwrap();
        assert_eq!(pairs.len(), 16);
        for [one, other] in &pairs {
            assert_eq!((one.subject(), one.indirect_object()), (other.indirect_object(), other.subject()));
            let texts = [one, other].map(|prompt| prompt.text(&sentences.template));
            let words = texts.each_ref().map(|text| text.split(' ').collect::<Vec<_>>());
            let differ: Vec<usize> = (0..words[0].len()).filter(|i| words[0][*i] != words[1][*i]).collect();
            assert_eq!(differ, [8], "{texts:?}");
            assert_ne!(one.first, one.second);
        }
        // the second pair of a sample has the names in the other order
        assert_eq!((&pairs[0][0].first, &pairs[0][0].second), (&pairs[1][0].second, &pairs[1][0].first));
        let text = "Then, Ann and Bob went to the shop. Bob gave a pen to";
        let prompt = Prompt {
            first: "Ann".to_owned(),
            second: "Bob".to_owned(),
            repeats_first: false,
            place: "shop".to_owned(),
            object: "pen".to_owned(),
        };
        assert_eq!((prompt.text(&sentences.template).as_str(), prompt.indirect_object()), (text, "Ann"));
    }

    #[test]
    fn invalid_sentences_are_errors() {
        let rng = &mut ChaCha12Rng::seed_from_u64(1);
        let gap = Sentences { template: "{first} and {second} met. He".to_owned(), ..sentences() };
        assert!(gap.pairs(1, rng).unwrap_err().to_string().contains("{subject}"));
        let space = Sentences { template: format!("{} ", sentences().template), ..sentences() };
        assert!(matches!(space.pairs(1, rng), Err(Error::Space(_))));
        let one = Sentences { names: vec!["Ann".to_owned(), "Ann".to_owned()], ..sentences() };
        assert_eq!(one.pairs(1, rng), Err(Error::Names(1)));
    }
}
