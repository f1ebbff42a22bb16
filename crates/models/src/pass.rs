//! The decoder's own forward and backward pass on the CPU, for models of GPT-2's form when nobody looks inside.
//!
//! The batch is cut into shards of whole sequences, by its shape alone. A shard runs through all blocks on one thread
//! with what it computes in the cache; gradients of weights are cut into tiles, and sums run over the shards in their
//! order. So the bytes are the same at any number of threads.
//!
//! Letters in shapes: r rows (tokens of a shard), d `d_model`, h heads, e `d_head`, m `d_mlp`, v vocabulary.

use std::ops::Range;

use ops::kernel::activation::{self, Activation};
use ops::kernel::attention::{self, Heads, Scratch};
use ops::kernel::loss::IGNORED;
use ops::kernel::norm::{self, Divisor, Kind};
use ops::kernel::product::{Accumulate, Matrix, product, shared_product};
use ops::kernel::random::Mask;
use ops::kernel::{Real, loss, rows};
use ops::tile_rows;
use rayon::prelude::*;

use crate::{Config, FixedScales, NormPath};

/// Rows that a shard aims at: enough for the products, few enough for the cache.
const SHARD_ROWS: usize = 256;
/// Numbers of one activation of a shard that still fit the cache of a core.
const SHARD_NUMBERS: usize = 1 << 18;

/// Where each weight stands in [`Config::shapes`].
#[derive(Clone, Debug)]
pub(crate) struct Places {
    lengths: Vec<usize>,
    pub(crate) embed: usize,
    pub(crate) pos_embed: Option<usize>,
    pub(crate) blocks: Vec<BlockPlaces>,
    pub(crate) ln_final: Affine,
    pub(crate) unembed: Option<usize>,
    pub(crate) unembed_bias: Option<usize>,
}

/// A weight and its bias.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Affine {
    pub(crate) w: usize,
    pub(crate) b: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct BlockPlaces {
    pub(crate) ln1: Affine,
    pub(crate) qkv: Affine,
    pub(crate) qk_norm: Option<[usize; 2]>,
    pub(crate) out: Affine,
    pub(crate) ln2: Affine,
    pub(crate) mlp_gate: Option<Affine>,
    pub(crate) mlp_in: Affine,
    pub(crate) mlp_out: Affine,
}

impl Places {
    pub(crate) fn of(config: &Config) -> Self {
        let shapes = config.shapes();
        let find = |name: &str| shapes.iter().position(|(known, _)| known == name);
        // every name below stands in `Config::shapes`
        let place = |name: &str| find(name).expect("a weight of Config::shapes");
        let norm = |name: &str| Affine { w: place(&format!("{name}.w")), b: find(&format!("{name}.b")) };
        let affine = |layer: usize, part: &str, name: &str| Affine {
            w: place(&format!("blocks.{layer}.{part}.W_{name}")),
            b: find(&format!("blocks.{layer}.{part}.b_{name}")),
        };
        let block = |layer| BlockPlaces {
            ln1: norm(&format!("blocks.{layer}.ln1")),
            qkv: affine(layer, "attn", "QKV"),
            qk_norm: find(&format!("blocks.{layer}.attn.q_norm.w"))
                .zip(find(&format!("blocks.{layer}.attn.k_norm.w")))
                .map(|(q, k)| [q, k]),
            out: affine(layer, "attn", "O"),
            ln2: norm(&format!("blocks.{layer}.ln2")),
            mlp_gate: config.architecture.gated.then(|| affine(layer, "mlp", "gate")),
            mlp_in: affine(layer, "mlp", "in"),
            mlp_out: affine(layer, "mlp", "out"),
        };
        Self {
            embed: place("embed.W_E"),
            pos_embed: find("pos_embed.W_pos"),
            blocks: (0..config.n_layers).map(block).collect(),
            ln_final: norm("ln_final"),
            unembed: find("unembed.W_U"),
            unembed_bias: find("unembed.b_U"),
            lengths: shapes.iter().map(|(_, shape)| shape.iter().product()).collect(),
        }
    }
}

/// What every part of a pass needs.
#[derive(Clone, Copy)]
pub(crate) struct Model<'a, T> {
    pub(crate) config: &'a Config,
    pub(crate) places: &'a Places,
    pub(crate) activation: Activation,
    /// In the order of [`Config::shapes`].
    pub(crate) weights: &'a [&'a [T]],
    pub(crate) drop: DropoutKey,
    pub(crate) fixed: &'a FixedScales,
    /// Blocks whose heads' outputs are wanted.
    pub(crate) taps: &'a [usize],
    /// Whether the scales of what the norms read are wanted.
    pub(crate) norm_scales: bool,
    /// Whether the batch is one shard, whose products threads then share.
    pub(crate) alone: bool,
}

/// Dropout of one step: a probability, and a key from which every mask gets its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct DropoutKey {
    pub(crate) p: f64,
    pub(crate) key: u64,
}

impl DropoutKey {
    /// The key of the mask with this number: 1 for the embedding, then three for each block.
    pub(crate) fn key(self, number: u64) -> u64 {
        // spread the counter over all 64 bits, so that keys of neighbouring steps do not meet
        self.key.wrapping_add(number).wrapping_mul(0xd134_2543_de82_ef95)
    }

