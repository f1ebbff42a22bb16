//! The decoder: embedding, positions, blocks of attention and MLP, unembedding (arXiv 1706.03762, GPT-2's pre-norm form).
//!
//! Letters in shapes: b batch, t sequence, d `d_model`, h heads, e `d_head`, m `d_mlp`, v vocabulary.

use candle_core::{DType, Device, IndexOp, Result, Tensor, Var};
use hooks::{Hook, HookedModel, Layer, Point, Site, Tokens};
use ops::{
    attention_pattern, attention_scores, causal_attention, dropout, embedding, gelu_erf, gelu_tanh, layer_norm_parts,
    linear, mix_values,
};
use rand::Rng;
use weights::Named;

use crate::{Activation, Config, Error, init};

/// A decoder with its weights.
#[derive(Clone, Debug)]
pub struct Decoder {
    config: Config,
    parameters: Vec<(String, Var)>,
    embed: Tensor,
    pos_embed: Tensor,
    blocks: Vec<Block>,
    ln_final: Norm,
    unembed: Option<Tensor>,
}

#[derive(Clone, Debug)]
struct Block {
    ln1: Norm,
    qkv: Linear,
    out: Linear,
    ln2: Norm,
    mlp_in: Linear,
    mlp_out: Linear,
}

#[derive(Clone, Debug)]
struct Norm {
    w: Tensor,
    b: Option<Tensor>,
}

#[derive(Clone, Debug)]
struct Linear {
    w: Tensor,
    b: Option<Tensor>,
}

/// Dropout of one training step: a probability, and a key of its own for every mask.
struct Drop {
    p: f64,
    key: u64,
}

impl Drop {
    fn apply(&mut self, x: Tensor) -> Result<Tensor> {
        if self.p == 0. {
            return Ok(x);
        }
        self.key = self.key.wrapping_add(1);
        // spread the counter over all 64 bits, so that keys of neighbouring steps do not meet
        dropout(&x, self.p, self.key.wrapping_mul(0xd134_2543_de82_ef95))
    }
}

impl Decoder {
    /// A decoder with fresh weights from a seeded stream, f32.
    ///
    /// # Errors
    /// When the sizes contradict each other.
    pub fn fresh(config: &Config, rng: &mut impl Rng, device: &Device) -> std::result::Result<Self, Error> {
        config.check()?;
        Self::new(config, init::fresh(config, rng)?, device)
    }

