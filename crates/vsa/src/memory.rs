//! Clean-up memory: the stored items that are nearest to a noisy vector.

use rayon::prelude::*;

use crate::columns::{Columns, ITEMS, Planes, Question};
use crate::{Bipolar, Codebook, Error, Vector};

/// Queries that one task compares with a block of items while the block is in the cache.
const QUERIES: usize = 128;
/// Queries that are counted at once: their counters must fit in the cache beside the block.
const TOGETHER: usize = 16;

/// An item of a memory and its similarity to the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Index of the item.
    pub index: usize,
    /// Its cosine with the query.
    pub cosine: f64,
}

/// A clean-up memory of bipolar vectors: finds the nearest items by counting differing bits.
///
/// ```
/// use vsa::{Bipolar, Codebook, Memory, Tie, Vector};
///
/// let book = Codebook::<Bipolar>::new(2048, 1, ["cat", "dog", "owl"])?;
/// let memory = Memory::new(&book);
/// let both = Bipolar::bundle([book.vector("cat")?, book.vector("owl")?]).sign(Tie::Random(5));
/// let mut names: Vec<&str> = memory.above(&both, 0.3).iter().map(|hit| book.name(hit.index)).collect();
/// names.sort_unstable();
/// assert_eq!(names, ["cat", "owl"]);
/// // nothing reaches a threshold of 0.9
/// assert!(memory.cleanup(&both, 0.9).is_err());
/// # Ok::<(), vsa::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Memory {
    dimension: usize,
    columns: Columns,
}

impl Memory {
    /// A memory of a codebook's vectors; the index of a hit is the index of its name.
    #[must_use]
    pub fn new(book: &Codebook<Bipolar>) -> Self {
        let mut memory = Self::empty(book.dimension());
        memory.extend(book.vectors());
        memory
    }

    /// A memory without items.
    #[must_use]
    pub fn empty(dimension: usize) -> Self {
        Self { dimension, columns: Columns::new(dimension) }
    }

    /// Appends an item; [`Self::extend`] is faster for many.
    ///
    /// # Panics
    /// When the dimensions differ.
    pub fn push(&mut self, vector: &Bipolar) {
        self.extend(std::slice::from_ref(vector));
    }

