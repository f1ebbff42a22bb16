//! The decoder: embedding, positions, blocks of attention and MLP, unembedding (arXiv 1706.03762, GPT-2's pre-norm form).
//!
//! Letters in shapes: b batch, t sequence, d `d_model`, h heads, e `d_head`, m `d_mlp`, v vocabulary.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use hooks::{Hook, HookedModel, Layer, Point, Site, Tokens};
use ops::{
    attention_pattern, attention_scores, causal_attention, dropout, embedding, gelu_erf, gelu_tanh, layer_norm_parts,
    linear, mix_values,
};
use rand::Rng;
use weights::Named;

use crate::direct::{Direct, Pass, Want};
use crate::pass::{Affine, BlockPlaces, Drop, Places};
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
    direct: Arc<Direct>,
    /// What candle's graph follows to the direct pass.
    handle: Var,
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

/// Dropout masks of one training step, in the order of their use.
struct Masks {
    drop: Drop,
    used: u64,
}

impl Masks {
    fn new(p: f64, key: u64) -> Self {
        Self { drop: Drop { p, key }, used: 0 }
    }

    fn apply(&mut self, x: Tensor) -> Result<Tensor> {
        if self.drop.p == 0. {
            return Ok(x);
        }
        self.used += 1;
        dropout(&x, self.drop.p, self.drop.key(self.used))
    }
}

/// What [`Decoder::losses`] computes.
#[derive(Clone, Debug)]
pub struct Losses {
    /// Negative log-probability in nats of each target that counts, in the order of the batch, `[targets]`.
    pub losses: Tensor,
    /// Outputs of the heads of each block that was asked for, `[batch, seq, n_heads, d_head]`.
    pub z: Vec<Tensor>,
}

