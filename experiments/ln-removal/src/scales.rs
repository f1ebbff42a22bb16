//! What norms would divide by, were they fixed: running means of the scales of what they read (arXiv 2507.02559, section 3,
//! and its code).

use models::{Decoder, FixedScales, NormPath, NormScales};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How running means follow the batches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ema {
    /// Weight of the past at each update; 0: the last batch's mean alone; 1: the numbers from before the first step.
    #[schemars(range(min = 0, max = 1))]
    pub momentum: f64,
    /// Updates of the norms before attention with each batch: the reference evaluates them for queries and keys, for values,
    /// and once more.
    #[schemars(range(min = 1))]
    pub ln1_updates: i32,
}

/// One number for each norm of a decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// Before attention, by block.
    pub ln1: Vec<f64>,
    /// Before MLPs, by block.
    pub ln2: Vec<f64>,
    /// Before the unembedding.
    pub ln_final: f64,
}

impl Numbers {
    /// The number of the norm that a path belongs to.
    pub fn of(&self, path: NormPath) -> f64 {
        match path {
            NormPath::QueriesKeys(layer) | NormPath::Values(layer) => self.ln1[layer],
            NormPath::Mlp(layer) => self.ln2[layer],
            NormPath::Final => self.ln_final,
        }
    }
}

/// Running means, and the numbers that norms divide by when they are fixed. A number follows its running mean as long as one
/// path of its norm is free: queries and keys, which go first, keep following until the values' norm goes too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tracker {
    /// Running means.
    pub ema: Numbers,
    /// What fixed norms divide by.
    pub scales: Numbers,
}

impl Tracker {
    /// Begins with these numbers.
    pub fn new(initial: Numbers) -> Self {
        Self { ema: initial.clone(), scales: initial }
    }

    /// Takes in the scales of one batch, which ran with these norms fixed.
    pub fn observe(&mut self, batch: &Numbers, how: Ema, removed: &[NormPath]) {
        let free = |path: NormPath| !removed.contains(&path);
        let update = |ema: &mut f64, scale: &mut f64, seen: f64, updates: i32, follows: bool| {
            let kept = how.momentum.powi(updates);
            *ema = kept * *ema + (1. - kept) * seen;
            if follows {
                *scale = *ema;
            }
        };
        let Self { ema, scales } = self;
        for (layer, seen) in batch.ln1.iter().enumerate() {
            let follows = free(NormPath::QueriesKeys(layer)) || free(NormPath::Values(layer));
            update(&mut ema.ln1[layer], &mut scales.ln1[layer], *seen, how.ln1_updates, follows);
        }
        for (layer, seen) in batch.ln2.iter().enumerate() {
            update(&mut ema.ln2[layer], &mut scales.ln2[layer], *seen, 1, free(NormPath::Mlp(layer)));
        }
        update(&mut ema.ln_final, &mut scales.ln_final, batch.ln_final, 1, free(NormPath::Final));
    }

    /// The norms that have gone, with their numbers.
    pub fn fixed(&self, removed: &[NormPath]) -> FixedScales {
        let mut fixed = FixedScales::default();
        removed.iter().for_each(|path| fixed.set(*path, Some(self.scales.of(*path))));
        fixed
    }
}

/// Means of one batch.
pub fn means(norm_scales: &NormScales) -> candle_core::Result<Numbers> {
    let ln_final = norm_scales.ln_final.detach().to_dtype(candle_core::DType::F64)?.mean_all()?.to_scalar()?;
    Ok(Numbers { ln1: norm_scales.ln1.clone(), ln2: norm_scales.ln2.clone(), ln_final })
}

/// Names of the streams that norms read, as TransformerLens calls them, in the order of the published tables.
pub fn streams(model: &Decoder) -> Vec<hooks::Site> {
    use hooks::{Layer, Point, Site};
    let points = [Point::ResidPre, Point::ResidMid, Point::ResidPost];
    let all = (0..model.config().n_layers).flat_map(|layer| points.map(|point| Site::Block(Layer(layer), point)));
    let known = model.config().sites();
    all.filter(|site| known.contains(site)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(x: f64) -> Numbers {
        Numbers { ln1: vec![x, x], ln2: vec![x, x], ln_final: x }
    }

    /// After n equal batches s from s0: s + m^n (s0 - s) (U6).
    #[test]
    fn running_means_close_in_on_what_they_see() {
        let (how, mut tracker) = (Ema { momentum: 0.9, ln1_updates: 3 }, Tracker::new(numbers(5.)));
        for _ in 0..7 {
            tracker.observe(&numbers(2.), how, &[]);
        }
        assert!((tracker.ema.ln2[1] - (2. + 0.9f64.powi(7) * 3.)).abs() < 1e-6);
        assert!((tracker.ema.ln1[0] - (2. + 0.9f64.powi(21) * 3.)).abs() < 1e-6);
        let mut last = Tracker::new(numbers(5.));
        last.observe(&numbers(2.), Ema { momentum: 0., ln1_updates: 1 }, &[]);
        assert_eq!(last.scales, numbers(2.));
    }

    /// Fixed numbers stay, and what queries and keys divide by follows until values go too (U5).
    #[test]
    fn fixed_numbers_stay_and_shared_ones_follow_while_one_path_is_free() {
        let (how, mut tracker) = (Ema { momentum: 0.5, ln1_updates: 1 }, Tracker::new(numbers(4.)));
        let mut removed = vec![NormPath::QueriesKeys(0), NormPath::Mlp(1)];
        tracker.observe(&numbers(2.), how, &removed);
        assert_eq!(tracker.scales.of(NormPath::QueriesKeys(0)), 3.);
        assert_eq!((tracker.scales.ln2[1], tracker.ema.ln2[1]), (4., 3.));
        removed.push(NormPath::Values(0));
        tracker.observe(&numbers(9.), how, &removed);
        assert_eq!(tracker.scales.of(NormPath::QueriesKeys(0)), 3.);
        assert_eq!(tracker.scales.of(NormPath::Values(1)), 6.);
        let fixed = tracker.fixed(&removed);
        assert_eq!((fixed.get(NormPath::QueriesKeys(0)), fixed.get(NormPath::Values(0))), (Some(3.), Some(3.)));
        assert_eq!((fixed.get(NormPath::Mlp(1)), fixed.get(NormPath::Final)), (Some(4.), None));
    }
}
