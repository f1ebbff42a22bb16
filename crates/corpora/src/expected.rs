//! Counts that a published corpus must give.

use crate::Manifest;

/// Counts of a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Documents of the source.
    pub documents: u64,
    /// Counts of its splits.
    pub splits: Vec<ExpectedSplit>,
}

/// Counts of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedSplit {
    /// Its name.
    pub name: &'static str,
    /// Its documents.
    pub documents: u64,
    /// Tokens of its documents with their ends, before they are cut; `None` if not published to the token.
    pub tokens: Option<u64>,
}

impl Expected {
    /// OpenWebText split as in arXiv 2507.02559 (and in nanoGPT, whose split it takes over): 8,013,769 documents, of
    /// which 4,007 are put aside, with 4,434,897 tokens of GPT-2's vocabulary.
    #[must_use]
    pub fn openwebtext() -> Self {
        let train = ExpectedSplit { name: "train", documents: 8_009_762, tokens: None };
        let validation = ExpectedSplit { name: "validation", documents: 4_007, tokens: Some(4_434_897) };
        Self { documents: 8_013_769, splits: vec![train, validation] }
    }

    /// What differs, in words; nothing when all counts are as expected. A split that was not packed is a difference.
    #[must_use]
    pub fn differences(&self, manifest: &Manifest) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: String, expected: u64, found: u64| {
            if expected != found {
                differences.push(format!("{what}: {found}, expected {expected}"));
            }
        };
        compare("documents".to_owned(), self.documents, manifest.documents);
        let mut missing = Vec::new();
        for expected in &self.splits {
            let name = expected.name;
            let Some(found) = manifest.splits.iter().find(|split| split.name == name) else {
                missing.push(format!("split `{name}` is not there"));
                continue;
            };
            compare(format!("documents of `{name}`"), expected.documents, found.documents);
            if let Some(tokens) = expected.tokens {
                compare(format!("tokens of `{name}` before packing"), tokens, found.tokens);
            }
        }
        differences.extend(missing);
        differences
    }
}
