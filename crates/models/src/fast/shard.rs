//! Some sequences of a batch on their way through all blocks, forward and backward, on one thread.
//!
//! Letters in shapes: r rows (tokens of a shard), d `d_model`, h heads, t sequence, m `d_mlp`.

use ops::kernel::activation;
use ops::kernel::attention::{self, Heads, Scratch};
use ops::kernel::loss::IGNORED;
use ops::kernel::norm::{self, Kind};
use ops::kernel::product::{Accumulate, Matrix};
use ops::kernel::{Real, loss, rows};

use super::context::Context;
use crate::dropout::DropoutKey;
use crate::{Config, NormPath};

/// Rows that a shard aims at: enough for efficient products, few enough for the cache.
const SHARD_ROWS: usize = 256;
/// Numbers of one activation of a shard that still fit the cache of a core.
const SHARD_NUMBERS: usize = 1 << 18;

/// How much of the forward pass is kept for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Nothing, for passes without a backward pass.
    Nothing,
    /// Each block's input; the rest is computed again, with the same bytes.
    Blocks,
    /// Everything.
    All,
}

/// Activations inside a block.
#[derive(Debug)]
pub(super) struct Inside<T> {
    pub(super) ln1: Vec<T>, // [r, d]
    pub(super) stats1: Vec<[T; 2]>,
    pub(super) ln1_v: Vec<T>, // [r, d], for values, where their divisor is another
    pub(super) stats1_v: Vec<[T; 2]>,
    pub(super) qkv: Vec<T>,  // [r, 3d]
    pub(super) logs: Vec<T>, // [sequences, h, t]
    pub(super) z: Vec<T>,    // [r, d]
    /// Whether the fields below hold the counted rows only.
    pub(super) counted_only: bool,
    pub(super) z_counted: Vec<T>,      // counted rows of z
    pub(super) stream_counted: Vec<T>, // and of the stream before the block
    pub(super) mid: Vec<T>,            // [r, d], the stream between attention and MLP
    pub(super) ln2: Vec<T>,            // [r, d]
    pub(super) stats2: Vec<[T; 2]>,
    pub(super) slope: Vec<T>, // [r, m], of the activation, where a backward pass needs it
    pub(super) post: Vec<T>,  // [r, m]
}

impl<T> Inside<T> {
    /// The rows of z that the output map reads.
    pub(super) fn z_for_output(&self) -> &[T] {
        if self.counted_only { &self.z_counted } else { &self.z }
    }
}

impl<T> Default for Inside<T> {
    fn default() -> Self {
        Self {
            ln1: Vec::new(),
            stats1: Vec::new(),
            ln1_v: Vec::new(),
            stats1_v: Vec::new(),
            qkv: Vec::new(),
            logs: Vec::new(),
            z: Vec::new(),
            counted_only: false,
            z_counted: Vec::new(),
            stream_counted: Vec::new(),
            mid: Vec::new(),
            ln2: Vec::new(),
            stats2: Vec::new(),
            slope: Vec::new(),
            post: Vec::new(),
        }
    }
}

/// Gradients of one block's activations.
#[derive(Debug)]
pub(super) struct Back<T> {
    pub(super) resid: Vec<T>,    // [r, d]
    pub(super) mlp_out: Vec<T>,  // [r, d]
    pub(super) pre: Vec<T>,      // [r, m]
    pub(super) attn_out: Vec<T>, // [r, d]
    pub(super) qkv: Vec<T>,      // [r, 3d]
    pub(super) z: Vec<T>,        // [r, d]
    pub(super) x: Vec<T>,        // [r, d]
    pub(super) ln1: [Vec<T>; 2], // gain and bias, [d] each
    pub(super) ln2: [Vec<T>; 2],
    pub(super) ln_final: [Vec<T>; 2],
}

