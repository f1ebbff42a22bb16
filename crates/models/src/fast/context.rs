//! The model as the fast pass sees it: slices of weights, and the products with them.

use std::ops::Range;

use ops::kernel::activation::Activation;
use ops::kernel::attention::Heads;
use ops::kernel::norm::{self, Divisor, Kind};
use ops::kernel::product::{Accumulate, Matrix, product, shared_product};
use ops::kernel::random::Mask;
use ops::kernel::{Real, rows};

use crate::dropout::DropoutKey;
use crate::weight_index::{AffineIndex, WeightIndex};
use crate::{Config, FixedScales, NormPath};

/// The model and the options of one pass.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a, T> {
    pub(crate) config: &'a Config,
    pub(crate) index: &'a WeightIndex,
    pub(crate) activation: Activation,
    /// In the order of [`Config::shapes`].
    pub(crate) weights: &'a [&'a [T]],
    pub(crate) dropout: DropoutKey,
    pub(crate) fixed: &'a FixedScales,
    /// Blocks whose head outputs are requested.
    pub(crate) taps: &'a [usize],
    /// Whether the scales of the norms' inputs are requested.
    pub(crate) norm_scales: bool,
    /// Whether the batch is a single shard, whose products all threads then share.
    pub(crate) single_shard: bool,
}

impl<'a, T: Real> Context<'a, T> {
    pub(super) fn w(&self, index: usize) -> &'a [T] {
        self.weights[index]
    }

    pub(super) fn bias(&self, index: Option<usize>) -> Option<&'a [T]> {
        index.map(|index| self.weights[index])
    }

    pub(super) fn heads(&self, seq: usize) -> Heads {
        let n_heads = self.config.n_heads;
        Heads { seq, heads: n_heads, kv_heads: n_heads, width: self.config.d_head() }
    }

    /// A product of a shard, on the shard's own thread unless it is the only shard.
    pub(super) fn product(
        &self,
        out: &mut [T],
        stride: usize,
        how: Accumulate<'_, T>,
        a: Matrix<'_, T>,
        b: Matrix<'_, T>,
        scale: T,
    ) {
        if self.single_shard {
            shared_product(out, stride, how, a, b, scale)
        } else {
            product(out, stride, how, a, b, scale)
        }
    }

    /// A norm's division by its input's own scale.
    pub(super) fn own_scale(&self) -> Divisor {
        Divisor::Own { eps: self.config.norm_eps }
    }

    /// The divisor of a norm: its input's own scale, or a fixed one.
    pub(super) fn divisor(&self, path: NormPath) -> Divisor {
        self.fixed.get(path).map_or(self.own_scale(), Divisor::Fixed)
    }

    /// Divisors of the norm before attention: for queries and keys, and for values where theirs is another.
    pub(super) fn before_attention(&self, layer: usize) -> (Divisor, Option<Divisor>) {
        let [qk, v] = [NormPath::QueriesKeys(layer), NormPath::Values(layer)].map(|path| self.divisor(path));
        (qk, (v != qk).then_some(v))
    }

    /// Sum of the own scales of some rows, also where the norm after them has a fixed scale.
    pub(super) fn sum_of_scales(&self, x: &[T]) -> f64 {
        let mut stats = vec![[T::zero(); 2]; x.len() / self.config.d_model];
        norm::statistics_of(Kind::Layer, x, self.config.d_model, self.own_scale(), &mut stats);
        stats.iter().map(|[_, inverse]| 1. / inverse.wide()).sum()
    }

    /// `out = before + x w + b`, with dropout on `x w + b`: a mask, and the offset of these rows in the whole batch.
    pub(super) fn write(
        &self,
        at: AffineIndex,
        x: &[T],
        d_in: usize,
        dropout: (Option<Mask<T>>, u64),
        before: &[T],
        out: &mut [T],
    ) {
        let sizes = (d_in, self.config.d_model);
        match dropout {
            (Some(mask), offset) => {
                self.affine(at, x, sizes, out);
                mask.apply(out, offset);
                rows::add(out, before);
            }
            (None, _) => self.map(at, x, sizes, Accumulate::Rows(before, self.bias(at.b)), out),
        }
    }

    /// `out = x w + b`.
    pub(super) fn affine(&self, at: AffineIndex, x: &[T], sizes: (usize, usize), out: &mut [T]) {
        self.map(at, x, sizes, self.bias(at.b).map_or(Accumulate::Replace, Accumulate::Row), out);
    }

    /// `x w`, stored or added as `how` says.
    fn map(&self, at: AffineIndex, x: &[T], (d_in, d_out): (usize, usize), how: Accumulate<'_, T>, out: &mut [T]) {
        let (x, w) = (Matrix::new(x, out.len() / d_out, d_in), Matrix::new(self.w(at.w), d_in, d_out));
        self.product(out, d_out, how, x, w, T::one());
    }

    /// `out = x w + b` for some columns of w.
    pub(super) fn affine_columns(
        &self,
        at: AffineIndex,
        x: &[T],
        (d_in, d_out): (usize, usize),
        columns: Range<usize>,
        out: &mut [T],
    ) {
        let (first, count) = (columns.start, x.len() / d_in);
        let how = self.bias(at.b).map_or(Accumulate::Replace, |bias| Accumulate::Row(&bias[columns.clone()]));
        let w = Matrix::strided(&self.w(at.w)[first..], d_in, columns.len(), d_out);
        self.product(&mut out[first..], d_out, how, Matrix::new(x, count, d_in), w, T::one());
    }

    /// `dx = dy w^T`.
    pub(super) fn through(&self, at: AffineIndex, dy: &[T], sizes: (usize, usize), dx: &mut [T]) {
        self.through_columns(at, dy, sizes, 0..sizes.1, dx);
    }

    /// `dx = dy w^T` for some columns of dy and w.
    pub(super) fn through_columns(
        &self,
        at: AffineIndex,
        dy: &[T],
        sizes: (usize, usize),
        columns: Range<usize>,
        dx: &mut [T],
    ) {
        let ((d_in, d_out), first) = (sizes, columns.start);
        if dx.is_empty() {
            return;
        }
        let dy = Matrix::strided(&dy[first..], dx.len() / d_in, columns.len(), d_out);
        let w = Matrix::strided(&self.w(at.w)[first..], d_in, columns.len(), d_out);
        self.product(dx, d_in, Accumulate::Replace, dy, w.t(), T::one());
    }

    /// Logits of rows after the final norm.
    pub(super) fn unembed(&self, x: &[T], out: &mut [T]) {
        let (d, v) = (self.config.d_model, self.config.d_vocab);
        let w = match self.index.unembed {
            Some(index) => Matrix::new(self.w(index), d, v),
            None => Matrix::new(self.w(self.index.embed), v, d).t(),
        };
        self.product(out, v, Accumulate::Replace, Matrix::new(x, x.len() / d, d), w, T::one());
    }
}
