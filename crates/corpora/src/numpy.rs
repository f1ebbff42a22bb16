//! `numpy.random.default_rng(seed).permutation(n)`, bit for bit.
//!
//! `train_test_split` of the Python library `datasets` shuffles with it, so published validation sets can only be
//! reproduced from their seed with the same permutation. The algorithm, as in numpy since 1.17, has three parts:
//! - `SeedSequence` expands the seed: it hashes it into a pool of four 32-bit words and out again.
//! - PCG64 generates words (O'Neill 2014, the XSL-RR variant with 128 bits of state).
//! - A Fisher-Yates shuffle runs from the end. It takes the halves of 64-bit words, the lower half first, masks them to
//!   the bits that are needed and rejects values that are too large.
//!
//! `tests/permutations.json` holds permutations that numpy computed.

const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

/// numpy's default generator, reduced to the functions that a permutation needs.
struct Pcg64 {
    state: u128,
    increment: u128,
    /// The upper half of the last 64-bit word, until it is used.
    spare: Option<u32>,
}

impl Pcg64 {
    fn new(seed: u64) -> Self {
        let [high, low, stream_high, stream_low] = stretch(seed).map(u128::from);
        let increment = ((stream_high << 64 | stream_low) << 1) | 1;
        let mut generator = Self { state: 0, increment, spare: None };
        generator.step();
        generator.state = generator.state.wrapping_add(high << 64 | low);
        generator.step();
        generator
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let word = self.next_u64();
        self.spare = Some((word >> 32) as u32);
        word as u32
    }

    /// A uniform number from 0 to `most`: masks words to the bits of `most` and rejects larger ones.
    fn up_to(&mut self, most: u32) -> u32 {
        let mask = u32::MAX.checked_shr(most.leading_zeros()).unwrap_or(0);
        loop {
            let candidate = self.next_u32() & mask;
            if candidate <= most {
                return candidate;
            }
        }
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)`.
fn stretch(seed: u64) -> [u64; 4] {
    let mix = |a: u32, b: u32| {
        let mixed = a.wrapping_mul(0xca01_f9dd).wrapping_sub(b.wrapping_mul(0x4973_f715));
        mixed ^ mixed >> 16
    };
    let mut constant = 0x43b0_d7e5_u32;
    let mut hash = |value: u32| {
        let value = value ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        let value = value.wrapping_mul(constant);
        value ^ value >> 16
    };
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(&mut hash);
    for from in 0..4 {
        for to in (0..4).filter(|&to| to != from) {
            pool[to] = mix(pool[to], hash(pool[from]));
        }
    }
    let mut constant = 0x8b51_f9dd_u32;
    let mut word = |index: usize| {
        let value = pool[index % 4] ^ constant;
        constant = constant.wrapping_mul(0x58f3_8ded);
        let value = value.wrapping_mul(constant);
        u64::from(value ^ value >> 16)
    };
    [0, 2, 4, 6].map(|index| word(index) | word(index + 1) << 32)
}

/// `numpy.random.default_rng(seed).permutation(n)`.
#[must_use]
pub fn permutation(seed: u64, n: u32) -> Vec<u32> {
    let mut generator = Pcg64::new(seed);
    let mut indices: Vec<u32> = (0..n).collect();
    for last in (1..n).rev() {
        indices.swap(last as usize, generator.up_to(last) as usize);
    }
    indices
}

/// `train_test_split(test_size, seed, shuffle=True)` of the Python library `datasets`: the indices of the training rows
/// and of the test rows, each in the library's order.
///
/// The test set is the first `ceil(test_size * n)` entries of the permutation, and the training set is the rest.
/// Returns `None` if `test_size` is not between 0 and 1, or if either set would be empty.
#[must_use]
pub fn train_test_split(n: u32, test_size: f64, seed: u64) -> Option<(Vec<u32>, Vec<u32>)> {
    if !(test_size > 0.0 && test_size < 1.0) {
        return None;
    }
    let n_test = (test_size * f64::from(n)).ceil() as u32;
    if n_test == 0 || n_test >= n {
        return None;
    }
    let mut test = permutation(seed, n);
    let train = test.split_off(n_test as usize);
    Some((train, test))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// A digest that weights later entries more, so that swapped entries change it.
    fn digest(indices: &[u32]) -> u64 {
        indices.iter().zip(1_u64..).fold(0, |sum, (&index, at)| sum.wrapping_add(u64::from(index).wrapping_mul(at)))
    }

    #[test]
    fn permutations_match_numpy() {
        let fixture: Value = serde_json::from_str(include_str!("../tests/permutations.json")).unwrap();
        for case in fixture["permutations"].as_array().unwrap() {
            let number = |key: &str| case[key].as_str().unwrap().parse::<u64>().unwrap();
            let indices = permutation(number("seed"), number("n") as u32);
            let first: Vec<u32> = serde_json::from_value(case["first"].clone()).unwrap();
            let last: Vec<u32> = serde_json::from_value(case["last"].clone()).unwrap();
            assert!(indices.starts_with(&first) && indices.ends_with(&last), "{case}");
            assert_eq!(digest(&indices), number("digest"), "{case}");
        }
        let words: Vec<String> = stretch(2357).iter().map(u64::to_string).collect();
        assert_eq!(Value::from(words), fixture["stretched"]);
    }

    #[test]
    fn the_openwebtext_split_has_its_published_sizes() {
        let (train, test) = train_test_split(8_013_769, 0.0005, 2357).unwrap();
        assert_eq!((train.len(), test.len()), (8_009_762, 4_007));
        let fixture: Value = serde_json::from_str(include_str!("../tests/permutations.json")).unwrap();
        let expected: Vec<u32> = serde_json::from_value(fixture["openwebtext"]["test"].clone()).unwrap();
        assert_eq!(test[..expected.len()], expected);
    }

    #[test]
    fn splits_with_an_empty_side_are_rejected() {
        for (n, test_size) in [(0, 0.5), (1, 0.5), (10, 0.0), (10, 1.0), (10, 0.95), (10, f64::NAN), (10, -1.0)] {
            assert_eq!(train_test_split(n, test_size, 0), None, "{n} {test_size}");
        }
        let (train, test) = train_test_split(2, 0.5, 0).unwrap();
        assert_eq!((train.len(), test.len()), (1, 1));
    }
}
