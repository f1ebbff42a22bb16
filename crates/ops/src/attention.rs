//! Causal multi-head attention in three steps, so that scores and pattern can be looked at between them.

use candle_core::{D, IndexOp, Result, Tensor};

use crate::fused;

/// Causal attention without a look at its inside: scores, mask, softmax and values in one pass on the CPU.
///
/// # Shapes
/// `qkv` `[batch, seq, 3, n_heads, d_head]` (query, key, value), output `[batch, seq, n_heads, d_head]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn causal_attention(qkv: &Tensor) -> Result<Tensor> {
    if fused::takes(qkv) {
        return qkv.contiguous()?.apply_op1(fused::CausalAttention);
    }
    let part = |index| qkv.i((.., .., index))?.transpose(1, 2)?.contiguous(); // [batch, n_heads, seq, d_head]
    let pattern = attention_pattern(&attention_scores(&part(0)?, &part(1)?)?)?;
    mix_values(&pattern, &part(2)?)?.transpose(1, 2)
}

/// Scaled causal scores, `q k^T / sqrt(d_head)` with keys after the query at minus infinity.
///
/// # Shapes
/// `q` and `k` `[batch, n_heads, seq, d_head]`, output `[batch, n_heads, q_seq, k_seq]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention_scores(q: &Tensor, k: &Tensor) -> Result<Tensor> {
    let (_, _, seq, d_head) = q.dims4()?;
    let scale = 1. / (d_head as f64).sqrt();
    let scores = (q.matmul(&k.t()?)? * scale)?;
    scores.broadcast_add(&causal_mask(seq, q)?)
}

/// Additive mask `[seq, seq]`: 0 where the key is not after the query, minus infinity elsewhere.
fn causal_mask(seq: usize, like: &Tensor) -> Result<Tensor> {
    let mask: Vec<f32> =
        (0..seq * seq).map(|cell| if cell % seq > cell / seq { f32::NEG_INFINITY } else { 0. }).collect();
    Tensor::from_vec(mask, (seq, seq), like.device())?.to_dtype(like.dtype())
}

/// Softmax of the scores over the keys.
///
/// # Shapes
/// `[batch, n_heads, q_seq, k_seq]` to the same.
///
/// # Errors
/// When candle fails.
pub fn attention_pattern(scores: &Tensor) -> Result<Tensor> {
    // not softmax_last_dim: it has no backward pass
    candle_nn::ops::softmax(scores, D::Minus1)
}

/// Values mixed by the pattern.
///
/// # Shapes
/// `pattern` `[batch, n_heads, q_seq, k_seq]`, `v` `[batch, n_heads, k_seq, d_head]`, output `[batch, n_heads, q_seq, d_head]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn mix_values(pattern: &Tensor, v: &Tensor) -> Result<Tensor> {
    pattern.matmul(v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradient, filled};

    fn attention(t: &[Tensor]) -> Result<Tensor> {
        mix_values(&attention_pattern(&attention_scores(&t[0], &t[1])?)?, &t[2])
    }

    #[test]
    fn rows_sum_to_one_and_see_nothing_ahead() {
        let (q, k) = (filled(&[1, 2, 5, 3], 1), filled(&[1, 2, 5, 3], 2));
        let pattern = attention_pattern(&attention_scores(&q, &k).unwrap()).unwrap();
        for (query, row) in pattern.flatten_to(2).unwrap().to_vec2::<f64>().unwrap().iter().enumerate() {
            assert!((row.iter().sum::<f64>() - 1.).abs() < 1e-12);
            assert!(row[query % 5 + 1..].iter().all(|p| *p == 0.));
        }
    }

    #[test]
    fn fused_and_composed_agree_and_gradients_reach_all_three() {
        for (seq, width) in [(1, 1), (3, 3), (7, 17)] {
            let qkv = filled(&[2, seq, 3, 2, width], 4);
            let parts: Vec<Tensor> =
                (0..3).map(|i| qkv.i((.., .., i)).unwrap().transpose(1, 2).unwrap().contiguous().unwrap()).collect();
            let composed = attention(&parts).unwrap().transpose(1, 2).unwrap();
            let fused = causal_attention(&qkv).unwrap();
            let difference = (fused - composed).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(difference < 1e-12);
            check_gradient(&[qkv], |t| causal_attention(&t[0]));
        }
    }

    #[test]
    fn gradients() {
        for seq in [1, 3, 7] {
            let inputs = [1, 2, 3].map(|seed| filled(&[2, 2, seq, 3], seed));
            check_gradient(&inputs, attention);
        }
    }
}
