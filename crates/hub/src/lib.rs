//! Files of the Hugging Face hub by repository, revision and hash; the only network in the project.
//!
//! [`Hub::file`] looks into the cache first, and asks the hub for what is not there.
//! The cache is the one of Python's `huggingface_hub`, folder for folder: what either has fetched, both find.
//! A branch stays where it was when its first file was fetched, until [`Hub::refresh`] moves it, so that the files
//! of one repository fit together and a run does not change because somebody pushed.
//!
//! A download goes into `blobs/<etag>.retrace.part`, is resumed if it broke off, compared with the size, with the hash
//! that the hub calls it by (sha256 for large files, git's sha1 for small ones) and with the caller's, synced, and only
//! then renamed: nothing unchecked ever enters the cache.
//! With `HF_HUB_OFFLINE` set there is no client at all, hence no socket.
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
//! # What hf-hub does here, and what it does not
//!
//! `hf-hub` 0.5 gives the names: of folders in the cache, of addresses on the hub ([`hf_hub::Repo`],
//! [`hf_hub::CacheRepo`]), and the form of the answer about a repository (`hf_hub::api::RepoInfo`).
//! Its own download is not used: it renames what it got without looking at size or hash, waits for a silent server
//! without end, knows neither `HF_HUB_OFFLINE` nor `HF_TOKEN`, reads a revision only from `refs/` (a commit is never
//! found in the cache), writes `refs/` in place, and opens a bar on the terminal.
//! The transfer is `ureq`, the client that hf-hub brings anyway, so there is one client and one TLS.
//! hf-hub 1.0 would bring tokio and some 170 crates more for the same use.

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
