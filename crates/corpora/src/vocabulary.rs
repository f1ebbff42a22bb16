//! Tokens that never occur in the training data (arXiv 2507.02559, Table 5), and rows without them, which the paper
//! calls Pile-filtered.

use std::collections::{BTreeMap, HashSet};

/// The number of occurrences of each token id, counted row by row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Counts by id.
    dense: Vec<u64>,
    /// Counts of ids beyond any vocabulary, kept sparse so that an invalid id does not exhaust the memory.
    beyond: BTreeMap<u32, u64>,
}

const DENSE: usize = 1 << 20;

impl Counts {
    /// Empty counts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a row.
    pub fn add(&mut self, row: &[u32]) {
        for &id in row {
            let index = id as usize;
            if index >= DENSE {
                *self.beyond.entry(id).or_default() += 1;
                continue;
            }
            if index >= self.dense.len() {
                self.dense.resize(index + 1, 0);
            }
            self.dense[index] += 1;
        }
    }

    /// The number of occurrences of an id.
    #[must_use]
    pub fn of(&self, id: u32) -> u64 {
        let dense = self.dense.get(id as usize).copied();
        dense.unwrap_or_else(|| self.beyond.get(&id).copied().unwrap_or(0))
    }

    /// Ids that occur here but not in `train`, with their counts; the most frequent first, then the smaller id.
    #[must_use]
    pub fn unseen_in(&self, train: &Self) -> Vec<(u32, u64)> {
        let dense = (0_u32..).zip(self.dense.iter().copied());
        let all = dense.chain(self.beyond.iter().map(|(&id, &count)| (id, count)));
        let mut unseen: Vec<_> = all.filter(|&(id, count)| count > 0 && train.of(id) == 0).collect();
        unseen.sort_by_key(|&(id, count)| (std::cmp::Reverse(count), id));
        unseen
    }
}

/// Token ids that occur in `other_rows` but not in `train_rows`, with their counts, the most frequent first. arXiv
/// 2507.02559, Table 5, compares a million rows of the Pile with a million of OpenWebText.
///
/// Use [`Counts`] for rows that may fail to be read.
pub fn unseen<A: AsRef<[u32]>, B: AsRef<[u32]>>(
    train_rows: impl IntoIterator<Item = A>,
    other_rows: impl IntoIterator<Item = B>,
) -> Vec<(u32, u64)> {
    let (mut train, mut other) = (Counts::new(), Counts::new());
    train_rows.into_iter().for_each(|row| train.add(row.as_ref()));
    other_rows.into_iter().for_each(|row| other.add(row.as_ref()));
    other.unseen_in(&train)
}

/// A filter of rows that contain any of some token ids.
#[derive(Clone, Debug)]
pub struct Without(HashSet<u32>);

impl Without {
    /// A filter for these ids.
    #[must_use]
    pub fn new(ids: &[u32]) -> Self {
        Self(ids.iter().copied().collect())
    }

    /// Whether a row contains none of the ids.
    #[must_use]
    pub fn keeps(&self, row: &[u32]) -> bool {
        row.iter().all(|id| !self.0.contains(id))
    }
}

/// The rows that contain none of `ids`, in order (arXiv 2507.02559: rows of the Pile without the ids of [`unseen`]).
///
/// Use [`Without`] for rows that may fail to be read.
pub fn filtered<R: AsRef<[u32]>>(rows: impl IntoIterator<Item = R>, ids: &[u32]) -> impl Iterator<Item = R> {
    let without = Without::new(ids);
    rows.into_iter().filter(move |row| without.keeps(row.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unseen_tokens_are_counted_and_their_rows_removed() {
        let train = [vec![0, 1, 2], vec![5, 5]];
        let other = [vec![1, 3, 3], vec![4, 3, 0], vec![], vec![7, 4], vec![2, 9, 7], vec![2, 5]];
        let found = unseen(&train, &other);
        assert_eq!(found, [(3, 3), (4, 2), (7, 2), (9, 1)]);
        let ids: Vec<u32> = found.iter().map(|&(id, _)| id).collect();
        let kept: Vec<&Vec<u32>> = filtered(&other, &ids).collect();
        assert_eq!(kept, [&vec![], &vec![2, 5]]);
        assert!(unseen(&other, &other).is_empty());
        assert_eq!(filtered(&other, &[]).count(), other.len());
    }

    #[test]
    fn invalid_ids_take_no_memory() {
        assert_eq!(unseen([[0_u32]], [[u32::MAX, u32::MAX], [0, DENSE as u32]]), [(u32::MAX, 2), (DENSE as u32, 1)]);
        assert!(unseen([[u32::MAX]], [[u32::MAX]]).is_empty());
    }
}
