//! Files that are never half-written: atomic writes, folder locks, memory maps and content hashes.
//!
//! Everything that Retrace puts on disk goes through [`write_atomic`]: a temporary file in the same folder, synced,
//! renamed over the target, and the folder synced after it.
//! A reader therefore sees the old bytes or the new ones, whatever happened in between.

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