impl<T> Default for Back<T> {
    fn default() -> Self {
        let pair = || [Vec::new(), Vec::new()];
        Self {
            resid: Vec::new(),
            mlp_out: Vec::new(),
            pre: Vec::new(),
            attn_out: Vec::new(),
            qkv: Vec::new(),
            z: Vec::new(),
            x: Vec::new(),
            ln1: pair(),
            ln2: pair(),
            ln_final: pair(),
        }
    }
}

/// Some sequences of the batch with everything computed for them. Later steps use the buffers again.
#[derive(Debug)]
pub(super) struct Shard<T> {
    /// Index of the first sequence in the batch.
    pub(super) first: usize,
    pub(super) seq: usize,
    pub(super) tokens: Vec<u32>,
    /// Row of the position embedding for each token.
    pub(super) positions: Vec<u32>,
    pub(super) keep: Option<Keep>,
    /// The residual stream before each block and after the last; two alternating buffers when nothing is kept.
    pub(super) stream: Vec<Vec<T>>,
    pub(super) inside: Vec<Inside<T>>,
    /// Head outputs of tapped blocks.
    pub(super) tapped: Vec<Vec<T>>,
    /// Rows whose targets count, and those targets.
    pub(super) counted: Vec<usize>,
    pub(super) targets: Vec<u32>,
    /// Counted rows of the final stream, then their norm, logits and losses.
    pub(super) last: Vec<T>,
    pub(super) normalized: Vec<T>,
    pub(super) stats: Vec<[T; 2]>,
    pub(super) logits: Vec<T>,
    pub(super) logs: Vec<T>,
    pub(super) losses: Vec<T>,
    /// Norm statistics of every row of the final stream, if requested.
    pub(super) final_stats: Vec<[T; 2]>,
    /// Sums over rows of the scales before attention and before the MLP of each block, if requested.
    pub(super) scales: Vec<[f64; 2]>,
    pub(super) back: Back<T>,
    pub(super) scratch: Scratch<T>,
}

impl<T> Default for Shard<T> {
    fn default() -> Self {
        Self {
            first: 0,
            seq: 0,
            tokens: Vec::new(),
            positions: Vec::new(),
            keep: None,
            stream: Vec::new(),
            inside: Vec::new(),
            tapped: Vec::new(),
            counted: Vec::new(),
            targets: Vec::new(),
            last: Vec::new(),
            normalized: Vec::new(),
            stats: Vec::new(),
            logits: Vec::new(),
            logs: Vec::new(),
            losses: Vec::new(),
            final_stats: Vec::new(),
            scales: Vec::new(),
            back: Back::default(),
            scratch: Scratch::default(),
        }
    }
}

/// A buffer of this length, which may still hold old numbers.
fn sized<T: Copy>(buffer: &mut Vec<T>, length: usize, zero: T) -> &mut [T] {
    buffer.resize(length, zero);
    buffer
}

/// Copies some rows of a matrix.
fn gather<T: Copy>(from: &[T], width: usize, rows: &[usize], to: &mut Vec<T>) {
    to.clear();
    rows.iter().for_each(|row| to.extend_from_slice(&from[row * width..][..width]));
}

/// Puts rows at their indices among `count` rows of zeros.
fn scatter<T: Real>(from: &[T], width: usize, rows: &[usize], to: &mut Vec<T>, count: usize) {
    zeroed(to, count * width);
    for (row, from) in rows.iter().zip(from.chunks_exact(width)) {
        to[row * width..][..width].copy_from_slice(from);
    }
}

fn zeroed<T: Real>(buffer: &mut Vec<T>, length: usize) {
    buffer.clear();
    buffer.resize(length, T::zero());
}

/// Sequences in each shard of a batch: about [`SHARD_ROWS`] rows, with a multiple of four shards where possible.
fn per_shard(config: &Config, batch: usize, seq: usize) -> usize {
    let aim = SHARD_ROWS.min(SHARD_NUMBERS / config.d_mlp.max(1)).max(32);
    let fours = ((batch * seq) as f64 / (4 * aim) as f64).round().max(1.) as usize;
    batch.div_ceil(4 * fours).max(1)
}

