//! A decoder's weights: building it from them, and reading them off.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use rand::Rng;
use weights::Named;

use crate::fast::FastPass;
use crate::layers::{Linear, Norm};
use crate::model::Block;
use crate::weight_index::{AffineIndex, BlockIndex, WeightIndex};
use crate::{Config, Decoder, Error, FixedScales, init};

impl Decoder {
    /// A decoder with random f32 weights, sampled from `rng` alone.
    ///
    /// # Errors
    /// When the sizes contradict each other.
    pub fn fresh(config: &Config, rng: &mut impl Rng, device: &Device) -> Result<Self, Error> {
        config.check()?;
        Self::new(config, init::fresh(config, rng)?, device)
    }

    /// A decoder with the given weights, named and shaped as in [`Config::shapes`]. The variables of another decoder
    /// are copied, so training one does not change the other.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(config: &Config, weights: Named, device: &Device) -> Result<Self, Error> {
        config.check()?;
        let parameters = config
            .shapes()
            .into_iter()
            .map(|(name, shape)| match weights.get(&name) {
                // another model's variable is updated in place when that model is trained
                Some(tensor) if tensor.dims() == shape && tensor.is_variable() => {
                    Ok((name, Var::from_tensor(&tensor.copy()?.detach().to_device(device)?)?))
                }
                Some(tensor) if tensor.dims() == shape => Ok((name, Var::from_tensor(&tensor.to_device(device)?)?)),
                Some(tensor) => {
                    Err(Error::Config(format!("weight `{name}` has shape {:?}, expected {shape:?}", tensor.dims())))
                }
                None => Err(Error::Config(format!("weight `{name}` is missing"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let handle = Var::zeros((), DType::F32, device)?;
        Ok(Self::assemble(config.clone(), parameters, handle))
    }

    /// `parameters` are in the order of [`Config::shapes`], which [`WeightIndex`] relies on.
    fn assemble(config: Config, parameters: Vec<(String, Var)>, handle: Var) -> Self {
        let index = WeightIndex::of(&config);
        let weight = |index: usize| parameters[index].1.as_tensor().clone();
        let norm = |at: AffineIndex| Norm { w: weight(at.w), b: at.b.map(weight) };
        let linear = |at: AffineIndex| Linear { w: weight(at.w), b: at.b.map(weight) };
        let block = |at: &BlockIndex| Block {
            ln1: norm(at.ln1),
            qkv: linear(at.qkv),
            qk_norm: at.qk_norm.map(|gains| gains.map(weight)),
            out: linear(at.out),
            ln2: norm(at.ln2),
            mlp_gate: at.mlp_gate.map(linear),
            mlp_in: linear(at.mlp_in),
            mlp_out: linear(at.mlp_out),
        };
        Self {
            embed: weight(index.embed),
            pos_embed: index.pos_embed.map(weight),
            blocks: index.blocks.iter().map(block).collect(),
            ln_final: norm(index.ln_final),
            unembed: index.unembed.map(weight),
            unembed_bias: index.unembed_bias.map(weight),
            fast: FastPass::new(&config, index).map(Arc::new),
            handle,
            config,
            parameters,
        }
    }

    /// Sizes and architecture.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Replaces the fixed scales of norms. The weights and their variables stay.
    ///
    /// # Errors
    /// When the model lacks such a norm, or a scale is not positive.
    pub fn set_fixed_scales(&mut self, fixed: FixedScales) -> Result<(), Error> {
        fixed.check(self.config.n_layers, self.config.architecture.norm_place)?;
        self.config.architecture.fixed = fixed;
        Ok(())
    }

    /// The device that holds the weights.
    #[must_use]
    pub fn device(&self) -> Device {
        self.embed.device().clone()
    }

    /// Every trainable weight by name, in reading order.
    #[must_use]
    pub fn parameters(&self) -> &[(String, Var)] {
        &self.parameters
    }

    /// The same model with weights that take no gradient, so that a backward pass computes gradients of activations
    /// only.
    #[must_use]
    pub fn frozen(&self) -> Self {
        let detach = |weight: &Option<Tensor>| weight.as_ref().map(Tensor::detach);
        let block = |block: &Block| Block {
            ln1: block.ln1.detach(),
            qkv: block.qkv.detach(),
            qk_norm: block.qk_norm.as_ref().map(|[q, k]| [q.detach(), k.detach()]),
            out: block.out.detach(),
            ln2: block.ln2.detach(),
            mlp_gate: block.mlp_gate.as_ref().map(Linear::detach),
            mlp_in: block.mlp_in.detach(),
            mlp_out: block.mlp_out.detach(),
        };
        Self {
            embed: self.embed.detach(),
            pos_embed: detach(&self.pos_embed),
            blocks: self.blocks.iter().map(block).collect(),
            ln_final: self.ln_final.detach(),
            unembed: detach(&self.unembed),
            unembed_bias: detach(&self.unembed_bias),
            ..self.clone()
        }
    }

    /// The current weights by name.
    #[must_use]
    pub fn weights(&self) -> Named {
        self.parameters.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
    }

    /// A model whose position `i` is position `positions[i]` of this one, for sequences that skip positions.
    ///
    /// # Errors
    /// When positions are not learned, or one of them does not exist.
    pub fn at_positions(&self, positions: &[u32]) -> Result<Self, Error> {
        self.check_positions(positions, positions.len())?;
        let mut weights = self.weights();
        if let Some(rows) = weights.get_mut("pos_embed.W_pos") {
            *rows = rows.index_select(&Tensor::new(positions, rows.device())?, 0)?;
        }
        Self::new(&Config { n_positions: positions.len(), ..self.config.clone() }, weights, &self.device())
    }
}
