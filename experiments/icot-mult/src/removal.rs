//! Stepwise internalisation: the schedule that removes chain-of-thought tokens during training (arXiv 2405.14838,
//! section 3).
//!
//! At step t, s(t) of the m tokens are removed. With removal smoothing, an example loses s(t) + o tokens, at most m,
//! with P(o) proportional to exp(-lambda o).

use std::collections::VecDeque;

use rand::Rng;
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};

use crate::params::{Icot, Method};

/// Largest offset o that removal smoothing samples.
const LARGEST_OFFSET: usize = 100;

/// The removal schedule of one training method and its state.
#[derive(Clone, Debug)]
pub struct Removal {
    method: Method,
    icot: Icot,
    /// Number of chain-of-thought tokens, m.
    cot_tokens: usize,
    stage: Stage,
}

/// The state of the schedule. It is part of every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Recent training losses since the last removal, in nats. Used only if removal waits for recovery.
    recent: VecDeque<f64>,
    /// All removals so far, one per token.
    pub gone: Vec<Gone>,
}

/// The removal of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// First step without the token.
    pub step: u64,
    /// Whether the token was removed because the model had recovered from the previous removal, rather than because the
    /// maximum number of steps had passed.
    pub recovered: bool,
}

impl Removal {
    /// The schedule of `method` before the first step, for examples with `cot_tokens` chain-of-thought tokens.
    pub fn new(method: Method, icot: &Icot, cot_tokens: usize) -> Self {
        Self { method, icot: icot.clone(), cot_tokens, stage: Stage::default() }
    }

    /// The number of tokens removed at the next step, without smoothing: s(t), at most m.
    pub fn removed(&self) -> usize {
        match self.method {
            Method::Sft | Method::Aux => self.cot_tokens,
            Method::Cot | Method::Icot => self.stage.gone.len(),
        }
    }

    /// Samples the number of tokens removed from one example of the next step: s*(t) = s(t) + o, at most m.
    pub fn drawn(&self, rng: &mut ChaCha12Rng) -> usize {
        match (self.method, self.icot.smoothing) {
            (Method::Icot, Some(lambda)) => (self.removed() + offset(lambda, rng)).min(self.cot_tokens),
            _ => self.removed(),
        }
    }

    /// Updates the schedule after a step with its training loss in nats. May remove the next token.
    pub fn after(&mut self, done: u64, loss: f64) {
        if self.method != Method::Icot || self.removed() == self.cot_tokens {
            return;
        }
        let recovered = self.icot.recovery.as_ref().is_some_and(|recovery| {
            let recent = &mut self.stage.recent;
            recent.push_back(loss);
            if recent.len() > recovery.over {
                recent.pop_front();
            }
            recent.len() == recovery.over && recent.iter().sum::<f64>() / (recovery.over as f64) < recovery.below
        });
        let since = self.stage.gone.last().map_or(0, |gone| gone.step);
        if recovered || done - since >= self.max_steps() {
            self.stage.recent.clear();
            self.stage.gone.push(Gone { step: done, recovered });
        }
    }

    /// Steps after which the next token is removed even without recovery.
    fn max_steps(&self) -> u64 {
        let full = if self.stage.gone.is_empty() { self.icot.full_working_steps } else { 0 };
        full + self.icot.steps_per_token
    }

    /// Whether a token was removed just before this step, so that the optimiser state must be reset.
    pub fn resets_optimizer(&self, step: u64) -> bool {
        self.icot.reset_optimizer && self.stage.gone.last().is_some_and(|gone| gone.step == step)
    }

    /// The latest step at which the whole chain of thought is removed; 0 for methods that do not remove it step by
    /// step.
    pub fn all_gone(&self) -> u64 {
        match self.method {
            Method::Icot => self.icot.full_working_steps + self.cot_tokens as u64 * self.icot.steps_per_token,
            _ => 0,
        }
    }

    /// The state of the schedule.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Restores the state from a checkpoint.
    pub fn restore(&mut self, stage: Stage) {
        self.stage = stage;
    }
}

/// Samples o with P(o) proportional to exp(-lambda o). The tail beyond [`LARGEST_OFFSET`] is assigned to that value.
fn offset(lambda: f64, rng: &mut ChaCha12Rng) -> usize {
    // P(o >= j) = exp(-lambda j)
    let uniform: f64 = rng.random();
    let offset = (-(1. - uniform).ln() / lambda).floor();
    if offset.is_finite() { (offset as usize).min(LARGEST_OFFSET) } else { LARGEST_OFFSET }
}

