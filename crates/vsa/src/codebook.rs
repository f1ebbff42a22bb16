//! Named vectors.

use std::collections::HashMap;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{Error, Vector};

const MAGIC: &[u8; 4] = b"VSA1";

/// A random vector for each of a list of names.
///
/// ```
/// use vsa::{Bipolar, Codebook};
///
/// let book = Codebook::<Bipolar>::new(1024, 7, ["red", "green"])?;
/// // a vector depends on seed, dimension and name alone, so a codebook can grow
/// let larger = Codebook::<Bipolar>::new(1024, 7, ["blue", "red", "green"])?;
/// assert_eq!(book.vector("red")?, larger.vector("red")?);
/// assert!(book.vector("blue").is_err());
///
/// let stored = Codebook::<Bipolar>::from_bytes(&book.to_bytes())?;
/// assert_eq!(stored.names(), ["red", "green"]);
/// # Ok::<(), vsa::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Codebook<V> {
    dimension: usize,
    seed: u64,
    names: Vec<String>,
    vectors: Vec<V>,
    indices: HashMap<String, usize>,
}

impl<V: Vector> Codebook<V> {
    /// A codebook in the order of the names; each vector depends on the seed, the dimension and its name alone.
    ///
    /// # Errors
    /// When two names are equal, or the dimension is zero.
    pub fn new<N: Into<String>>(
        dimension: usize,
        seed: u64,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Self, Error> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let vectors = names.iter().map(|name| V::random(dimension, &mut stream(seed, name))).collect();
        Self::from_parts(dimension, seed, names, vectors)
    }

    fn from_parts(dimension: usize, seed: u64, names: Vec<String>, vectors: Vec<V>) -> Result<Self, Error> {
        if dimension == 0 {
            return Err(Error::NoDimension);
        }
        let mut indices = HashMap::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            if indices.insert(name.clone(), index).is_some() {
                return Err(Error::DuplicateName { name: name.clone() });
            }
        }
        Ok(Self { dimension, seed, names, vectors, indices })
    }

    /// Number of dimensions.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The seed that the vectors were sampled from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether it has no names.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The names, in order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The vectors, in the order of the names.
    #[must_use]
    pub fn vectors(&self) -> &[V] {
        &self.vectors
    }

    /// The name at an index.
    ///
    /// # Panics
    /// When the index is out of range.
    #[must_use]
    pub fn name(&self, index: usize) -> &str {
        &self.names[index]
    }

    /// The index of a name.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<usize> {
        self.indices.get(name).copied()
    }

    /// The vector of a name, if the codebook has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&V> {
        self.index(name).map(|index| &self.vectors[index])
    }

    /// The vector of a name.
    ///
    /// # Errors
    /// When the codebook does not have the name.
    pub fn vector(&self, name: &str) -> Result<&V, Error> {
        self.get(name).ok_or_else(|| Error::UnknownName { name: name.to_owned(), known: self.len() })
    }

    /// The codebook as bytes: a magic number, the vector type, then dimension, seed and count (little-endian u64), each
    /// name preceded by its length, the vectors, and a BLAKE3 hash of everything before it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(V::KIND);
        for number in [self.dimension as u64, self.seed, self.names.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        for name in &self.names {
            bytes.extend((name.len() as u64).to_le_bytes());
            bytes.extend(name.as_bytes());
        }
        self.vectors.iter().for_each(|vector| bytes.extend(vector.to_bytes()));
        let hash = blake3::hash(&bytes);
        bytes.extend(hash.as_bytes());
        bytes
    }

    /// A codebook from [`Self::to_bytes`].
    ///
    /// # Errors
    /// When the bytes are truncated, altered, or hold another type of vector.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let fail = |what: &str| Error::Bytes { what: what.to_owned() };
        let mut rest = Reader { bytes };
        if rest.take(MAGIC.len()) != Some(MAGIC.as_slice()) {
            return Err(fail("it does not begin with VSA1"));
        }
        let kind = rest.take(1).ok_or_else(|| fail("it is truncated"))?[0];
        if kind != V::KIND {
            return Err(Error::Bytes { what: format!("its vectors are of kind {kind}, expected {}", V::KIND) });
        }
        // the shortest codebook: magic number, kind, three numbers and the hash
        let (Some(body), true) = (bytes.len().checked_sub(blake3::OUT_LEN), bytes.len() > 61) else {
            return Err(fail("it is truncated"));
        };
        if blake3::hash(&bytes[..body]).as_bytes() != &bytes[body..] {
            return Err(fail("its hash does not match: it was truncated or altered"));
        }
        let cut = || fail("it is truncated");
        let mut number = || rest.number().ok_or_else(cut);
        let (dimension, seed, count) = (number()?, number()?, number()?);
        let dimension = usize::try_from(dimension).map_err(|_| fail("its dimension does not fit in memory"))?;
        let mut names = Vec::new();
        for _ in 0..count {
            let length = rest.number().and_then(|length| usize::try_from(length).ok()).ok_or_else(cut)?;
            let name = rest.take(length).ok_or_else(cut)?;
            names.push(std::str::from_utf8(name).map_err(|_| fail("a name is not UTF-8"))?.to_owned());
        }
        let mut vectors = Vec::new();
        for _ in 0..count {
            let vector = rest.take(V::byte_length(dimension)).ok_or_else(cut)?;
            vectors
                .push(V::from_bytes(dimension, vector).ok_or_else(|| fail("a vector has bits beyond its dimension"))?);
        }
        Self::from_parts(dimension, seed, names, vectors)
    }
}

fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"vsa codebook").update(&seed.to_le_bytes()).update(name.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}
