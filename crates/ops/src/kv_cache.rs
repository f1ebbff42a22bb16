//! Attention with a cache of keys and values: the queries of new positions, after positions that are already cached.
//!
//! Several sequences may share a cache. It is neither repeated nor copied, and one product with its keys serves all of
//! their queries.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::attention::{attention_pattern, attention_scores, mix_values};
use crate::attention_steps::group;
use crate::custom::{Operand, by_dtype, slice, storage, takes};
use crate::kernel::attention::{Heads, propagate_from_later_values};
use crate::kernel::product::{Accumulate, Matrix, product};
use crate::kernel::rows::{largest, sum, sum_pairs};
use crate::kernel::{Real, vectorised};

/// Causal attention of the last positions of each sequence, after positions whose keys and values are cached.
///
/// On the CPU there is no backward pass.
///
/// # Shapes
/// `qkv` `[batch, seq, n_heads + 2 kv_heads, d_head]` as in [`crate::causal_attention`]; `past` are the cached keys and
/// values `[shared, before, kv_heads, d_head]`, whose row i precedes the sequences i, i + shared, i + 2 shared and so on;
/// output `[batch, seq, n_heads, d_head]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention_with_kv_cache(qkv: &Tensor, past: &[Tensor; 2], kv_heads: usize) -> Result<Tensor> {
    let (batch, _, parts, width) = qkv.dims4()?;
    let heads = parts.saturating_sub(2 * kv_heads);
    group(heads, kv_heads)?;
    let [keys, values] = past;
    let (shared, before, ..) = keys.dims4()?;
    let fits = shared > 0 && batch.is_multiple_of(shared) && keys.dims() == [shared, before, kv_heads, width];
    if !fits || keys.dims() != values.dims() {
        bail!(
            "cached keys {:?} and values {:?} do not fit queries, keys and values {:?} with {kv_heads} key heads",
            keys.dims(),
            values.dims(),
            qkv.dims()
        );
    }
    if takes(qkv) {
        let op = CachedAttention { heads, kv_heads };
        return qkv.contiguous()?.apply_op3(&keys.contiguous()?, &values.contiguous()?, op);
    }
    let part = |first, count| qkv.narrow(2, first, count); // [batch, seq, count, d_head]
    let whole = |past: &Tensor, first| {
        let past = past.repeat((batch / shared, 1, 1, 1))?;
        Tensor::cat(&[&past, &part(first, kv_heads)?], 1)?.transpose(1, 2)?.contiguous()
    };
    let queries = part(0, heads)?.transpose(1, 2)?.contiguous()?;
    let pattern = attention_pattern(&attention_scores(&queries, &whole(keys, heads)?, None)?)?;
    mix_values(&pattern, &whole(values, heads + kv_heads)?)?.transpose(1, 2)
}

struct CachedAttention {
    heads: usize,
    kv_heads: usize,
}

impl CustomOp3 for CachedAttention {
    fn name(&self) -> &'static str {
        "attention-with-kv-cache"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_at: &Layout,
        keys: &CpuStorage,
        keys_at: &Layout,
        values: &CpuStorage,
        values_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, seq, _, width) = qkv_at.shape().dims4()?;
        let (shared, before, ..) = keys_at.shape().dims4()?;
        let h = Heads { seq, heads: self.heads, kv_heads: self.kv_heads, width };
        let sizes = Sizes { h, batch, shared, before };
        let out = by_dtype!(qkv.dtype(), sizes.run((qkv, qkv_at), (keys, keys_at), (values, values_at)))?;
        Ok((out, Shape::from((batch, seq, self.heads, width))))
    }
}

struct Sizes {
    h: Heads,
    batch: usize,
    shared: usize,
    before: usize,
}

impl Sizes {
    fn run<T: Real>(&self, qkv: Operand<'_>, keys: Operand<'_>, values: Operand<'_>) -> Result<CpuStorage> {
        let (qkv, keys, values) = (slice::<T>(qkv)?, slice::<T>(keys)?, slice::<T>(values)?);
        let Self { h, batch, shared, before } = *self;
        let (row, past_row) = (h.seq * h.row(), before * h.kv_heads * h.width);
        let each = |index: usize| {
            let past = index * past_row..(index + 1) * past_row;
            let own: Vec<&[T]> = (index..batch).step_by(shared).map(|i| &qkv[i * row..][..row]).collect();
            self.one(&own, &keys[past.clone()], &values[past])
        };
        let parts: Vec<Vec<T>> = (0..shared).into_par_iter().map(each).collect();
        let size = h.seq * h.out();
        let mut out = Vec::with_capacity(batch * size);
        for i in 0..batch {
            out.extend_from_slice(&parts[i % shared][i / shared * size..][..size]);
        }
        Ok(storage(out))
    }