    fn mask<T: Real>(self, number: u64) -> Option<Mask<T>> {
        (self.p > 0.).then(|| Mask::new(self.p, self.key(number)))
    }
}

impl<'a, T: Real> Model<'a, T> {
    fn w(&self, place: usize) -> &'a [T] {
        self.weights[place]
    }

    fn bias(&self, place: Option<usize>) -> Option<&'a [T]> {
        place.map(|place| self.weights[place])
    }

    fn heads(&self, seq: usize) -> Heads {
        let n_heads = self.config.n_heads;
        Heads { seq, heads: n_heads, kv_heads: n_heads, width: self.config.d_head() }
    }

    /// A product of a shard: its own thread's work, unless it is the only shard.
    fn product(
        &self,
        out: &mut [T],
        stride: usize,
        how: Accumulate<'_, T>,
        a: Matrix<'_, T>,
        b: Matrix<'_, T>,
        scale: T,
    ) {
        if self.alone { shared_product(out, stride, how, a, b, scale) } else { product(out, stride, how, a, b, scale) }
    }

    fn own(&self) -> Divisor {
        Divisor::Own { eps: self.config.norm_eps }
    }

    /// What a norm divides by.
    fn divisor(&self, path: NormPath) -> Divisor {
        self.fixed.get(path).map_or(self.own(), Divisor::Fixed)
    }

    /// What the norm before attention divides by for queries and keys, and for values where that is something else.
    fn before_attention(&self, layer: usize) -> (Divisor, Option<Divisor>) {
        let [qk, v] = [NormPath::QueriesKeys(layer), NormPath::Values(layer)].map(|path| self.divisor(path));
        (qk, (v != qk).then_some(v))
    }

    /// Sum of the scales of some rows, whatever the norm behind them divides by.
    fn sum_of_scales(&self, x: &[T]) -> f64 {
        let mut stats = vec![[T::zero(); 2]; x.len() / self.config.d_model];
        norm::statistics_of(Kind::Layer, x, self.config.d_model, self.own(), &mut stats);
        stats.iter().map(|[_, inverse]| 1. / inverse.wide()).sum()
    }

    /// `out = before + x w + b`, with dropout on what is added: a mask, and the place of these rows in the whole batch.
    fn write(&self, at: Affine, x: &[T], d_in: usize, drop: (Option<Mask<T>>, u64), before: &[T], out: &mut [T]) {
        let sizes = (d_in, self.config.d_model);
        match drop {
            (Some(mask), place) => {
                self.affine(at, x, sizes, out);
                mask.apply(out, place);
                rows::add(out, before);
            }
            (None, _) => self.map(at, x, sizes, Accumulate::Rows(before, self.bias(at.b)), out),
        }
    }

    /// `out = x w + b`.
    fn affine(&self, at: Affine, x: &[T], sizes: (usize, usize), out: &mut [T]) {
        self.map(at, x, sizes, self.bias(at.b).map_or(Accumulate::Replace, Accumulate::Row), out);
    }

    /// `x w`, and what it is added to.
    fn map(&self, at: Affine, x: &[T], (d_in, d_out): (usize, usize), how: Accumulate<'_, T>, out: &mut [T]) {
        let (x, w) = (Matrix::new(x, out.len() / d_out, d_in), Matrix::new(self.w(at.w), d_in, d_out));
        self.product(out, d_out, how, x, w, T::one());
    }

    /// `out = x w + b` for some columns of w.
    fn affine_columns(&self, at: Affine, x: &[T], (d_in, d_out): (usize, usize), columns: Range<usize>, out: &mut [T]) {
        let (first, count) = (columns.start, x.len() / d_in);
        let how = self.bias(at.b).map_or(Accumulate::Replace, |bias| Accumulate::Row(&bias[columns.clone()]));
        let w = Matrix::strided(&self.w(at.w)[first..], d_in, columns.len(), d_out);
        self.product(&mut out[first..], d_out, how, Matrix::new(x, count, d_in), w, T::one());
    }

    /// `dx = dy w^T`.
    fn through(&self, at: Affine, dy: &[T], sizes: (usize, usize), dx: &mut [T]) {
        self.through_columns(at, dy, sizes, 0..sizes.1, dx);
    }

    /// `dx = dy w^T` for some columns of dy and w.
    fn through_columns(&self, at: Affine, dy: &[T], sizes: (usize, usize), columns: Range<usize>, dx: &mut [T]) {
        let ((d_in, d_out), first) = (sizes, columns.start);
        if dx.is_empty() {
            return;
        }
        let dy = Matrix::strided(&dy[first..], dx.len() / d_in, columns.len(), d_out);
        let w = Matrix::strided(&self.w(at.w)[first..], d_in, columns.len(), d_out);
        self.product(dx, d_in, Accumulate::Replace, dy, w.t(), T::one());
    }

    /// Logits of rows that went through the final norm.
    fn unembed(&self, x: &[T], out: &mut [T]) {
        let (d, v) = (self.config.d_model, self.config.d_vocab);
        let w = match self.places.unembed {
            Some(place) => Matrix::new(self.w(place), d, v),
            None => Matrix::new(self.w(self.places.embed), v, d).t(),
        };
        self.product(out, v, Accumulate::Replace, Matrix::new(x, x.len() / d, d), w, T::one());
    }
}

