//! Changes of weights that leave every log-probability unchanged and make weights easier to interpret. TransformerLens
//! makes them on loading; here they are made on request only.

use candle_core::{D, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weights::Named;

use crate::{Config, Decoder, Error, NormKind, NormPath, NormPlace, Positions};

/// An exact change of a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// Folds gains and biases of norms into the maps that read them. The norms keep gain 1 and bias 0, and fixed ones
    /// divide by 1. Norms after attention and MLP stay, because the residual stream reads them.
    FoldNorms,
    /// Removes the mean over `d_model` from everything that writes to the residual stream; LayerNorms subtract it
    /// anyway. LayerNorm models only.
    CentreWriting,
    /// Removes the unembedding's mean over the vocabulary: logits shift, log-probabilities do not.
    CentreUnembed,
    /// Folds the biases of values into the bias of the attention output, because each row of a pattern sums to 1.
    FoldValueBiases,
    /// Gives every query head its own copy of the keys and values that it shares (arXiv 2305.13245), so that they can
    /// be changed head by head.
    OwnKeysAndValues,
}

impl Decoder {
    /// The model with transformed weights, one transform after another. A tied unembedding becomes a weight of its own
    /// where it no longer equals the transposed embedding.
    ///
    /// # Errors
    /// When a transform is not exact for this architecture.
    pub fn transformed(&self, transforms: &[Transform]) -> Result<Self, Error> {
        let mut work = Work { config: self.config().clone(), named: self.weights() };
        for named in work.named.values_mut() {
            *named = named.detach();
        }
        for transform in transforms {
            match transform {
                Transform::FoldNorms => work.fold_norms()?,
                Transform::CentreWriting => work.centre_writing()?,
                Transform::CentreUnembed => work.centre_unembed()?,
                Transform::FoldValueBiases => work.fold_value_biases()?,
                Transform::OwnKeysAndValues => work.own_keys_and_values()?,
            }
        }
        let device = self.device();
        Self::new(&work.config, work.named, &device)
    }
}

struct Work {
    config: Config,
    named: Named,
}

impl Work {
    fn get(&self, name: &str) -> Result<Tensor, Error> {
        self.named.get(name).cloned().ok_or_else(|| Error::Config(format!("weight `{name}` is missing")))
    }

    fn set(&mut self, name: String, tensor: Tensor) {
        self.named.insert(name, tensor);
    }

    /// Adds biases, as zeros, that folding needs and the model does not have.
    fn add_biases(&mut self, change: impl FnOnce(&mut crate::Biases)) -> Result<(), Error> {
        let mut biases = self.config.biases();
        change(&mut biases);
        self.config.architecture.biases = Some(biases);
        let sample = self.get("embed.W_E")?;
        for (name, shape) in self.config.shapes() {
            if !self.named.contains_key(&name) {
                self.set(name, Tensor::zeros(shape, sample.dtype(), sample.device())?);
            }
        }
        Ok(())
    }

    fn untie(&mut self) -> Result<(), Error> {
        if self.config.tied {
            let unembed = self.get("embed.W_E")?.t()?.contiguous()?;
            self.set("unembed.W_U".to_owned(), unembed);
            self.config.tied = false;
        }
        Ok(())
    }

    fn fold_norms(&mut self) -> Result<(), Error> {
        self.untie()?;
        let (gated, before) =
            (self.config.architecture.gated, self.config.architecture.norm_place == NormPlace::Before);
        if self.config.biases().norm {
            self.add_biases(|biases| {
                (biases.qkv, biases.mlp, biases.unembed) = (before || biases.qkv, before || biases.mlp, true);
            })?;
        }
        for layer in 0..self.config.n_layers {
            if before {
                self.absorb(&[NormPath::QueriesKeys(layer), NormPath::Values(layer)], &format!("blocks.{layer}.ln1"))?;
                self.absorb(&[NormPath::Mlp(layer)], &format!("blocks.{layer}.ln2"))?;
                self.fold(&format!("blocks.{layer}.ln1"), &[&format!("blocks.{layer}.attn._QKV")])?;
                let mlp = [format!("blocks.{layer}.mlp._in"), format!("blocks.{layer}.mlp._gate")];
                let reading: Vec<&str> = mlp.iter().map(String::as_str).take(if gated { 2 } else { 1 }).collect();
                self.fold(&format!("blocks.{layer}.ln2"), &reading)?;
            }
        }
        self.absorb(&[NormPath::Final], "ln_final")?;
        self.fold("ln_final", &["unembed._U"])
    }

    /// Moves a norm's fixed scale into its gain, where all its readers share that scale.
    fn absorb(&mut self, paths: &[NormPath], norm: &str) -> Result<(), Error> {
        let fixed = &mut self.config.architecture.fixed;
        let Some(scale) = fixed.get(paths[0]).filter(|scale| paths.iter().all(|path| fixed.get(*path) == Some(*scale)))
        else {
            return Ok(());
        };
        paths.iter().for_each(|path| fixed.set(*path, Some(1.)));
        let gain = self.get(&format!("{norm}.w"))?;
        self.set(format!("{norm}.w"), (gain / scale)?);
        Ok(())
    }

