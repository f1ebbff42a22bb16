//! One seed, split by name into ChaCha streams.

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

/// The stream called `name` of `seed`: independent of every other name, and of the order in which streams are asked for.
pub(crate) fn stream(seed: u64, name: &str) -> ChaCha12Rng {
    let hash = storage::hash_bytes(format!("retrace stream {seed} {name}").as_bytes());
    let mut key = [0; 32];
    for (byte, digits) in key.iter_mut().zip(hash.as_bytes().chunks(2)) {
        let text = std::str::from_utf8(digits).unwrap_or("0");
        *byte = u8::from_str_radix(text, 16).unwrap_or(0);
    }
    ChaCha12Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use rand::RngCore;

    use super::*;

    #[test]
    fn streams_never_move() {
        let first = |seed, name| stream(seed, name).next_u64();
        let pinned = [first(1, "init"), first(2, "init"), first(1, "data")];
        assert_eq!(pinned, [8426430481177442449, 15465726436202688324, 7673769064605244069]);
    }
}
