//! YAML to checked structs: the envelope that all experiments share, overlays, overrides, sweeps, `needs:`, claims.
//!
//! ```text
//! configs/<paper>/<experiment>[.<profile>].yaml, --set a.b=c
//!   > located   a tree that remembers file, line and column of every key and value
//!   > overlay   `extends` and overrides merged into one tree
//!   > check     against the JSON schema of the experiment, all mistakes at once
//!   > load      what a schema cannot say, then the typed [`Envelope`]
//! ```
//!
//! The one crate that knows YAML: others use [`yaml::to_string`] and [`yaml::from_str`].
//! Enums are plain text or one-key mappings everywhere, never `!tags`.

// The types of a file.
mod envelope;
mod figure;
mod manifest;
mod ordered;
mod profile;

// From text to types.
mod error;
mod located;
mod overlay;

mod check;
mod schema;
mod semantics;

mod load;

// What is done with the types.
mod catalogue;
pub mod claims;
mod identity;
mod needs;
mod sweep;
mod variant;
pub mod yaml;

pub use catalogue::Catalogue;
pub use envelope::*;
pub use error::{Error, Mistake, Place};
pub use figure::*;
pub use load::{load_file, params};
pub use manifest::*;
pub use needs::{Need, order};
pub use ordered::Ordered;
pub use overlay::Override;
pub use profile::{ExperimentId, Profile};
pub use schema::{overlay_schema, schema};
pub use storage::nearest;
pub use variant::{Changes, Variant};
