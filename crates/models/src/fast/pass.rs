//! Forward and backward pass over all shards of a batch.
//!
//! Gradients of weights are cut into tiles, and each sum runs over the shards in their order.

use ops::kernel::product::{Accumulate, Matrix, product};
use ops::kernel::{Real, loss, rows};
use ops::tile_rows;
use rayon::prelude::*;

use super::context::Context;
use super::output::{Output, Scales};
use super::shard::{Back, Keep, Shard};
use crate::weight_index::AffineIndex;

/// Logits of every row, `[rows, v]`.
pub(super) fn logits<T: Real>(context: &Context<'_, T>, shards: &mut [Shard<T>]) -> Vec<T> {
    let v = context.config.d_vocab;
    let total: usize = shards.iter().map(Shard::rows).sum();
    let mut out = vec![T::zero(); total * v];
    let per = shards.first().map_or(1, Shard::rows) * v;
    out.par_chunks_mut(per.max(1)).zip(shards.par_iter_mut()).for_each(|(out, shard)| {
        shard.count_rows(|_| true);
        let last = shard.stream(context, Keep::Nothing);
        shard.finish(context, last);
        context.unembed(&shard.normalized, out);
    });
    out
}

/// Losses of the counted rows in their order, with head outputs and scales as `context` requests them.
pub(super) fn losses<T: Real>(
    context: &Context<'_, T>,
    shards: &mut [Shard<T>],
    targets: &[u32],
    keep: Keep,
) -> Output<Vec<T>> {
    let per = shards.first().map_or(1, Shard::rows).max(1);
    shards
        .par_iter_mut()
        .zip(targets.par_chunks(per))
        .for_each(|(shard, targets)| shard.losses(context, targets, keep));
    let shards = &*shards;
    let tapped = |tap: usize| shards.iter().flat_map(|shard| shard.tapped[tap].iter().copied()).collect();
    Output {
        losses: shards.iter().flat_map(|shard| shard.losses.iter().copied()).collect(),
        z: (0..context.taps.len()).map(tapped).collect(),
        norm_scales: context.norm_scales.then(|| Scales {
            ln_final: shards
                .iter()
                .flat_map(|shard| shard.final_stats.iter().map(|[_, inverse]| T::one() / *inverse))
                .collect(),
            ln1: mean_scales(shards, context.config.n_layers, 0),
            ln2: mean_scales(shards, context.config.n_layers, 1),
        }),
    }
}

/// Mean scale of all rows in each block: before attention (`norm` 0) or before the MLP (`norm` 1).
fn mean_scales<T: Real>(shards: &[Shard<T>], n_layers: usize, norm: usize) -> Vec<T> {
    let rows: usize = shards.iter().map(Shard::rows).sum();
    let mean = |layer: usize| {
        let sum: f64 = shards.iter().map(|shard| shard.scales[layer][norm]).sum();
        T::of(sum / rows as f64)
    };
    (0..n_layers).map(mean).collect()
}

/// The pass of [`logits`] once more, this time kept for a backward pass.
pub(super) fn logits_kept<T: Real>(context: &Context<'_, T>, shards: &mut [Shard<T>]) {
    shards.par_iter_mut().for_each(|shard| {
        shard.count_rows(|_| true);
        let last = shard.stream(context, Keep::All);
        shard.finish(context, last);
    });
}

