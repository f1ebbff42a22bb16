//! Loops over slices, forward and backward, that the operations and the decoder's own training path are made of.
//!
//! Every kernel runs on one thread, in a fixed order, and is compiled for the widest vectors of the machine it runs on.
//! Who splits work over threads cuts it into parts by its shape alone, so the bytes do not depend on how many there are.
//! Slices are row-major; sizes are checked, and a wrong one is a bug of the caller.

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

/// Runs a loop with the widest vector registers that this machine has.
///
/// The closure and all that it calls must be inlined for this to take effect.
#[inline(always)]
pub(crate) fn vectorised<R>(run: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(run)
}
