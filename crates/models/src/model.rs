//! The decoder-only transformer of "Attention Is All You Need" (arXiv 1706.03762) in GPT-2's arrangement, with the
//! variations that [`Architecture`](crate::Architecture) lists.
//!
//! This file is the model: its weights, then its forward pass in reading order, from tokens to logits. Each step is an
//! operation of its own, so that hooks can see every [`Site`]. The fast pass (`fast`) computes the same numbers when no
//! hook needs to see them.
//!
//! Letters in shapes: b batch, t sequence, d `d_model`, h query heads, k key and value heads, e `d_head`, m `d_mlp`,
//! v vocabulary.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use hooks::{End, Hook, Layer, NoHook, Point, Site, Start, Tokens};
use ops::{
    NormParts, Rotation, attention_pattern, attention_scores, attention_with_kv_cache, causal_attention, embedding,
    linear, linear_transposed, mix_values, silu_gate,
};

use crate::architecture::{NormKind, NormPath, NormPlace, QkNorm};
use crate::dropout::DropoutMasks;
use crate::fast::FastPass;
use crate::hooked::{append_to_past, visit};
use crate::layers::{Linear, Norm};
use crate::{Activation, Config};

/// A decoder with its weights.
///
/// # Examples
/// ```
/// use candle_core::{Device, Tensor};
/// use hooks::{HookedModel, NoHook};
/// use models::{Config, Decoder};
/// use rand::SeedableRng;
///
/// let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
/// let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(0);
/// let model = Decoder::fresh(&sizes, &mut rng, &Device::Cpu)?;
///
/// let tokens = Tensor::new(&[[3u32, 14, 15, 9]], &Device::Cpu)?;
/// let logits = model.forward(&tokens, &mut NoHook)?;
/// assert_eq!(logits.dims(), [1, 4, 50]); // [batch, seq, d_vocab]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Decoder {
    pub(crate) config: Config,
    /// Every weight by name, in the order of [`Config::shapes`]; the tensors below are the same memory.
    pub(crate) parameters: Vec<(String, Var)>,
    pub(crate) embed: Tensor,             // [v, d]
    pub(crate) pos_embed: Option<Tensor>, // [n_positions, d]
    pub(crate) blocks: Vec<Block>,
    pub(crate) ln_final: Norm,
    pub(crate) unembed: Option<Tensor>, // [d, v]; none where it is the embedding transposed
    pub(crate) unembed_bias: Option<Tensor>, // [v]
    /// The fast pass, for architectures that it supports.
    pub(crate) fast: Option<Arc<FastPass>>,
    /// The input of the fast pass in candle's graph.
    pub(crate) handle: Var,
}

#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) ln1: Norm,
    pub(crate) qkv: Linear, // d to (h + 2k) e
    /// Gains of the norms of queries and of keys.
    pub(crate) qk_norm: Option<[Tensor; 2]>,
    pub(crate) out: Linear, // h e to d
    pub(crate) ln2: Norm,
    pub(crate) mlp_gate: Option<Linear>, // d to m
    pub(crate) mlp_in: Linear,           // d to m
    pub(crate) mlp_out: Linear,          // m to d
}

/// Positions of the tokens that attention reads.
#[derive(Clone, Copy)]
struct AttentionContext<'a> {
    rotation: Option<&'a Rotation>,
    /// Keys and values of earlier positions, `[b, t, k, e]` each.
    past: Option<&'a [Tensor; 2]>,
}

