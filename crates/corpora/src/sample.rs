//! Small samples of token rows, in memory.

use crate::Error;
use crate::order::shuffled;

/// The first `rows` rows, shuffled, joined, cut into chunks of `block` tokens, and the first `chunks` of these: the
/// evaluation sets Pile and Pile-filtered of arXiv 2507.02559 (10,000 rows, seed 42, 1,024 tokens, 10,000 chunks).
///
/// The shuffle is a ChaCha stream of our own and the same as that of [`crate::Recipe::shuffle`], not what Python's
/// libraries draw from the same seed. [`crate::pack()`] does the same on disk, for rows that are not filtered here.
///
/// # Errors
/// When a row cannot be read, or there are too few rows or chunks.
pub fn shuffled_chunks(
    token_rows: impl IntoIterator<Item = Result<Vec<u32>, Error>>,
    rows: u32,
    seed: u64,
    block: usize,
    chunks: usize,
) -> Result<Vec<Vec<u32>>, Error> {
    if block == 0 {
        return Err(Error::Recipe { problem: "`block` is 0, and must be at least 1".to_owned() });
    }
    let taken = take(token_rows, rows as usize)?;
    let joined: Vec<u32> =
        shuffled(seed, rows).into_iter().flat_map(|place| taken[place as usize].iter().copied()).collect();
    let cut: Vec<Vec<u32>> = joined.chunks_exact(block).take(chunks).map(<[u32]>::to_vec).collect();
    if cut.len() < chunks {
        let what = format!("a sample of {rows} rows");
        return Err(Error::Short { what, found: cut.len() as u64, wanted: chunks as u64, block });
    }
    Ok(cut)
}

/// The first `rows` rows, each cut after `length` tokens; a shorter row stays as it is (the analyses of arXiv
/// 2507.02559: 1,000 or 250 rows of Pile-filtered, 512 tokens). Nothing is put before them.
///
/// The paper's code shuffles the stream with seed 42 first; here the order is that of the rows given.
///
/// # Errors
/// When a row cannot be read, or there are too few.
pub fn first_rows(
    token_rows: impl IntoIterator<Item = Result<Vec<u32>, Error>>,
    rows: usize,
    length: usize,
) -> Result<Vec<Vec<u32>>, Error> {
    let mut taken = take(token_rows, rows)?;
    taken.iter_mut().for_each(|row| row.truncate(length));
    Ok(taken)
}

fn take(token_rows: impl IntoIterator<Item = Result<Vec<u32>, Error>>, rows: usize) -> Result<Vec<Vec<u32>>, Error> {
    let taken: Vec<_> = token_rows.into_iter().take(rows).collect::<Result<_, _>>()?;
    if taken.len() == rows {
        return Ok(taken);
    }
    Err(Error::Recipe { problem: format!("{rows} rows are asked for, and there are {}", taken.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lengths: &[u32]) -> Vec<Result<Vec<u32>, Error>> {
        let row = |(at, &length): (u32, &u32)| Ok((0..length).map(|token| 100 * at + token).collect());
        (0..).zip(lengths).map(row).collect()
    }

    #[test]
    fn a_sample_is_shuffled_joined_and_cut() {
        let order = shuffled(42, 3);
        let lengths = [3, 4, 5];
        let whole: Vec<u32> =
            order.iter().flat_map(|&at| (0..lengths[at as usize]).map(move |token| 100 * at + token)).collect();
        // the fourth row is not looked at
        let chunks = shuffled_chunks(rows(&[3, 4, 5, 9]), 3, 42, 5, 2).unwrap();
        assert_eq!(chunks.concat(), whole[..10]);
        let told = shuffled_chunks(rows(&lengths), 3, 42, 5, 3).unwrap_err().to_string();
        assert!(told.contains("2 chunks of 5 tokens, and 3 are needed"), "{told}");
        let told = shuffled_chunks(rows(&lengths), 4, 42, 5, 1).unwrap_err().to_string();
        assert!(told.contains("4 rows are asked for, and there are 3"), "{told}");
        assert!(shuffled_chunks(rows(&lengths), 3, 42, 0, 1).is_err());
    }

    #[test]
    fn first_rows_are_cut() {
        assert_eq!(first_rows(rows(&[3, 1, 2]), 2, 2).unwrap(), [vec![0, 1], vec![100]]);
        assert!(first_rows(rows(&[3]), 2, 2).is_err());
        let broken = vec![Ok(vec![1]), Err(Error::Recipe { problem: "broken".to_owned() })];
        assert!(first_rows(broken, 2, 2).unwrap_err().to_string().contains("broken"));
    }
}