/// How much of the forward pass is kept for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing: there will be none.
    Nothing,
    /// What goes into each block; the rest is computed again, with the same bytes.
    Blocks,
    /// Everything.
    All,
}

/// What a block computes on the way.
#[derive(Debug)]
struct Inside<T> {
    ln1: Vec<T>, // [r, d]
    stats1: Vec<[T; 2]>,
    ln1_v: Vec<T>, // [r, d], for values, where their norm is another
    stats1_v: Vec<[T; 2]>,
    qkv: Vec<T>,  // [r, 3d]
    logs: Vec<T>, // [sequences, h, t]
    z: Vec<T>,    // [r, d]
    /// From here on only the chosen rows, in a block that is narrowed.
    narrowed: bool,
    z_chosen: Vec<T>, // in a narrowed block: the chosen rows of z, and of the stream before the block
    stream_chosen: Vec<T>,
    mid: Vec<T>, // [r, d], the stream between attention and MLP
    ln2: Vec<T>, // [r, d]
    stats2: Vec<[T; 2]>,
    /// Of the activation, where it is kept.
    slope: Vec<T>, // [r, m]
    post: Vec<T>, // [r, m]
}

impl<T> Inside<T> {
    /// What the map behind the heads reads.
    fn read(&self) -> &[T] {
        if self.narrowed { &self.z_chosen } else { &self.z }
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
            narrowed: false,
            z_chosen: Vec::new(),
            stream_chosen: Vec::new(),
            mid: Vec::new(),
            ln2: Vec::new(),
            stats2: Vec::new(),
            slope: Vec::new(),
            post: Vec::new(),
        }
    }
}