/// Whether a batch is a single shard.
pub(super) fn is_single(config: &Config, batch: usize, seq: usize) -> bool {
    batch <= per_shard(config, batch, seq)
}

/// Cuts a batch into shards that reuse the buffers of earlier ones. Positions count from 0 in each sequence unless
/// given.
pub(super) fn shards<T: Real>(
    config: &Config,
    tokens: &[u32],
    positions: Option<&[u32]>,
    seq: usize,
    old: &mut Vec<Shard<T>>,
) {
    let batch = tokens.len() / seq;
    let per = per_shard(config, batch, seq);
    old.resize_with(batch.div_ceil(per), Shard::default);
    for (i, (shard, tokens)) in old.iter_mut().zip(tokens.chunks(per * seq)).enumerate() {
        shard.first = i * per;
        shard.seq = seq;
        shard.tokens.clear();
        shard.tokens.extend_from_slice(tokens);
        shard.positions.clear();
        match positions {
            Some(all) => shard.positions.extend_from_slice(&all[i * per * seq..][..tokens.len()]),
            None => shard.positions.extend((0..seq as u32).cycle().take(tokens.len())),
        }
        shard.keep = None;
    }
}

impl<T: Real> Shard<T> {
    pub(super) fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Offset of the shard's first number in a tensor with rows of this width.
    pub(super) fn offset(&self, width: usize) -> u64 {
        (self.first * self.seq * width) as u64
    }

    /// Runs from tokens to the final stream, and returns the index of its buffer.
    pub(super) fn stream(&mut self, context: &Context<'_, T>, keep: Keep) -> usize {
        let (config, index) = (context.config, context.index);
        let (d, count) = (config.d_model, self.rows());
        let n_streams = if keep == Keep::Nothing { 2 } else { config.n_layers + 1 };
        self.keep = Some(keep);
        self.stream.resize_with(n_streams, Vec::new);
        self.tapped.resize_with(context.taps.len(), Vec::new);
        self.inside.resize_with(if keep == Keep::All { config.n_layers } else { 1 }, Inside::default);
        self.scales.clear();
        self.scales.resize(if context.norm_scales { config.n_layers } else { 0 }, [0.; 2]);
        let (embed, pos_embed) = (context.w(index.embed), context.bias(index.pos_embed));
        let offset = self.offset(d);
        let stream = sized(&mut self.stream[0], count * d, T::zero());
        for ((stream, token), position) in stream.chunks_exact_mut(d).zip(&self.tokens).zip(&self.positions) {
            stream.copy_from_slice(&embed[*token as usize * d..][..d]);
            if let Some(pos_embed) = pos_embed {
                rows::add(stream, &pos_embed[*position as usize * d..][..d]);
            }
        }
        if let Some(mask) = context.dropout.mask::<T>(1) {
            mask.apply(stream, offset);
        }
        let mut last = 0;
        for layer in 0..config.n_layers {
            let next = (last + 1) % n_streams;
            self.block(context, layer, last, next);
            if let Some(tap) = context.taps.iter().position(|tap| *tap == layer) {
                let z = &self.inside[layer.min(self.inside.len() - 1)].z;
                self.tapped[tap].clear();
                self.tapped[tap].extend_from_slice(z);
            }
            last = next;
        }
        last
    }

    /// Whether a block computes only the counted rows after its heads. The last block does, unless dropout or the
    /// norms' scales need all rows.
    fn counts_only(&self, context: &Context<'_, T>, layer: usize) -> bool {
        let last = layer + 1 == context.config.n_layers;
        last && self.counted.len() < self.rows() && !context.norm_scales && context.dropout.p == 0.
    }

