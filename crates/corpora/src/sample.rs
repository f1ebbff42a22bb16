//! Small in-memory samples of token rows.

use crate::Error;
use crate::order::shuffled;

/// The first `rows` rows, shuffled, joined and cut into chunks of `block` tokens; returns the first `chunks` chunks.
/// These are the evaluation sets Pile and Pile-filtered of arXiv 2507.02559 (10,000 rows, seed 42, 1,024 tokens, 10,000
/// chunks).
///
/// The shuffle is the ChaCha stream of [`crate::Recipe::shuffle`], which differs from Python's libraries for the same
/// seed. [`crate::pack()`] does the same on disk, for rows that are not filtered here.
///
/// # Errors
///
/// Fails if a row cannot be read, or if there are too few rows or chunks.
pub fn shuffled_chunks(
    token_rows: impl IntoIterator<Item = Result<Vec<u32>, Error>>,
    rows: u32,
    seed: u64,
    block: usize,
    chunks: usize,
) -> Result<Vec<Vec<u32>>, Error> {
    if block == 0 {
        return Err(Error::Recipe { problem: "`block` is 0, but must be at least 1".to_owned() });
    }
    let taken = take(token_rows, rows as usize)?;
    let joined: Vec<u32> =
        shuffled(seed, rows).into_iter().flat_map(|index| taken[index as usize].iter().copied()).collect();
    let cut: Vec<Vec<u32>> = joined.chunks_exact(block).take(chunks).map(<[u32]>::to_vec).collect();
    if cut.len() < chunks {
        let what = format!("a sample of {rows} rows");
        return Err(Error::Short { what, found: cut.len() as u64, wanted: chunks as u64, block });
    }
    Ok(cut)
}

/// The first `rows` rows, each truncated to `length` tokens; shorter rows are kept as they are. The analyses of arXiv
/// 2507.02559 use 1,000 or 250 rows of Pile-filtered with 512 tokens. No token is put before the rows.
///
/// The paper's code first shuffles the stream with seed 42; here the rows keep their order.
///
/// # Errors
///
/// Fails if a row cannot be read, or if there are too few rows.
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
    Err(Error::Recipe { problem: format!("{rows} rows are requested, but there are only {}", taken.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lengths: &[u32]) -> Vec<Result<Vec<u32>, Error>> {
        let row = |(at, &length): (u32, &u32)| Ok((0..length).map(|token| 100 * at + token).collect());
        (0..).zip(lengths).map(row).collect()
    }

    #[test]
    fn samples_are_shuffled_joined_and_cut() {
        let order = shuffled(42, 3);
        let lengths = [3, 4, 5];
        let whole: Vec<u32> =
            order.iter().flat_map(|&at| (0..lengths[at as usize]).map(move |token| 100 * at + token)).collect();
        // The fourth row is not used.
        let chunks = shuffled_chunks(rows(&[3, 4, 5, 9]), 3, 42, 5, 2).unwrap();
        assert_eq!(chunks.concat(), whole[..10]);
        let error = shuffled_chunks(rows(&lengths), 3, 42, 5, 3).unwrap_err().to_string();
        assert!(error.contains("2 chunks of 5 tokens, but 3 are needed"), "{error}");
        let error = shuffled_chunks(rows(&lengths), 4, 42, 5, 1).unwrap_err().to_string();
        assert!(error.contains("4 rows are requested, but there are only 3"), "{error}");
        assert!(shuffled_chunks(rows(&lengths), 3, 42, 0, 1).is_err());
    }

    #[test]
    fn first_rows_are_truncated() {
        assert_eq!(first_rows(rows(&[3, 1, 2]), 2, 2).unwrap(), [vec![0, 1], vec![100]]);
        assert!(first_rows(rows(&[3]), 2, 2).is_err());
        let broken = vec![Ok(vec![1]), Err(Error::Recipe { problem: "broken".to_owned() })];
        assert!(first_rows(broken, 2, 2).unwrap_err().to_string().contains("broken"));
    }
}
