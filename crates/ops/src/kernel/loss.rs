//! Negative log-probabilities and their gradient, in place.

use super::rows::{largest, sum};
use super::{Real, vectorised};

/// A target that counts for nothing.
pub const IGNORED: u32 = u32::MAX;

/// `losses[r] = log sum exp(logits[r]) - logits[r][target]`, 0 for [`IGNORED`]; `logs` gets each row's log of the sum.
///
/// # Panics
/// When the lengths do not fit or a target lies outside of the vocabulary.
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
                // the difference of the logits first: it is exact where the large common part would round
                *loss = if *target == IGNORED { T::zero() } else { above - (row[*target as usize] - most) };
            }
        },
    );
}

/// Turns logits into their gradient: `(softmax - one hot) * dloss`, 0 for [`IGNORED`].
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