/// Gradient of the output of the forward pass.
pub(super) enum Upstream<'a, T> {
    /// Of [`losses`]; mean scales take no gradient.
    Losses(Output<&'a [T]>),
    /// Of [`logits`], after [`logits_kept`].
    Logits(&'a [T]),
}

/// Gradient of every weight, in the order of [`Config::shapes`](crate::Config::shapes), after [`losses`] or
/// [`logits_kept`] on the same shards.
pub(super) fn backward<T: Real>(
    context: &Context<'_, T>,
    shards: &mut [Shard<T>],
    upstream: &Upstream<'_, T>,
) -> Vec<Vec<T>> {
    let (config, index) = (context.config, context.index);
    let (d, m, v) = (config.d_model, config.d_mlp, config.d_vocab);
    // in parallel, because clearing memory is slow
    let mut gradients: Vec<Vec<T>> =
        index.lengths.par_iter().with_max_len(1).map(|length| vec![T::zero(); *length]).collect();
    let mut slots: Vec<Option<&mut [T]>> = gradients.iter_mut().map(|gradient| Some(gradient.as_mut_slice())).collect();
    let per = shards.first().map_or(1, Shard::rows).max(1);

    let mut offset = 0;
    let offsets: Vec<usize> = shards
        .iter()
        .map(|shard| {
            offset += shard.counted.len();
            offset - shard.counted.len()
        })
        .collect();
    shards.par_iter_mut().zip(offsets).for_each(|(shard, offset)| {
        let count = shard.counted.len();
        match upstream {
            Upstream::Losses(Output { losses: d, norm_scales, .. }) => {
                loss::backward(&mut shard.logits, v, &shard.targets, &d[offset..][..count], &shard.logs);
                let first = shard.first * shard.seq;
                let dscales = norm_scales.as_ref().map(|scales| &scales.ln_final[first..][..shard.tokens.len()]);
                shard.final_back(context, dscales.unwrap_or_default());
            }
            Upstream::Logits(d) => {
                shard.logits.clear();
                shard.logits.extend_from_slice(&d[offset * v..][..count * v]);
                shard.final_back(context, &[]);
            }
        }
    });
    let mut tiles = Tiles::default();
    match index.unembed {
        Some(unembed) => tiles.product(slots[unembed].take(), v, Pick::Normalized, Pick::Logits),
        None => tiles.product(slots[index.embed].take(), d, Pick::Logits, Pick::Normalized),
    }
    tiles.run(shards);
    sum_norm(&mut slots, index.ln_final, shards, |back| &back.ln_final);

    for layer in (0..config.n_layers).rev() {
        let tap = context.taps.iter().position(|tap| *tap == layer).and_then(|tap| match upstream {
            Upstream::Losses(output) => output.z.get(tap).copied(),
            Upstream::Logits(_) => None,
        });
        shards.par_iter_mut().enumerate().for_each(|(i, shard)| {
            let dz = tap.map(|dz| &dz[i * per * d..][..shard.rows() * d]);
            shard.block_back(context, layer, dz);
        });
        let at = &index.blocks[layer];
        let inside = layer.min(shards.first().map_or(1, |shard| shard.inside.len()) - 1);
        let mut tiles = Tiles::default();
        let mut affine = |at: AffineIndex, d_out, x, dy| {
            tiles.product(slots[at.w].take(), d_out, x, dy);
            if let Some(b) = at.b {
                tiles.columns(slots[b].take(), dy);
            }
        };
        affine(at.mlp_out, d, Pick::Post(inside), Pick::MlpOut);
        affine(at.mlp_in, m, Pick::Ln2(inside), Pick::Pre);
        affine(at.out, d, Pick::Z(inside), Pick::AttnOut);
        affine(at.qkv, 3 * d, Pick::Ln1(inside), Pick::Qkv);
        if context.before_attention(layer).1.is_some() {
            tiles.take_from_column(2 * d, Pick::Ln1Values(inside), Pick::Qkv);
        }
        tiles.run(shards);
        sum_norm(&mut slots, at.ln1, shards, |back| &back.ln1);
        sum_norm(&mut slots, at.ln2, shards, |back| &back.ln2);
    }
    embedding_back(context, shards, &mut gradients);
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
            Self::Z(index) => shard.inside[index].z_for_output(),
            Self::Ln2(index) => &shard.inside[index].ln2,
            Self::Post(index) => &shard.inside[index].post,
            Self::MlpOut => &shard.back.mlp_out,
            Self::Pre => &shard.back.pre,
            Self::AttnOut => &shard.back.attn_out,
            Self::Qkv => &shard.back.qkv,
        }
    }
}

/// Gradients of weights, cut into jobs that run in parallel.
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
    /// From this column of `dy` on, another `x`.
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

    /// Uses another `x` from a column of `dy` on, in all products with this `dy`.
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
    at: AffineIndex,
    shards: &[Shard<T>],
    pick: impl Fn(&Back<T>) -> &[Vec<T>; 2],
) {
    for (which, index) in [(0, Some(at.w)), (1, at.b)] {
        if let Some(sums) = index.and_then(|index| slots[index].take()) {
            shards.iter().for_each(|shard| rows::add(sums, &pick(&shard.back)[which]));
        }
    }
}

/// Adds the gradient of the first stream to those of the embeddings.
fn embedding_back<T: Real>(context: &Context<'_, T>, shards: &mut [Shard<T>], slots: &mut [Vec<T>]) {
    let d = context.config.d_model;
    for shard in shards {
        let offset = shard.offset(d);
        if let Some(mask) = context.dropout.mask::<T>(1) {
            mask.apply(&mut shard.back.resid, offset);
        }
        for ((dy, token), position) in shard.back.resid.chunks_exact(d).zip(&shard.tokens).zip(&shard.positions) {
            rows::add(&mut slots[context.index.embed][*token as usize * d..][..d], dy);
            if let Some(pos_embed) = context.index.pos_embed {
                rows::add(&mut slots[pos_embed][*position as usize * d..][..d], dy);
            }
        }
    }
}
