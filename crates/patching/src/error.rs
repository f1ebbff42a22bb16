//! What can go wrong with an intervention.

use hooks::Site;

/// An intervention that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// candle refused an operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A recording lacks something.
    #[error(transparent)]
    Capture(#[from] capture::Error),
    /// The forward pass never came by a site that was to be changed.
    #[error("{site} was to be changed, but the forward pass never came by")]
    NeverFired {
        /// The place.
        site: Site,
    },
    /// Places that do not exist, or runs that do not fit each other.
    #[error("{0}")]
    Request(String),
}