    /// Forward through one block, from `self.stream[from]` to `self.stream[to]`.
    fn block(&mut self, context: &Context<'_, T>, layer: usize, from: usize, to: usize) {
        let (config, at) = (context.config, &context.index.blocks[layer]);
        let (d, m, count) = (config.d_model, config.d_mlp, self.rows());
        let counted_only = self.counts_only(context, layer);
        let (first, seq) = (self.first, self.seq);
        let offset = self.offset(d);
        let mut resid = std::mem::take(&mut self.stream[to]);
        let stream = &self.stream[from];
        let index = layer.min(self.inside.len() - 1);
        let inside = &mut self.inside[index];
        let number = 2 + 3 * layer as u64;
        let zero = T::zero();

        let ln1 = sized(&mut inside.ln1, count * d, zero);
        let stats = sized(&mut inside.stats1, count, [zero; 2]);
        let (by, for_values) = context.before_attention(layer);
        norm::forward(Kind::Layer, stream, context.w(at.ln1.w), context.bias(at.ln1.b), by, ln1, stats);
        let qkv = sized(&mut inside.qkv, count * 3 * d, zero);
        match for_values {
            None => context.affine(at.qkv, ln1, (d, 3 * d), qkv),
            Some(by) => {
                let ln1_v = sized(&mut inside.ln1_v, count * d, zero);
                let stats = sized(&mut inside.stats1_v, count, [zero; 2]);
                norm::forward(Kind::Layer, stream, context.w(at.ln1.w), context.bias(at.ln1.b), by, ln1_v, stats);
                context.affine_columns(at.qkv, ln1, (d, 3 * d), 0..2 * d, qkv);
                context.affine_columns(at.qkv, ln1_v, (d, 3 * d), 2 * d..3 * d, qkv);
            }
        }
        let heads = context.heads(seq);
        let z = sized(&mut inside.z, count * d, zero);
        let logs = sized(&mut inside.logs, count * heads.heads, zero);
        let sequences = inside.qkv.chunks_exact(seq * 3 * d).zip(z.chunks_exact_mut(seq * d));
        for (i, ((qkv, z), logs)) in sequences.zip(logs.chunks_exact_mut(seq * heads.heads)).enumerate() {
            let drop = pattern_dropout(context.dropout, number, first + i, &heads);
            attention::forward(heads, qkv, z, logs, &drop, &mut self.scratch);
        }
        inside.counted_only = counted_only;
        let (z, stream, count): (&[T], &[T], usize) = if counted_only {
            gather(z, d, &self.counted, &mut inside.z_counted);
            gather(stream, d, &self.counted, &mut inside.stream_counted);
            (&inside.z_counted, &inside.stream_counted, self.counted.len())
        } else {
            (z, stream, count)
        };
        let mid = sized(&mut inside.mid, count * d, zero);
        context.write(at.out, z, d, (context.dropout.mask(number + 1), offset), stream, mid);
        let ln2 = sized(&mut inside.ln2, count * d, zero);
        let stats = sized(&mut inside.stats2, count, [zero; 2]);
        let by = context.divisor(NormPath::Mlp(layer));
        norm::forward(Kind::Layer, mid, context.w(at.ln2.w), context.bias(at.ln2.b), by, ln2, stats);
        if context.norm_scales {
            self.scales[layer] = [context.sum_of_scales(stream), context.sum_of_scales(mid)];
        }
        let post = sized(&mut inside.post, count * m, zero);
        if self.keep == Some(Keep::Nothing) {
            context.affine(at.mlp_in, ln2, (d, m), post);
            activation::in_place(context.activation, post);
        } else {
            let slope = sized(&mut inside.slope, count * m, zero);
            context.affine(at.mlp_in, ln2, (d, m), slope);
            activation::forward_with_slope(context.activation, slope, post);
        }
        let out = sized(&mut resid, count * d, zero);
        context.write(at.mlp_out, post, m, (context.dropout.mask(number + 2), offset), mid, out);
        self.stream[to] = resid;
    }