#[cfg(test)]
mod tests {
    use crate::multiplication::Side;
    use rand::SeedableRng;

    use super::*;
    use crate::params::Recovery;

    fn icot() -> Icot {
        Icot {
            full_working_steps: 3000,
            steps_per_token: 600,
            recovery: None,
            side: Side::Left,
            smoothing: Some(4.),
            reset_optimizer: true,
            keep_positions: false,
        }
    }

    /// The number of tokens removed at each step 0 .. `steps`, and the steps at which the optimiser is reset.
    fn simulate(mut removal: Removal, steps: u64, loss: impl Fn(u64) -> f64) -> (Vec<usize>, Vec<u64>) {
        let (mut removed, mut resets) = (Vec::new(), Vec::new());
        for step in 0..=steps {
            removed.push(removal.removed());
            resets.extend(removal.resets_optimizer(step).then_some(step));
            removal.after(step + 1, loss(step));
        }
        (removed, resets)
    }

    #[test]
    fn tokens_are_removed_one_by_one() {
        let removal = Removal::new(Method::Icot, &icot(), 24);
        assert_eq!(removal.all_gone(), 17_400);
        let (removed, resets) = simulate(removal, 20_000, |_| 0.);
        let at = [0, 3000, 3599, 3600, 4200, 17_399, 17_400, 20_000].map(|step| removed[step]);
        assert_eq!(at, [0, 0, 0, 1, 2, 23, 24, 24]);
        assert_eq!((resets.len(), resets[0], resets[23]), (24, 3600, 17_400));
        assert_eq!(simulate(Removal::new(Method::Sft, &icot(), 24), 2, |_| 0.).0, [24; 3]);
        assert_eq!(simulate(Removal::new(Method::Cot, &icot(), 24), 99_999, |_| 0.).0.last(), Some(&0));
    }

    #[test]
    fn recovery_removes_the_next_token_early() {
        let recovery = Some(Recovery { below: 0.05, over: 10 });
        let removal = || Removal::new(Method::Icot, &Icot { recovery: recovery.clone(), ..icot() }, 3);
        // the loss is low at once: one token every ten steps
        let (removed, _) = simulate(removal(), 40, |_| 0.01);
        assert_eq!([9, 10, 19, 20, 30, 40].map(|step| removed[step]), [0, 1, 1, 2, 3, 3]);
        // the loss never falls: one token after the maximum number of steps
        let (removed, _) = simulate(removal(), 5000, |_| 1.);
        assert_eq!([3599, 3600, 4199, 4200].map(|step| removed[step]), [0, 1, 1, 2]);
        // one high loss delays removal only while it is among the last ten
        let (removed, resets) = simulate(removal(), 50, |step| if step == 4 { 9. } else { 0. });
        assert_eq!((removed[14], removed[15], resets[0]), (0, 1, 15));
    }

    #[test]
    fn a_restored_schedule_continues_identically() {
        let settings = Icot { recovery: Some(Recovery { below: 0.05, over: 10 }), ..icot() };
        let mut whole = Removal::new(Method::Icot, &settings, 24);
        (1..=37).for_each(|done| whole.after(done, 0.01));
        let text = serde_json::to_string(whole.stage()).unwrap();
        let mut restored = Removal::new(Method::Icot, &settings, 24);
        restored.restore(serde_json::from_str(&text).unwrap());
        for done in 38..60 {
            whole.after(done, 0.01);
            restored.after(done, 0.01);
            assert_eq!(whole.stage(), restored.stage());
        }
    }

    #[test]
    fn smoothing_has_the_published_probabilities() {
        // P(0) = 0.98168, P(1) = 0.01798, P(2) = 0.00033 for lambda = 4
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let mut counts = [0; 3];
        for _ in 0..200_000 {
            let sampled = offset(4., &mut rng);
            if sampled < 3 {
                counts[sampled] += 1;
            }
        }
        let share = counts.map(|count| f64::from(count) / 200_000.);
        for (share, expected) in share.iter().zip([0.98168, 0.01798, 0.00033]) {
            assert!((share - expected).abs() < 0.001, "{share} {expected}");
        }
        let mut removal = Removal::new(Method::Icot, &icot(), 24);
        (1..17_400).for_each(|done| removal.after(done, 0.));
        assert_eq!(removal.removed(), 23);
        assert_eq!((0..1000).map(|_| removal.drawn(&mut rng)).max(), Some(24));
    }
}
