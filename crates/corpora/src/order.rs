//! The order in which documents are joined, and the boundaries of batches.

use std::ops::Range;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::recipe::{ALL, TRAIN, VALIDATION};
use crate::{Error, Holdout, Recipe, numpy};

/// Batches as formed by a batched `map` of the Python library `datasets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Batches {
    /// Maximum number of documents per batch.
    pub documents: usize,
    /// Number of workers (`num_proc`). Each processes a contiguous range of the split, and its last batch is smaller.
    pub workers: usize,
}

/// A split: the indices of its documents in the order in which they are joined.
pub(crate) struct Order {
    pub name: &'static str,
    pub indices: Vec<u32>,
    /// Ranges of `indices` that are joined and cut separately.
    pub batches: Vec<Range<usize>>,
}

/// The splits of `n` documents that a recipe defines.
pub(crate) fn orders(recipe: &Recipe, n: u32) -> Result<Vec<Order>, Error> {
    let splits = match (recipe.holdout, recipe.shuffle) {
        (Some(Holdout { test_size, seed }), _) => {
            let (train, validation) = numpy::train_test_split(n, test_size, seed).ok_or_else(|| Error::Recipe {
                problem: format!(
                    "a `holdout` of {test_size} leaves {TRAIN} or {VALIDATION} empty for {n} documents; use more rows or another `test_size`"
                ),
            })?;
            vec![(TRAIN, train), (VALIDATION, validation)]
        }
        (None, Some(seed)) => vec![(ALL, shuffled(seed, n))],
        (None, None) => vec![(ALL, (0..n).collect())],
    };
    let wanted = recipe.splits();
    let order = |(name, mut indices): (&'static str, Vec<u32>)| {
        let kept =
            recipe.documents.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX).min(indices.len());
        let batches = batches(indices.len(), recipe.batches).into_iter().filter(|batch| batch.start < kept);
        let batches = batches.map(|batch| batch.start..batch.end.min(kept)).collect();
        indices.truncate(kept);
        Order { name, indices, batches }
    };
    Ok(splits.into_iter().filter(|(name, _)| wanted.contains(name)).map(order).collect())
}

fn batches(n: usize, batches: Option<Batches>) -> Vec<Range<usize>> {
    let Some(Batches { documents, workers }) = batches else { return std::iter::once(0..n).collect() };
    let (share, larger) = (n / workers, n % workers);
    let mut stretches = Vec::new();
    let mut first = 0;
    // A worker beyond the number of documents gets none.
    for worker in 0..workers.min(n) {
        let end = first + share + usize::from(worker < larger);
        stretches.extend((first..end).step_by(documents).map(|from| from..end.min(from.saturating_add(documents))));
        first = end;
    }
    stretches
}

/// A permutation of 0 to n - 1 with our own generator: a Fisher-Yates shuffle from the end. Each index is the upper
/// half of a 64-bit ChaCha12 word times the number of choices, so the seed alone determines the order.
pub(crate) fn shuffled(seed: u64, n: u32) -> Vec<u32> {
    let mut stream = ChaCha12Rng::seed_from_u64(seed);
    let mut indices: Vec<u32> = (0..n).collect();
    for last in (1..n as usize).rev() {
        let drawn = (u128::from(stream.next_u64()) * (last as u128 + 1)) >> 64;
        indices.swap(last, drawn as usize);
    }
    indices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_end_at_worker_boundaries() {
        let of = |n, documents, workers| batches(n, Some(Batches { documents, workers }));
        assert_eq!(of(7, 2, 1), [0..2, 2..4, 4..6, 6..7]);
        assert_eq!(of(7, 2, 2), [0..2, 2..4, 4..6, 6..7]);
        assert_eq!(of(7, 3, 2), [0..3, 3..4, 4..7]);
        assert_eq!(of(2, 512, 32), [0..1, 1..2]);
        assert_eq!(of(4007, 512, 32).len(), 32);
        let together = batches(5, None);
        assert_eq!((together.len(), together[0].clone()), (1, 0..5));
    }

    #[test]
    fn the_seed_determines_the_shuffle() {
        assert_eq!(shuffled(42, 1000), shuffled(42, 1000));
        assert_ne!(shuffled(42, 1000), shuffled(43, 1000));
        let mut indices = shuffled(42, 1000);
        indices.sort_unstable();
        assert!(indices.iter().copied().eq(0..1000));
        assert!(shuffled(0, 0).is_empty());
        // The order is part of what a configuration means, so it must not change.
        assert_eq!(shuffled(42, 8), [5, 7, 1, 0, 2, 6, 3, 4]);
    }

    #[test]
    fn limits_keep_the_first_documents() {
        let recipe = Recipe { holdout: Some(Holdout { test_size: 0.25, seed: 1 }), ..Recipe::openwebtext() };
        let whole = orders(&recipe, 4000).unwrap();
        let limited = Recipe { documents: Some(700), only: Some("train".to_owned()), ..recipe.clone() };
        let part = orders(&limited, 4000).unwrap();
        assert_eq!((whole.len(), part.len(), whole[1].indices.len()), (2, 1, 1000));
        assert_eq!(part[0].indices, whole[0].indices[..700]);
        let last = part[0].batches.len() - 1;
        assert_eq!(part[0].batches[..last], whole[0].batches[..last]);
        assert_eq!(part[0].batches[last].end, 700);
        assert!(orders(&recipe, 1).is_err());
    }
}
