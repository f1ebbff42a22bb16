//! Differentiable tensor operations that candle lacks, or has only without a backward pass.
//!
//! candle 0.11's fused `LayerNorm`, `RmsNorm` and `softmax_last_dim` **cut the gradient without an error**; every
//! operation here carries gradients to all its inputs, and the tests hold each to finite differences.
//! On the CPU the busiest run as kernels of our own (`fused`); elsewhere they are composed from candle's operations.

mod activation;
mod attention;
mod dropout;
mod fused;
mod linear;
mod loss;
mod norm;

pub use activation::{gelu_erf, gelu_tanh};
pub use attention::{attention_pattern, attention_scores, causal_attention, mix_values};
pub use dropout::dropout;
pub use linear::{embedding, linear};
pub use loss::{cross_entropy, token_losses};
pub use norm::{LayerNorm, layer_norm, layer_norm_parts};

#[cfg(test)]
mod gradcheck;