/// How a training step runs through the decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Key of the step's dropout masks; without one, nothing is dropped.
    pub dropout: Option<u64>,
    /// Keep only what goes into each block for the backward pass, and compute the rest again: less memory, more time,
    /// the same bytes.
    pub recompute: bool,
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
        let handle = Var::zeros((), DType::F32, device)?;
        Ok(Self::assemble(config.clone(), parameters, handle))
    }

    fn assemble(config: Config, parameters: Vec<(String, Var)>, handle: Var) -> Self {
        // `parameters` follow `Config::shapes`, as the places do
        let places = Places::of(&config);
        let weight = |place: usize| parameters[place].1.as_tensor().clone();
        let norm = |at: Affine| Norm { w: weight(at.w), b: at.b.map(weight) };
        let linear = |at: Affine| Linear { w: weight(at.w), b: at.b.map(weight) };
        let block = |at: &BlockPlaces| Block {
            ln1: norm(at.ln1),
            qkv: linear(at.qkv),
            out: linear(at.out),
            ln2: norm(at.ln2),
            mlp_in: linear(at.mlp_in),
            mlp_out: linear(at.mlp_out),
        };
        Self {
            embed: weight(places.embed),
            pos_embed: weight(places.pos_embed),
            blocks: places.blocks.iter().map(block).collect(),
            ln_final: norm(places.ln_final),
            unembed: places.unembed.map(weight),
            direct: Arc::new(Direct::new(&config, places)),
            handle,
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

    /// Losses of a training step, and on the way the outputs of the heads of some blocks.
    ///
    /// On the CPU, in f32 and f64, this runs on the decoder's own forward and backward pass, with the same bytes at any
    /// number of threads; elsewhere through [`HookedModel::forward`]. Gradients come from [`ops::backward`], and are those
    /// at the weights' values of that moment.
    ///
    /// # Shapes
    /// `tokens` and `targets` `[batch, seq]` (`u32`); targets that are [`ops::IGNORED`] count for nothing.
    ///
    /// # Errors
    /// As [`HookedModel::forward`]; when a target lies outside of the vocabulary, or a block does not exist.
    pub fn losses(&self, tokens: &Tokens, targets: &Tensor, taps: &[Layer], step: Step) -> Result<Losses> {
        let (batch, seq) = self.check(tokens)?;
        if let Some(Layer(layer)) = taps.iter().find(|Layer(layer)| *layer >= self.config.n_layers) {
            candle_core::bail!("block {layer} of a decoder of {}", self.config.n_layers);
        }
        let targets = targets.flatten_all()?.to_vec1::<u32>()?;
        if targets.len() != batch * seq {
            candle_core::bail!("{} targets for {batch} x {seq} tokens", targets.len());
        }
        let v = self.config.d_vocab;
        if let Some(target) = targets.iter().find(|target| **target as usize >= v && **target != ops::IGNORED) {
            candle_core::bail!("target {target} lies outside of the vocabulary of {v}");
        }
        let drop = Drop { p: step.dropout.map_or(0., |_| self.config.dropout), key: step.dropout.unwrap_or(0) };
        let counted = targets.iter().filter(|target| **target != ops::IGNORED).count();
        if self.is_direct() {
            let blocks = taps.iter().map(|layer| layer.0).collect();
            let want = Want::Losses { targets, recompute: step.recompute, taps: blocks };
            let out = self.pass(tokens, drop, want)?;
            let (h, e) = (self.config.n_heads, self.config.d_head());
            let each = batch * seq * h * e;
            let z = (0..taps.len()).map(|i| out.narrow(0, counted + i * each, each)?.reshape((batch, seq, h, e)));
            return Ok(Losses { losses: out.narrow(0, 0, counted)?, z: z.collect::<Result<_>>()? });
        }
        let sites = taps.iter().map(|layer| Site::Block(*layer, Point::Z)).collect();
        let mut hook = Taps { sites, seen: Vec::new() };
        let logits = self.run(tokens, &mut Masks { drop, used: 0 }, &mut hook)?;
        let rows: Vec<u32> = (0u32..).zip(&targets).filter(|(_, t)| **t != ops::IGNORED).map(|(row, _)| row).collect();
        let chosen: Vec<u32> = rows.iter().map(|row| targets[*row as usize]).collect();
        let device = tokens.device();
        let logits = logits.reshape((batch * seq, v))?.index_select(&Tensor::new(rows, device)?, 0)?;
        Ok(Losses { losses: ops::token_losses(&logits, &Tensor::new(chosen, device)?)?, z: hook.in_order(taps) })
    }

    /// Whether the decoder's own pass can take these weights.
    fn is_direct(&self) -> bool {
        self.embed.device().is_cpu() && matches!(self.embed.dtype(), DType::F32 | DType::F64)
    }

    /// One direct pass, attached to the weights in candle's graph.
    fn pass(&self, tokens: &Tokens, drop: Drop, want: Want) -> Result<Tensor> {
        let (_, seq) = tokens.dims2()?;
        let tokens = tokens.flatten_all()?.to_vec1::<u32>()?;
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.config.d_vocab) {
            candle_core::bail!("token {token} lies outside of the vocabulary of {}", self.config.d_vocab);
        }
        let (handle, weights) = (self.handle.as_tensor(), &self.parameters);
        match self.embed.dtype() {
            DType::F64 => handle.apply_op1(Pass::<f64>::new(&self.direct, weights, tokens, seq, drop, want)),
            _ => handle.apply_op1(Pass::<f32>::new(&self.direct, weights, tokens, seq, drop, want)),
        }
    }

    fn check(&self, tokens: &Tokens) -> Result<(usize, usize)> {
        let (batch, seq) = tokens.dims2()?;
        if seq > self.config.n_positions {
            let longest = self.config.n_positions;
            candle_core::bail!("a sequence of {seq} tokens does not fit the model's {longest} positions");
        }
        Ok((batch, seq))
    }

    /// Every step an operation of its own, so that each site can be seen.
    fn run(&self, tokens: &Tokens, drop: &mut Masks, hook: &mut dyn Hook) -> Result<Tensor> {
        let (_, seq) = self.check(tokens)?;
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
        drop: &mut Masks,
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
        drop: &mut Masks,
        hook: &mut dyn Hook,
    ) -> Result<Tensor> {
        let at = |point| Site::Block(layer, point);
        let (b, t, d) = x.dims3()?;
        let (h, e) = (self.config.n_heads, self.config.d_head());
        let qkv = linear(x, &block.qkv.w, block.qkv.b.as_ref())?.reshape((b, t, 3 * h, e))?;
        let inside = [Point::Q, Point::K, Point::V, Point::AttnScores, Point::Pattern];
        if drop.drop.p == 0. && !inside.iter().any(|point| hook.wants(at(*point))) {
            // nobody looks inside, so the pattern need not exist
            let z = visit(hook, at(Point::Z), causal_attention(&qkv, h)?)?.reshape((b, t, d))?; // [b, t, d]
            return linear(&z, &block.out.w, block.out.b.as_ref());
        }
        let mut part = |index: usize, point| -> Result<Tensor> {
            let part = visit(hook, at(point), qkv.narrow(2, index * h, h)?)?; // [b, t, h, e]
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
        let (batch, seq) = self.check(tokens)?;
        // a batch of nothing has no shards
        if self.is_direct() && batch * seq > 0 && !Site::all(self.config.n_layers).any(|site| hook.wants(site)) {
            return self.pass(tokens, Drop::default(), Want::Logits)?.reshape((batch, seq, self.config.d_vocab));
        }
        self.run(tokens, &mut Masks::new(0., 0), hook)
    }
}

/// Remembers what it sees at some sites.
struct Taps {
    sites: Vec<Site>,
    seen: Vec<(Site, Tensor)>,
}

impl Taps {
    fn in_order(self, taps: &[Layer]) -> Vec<Tensor> {
        let find = |layer: &Layer| {
            self.seen.iter().find(|(site, _)| *site == Site::Block(*layer, Point::Z)).map(|(_, z)| z.clone())
        };
        taps.iter().filter_map(find).collect()
    }
}

impl Hook for Taps {
    fn wants(&self, site: Site) -> bool {
        self.sites.contains(&site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> Result<Tensor> {
        self.seen.push((site, tensor.clone()));
        Ok(tensor)
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

    /// Weights with irregular entries, so that gains, biases and attention all matter.
    fn irregular(config: &Config, dtype: DType) -> Decoder {
        let weights = config.shapes().into_iter().enumerate().map(|(which, (name, shape))| {
            let count: usize = shape.iter().product();
            let values: Vec<f64> = (0..count).map(|i| 0.4 * ((i * 7 + which * 13) as f64 * 0.731).sin()).collect();
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap())
        });
        Decoder::new(config, weights.collect(), &Device::Cpu).unwrap()
    }

    /// Tokens and targets, some of which do not count.
    fn batch(batch: usize, seq: usize) -> (Tensor, Tensor) {
        let tokens: Vec<u32> = (0..batch * seq).map(|i| (i * 5 % 11) as u32).collect();
        let targets = (0..batch * seq).map(|i| if i % 3 == 0 { ops::IGNORED } else { (i * 3 % 11) as u32 });
        let tensor = |values: Vec<u32>| Tensor::from_vec(values, (batch, seq), &Device::Cpu).unwrap();
        (tensor(tokens), tensor(targets.collect()))
    }

    /// Everything that comes out of a step: losses, heads, and the gradient of every weight, of a sum of both.
    fn step(model: &Decoder, direct: bool, recompute: bool) -> Vec<(String, Tensor)> {
        let (tokens, targets) = batch(6, 7);
        let taps = [Layer(1), Layer(0)];
        let Losses { losses, z } = if direct {
            model.losses(&tokens, &targets, &taps, Step { dropout: Some(9), recompute }).unwrap()
        } else {
            let mut probe = Probe::default();
            let logits = model.run(&tokens, &mut Masks::new(model.config.dropout, 9), &mut probe).unwrap();
            let logits = logits.reshape((42, model.config.d_vocab)).unwrap();
            let losses = ops::token_losses(&logits, &targets.flatten_all().unwrap()).unwrap();
            let counted: Vec<u32> = (0..42u32).filter(|row| row % 3 != 0).collect();
            let losses = losses.index_select(&Tensor::new(counted, &Device::Cpu).unwrap(), 0).unwrap();
            Losses { losses, z: taps.map(|l| probe.seen[&format!("blocks.{}.attn.hook_z", l.0)].clone()).to_vec() }
        };
        let sum = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap();
        let total = (sum(&losses) + (sum(&z[0]) + sum(&z[1])).unwrap()).unwrap();
        let store = ops::backward(&total).unwrap();
        let gradients = model.parameters.iter().map(|(name, var)| {
            (name.clone(), store.get(var).unwrap_or_else(|| panic!("no gradient for {name}")).clone())
        });
        let seen = [("losses".to_owned(), losses), ("z1".to_owned(), z[0].clone()), ("z0".to_owned(), z[1].clone())];
        seen.into_iter().chain(gradients).collect()
    }

    #[test]
    fn the_direct_pass_agrees_with_the_one_that_can_be_looked_into() {
        for config in variants() {
            for dropout in [0., 0.3] {
                let config = Config { dropout, ..config.clone() };
                for (dtype, bar) in [(DType::F64, 1e-11), (DType::F32, 1e-5)] {
                    let model = irregular(&config, dtype);
                    for ((name, direct), (_, composed)) in
                        step(&model, true, false).iter().zip(&step(&model, false, false))
                    {
                        let flat = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
                        let largest = flat(composed).abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                        let difference = (flat(direct) - flat(composed)).unwrap().abs().unwrap().max_all().unwrap();
                        let difference = difference.to_scalar::<f64>().unwrap() / (1. + largest);
                        assert!(difference < bar, "{name}, {dtype:?}, dropout {dropout}: {difference}");
                    }
                }
            }
        }
    }

    fn bytes(step: Vec<(String, Tensor)>) -> Vec<(String, Vec<u32>)> {
        let bits =
            |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
        step.into_iter().map(|(name, tensor)| (name, bits(tensor))).collect()
    }

    #[test]
    fn same_bytes_at_any_number_of_threads_and_when_blocks_are_computed_again() {
        let model = irregular(&Config { dropout: 0.2, ..tiny() }, DType::F32);
        let on = |threads: usize, recompute| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bytes(step(&model, true, recompute)))
        };
        let one = on(1, false);
        assert_eq!(one, on(2, false));
        assert_eq!(one, on(4, false));
        assert_eq!(one, on(2, true));
    }

    #[test]
    fn a_second_backward_pass_gives_the_same() {
        let model = irregular(&tiny(), DType::F32);
        let (tokens, targets) = batch(3, 5);
        let losses = model.losses(&tokens, &targets, &[], Step::default()).unwrap().losses;
        let gradient = || {
            let store = ops::backward(&losses.sum_all().unwrap()).unwrap();
            store.get(&model.parameters[0].1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(gradient(), gradient());
        let logits = model.forward(&tokens, &mut NoHook).unwrap();
        let losses = ops::token_losses(&logits.reshape((15, 11)).unwrap(), &targets.flatten_all().unwrap()).unwrap();
        let store = ops::backward(&losses.sum_all().unwrap()).unwrap();
        let other = store.get(&model.parameters[0].1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in gradient().iter().zip(other) {
            assert!((a - b).abs() < 1e-5);
        }
    }

    #[test]
    fn targets_tokens_and_blocks_that_do_not_exist_are_refused() {
        let model = irregular(&tiny(), DType::F32);
        let (tokens, targets) = batch(2, 3);
        let wrong = |tokens: &Tensor, targets: &Tensor, taps: &[Layer]| {
            model.losses(tokens, targets, taps, Step::default()).unwrap_err().to_string()
        };
        let eleven = Tensor::full(11u32, (2, 3), &Device::Cpu).unwrap();
        assert!(wrong(&tokens, &eleven, &[]).contains("target 11"));
        assert!(wrong(&eleven, &targets, &[]).contains("token 11"));
        assert!(wrong(&tokens, &targets, &[Layer(2)]).contains("block 2"));
        assert!(wrong(&tokens, &batch(1, 3).1, &[]).contains("3 targets"));
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
            let grads = ops::backward(&loss).unwrap();
            for (name, var) in model.parameters() {
                assert!(grads.get(var).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn dropout_is_a_function_of_its_key() {
        let model = model(&Config { dropout: 0.5, ..tiny() });
        let (tokens, targets) = batch(2, 4);
        let run = |key| {
            let step = Step { dropout: Some(key), recompute: false };
            model.losses(&tokens, &targets, &[], step).unwrap().losses
        };
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
