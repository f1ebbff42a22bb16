//! Prompts of indirect object identification (arXiv 2211.00593): two people are named, one of them again, and the
//! sentence ends before the other one's name.
//!
//! They come in pairs that differ in who is named again, and so in the right answer: each is the other's corrupted
//! version.

use rand::Rng;
use rand::seq::IndexedRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The places of a template, as it writes them.
const PLACES: [&str; 5] = ["{first}", "{second}", "{subject}", "{place}", "{object}"];

/// A sentence with gaps, and the words for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sentences {
    /// The sentence with {first}, {second} (who is named), {subject} (who is named again), {place} and {object}; it ends
    /// before the answer, without a space.
    pub template: String,
    /// Names.
    #[schemars(length(min = 2))]
    pub names: Vec<String>,
    /// Where people go.
    #[schemars(length(min = 1))]
    pub places: Vec<String>,
    /// What people give.
    #[schemars(length(min = 1))]
    pub objects: Vec<String>,
}

/// One prompt's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Who is named first.
    pub first: String,
    /// Who is named second.
    pub second: String,
    /// Whether the first one is named again.
    pub repeats_first: bool,
    /// Where they go.
    pub place: String,
    /// What is given.
    pub object: String,
}

impl Prompt {
    /// Who is named twice, S.
    #[must_use]
    pub fn subject(&self) -> &str {
        if self.repeats_first { &self.first } else { &self.second }
    }

    /// Who is named once: the right answer, IO.
    #[must_use]
    pub fn indirect_object(&self) -> &str {
        if self.repeats_first { &self.second } else { &self.first }
    }

    /// The text up to the answer.
    #[must_use]
    pub fn text(&self, template: &str) -> String {
        let words = [&self.first, &self.second, self.subject(), &self.place, &self.object];
        PLACES.iter().zip(words).fold(template.to_owned(), |text, (gap, word)| text.replace(gap, word))
    }
}

/// What is wrong with the sentences.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A gap that the template lacks.
    #[error("the template `{template}` has no {gap}")]
    Gap {
        /// The template.
        template: String,
        /// The gap.
        gap: &'static str,
    },
    /// A template that ends with a space, which would split the answer's token.
    #[error("the template `{0}` ends with a space: the answer brings its own")]
    Space(String),
    /// Too few names.
    #[error("{0} different names: it takes two")]
    Names(usize),
}

impl Sentences {
    /// `draws` random choices of two names, a place and an object, each in four prompts: either order of the names, and
    /// in each order either name again. The last two of them are a pair.
    ///
    /// # Errors
    /// When the template lacks a gap or ends with a space, or there are fewer than two names.
    pub fn pairs(&self, draws: usize, rng: &mut impl Rng) -> Result<Vec<[Prompt; 2]>, Error> {
        if let Some(gap) = PLACES[..3].iter().find(|gap| !self.template.contains(**gap)) {
            return Err(Error::Gap { template: self.template.clone(), gap });
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
        let mut pairs = Vec::with_capacity(2 * draws);
        for _ in 0..draws {
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
    fn a_pair_differs_in_who_is_named_again() {
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
        // the second pair of a draw has the names the other way round
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
    fn sentences_that_cannot_work_are_refused() {
        let rng = &mut ChaCha12Rng::seed_from_u64(1);
        let gap = Sentences { template: "{first} and {second} met. He".to_owned(), ..sentences() };
        assert!(gap.pairs(1, rng).unwrap_err().to_string().contains("{subject}"));
        let space = Sentences { template: format!("{} ", sentences().template), ..sentences() };
        assert!(matches!(space.pairs(1, rng), Err(Error::Space(_))));
        let one = Sentences { names: vec!["Ann".to_owned(), "Ann".to_owned()], ..sentences() };
        assert_eq!(one.pairs(1, rng), Err(Error::Names(1)));
    }
}
