//! Clean-up: the items of a memory that are nearest to a noisy vector.

use rayon::prelude::*;

use crate::columns::{Columns, ITEMS, Planes, Question};
use crate::{Bipolar, Codebook, Error, Vector};

/// Queries that share a block of items while it is near.
const QUERIES: usize = 128;
/// Queries that share a part of it, with all their counters.
const TOGETHER: usize = 16;

/// An item of a memory and how near it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Place of the item.
    pub index: usize,
    /// Its cosine with the query.
    pub cosine: f64,
}

/// Bipolar items side by side, searched by counting bits.
#[derive(Clone, Debug)]
pub struct Memory {
    dimension: usize,
    columns: Columns,
}

impl Memory {
    /// A memory of a codebook's vectors; a hit's index is the place of its name.
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

    /// Adds an item behind the others; many are added faster by [`Self::extend`].
    ///
    /// # Panics
    /// When its dimension is another.
    pub fn push(&mut self, vector: &Bipolar) {
        self.extend(std::slice::from_ref(vector));
    }

    /// Adds items behind the others.
    ///
    /// # Panics
    /// When a dimension is another.
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

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the items take: five bits for three components, in blocks of 512 items.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.columns.bytes()
    }

    /// The `count` nearest items, nearest first; of items at the same distance the first come first.
    ///
    /// # Panics
    /// When the query's dimension is another.
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
    /// When a query's dimension is another.
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
    /// When the query's dimension is another.
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
    /// When there is no item, or none so near.
    ///
    /// # Panics
    /// When the query's dimension is another.
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

/// The nearest items so far: distance and index, in order.
#[derive(Clone, Debug)]
struct Best {
    count: usize,
    found: Vec<(u32, usize)>,
}

impl Best {
    fn new(count: usize) -> Self {
        Self { count, found: Vec::new() }
    }

    /// The largest distance that a later item may have and still be among the nearest.
    fn most(&self) -> Option<u32> {
        match self.found.last() {
            Some((worst, _)) if self.found.len() == self.count => worst.checked_sub(1),
            _ => (self.count > 0).then_some(u32::MAX),
        }
    }

    /// Takes from a block, which comes after all blocks seen so far, what is among the nearest.
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

    /// Takes one item if it is among the nearest; of equals the smaller index comes first.
    fn insert(&mut self, new: (u32, usize)) {
        if self.found.len() == self.count {
            match self.found.last() {
                Some(worst) if new < *worst => self.found.pop(),
                _ => return,
            };
        }
        let place = self.found.partition_point(|other| *other < new);
        self.found.insert(place, new);
    }
}

/// The `count` nearest of any vectors, nearest first, by comparing with each.
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
