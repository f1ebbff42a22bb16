//! Safe file access: atomic writes, folder locks, memory maps and content hashes.
//!
//! # Example
//!
//! ```
//! let folder = tempfile::tempdir()?;
//! let _lock = storage::Lock::acquire(folder.path())?;
//! let path = folder.path().join("results/table.csv");
//! storage::write_atomic(&path, b"step,loss\n1,0.5\n")?;
//! assert_eq!(storage::read_text(&path)?, "step,loss\n1,0.5\n");
//! assert_eq!(storage::hash_file(&path)?, storage::hash_bytes(b"step,loss\n1,0.5\n"));
//!
//! // a second run in the same folder is refused while the lock is held
//! assert!(storage::Lock::acquire(folder.path()).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Contract
//!
//! Everything that Retrace puts on disk goes through [`write_atomic`] or [`write_atomic_with`]. They write a temporary file
//! in the same folder, sync it, rename it over the target and sync the folder. A reader therefore sees either the old bytes
//! or the new ones, even after a crash.
//!
//! Every [`Error`] names its path and, where one exists, the remedy. The crate knows no file formats.

mod atomic;
mod error;
mod hash;
mod lock;
mod map;
mod nearest;

pub use atomic::{TEMPORARY_PREFIX, read, read_text, write_atomic, write_atomic_with};
pub use error::Error;
pub use hash::{hash_bytes, hash_file, hash_path, hash_tree};
pub use lock::Lock;
pub use map::{Map, map};
pub use nearest::nearest;
