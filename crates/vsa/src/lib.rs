#![doc = include_str!("../README.md")]
//!
//! # A tutorial
//!
//! ## Almost everything is almost orthogonal
//!
//! Two random vectors of D dimensions have a cosine of 0 ± 1/√D. With D = 4,096 that is 0.016, so thousands of concepts
//! are easily told apart. A much larger cosine means that two vectors share structure.
//!
//! ```
//! use rand::SeedableRng;
//! use vsa::{Bipolar, Vector};
//!
//! let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(1);
//! let (cat, dog) = (Bipolar::random(4096, &mut rng), Bipolar::random(4096, &mut rng));
//! assert_eq!(cat.cosine(&cat), 1.0);
//! assert!(cat.cosine(&dog).abs() < 0.1);
//! ```
//!
//! ## A record
//!
//! [`Vector::bind`] binds a role to its filler; the result is dissimilar to both. [`Vector::bundle`] superposes several
//! vectors in one that is similar to each. [`Vector::unbind`] with a role returns its filler plus noise, and a clean-up
//! memory removes the noise.
//!
//! ```
//! use vsa::{Bipolar, Codebook, Memory, Tie, Vector};
//!
//! let book = Codebook::<Bipolar>::new(2048, 7, ["name", "age", "city", "ada", "36", "london"])?;
//! let v = |name: &str| book.vector(name);
//! let pairs = [v("name")?.bind(v("ada")?), v("age")?.bind(v("36")?), v("city")?.bind(v("london")?)];
//! let record = Bipolar::bundle(&pairs).sign(Tie::Negative);
//!
//! let filler = record.unbind(v("city")?);
//! let memory = Memory::new(&book);
//! assert_eq!(book.name(memory.cleanup(&filler, 0.3)?.index), "london");
//! # Ok::<(), vsa::Error>(())
//! ```
//!
//! ## A sequence
//!
//! [`Vector::permute`] rotates a vector into a dissimilar one, and back. It encodes positions in a sequence.
//!
//! ```
//! use vsa::{Bipolar, Codebook, Memory, Tie, Vector};
//!
//! let book = Codebook::<Bipolar>::new(2048, 7, ["to", "be", "or", "not"])?;
//! let words = ["to", "be", "or"];
//! let placed: Vec<Bipolar> =
//!     words.iter().enumerate().map(|(i, w)| Ok(book.vector(w)?.permute(i as isize))).collect::<Result<_, vsa::Error>>()?;
//! let sentence = Bipolar::bundle(&placed).sign(Tie::Negative);
//! let memory = Memory::new(&book);
//! for (i, word) in words.iter().enumerate() {
//!     let found = memory.nearest(&sentence.permute(-(i as isize)), 1)[0];
//!     assert_eq!(book.name(found.index), *word);
//! }
//! # Ok::<(), vsa::Error>(())
//! ```
//!
//! ## An analogy
//!
//! What is the dollar of Mexico? Binding one record with another leaves pairs of the fillers that have the same role.
//! The records have an even number of members, so components can tie. Each record breaks its ties with a seed of its own:
//! with all ties at -1, unrelated records would be similar.
//!
//! ```
//! use vsa::{Bipolar, Codebook, Memory, Tie, Vector};
//!
//! let names = ["country", "money", "usa", "dollar", "mexico", "peso"];
//! let book = Codebook::<Bipolar>::new(8192, 3, names)?;
//! let record = |country: &str, money: &str, seed: u64| -> Result<Bipolar, vsa::Error> {
//!     let pairs = [
//!         book.vector("country")?.bind(book.vector(country)?),
//!         book.vector("money")?.bind(book.vector(money)?),
//!     ];
//!     Ok(Bipolar::bundle(&pairs).sign(Tie::Random(seed)))
//! };
//! let mapping = record("usa", "dollar", 1)?.bind(&record("mexico", "peso", 2)?);
//! let found = Memory::new(&book).nearest(&mapping.bind(book.vector("dollar")?), 1)[0];
//! assert_eq!(book.name(found.index), "peso");
//! # Ok::<(), vsa::Error>(())
//! ```
//!
//! ## How much fits
//!
//! The sign of a bundle of n vectors has a cosine of about √(2/(πn)) with each of them ([`member_cosine`]). Among m other
//! items, the largest cosine by chance is about √(2 ln m / D) ([`noise`]). Clean-up is reliable while the first is well
//! above the second.
//!
//! ```
//! let signal = vsa::member_cosine(9); // of nine bundled vectors
//! assert!((signal - 0.2734).abs() < 1e-4);
//! assert!(signal > 4.0 * vsa::noise(4096, 3000));
//! ```
//!
//! # Contract
//!
//! Results do not depend on the number of threads, and a vector depends on its seed, dimension and name alone, on every
//! platform. Mismatched dimensions panic; names, bytes and thresholds give [`Error`]s.
//! The crate reads and writes no files and knows no tensors: [`Codebook::to_bytes`] leaves storage to the caller.

mod bipolar;
mod capacity;
mod codebook;
mod columns;
mod error;
mod memory;
mod real;
mod vector;

pub use bipolar::{Bipolar, Counts, Tie, bind_all, bundle_all};
pub use capacity::{constant_accuracy, member_cosine, noise};
pub use codebook::Codebook;
pub use error::Error;
pub use memory::{Hit, Memory, nearest};
pub use real::{Hrr, Map};
pub use vector::Vector;