    /// Folds gain g and bias b of a norm: `(x g + b) W + c = x (g W) + (b W + c)`. Names of maps leave out W and b.
    fn fold(&mut self, norm: &str, maps: &[&str]) -> Result<(), Error> {
        let gain = self.get(&format!("{norm}.w"))?;
        let bias = self.named.get(&format!("{norm}.b")).cloned();
        for map in maps {
            let (stem, part) = map.rsplit_once('.').unwrap_or(("", map));
            let (weight, offset) = (format!("{stem}.W{part}"), format!("{stem}.b{part}"));
            let w = self.get(&weight)?;
            if let Some(bias) = &bias {
                let shift = bias.unsqueeze(0)?.matmul(&w)?.squeeze(0)?;
                let shifted = (self.get(&offset)? + shift)?;
                self.set(offset, shifted);
            }
            self.set(weight, w.broadcast_mul(&gain.unsqueeze(1)?)?);
        }
        self.set(format!("{norm}.w"), gain.ones_like()?);
        if let Some(bias) = bias {
            self.set(format!("{norm}.b"), bias.zeros_like()?);
        }
        Ok(())
    }

    fn centre_writing(&mut self) -> Result<(), Error> {
        let architecture = &self.config.architecture;
        if architecture.norm != NormKind::Layer || architecture.norm_place != NormPlace::Before {
            let message =
                "centre_writing is not exact here: only LayerNorms before attention and MLP subtract the mean";
            return Err(Error::Config(message.to_owned()));
        }
        self.untie()?;
        let mut names = vec!["embed.W_E".to_owned()];
        if self.config.architecture.positions == Positions::Learned {
            names.push("pos_embed.W_pos".to_owned());
        }
        for layer in 0..self.config.n_layers {
            names.extend(["attn.W_O", "attn.b_O", "mlp.W_out", "mlp.b_out"].map(|n| format!("blocks.{layer}.{n}")));
        }
        for name in names {
            if let Some(w) = self.named.get(&name) {
                let centred = w.broadcast_sub(&w.mean_keepdim(D::Minus1)?)?;
                self.set(name, centred);
            }
        }
        Ok(())
    }

    fn centre_unembed(&mut self) -> Result<(), Error> {
        self.untie()?;
        for name in ["unembed.W_U", "unembed.b_U"] {
            if let Some(w) = self.named.get(name) {
                let centred = w.broadcast_sub(&w.mean_keepdim(D::Minus1)?)?;
                self.set(name.to_owned(), centred);
            }
        }
        Ok(())
    }

    fn fold_value_biases(&mut self) -> Result<(), Error> {
        if !self.config.biases().qkv {
            return Ok(());
        }
        self.add_biases(|biases| biases.attn_out = true)?;
        let (heads, kv, e) = (self.config.n_heads, self.config.n_key_value_heads(), self.config.d_head());
        for layer in 0..self.config.n_layers {
            let [bias, out, w] = ["b_QKV", "b_O", "W_O"].map(|name| format!("blocks.{layer}.attn.{name}"));
            let b = self.get(&bias)?;
            let values = b.narrow(0, (heads + kv) * e, kv * e)?.reshape((kv, 1, e))?;
            // each query head mixes the values of its key head
            let repeated = values.broadcast_as((kv, heads / kv, e))?.reshape((1, heads * e))?;
            let shifted = (self.get(&out)? + repeated.matmul(&self.get(&w)?)?.squeeze(0)?)?;
            self.set(out, shifted);
            let kept = b.narrow(0, 0, (heads + kv) * e)?;
            self.set(bias, Tensor::cat(&[&kept, &values.flatten_all()?.zeros_like()?], 0)?);
        }
        Ok(())
    }

    fn own_keys_and_values(&mut self) -> Result<(), Error> {
        let (heads, kv, e) = (self.config.n_heads, self.config.n_key_value_heads(), self.config.d_head());
        if heads == kv {
            return Ok(());
        }
        // [.., kv * e] to [.., heads * e]
        let copies = |x: &Tensor| -> candle_core::Result<Tensor> {
            let (rows, _) = x.dims2()?;
            x.reshape((rows, kv, 1, e))?.broadcast_as((rows, kv, heads / kv, e))?.reshape((rows, heads * e))
        };
        for layer in 0..self.config.n_layers {
            for (name, matrix) in [("W_QKV", true), ("b_QKV", false)] {
                let name = format!("blocks.{layer}.attn.{name}");
                let Some(w) = self.named.get(&name) else { continue };
                let w = if matrix { w.clone() } else { w.unsqueeze(0)? };
                let part = |from: usize, count: usize| w.narrow(1, from * e, count * e)?.contiguous();
                let parts = [part(0, heads)?, copies(&part(heads, kv)?)?, copies(&part(heads + kv, kv)?)?];
                let all = Tensor::cat(&parts, 1)?;
                self.set(name, if matrix { all } else { all.squeeze(0)? });
            }
            let norm = format!("blocks.{layer}.attn.k_norm.w");
            if let Some(gain) = self.named.get(&norm).filter(|gain| gain.dims() == [kv * e]) {
                let gain = copies(&gain.unsqueeze(0)?)?.squeeze(0)?;
                self.set(norm, gain);
            }
        }
        self.config.architecture.n_key_value_heads = None;
        Ok(())
    }
}