    /// A decoder with the given weights, named and shaped as [`Config::shapes`] says.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(config: &Config, weights: Named, device: &Device) -> std::result::Result<Self, Error> {
        config.check()?;
        let parameters = config
            .shapes()
            .into_iter()
            .map(|(name, shape)| match weights.get(&name) {
                Some(tensor) if tensor.dims() == shape => Ok((name, Var::from_tensor(&tensor.to_device(device)?)?)),
                Some(tensor) => {
                    Err(Error::Config(format!("weight `{name}` has shape {:?}, expected {shape:?}", tensor.dims())))
                }
                None => Err(Error::Config(format!("weight `{name}` is missing"))),
            })
            .collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(Self::assemble(config.clone(), parameters))
    }

    fn assemble(config: Config, parameters: Vec<(String, Var)>) -> Self {
        let find =
            |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, var)| var.as_tensor().clone());
        // every name below stands in `Config::shapes`, which `parameters` was made from
        let weight = |name: &str| find(name).expect("a weight of Config::shapes");
        let norm = |name: &str| Norm { w: weight(&format!("{name}.w")), b: find(&format!("{name}.b")) };
        let affine = |layer: usize, part: &str, name: &str| Linear {
            w: weight(&format!("blocks.{layer}.{part}.W_{name}")),
            b: find(&format!("blocks.{layer}.{part}.b_{name}")),
        };
        let blocks = (0..config.n_layers)
            .map(|layer| Block {
                ln1: norm(&format!("blocks.{layer}.ln1")),
                qkv: affine(layer, "attn", "QKV"),
                out: affine(layer, "attn", "O"),
                ln2: norm(&format!("blocks.{layer}.ln2")),
                mlp_in: affine(layer, "mlp", "in"),
                mlp_out: affine(layer, "mlp", "out"),
            })
            .collect();
        Self {
            embed: weight("embed.W_E"),
            pos_embed: weight("pos_embed.W_pos"),
            blocks,
            ln_final: norm("ln_final"),
            unembed: find("unembed.W_U"),
            config,
            parameters,
        }
    }

    /// Sizes and variations.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Every trainable weight, by name, in reading order.
    #[must_use]
    pub fn parameters(&self) -> &[(String, Var)] {
        &self.parameters
    }

    /// The weights as they are now.
    #[must_use]
    pub fn weights(&self) -> Named {
        self.parameters.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
    }

    /// Logits in training: with dropout, its masks a function of `key` alone.
    ///
    /// # Shapes
    /// `tokens` `[batch, seq]`, output `[batch, seq, d_vocab]`.
    ///
    /// # Errors
    /// As [`HookedModel::forward`].
    pub fn forward_training(&self, tokens: &Tokens, key: u64, hook: &mut dyn Hook) -> Result<Tensor> {
        self.run(tokens, &mut Drop { p: self.config.dropout, key }, hook)
    }

    fn run(&self, tokens: &Tokens, drop: &mut Drop, hook: &mut dyn Hook) -> Result<Tensor> {
        let (_, seq) = tokens.dims2()?;
        if seq > self.config.n_positions {
            let longest = self.config.n_positions;
            candle_core::bail!("a sequence of {seq} tokens does not fit the model's {longest} positions");
        }
        let embed = visit(hook, Site::Embed, embedding(tokens, &self.embed)?)?; // [b, t, d]
        let pos_embed = self.pos_embed.narrow(0, 0, seq)?.unsqueeze(0)?.broadcast_as(embed.shape())?; // [b, t, d]
        let pos_embed = visit(hook, Site::PosEmbed, pos_embed)?;
        let mut resid = drop.apply((embed + pos_embed)?)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            resid = self.block(block, Layer(layer), resid, drop, hook)?;
        }
        let x = self.norm(&self.ln_final, &resid, [Site::FinalScale, Site::FinalNormalized], hook)?;
        let logits = match &self.unembed {
            Some(w) => linear(&x, w, None)?,
            None => linear(&x, &self.embed.t()?, None)?,
        }; // [b, t, v]
        visit(hook, Site::Logits, logits)
    }

    fn block(
        &self,
        block: &Block,
        layer: Layer,
        resid: Tensor,
        drop: &mut Drop,
        hook: &mut dyn Hook,
    ) -> Result<Tensor> {
        let at = |point| Site::Block(layer, point);
        let resid = visit(hook, at(Point::ResidPre), resid)?;
        let x = self.norm(&block.ln1, &resid, [at(Point::Ln1Scale), at(Point::Ln1Normalized)], hook)?;
        let attn_out = self.attention(block, layer, &x, drop, hook)?;
        let attn_out = visit(hook, at(Point::AttnOut), attn_out)?;
        let resid = visit(hook, at(Point::ResidMid), (resid + drop.apply(attn_out)?)?)?;
        let x = self.norm(&block.ln2, &resid, [at(Point::Ln2Scale), at(Point::Ln2Normalized)], hook)?;
        let mlp_out = self.mlp(block, layer, &x, hook)?;
        let mlp_out = visit(hook, at(Point::MlpOut), mlp_out)?;
        visit(hook, at(Point::ResidPost), (resid + drop.apply(mlp_out)?)?)
    }

    fn attention(
        &self,
        block: &Block,
        layer: Layer,
        x: &Tensor,
        drop: &mut Drop,
        hook: &mut dyn Hook,
    ) -> Result<Tensor> {
        let at = |point| Site::Block(layer, point);
        let (b, t, d) = x.dims3()?;
        let (h, e) = (self.config.n_heads, self.config.d_head());
        let qkv = linear(x, &block.qkv.w, block.qkv.b.as_ref())?.reshape((b, t, 3, h, e))?;
        let inside = [Point::Q, Point::K, Point::V, Point::AttnScores, Point::Pattern];
        if drop.p == 0. && !inside.iter().any(|point| hook.wants(at(*point))) {
            // nobody looks inside, so the pattern need not exist
            let z = visit(hook, at(Point::Z), causal_attention(&qkv)?)?.reshape((b, t, d))?; // [b, t, d]
            return linear(&z, &block.out.w, block.out.b.as_ref());
        }
        let mut part = |index: usize, point| -> Result<Tensor> {
            let part = visit(hook, at(point), qkv.i((.., .., index))?)?; // [b, t, h, e]
            part.transpose(1, 2)?.contiguous() // [b, h, t, e]
        };
        let (q, k, v) = (part(0, Point::Q)?, part(1, Point::K)?, part(2, Point::V)?);
        let scores = visit(hook, at(Point::AttnScores), attention_scores(&q, &k)?)?; // [b, h, t, t]
        let pattern = visit(hook, at(Point::Pattern), attention_pattern(&scores)?)?; // [b, h, t, t]
        let z = mix_values(&drop.apply(pattern)?, &v)?.transpose(1, 2)?; // [b, t, h, e]
        let z = visit(hook, at(Point::Z), z)?.reshape((b, t, d))?; // [b, t, d]
        linear(&z, &block.out.w, block.out.b.as_ref())
    }

    fn mlp(&self, block: &Block, layer: Layer, x: &Tensor, hook: &mut dyn Hook) -> Result<Tensor> {
        let at = |point| Site::Block(layer, point);
        let pre = visit(hook, at(Point::MlpPre), linear(x, &block.mlp_in.w, block.mlp_in.b.as_ref())?)?; // [b, t, m]
        let post = match self.config.activation {
            Activation::GeluTanh => gelu_tanh(&pre)?,
            Activation::GeluErf => gelu_erf(&pre)?,
        };
        let post = visit(hook, at(Point::MlpPost), post)?; // [b, t, m]
        linear(&post, &block.mlp_out.w, block.mlp_out.b.as_ref())
    }

    fn norm(&self, norm: &Norm, x: &Tensor, sites: [Site; 2], hook: &mut dyn Hook) -> Result<Tensor> {
        let [scale, normalized] = sites;
        if !hook.wants(scale) && !hook.wants(normalized) {
            return ops::layer_norm(x, &norm.w, norm.b.as_ref(), self.config.norm_eps);
        }
        let parts = layer_norm_parts(x, self.config.norm_eps)?;
        let y = if hook.wants(scale) {
            // what the hook gives back becomes the divisor, so a frozen scale can be patched in
            let patched = hook.visit(scale, parts.scale.clone())?;
            (parts.normalized * parts.scale.broadcast_div(&patched)?.broadcast_as(x.shape())?)?
        } else {
            parts.normalized
        };
        let y = visit(hook, normalized, y)?.broadcast_mul(&norm.w)?;
        match &norm.b {
            Some(b) => y.broadcast_add(b),
            None => Ok(y),
        }
    }
}

