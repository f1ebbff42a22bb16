//! What every experiment's program does before and after its own work.
//!
//! A paper's `main` hands its list of experiments to [`main`]; each is a function of a [`Run`] and its checked
//! parameters.
//! The run gives it a device, named random streams, progress bars, a place for checkpoints and the results of the
//! experiments it needs; it takes back tables and metrics, and writes them with the manifest when all is done.
//!
//! ```no_run
//! # use experiment::{Experiment, Run};
//! # #[derive(serde::Deserialize, schemars::JsonSchema)] struct Params { samples: usize }
//! fn count(run: &Run, params: Params) -> anyhow::Result<()> {
//!     run.metric("samples", params.samples as f64, "count");
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     experiment::main("my-paper", &[Experiment::new("count", count)])
//! }
//! ```

mod cli;
mod device;
mod machine;
mod progress;
mod run;
mod seed;
mod streams;
mod train;

pub use cli::{Experiment, main};
pub use progress::Task;
pub use run::{Interrupted, Needed, Run, distinct};
pub use seed::{Seed, StreamNames};
pub use train::{Objective, Progress, diverged_at};
