#![doc = include_str!("../README.md")]
//!
//! # A tutorial
//!
//! ## Almost everything is almost orthogonal
//!
//! Two random vectors of D dimensions have a cosine of 0 ± 1/√D. With D = 4,096 that is 0.016, so any two of thousands of
//! concepts can be told apart, and what is similar was made so.
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
//! [`Vector::bind`] ties a role to its filler; the result is like neither. [`Vector::bundle`] puts several things into one
//! vector that is like each of them. [`Vector::unbind`] with a role gives back its filler and some noise, and a clean-up
//! memory takes the noise away.
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
//! [`Vector::permute`] rolls a vector to one that is unlike it, and back: places in a sequence.
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
//! What is the dollar of Mexico? Unbinding one record with another leaves the bound pairs of what plays the same role.
//! The records have even numbers of members, so their ties are drawn, each from a seed of its own: ties at -1 in both
//! would make them alike for no reason of theirs.
//!
//! ```
//! use vsa::{Bipolar, Codebook, Memory, Tie, Vector};
//!
//! let names = ["country", "money", "usa", "dollar", "mexico", "peso"];
//! let book = Codebook::<Bipolar>::new(8192, 3, names)?;
//! let record = |country: &str, money: &str, ties: u64| -> Result<Bipolar, vsa::Error> {
//!     let pairs = [
//!         book.vector("country")?.bind(book.vector(country)?),
//!         book.vector("money")?.bind(book.vector(money)?),
//!     ];
//!     Ok(Bipolar::bundle(&pairs).sign(Tie::Random(ties)))
//! };
//! let mapping = record("usa", "dollar", 1)?.bind(&record("mexico", "peso", 2)?);
//! let found = Memory::new(&book).nearest(&mapping.bind(book.vector("dollar")?), 1)[0];
//! assert_eq!(book.name(found.index), "peso");
//! # Ok::<(), vsa::Error>(())
//! ```
//!
//! ## How much fits
//!
//! The sign of a bundle of n vectors has a cosine of about √(2/(πn)) with each of them; among m other items the largest
//! cosine by chance is about √(2 ln m / D) ([`noise`]). As long as the first is well above the second, clean-up is right.
//!
//! ```
//! let signal = vsa::member_cosine(9); // of nine bundled vectors
//! assert!((signal - 0.2734).abs() < 1e-4);
//! assert!(signal > 4.0 * vsa::noise(4096, 3000));
//! ```

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
