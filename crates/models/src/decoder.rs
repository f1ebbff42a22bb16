//! The decoder: embedding, positions, blocks of attention and MLP, unembedding (arXiv 1706.03762), with the variations
//! of its [`Architecture`](crate::Architecture).
//!
//! Letters in shapes: b batch, t sequence, d `d_model`, h heads, e `d_head`, m `d_mlp`, v vocabulary.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use hooks::{End, Hook, HookedModel, Layer, Past, Point, Site, Start, Tokens};
use ops::{
    NormParts, Pairs, Rotation, attention_pattern, attention_scores, attention_with_kv_cache, causal_attention,
    dropout, embedding, gelu_erf, gelu_tanh, linear, linear_transposed, mix_values, silu_gate,
};
use rand::Rng;
use weights::Named;

use crate::architecture::{FixedScales, NormKind, NormPath, NormPlace, Positions, QkNorm};
use crate::direct::{Direct, How, Pass, Want};
use crate::pass::{Affine, BlockPlaces, DropoutKey};
use crate::{Activation, Config, Error, init, pass};

/// A decoder with its weights.
#[derive(Clone, Debug)]
pub struct Decoder {
    config: Config,
    parameters: Vec<(String, Var)>,
    embed: Tensor,
    pos_embed: Option<Tensor>,
    blocks: Vec<Block>,
    ln_final: Norm,
    unembed: Option<Tensor>,
    unembed_bias: Option<Tensor>,
    direct: Option<Arc<Direct>>,
    /// What candle's graph follows to the direct pass.
    handle: Var,
}

#[derive(Clone, Debug)]
struct Block {
    ln1: Norm,
    qkv: Linear,
    /// Gains of the norms of queries and of keys.
    qk_norm: Option<[Tensor; 2]>,
    out: Linear,
    ln2: Norm,
    mlp_gate: Option<Linear>,
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

/// What attention has to know of where its tokens stand.
#[derive(Clone, Copy)]
struct Places<'a> {
    rotation: Option<&'a Rotation>,
    /// Keys and values of the places before.
    past: Option<&'a [Tensor; 2]>,
}

/// Dropout masks of one training step, in the order of their use.
struct Masks {
    drop: DropoutKey,
    used: u64,
}

impl Masks {
    fn new(p: f64, key: u64) -> Self {
        Self { drop: DropoutKey { p, key }, used: 0 }
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
    /// Scales of what the norms read, if they were asked for.
    pub norm_scales: Option<NormScales>,
}

/// Scales of what the norms read: `sqrt(var + eps)` of each token before LayerNorms, `sqrt(mean(x^2) + eps)` before
/// RMSNorms, whether or not the norm divides by it.
#[derive(Clone, Debug)]
pub struct NormScales {
    /// Mean over all tokens before attention, by block.
    pub ln1: Vec<f64>,
    /// Mean over all tokens before the MLP, by block.
    pub ln2: Vec<f64>,
    /// Of each token before the final norm, `[batch, seq]`; gradients flow through it.
    pub ln_final: Tensor,
}

/// How a training step runs through the decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step<'a> {
    /// Key of the step's dropout masks; without one, nothing is dropped.
    pub dropout: Option<u64>,
    /// Keep only what goes into each block for the backward pass, and compute the rest again: less memory, more time,
    /// the same bytes. Off the CPU, and in models of another form than GPT-2's, blocks whose heads are asked for are kept.
    pub recompute: bool,
    /// The learned position of every token, row after row; without, they count from 0 in each row.
    pub positions: Option<&'a [u32]>,
    /// Whether the scales of what the norms read are wanted.
    pub norm_scales: bool,
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