/// Gradients of one block on their way through a shard.
#[derive(Debug)]
struct Back<T> {
    resid: Vec<T>,    // [r, d]
    mlp_out: Vec<T>,  // [r, d]
    pre: Vec<T>,      // [r, m]
    attn_out: Vec<T>, // [r, d]
    qkv: Vec<T>,      // [r, 3d]
    z: Vec<T>,        // [r, d]
    x: Vec<T>,        // [r, d]
    ln1: [Vec<T>; 2], // gain and bias, [d] each
    ln2: [Vec<T>; 2],
    ln_final: [Vec<T>; 2],
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

/// Some sequences of the batch, and everything computed for them. Buffers are kept from step to step.
#[derive(Debug)]
pub(crate) struct Shard<T> {
    /// Index of the first sequence in the batch.
    first: usize,
    seq: usize,
    tokens: Vec<u32>,
    /// Row of the position embedding for each token.
    positions: Vec<u32>,
    keep: Option<Keep>,
    /// The residual stream before each block and after the last; two of them, in turn, when nothing is kept.
    stream: Vec<Vec<T>>,
    inside: Vec<Inside<T>>,
    /// Outputs of the heads of tapped blocks.
    tapped: Vec<Vec<T>>,
    /// Rows whose targets count, and their targets.
    chosen: Vec<usize>,
    targets: Vec<u32>,
    /// Chosen rows of the final stream, and what becomes of them.
    last: Vec<T>,
    normalized: Vec<T>,
    stats: Vec<[T; 2]>,
    logits: Vec<T>,
    logs: Vec<T>,
    losses: Vec<T>,
    /// Of every row of the final stream, if wanted.
    final_stats: Vec<[T; 2]>,
    /// Sum of the rows' scales before attention and before the MLP of each block, if wanted.
    scales: Vec<[f64; 2]>,
    back: Back<T>,
    scratch: Scratch<T>,
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
            chosen: Vec::new(),
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

/// A buffer of this length; its old numbers may still be in it.
fn sized<T: Copy>(buffer: &mut Vec<T>, length: usize, zero: T) -> &mut [T] {
    buffer.resize(length, zero);
    buffer
}

/// Some rows of a matrix, one after another.
fn gather<T: Copy>(from: &[T], width: usize, rows: &[usize], to: &mut Vec<T>) {
    to.clear();
    rows.iter().for_each(|row| to.extend_from_slice(&from[row * width..][..width]));
}

/// Rows at their places among `count`, zeros elsewhere.
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

/// Sequences in each shard of a batch: about [`SHARD_ROWS`] rows, in a multiple of four shards as far as possible.
fn per_shard(config: &Config, batch: usize, seq: usize) -> usize {
    let aim = SHARD_ROWS.min(SHARD_NUMBERS / config.d_mlp.max(1)).max(32);
    let fours = ((batch * seq) as f64 / (4 * aim) as f64).round().max(1.) as usize;
    batch.div_ceil(4 * fours).max(1)
}

/// Whether a batch is one shard.
pub(crate) fn is_alone(config: &Config, batch: usize, seq: usize) -> bool {
    batch <= per_shard(config, batch, seq)
}

/// Cuts a batch into shards, with the buffers of earlier ones; positions count from 0 in each sequence unless given.
pub(crate) fn shards<T: Real>(
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
    fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Place of the shard's first number in a tensor with rows of this width.
    fn place(&self, width: usize) -> u64 {
        (self.first * self.seq * width) as u64
    }

    /// From tokens to the final stream, which is returned.
    fn stream(&mut self, model: &Model<'_, T>, keep: Keep) -> usize {
        let (config, places) = (model.config, model.places);
        let (d, count) = (config.d_model, self.rows());
        let n_streams = if keep == Keep::Nothing { 2 } else { config.n_layers + 1 };
        self.keep = Some(keep);
        self.stream.resize_with(n_streams, Vec::new);
        self.tapped.resize_with(model.taps.len(), Vec::new);
        self.inside.resize_with(if keep == Keep::All { config.n_layers } else { 1 }, Inside::default);
        self.scales.clear();
        self.scales.resize(if model.norm_scales { config.n_layers } else { 0 }, [0.; 2]);
        let (embed, pos_embed) = (model.w(places.embed), model.bias(places.pos_embed));
        let place = self.place(d);
        let stream = sized(&mut self.stream[0], count * d, T::zero());
        for ((stream, token), position) in stream.chunks_exact_mut(d).zip(&self.tokens).zip(&self.positions) {
            stream.copy_from_slice(&embed[*token as usize * d..][..d]);
            if let Some(pos_embed) = pos_embed {
                rows::add(stream, &pos_embed[*position as usize * d..][..d]);
            }
        }
        if let Some(mask) = model.drop.mask::<T>(1) {
            mask.apply(stream, place);
        }
        let mut last = 0;
        for layer in 0..config.n_layers {
            let next = (last + 1) % n_streams;
            self.block(model, layer, last, next);
            if let Some(tap) = model.taps.iter().position(|tap| *tap == layer) {
                let z = &self.inside[layer.min(self.inside.len() - 1)].z;
                self.tapped[tap].clear();
                self.tapped[tap].extend_from_slice(z);
            }
            last = next;
        }
        last
    }

    /// Whether a block leaves out what comes behind its heads for rows that nobody looks at: those whose targets do not
    /// count, in the last block.
    fn narrows(&self, model: &Model<'_, T>, layer: usize) -> bool {
        let last = layer + 1 == model.config.n_layers;
        last && self.chosen.len() < self.rows() && !model.norm_scales && model.drop.p == 0.
    }

    /// Forward through one block, from `self.stream[from]` to `self.stream[to]`.
    fn block(&mut self, model: &Model<'_, T>, layer: usize, from: usize, to: usize) {
        let (config, at) = (model.config, &model.places.blocks[layer]);
        let (d, m, count) = (config.d_model, config.d_mlp, self.rows());
        let narrows = self.narrows(model, layer);
        let (first, seq) = (self.first, self.seq);
        let place = self.place(d);
        let mut resid = std::mem::take(&mut self.stream[to]);
        let stream = &self.stream[from];
        let index = layer.min(self.inside.len() - 1);
        let inside = &mut self.inside[index];
        let number = 2 + 3 * layer as u64;
        let zero = T::zero();

        let ln1 = sized(&mut inside.ln1, count * d, zero);
        let stats = sized(&mut inside.stats1, count, [zero; 2]);
        let (by, for_values) = model.before_attention(layer);
        norm::forward(Kind::Layer, stream, model.w(at.ln1.w), model.bias(at.ln1.b), by, ln1, stats);
        let qkv = sized(&mut inside.qkv, count * 3 * d, zero);
        match for_values {
            None => model.affine(at.qkv, ln1, (d, 3 * d), qkv),
            Some(by) => {
                let ln1_v = sized(&mut inside.ln1_v, count * d, zero);
                let stats = sized(&mut inside.stats1_v, count, [zero; 2]);
                norm::forward(Kind::Layer, stream, model.w(at.ln1.w), model.bias(at.ln1.b), by, ln1_v, stats);
                model.affine_columns(at.qkv, ln1, (d, 3 * d), 0..2 * d, qkv);
                model.affine_columns(at.qkv, ln1_v, (d, 3 * d), 2 * d..3 * d, qkv);
            }
        }
        let heads = model.heads(seq);
        let z = sized(&mut inside.z, count * d, zero);
        let logs = sized(&mut inside.logs, count * heads.heads, zero);
        let sequences = inside.qkv.chunks_exact(seq * 3 * d).zip(z.chunks_exact_mut(seq * d));
        for (i, ((qkv, z), logs)) in sequences.zip(logs.chunks_exact_mut(seq * heads.heads)).enumerate() {
            let drop = pattern_drop(model.drop, number, first + i, &heads);
            attention::forward(heads, qkv, z, logs, &drop, &mut self.scratch);
        }
        inside.narrowed = narrows;
        let (z, stream, count): (&[T], &[T], usize) = if narrows {
            gather(z, d, &self.chosen, &mut inside.z_chosen);
            gather(stream, d, &self.chosen, &mut inside.stream_chosen);
            (&inside.z_chosen, &inside.stream_chosen, self.chosen.len())
        } else {
            (z, stream, count)
        };
        let mid = sized(&mut inside.mid, count * d, zero);
        model.write(at.out, z, d, (model.drop.mask(number + 1), place), stream, mid);
        let ln2 = sized(&mut inside.ln2, count * d, zero);
        let stats = sized(&mut inside.stats2, count, [zero; 2]);
        let by = model.divisor(NormPath::Mlp(layer));
        norm::forward(Kind::Layer, mid, model.w(at.ln2.w), model.bias(at.ln2.b), by, ln2, stats);
        if model.norm_scales {
            self.scales[layer] = [model.sum_of_scales(stream), model.sum_of_scales(mid)];
        }
        let post = sized(&mut inside.post, count * m, zero);
        if self.keep == Some(Keep::Nothing) {
            model.affine(at.mlp_in, ln2, (d, m), post);
            activation::in_place(model.activation, post);
        } else {
            let slope = sized(&mut inside.slope, count * m, zero);
            model.affine(at.mlp_in, ln2, (d, m), slope);
            activation::forward_with_slope(model.activation, slope, post);
        }
        let out = sized(&mut resid, count * d, zero);
        model.write(at.mlp_out, post, m, (model.drop.mask(number + 2), place), mid, out);
        self.stream[to] = resid;
    }

    /// Final norm of the chosen rows.
    fn finish(&mut self, model: &Model<'_, T>, last: usize) {
        let at = model.places.ln_final;
        let d = model.config.d_model;
        if self.narrows(model, model.config.n_layers - 1) {
            self.last.clone_from(&self.stream[last]);
        } else {
            gather(&self.stream[last], d, &self.chosen, &mut self.last);
        }
        let normalized = sized(&mut self.normalized, self.last.len(), T::zero());
        let stats = sized(&mut self.stats, self.chosen.len(), [T::zero(); 2]);
        let by = model.divisor(NormPath::Final);
        norm::forward(Kind::Layer, &self.last, model.w(at.w), model.bias(at.b), by, normalized, stats);
    }

    /// Losses of the rows whose targets count.
    fn losses(&mut self, model: &Model<'_, T>, targets: &[u32], keep: Keep) {
        self.choose(|row| targets[row] != IGNORED);
        self.targets.clear();
        self.targets.extend(self.chosen.iter().map(|row| targets[*row]));
        let last = self.stream(model, keep);
        if model.norm_scales {
            let stats = sized(&mut self.final_stats, self.tokens.len(), [T::zero(); 2]);
            norm::statistics_of(Kind::Layer, &self.stream[last], model.config.d_model, model.own(), stats);
        }
        self.finish(model, last);
        let (v, count, zero) = (model.config.d_vocab, self.chosen.len(), T::zero());
        let logits = sized(&mut self.logits, count * v, zero);
        model.unembed(&self.normalized, logits);
        let (losses, logs) = (sized(&mut self.losses, count, zero), sized(&mut self.logs, count, zero));
        loss::forward(logits, v, &self.targets, losses, logs);
    }

    fn choose(&mut self, counts: impl Fn(usize) -> bool) {
        let rows = self.rows();
        self.chosen.clear();
        self.chosen.extend((0..rows).filter(|row| counts(*row)));
    }

    /// From the gradient of the logits of the chosen rows, in `self.logits`, and that of the final stream's scales, to that
    /// of the final stream.
    fn start_back(&mut self, model: &Model<'_, T>, dscales: &[T]) {
        let (config, at) = (model.config, model.places.ln_final);
        let (d, v, count) = (config.d_model, config.d_vocab, self.chosen.len());
        let narrows = self.narrows(model, config.n_layers - 1);
        let back = &mut self.back;
        let dx = sized(&mut back.x, count * d, T::zero());
        let w = match model.places.unembed {
            Some(place) => Matrix::new(model.w(place), d, v).t(),
            None => Matrix::new(model.w(model.places.embed), v, d),
        };
        model.product(dx, d, Accumulate::Replace, Matrix::new(&self.logits, count, v), w, T::one());
        let mut dlast = std::mem::take(&mut back.z);
        zeroed(&mut dlast, count * d);
        back.ln_final.iter_mut().for_each(|sums| zeroed(sums, d));
        let [gain, bias] = &mut back.ln_final;
        let by = model.divisor(NormPath::Final);
        norm::backward(Kind::Layer, by, &self.last, &self.stats, model.w(at.w), dx, &mut dlast, gain, Some(bias));
        if narrows {
            std::mem::swap(&mut back.resid, &mut dlast);
        } else {
            scatter(&dlast, d, &self.chosen, &mut back.resid, self.tokens.len());
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

    /// Backward through one block; `dz` is what the block's tapped heads get from outside.
    fn block_back(&mut self, model: &Model<'_, T>, layer: usize, dz: Option<&[T]>) {
        let (config, at) = (model.config, &model.places.blocks[layer]);
        let (d, m, count) = (config.d_model, config.d_mlp, self.rows());
        let (first, seq) = (self.first, self.seq);
        let place = self.place(d);
        if self.keep == Some(Keep::Blocks) {
            // the last stream is not needed any more, so its place takes what the block computes again
            let spare = self.stream.len() - 1;
            self.block(model, layer, layer, spare);
        }
        let index = layer.min(self.inside.len() - 1);
        let (inside, back) = (&self.inside[index], &mut self.back);
        let (stream, number, zero) = (&self.stream[layer], 2 + 3 * layer as u64, T::zero());
        let behind = if inside.narrowed { self.chosen.len() } else { count };
        let masked = |from: &[T], to: &mut Vec<T>, number: u64| {
            to.clear();
            to.extend_from_slice(from);
            if let Some(mask) = model.drop.mask::<T>(number) {
                mask.apply(to, place);
            }
        };
        for sums in back.ln1.iter_mut().chain(&mut back.ln2) {
            zeroed(sums, d);
        }

        masked(&back.resid, &mut back.mlp_out, number + 2);
        let dpre = sized(&mut back.pre, behind * m, zero);
        model.through(at.mlp_out, &back.mlp_out, (m, d), dpre);
        rows::multiply(dpre, &inside.slope);
        let dx = sized(&mut back.x, behind * d, zero);
        model.through(at.mlp_in, dpre, (d, m), dx);
        let [gain, bias] = &mut back.ln2;
        let w = model.w(at.ln2.w);
        let by = model.divisor(NormPath::Mlp(layer));
        norm::backward(Kind::Layer, by, &inside.mid, &inside.stats2, w, dx, &mut back.resid, gain, Some(bias));

        masked(&back.resid, &mut back.attn_out, number + 1);
        let z = sized(&mut back.z, behind * d, zero);
        model.through(at.out, &back.attn_out, (d, d), z);
        if inside.narrowed {
            scatter(z, d, &self.chosen, &mut back.x, count);
            std::mem::swap(&mut back.z, &mut back.x);
            scatter(&back.resid, d, &self.chosen, &mut back.x, count);
            std::mem::swap(&mut back.resid, &mut back.x);
        }
        let z = &mut back.z;
        if let Some(dz) = dz {
            rows::add(z, dz);
        }
        zeroed(&mut back.qkv, count * 3 * d);
        let heads = model.heads(seq);
        let sequences = inside.qkv.chunks_exact(seq * 3 * d).zip(back.qkv.chunks_exact_mut(seq * 3 * d));
        let sequences = sequences.zip(z.chunks_exact(seq * d)).zip(inside.logs.chunks_exact(seq * heads.heads));
        for (i, (((qkv, dqkv), dz), logs)) in sequences.enumerate() {
            let drop = pattern_drop(model.drop, number, first + i, &heads);
            attention::backward(heads, qkv, logs, dz, dqkv, &drop, &mut self.scratch);
        }
        let (by, for_values) = model.before_attention(layer);
        let both = [(by, &inside.stats1, 0), (for_values.unwrap_or(by), &inside.stats1_v, 2 * d)];
        for (i, (by, stats, first)) in both.into_iter().enumerate().take(if for_values.is_some() { 2 } else { 1 }) {
            let end = if i == 0 && for_values.is_some() { 2 * d } else { 3 * d };
            let dx = sized(&mut back.x, count * d, zero);
            model.through_columns(at.qkv, &back.qkv, (d, 3 * d), first..end, dx);
            let [gain, bias] = &mut back.ln1;
            let w = model.w(at.ln1.w);
            norm::backward(Kind::Layer, by, stream, stats, w, dx, &mut back.resid, gain, Some(bias));
        }
    }
}

fn pattern_drop<T: Real>(drop: DropoutKey, number: u64, sequence: usize, h: &Heads) -> attention::DropoutMask<T> {
    Some((drop.mask(number)?, (sequence * h.heads * h.seq * h.seq) as u64))
}

/// Logits of every row, `[rows, v]`.
pub(crate) fn logits<T: Real>(model: &Model<'_, T>, shards: &mut [Shard<T>]) -> Vec<T> {
    let v = model.config.d_vocab;
    let total: usize = shards.iter().map(Shard::rows).sum();
    let mut out = vec![T::zero(); total * v];
    let per = shards.first().map_or(1, Shard::rows) * v;
    out.par_chunks_mut(per.max(1)).zip(shards.par_iter_mut()).for_each(|(out, shard)| {
        shard.choose(|_| true);
        let last = shard.stream(model, Keep::Nothing);
        shard.finish(model, last);
        model.unembed(&shard.normalized, out);
    });
    out
}

/// Losses of the rows whose targets count, in their order.
pub(crate) fn losses<T: Real>(model: &Model<'_, T>, shards: &mut [Shard<T>], targets: &[u32], keep: Keep) -> Vec<T> {
    let per = shards.first().map_or(1, Shard::rows).max(1);
    shards.par_iter_mut().zip(targets.par_chunks(per)).for_each(|(shard, targets)| shard.losses(model, targets, keep));
    shards.iter().flat_map(|shard| shard.losses.iter().copied()).collect()
}

/// Outputs z of the heads of a tapped block, `[rows, d]`; `tap` counts among the taps.
pub(crate) fn tapped<T: Real>(shards: &[Shard<T>], tap: usize) -> impl Iterator<Item = T> {
    shards.iter().flat_map(move |shard| shard.tapped[tap].iter().copied())
}

/// Scale of every row of the final stream, `[rows]`.
pub(crate) fn final_scales<T: Real>(shards: &[Shard<T>]) -> impl Iterator<Item = T> {
    shards.iter().flat_map(|shard| shard.final_stats.iter().map(|[_, inverse]| T::one() / *inverse))
}

/// Mean scale of all rows before attention, block by block, then before the MLPs.
pub(crate) fn mean_scales<T: Real>(shards: &[Shard<T>], n_layers: usize) -> Vec<T> {
    let rows: usize = shards.iter().map(Shard::rows).sum();
    let mean = |which: usize, layer: usize| {
        let sum: f64 = shards.iter().map(|shard| shard.scales[layer][which]).sum();
        T::of(sum / rows as f64)
    };
    (0..2)
        .flat_map(|which| (0..n_layers).map(move |layer| (which, layer)))
        .map(|(which, layer)| mean(which, layer))
        .collect()
}

/// The pass that [`logits`] does not keep, again and kept.
pub(crate) fn again<T: Real>(model: &Model<'_, T>, shards: &mut [Shard<T>]) {
    shards.par_iter_mut().for_each(|shard| {
        shard.choose(|_| true);
        let last = shard.stream(model, Keep::All);
        shard.finish(model, last);
    });
}

/// What comes back from outside.
#[derive(Clone, Copy)]
pub(crate) enum Upstream<'a, T> {
    /// Gradient of [`losses`], and of [`final_scales`] where they were wanted.
    Losses { losses: &'a [T], scales: &'a [T] },
    /// Gradient of [`logits`], after [`again`].
    Logits(&'a [T]),
}

/// Gradient of every weight, in the order of [`Config::shapes`], after [`losses`] or [`logits`] on the same shards.
///
/// `dz` are the gradients of the tapped blocks' heads.
pub(crate) fn backward<T: Real>(
    model: &Model<'_, T>,
    shards: &mut [Shard<T>],
    upstream: Upstream<'_, T>,
    dz: &[&[T]],
) -> Vec<Vec<T>> {
    let (config, places) = (model.config, model.places);
    let (d, m, v) = (config.d_model, config.d_mlp, config.d_vocab);
    // side by side, because clearing memory takes its time
    let mut gradients: Vec<Vec<T>> =
        places.lengths.par_iter().with_max_len(1).map(|length| vec![T::zero(); *length]).collect();
    let mut slots: Vec<Option<&mut [T]>> = gradients.iter_mut().map(|gradient| Some(gradient.as_mut_slice())).collect();
    let per = shards.first().map_or(1, Shard::rows).max(1);

    let mut offset = 0;
    let offsets: Vec<usize> = shards
        .iter()
        .map(|shard| {
            offset += shard.chosen.len();
            offset - shard.chosen.len()
        })
        .collect();
    shards.par_iter_mut().zip(offsets).for_each(|(shard, offset)| {
        let count = shard.chosen.len();
        match upstream {
            Upstream::Losses { losses: d, scales } => {
                loss::backward(&mut shard.logits, v, &shard.targets, &d[offset..][..count], &shard.logs);
                let first = shard.first * shard.seq;
                shard.start_back(model, scales.get(first..first + shard.tokens.len()).unwrap_or_default());
            }
            Upstream::Logits(d) => {
                shard.logits.clear();
                shard.logits.extend_from_slice(&d[offset * v..][..count * v]);
                shard.start_back(model, &[]);
            }
        }
    });
    let mut tiles = Tiles::default();
    match places.unembed {
        Some(place) => tiles.product(slots[place].take(), v, Pick::Normalized, Pick::Logits),
        None => tiles.product(slots[places.embed].take(), d, Pick::Logits, Pick::Normalized),
    }
    tiles.run(shards);
    sum_norm(&mut slots, places.ln_final, shards, |back| &back.ln_final);

    for layer in (0..config.n_layers).rev() {
        let tap = model.taps.iter().position(|tap| *tap == layer).map(|tap| dz[tap]);
        shards.par_iter_mut().enumerate().for_each(|(i, shard)| {
            let dz = tap.map(|dz| &dz[i * per * d..][..shard.rows() * d]);
            shard.block_back(model, layer, dz);
        });
        let at = &places.blocks[layer];
        let index = layer.min(shards.first().map_or(1, |shard| shard.inside.len()) - 1);
        let mut tiles = Tiles::default();
        let mut affine = |at: Affine, d_out, x, dy| {
            tiles.product(slots[at.w].take(), d_out, x, dy);
            if let Some(b) = at.b {
                tiles.columns(slots[b].take(), dy);
            }
        };
        affine(at.mlp_out, d, Pick::Post(index), Pick::MlpOut);
        affine(at.mlp_in, m, Pick::Ln2(index), Pick::Pre);
        affine(at.out, d, Pick::Z(index), Pick::AttnOut);
        affine(at.qkv, 3 * d, Pick::Ln1(index), Pick::Qkv);
        if model.before_attention(layer).1.is_some() {
            tiles.take_from_column(2 * d, Pick::Ln1Values(index), Pick::Qkv);
        }
        tiles.run(shards);
        sum_norm(&mut slots, at.ln1, shards, |back| &back.ln1);
        sum_norm(&mut slots, at.ln2, shards, |back| &back.ln2);
    }
    embedding_back(model, shards, &mut gradients);
    gradients
}

/// One activation or gradient of a shard.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pick {
    Normalized,
    Logits,
    Ln1(usize),
    Ln1Values(usize),
    Z(usize),
    Ln2(usize),
    Post(usize),
    MlpOut,
    Pre,
    AttnOut,
    Qkv,
}

impl Pick {
    fn of<T>(self, shard: &Shard<T>) -> &[T] {
        match self {
            Self::Normalized => &shard.normalized,
            Self::Logits => &shard.logits,
            Self::Ln1(index) => &shard.inside[index].ln1,
            Self::Ln1Values(index) => &shard.inside[index].ln1_v,
            Self::Z(index) => shard.inside[index].read(),
            Self::Ln2(index) => &shard.inside[index].ln2,
            Self::Post(index) => &shard.inside[index].post,
            Self::MlpOut => &shard.back.mlp_out,
            Self::Pre => &shard.back.pre,
            Self::AttnOut => &shard.back.attn_out,
            Self::Qkv => &shard.back.qkv,
        }
    }
}

/// Gradients of weights, cut into parts that can be computed side by side.
struct Tiles<'a, T> {
    jobs: Vec<Job<'a, T>>,
}

impl<T> Default for Tiles<'_, T> {
    fn default() -> Self {
        Self { jobs: Vec::new() }
    }
}

/// Some rows of `x^T dy`, or the column sums of `dy`, over all shards in their order.
struct Job<'a, T> {
    out: &'a mut [T],
    dy: Pick,
    /// `x`, its width, the first of its columns that belong to this tile, and the width of `dy`.
    x: Option<(Pick, usize, usize, usize)>,
    /// A column of `dy`, and what stands for `x` from it on.
    late: Option<(usize, Pick)>,
}

