//! Disjoint training, validation and test problems.

use std::collections::HashSet;

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

use super::Problem;

/// Disjoint training, validation and test problems with operands of one length.
#[derive(Clone, Debug)]
pub struct Split {
    digits: usize,
    /// Held-out problems for curves and analyses.
    pub validation: Vec<Problem>,
    /// Held-out problems for the final evaluation.
    pub test: Vec<Problem>,
    /// A fixed training set; `None` samples fresh problems at every step.
    train: Option<Vec<Problem>>,
    held_out: HashSet<Problem>,
}

/// A split that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// More distinct problems were requested than exist.
    #[error(
        "{requested} distinct problems were requested (training, validation and test together), \
         but {digits}-digit operands give only {available}"
    )]
    TooMany {
        /// Requested problems in total.
        requested: u64,
        /// Number of digits of each operand.
        digits: usize,
        /// Number of ordered pairs of operands.
        available: u64,
    },
    /// Products would overflow 64 bits.
    #[error("operands of {0} digits are not supported; use 1 to 9 digits")]
    Digits(usize),
}

impl Split {
    /// Samples the split. `train` is the size of a fixed training set, or `None` for fresh problems at every step.
    ///
    /// # Errors
    /// If the number of digits is unsupported or there are not enough distinct problems.
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
        // fresh training needs at least one problem that is not held out
        let requested = (validation + test + train.unwrap_or(1)) as u64;
        if requested > available {
            return Err(SplitError::TooMany { requested, digits, available });
        }
        let mut taken = HashSet::new();
        let mut sample = |count: usize| -> Vec<Problem> {
            let mut sampled = Vec::with_capacity(count);
            while sampled.len() < count {
                let problem = random(digits, rng);
                if taken.insert(problem) {
                    sampled.push(problem);
                }
            }
            sampled
        };
        let (validation, test) = (sample(validation), sample(test));
        let held_out = validation.iter().chain(&test).copied().collect();
        let train = train.map(&mut sample);
        Ok(Self { digits, validation, test, train, held_out })
    }

    /// The problems of one training step. They depend only on the stream and the step.
    ///
    /// Fresh problems are never held-out ones. A fixed set is traversed in a new order in each epoch.
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
                    .map(|index| {
                        let epoch = index / set.len() as u64;
                        if order.as_ref().is_none_or(|(known, _)| *known != epoch) {
                            order = Some((epoch, shuffled(set.len(), &mut training::stream_at(stream, epoch))));
                        }
                        let within = (index % set.len() as u64) as usize;
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
    fn parts_are_disjoint_and_reproducible() {
        let split = Split::new(2, Some(5000), 1000, 1000, &mut rng(1)).unwrap();
        let all: HashSet<Problem> =
            split.validation.iter().chain(&split.test).chain(split.train.as_ref().unwrap()).copied().collect();
        assert_eq!(all.len(), 7000);
        assert!(all.iter().all(|p| (10..100).contains(&p.a) && (10..100).contains(&p.b)));
        assert_eq!(Split::new(2, None, 1000, 1000, &mut rng(1)).unwrap().test, split.test);
    }

    #[test]
    fn fresh_batches_contain_no_held_out_problem_and_depend_only_on_the_step() {
        let split = Split::new(2, None, 4000, 4000, &mut rng(1)).unwrap();
        let stream = rng(2);
        let batch = split.batch(&stream, 17, 64);
        assert!(batch.iter().all(|p| !split.held_out.contains(p)));
        assert_eq!(batch, split.batch(&stream, 17, 64));
        assert_ne!(batch, split.batch(&stream, 18, 64));
    }

    #[test]
    fn an_epoch_of_a_fixed_set_contains_each_problem_once() {
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
    fn too_many_problems_are_an_error() {
        let error = Split::new(2, Some(8000), 50, 51, &mut rng(1)).unwrap_err().to_string();
        assert!(error.contains("8101") && error.contains("8100"), "{error}");
        assert!(Split::new(12, None, 1, 1, &mut rng(1)).is_err());
    }
}