    /// A decoder with the given weights, named and shaped as [`Config::shapes`] says; those of another decoder are copied.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(config: &Config, weights: Named, device: &Device) -> std::result::Result<Self, Error> {
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
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let handle = Var::zeros((), DType::F32, device)?;
        Ok(Self::assemble(config.clone(), parameters, handle))
    }

    fn assemble(config: Config, parameters: Vec<(String, Var)>, handle: Var) -> Self {
        // `parameters` follow `Config::shapes`, as the places do
        let places = pass::Places::of(&config);
        let weight = |place: usize| parameters[place].1.as_tensor().clone();
        let norm = |at: Affine| Norm { w: weight(at.w), b: at.b.map(weight) };
        let linear = |at: Affine| Linear { w: weight(at.w), b: at.b.map(weight) };
        let block = |at: &BlockPlaces| Block {
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
            embed: weight(places.embed),
            pos_embed: places.pos_embed.map(weight),
            blocks: places.blocks.iter().map(block).collect(),
            ln_final: norm(places.ln_final),
            unembed: places.unembed.map(weight),
            unembed_bias: places.unembed_bias.map(weight),
            direct: Direct::new(&config, places).map(Arc::new),
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

    /// Fixes what norms divide by, or frees them; weights and their variables stay.
    ///
    /// # Errors
    /// When there is no such norm, or a number is not positive.
    pub fn set_fixed_scales(&mut self, fixed: FixedScales) -> std::result::Result<(), Error> {
        fixed.check(self.config.n_layers, self.config.architecture.norm_place)?;
        self.config.architecture.fixed = fixed;
        Ok(())
    }

    /// Where the weights are.
    #[must_use]
    pub fn device(&self) -> Device {
        self.embed.device().clone()
    }

    /// Every trainable weight, by name, in reading order.
    #[must_use]
    pub fn parameters(&self) -> &[(String, Var)] {
        &self.parameters
    }

    /// The same model with weights that take no gradient: a backward pass through it reaches activations alone.
    #[must_use]
    pub fn frozen(&self) -> Self {
        let mut frozen = self.clone();
        let linear = |map: &mut Linear| {
            map.w = map.w.detach();
            map.b = map.b.as_ref().map(Tensor::detach);
        };
        let norm = |norm: &mut Norm| {
            norm.w = norm.w.detach();
            norm.b = norm.b.as_ref().map(Tensor::detach);
        };
        frozen.embed = frozen.embed.detach();
        frozen.pos_embed = frozen.pos_embed.as_ref().map(Tensor::detach);
        frozen.unembed = frozen.unembed.as_ref().map(Tensor::detach);
        frozen.unembed_bias = frozen.unembed_bias.as_ref().map(Tensor::detach);
        norm(&mut frozen.ln_final);
        for block in &mut frozen.blocks {
            norm(&mut block.ln1);
            norm(&mut block.ln2);
            let maps = [&mut block.qkv, &mut block.out, &mut block.mlp_in, &mut block.mlp_out];
            maps.into_iter().chain(&mut block.mlp_gate).for_each(linear);
            block.qk_norm = block.qk_norm.as_ref().map(|gains| [gains[0].detach(), gains[1].detach()]);
        }
        frozen
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
    pub fn losses(&self, tokens: &Tokens, targets: &Tensor, taps: &[Layer], step: Step<'_>) -> Result<Losses> {
        let (batch, seq) = self.check(tokens)?;
        if batch * seq == 0 {
            candle_core::bail!("a batch of {batch} x {seq} tokens has no losses");
        }
        if let Some(Layer(layer)) = taps.iter().find(|Layer(layer)| *layer >= self.config.n_layers) {
            candle_core::bail!("block {layer} of a decoder of {}", self.config.n_layers);
        }
        if let Some((_, Layer(layer))) = taps.iter().enumerate().find(|(i, layer)| taps[..*i].contains(layer)) {
            candle_core::bail!("the heads of block {layer} are asked for twice");
        }
        let targets = targets.flatten_all()?.to_vec1::<u32>()?;
        if targets.len() != batch * seq {
            candle_core::bail!("{} targets for {batch} x {seq} tokens", targets.len());
        }
        let v = self.config.d_vocab;
        if let Some(target) = targets.iter().find(|target| **target as usize >= v && **target != ops::IGNORED) {
            candle_core::bail!("target {target} lies outside of the vocabulary of {v}");
        }
        if let Some(positions) = step.positions {
            self.check_positions(positions, batch * seq)?;
        }
        let drop = DropoutKey { p: step.dropout.map_or(0., |_| self.config.dropout), key: step.dropout.unwrap_or(0) };
        let counted = targets.iter().filter(|target| **target != ops::IGNORED).count();
        if let Some(direct) = self.direct() {
            let blocks = taps.iter().map(|layer| layer.0).collect();
            let want = Want::Losses { targets, recompute: step.recompute, taps: blocks, norm_scales: step.norm_scales };
            let out = self.pass(direct, tokens, step.positions, drop, want)?;
            let (h, e) = (self.config.n_heads, self.config.d_head());
            let each = batch * seq * h * e;
            let z = (0..taps.len()).map(|i| out.narrow(0, counted + i * each, each)?.reshape((batch, seq, h, e)));
            let norm_scales = step.norm_scales.then(|| {
                let first = counted + taps.len() * each;
                let ln_final = out.narrow(0, first, batch * seq)?.reshape((batch, seq))?;
                let means = out.narrow(0, first + batch * seq, 2 * self.config.n_layers)?.detach();
                let means = means.to_dtype(DType::F64)?.to_vec1::<f64>()?;
                let (ln1, ln2) = means.split_at(self.config.n_layers);
                Ok::<_, candle_core::Error>(NormScales { ln1: ln1.to_vec(), ln2: ln2.to_vec(), ln_final })
            });
            return Ok(Losses {
                losses: out.narrow(0, 0, counted)?,
                z: z.collect::<Result<_>>()?,
                norm_scales: norm_scales.transpose()?,
            });
        }
        let mut sites: Vec<Site> = taps.iter().map(|layer| Site::Block(*layer, Point::Z)).collect();
        if step.norm_scales {
            sites.extend(self.read_by_norms().into_iter().flatten());
        }
        let mut hook = Taps { sites, seen: Vec::new() };
        let mut masks = Masks { drop, used: 0 };
        let mut resid = self.embed(tokens, step.positions, &mut masks, &mut hook)?;
        let mut first = Layer(0);
        if step.recompute {
            resid = self.blocks_again(resid, &mut masks, &mut hook)?;
            first = Layer(self.config.n_layers);
        }
        let logits = self.run_between(Start::Resid(first, &resid), End::Logits, &mut masks, &mut hook)?;
        let rows: Vec<u32> = (0u32..).zip(&targets).filter(|(_, t)| **t != ops::IGNORED).map(|(row, _)| row).collect();
        let chosen: Vec<u32> = rows.iter().map(|row| targets[*row as usize]).collect();
        let device = tokens.device();
        let logits = logits.reshape((batch * seq, v))?.index_select(&Tensor::new(rows, device)?, 0)?;
        let norm_scales = step.norm_scales.then(|| self.norm_scales(&hook)).transpose()?;
        Ok(Losses {
            losses: ops::token_losses(&logits, &Tensor::new(chosen, device)?)?,
            z: hook.in_order(taps),
            norm_scales,
        })
    }

    /// The stream behind all blocks, of which only what goes into each is kept; the backward pass runs them again. Blocks
    /// whose heads are looked at are kept.
    fn blocks_again(&self, mut resid: Tensor, masks: &mut Masks, hook: &mut Taps) -> Result<Tensor> {
        for layer in 0..self.config.n_layers {
            let at = |point| Site::Block(Layer(layer), point);
            let (from, to) = (Layer(layer), End::Resid(Layer(layer + 1)));
            if hook.wants(at(Point::Z)) {
                resid = self.run_between(Start::Resid(from, &resid), to, masks, hook)?;
                continue;
            }
            resid = visit(hook, at(Point::ResidPre), resid)?;
            // the stream between attention and MLP is measured only, so it needs no gradient
            let sites = [Point::ResidMid].map(at).into_iter().filter(|site| hook.wants(*site)).collect();
            let mut inside = Taps { sites, seen: Vec::new() };
            let Masks { drop, used } = *masks;
            let out = self.run_between(Start::Resid(from, &resid.detach()), to, masks, &mut inside)?.detach();
            hook.seen.extend(inside.seen.into_iter().map(|(site, x)| (site, x.detach())));
            let name = format!("blocks.{layer}.");
            let read = self.parameters.iter().filter(|(of, _)| of.starts_with(&name));
            let read = read.map(|(_, var)| var.as_tensor().clone()).collect();
            let model = self.clone();
            resid = ops::run_again(&resid, out, read, move |x| {
                model.run_between(Start::Resid(from, x), to, &mut Masks { drop, used }, &mut hooks::NoHook)
            })?;
            resid = visit(hook, at(Point::ResidPost), resid)?;
        }
        Ok(resid)
    }

    /// The streams that norms read: before attention and before the MLP of each block, and, last, before the final norm.
    fn read_by_norms(&self) -> Vec<[Site; 2]> {
        let middle = if self.config.architecture.parallel { Point::ResidPre } else { Point::ResidMid };
        let block = |layer| [Point::ResidPre, middle].map(|point| Site::Block(Layer(layer), point));
        let last = Site::Block(Layer(self.config.n_layers - 1), Point::ResidPost);
        (0..self.config.n_layers).map(block).chain([[last, last]]).collect()
    }

    fn norm_scales(&self, seen: &Taps) -> Result<NormScales> {
        let (kind, eps) = (self.config.architecture.norm, self.config.norm_eps);
        let scale = |site: &Site| {
            let x = seen.seen.iter().find(|(at, _)| at == site).map(|(_, x)| x);
            let Some(x) = x else { candle_core::bail!("{site} was not visited") };
            let parts = match kind {
                NormKind::Layer => ops::layer_norm_parts(x, eps)?,
                NormKind::Rms => ops::rms_norm_parts(x, eps)?,
            };
            parts.scale.squeeze(candle_core::D::Minus1)
        };
        let mean = |site: &Site| scale(site)?.detach().to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>();
        let mut sites = self.read_by_norms();
        let last = sites.pop().map(|[last, _]| last);
        let Some(last) = last else { candle_core::bail!("a decoder without blocks") };
        Ok(NormScales {
            ln1: sites.iter().map(|[pre, _]| mean(pre)).collect::<Result<_>>()?,
            ln2: sites.iter().map(|[_, mid]| mean(mid)).collect::<Result<_>>()?,
            ln_final: scale(&last)?,
        })
    }

    /// The decoder's own pass, where it can take these weights.
    fn direct(&self) -> Option<&Arc<Direct>> {
        let takes = self.embed.device().is_cpu() && matches!(self.embed.dtype(), DType::F32 | DType::F64);
        self.direct.as_ref().filter(|_| takes)
    }

    /// One direct pass, attached to the weights in candle's graph.
    fn pass(
        &self,
        direct: &Arc<Direct>,
        tokens: &Tokens,
        positions: Option<&[u32]>,
        drop: DropoutKey,
        want: Want,
    ) -> Result<Tensor> {
        let (_, seq) = tokens.dims2()?;
        let tokens = tokens.flatten_all()?.to_vec1::<u32>()?;
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.config.d_vocab) {
            candle_core::bail!("token {token} lies outside of the vocabulary of {}", self.config.d_vocab);
        }
        let (handle, weights) = (self.handle.as_tensor(), &self.parameters);
        let tokens = (tokens, positions.map(<[u32]>::to_vec));
        let how = How { drop, fixed: self.config.architecture.fixed.clone() };
        let out = match self.embed.dtype() {
            DType::F64 => handle.apply_op1(Pass::<f64>::new(direct, weights, tokens, seq, how, want)),
            _ => handle.apply_op1(Pass::<f32>::new(direct, weights, tokens, seq, how, want)),
        }?;
        // weights that take no gradient
        Ok(if self.embed.is_variable() { out } else { out.detach() })
    }

    fn check(&self, tokens: &Tokens) -> Result<(usize, usize)> {
        let (batch, seq) = tokens.dims2()?;
        self.check_length(seq)?;
        Ok((batch, seq))
    }

    fn check_positions(&self, positions: &[u32], tokens: usize) -> Result<()> {
        if self.pos_embed.is_none() {
            candle_core::bail!("positions can be given to models that learn them, not to this one");
        }
        if positions.len() != tokens {
            candle_core::bail!("{} positions for {tokens} tokens", positions.len());
        }
        let longest = self.config.n_positions;
        match positions.iter().find(|position| **position as usize >= longest) {
            Some(position) => candle_core::bail!("position {position} lies outside of the model's {longest}"),
            None => Ok(()),
        }
    }

    /// The model whose place i is what place `positions[i]` is here: for sequences that leave places out.
    ///
    /// # Errors
    /// When it does not learn positions, or there is no such place.
    pub fn at_positions(&self, positions: &[u32]) -> std::result::Result<Self, Error> {
        self.check_positions(positions, positions.len())?;
        let mut weights = self.weights();
        if let Some(rows) = weights.get_mut("pos_embed.W_pos") {
            *rows = rows.index_select(&Tensor::new(positions, rows.device())?, 0)?;
        }
        Self::new(&Config { n_positions: positions.len(), ..self.config.clone() }, weights, &self.device())
    }

    fn check_length(&self, seq: usize) -> Result<()> {
        let longest = self.config.n_positions;
        if seq > longest {
            candle_core::bail!("a sequence of {seq} tokens does not fit the model's {longest} positions");
        }
        Ok(())
    }

    /// Every step an operation of its own, so that each site can be seen.
    fn run_between(&self, start: Start<'_>, end: End, drop: &mut Masks, hook: &mut dyn Hook) -> Result<Tensor> {
        let n_layers = self.config.n_layers;
        let (first, mut resid, past) = match start {
            Start::Tokens(tokens) => {
                self.check(tokens)?;
                (0, self.embed(tokens, None, drop, hook)?, None)
            }
            Start::Resid(Layer(layer), resid) => (layer, resid.clone(), None),
            Start::Suffix(Layer(layer), resid, past) => (layer, resid.clone(), Some(past)),
        }; // [b, t, d]
        let last = match end {
            End::Logits | End::LastLogits(_) => n_layers,
            End::Resid(Layer(layer)) => layer,
        };
        if first > last || last > n_layers {
            candle_core::bail!("no way from block {first} to block {last} in a model of {n_layers} blocks");
        }
        let (batch, seq, d) = resid.dims3()?;
        let before = past.map_or(0, |past| past.seq);
        self.check_length(before + seq)?;
        self.check_past(past, batch)?;
        if d != self.config.d_model {
            candle_core::bail!("a stream of width {d} does not fit the model's {}", self.config.d_model);
        }
        let rotation = self.rotation(before..before + seq);
        for (layer, block) in self.blocks.iter().enumerate().take(last).skip(first) {
            let places = Places { rotation: rotation.as_ref(), past: past.map(|past| &past.keys_values[layer]) };
            resid = self.block(block, Layer(layer), resid, places, drop, hook)?;
        }
        match end {
            End::Resid(_) => return Ok(resid),
            End::LastLogits(count) if count > seq => candle_core::bail!("the last {count} of {seq} places"),
            End::LastLogits(count) => resid = resid.narrow(1, seq - count, count)?,
            End::Logits => {}
        }
        let sites = [Site::FinalScale, Site::FinalNormalized];
        let x = self.norm(&self.ln_final, self.config.architecture.fixed.get(NormPath::Final), &resid, sites, hook)?;
        visit(hook, Site::Logits, self.unembed(&x)?) // [b, t, v]
    }

    fn embed(
        &self,
        tokens: &Tokens,
        positions: Option<&[u32]>,
        drop: &mut Masks,
        hook: &mut dyn Hook,
    ) -> Result<Tensor> {
        let (_, seq) = tokens.dims2()?;
        let embed = visit(hook, Site::Embed, embedding(tokens, &self.embed)?)?; // [b, t, d]
        let Some(pos_embed) = &self.pos_embed else { return drop.apply(embed) };
        let pos_embed = match positions {
            Some(positions) => {
                embedding(&Tensor::new(positions, tokens.device())?.reshape(tokens.shape())?, pos_embed)?
            }
            None => pos_embed.narrow(0, 0, seq)?.unsqueeze(0)?.broadcast_as(embed.shape())?,
        }; // [b, t, d]
        let pos_embed = visit(hook, Site::PosEmbed, pos_embed)?;
        drop.apply((embed + pos_embed)?)
    }

    fn check_past(&self, past: Option<&Past>, batch: usize) -> Result<()> {
        let Some(past) = past else { return Ok(()) };
        if past.keys_values.len() != self.config.n_layers {
            candle_core::bail!("a past of {} blocks for {}", past.keys_values.len(), self.config.n_layers);
        }
        let (kv, e) = (self.config.n_key_value_heads(), self.config.d_head());
        for tensor in past.keys_values.iter().flatten() {
            let shape = tensor.dims4()?;
            if shape.0 == 0 || !batch.is_multiple_of(shape.0) || (shape.1, shape.2, shape.3) != (past.seq, kv, e) {
                candle_core::bail!(
                    "a past of {shape:?} for a batch of {batch}, {} places, {kv} heads of {e}",
                    past.seq
                );
            }
        }
        Ok(())
    }

    fn rotation(&self, places: Range<usize>) -> Option<Rotation> {
        match &self.config.architecture.positions {
            Positions::Learned => None,
            Positions::Rotary(rotary) => {
                let pairs = if rotary.interleaved { Pairs::Interleaved } else { Pairs::Halves };
                Some(Rotation::new(pairs, &rotary.frequencies(), places).scaled(rotary.attention_factor()))
            }
        }
    }

    fn block(
        &self,
        block: &Block,
        layer: Layer,
        resid: Tensor,
        places: Places<'_>,
        drop: &mut Masks,
        hook: &mut dyn Hook,
    ) -> Result<Tensor> {
        let at = |point| Site::Block(layer, point);
        let architecture = &self.config.architecture;
        let fixed = |path| architecture.fixed.get(path);
        let [for_qk, for_v, for_mlp] =
            [NormPath::QueriesKeys(layer.0), NormPath::Values(layer.0), NormPath::Mlp(layer.0)].map(fixed);
        let before = |x: &Tensor, norm, fixed, sites, place, hook: &mut dyn Hook| match architecture.norm_place == place
        {
            true => self.norm(norm, fixed, x, sites, hook),
            false => Ok(x.clone()),
        };
        let ln1 = [at(Point::Ln1Scale), at(Point::Ln1Normalized)];
        let ln2 = [at(Point::Ln2Scale), at(Point::Ln2Normalized)];
        let resid = visit(hook, at(Point::ResidPre), resid)?;
        let x = before(&resid, &block.ln1, for_qk, ln1, NormPlace::Before, hook)?;
        // where values have another norm than queries and keys, hooks see the latter's
        let for_values = (for_qk != for_v).then(|| self.norm(&block.ln1, for_v, &resid, ln1, &mut hooks::NoHook));
        let attn_out = self.attention(block, layer, (&x, for_values.transpose()?.as_ref()), places, drop, hook)?;
        let attn_out = before(&attn_out, &block.ln1, None, ln1, NormPlace::After, hook)?;
        let attn_out = drop.apply(visit(hook, at(Point::AttnOut), attn_out)?)?;
        // a parallel block's MLP reads what attention read
        let (seen, mid) = match architecture.parallel {
            true => (resid.clone(), (resid + attn_out)?),
            false => {
                let mid = visit(hook, at(Point::ResidMid), (resid + attn_out)?)?;
                (mid.clone(), mid)
            }
        };
        let x = before(&seen, &block.ln2, for_mlp, ln2, NormPlace::Before, hook)?;
        let mlp_out = self.mlp(block, layer, &x, hook)?;
        let mlp_out = before(&mlp_out, &block.ln2, None, ln2, NormPlace::After, hook)?;
        let mlp_out = drop.apply(visit(hook, at(Point::MlpOut), mlp_out)?)?;
        visit(hook, at(Point::ResidPost), (mid + mlp_out)?)
    }

    fn attention(
        &self,
        block: &Block,
        layer: Layer,
        (x, for_values): (&Tensor, Option<&Tensor>),
        places: Places<'_>,
        drop: &mut Masks,
        hook: &mut dyn Hook,
    ) -> Result<Tensor> {
        let at = |point| Site::Block(layer, point);
        let (b, t, _) = x.dims3()?;
        let (h, kv, e) = (self.config.n_heads, self.config.n_key_value_heads(), self.config.d_head());
        let Places { rotation, past } = places;
        let before = past.map_or(Ok(0), |[k, _]| k.dim(1))?;
        let window = self.config.window(layer.0).filter(|window| *window < before + t);
        let qkv = match for_values {
            None => linear(x, &block.qkv.w, block.qkv.b.as_ref())?,
            Some(for_values) => {
                let part = |x: &Tensor, first: usize, count: usize| {
                    let w = block.qkv.w.narrow(1, first * e, count * e)?.contiguous()?;
                    let b = block.qkv.b.as_ref().map(|b| b.narrow(0, first * e, count * e)?.contiguous());
                    linear(x, &w, b.transpose()?.as_ref())
                };
                Tensor::cat(&[part(x, 0, h + kv)?, part(for_values, h + kv, kv)?], 2)?
            }
        };
        let qkv = qkv.reshape((b, t, h + 2 * kv, e))?;
        let looks = |points: &[Point]| points.iter().any(|point| hook.wants(at(*point)));
        let inside = looks(&[Point::AttnScores, Point::Pattern]) || window.is_some() || drop.drop.p > 0.;
        let parts = looks(&[Point::Q, Point::K, Point::V, Point::RotQ, Point::RotK]);
        let z = if !inside && !parts && rotation.is_none() && past.is_none() && block.qk_norm.is_none() {
            causal_attention(&qkv, kv)? // nobody looks inside, so the pattern need not exist
        } else {
            let q = visit(hook, at(Point::Q), qkv.narrow(2, 0, h)?)?; // [b, t, h, e]
            let k = visit(hook, at(Point::K), qkv.narrow(2, h, kv)?)?; // [b, t, kv, e]
            let v = visit(hook, at(Point::V), qkv.narrow(2, h + kv, kv)?)?; // [b, t, kv, e]
            let q = self.turn(q, block.qk_norm.as_ref().map(|gains| &gains[0]), rotation)?;
            let k = self.turn(k, block.qk_norm.as_ref().map(|gains| &gains[1]), rotation)?;
            let (q, k) = match rotation {
                Some(_) => (visit(hook, at(Point::RotQ), q)?, visit(hook, at(Point::RotK), k)?),
                None => (q, k),
            };
            if inside {
                let (k, v) = match past {
                    Some([past_k, past_v]) => (behind(past_k, &k)?, behind(past_v, &v)?),
                    None => (k, v),
                }; // [b, before + t, kv, e]
                let heads_first = |x: &Tensor| x.transpose(1, 2); // [b, heads, t, e]
                let scores = attention_scores(&heads_first(&q)?, &heads_first(&k)?, window)?; // [b, h, t, t]
                let scores = visit(hook, at(Point::AttnScores), scores)?;
                let pattern = visit(hook, at(Point::Pattern), attention_pattern(&scores)?)?; // [b, h, t, t]
                mix_values(&drop.apply(pattern)?, &heads_first(&v)?)?.transpose(1, 2)? // [b, t, h, e]
            } else {
                let qkv = Tensor::cat(&[q, k, v], 2)?;
                match past {
                    Some(past) => attention_with_kv_cache(&qkv, past, kv)?,
                    None => causal_attention(&qkv, kv)?,
                }
            }
        };
        let z = visit(hook, at(Point::Z), z)?; // [b, t, h, e]
        if !hook.wants(at(Point::Result)) {
            return linear(&z.reshape((b, t, h * e))?, &block.out.w, block.out.b.as_ref());
        }
        let w = block.out.w.reshape((h, e, self.config.d_model))?;
        let each = (0..h).map(|head| linear(&z.narrow(2, head, 1)?.squeeze(2)?, &w.get(head)?, None));
        let result = Tensor::stack(&each.collect::<Result<Vec<_>>>()?, 2)?; // [b, t, h, d]
        let sum = visit(hook, at(Point::Result), result)?.sum(2)?;
        match &block.out.b {
            Some(bias) => sum.broadcast_add(bias),
            None => Ok(sum),
        }
    }

    /// Norm and rotation of queries or keys, `[b, t, heads, e]` to the same.
    fn turn(&self, x: Tensor, gain: Option<&Tensor>, rotation: Option<&Rotation>) -> Result<Tensor> {
        let x = match (gain, self.config.architecture.qk_norm) {
            (Some(gain), QkNorm::Whole) => {
                ops::rms_norm(&x.flatten_from(2)?, gain, self.config.norm_eps)?.reshape(x.shape())?
            }
            (Some(gain), _) => ops::rms_norm(&x, gain, self.config.norm_eps)?,
            (None, _) => x,
        };
        match rotation {
            Some(rotation) => rotation.apply(&x),
            None => Ok(x),
        }
    }

    fn mlp(&self, block: &Block, layer: Layer, x: &Tensor, hook: &mut dyn Hook) -> Result<Tensor> {
        let at = |point| Site::Block(layer, point);
        let map = |map: &Linear| linear(x, &map.w, map.b.as_ref()); // [b, t, m]
        let inner = &block.mlp_in;
        let post = match &block.mlp_gate {
            // nobody looks at what goes into the activation, now or on the way back
            None if let Some(activation) = self.config.activation.kernel()
                && !hook.wants(at(Point::MlpPre))
                && !x.track_op()
                && !inner.w.track_op() =>
            {
                ops::linear_activated(x, &inner.w, inner.b.as_ref(), activation)?
            }
            None => self.activation(&visit(hook, at(Point::MlpPre), map(inner)?)?)?,
            Some(gate) => {
                let pre = visit(hook, at(Point::MlpPre), map(gate)?)?;
                let up = visit(hook, at(Point::MlpPreLinear), map(inner)?)?;
                match self.config.activation {
                    Activation::Silu => silu_gate(&pre, &up)?,
                    _ => (self.activation(&pre)? * up)?,
                }
            }
        };
        let post = visit(hook, at(Point::MlpPost), post)?; // [b, t, m]
        linear(&post, &block.mlp_out.w, block.mlp_out.b.as_ref())
    }

    fn activation(&self, pre: &Tensor) -> Result<Tensor> {
        match self.config.activation {
            Activation::GeluTanh => gelu_tanh(pre),
            Activation::GeluErf => gelu_erf(pre),
            Activation::Silu => pre.silu(),
        }
    }

    fn norm(
        &self,
        norm: &Norm,
        fixed: Option<f64>,
        x: &Tensor,
        sites: [Site; 2],
        hook: &mut dyn Hook,
    ) -> Result<Tensor> {
        let [scale, normalized] = sites;
        let (kind, eps) = (self.config.architecture.norm, self.config.norm_eps);
        if !hook.wants(scale) && !hook.wants(normalized) {
            return match (fixed, kind) {
                (Some(fixed), kind) => ops::fixed_norm(kind.kernel(), x, &norm.w, norm.b.as_ref(), fixed),
                (None, NormKind::Layer) => ops::layer_norm(x, &norm.w, norm.b.as_ref(), eps),
                (None, NormKind::Rms) => ops::rms_norm(x, &norm.w, eps),
            };
        }
        let NormParts { scale: divisor, normalized: mut y } = match (fixed, kind) {
            (Some(fixed), kind) => ops::fixed_norm_parts(kind.kernel(), x, fixed)?,
            (None, NormKind::Layer) => ops::layer_norm_parts(x, eps)?,
            (None, NormKind::Rms) => ops::rms_norm_parts(x, eps)?,
        };
        if hook.wants(scale) {
            // what the hook gives back becomes the divisor, so a frozen scale can be patched in
            let patched = visit(hook, scale, divisor.clone())?;
            if patched.id() != divisor.id() {
                y = y.broadcast_mul(&divisor.broadcast_div(&patched)?)?;
            }
        }
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

    fn sites(&self) -> Vec<Site> {
        self.config.sites()
    }

    fn unembed(&self, resid: &Tensor) -> Result<Tensor> {
        match &self.unembed {
            Some(w) => linear(resid, w, self.unembed_bias.as_ref()),
            None => linear_transposed(resid, &self.embed, self.unembed_bias.as_ref()),
        } // [b, t, v]
    }

    fn forward_between(&self, start: Start<'_>, end: End, hook: &mut dyn Hook) -> Result<Tensor> {
        if let (Start::Tokens(tokens), End::Logits) = (start, end) {
            let (batch, seq) = self.check(tokens)?;
            // a batch of nothing has no shards
            if let Some(direct) = self.direct()
                && batch * seq > 0
                && !self.config.sites().iter().any(|site| hook.wants(*site))
            {
                let logits = self.pass(direct, tokens, None, DropoutKey::default(), Want::Logits)?;
                return logits.reshape((batch, seq, self.config.d_vocab));
            }
        }
        self.run_between(start, end, &mut Masks::new(0., 0), hook)
    }
}

/// `x` behind the past, which each so many sequences share; `[b, t, ..]`.
fn behind(past: &Tensor, x: &Tensor) -> Result<Tensor> {
    let times = x.dim(0)? / past.dim(0)?;
    let past = if times > 1 { past.repeat((times, 1, 1, 1))? } else { past.clone() };
    Tensor::cat(&[&past, x], 1)
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
        let fixed = FixedScales {
            ln1_qk: vec![Some(0.7), Some(0.4)],
            ln1_v: vec![None, Some(0.4)],
            ln2: vec![None, Some(0.9)],
            ln_final: Some(1.1),
        };
        let some = Config { architecture: crate::Architecture { fixed, ..tiny().architecture }, ..tiny() };
        vec![tiny(), Config { initialisation: crate::Initialisation::UniformFanIn, ..erf }, some]
    }

    /// Weights with irregular entries, so that gains, biases and attention all matter.
    fn irregular(config: &Config, dtype: DType) -> Decoder {
        let size = 0.4 * (8. / config.d_model as f64).sqrt();
        let weights = config.shapes().into_iter().enumerate().map(|(which, (name, shape))| {
            let count: usize = shape.iter().product();
            let values: Vec<f64> = (0..count).map(|i| size * ((i * 7 + which * 13) as f64 * 0.731).sin()).collect();
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap())
        });
        Decoder::new(config, weights.collect(), &Device::Cpu).unwrap()
    }

    /// Whether the target of a row of [`batch`] counts: of two whole sequences of 7 (2 and 3) none does.
    fn counts(row: usize) -> bool {
        !row.is_multiple_of(3) && !(14..28).contains(&row)
    }

    /// Tokens and targets, some of which do not count.
    fn batch(batch: usize, seq: usize) -> (Tensor, Tensor) {
        let tokens: Vec<u32> = (0..batch * seq).map(|i| (i * 5 % 11) as u32).collect();
        let targets = (0..batch * seq).map(|i| if counts(i) { (i * 3 % 11) as u32 } else { ops::IGNORED });
        let tensor = |values: Vec<u32>| Tensor::from_vec(values, (batch, seq), &Device::Cpu).unwrap();
        (tensor(tokens), tensor(targets.collect()))
    }

    /// Everything that comes out of a step: losses, heads, if wanted the scales, and the gradient of every weight, of a sum
    /// of these.
    fn step(model: &Decoder, direct: bool, recompute: bool, norm_scales: bool) -> Vec<(String, Tensor)> {
        step_of(model, batch(6, 7), direct, recompute, norm_scales)
    }

    /// [`step`] on any batch.
    fn step_of(
        model: &Decoder,
        (tokens, targets): (Tensor, Tensor),
        direct: bool,
        recompute: bool,
        norm_scales: bool,
    ) -> Vec<(String, Tensor)> {
        let rows = tokens.elem_count();
        let taps = [Layer(1), Layer(0)];
        let scale = |x: &Tensor| ops::layer_norm_parts(x, 1e-5).unwrap().scale;
        let Losses { losses, z, norm_scales } = if direct {
            let step = Step { dropout: Some(9), recompute, norm_scales, ..Step::default() };
            model.losses(&tokens, &targets, &taps, step).unwrap()
        } else {
            let mut probe = Probe::default();
            let mut masks = Masks::new(model.config.dropout, 9);
            let logits = model.run_between(Start::Tokens(&tokens), End::Logits, &mut masks, &mut probe).unwrap();
            let logits = logits.reshape((rows, model.config.d_vocab)).unwrap();
            let losses = ops::token_losses(&logits, &targets.flatten_all().unwrap()).unwrap();
            let counted: Vec<u32> = (0..rows as u32).filter(|row| counts(*row as usize)).collect();
            let losses = losses.index_select(&Tensor::new(counted, &Device::Cpu).unwrap(), 0).unwrap();
            let mean = |layer: usize, site: &str| {
                let scales = scale(&probe.seen[&format!("blocks.{layer}.{site}")]).to_dtype(DType::F64).unwrap();
                scales.mean_all().unwrap().to_scalar::<f64>().unwrap()
            };
            let norm_scales = norm_scales.then(|| NormScales {
                ln1: vec![mean(0, "hook_resid_pre"), mean(1, "hook_resid_pre")],
                ln2: vec![mean(0, "hook_resid_mid"), mean(1, "hook_resid_mid")],
                ln_final: scale(&probe.seen["blocks.1.hook_resid_post"]).squeeze(2).unwrap(),
            });
            Losses {
                norm_scales,
                losses,
                z: taps.map(|l| probe.seen[&format!("blocks.{}.attn.hook_z", l.0)].clone()).to_vec(),
            }
        };
        let sum = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap();
        let mut total = (sum(&losses) + (sum(&z[0]) + sum(&z[1])).unwrap()).unwrap();
        let mut seen =
            vec![("losses".to_owned(), losses), ("z1".to_owned(), z[0].clone()), ("z0".to_owned(), z[1].clone())];
        if let Some(NormScales { ln1, ln2, ln_final }) = norm_scales {
            total = (total + sum(&ln_final)).unwrap();
            let means = Tensor::new([ln1, ln2].concat(), &Device::Cpu).unwrap().to_dtype(ln_final.dtype()).unwrap();
            seen.extend([("scales".to_owned(), ln_final), ("mean scales".to_owned(), means)]);
        }
        let store = ops::backward(&total).unwrap();
        let gradients = model.parameters.iter().map(|(name, var)| {
            (name.clone(), store.get(var).unwrap_or_else(|| panic!("no gradient for {name}")).clone())
        });
        seen.into_iter().chain(gradients).collect()
    }

    #[test]
    fn the_direct_pass_agrees_with_the_one_that_can_be_looked_into() {
        for config in variants() {
            // what is left out for rows that do not count depends on both
            for (dropout, norm_scales) in [(0., false), (0., true), (0.3, false), (0.3, true)] {
                let config = Config { dropout, ..config.clone() };
                for (dtype, bar) in [(DType::F64, 1e-11), (DType::F32, 1e-5)] {
                    let model = irregular(&config, dtype);
                    let (direct, composed) =
                        (step(&model, true, false, norm_scales), step(&model, false, false, norm_scales));
                    let case = format!("{dtype:?}, dropout {dropout}, norm_scales {norm_scales}");
                    assert_alike(&direct, &composed, bar, &case);
                }
            }
        }
    }

    fn assert_alike(direct: &[(String, Tensor)], composed: &[(String, Tensor)], bar: f64, case: &str) {
        for ((name, direct), (_, composed)) in direct.iter().zip(composed) {
            let flat = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
            let largest = flat(composed).abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            let difference = (flat(direct) - flat(composed)).unwrap().abs().unwrap().max_all().unwrap();
            let difference = difference.to_scalar::<f64>().unwrap() / (1. + largest);
            assert!(difference < bar, "{name}, {case}: {difference}");
        }
    }

    /// Sizes at which work is cut: several tiles of a weight, several blocks of queries, the kernel for short sequences, a
    /// last shard that is smaller, and a single sequence whose products all threads share.
    #[test]
    fn the_direct_pass_agrees_where_work_is_cut_into_parts() {
        let wide = Config { n_heads: 4, d_model: 64, d_mlp: 400, d_vocab: 43, n_positions: 130, ..tiny() };
        for (sequences, seq) in [(3, 130), (1, 130), (27, 20), (1, 20), (1, 2), (5, 64)] {
            for (dropout, norm_scales) in [(0., false), (0.3, true)] {
                let config = Config { dropout, ..wide.clone() };
                for (dtype, bar) in [(DType::F64, 1e-10), (DType::F32, 1e-5)] {
                    let model = irregular(&config, dtype);
                    let step = |direct| step_of(&model, batch(sequences, seq), direct, false, norm_scales);
                    let case = format!("{sequences} x {seq}, {dtype:?}, dropout {dropout}");
                    assert_alike(&step(true), &step(false), bar, &case);
                }
            }
        }
    }

    /// Models of another architecture, and blocks that keep nothing.
    fn other_forms() -> Vec<Config> {
        let rotary = Positions::Rotary(crate::Rotary {
            rotary_dim: 4,
            base: 10_000.,
            scaling: crate::Scaling::None,
            interleaved: false,
        });
        let llama = crate::Architecture {
            n_key_value_heads: Some(1),
            norm: NormKind::Rms,
            positions: rotary.clone(),
            gated: true,
            qk_norm: QkNorm::Head,
            ..crate::Architecture::default()
        };
        let neox = crate::Architecture { positions: rotary, parallel: true, ..crate::Architecture::default() };
        vec![
            Config { activation: Activation::Silu, biases: false, architecture: llama, ..tiny() },
            Config { tied: false, architecture: neox, ..tiny() },
        ]
    }

    #[test]
    fn other_forms_have_the_same_bytes_when_blocks_are_run_again_and_at_any_number_of_threads() {
        for config in other_forms() {
            let model = irregular(&Config { dropout: 0.2, ..config }, DType::F32);
            assert!(model.direct().is_none());
            let (tokens, targets) = batch(6, 7);
            let on = |threads: usize, recompute, taps: &[Layer]| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let step = Step { dropout: Some(9), recompute, norm_scales: true, ..Step::default() };
                    let Losses { losses, z, norm_scales } = model.losses(&tokens, &targets, taps, step).unwrap();
                    let NormScales { ln1, ln2, ln_final } = norm_scales.unwrap();
                    let sum = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap();
                    let total = z.iter().fold((sum(&losses) + sum(&ln_final)).unwrap(), |t, z| (t + sum(z)).unwrap());
                    let store = ops::backward(&total).unwrap();
                    let means = Tensor::new([ln1, ln2].concat(), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
                    let gradients = model.parameters.iter().map(|(name, var)| {
                        (name.clone(), store.get(var).unwrap_or_else(|| panic!("no gradient for {name}")).clone())
                    });
                    bytes(
                        [("losses".to_owned(), losses), ("means".to_owned(), means)]
                            .into_iter()
                            .chain(gradients)
                            .collect(),
                    )
                })
            };
            for taps in [[].as_slice(), &[Layer(1)]] {
                let kept = on(1, false, taps);
                for threads in [1, 2, 4] {
                    assert_eq!(kept, on(threads, false, taps));
                    assert_eq!(kept, on(threads, true, taps));
                }
            }
        }
    }

    /// Queries and keys alone change when their norm is fixed (spec of arXiv 2507.02559, U4).
    #[test]
    fn values_are_untouched_while_their_norm_is_free() {
        let mut model = irregular(&tiny(), DType::F32);
        let seen = |model: &Decoder| {
            let mut probe = Probe::default();
            model.forward(&tokens(), &mut probe).unwrap();
            probe.seen
        };
        let free = seen(&model);
        let mut fixed = FixedScales::default();
        fixed.set(NormPath::QueriesKeys(0), Some(0.3));
        model.set_fixed_scales(fixed.clone()).unwrap();
        let now = seen(&model);
        assert!(distance(&free["blocks.0.attn.hook_v"], &now["blocks.0.attn.hook_v"]) < 1e-6);
        assert!(distance(&free["blocks.0.attn.hook_q"], &now["blocks.0.attn.hook_q"]) > 1e-3);
        assert!(distance(&free["blocks.0.attn.hook_k"], &now["blocks.0.attn.hook_k"]) > 1e-3);
        fixed.set(NormPath::Mlp(1), Some(-1.));
        assert!(model.set_fixed_scales(fixed).unwrap_err().to_string().contains("mlp1"));
        let many = FixedScales { ln2: vec![None; 3], ln_final: Some(1.), ..FixedScales::default() };
        assert!(model.set_fixed_scales(many).unwrap_err().to_string().contains("3 norms"));
    }

    /// Fixed norms, the same folded away, and the same as a checkpoint with a large epsilon (U8).
    #[test]
    fn without_norms_folded_and_exported_are_the_same_model() {
        let fixed = FixedScales {
            ln1_qk: vec![Some(0.7), Some(2.4)],
            ln1_v: vec![Some(0.7), Some(2.4)],
            ln2: vec![Some(1.7), Some(0.9)],
            ln_final: Some(3.1),
        };
        let config = Config { architecture: crate::Architecture { fixed, ..tiny().architecture }, ..tiny() };
        let model = irregular(&config, DType::F32);
        let logits = model.forward(&tokens(), &mut NoHook).unwrap();
        let transforms = [crate::Transform::FoldNorms, crate::Transform::CentreWriting];
        let folded = model.transformed(&transforms).unwrap();
        assert_eq!(folded.config.architecture.fixed, FixedScales::all(2, 1.));
        assert!(distance(&logits, &folded.forward(&tokens(), &mut NoHook).unwrap()) < 1e-3);
        let folder = tempfile::tempdir().unwrap();
        crate::export(folder.path(), &model, crate::Family::Gpt2).unwrap();
        let (again, _) = crate::open(folder.path(), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(again.config.architecture.fixed, FixedScales::all(2, 1e6));
        assert!(distance(&logits, &again.forward(&tokens(), &mut NoHook).unwrap()) < 1e-3);
        // and with the epsilon itself, as PyTorch computes it
        let weights = again.weights();
        let plain = Config { norm_eps: 1e12, architecture: crate::Architecture::default(), ..config.clone() };
        let plain = Decoder::new(&plain, weights, &Device::Cpu).unwrap();
        assert!(distance(&logits, &plain.forward(&tokens(), &mut NoHook).unwrap()) < 1e-3);
        let mut some = model.clone();
        some.set_fixed_scales(FixedScales { ln_final: None, ..config.architecture.fixed }).unwrap();
        let refused = crate::export(folder.path(), &some, crate::Family::Gpt2).unwrap_err().to_string();
        assert!(refused.contains("others are not"), "{refused}");
    }

    #[test]
    fn positions_of_ones_own_are_those_of_a_model_without_the_places_left_out() {
        for (dtype, bar) in [(DType::F64, 1e-12), (DType::F32, 1e-6)] {
            let model = irregular(&Config { n_positions: 9, ..tiny() }, dtype);
            let (tokens, targets) = batch(6, 5);
            let left_out = [0, 1, 4, 6, 8];
            let positions: Vec<u32> = left_out.iter().copied().cycle().take(30).collect();
            let step = Step { positions: Some(&positions), ..Step::default() };
            let sum = |losses: &Losses| {
                losses.losses.sum_all().unwrap().to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap()
            };
            let losses = model.losses(&tokens, &targets, &[], step).unwrap();
            let ours = sum(&losses);
            let short = model.at_positions(&left_out).unwrap();
            assert_eq!(short.config().n_positions, 5);
            let theirs = sum(&short.losses(&tokens, &targets, &[], Step::default()).unwrap());
            assert!((ours - theirs).abs() < bar * ours, "{ours} {theirs}");
            let plain = sum(&model.losses(&tokens, &targets, &[], Step::default()).unwrap());
            assert!((ours - plain).abs() > 1e-3, "the positions change nothing");
            // through operations that can be looked into, with the same gradients
            let composed = model.embed(&tokens, Some(&positions), &mut Masks::new(0., 0), &mut hooks::NoHook).unwrap();
            let end = |x: &Tensor| {
                let mut masks = Masks::new(0., 0);
                let logits =
                    model.run_between(Start::Resid(Layer(0), x), End::Logits, &mut masks, &mut hooks::NoHook).unwrap();
                let logits = logits.reshape((30, model.config.d_vocab)).unwrap();
                let counted: Vec<u32> = (0..30u32).filter(|row| row % 3 != 0).collect();
                let counted = Tensor::new(counted, &Device::Cpu).unwrap();
                ops::token_losses(&logits, &targets.flatten_all().unwrap())
                    .unwrap()
                    .index_select(&counted, 0)
                    .unwrap()
                    .sum_all()
                    .unwrap()
            };
            let (a, b) = (ops::backward(&losses.losses.sum_all().unwrap()), ops::backward(&end(&composed)));
            let (a, b) = (a.unwrap(), b.unwrap());
            for (name, var) in &model.parameters {
                let of = |store: &candle_core::backprop::GradStore| {
                    store.get(var).unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap()
                };
                let difference = (of(&a) - of(&b)).unwrap().abs().unwrap().max_all().unwrap();
                assert!(difference.to_scalar::<f64>().unwrap() < bar * 100., "{name}");
            }
            for (wrong, word) in [(vec![0u32; 7], "7 positions"), (vec![9u32; 30], "position 9")] {
                let step = Step { positions: Some(&wrong), ..Step::default() };
                let refused = model.losses(&tokens, &targets, &[], step).err().unwrap().to_string();
                assert!(refused.contains(word), "{refused}");
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
        for (dropout, norm_scales) in [(0.2, true), (0., false)] {
            let model = irregular(&Config { dropout, ..tiny() }, DType::F32);
            let on = |threads: usize, recompute| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| bytes(step(&model, true, recompute, norm_scales)))
            };
            let one = on(1, false);
            assert_eq!(one, on(2, false));
            assert_eq!(one, on(4, false));
            assert_eq!(one, on(2, true));
        }
    }

    /// A batch cut into others: sums run in another order, but it is the same sum.
    #[test]
    fn gradients_of_a_batch_are_the_sums_over_its_parts() {
        for config in [variants(), other_forms()].concat() {
            let model = irregular(&config, DType::F64);
            let (tokens, targets) = batch(12, 7);
            let gradients = |first: usize, count: usize| -> Vec<Tensor> {
                let part = |x: &Tensor| x.narrow(0, first, count).unwrap();
                let losses = model.losses(&part(&tokens), &part(&targets), &[], Step::default()).unwrap().losses;
                let store = ops::backward(&losses.sum_all().unwrap()).unwrap();
                model.parameters.iter().map(|(_, var)| store.get(var).unwrap().detach()).collect()
            };
            let whole = gradients(0, 12);
            for parts in [vec![6, 6], vec![4, 4, 4], vec![1, 5, 6]] {
                let mut first = 0;
                let mut sums: Vec<Tensor> = Vec::new();
                for count in parts {
                    let part = gradients(first, count);
                    first += count;
                    if sums.is_empty() {
                        sums = part;
                    } else {
                        sums.iter_mut().zip(&part).for_each(|(sum, part)| ops::add_to(sum, part).unwrap());
                    }
                }
                for (((name, _), sum), whole) in model.parameters.iter().zip(&sums).zip(&whole) {
                    let away = (sum - whole).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                    assert!(away < 1e-11, "{name}: {away}");
                }
            }
        }
    }

    #[test]
    fn models_made_from_one_are_trained_apart() {
        let model = irregular(&tiny(), DType::F32);
        let other = Decoder::new(model.config(), model.weights(), &Device::Cpu).unwrap();
        let (var, same) = (&model.parameters[0].1, other.parameters[0].1.as_tensor());
        let before = same.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let step =
            ops::AdamWStep { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0., t: 1, gradient_scale: 1. };
        let zeros = || var.zeros_like().unwrap().detach();
        let (g, m, v) = (var.ones_like().unwrap().detach(), zeros(), zeros());
        ops::adamw(&[ops::Update { w: var.as_tensor(), g: &g, m: &m, v: &v, step }]).unwrap();
        assert_ne!(var.as_tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap(), before);
        assert_eq!(same.flatten_all().unwrap().to_vec1::<f32>().unwrap(), before);
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
        assert!(wrong(&tokens, &targets, &[Layer(1), Layer(0), Layer(1)]).contains("twice"));
        let (nothing, none) = batch(2, 0);
        assert!(wrong(&nothing, &none, &[]).contains("no losses"));
    }

    #[test]
    fn frozen_weights_get_no_gradient_from_losses_either() {
        for config in [vec![tiny()], other_forms()].concat() {
            let model = irregular(&config, DType::F32);
            let (tokens, targets) = batch(2, 3);
            let loss = |model: &Decoder| {
                let losses = model.losses(&tokens, &targets, &[], Step::default()).unwrap().losses;
                ops::backward(&losses.sum_all().unwrap()).unwrap()
            };
            let (free, frozen) = (loss(&model), loss(&model.frozen()));
            assert!(model.parameters.iter().all(|(_, var)| free.get(var).is_some()));
            assert!(model.parameters.iter().all(|(_, var)| frozen.get(var).is_none()));
        }
    }

    #[test]
    fn every_site_is_visited_once_in_reading_order_and_looking_changes_nothing() {
        for config in variants() {
            let model = model(&config);
            let mut probe = Probe::default();
            let seen = model.forward(&tokens(), &mut probe).unwrap();
            assert_eq!(probe.order, model.sites());
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
            let step = Step { dropout: Some(key), ..Step::default() };
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
