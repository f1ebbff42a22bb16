//! Expected counts of published corpora.

use crate::Manifest;

/// The expected counts of a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Number of documents in the source.
    pub documents: u64,
    /// The expected counts of its splits.
    pub splits: Vec<ExpectedSplit>,
}

/// The expected counts of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedSplit {
    /// The name.
    pub name: &'static str,
    /// Number of documents.
    pub documents: u64,
    /// Number of tokens of its documents, including end tokens, before chunks are cut; `None` if no exact count was
    /// published.
    pub tokens: Option<u64>,
}

impl Expected {
    /// OpenWebText, split as in arXiv 2507.02559, which uses nanoGPT's split. It has 8,013,769 documents, of which
    /// 4,007 are held out, with 4,434,897 tokens of GPT-2's vocabulary.
    #[must_use]
    pub fn openwebtext() -> Self {
        let train = ExpectedSplit { name: "train", documents: 8_009_762, tokens: None };
        let validation = ExpectedSplit { name: "validation", documents: 4_007, tokens: Some(4_434_897) };
        Self { documents: 8_013_769, splits: vec![train, validation] }
    }

    /// The differences as messages; empty if all counts match. A missing split counts as a difference.
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
                missing.push(format!("the split `{name}` is missing"));
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
