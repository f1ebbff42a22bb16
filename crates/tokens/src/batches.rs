//! Sequences that go through a model together.

use std::collections::BTreeMap;

/// Places of sequences, in batches of at most `most`, all of one length; shorter ones first, every place once.
#[must_use]
pub fn of_one_length(lengths: impl IntoIterator<Item = usize>, most: usize) -> Vec<Vec<usize>> {
    let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, length) in lengths.into_iter().enumerate() {
        by_length.entry(length).or_default().push(place);
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
    fn every_place_comes_once_with_others_of_its_length() {
        assert_eq!(of_one_length([3, 4, 3, 3, 4, 3], 3), [vec![0, 2, 3], vec![5], vec![1, 4]]);
        assert_eq!(of_one_length([2, 2], 0), [[0], [1]]);
    }
}
