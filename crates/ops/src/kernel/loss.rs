//! Negative log-probabilities and their gradient, in place.

use super::rows::{largest, sum};
use super::{Real, vectorised};

/// A target that is left out of losses and gradients.
pub const IGNORED: u32 = u32::MAX;

/// `losses[r] = log sum exp(logits[r]) - logits[r][target]`, 0 for [`IGNORED`]; `logs` gets `log sum exp` of each row.
///
/// # Panics
/// When the lengths disagree or a target lies outside the vocabulary.
pub fn forward<T: Real>(logits: &[T], vocabulary: usize, targets: &[u32], losses: &mut [T], logs: &mut [T]) {
    assert!(logits.len() == targets.len() * vocabulary && losses.len() == targets.len() && logs.len() == targets.len());
    vectorised(
        #[inline(always)]
        || {
            let rows = logits.chunks_exact(vocabulary).zip(targets).zip(losses.iter_mut().zip(logs));
            for ((row, target), (loss, log)) in rows {
                let most = largest(row);
                let above = sum(row, |x| (x - most).exponential()).ln();
                *log = most + above;
                // subtract the logits first: adding the large common part would round the difference
                *loss = if *target == IGNORED { T::zero() } else { above - (row[*target as usize] - most) };
            }
        },
    );
}

/// Overwrites logits with their gradient, `(softmax - one hot) * dloss`, 0 for [`IGNORED`].
///
/// # Panics
/// As [`forward`].
pub fn backward<T: Real>(logits: &mut [T], vocabulary: usize, targets: &[u32], dlosses: &[T], logs: &[T]) {
    assert!(
        logits.len() == targets.len() * vocabulary && dlosses.len() == targets.len() && logs.len() == targets.len()
    );
    vectorised(
        #[inline(always)]
        || {
            let rows = logits.chunks_exact_mut(vocabulary).zip(targets).zip(dlosses.iter().zip(logs));
            for ((row, target), (dloss, log)) in rows {
                if *target == IGNORED {
                    row.fill(T::zero());
                    continue;
                }
                for x in row.iter_mut() {
                    *x = (*x - *log).exponential() * *dloss;
                }
                row[*target as usize] -= *dloss;
            }
        },
    );
}