impl HookedModel for Decoder {
    fn n_layers(&self) -> usize {
        self.config.n_layers
    }

    fn n_heads(&self) -> usize {
        self.config.n_heads
    }

    fn forward(&self, tokens: &Tokens, hook: &mut dyn Hook) -> Result<Tensor> {
        self.run(tokens, &mut Drop { p: 0., key: 0 }, hook)
    }
}

/// Shows `tensor` to the hook if it wants it, and goes on with what comes back.
fn visit(hook: &mut dyn Hook, site: Site, tensor: Tensor) -> Result<Tensor> {
    if !hook.wants(site) {
        return Ok(tensor);
    }
    let (shape, dtype): (_, DType) = (tensor.shape().clone(), tensor.dtype());
    let seen = hook.visit(site, tensor)?;
    if seen.shape() != &shape || seen.dtype() != dtype {
        candle_core::bail!("hook at {site}: {:?} {:?} came back for {shape:?} {dtype:?}", seen.shape(), seen.dtype());
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hooks::NoHook;
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;
    use crate::config::tests::tiny;

    /// Records everything, and replaces one site.
    #[derive(Default)]
    struct Probe {
        seen: BTreeMap<String, Tensor>,
        order: Vec<Site>,
        replace: Option<(Site, Tensor)>,
    }

    impl Hook for Probe {
        fn wants(&self, _: Site) -> bool {
            true
        }

        fn visit(&mut self, site: Site, tensor: Tensor) -> Result<Tensor> {
            self.order.push(site);
            self.seen.insert(site.to_string(), tensor.clone());
            match &self.replace {
                Some((at, other)) if *at == site => Ok(other.clone()),
                _ => Ok(tensor),
            }
        }
    }

    fn model(config: &Config) -> Decoder {
        Decoder::fresh(config, &mut ChaCha12Rng::seed_from_u64(1), &Device::Cpu).unwrap()
    }

    fn tokens() -> Tensor {
        Tensor::new(&[[1u32, 5, 3, 10], [2, 2, 0, 7]], &Device::Cpu).unwrap()
    }

    fn distance(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    fn variants() -> Vec<Config> {
        let erf = Config { activation: Activation::GeluErf, biases: false, tied: false, ..tiny() };
        vec![tiny(), Config { initialisation: crate::Initialisation::UniformFanIn, ..erf }]
    }

    #[test]
    fn every_site_is_visited_once_in_reading_order_and_looking_changes_nothing() {
        for config in variants() {
            let model = model(&config);
            let mut probe = Probe::default();
            let seen = model.forward(&tokens(), &mut probe).unwrap();
            assert_eq!(probe.order, Site::all(2).collect::<Vec<_>>());
            assert!(distance(&seen, &model.forward(&tokens(), &mut NoHook).unwrap()) < 1e-6);
        }
    }

    #[test]
    fn the_stream_is_the_sum_of_its_writes() {
        let mut probe = Probe::default();
        model(&tiny()).forward(&tokens(), &mut probe).unwrap();
        let at = |name: &str| &probe.seen[name];
        let mut sum = (at("hook_embed") + at("hook_pos_embed")).unwrap();
        for layer in 0..2 {
            sum = (sum + at(&format!("blocks.{layer}.hook_attn_out"))).unwrap();
            assert!(distance(&sum, at(&format!("blocks.{layer}.hook_resid_mid"))) < 1e-6);
            sum = (sum + at(&format!("blocks.{layer}.hook_mlp_out"))).unwrap();
            assert!(distance(&sum, at(&format!("blocks.{layer}.hook_resid_post"))) < 1e-6);
        }
        assert_eq!(at("blocks.1.attn.hook_pattern").dims(), [2, 2, 4, 4]);
        assert_eq!(at("blocks.1.attn.hook_z").dims(), [2, 4, 2, 4]);
        assert_eq!(at("blocks.0.ln1.hook_scale").dims(), [2, 4, 1]);
    }

    #[test]
    fn a_replaced_site_changes_what_follows_and_nothing_before() {
        let model = model(&tiny());
        let site = Site::Block(Layer(1), Point::Z);
        let zeros = Tensor::zeros((2, 4, 2, 4), DType::F32, &Device::Cpu).unwrap();
        let mut clean = Probe::default();
        let logits = model.forward(&tokens(), &mut clean).unwrap();
        let mut patched = Probe { replace: Some((site, zeros)), ..Probe::default() };
        let other = model.forward(&tokens(), &mut patched).unwrap();
        assert!(distance(&logits, &other) > 1e-6);
        for (name, tensor) in &clean.seen {
            let before = patched.order.iter().position(|s| s.to_string() == *name)
                <= patched.order.iter().position(|s| *s == site);
            if before {
                assert_eq!(distance(tensor, &patched.seen[name]), 0., "{name}");
            }
        }
        let wrong = Tensor::zeros((2, 4, 8), DType::F32, &Device::Cpu).unwrap();
        let mut patched = Probe { replace: Some((site, wrong)), ..Probe::default() };
        assert!(model.forward(&tokens(), &mut patched).unwrap_err().to_string().contains("blocks.1.attn.hook_z"));
    }

    #[test]
    fn later_tokens_do_not_reach_earlier_logits() {
        let model = model(&tiny());
        let other = Tensor::new(&[[1u32, 5, 3, 9], [2, 2, 0, 1]], &Device::Cpu).unwrap();
        let (a, b) = (model.forward(&tokens(), &mut NoHook).unwrap(), model.forward(&other, &mut NoHook).unwrap());
        assert_eq!(distance(&a.narrow(1, 0, 3).unwrap(), &b.narrow(1, 0, 3).unwrap()), 0.);
        assert!(distance(&a, &b) > 0.);
    }

    #[test]
    fn gradients_reach_every_weight() {
        for config in variants() {
            let model = model(&config);
            let loss = model.forward(&tokens(), &mut NoHook).unwrap().sqr().unwrap().sum_all().unwrap();
            let grads = loss.backward().unwrap();
            for (name, var) in model.parameters() {
                assert!(grads.get(var).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn dropout_is_a_function_of_its_key() {
        let model = model(&Config { dropout: 0.5, ..tiny() });
        let run = |key| model.forward_training(&tokens(), key, &mut NoHook).unwrap();
        assert_eq!(distance(&run(1), &run(1)), 0.);
        assert!(distance(&run(1), &run(2)) > 0.);
    }

    #[test]
    fn too_long_a_sequence_is_refused() {
        let tokens = Tensor::zeros((1, 8), DType::U32, &Device::Cpu).unwrap();
        let error = model(&tiny()).forward(&tokens, &mut NoHook).unwrap_err().to_string();
        assert!(error.contains("8 tokens") && error.contains("7 positions"), "{error}");
    }
}
