//! Batches of sequences of equal length.

use std::collections::BTreeMap;

/// Groups sequences of equal length into batches of at most `most`. Returns the indices of the sequences in each batch;
/// shorter sequences come first.
///
/// ```
/// assert_eq!(tokens::of_one_length([3, 4, 3], 8), [vec![0, 2], vec![1]]);
/// ```
#[must_use]
pub fn of_one_length(lengths: impl IntoIterator<Item = usize>, most: usize) -> Vec<Vec<usize>> {
    let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, length) in lengths.into_iter().enumerate() {
        by_length.entry(length).or_default().push(index);
    }
    by_length
        .into_values()
        .flat_map(|same| same.chunks(most.max(1)).map(<[usize]>::to_vec).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_occurs_once_with_others_of_its_length() {
        assert_eq!(of_one_length([3, 4, 3, 3, 4, 3], 3), [vec![0, 2, 3], vec![5], vec![1, 4]]);
        assert_eq!(of_one_length([2, 2], 0), [[0], [1]]);
    }
}
