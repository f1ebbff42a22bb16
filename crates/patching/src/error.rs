//! Errors of interventions.

use hooks::Site;

/// An intervention that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A recording is missing an activation.
    #[error(transparent)]
    Capture(#[from] capture::Error),
    /// The forward pass never visited a site that should have been changed.
    #[error(
        "the forward pass never visited {site}, so it could not be changed there; check that the model has this site"
    )]
    NeverFired {
        /// The site.
        site: Site,
    },
    /// An invalid request, such as a head that does not exist or runs of different sizes.
    #[error("{0}")]
    Request(String),
}
