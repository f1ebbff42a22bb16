//! Learning rate over steps, as a fraction of the peak.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate moves. Warm-up is linear from 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Warm-up, then the peak.
    Constant {
        /// Steps of warm-up.
        warmup: u64,
    },
    /// Warm-up, then half a cosine down to the floor at the last step (arXiv 1608.03983).
    Cosine {
        /// Steps of warm-up.
        warmup: u64,
        /// Where it ends, as a fraction of the peak.
        #[schemars(range(min = 0, max = 1))]
        floor: f64,
    },
    /// Warm-up, the peak, and a straight line down to the floor over the last steps.
    Trapezoid {
        /// Steps of warm-up.
        warmup: u64,
        /// Steps of decay at the end.
        decay: u64,
        /// Where it ends, as a fraction of the peak.
        #[schemars(range(min = 0, max = 1))]
        floor: f64,
    },
}

impl Schedule {
    /// Fraction of the peak at `step` (from 0) of `steps`.
    #[must_use]
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        let (Self::Constant { warmup } | Self::Cosine { warmup, .. } | Self::Trapezoid { warmup, .. }) = *self;
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        match *self {
            Self::Constant { .. } => 1.,
            Self::Cosine { floor, .. } => {
                let length = steps.saturating_sub(warmup).max(1) as f64;
                let progress = ((step - warmup) as f64 / length).min(1.);
                floor + (1. - floor) * 0.5 * (1. + (std::f64::consts::PI * progress).cos())
            }
            Self::Trapezoid { decay, floor, .. } => {
                let left = steps.saturating_sub(step) as f64;
                floor + (1. - floor) * (left / decay.max(1) as f64).min(1.)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let check = |schedule: Schedule, expected: &[(u64, f64)]| {
            for (step, factor) in expected {
                let got = schedule.factor(*step, 1000);
                assert!((got - factor).abs() < 1e-9, "{schedule:?} at {step}: {got}, expected {factor}");
            }
        };
        check(Schedule::Constant { warmup: 0 }, &[(0, 1.), (999, 1.)]);
        check(Schedule::Constant { warmup: 100 }, &[(0, 0.01), (49, 0.5), (99, 1.), (100, 1.)]);
        check(
            Schedule::Cosine { warmup: 200, floor: 0.1 },
            &[(199, 1.), (200, 1.), (600, 0.55), (1000, 0.1), (2000, 0.1)],
        );
        check(Schedule::Trapezoid { warmup: 10, decay: 100, floor: 0. }, &[(9, 1.), (900, 1.), (950, 0.5), (1000, 0.)]);
    }
}