impl<'a, T: Real> Tiles<'a, T> {
    fn product(&mut self, out: Option<&'a mut [T]>, d_out: usize, x: Pick, dy: Pick) {
        let Some(out) = out else { return };
        let d_in = out.len() / d_out;
        let tile = tile_rows(d_in);
        for (i, out) in out.chunks_mut(tile * d_out).enumerate() {
            self.jobs.push(Job { out, dy, x: Some((x, d_in, i * tile, d_out)), late: None });
        }
    }

    fn columns(&mut self, out: Option<&'a mut [T]>, dy: Pick) {
        self.jobs.extend(out.map(|out| Job { out, dy, x: None, late: None }));
    }

    /// In all products with this `dy`, another `x` from a column of it on.
    fn take_from_column(&mut self, column: usize, x: Pick, dy: Pick) {
        let products = self.jobs.iter_mut().filter(|job| job.dy == dy && job.x.is_some());
        products.for_each(|job| job.late = Some((column, x)));
    }

    fn run(self, shards: &[Shard<T>]) {
        self.jobs.into_par_iter().with_max_len(1).for_each(|Job { out, dy, x, late }| {
            for (i, shard) in shards.iter().enumerate() {
                let dy = dy.of(shard);
                let Some((x, d_in, first, d_out)) = x else {
                    rows::add_column_sums(out, dy);
                    continue;
                };
                let count = dy.len() / d_out;
                if count == 0 {
                    continue;
                }
                let how = if i == 0 { Accumulate::Replace } else { Accumulate::Add };
                let (tile, split) = (out.len() / d_out, late.map_or(d_out, |(column, _)| column));
                let parts = [Some((0, split, x)), late.map(|(column, x)| (column, d_out, x))];
                for (begin, end, x) in parts.into_iter().flatten() {
                    let x = Matrix::strided(&x.of(shard)[first..], count, tile, d_in);
                    let dy = Matrix::strided(&dy[begin..], count, end - begin, d_out);
                    product(&mut out[begin..], d_out, how, x.t(), dy, T::one());
                }
            }
        });
    }
}

