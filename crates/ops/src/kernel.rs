//! CPU kernels over slices, forward and backward. The operations and the decoder's direct training pass share them.
//!
//! Every kernel runs on one thread, in a fixed order, and is compiled for the widest vector registers of the machine.
//! Callers that use several threads split the work by its shape alone, so that bytes do not depend on their number.
//! Slices are row-major. A kernel panics when sizes disagree, which is a bug of the caller.

pub mod activation;
pub mod attention;
mod lanes;
pub mod loss;
pub mod norm;
mod number;
pub mod optimizer;
pub mod product;
pub mod random;
pub mod rotary;
pub mod rows;
mod short;
pub mod softmax;

pub use number::Real;

/// Runs a loop with the widest vector registers of this machine.
///
/// This takes effect only if the closure and everything it calls are inlined.
#[inline(always)]
pub(crate) fn vectorised<R>(run: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(run)
}
