//! Files of the Hugging Face hub by repository, revision and hash. This crate is the only one that uses the network.
//!
//! # Example
//!
//! ```no_run
//! # fn main() -> Result<(), hub::Error> {
//! let hub = hub::Hub::from_env()?;
//! let repo = hub::Repo::model("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e");
//! let weights = hub.file(&repo, "model.safetensors", None)?;
//! # Ok(())
//! # }
//! ```
//!
//! Offline, a file comes from the cache, or an error states the remedy:
//!
//! ```
//! use hub::{Error, Hub, Repo, Settings};
//!
//! let folder = tempfile::tempdir()?;
//! let hub = Hub::new(Settings { offline: true, ..Settings::new(folder.path()) })?;
//! let repo = Repo::model("openai-community/gpt2", "main");
//! assert_eq!(hub.cached(&repo, "config.json")?, None);
//! assert!(matches!(hub.file(&repo, "config.json", None), Err(Error::Offline { .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Overview
//!
//! | | |
//! |---|---|
//! | [`Hub`] | [`Hub::file`] returns a path, fetching the file if needed; also [`Hub::cached`], [`Hub::exists`], [`Hub::list`] |
//! | [`Repo`] | a model or data set at a revision |
//! | [`Settings`] | cache folder, endpoint, token, timeouts; from the environment variables of `huggingface_hub` |
//!
//! # Contract
//!
//! - The cache has the layout of Python's `huggingface_hub`, so each finds the files that the other has fetched.
//! - A branch keeps the commit of its first fetched file until [`Hub::refresh`]. The files of a repository therefore fit
//!   together, and a push to the hub does not change a run.
//! - Nothing unchecked enters the cache. A download is resumed in `blobs/<etag>.retrace.part` and compared with its size,
//!   the hash by which the hub names it (sha256 for large files, git's sha1 for small ones) and the hash of the caller. It
//!   is then synced and renamed.
//! - With `HF_HUB_OFFLINE` there is no client, so no socket is opened.
//!
//! Uploads, searches and pull requests are left out.
//!
//! # The use of hf-hub
//!
//! `hf-hub` 0.5 provides the names of cache folders and of addresses on the hub ([`hf_hub::Repo`], [`hf_hub::CacheRepo`]),
//! and the type of the hub's answer about a repository (`hf_hub::api::RepoInfo`).
//!
//! Its download is not used. It checks neither size nor hash, has no timeout for a silent server, and ignores
//! `HF_HUB_OFFLINE` and `HF_TOKEN`. It also looks up revisions only in `refs/` (so it never finds a commit in the cache),
//! does not write `refs/` atomically, and draws a progress bar.
//! The transfer uses `ureq`, which hf-hub depends on anyway, so there is one HTTP client and one TLS library.
//! hf-hub 1.0 would add tokio and about 170 more crates for the same use.

mod cache;
mod client;
mod digest;
mod download;
mod error;
mod facts;
mod hub;
mod repo;
mod settings;

pub use error::{Error, Trouble};
pub use hub::{Hub, Progress};
pub use repo::{Kind, Repo};
pub use settings::{Settings, Token};
