//! Differentiable tensor operations that candle lacks, or has only without a backward pass.
//!
//! candle 0.11's fused `LayerNorm`, `RmsNorm` and `softmax_last_dim` **cut the gradient without an error**. Every
//! operation here carries gradients to all its inputs, and a test compares each with finite differences.
//!
//! # Example
//!
//! A layer of a language model, its loss, and the gradients:
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//!
//! let cpu = &Device::Cpu;
//! let w = Var::from_tensor(&Tensor::new(&[[0.1f32, -0.2, 0.3], [0.4, 0.5, -0.6]], cpu)?)?; // [d_in, d_out]
//! let x = Tensor::new(&[[1f32, 2.], [3., 4.]], cpu)?;
//! let (gain, bias) = (Tensor::new(&[1f32, 1.], cpu)?, Tensor::new(&[0f32, 0.], cpu)?);
//!
//! let normed = ops::layer_norm(&x, &gain, Some(&bias), 1e-5)?;
//! let logits = ops::linear(&normed, w.as_tensor(), None)?;
//! let loss = ops::cross_entropy(&logits, &Tensor::new(&[2u32, 0], cpu)?)?;
//! let gradients = ops::backward(&loss)?;
//! assert_eq!(gradients.get(&w).unwrap().dims(), [2, 3]);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! # Overview
//!
//! | | |
//! |---|---|
//! | maps | [`linear`], [`linear_transposed`], [`linear_activated`], [`embedding`] |
//! | norms | [`layer_norm`], [`rms_norm`], [`fixed_norm`]; `_parts` variants for hook points |
//! | attention | [`causal_attention`] in one pass; [`attention_scores`], [`attention_pattern`], [`mix_values`] step by step; [`attention_with_kv_cache`] for generation; [`Rotation`] |
//! | pointwise | [`gelu_tanh`], [`gelu_erf`], [`silu_gate`], [`dropout`] |
//! | losses | [`token_losses`], [`cross_entropy`] |
//! | training | [`backward`], [`run_again`] (gradient checkpointing), [`adamw`], [`sum_of_squares`] |
//!
//! # Contract
//!
//! - On the CPU, f32 and f64 tensors use the kernels of [`kernel`]. Their bytes do not depend on the number of threads,
//!   because work is split by shape alone. Elsewhere, and for other types, operations are composed from candle's.
//! - NaN and infinities propagate exactly as in candle's composed operations.
//! - A row of a map or a norm has the same bytes alone and among others.
//! - Call [`backward`] instead of [`Tensor::backward`](candle_core::Tensor::backward): some gradients pass outside of
//!   candle's graph, and candle alone refuses them with an error.
//!
//! There are no layers, parameters or initialisation here, and no second derivatives.

mod activation;
mod attention;
mod attention_steps;
mod custom;
mod dropout;
mod gradients;
pub mod kernel;
mod kv_cache;
mod linear;
mod loss;
mod norm;
mod optimizer;
mod parallel;
mod rotary;

pub use activation::{gelu_erf, gelu_tanh, silu_gate};
pub use attention::{attention_pattern, attention_scores, causal_attention, mix_values};
pub use dropout::dropout;
pub use gradients::{backward, deposit, run_again};
pub use kernel::loss::IGNORED;
pub use kv_cache::attention_with_kv_cache;
pub use linear::{embedding, linear, linear_activated, linear_transposed, transposed};
pub use loss::{cross_entropy, token_losses};
pub use norm::{NormParts, fixed_norm, fixed_norm_parts, layer_norm, layer_norm_parts, rms_norm, rms_norm_parts};
pub use optimizer::{AdamWStep, Update, adamw, add_to, sum_of_squares};
pub use parallel::tile_rows;
pub use rotary::{Pairs, Rotation};

#[cfg(test)]
mod contract;
#[cfg(test)]
mod gradcheck;