/// Gradients of a norm's gain and bias, over all shards in their order.
fn sum_norm<T: Real>(
    slots: &mut [Option<&mut [T]>],
    at: Affine,
    shards: &[Shard<T>],
    pick: impl Fn(&Back<T>) -> &[Vec<T>; 2],
) {
    for (which, place) in [(0, Some(at.w)), (1, at.b)] {
        if let Some(sums) = place.and_then(|place| slots[place].take()) {
            shards.iter().for_each(|shard| rows::add(sums, &pick(&shard.back)[which]));
        }
    }
}

/// Adds what reaches the first stream to the embeddings' gradients.
fn embedding_back<T: Real>(model: &Model<'_, T>, shards: &mut [Shard<T>], slots: &mut [Vec<T>]) {
    let d = model.config.d_model;
    for shard in shards {
        let place = shard.place(d);
        if let Some(mask) = model.drop.mask::<T>(1) {
            mask.apply(&mut shard.back.resid, place);
        }
        for ((dy, token), position) in shard.back.resid.chunks_exact(d).zip(&shard.tokens).zip(&shard.positions) {
            rows::add(&mut slots[model.places.embed][*token as usize * d..][..d], dy);
            if let Some(pos_embed) = model.places.pos_embed {
                rows::add(&mut slots[pos_embed][*position as usize * d..][..d], dy);
            }
        }
    }
}
