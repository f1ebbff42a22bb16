//! Which problems are for training, and which are held out.

use std::collections::HashSet;

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

use super::Problem;

/// Disjoint training, validation and test problems of one size.
#[derive(Clone, Debug)]
pub struct Split {
    digits: usize,
    /// Held-out problems for curves and analyses.
    pub validation: Vec<Problem>,
    /// Held-out problems for the last word.
    pub test: Vec<Problem>,
    /// A fixed training set, or fresh problems for ever.
    train: Option<Vec<Problem>>,
    held_out: HashSet<Problem>,
}

/// More problems asked for than there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// Sizes that do not fit.
    #[error(
        "{asked} distinct problems asked for (training, validation and test together), but {digits}-digit operands give only {available}"
    )]
    TooMany {
        /// Together.
        asked: u64,
        /// Digits of each operand.
        digits: usize,
        /// Ordered pairs.
        available: u64,
    },
    /// Products that do not fit 64 bits.
    #[error("operands of {0} digits are not supported: 1 to 9 digits are")]
    Digits(usize),
}

impl Split {
    /// Draws the split. `train` is the size of a fixed training set, or nothing for fresh problems at every step.
    ///
    /// # Errors
    /// When there are not enough distinct problems.
    pub fn new(
        digits: usize,
        train: Option<usize>,
        validation: usize,
        test: usize,
        rng: &mut ChaCha12Rng,
    ) -> Result<Self, SplitError> {
        if !(1..=9).contains(&digits) {
            return Err(SplitError::Digits(digits));
        }
        let available = (9 * 10u64.pow(digits as u32 - 1)).pow(2);
        // fresh training needs something left to draw, and rejection should not take for ever
        let asked = (validation + test + train.unwrap_or(1)) as u64;
        if asked > available {
            return Err(SplitError::TooMany { asked, digits, available });
        }
        let mut taken = HashSet::new();
        let mut draw = |count: usize| -> Vec<Problem> {
            let mut drawn = Vec::with_capacity(count);
            while drawn.len() < count {
                let problem = random(digits, rng);
                if taken.insert(problem) {
                    drawn.push(problem);
                }
            }
            drawn
        };
        let (validation, test) = (draw(validation), draw(test));
        let held_out = validation.iter().chain(&test).copied().collect();
        let train = train.map(&mut draw);
        Ok(Self { digits, validation, test, train, held_out })
    }

    /// The problems of one training step: a function of the stream and the step alone.
    ///
    /// Fresh problems avoid the held-out ones; a fixed set is gone through in a new order each epoch.
    #[must_use]
    pub fn batch(&self, stream: &ChaCha12Rng, step: u64, size: usize) -> Vec<Problem> {
        match &self.train {
            None => {
                let mut rng = training::stream_at(stream, step);
                let fresh = std::iter::repeat_with(|| random(self.digits, &mut rng));
                fresh.filter(|problem| !self.held_out.contains(problem)).take(size).collect()
            }
            Some(set) => {
                let first = step * size as u64;
                let mut order: Option<(u64, Vec<u32>)> = None;
                (first..first + size as u64)
                    .map(|place| {
                        let epoch = place / set.len() as u64;
                        if order.as_ref().is_none_or(|(known, _)| *known != epoch) {
                            order = Some((epoch, shuffled(set.len(), &mut training::stream_at(stream, epoch))));
                        }
                        let within = (place % set.len() as u64) as usize;
                        set[order.as_ref().map_or(within, |(_, order)| order[within] as usize)]
                    })
                    .collect()
            }
        }
    }
}

fn shuffled(length: usize, rng: &mut ChaCha12Rng) -> Vec<u32> {
    let mut order: Vec<u32> = (0..length as u32).collect();
    order.shuffle(rng);
    order
}

fn random(digits: usize, rng: &mut ChaCha12Rng) -> Problem {
    let low = 10u64.pow(digits as u32 - 1);
    let mut operand = || rng.random_range(low..low * 10);
    Problem { a: operand(), b: operand(), digits }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn rng(seed: u64) -> ChaCha12Rng {
        ChaCha12Rng::seed_from_u64(seed)
    }

    #[test]
    fn parts_are_disjoint_and_seeded() {
        let split = Split::new(2, Some(5000), 1000, 1000, &mut rng(1)).unwrap();
        let all: HashSet<Problem> =
            split.validation.iter().chain(&split.test).chain(split.train.as_ref().unwrap()).copied().collect();
        assert_eq!(all.len(), 7000);
        assert!(all.iter().all(|p| (10..100).contains(&p.a) && (10..100).contains(&p.b)));
        assert_eq!(Split::new(2, None, 1000, 1000, &mut rng(1)).unwrap().test, split.test);
    }

    #[test]
    fn fresh_batches_avoid_the_held_out_and_depend_on_the_step_alone() {
        let split = Split::new(2, None, 4000, 4000, &mut rng(1)).unwrap();
        let stream = rng(2);
        let batch = split.batch(&stream, 17, 64);
        assert!(batch.iter().all(|p| !split.held_out.contains(p)));
        assert_eq!(batch, split.batch(&stream, 17, 64));
        assert_ne!(batch, split.batch(&stream, 18, 64));
    }

    #[test]
    fn an_epoch_of_a_fixed_set_sees_each_problem_once() {
        let split = Split::new(2, Some(100), 10, 10, &mut rng(1)).unwrap();
        let stream = rng(2);
        let epoch =
            |first: u64| (first..first + 10).flat_map(|step| split.batch(&stream, step, 10)).collect::<Vec<_>>();
        assert_eq!(epoch(0).iter().collect::<HashSet<_>>().len(), 100);
        assert_ne!(epoch(0), epoch(10));
        let across = split.batch(&stream, 3, 30);
        assert_eq!(across.len(), 30);
    }

    #[test]
    fn too_many_is_said() {
        let error = Split::new(2, Some(8000), 50, 51, &mut rng(1)).unwrap_err().to_string();
        assert!(error.contains("8101") && error.contains("8100"), "{error}");
        assert!(Split::new(12, None, 1, 1, &mut rng(1)).is_err());
    }
}
