//! AdamW (arXiv 1711.05101) with decay groups and global-norm clipping.

use candle_core::{Result, Tensor, Var};
use ops::{AdamWStep, Update};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    /// Peak learning rate.
    #[schemars(range(min = 0))]
    pub lr: f64,
    /// Decay of the two running means.
    #[schemars(extend("items" = {"type": "number", "format": "double", "minimum": 0, "exclusiveMaximum": 1}))]
    pub betas: [f64; 2],
    /// Added to the root of the second running mean.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eps: f64,
    /// Decoupled weight decay, for matrices only.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
}

/// AdamW over a fixed list of variables.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    /// Updates since the last reset, for the bias correction.
    updates: u64,
    /// Running mean and mean square per variable.
    moments: Vec<[Tensor; 2]>,
}

impl AdamW {
    /// A fresh optimiser.
    ///
    /// # Errors
    /// When candle cannot allocate.
    pub fn new(config: AdamWConfig, variables: &[Var]) -> Result<Self> {
        let mut optimizer = Self { config, updates: 0, moments: Vec::new() };
        optimizer.reset(variables)?;
        Ok(optimizer)
    }

    /// Forgets all running means.
    ///
    /// # Errors
    /// When candle cannot allocate.
    pub fn reset(&mut self, variables: &[Var]) -> Result<()> {
        self.updates = 0;
        self.moments = variables
            .iter()
            .map(|var| Ok([var.zeros_like()?.detach(), var.zeros_like()?.detach()]))
            .collect::<Result<_>>()?;
        Ok(())
    }

    /// One update `w -= lr (m^ / (sqrt(v^) + eps) + decay w)`, in place.
    ///
    /// `decays[i]` says whether variable i is in the group with weight decay; `factor` scales the learning rate, and
    /// `gradient_scale` the gradients.
    ///
    /// # Errors
    /// When candle fails.
    pub fn update(
        &mut self,
        variables: &[Var],
        decays: &[bool],
        gradients: &[Tensor],
        factor: f64,
        gradient_scale: f64,
    ) -> Result<()> {
        let AdamWConfig { lr, betas, eps, weight_decay } = self.config;
        self.updates += 1;
        let step = AdamWStep { lr: lr * factor, betas, eps, weight_decay, t: self.updates, gradient_scale };
        let all = variables.iter().zip(gradients).zip(&self.moments).zip(decays);
        let updates = all.map(|(((var, g), [m, v]), decays)| {
            let step = if *decays { step } else { AdamWStep { weight_decay: 0., ..step } };
            Update { w: var.as_tensor(), g, m, v, step }
        });
        ops::adamw(&updates.collect::<Vec<_>>())
    }

    /// State to save: the number of updates, and the two running means per variable.
    #[must_use]
    pub fn state(&self) -> (u64, &[[Tensor; 2]]) {
        (self.updates, &self.moments)
    }

    /// Takes over a saved state.
    pub fn restore(&mut self, updates: u64, moments: Vec<[Tensor; 2]>) {
        self.updates = updates;
        self.moments = moments;
    }
}

/// Euclidean norm over all gradients, summed in f64 tensor by tensor in their order.
///
/// # Errors
/// When candle fails.
pub fn gradient_norm(gradients: &[Tensor]) -> Result<f64> {
    let mut sum = 0.;
    for gradient in gradients {
        sum += ops::sum_of_squares(gradient)?;
    }
    Ok(sum.sqrt())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn config(lr: f64, weight_decay: f64) -> AdamWConfig {
        AdamWConfig { lr, betas: [0.9, 0.999], eps: 1e-8, weight_decay }
    }

    /// The same formula, a number at a time.
    fn reference(w: f64, gradients: &[f64], config: AdamWConfig) -> f64 {
        let (mut w, mut m, mut v) = (w, 0., 0.);
        for (t, g) in (1..).zip(gradients) {
            m = config.betas[0] * m + (1. - config.betas[0]) * g;
            v = config.betas[1] * v + (1. - config.betas[1]) * g * g;
            let m_hat = m / (1. - config.betas[0].powi(t));
            let v_hat: f64 = v / (1. - config.betas[1].powi(t));
            w = w * (1. - config.lr * config.weight_decay) - config.lr * m_hat / (v_hat.sqrt() + config.eps);
        }
        w
    }

    #[test]
    fn updates_follow_the_formula() {
        let config = config(0.1, 0.5);
        let var = Var::new(&[1f64, -2.], &Device::Cpu).unwrap();
        let mut adam = AdamW::new(config, std::slice::from_ref(&var)).unwrap();
        let gradients = [0.3, -0.1, 2.];
        for g in gradients {
            let gradient = Tensor::new(&[g, -g], &Device::Cpu).unwrap();
            adam.update(std::slice::from_ref(&var), &[true], &[gradient], 1., 1.).unwrap();
        }
        let got = var.as_tensor().to_vec1::<f64>().unwrap();
        assert!((got[0] - reference(1., &gradients, config)).abs() < 1e-12);
        assert!((got[1] - reference(-2., &gradients.map(|g| -g), config)).abs() < 1e-12);
    }

    #[test]
    fn groups_without_decay_do_not_decay() {
        let vars = [Var::new(&[1f64], &Device::Cpu).unwrap(), Var::new(&[1f64], &Device::Cpu).unwrap()];
        let mut adam = AdamW::new(config(0.1, 0.5), &vars).unwrap();
        let zero = Tensor::new(&[0f64], &Device::Cpu).unwrap();
        adam.update(&vars, &[true, false], &[zero.clone(), zero], 1., 1.).unwrap();
        assert_eq!(vars[0].as_tensor().to_vec1::<f64>().unwrap(), [0.95]);
        assert_eq!(vars[1].as_tensor().to_vec1::<f64>().unwrap(), [1.]);
    }

    #[test]
    fn running_means_keep_no_graph_alive() {
        let var = Var::new(&[1f32, 2.], &Device::Cpu).unwrap();
        let mut adam = AdamW::new(config(0.1, 0.), std::slice::from_ref(&var)).unwrap();
        // still attached to the variable, as candle's gradients are
        let gradient = (var.as_tensor() * 2.).unwrap();
        assert!(gradient.track_op());
        adam.update(std::slice::from_ref(&var), &[true], &[gradient], 1., 1.).unwrap();
        let (_, moments) = adam.state();
        assert!(moments.iter().flatten().all(|moment| !moment.track_op()));
    }

    #[test]
    fn the_norm_is_over_everything() {
        let gradients =
            [Tensor::new(&[3f32], &Device::Cpu).unwrap(), Tensor::new(&[[0f32, 4.]], &Device::Cpu).unwrap()];
        assert_eq!(gradient_norm(&gradients).unwrap(), 5.);
    }
}
