//! Questions that a short context answers, each with a list of the words that matter in it.
//!
//! The task follows the question answering of arXiv 2509.25045, section 6, with facts of our own: countries, animal
//! sounds and opposites. The lists of words are exact, because the questions are built from templates.

use std::collections::BTreeSet;

use crate::analogies::{Corpus, tables};

/// A question with its context and answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The sentences that precede the question.
    pub context: String,
    /// The question.
    pub question: String,
    /// The answer, a single word.
    pub answer: String,
    /// The words of the question that matter, in lower case and in their base form.
    pub question_features: Vec<String>,
    /// The same words as they appear in the question.
    pub question_words: Vec<String>,
    /// The words of the answer, in lower case.
    pub answer_features: Vec<String>,
}

impl Fact {
    /// The prompt given to a model: context, question and the request for a short answer.
    #[must_use]
    pub fn prompt(&self) -> String {
        format!("{}\nQ: {}\nA (\u{2264} 3 words):", self.context, self.question)
    }

    /// Training documents for encoders: the question and answer, truncated after each word that matters, with the words
    /// seen so far.
    #[must_use]
    pub fn cut(&self) -> Vec<(String, Vec<String>)> {
        let whole = format!("{} {}", self.question, self.answer);
        let lower = whole.to_lowercase();
        let asked = self.question_features.iter().zip(&self.question_words).map(|pair| (0, pair));
        let answer = self.answer_features.iter().map(|word| (self.question.len(), (word, word)));
        let mut ends: Vec<(usize, String)> = asked
            .chain(answer)
            .filter_map(|(from, (feature, word))| {
                let at = lower[from..].find(&word.to_lowercase())?;
                Some((end_of_word(&lower, from + at), feature.clone()))
            })
            .collect();
        ends.sort();
        let mut features = Vec::new();
        ends.into_iter()
            .map(|(end, feature)| {
                features.push(feature);
                (whole[..end].trim_end_matches(['?', '.', ' ']).to_owned(), features.clone())
            })
            .collect()
    }
}

/// The byte offset at which the word that contains `from` ends.
fn end_of_word(text: &str, from: usize) -> usize {
    text[from..].find(|c: char| !c.is_alphanumeric()).map_or(text.len(), |at| from + at)
}

/// All 214 questions, in a fixed order.
#[must_use]
pub fn facts() -> Vec<Fact> {
    let mut facts = Vec::new();
    for [country, capital, nationality, language, currency] in tables::<5>("country") {
        let context = format!(
            "{country} is a country. Its capital is {capital}. People there speak {language} and pay with the {currency}. \
             Its citizens are called {nationality}."
        );
        let asked = [
            (format!("What is the capital of {country}?"), capital, [("capital", "capital")].as_slice()),
            (
                format!("Which language is spoken in {country}?"),
                language,
                &[("language", "language"), ("speak", "spoken")],
            ),
            (format!("Which currency is used in {country}?"), currency, &[("currency", "currency"), ("use", "used")]),
            (
                format!("What are citizens of {country} called?"),
                nationality,
                &[("citizen", "citizens"), ("call", "called")],
            ),
        ];
        for (question, answer, about) in asked {
            facts.push(fact(&context, question, answer, about, country));
        }
    }
    for [animal, sound] in tables::<2>("animal_sound") {
        let context = format!("The {animal} can {sound} loudly at night.");
        let question = format!("Which sound does the {animal} make?");
        facts.push(fact(&context, question, sound, &[("sound", "sound"), ("make", "make")], animal));
    }
    for [word, opposite] in tables::<2>("antonyms_binary") {
        let context = format!("The opposite of {word} is {opposite}.");
        let question = format!("What is the opposite of {word}?");
        facts.push(fact(&context, question, opposite, &[("opposite", "opposite")], word));
    }
    facts
}

fn fact(context: &str, question: String, answer: &str, about: &[(&str, &str)], of: &str) -> Fact {
    let features = about.iter().map(|(word, _)| (*word).to_owned()).chain([of.to_lowercase()]);
    let words = about.iter().map(|(_, word)| (*word).to_owned()).chain([of.to_owned()]);
    Fact {
        context: context.to_owned(),
        question,
        answer: answer.to_owned(),
        question_features: features.collect(),
        question_words: words.collect(),
        answer_features: vec![answer.to_lowercase()],
    }
}

/// Every word that a codebook for these questions and the analogies needs, in lower case and sorted.
#[must_use]
pub fn concepts(corpus: &Corpus) -> Vec<String> {
    let features = facts().into_iter().flat_map(|fact| [fact.question_features, fact.answer_features].concat());
    let all: BTreeSet<String> = corpus.concepts().map(str::to_owned).chain(features).collect();
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fact_counts_match_the_word_lists() {
        let facts = facts();
        let of = |word: &str| facts.iter().filter(|fact| fact.question_features.contains(&word.to_owned())).count();
        assert_eq!((facts.len(), of("capital"), of("sound"), of("opposite")), (214, 44, 18, 20));
        let concepts = concepts(&Corpus::whole());
        let added = concepts.len() - 1196;
        // capital, language, speak, currency, use, citizen, call, sound, make and opposite; the corpus already contains
        // some.
        assert!((5..=11).contains(&added), "{added}");
    }

    #[test]
    fn every_feature_is_found_and_truncations_grow() {
        for fact in facts() {
            let cuts = fact.cut();
            assert_eq!(cuts.len(), fact.question_features.len() + fact.answer_features.len(), "{fact:?}");
            let (last, features) = cuts.last().unwrap();
            assert!(last.ends_with(&fact.answer) && features.contains(&fact.answer.to_lowercase()), "{cuts:?}");
            for (i, (text, features)) in cuts.iter().enumerate() {
                assert!(features.len() == i + 1 && last.starts_with(text.as_str()), "{cuts:?}");
            }
        }
        let fact = &facts()[2];
        let cuts: Vec<String> = fact.cut().into_iter().map(|(text, _)| text).collect();
        let expected = [
            "Which currency",
            "Which currency is used",
            "Which currency is used in France",
            "Which currency is used in France? euro",
        ];
        assert_eq!(cuts, expected);
    }
}
