//! Stepwise internalisation: how much working is gone at which step (arXiv 2405.14838, section 3).

use rand::Rng;
use rand_chacha::ChaCha12Rng;

use crate::params::{Icot, Method};

/// Largest extra removal that smoothing draws.
const LARGEST_OFFSET: usize = 100;

/// Removal of working over the steps of one method.
#[derive(Clone, Debug)]
pub struct Removal {
    method: Method,
    icot: Icot,
    /// Tokens of working, m.
    working: usize,
}

impl Removal {
    /// The removal of `method` for examples with `working` tokens of working.
    pub fn new(method: Method, icot: &Icot, working: usize) -> Self {
        Self { method, icot: icot.clone(), working }
    }

    /// Tokens gone at `step`, without smoothing: s(t), at most m.
    pub fn scheduled(&self, step: u64) -> usize {
        match self.method {
            Method::Sft | Method::Aux => self.working,
            Method::Cot => 0,
            Method::Icot => {
                let gone = step.saturating_sub(self.icot.full_working_steps) / self.icot.steps_per_token;
                usize::try_from(gone).unwrap_or(usize::MAX).min(self.working)
            }
        }
    }

    /// Tokens gone in one example at `step`: s*(t) = s(t) + o, at most m.
    pub fn drawn(&self, step: u64, rng: &mut ChaCha12Rng) -> usize {
        let scheduled = self.scheduled(step);
        match (self.method, self.icot.smoothing) {
            (Method::Icot, Some(lambda)) => (scheduled + offset(lambda, rng)).min(self.working),
            _ => scheduled,
        }
    }

    /// Whether a token went since the step before, so that the optimiser is to forget.
    pub fn resets_optimizer(&self, step: u64) -> bool {
        self.icot.reset_optimizer && step > 0 && self.scheduled(step) > self.scheduled(step - 1)
    }

    /// First step at which all working is gone, for the methods where it goes.
    pub fn all_gone(&self) -> u64 {
        match self.method {
            Method::Icot => self.icot.full_working_steps + self.working as u64 * self.icot.steps_per_token,
            _ => 0,
        }
    }
}

/// Draws o with P(o) proportional to exp(-lambda o), the tail beyond the largest on the largest.
fn offset(lambda: f64, rng: &mut ChaCha12Rng) -> usize {
    // P(o >= j) = exp(-lambda j)
    let uniform: f64 = rng.random();
    let offset = (-(1. - uniform).ln() / lambda).floor();
    if offset.is_finite() { (offset as usize).min(LARGEST_OFFSET) } else { LARGEST_OFFSET }
}

#[cfg(test)]
mod tests {
    use datasets::multiplication::Side;
    use rand::SeedableRng;

    use super::*;

    fn removal(method: Method) -> Removal {
        let icot = Icot {
            full_working_steps: 3000,
            steps_per_token: 600,
            side: Side::Left,
            smoothing: Some(4.),
            reset_optimizer: true,
        };
        Removal::new(method, &icot, 24)
    }

    #[test]
    fn tokens_go_one_by_one() {
        let icot = removal(Method::Icot);
        let at = [0, 3000, 3599, 3600, 4200, 17_399, 17_400, 1_000_000].map(|step| icot.scheduled(step));
        assert_eq!(at, [0, 0, 0, 1, 2, 23, 24, 24]);
        assert_eq!(icot.all_gone(), 17_400);
        let resets: Vec<u64> = (0..20_000).filter(|step| icot.resets_optimizer(*step)).collect();
        assert_eq!((resets.len(), resets[0], resets[23]), (24, 3600, 17_400));
        assert_eq!(removal(Method::Sft).scheduled(0), 24);
        assert_eq!(removal(Method::Cot).scheduled(99_999), 0);
    }

    #[test]
    fn smoothing_is_as_published() {
        // P(0) = 0.98168, P(1) = 0.01798, P(2) = 0.00033 for lambda = 4
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let mut counts = [0; 3];
        for _ in 0..200_000 {
            let drawn = offset(4., &mut rng);
            if drawn < 3 {
                counts[drawn] += 1;
            }
        }
        let share = counts.map(|count| f64::from(count) / 200_000.);
        for (share, expected) in share.iter().zip([0.98168, 0.01798, 0.00033]) {
            assert!((share - expected).abs() < 0.001, "{share} {expected}");
        }
        let near_the_end = (0..1000).map(|_| removal(Method::Icot).drawn(17_399, &mut rng)).max();
        assert_eq!(near_the_end, Some(24));
    }
}