impl Decoder {
    /// Part of a forward pass, operation by operation.
    pub(crate) fn forward_composed(
        &self,
        start: Start<'_>,
        end: End,
        dropout: &mut DropoutMasks,
        hook: &mut dyn Hook,
    ) -> Result<Tensor> {
        let (first, mut resid, past) = match start {
            Start::Tokens(tokens) => {
                self.check_tokens(tokens)?;
                (0, self.embed(tokens, None, dropout, hook)?, None)
            }
            Start::Resid(Layer(layer), resid) => (layer, resid.clone(), None),
            Start::Suffix(Layer(layer), resid, past) => (layer, resid.clone(), Some(past)),
        }; // [b, t, d]
        let last = match end {
            End::Logits | End::LastLogits(_) => self.config.n_layers,
            End::Resid(Layer(layer)) => layer,
        };
        self.check_stream(first..last, &resid, past, end)?;
        let (_, seq, _) = resid.dims3()?;
        let n_past = past.map_or(0, |past| past.seq);
        let rotation = self.config.architecture.positions.rotation(n_past..n_past + seq);
        for layer in first..last {
            let past = past.map(|past| &past.keys_values[layer]);
            let context = AttentionContext { rotation: rotation.as_ref(), past };
            resid = self.block(Layer(layer), resid, context, dropout, hook)?;
        }
        match end {
            End::Resid(_) => return Ok(resid),
            End::LastLogits(count) => resid = resid.narrow(1, seq - count, count)?,
            End::Logits => {}
        }
        let fixed = self.config.architecture.fixed.get(NormPath::Final);
        let x = self.norm(&self.ln_final, fixed, &resid, [Site::FinalScale, Site::FinalNormalized], hook)?;
        visit(hook, Site::Logits, self.logits(&x)?) // [b, t, v]
    }

    /// Token embedding, plus position embedding where positions are learned: `[b, t]` to `[b, t, d]`.
    pub(crate) fn embed(
        &self,
        tokens: &Tokens,
        positions: Option<&[u32]>,
        dropout: &mut DropoutMasks,
        hook: &mut dyn Hook,
    ) -> Result<Tensor> {
        let (_, seq) = tokens.dims2()?;
        let embed = visit(hook, Site::Embed, embedding(tokens, &self.embed)?)?; // [b, t, d]
        let Some(pos_embed) = &self.pos_embed else { return dropout.apply(embed) };
        let pos_embed = match positions {
            Some(positions) => {
                let positions = Tensor::new(positions, tokens.device())?.reshape(tokens.shape())?;
                embedding(&positions, pos_embed)?
            }
            None => pos_embed.narrow(0, 0, seq)?.unsqueeze(0)?.broadcast_as(embed.shape())?,
        }; // [b, t, d]
        let pos_embed = visit(hook, Site::PosEmbed, pos_embed)?;
        dropout.apply((embed + pos_embed)?)
    }

    /// Attention, then the MLP, each added to the residual stream; `[b, t, d]` to the same.
    fn block(
        &self,
        layer: Layer,
        resid: Tensor,
        context: AttentionContext<'_>,
        dropout: &mut DropoutMasks,
        hook: &mut dyn Hook,
    ) -> Result<Tensor> {
        let (block, architecture) = (&self.blocks[layer.0], &self.config.architecture);
        let at = |point| Site::Block(layer, point);
        let (ln1, ln2) =
            ([at(Point::Ln1Scale), at(Point::Ln1Normalized)], [at(Point::Ln2Scale), at(Point::Ln2Normalized)]);
        let (pre_norm, post_norm) = match architecture.norm_place {
            NormPlace::Before => (true, false),
            NormPlace::After => (false, true),
        };
        let [fixed_qk, fixed_v, fixed_mlp] =
            [NormPath::QueriesKeys(layer.0), NormPath::Values(layer.0), NormPath::Mlp(layer.0)]
                .map(|path| architecture.fixed.get(path));

        let resid = visit(hook, at(Point::ResidPre), resid)?;
        let x = if pre_norm { self.norm(&block.ln1, fixed_qk, &resid, ln1, hook)? } else { resid.clone() };
        // values can have a fixed scale of their own; hooks see the norm that queries and keys read
        let for_values = match fixed_qk == fixed_v {
            true => None,
            false => Some(self.norm(&block.ln1, fixed_v, &resid, ln1, &mut NoHook)?),
        };
        let attn_out = self.attention(layer, (&x, for_values.as_ref()), context, dropout, hook)?;
        let attn_out = if post_norm { self.norm(&block.ln1, None, &attn_out, ln1, hook)? } else { attn_out };
        let attn_out = dropout.apply(visit(hook, at(Point::AttnOut), attn_out)?)?;
        let mid = (&resid + attn_out)?;

        // the MLP of a parallel block reads the same stream as its attention
        let (mlp_reads, mid) = match architecture.parallel {
            true => (resid, mid),
            false => {
                let mid = visit(hook, at(Point::ResidMid), mid)?;
                (mid.clone(), mid)
            }
        };
        let x = if pre_norm { self.norm(&block.ln2, fixed_mlp, &mlp_reads, ln2, hook)? } else { mlp_reads };
        let mlp_out = self.mlp(layer, &x, hook)?;
        let mlp_out = if post_norm { self.norm(&block.ln2, None, &mlp_out, ln2, hook)? } else { mlp_out };
        let mlp_out = dropout.apply(visit(hook, at(Point::MlpOut), mlp_out)?)?;
        visit(hook, at(Point::ResidPost), (mid + mlp_out)?)
    }

