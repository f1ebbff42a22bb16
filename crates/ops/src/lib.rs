//! Differentiable tensor operations that candle lacks, or has only without a backward pass.
//!
//! candle 0.11's fused `LayerNorm`, `RmsNorm` and `softmax_last_dim` **cut the gradient without an error**; every
//! operation here carries gradients to all its inputs, and the tests hold each to finite differences.
//! On the CPU they run as kernels of our own ([`kernel`]), with the same bytes at any number of threads; elsewhere they
//! are composed from candle's operations.

mod activation;
mod attention;
mod behind;
mod custom;
mod dropout;
mod inside;
pub mod kernel;
mod linear;
mod loss;
mod many;
mod norm;
mod optimizer;
mod parallel;
mod rotary;

pub use activation::{gelu_erf, gelu_tanh, silu_gate};
pub use attention::{attention_pattern, attention_scores, causal_attention, mix_values};
pub use behind::attention_with_kv_cache;
pub use dropout::dropout;
pub use kernel::loss::IGNORED;
pub use linear::{embedding, linear, linear_activated, linear_transposed, transposed};
pub use loss::{cross_entropy, token_losses};
pub use many::{backward, deposit, run_again};
pub use norm::{NormParts, fixed_norm, fixed_norm_parts, layer_norm, layer_norm_parts, rms_norm, rms_norm_parts};
pub use optimizer::{AdamWStep, Update, adamw, add_to, sum_of_squares};
pub use parallel::tile_rows;
pub use rotary::{Pairs, Rotation};

#[cfg(test)]
mod contract;
#[cfg(test)]
mod gradcheck;