    /// Appends items.
    ///
    /// # Panics
    /// When the dimensions differ.
    pub fn extend(&mut self, vectors: &[Bipolar]) {
        vectors.iter().for_each(|vector| self.check(vector));
        let words: Vec<&[u64]> = vectors.iter().map(Bipolar::words).collect();
        self.columns.extend(&words);
    }

    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether the memory has no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the items occupy: five bits for every three components, in blocks of 512 items.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.columns.bytes()
    }

    /// The `count` nearest items, nearest first; items at the same distance are in order of their index.
    ///
    /// # Panics
    /// When the dimensions differ.
    #[must_use]
    pub fn nearest(&self, query: &Bipolar, count: usize) -> Vec<Hit> {
        let question = [self.question(query)];
        let keep = |mut best: Best, block: usize| {
            self.columns.distances(block, &question, |_, planes| best.take(block, planes));
            best
        };
        let parts: Vec<Best> = (0..self.columns.blocks()).into_par_iter().fold(|| Best::new(count), keep).collect();
        let mut best = Best::new(count);
        parts.into_iter().flat_map(|part| part.found).for_each(|found| best.insert(found));
        self.hits(best)
    }

    /// The `count` nearest items of each query.
    ///
    /// # Panics
    /// When the dimensions differ.
    #[must_use]
    pub fn nearest_all(&self, queries: &[Bipolar], count: usize) -> Vec<Vec<Hit>> {
        let batch = |queries: &[Bipolar]| {
            let questions: Vec<Question> = queries.iter().map(|query| self.question(query)).collect();
            let mut best = vec![Best::new(count); queries.len()];
            for block in 0..self.columns.blocks() {
                for (questions, best) in questions.chunks(TOGETHER).zip(best.chunks_mut(TOGETHER)) {
                    self.columns.distances(block, questions, |query, planes| best[query].take(block, planes));
                }
            }
            best.into_iter().map(|best| self.hits(best)).collect::<Vec<_>>()
        };
        queries.par_chunks(QUERIES).flat_map_iter(batch).collect()
    }

    /// All items with a cosine above a threshold, nearest first.
    ///
    /// # Panics
    /// When the dimensions differ.
    #[must_use]
    pub fn above(&self, query: &Bipolar, threshold: f64) -> Vec<Hit> {
        let question = [self.question(query)];
        let blocks = (0..self.columns.blocks()).into_par_iter().flat_map_iter(|block| {
            let mut hits = Vec::new();
            self.columns.distances(block, &question, |_, planes| {
                let near = planes.ascending().take_while(|(distance, _)| self.cosine(*distance) > threshold);
                hits.extend(near.map(|(distance, item)| self.hit((distance, block * ITEMS + item))));
            });
            hits
        });
        let mut hits: Vec<Hit> = blocks.collect();
        hits.sort_by(|a, b| b.cosine.total_cmp(&a.cosine).then(a.index.cmp(&b.index)));
        hits
    }

    /// The nearest item, if its cosine reaches the threshold.
    ///
    /// # Errors
    /// When the memory is empty, or the nearest item is below the threshold.
    ///
    /// # Panics
    /// When the dimensions differ.
    pub fn cleanup(&self, query: &Bipolar, threshold: f64) -> Result<Hit, Error> {
        let best = self.nearest(query, 1).first().copied().ok_or(Error::Empty)?;
        if best.cosine < threshold { Err(Error::TooFar { best: best.cosine, threshold }) } else { Ok(best) }
    }

    fn check(&self, query: &Bipolar) {
        assert_eq!(self.dimension, query.dimension(), "vectors of different dimensions");
    }

    fn question(&self, query: &Bipolar) -> Question {
        self.check(query);
        self.columns.question(query.words())
    }

    fn cosine(&self, distance: u32) -> f64 {
        (self.dimension as f64 - 2. * f64::from(distance)) / self.dimension as f64
    }

    fn hit(&self, (distance, index): (u32, usize)) -> Hit {
        Hit { index, cosine: self.cosine(distance) }
    }

    fn hits(&self, best: Best) -> Vec<Hit> {
        best.found.into_iter().map(|found| self.hit(found)).collect()
    }
}

/// The nearest items so far as (distance, index), sorted.
#[derive(Clone, Debug)]
struct Best {
    count: usize,
    found: Vec<(u32, usize)>,
}

impl Best {
    fn new(count: usize) -> Self {
        Self { count, found: Vec::new() }
    }

    /// The largest distance at which a later item would still be kept.
    fn most(&self) -> Option<u32> {
        match self.found.last() {
            Some((worst, _)) if self.found.len() == self.count => worst.checked_sub(1),
            _ => (self.count > 0).then_some(u32::MAX),
        }
    }

    /// Inserts the nearest items of a block; blocks must come in order.
    fn take(&mut self, block: usize, planes: &Planes<'_>) {
        let Some(most) = self.most() else { return };
        if !planes.any_within(most) {
            return;
        }
        for (distance, item) in planes.ascending() {
            if self.most().is_none_or(|most| distance > most) {
                break;
            }
            self.insert((distance, block * ITEMS + item));
        }
    }

    /// Inserts an item if it is among the nearest; of equal distances the smaller index wins.
    fn insert(&mut self, new: (u32, usize)) {
        if self.found.len() == self.count {
            match self.found.last() {
                Some(worst) if new < *worst => self.found.pop(),
                _ => return,
            };
        }
        let at = self.found.partition_point(|other| *other < new);
        self.found.insert(at, new);
    }
}

/// The `count` vectors nearest to the query, nearest first, by comparing it with each; works for every [`Vector`].
///
/// # Panics
/// When the dimensions differ.
#[must_use]
pub fn nearest<V: Vector>(items: &[V], query: &V, count: usize) -> Vec<Hit> {
    let mut hits: Vec<Hit> =
        items.par_iter().enumerate().map(|(index, item)| Hit { index, cosine: item.cosine(query) }).collect();
    hits.sort_by(|a, b| b.cosine.total_cmp(&a.cosine).then(a.index.cmp(&b.index)));
    hits.truncate(count);
    hits
}
