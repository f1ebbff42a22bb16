//! Compares tokens with words: whether the predicted next token is the target, and which words the states decode to
//! (arXiv 2509.25045, section 6).

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// The vocabulary of a model as plain words: trimmed and in lower case.
#[derive(Debug)]
pub struct Plain {
    words: Vec<String>,
    ids: HashMap<String, Vec<u32>>,
}

/// How the predicted next token compares with the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NextToken {
    /// The most likely token.
    pub token: String,
    /// 1 if the most likely token is the target, 0.5 if the target starts with it, 0 otherwise.
    pub score_1: f64,
    /// The best such score among the five most likely tokens.
    pub score_5: f64,
    /// 1 if the most likely token is the whole target, 0 otherwise.
    pub exact: f64,
    /// The number of tokens more likely than the target, or than its most likely prefix. `None` if no token is a prefix
    /// of the target.
    pub rank: Option<f64>,
    /// The probability of that token.
    pub probability: Option<f64>,
    /// The probability of the most likely token minus that of the target's token.
    pub gap: Option<f64>,
}

/// The words of a document that its states decode to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Spelt {
    /// The first word of the example pair.
    pub example_key: bool,
    /// The second word of the example pair.
    pub example_value: bool,
    /// The key.
    pub key: bool,
    /// The target.
    pub target: bool,
}

impl Spelt {
    /// The label in tables.
    pub fn name(self) -> String {
        let both = self.example_key && self.example_value;
        let named = [
            (both, "example"),
            (self.example_key && !both, "example key"),
            (self.example_value && !both, "example value"),
            (self.key, "key"),
            (self.target, "target"),
        ];
        let names: Vec<&str> = named.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(" | ") }
    }
}

impl Plain {
    /// Builds the vocabulary from tokens that are trimmed and in lower case.
    pub fn new(words: Vec<String>) -> Self {
        let mut ids: HashMap<String, Vec<u32>> = HashMap::new();
        for (id, word) in words.iter().enumerate() {
            ids.entry(word.clone()).or_default().push(id as u32);
        }
        Self { words, ids }
    }

    /// The word of a token, empty for an unknown index.
    pub fn word(&self, id: u32) -> &str {
        self.words.get(id as usize).map_or("", String::as_str)
    }

    /// 1 if the token is the target, 0.5 if the target starts with it, 0 otherwise.
    fn score(&self, id: u32, target: &str) -> f64 {
        match self.word(id) {
            "" => 0.,
            word if word == target => 1.,
            word if target.starts_with(word) => 0.5,
            _ => 0.,
        }
    }

    /// The tokens equal to the target. Without any, the tokens longer than one character that the target starts with.
    fn candidates(&self, target: &str) -> Vec<u32> {
        if let Some(ids) = self.ids.get(target) {
            return ids.clone();
        }
        let starts = target.char_indices().map(|(at, _)| &target[..at]).filter(|start| start.chars().count() > 1);
        starts.filter_map(|start| self.ids.get(start)).flatten().copied().collect()
    }

    /// Compares the next token given by the logits with a target.
    pub fn next(&self, logits: &[f32], target: &str) -> NextToken {
        let mut order: Vec<u32> = (0..logits.len().min(self.words.len()) as u32).collect();
        let by = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if order.len() > 5 {
            order.select_nth_unstable_by(4, by);
            order.truncate(5);
        }
        order.sort_by(by);
        let most = order.first().map_or(f32::NEG_INFINITY, |id| logits[*id as usize]);
        let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
        let probability = |id: u32| f64::from(logits[id as usize] - most).exp() / sum;
        let best = self
            .candidates(target)
            .into_iter()
            .filter(|id| (*id as usize) < logits.len())
            .reduce(|best, id| if logits[id as usize] > logits[best as usize] { id } else { best });
        let rank = |id: u32| logits.iter().filter(|x| **x > logits[id as usize]).count() as f64;
        let first = order.first().copied().unwrap_or(0);
        NextToken {
            token: self.word(first).to_owned(),
            score_1: self.score(first, target),
            score_5: order.iter().map(|id| self.score(*id, target)).fold(0., f64::max),
            exact: f64::from(u8::from(self.word(first) == target)),
            rank: best.map(rank),
            probability: best.map(probability),
            gap: best.map(|id| 1. / sum - probability(id)),
        }
    }

    /// Reports which of a document's words start with one of the given tokens.
    pub fn spelt(&self, tokens: impl Iterator<Item = u32>, [a, b, c]: [&str; 3], target: &str) -> Spelt {
        let mut spelt = Spelt::default();
        for id in tokens {
            let word = self.word(id);
            if word.chars().count() < 2 {
                continue;
            }
            spelt.example_key |= a.starts_with(word);
            spelt.example_value |= b.starts_with(word);
            spelt.key |= c.starts_with(word);
            spelt.target |= target.starts_with(word);
        }
        spelt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Plain {
        Plain::new(["", "os", "oslo", "paris", "o", "rome", "pa"].map(str::to_owned).to_vec())
    }

    #[test]
    fn whole_words_and_prefixes_are_scored() {
        let plain = plain();
        let next = plain.next(&[0., 1., 3., 2., 5., 0., 4.], "oslo");
        assert_eq!((next.token.as_str(), next.score_1, next.score_5, next.exact), ("o", 0.5, 1., 0.));
        assert_eq!(next.rank, Some(2.));
        // A word without a token of its own is scored by its most likely prefix.
        let next = plain.next(&[0., 9., 3., 2., 5., 0., 4.], "osprey");
        assert_eq!((next.token.as_str(), next.score_1, next.rank), ("os", 0.5, Some(0.)));
        assert_eq!(next.gap, Some(0.));
        assert_eq!(plain.next(&[0.; 7], "xyz").rank, None);
    }

    #[test]
    fn states_spell_words_that_their_tokens_start() {
        let plain = plain();
        let spelt = plain.spelt([6, 4, 0].into_iter(), ["france", "paris", "italy"], "rome");
        assert_eq!(spelt.name(), "example value");
        let spelt = plain.spelt([5, 4, 0].into_iter(), ["france", "paris", "italy"], "rome");
        assert_eq!(spelt.name(), "target");
        assert_eq!(plain.spelt([4, 0].into_iter(), ["o", "p", "q"], "r").name(), "none");
    }
}
