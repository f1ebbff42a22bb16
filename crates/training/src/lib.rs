//! Training: schedules, AdamW, clipping, the loop, checkpoints that resume to the same bytes.
//!
//! Nothing here knows a model: the loop takes named variables and an [`Objective`] that gives losses.
//! What a step does depends only on the variables, the optimiser's state and the step's number, so a run that is
//! killed and started again from a checkpoint ends with the bytes of a run that was not.

mod checkpoint;
mod error;
mod optimizer;
mod run;
mod schedule;
mod streams;

pub use checkpoint::{Checkpoint, Checkpoints};
pub use error::Error;
pub use optimizer::{AdamW, AdamWConfig, gradient_norm};
pub use run::{Ended, MeanLoss, Objective, Observer, Parameter, Plan, train};
pub use schedule::Schedule;
pub use streams::stream_at;