    /// Attention of the sequences that share one cache, `[sequences, seq, n_heads, width]`.
    fn one<T: Real>(&self, own: &[&[T]], keys: &[T], values: &[T]) -> Vec<T> {
        let Self { h, before, .. } = *self;
        let (rows, all, stride) = (own.len() * h.seq, before + h.seq, h.kv_heads * h.width);
        let scale = T::of(1. / (h.width as f64).sqrt());
        let mut z = vec![T::zero(); rows * h.out()];
        let mut queries = vec![T::zero(); rows * h.width];
        let mut pattern = vec![T::zero(); rows * all];
        for head in 0..h.heads {
            let positions = own.iter().flat_map(|own| own.chunks_exact(h.row()));
            for (to, from) in queries.chunks_exact_mut(h.width).zip(positions) {
                to.copy_from_slice(&from[h.q(head)..][..h.width]);
            }
            let of_head = h.k(head) - h.heads * h.width;
            let part = |x| Matrix::strided(x, before, h.width, stride);
            let queries = Matrix::new(queries.as_slice(), rows, h.width);
            if before > 0 {
                product(&mut pattern, all, Accumulate::Replace, queries, part(&keys[of_head..]).t(), scale);
            }
            vectorised(
                #[inline(always)]
                || {
                    for (own, pattern) in own.iter().zip(pattern.chunks_exact_mut(h.seq * all)) {
                        own_scores(h, head, own, (pattern, before), scale);
                    }
                },
            );
            if before > 0 {
                let z = &mut z[h.q(head)..];
                let pattern = Matrix::strided(&pattern, rows, before, all);
                product(z, h.out(), Accumulate::Replace, pattern, part(&values[of_head..]), T::one());
            }
            vectorised(
                #[inline(always)]
                || {
                    let parts = pattern.chunks_exact(h.seq * all).zip(z.chunks_exact_mut(h.seq * h.out()));
                    for (own, (pattern, z)) in own.iter().zip(parts) {
                        own_values(h, head, own, (pattern, before), z);
                    }
                },
            );
        }
        own.iter()
            .zip(z.chunks_exact_mut(h.seq * h.out()))
            .for_each(|(own, z)| propagate_from_later_values(&h, own, z));
        z
    }
}

/// Scores of the new positions of a sequence, and the softmax over cached and new keys.
#[inline(always)]
fn own_scores<T: Real>(h: Heads, head: usize, own: &[T], (pattern, before): (&mut [T], usize), scale: T) {
    for (query, pattern) in pattern.chunks_exact_mut(before + h.seq).enumerate() {
        let q = &own[query * h.row() + h.q(head)..][..h.width];
        let (seen, ahead) = pattern.split_at_mut(before + query + 1);
        for (key, score) in seen[before..].iter_mut().enumerate() {
            *score = scale * sum_pairs(q, &own[key * h.row() + h.k(head)..][..h.width], |q, k| q * k);
        }
        let most = largest(seen);
        for x in seen.iter_mut() {
            *x = (*x - most).exponential();
        }
        let inverse = T::one() / sum(seen, |x| x);
        for x in seen.iter_mut() {
            *x *= inverse;
        }
        ahead.fill(T::zero());
    }
}

/// Adds the mixed values of the new positions of a sequence.
#[inline(always)]
fn own_values<T: Real>(h: Heads, head: usize, own: &[T], (pattern, before): (&[T], usize), z: &mut [T]) {
    for (query, (pattern, z)) in pattern.chunks_exact(before + h.seq).zip(z.chunks_exact_mut(h.out())).enumerate() {
        let z = &mut z[h.q(head)..][..h.width];
        for (key, share) in pattern[before..=before + query].iter().enumerate() {
            for (z, v) in z.iter_mut().zip(&own[key * h.row() + h.v(head)..][..h.width]) {
                *z += *share * *v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causal_attention;
    use crate::gradcheck::filled;

    #[test]
    fn a_shared_cache_gives_the_same_as_whole_sequences() {
        for (before, seq, heads, kv_heads, width) in
            [(0, 3, 2, 2, 5), (4, 1, 4, 2, 3), (7, 1, 3, 3, 16), (5, 3, 2, 1, 17), (100, 2, 4, 4, 1)]
        {
            let (shared, times) = (2, 3);
            let past = [1, 2].map(|seed| filled(&[shared, before, kv_heads, width], seed));
            let own = filled(&[shared * times, seq, heads + 2 * kv_heads, width], 3);
            let ours = attention_with_kv_cache(&own, &past, kv_heads).unwrap();
            let no_queries = Tensor::zeros((shared * times, before, heads, width), own.dtype(), own.device()).unwrap();
            let [keys, values] = past.map(|past| past.repeat((times, 1, 1, 1)).unwrap());
            let whole = Tensor::cat(&[&Tensor::cat(&[no_queries, keys, values], 2).unwrap(), &own], 1).unwrap();
            let theirs = causal_attention(&whole, kv_heads).unwrap().narrow(1, before, seq).unwrap();
            let difference = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(difference < 1e-12, "{before} {seq} {difference}");
        }
    }

    #[test]
    fn a_cache_of_the_wrong_shape_is_refused() {
        let past = |shape: &[usize]| [filled(shape, 1), filled(shape, 2)];
        let own = filled(&[3, 1, 4, 2], 3);
        assert!(attention_with_kv_cache(&own, &past(&[3, 5, 1, 2]), 1).is_ok());
        for shape in [[2, 5, 1, 2], [3, 5, 2, 2], [3, 5, 1, 3]] {
            assert!(attention_with_kv_cache(&own, &past(&shape), 1).is_err(), "{shape:?}");
        }
        assert!(attention_with_kv_cache(&own, &past(&[3, 5, 1, 2]), 3).is_err());
    }
}