    /// Final norm of the counted rows.
    pub(super) fn finish(&mut self, context: &Context<'_, T>, last: usize) {
        let at = context.index.ln_final;
        let d = context.config.d_model;
        if self.counts_only(context, context.config.n_layers - 1) {
            self.last.clone_from(&self.stream[last]);
        } else {
            gather(&self.stream[last], d, &self.counted, &mut self.last);
        }
        let normalized = sized(&mut self.normalized, self.last.len(), T::zero());
        let stats = sized(&mut self.stats, self.counted.len(), [T::zero(); 2]);
        let by = context.divisor(NormPath::Final);
        norm::forward(Kind::Layer, &self.last, context.w(at.w), context.bias(at.b), by, normalized, stats);
    }

    /// Losses of the rows whose targets count.
    pub(super) fn losses(&mut self, context: &Context<'_, T>, targets: &[u32], keep: Keep) {
        self.count_rows(|row| targets[row] != IGNORED);
        self.targets.clear();
        self.targets.extend(self.counted.iter().map(|row| targets[*row]));
        let last = self.stream(context, keep);
        if context.norm_scales {
            let stats = sized(&mut self.final_stats, self.tokens.len(), [T::zero(); 2]);
            norm::statistics_of(Kind::Layer, &self.stream[last], context.config.d_model, context.own_scale(), stats);
        }
        self.finish(context, last);
        let (v, count, zero) = (context.config.d_vocab, self.counted.len(), T::zero());
        let logits = sized(&mut self.logits, count * v, zero);
        context.unembed(&self.normalized, logits);
        let (losses, logs) = (sized(&mut self.losses, count, zero), sized(&mut self.logs, count, zero));
        loss::forward(logits, v, &self.targets, losses, logs);
    }

    /// Selects the counted rows.
    pub(super) fn count_rows(&mut self, counts: impl Fn(usize) -> bool) {
        let rows = self.rows();
        self.counted.clear();
        self.counted.extend((0..rows).filter(|row| counts(*row)));
    }

    /// Gradient of the final stream, from that of the counted rows' logits (in `self.logits`) and of the final scales.
    pub(super) fn final_back(&mut self, context: &Context<'_, T>, dscales: &[T]) {
        let (config, at) = (context.config, context.index.ln_final);
        let (d, v, count) = (config.d_model, config.d_vocab, self.counted.len());
        let counted_only = self.counts_only(context, config.n_layers - 1);
        let back = &mut self.back;
        let dx = sized(&mut back.x, count * d, T::zero());
        let w = match context.index.unembed {
            Some(index) => Matrix::new(context.w(index), d, v).t(),
            None => Matrix::new(context.w(context.index.embed), v, d),
        };
        context.product(dx, d, Accumulate::Replace, Matrix::new(&self.logits, count, v), w, T::one());
        let mut dlast = std::mem::take(&mut back.z);
        zeroed(&mut dlast, count * d);
        back.ln_final.iter_mut().for_each(|sums| zeroed(sums, d));
        let [gain, bias] = &mut back.ln_final;
        let by = context.divisor(NormPath::Final);
        norm::backward(Kind::Layer, by, &self.last, &self.stats, context.w(at.w), dx, &mut dlast, gain, Some(bias));
        if counted_only {
            std::mem::swap(&mut back.resid, &mut dlast);
        } else {
            scatter(&dlast, d, &self.counted, &mut back.resid, self.tokens.len());
        }
        back.z = dlast;
        // d scale / d x = (x - mean) / (d scale)
        let n = T::of(d as f64);
        let stream = self.stream.last().map_or(&[][..], |stream| stream.as_slice());
        let rows = stream.chunks_exact(d).zip(&self.final_stats).zip(dscales);
        for (resid, ((x, [mean, inverse]), dscale)) in back.resid.chunks_exact_mut(d).zip(rows) {
            let factor = *dscale * *inverse / n;
            for (resid, x) in resid.iter_mut().zip(x) {
                *resid += factor * (*x - *mean);
            }
        }
    }

