//! Causal multi-head attention: in one pass, or in three steps so that hooks can read scores and pattern.

use candle_core::{D, Result, Tensor};

use crate::attention_steps::{Mix, Scores, Softmax, group, has_usable_strides};
use crate::custom::{self, Attention};

/// Causal attention in one pass: scores, mask, softmax and mixing of values. The CPU kernel never stores the whole pattern.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// // one sequence of five tokens; four query heads share two key and value heads of width 8
/// let qkv = Tensor::ones((1, 5, 4 + 2 * 2, 8), candle_core::DType::F32, &Device::Cpu)?;
/// let z = ops::causal_attention(&qkv, 2)?;
/// assert_eq!(z.dims(), [1, 5, 4, 8]);
/// // equal scores mix the values evenly, and all values are 1
/// assert!((z.mean_all()?.to_scalar::<f32>()? - 1.).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Shapes
/// `qkv` `[batch, seq, n_heads + 2 kv_heads, d_head]` (queries, then keys, then values; each key and value head serves
/// `n_heads / kv_heads` adjacent query heads), output `[batch, seq, n_heads, d_head]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn causal_attention(qkv: &Tensor, kv_heads: usize) -> Result<Tensor> {
    let (_, _, parts, _) = qkv.dims4()?;
    let heads = parts.saturating_sub(2 * kv_heads);
    group(heads, kv_heads)?;
    if custom::takes(qkv) {
        return qkv.contiguous()?.apply_op1(Attention { heads, kv_heads });
    }
    let part = |first, count| qkv.narrow(2, first, count)?.transpose(1, 2)?.contiguous(); // [batch, count, seq, d_head]
    let pattern = attention_pattern(&attention_scores(&part(0, heads)?, &part(heads, kv_heads)?, None)?)?;
    mix_values(&pattern, &part(heads + kv_heads, kv_heads)?)?.transpose(1, 2)
}

/// Repeats each head of `[batch, kv_heads, seq, d_head]` `times` times.
fn repeat_heads(x: &Tensor, times: usize) -> Result<Tensor> {
    let (batch, heads, seq, width) = x.dims4()?;
    x.unsqueeze(2)?.broadcast_as((batch, heads, times, seq, width))?.reshape((batch, heads * times, seq, width))
}

/// Scaled causal scores, `q k^T / sqrt(d_head)`. They are minus infinity for keys after the query and, with a sliding
/// window (arXiv 2310.06825), for keys that are `window` or more positions before it.
///
/// # Shapes
/// `q` `[batch, n_heads, q_seq, d_head]`, `k` `[batch, kv_heads, k_seq, d_head]`, output
/// `[batch, n_heads, q_seq, k_seq]`. The queries are those of the last `q_seq` positions; each key head serves
/// `n_heads / kv_heads` adjacent query heads.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention_scores(q: &Tensor, k: &Tensor, window: Option<usize>) -> Result<Tensor> {
    let (_, heads, queries, d_head) = q.dims4()?;
    let (_, _, keys, _) = k.dims4()?;
    let Some(past) = keys.checked_sub(queries) else {
        candle_core::bail!("attention: {queries} queries, but only {keys} keys");
    };
    if custom::takes(q) {
        return usable(q)?.apply_op2(&usable(k)?, Scores { window });
    }
    let scale = 1. / (d_head as f64).sqrt();
    let scores = (q.matmul(&served(k, heads)?.t()?)? * scale)?;
    // selected instead of added: a NaN key must not reach the queries before it
    let hidden = |query: usize, key: usize| key > query || window.is_some_and(|window| query - key >= window);
    let hidden: Vec<u8> = (0..queries * keys).map(|cell| u8::from(hidden(past + cell / keys, cell % keys))).collect();
    let hidden = Tensor::from_vec(hidden, (queries, keys), q.device())?.broadcast_as(scores.shape())?;
    let minus_infinity = Tensor::full(f32::NEG_INFINITY, (), q.device())?.to_dtype(scores.dtype())?;
    hidden.where_cond(&minus_infinity.broadcast_as(scores.shape())?, &scores)
}

/// The tensor as it is if the kernels accept its strides, else a contiguous copy.
fn usable(x: &Tensor) -> Result<Tensor> {
    if has_usable_strides(x) { Ok(x.clone()) } else { x.contiguous() }
}