    /// Causal self-attention, `[b, t, d]` to the same; values read `for_values` where it is given.
    fn attention(
        &self,
        layer: Layer,
        (x, for_values): (&Tensor, Option<&Tensor>),
        AttentionContext { rotation, past }: AttentionContext<'_>,
        dropout: &mut DropoutMasks,
        hook: &mut dyn Hook,
    ) -> Result<Tensor> {
        let (block, at) = (&self.blocks[layer.0], |point| Site::Block(layer, point));
        let (b, t, _) = x.dims3()?;
        let (h, kv, e) = (self.config.n_heads, self.config.n_key_value_heads(), self.config.d_head());
        let n_past = past.map_or(Ok(0), |[k, _]| k.dim(1))?;
        let window = self.config.window(layer.0).filter(|window| *window < n_past + t);
        let qkv = match for_values {
            None => block.qkv.forward(x)?,
            Some(for_values) => {
                let queries_keys = block.qkv.forward_columns(x, 0, (h + kv) * e)?;
                Tensor::cat(&[queries_keys, block.qkv.forward_columns(for_values, (h + kv) * e, kv * e)?], 2)?
            }
        };
        let qkv = qkv.reshape((b, t, h + 2 * kv, e))?;
        let wants = |points: &[Point]| points.iter().any(|point| hook.wants(at(*point)));
        let needs_pattern = wants(&[Point::AttnScores, Point::Pattern]) || window.is_some() || dropout.p() > 0.;
        let needs_parts = wants(&[Point::Q, Point::K, Point::V, Point::RotQ, Point::RotK]);
        let is_plain = rotation.is_none() && past.is_none() && block.qk_norm.is_none();
        let z = if !needs_pattern && !needs_parts && is_plain {
            causal_attention(&qkv, kv)?
        } else {
            let q = visit(hook, at(Point::Q), qkv.narrow(2, 0, h)?)?; // [b, t, h, e]
            let k = visit(hook, at(Point::K), qkv.narrow(2, h, kv)?)?; // [b, t, k, e]
            let v = visit(hook, at(Point::V), qkv.narrow(2, h + kv, kv)?)?; // [b, t, k, e]
            let q = self.norm_and_rotate(q, block.qk_norm.as_ref().map(|gains| &gains[0]), rotation)?;
            let k = self.norm_and_rotate(k, block.qk_norm.as_ref().map(|gains| &gains[1]), rotation)?;
            let (q, k) = match rotation {
                Some(_) => (visit(hook, at(Point::RotQ), q)?, visit(hook, at(Point::RotK), k)?),
                None => (q, k),
            };
            if needs_pattern {
                let (k, v) = match past {
                    Some([past_k, past_v]) => (append_to_past(past_k, &k)?, append_to_past(past_v, &v)?),
                    None => (k, v),
                }; // [b, n_past + t, k, e]
                let heads_first = |x: &Tensor| x.transpose(1, 2); // [b, heads, t, e]
                let scores = attention_scores(&heads_first(&q)?, &heads_first(&k)?, window)?; // [b, h, t, n_past + t]
                let scores = visit(hook, at(Point::AttnScores), scores)?;
                let pattern = visit(hook, at(Point::Pattern), attention_pattern(&scores)?)?;
                mix_values(&dropout.apply(pattern)?, &heads_first(&v)?)?.transpose(1, 2)? // [b, t, h, e]
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
            return block.out.forward(&z.reshape((b, t, h * e))?);
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

    /// Norm and rotation of queries or keys, where the architecture has them; `[b, t, heads, e]` to the same.
    fn norm_and_rotate(&self, x: Tensor, gain: Option<&Tensor>, rotation: Option<&Rotation>) -> Result<Tensor> {
        let eps = self.config.norm_eps;
        let x = match (self.config.architecture.qk_norm, gain) {
            (QkNorm::None, _) | (_, None) => x,
            (QkNorm::Head, Some(gain)) => ops::rms_norm(&x, gain, eps)?,
            (QkNorm::Whole, Some(gain)) => ops::rms_norm(&x.flatten_from(2)?, gain, eps)?.reshape(x.shape())?,
        };
        match rotation {
            Some(rotation) => rotation.apply(&x),
            None => Ok(x),
        }
    }

    /// Two linear maps with a nonlinearity, gated or not, between them; `[b, t, d]` to the same.
    fn mlp(&self, layer: Layer, x: &Tensor, hook: &mut dyn Hook) -> Result<Tensor> {
        let (block, at) = (&self.blocks[layer.0], |point| Site::Block(layer, point));
        let inner = &block.mlp_in;
        let post = match &block.mlp_gate {
            // without a hook and without gradients, map and activation are one operation
            None if let Some(activation) = self.config.activation.kernel()
                && !hook.wants(at(Point::MlpPre))
                && !x.track_op()
                && !inner.w.track_op() =>
            {
                ops::linear_activated(x, &inner.w, inner.b.as_ref(), activation)?
            }
            None => self.config.activation.apply(&visit(hook, at(Point::MlpPre), inner.forward(x)?)?)?,
            Some(gate) => {
                let pre = visit(hook, at(Point::MlpPre), gate.forward(x)?)?;
                let linear = visit(hook, at(Point::MlpPreLinear), inner.forward(x)?)?;
                match self.config.activation {
                    Activation::Silu => silu_gate(&pre, &linear)?,
                    Activation::GeluTanh | Activation::GeluErf => (self.config.activation.apply(&pre)? * linear)?,
                }
            }
        };
        let post = visit(hook, at(Point::MlpPost), post)?; // [b, t, m]
        block.mlp_out.forward(&post)
    }

    /// LayerNorm or RMSNorm, by its input's own scale or a fixed one. `at` holds the sites of scale and output.
    fn norm(&self, norm: &Norm, fixed: Option<f64>, x: &Tensor, at: [Site; 2], hook: &mut dyn Hook) -> Result<Tensor> {
        let [scale_site, normalized_site] = at;
        let (kind, eps) = (self.config.architecture.norm, self.config.norm_eps);
        if !hook.wants(scale_site) && !hook.wants(normalized_site) {
            return match (fixed, kind) {
                (Some(fixed), kind) => ops::fixed_norm(kind.kernel(), x, &norm.w, norm.b.as_ref(), fixed),
                (None, NormKind::Layer) => ops::layer_norm(x, &norm.w, norm.b.as_ref(), eps),
                (None, NormKind::Rms) => ops::rms_norm(x, &norm.w, eps),
            };
        }
        let NormParts { scale, mut normalized } = match (fixed, kind) {
            (Some(fixed), kind) => ops::fixed_norm_parts(kind.kernel(), x, fixed)?,
            (None, NormKind::Layer) => ops::layer_norm_parts(x, eps)?,
            (None, NormKind::Rms) => ops::rms_norm_parts(x, eps)?,
        };
        if hook.wants(scale_site) {
            // a scale that the hook replaces becomes the divisor
            let patched = visit(hook, scale_site, scale.clone())?;
            if patched.id() != scale.id() {
                normalized = normalized.broadcast_mul(&scale.broadcast_div(&patched)?)?;
            }
        }
        let y = visit(hook, normalized_site, normalized)?.broadcast_mul(&norm.w)?;
        match &norm.b {
            Some(b) => y.broadcast_add(b),
            None => Ok(y),
        }
    }

    /// The unembedding, `[b, t, d]` to `[b, t, v]`.
    pub(crate) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        match &self.unembed {
            Some(w) => linear(x, w, self.unembed_bias.as_ref()),
            None => linear_transposed(x, &self.embed, self.unembed_bias.as_ref()),
        }
    }
}
