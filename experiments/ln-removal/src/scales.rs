//! Running means of the scales by which norms divide, and the fixed scales of removed norms (arXiv 2507.02559, section
//! 3, and its code).
//!
//! The scale of an input is its standard deviation (LayerNorm) or root mean square (RMSNorm). With momentum m and batch
//! mean s, an update is `ema = m · ema + (1 - m) · s`.

use models::{Decoder, FixedScales, NormPath, NormScales};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The update rule of the running means.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ema {
    /// Momentum m, the weight of the past at each update. 0 keeps only the mean of the last batch; 1 keeps the initial
    /// scales.
    #[schemars(range(min = 0, max = 1))]
    pub momentum: f64,
    /// Number of updates per batch for the norms before attention. The reference code updates them three times: for
    /// queries and keys, for values, and once more.
    #[schemars(range(min = 1))]
    pub ln1_updates: i32,
}

/// One scale for each norm of a decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// Norms before attention, by block.
    pub ln1: Vec<f64>,
    /// Norms before MLPs, by block.
    pub ln2: Vec<f64>,
    /// The final norm.
    pub ln_final: f64,
}

impl Numbers {
    /// The scale of the norm that a path belongs to.
    pub fn of(&self, path: NormPath) -> f64 {
        match path {
            NormPath::QueriesKeys(layer) | NormPath::Values(layer) => self.ln1[layer],
            NormPath::Mlp(layer) => self.ln2[layer],
            NormPath::Final => self.ln_final,
        }
    }
}

/// Running means, and the scales by which norms divide after their removal.
///
/// A scale follows its running mean as long as one path of its norm is not removed. The scale for queries and keys,
/// which are removed first, therefore keeps following until the path for values is removed too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tracker {
    /// Running means.
    pub ema: Numbers,
    /// Fixed scales of the removed norms.
    pub scales: Numbers,
}

impl Tracker {
    /// Starts from initial scales.
    pub fn new(initial: Numbers) -> Self {
        Self { ema: initial.clone(), scales: initial }
    }

    /// Updates the running means with the scales of one batch, during which the norms in `removed` were fixed.
    pub fn observe(&mut self, batch: &Numbers, rule: Ema, removed: &[NormPath]) {
        let free = |path: NormPath| !removed.contains(&path);
        let update = |ema: &mut f64, scale: &mut f64, mean: f64, updates: i32, follows: bool| {
            let momentum = rule.momentum.powi(updates);
            *ema = momentum * *ema + (1. - momentum) * mean;
            if follows {
                *scale = *ema;
            }
        };
        let Self { ema, scales } = self;
        for (layer, mean) in batch.ln1.iter().enumerate() {
            let follows = free(NormPath::QueriesKeys(layer)) || free(NormPath::Values(layer));
            update(&mut ema.ln1[layer], &mut scales.ln1[layer], *mean, rule.ln1_updates, follows);
        }
        for (layer, mean) in batch.ln2.iter().enumerate() {
            update(&mut ema.ln2[layer], &mut scales.ln2[layer], *mean, 1, free(NormPath::Mlp(layer)));
        }
        update(&mut ema.ln_final, &mut scales.ln_final, batch.ln_final, 1, free(NormPath::Final));
    }

    /// The fixed scales of the removed norms.
    pub fn fixed(&self, removed: &[NormPath]) -> FixedScales {
        let mut fixed = FixedScales::default();
        removed.iter().for_each(|path| fixed.set(*path, Some(self.scales.of(*path))));
        fixed
    }
}

/// Mean scales over one batch.
pub fn means(norm_scales: &NormScales) -> candle_core::Result<Numbers> {
    let ln_final = norm_scales.ln_final.detach().to_dtype(candle_core::DType::F64)?.mean_all()?.to_scalar()?;
    Ok(Numbers { ln1: norm_scales.ln1.clone(), ln2: norm_scales.ln2.clone(), ln_final })
}

/// The sites of the residual stream that norms read, in the order of the published tables.
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

    /// After n batches of scale s, starting from s0, the running mean is s + m^n (s0 - s).
    #[test]
    fn running_means_converge_to_the_batch_scale() {
        let (rule, mut tracker) = (Ema { momentum: 0.9, ln1_updates: 3 }, Tracker::new(numbers(5.)));
        for _ in 0..7 {
            tracker.observe(&numbers(2.), rule, &[]);
        }
        assert!((tracker.ema.ln2[1] - (2. + 0.9f64.powi(7) * 3.)).abs() < 1e-6);
        assert!((tracker.ema.ln1[0] - (2. + 0.9f64.powi(21) * 3.)).abs() < 1e-6);
        let mut last = Tracker::new(numbers(5.));
        last.observe(&numbers(2.), Ema { momentum: 0., ln1_updates: 1 }, &[]);
        assert_eq!(last.scales, numbers(2.));
    }

    /// The scale of queries and keys follows its running mean until values are removed too.
    #[test]
    fn fixed_scales_stay_and_shared_scales_follow_while_one_path_is_free() {
        let (rule, mut tracker) = (Ema { momentum: 0.5, ln1_updates: 1 }, Tracker::new(numbers(4.)));
        let mut removed = vec![NormPath::QueriesKeys(0), NormPath::Mlp(1)];
        tracker.observe(&numbers(2.), rule, &removed);
        assert_eq!(tracker.scales.of(NormPath::QueriesKeys(0)), 3.);
        assert_eq!((tracker.scales.ln2[1], tracker.ema.ln2[1]), (4., 3.));
        removed.push(NormPath::Values(0));
        tracker.observe(&numbers(9.), rule, &removed);
        assert_eq!(tracker.scales.of(NormPath::QueriesKeys(0)), 3.);
        assert_eq!(tracker.scales.of(NormPath::Values(1)), 6.);
        let fixed = tracker.fixed(&removed);
        assert_eq!((fixed.get(NormPath::QueriesKeys(0)), fixed.get(NormPath::Values(0))), (Some(3.), Some(3.)));
        assert_eq!((fixed.get(NormPath::Mlp(1)), fixed.get(NormPath::Final)), (Some(4.), None));
    }
}