/// Key or value heads `[batch, kv_heads, seq, d_head]`, each repeated for the query heads it serves.
fn served(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (_, kv_heads, _, _) = x.dims4()?;
    if kv_heads == heads {
        return Ok(x.clone());
    }
    repeat_heads(x, group(heads, kv_heads)?)
}

/// Softmax of the scores over the keys.
///
/// # Shapes
/// `[batch, n_heads, q_seq, k_seq]` to the same.
///
/// # Errors
/// When candle fails.
pub fn attention_pattern(scores: &Tensor) -> Result<Tensor> {
    if custom::takes(scores) {
        return scores.contiguous()?.apply_op1(Softmax);
    }
    // not softmax_last_dim: it has no backward pass
    candle_nn::ops::softmax(scores, D::Minus1)
}

/// Values mixed by the pattern, `pattern v`.
///
/// # Shapes
/// `pattern` `[batch, n_heads, q_seq, k_seq]`, `v` `[batch, kv_heads, k_seq, d_head]`, output `[batch, n_heads, q_seq, d_head]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn mix_values(pattern: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (_, heads, _, _) = pattern.dims4()?;
    if custom::takes(pattern) {
        return usable(pattern)?.apply_op2(&usable(v)?, Mix)?.transpose(1, 2);
    }
    pattern.matmul(&served(v, heads)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradient, filled};

    fn attention(t: &[Tensor]) -> Result<Tensor> {
        mix_values(&attention_pattern(&attention_scores(&t[0], &t[1], None)?)?, &t[2])
    }

    #[test]
    fn rows_sum_to_one_and_ignore_later_keys() {
        let (q, k) = (filled(&[1, 2, 5, 3], 1), filled(&[1, 2, 5, 3], 2));
        let pattern = attention_pattern(&attention_scores(&q, &k, None).unwrap()).unwrap();
        for (query, row) in pattern.flatten_to(2).unwrap().to_vec2::<f64>().unwrap().iter().enumerate() {
            assert!((row.iter().sum::<f64>() - 1.).abs() < 1e-12);
            assert!(row[query % 5 + 1..].iter().all(|p| *p == 0.));
        }
    }

    #[test]
    fn a_window_hides_distant_keys() {
        let (q, k) = (filled(&[1, 1, 5, 3], 1), filled(&[1, 1, 5, 3], 2));
        let scores = attention_scores(&q, &k, Some(2)).unwrap().flatten_to(2).unwrap().to_vec2::<f64>().unwrap();
        for (query, row) in scores.iter().enumerate() {
            for (key, score) in row.iter().enumerate() {
                assert_eq!(score.is_finite(), key <= query && query < key + 2, "{query} {key}");
            }
        }
    }

    #[test]
    fn fused_and_composed_agree_and_gradients_reach_all_three() {
        for (seq, heads, kv_heads, width) in [(1, 2, 2, 1), (3, 2, 1, 3), (7, 4, 2, 17), (65, 1, 1, 2)] {
            let qkv = filled(&[2, seq, heads + 2 * kv_heads, width], 4);
            let part = |first, count| qkv.narrow(2, first, count).unwrap().transpose(1, 2).unwrap().contiguous();
            let repeated = |first| repeat_heads(&part(first, kv_heads).unwrap(), heads / kv_heads).unwrap();
            let parts = [part(0, heads).unwrap(), repeated(heads), repeated(heads + kv_heads)];
            let composed = attention(&parts).unwrap().transpose(1, 2).unwrap();
            let fused = causal_attention(&qkv, kv_heads).unwrap();
            let difference = (fused - composed).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(difference < 1e-12, "{difference}");
            check_gradient(&[qkv], |t| causal_attention(&t[0], kv_heads));
        }
    }

    #[test]
    fn heads_that_do_not_fit_are_refused() {
        assert!(causal_attention(&filled(&[1, 2, 6, 3], 1), 2).is_ok());
        assert!(causal_attention(&filled(&[1, 2, 7, 3], 1), 2).is_err());
        assert!(causal_attention(&filled(&[1, 2, 4, 3], 1), 0).is_err());
        assert!(causal_attention(&filled(&[1, 2, 4, 3], 1), 2).is_err(), "keys and values alone");
    }

    #[test]
    fn gradients() {
        for seq in [1, 3, 7] {
            let inputs = [1, 2, 3].map(|seed| filled(&[2, 2, seq, 3], seed));
            check_gradient(&inputs, attention);
        }
    }
}
