//! Hooks that write, and the experiments made of them: activation patching, ablation, path patching, attribution by
//! gradients, direct effects, the logit lens and steering.
//!
//! The vocabulary is that of arXiv 2309.16042: a *base* run is changed at some places to what a *source* run has there.
//! Denoising patches a clean source into a corrupted base; noising does the reverse.
//! Every sweep starts at the residual stream of the block it patches, behind keys and values of the places that the patch
//! cannot change, with several patches in one batch; it gives the same numbers as one whole forward pass per patch.

mod attribution;
mod direct;
mod edit;
mod error;
mod metric;
mod nodes;
mod path;
mod run;
mod sweep;
#[cfg(test)]
mod tests;

pub use attribution::{attribution_patching, gradients};
pub use direct::{direct_logit_attribution, logit_lens};
pub use edit::{Edit, Edits, run_with_edits};
pub use error::Error;
pub use metric::Metric;
pub use nodes::{
    DirectEffects, Node, Writes, direct_effects, patch_nodes, patch_queries, patch_whole_queries, run_nodes,
};
pub use path::{Receiver, Sender, path_patching};
pub use run::Run;
pub use sweep::{Effects, Patch, activation_patching, each_head, each_head_and_position, each_position};
