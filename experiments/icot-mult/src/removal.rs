//! Stepwise internalisation: how much working is gone at which step (arXiv 2405.14838, section 3).

use std::collections::VecDeque;

use rand::Rng;
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};

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
    stage: Stage,
}

/// How far removal has come; part of every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Training losses of the last steps since a token went, where recovery is waited for.
    recent: VecDeque<f64>,
    /// Every token that went.
    pub gone: Vec<Gone>,
}

/// A token that went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// First step without it.
    pub step: u64,
    /// Whether it went because the model had recovered from the one before, not because the time was up.
    pub recovered: bool,
}

impl Removal {
    /// The removal of `method` for examples with `working` tokens of working, before the first step.
    pub fn new(method: Method, icot: &Icot, working: usize) -> Self {
        Self { method, icot: icot.clone(), working, stage: Stage::default() }
    }

    /// Tokens gone at the coming step, without smoothing: s(t), at most m.
    pub fn removed(&self) -> usize {
        match self.method {
            Method::Sft | Method::Aux => self.working,
            Method::Cot | Method::Icot => self.stage.gone.len(),
        }
    }

    /// Tokens gone in one example of the coming step: s*(t) = s(t) + o, at most m.
    pub fn drawn(&self, rng: &mut ChaCha12Rng) -> usize {
        match (self.method, self.icot.smoothing) {
            (Method::Icot, Some(lambda)) => (self.removed() + offset(lambda, rng)).min(self.working),
            _ => self.removed(),
        }
    }

    /// Takes note of a finished step and its training loss: the next token may go.
    pub fn after(&mut self, done: u64, loss: f64) {
        if self.method != Method::Icot || self.removed() == self.working {
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
        if recovered || done - since >= self.most_steps() {
            self.stage.recent.clear();
            self.stage.gone.push(Gone { step: done, recovered });
        }
    }

    /// Steps after which a token goes, recovered or not.
    fn most_steps(&self) -> u64 {
        let full = if self.stage.gone.is_empty() { self.icot.full_working_steps } else { 0 };
        full + self.icot.steps_per_token
    }

    /// Whether a token went since the step before, so that the optimiser is to forget.
    pub fn resets_optimizer(&self, step: u64) -> bool {
        self.icot.reset_optimizer && self.stage.gone.last().is_some_and(|gone| gone.step == step)
    }

    /// Step at which all working is gone at the latest, for the methods where it goes.
    pub fn all_gone(&self) -> u64 {
        match self.method {
            Method::Icot => self.icot.full_working_steps + self.working as u64 * self.icot.steps_per_token,
            _ => 0,
        }
    }

    /// How far removal has come.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Goes on from a checkpoint.
    pub fn restore(&mut self, stage: Stage) {
        self.stage = stage;
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

    /// Tokens gone at each step 0 .. `steps`, and the steps at which the optimiser forgets.
    fn played(mut removal: Removal, steps: u64, loss: impl Fn(u64) -> f64) -> (Vec<usize>, Vec<u64>) {
        let (mut removed, mut resets) = (Vec::new(), Vec::new());
        for step in 0..=steps {
            removed.push(removal.removed());
            resets.extend(removal.resets_optimizer(step).then_some(step));
            removal.after(step + 1, loss(step));
        }
        (removed, resets)
    }

    #[test]
    fn tokens_go_one_by_one() {
        let removal = Removal::new(Method::Icot, &icot(), 24);
        assert_eq!(removal.all_gone(), 17_400);
        let (removed, resets) = played(removal, 20_000, |_| 0.);
        let at = [0, 3000, 3599, 3600, 4200, 17_399, 17_400, 20_000].map(|step| removed[step]);
        assert_eq!(at, [0, 0, 0, 1, 2, 23, 24, 24]);
        assert_eq!((resets.len(), resets[0], resets[23]), (24, 3600, 17_400));
        assert_eq!(played(Removal::new(Method::Sft, &icot(), 24), 2, |_| 0.).0, [24; 3]);
        assert_eq!(played(Removal::new(Method::Cot, &icot(), 24), 99_999, |_| 0.).0.last(), Some(&0));
    }

    #[test]
    fn a_token_goes_early_once_the_loss_has_come_down_again() {
        let recovery = Some(Recovery { below: 0.05, over: 10 });
        let removal = || Removal::new(Method::Icot, &Icot { recovery: recovery.clone(), ..icot() }, 3);
        // learned at once: a token every ten steps
        let (removed, _) = played(removal(), 40, |_| 0.01);
        assert_eq!([9, 10, 19, 20, 30, 40].map(|step| removed[step]), [0, 1, 1, 2, 3, 3]);
        // never learned: by the clock
        let (removed, _) = played(removal(), 5000, |_| 1.);
        assert_eq!([3599, 3600, 4199, 4200].map(|step| removed[step]), [0, 1, 1, 2]);
        // a bad stretch counts only for as long as it lies among the last ten
        let (removed, resets) = played(removal(), 50, |step| if step == 4 { 9. } else { 0. });
        assert_eq!((removed[14], removed[15], resets[0]), (0, 1, 15));
    }

    #[test]
    fn a_restored_removal_goes_on_where_it_was() {
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
        let mut removal = Removal::new(Method::Icot, &icot(), 24);
        (1..17_400).for_each(|done| removal.after(done, 0.));
        assert_eq!(removal.removed(), 23);
        assert_eq!((0..1000).map(|_| removal.drawn(&mut rng)).max(), Some(24));
    }
}