    /// Backward through one block; `dz` is the gradient of its tapped head outputs.
    pub(super) fn block_back(&mut self, context: &Context<'_, T>, layer: usize, dz: Option<&[T]>) {
        let (config, at) = (context.config, &context.index.blocks[layer]);
        let (d, m, count) = (config.d_model, config.d_mlp, self.rows());
        let (first, seq) = (self.first, self.seq);
        let offset = self.offset(d);
        if self.keep == Some(Keep::Blocks) {
            // the final stream is not needed any more, so its buffer takes the output of the repeated block
            let spare = self.stream.len() - 1;
            self.block(context, layer, layer, spare);
        }
        let index = layer.min(self.inside.len() - 1);
        let (inside, back) = (&self.inside[index], &mut self.back);
        let (stream, number, zero) = (&self.stream[layer], 2 + 3 * layer as u64, T::zero());
        let n_after = if inside.counted_only { self.counted.len() } else { count };
        let masked = |from: &[T], to: &mut Vec<T>, number: u64| {
            to.clear();
            to.extend_from_slice(from);
            if let Some(mask) = context.dropout.mask::<T>(number) {
                mask.apply(to, offset);
            }
        };
        for sums in back.ln1.iter_mut().chain(&mut back.ln2) {
            zeroed(sums, d);
        }

        masked(&back.resid, &mut back.mlp_out, number + 2);
        let dpre = sized(&mut back.pre, n_after * m, zero);
        context.through(at.mlp_out, &back.mlp_out, (m, d), dpre);
        rows::multiply(dpre, &inside.slope);
        let dx = sized(&mut back.x, n_after * d, zero);
        context.through(at.mlp_in, dpre, (d, m), dx);
        let [gain, bias] = &mut back.ln2;
        let w = context.w(at.ln2.w);
        let by = context.divisor(NormPath::Mlp(layer));
        norm::backward(Kind::Layer, by, &inside.mid, &inside.stats2, w, dx, &mut back.resid, gain, Some(bias));

        masked(&back.resid, &mut back.attn_out, number + 1);
        let z = sized(&mut back.z, n_after * d, zero);
        context.through(at.out, &back.attn_out, (d, d), z);
        if inside.counted_only {
            scatter(z, d, &self.counted, &mut back.x, count);
            std::mem::swap(&mut back.z, &mut back.x);
            scatter(&back.resid, d, &self.counted, &mut back.x, count);
            std::mem::swap(&mut back.resid, &mut back.x);
        }
        let z = &mut back.z;
        if let Some(dz) = dz {
            rows::add(z, dz);
        }
        zeroed(&mut back.qkv, count * 3 * d);
        let heads = context.heads(seq);
        let sequences = inside.qkv.chunks_exact(seq * 3 * d).zip(back.qkv.chunks_exact_mut(seq * 3 * d));
        let sequences = sequences.zip(z.chunks_exact(seq * d)).zip(inside.logs.chunks_exact(seq * heads.heads));
        for (i, (((qkv, dqkv), dz), logs)) in sequences.enumerate() {
            let drop = pattern_dropout(context.dropout, number, first + i, &heads);
            attention::backward(heads, qkv, logs, dz, dqkv, &drop, &mut self.scratch);
        }
        let (by, for_values) = context.before_attention(layer);
        let both = [(by, &inside.stats1, 0), (for_values.unwrap_or(by), &inside.stats1_v, 2 * d)];
        for (i, (by, stats, first)) in both.into_iter().enumerate().take(if for_values.is_some() { 2 } else { 1 }) {
            let end = if i == 0 && for_values.is_some() { 2 * d } else { 3 * d };
            let dx = sized(&mut back.x, count * d, zero);
            context.through_columns(at.qkv, &back.qkv, (d, 3 * d), first..end, dx);
            let [gain, bias] = &mut back.ln1;
            let w = context.w(at.ln1.w);
            norm::backward(Kind::Layer, by, stream, stats, w, dx, &mut back.resid, gain, Some(bias));
        }
    }
}

fn pattern_dropout<T: Real>(dropout: DropoutKey, number: u64, sequence: usize, h: &Heads) -> attention::DropoutMask<T> {
    Some((dropout.mask(number)?, (sequence * h.heads * h.seq * h.seq) as u64))
}
