//! Clean-up: the items of a memory that are nearest to a noisy vector.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::{Bipolar, Codebook, Error, Vector};

/// Queries that share one pass over a block of items.
const QUERIES: usize = 8;
/// Items in a block, so that it stays in cache while all queries of a batch pass over it.
const ITEMS: usize = 256;

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
    /// Words of one item.
    width: usize,
    items: Vec<u64>,
}

impl Memory {
    /// A memory of a codebook's vectors; a hit's index is the place of its name.
    #[must_use]
    pub fn new(book: &Codebook<Bipolar>) -> Self {
        let mut memory = Self::empty(book.dimension());
        book.vectors().iter().for_each(|vector| memory.push(vector));
        memory
    }

    /// A memory without items.
    #[must_use]
    pub fn empty(dimension: usize) -> Self {
        Self { dimension, width: dimension.div_ceil(64), items: Vec::new() }
    }

    /// Adds an item behind the others.
    ///
    /// # Panics
    /// When its dimension is another.
    pub fn push(&mut self, vector: &Bipolar) {
        self.check(vector);
        self.items.extend(vector.words());
    }

    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len() / self.width.max(1)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes that the items take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.items.len() * 8
    }

    /// The `count` nearest items, nearest first; of items at the same distance the first come first.
    ///
    /// # Panics
    /// When the query's dimension is another.
    #[must_use]
    pub fn nearest(&self, query: &Bipolar, count: usize) -> Vec<Hit> {
        self.check(query);
        let parts: Vec<Vec<(u32, usize)>> = self
            .items
            .par_chunks(ITEMS * self.width.max(1))
            .enumerate()
            .fold(Vec::new, |mut best, (block, items)| {
                let mut distances = vec![0u32; items.len() / self.width];
                self.distances(&[query.words()], items, &mut distances);
                keep(&mut best, count, distances.iter().enumerate().map(|(i, d)| (*d, block * ITEMS + i)));
                best
            })
            .collect();
        let mut best = Vec::new();
        keep(&mut best, count, parts.into_iter().flatten());
        best.into_iter().map(|(distance, index)| self.hit(distance, index)).collect()
    }

    /// The `count` nearest items of each query.
    ///
    /// # Panics
    /// When a query's dimension is another.
    #[must_use]
    pub fn nearest_all(&self, queries: &[Bipolar], count: usize) -> Vec<Vec<Hit>> {
        queries.iter().for_each(|query| self.check(query));
        let batch = |queries: &[Bipolar]| {
            let words: Vec<&[u64]> = queries.iter().map(Bipolar::words).collect();
            let mut best = vec![Vec::new(); queries.len()];
            let mut distances = vec![0u32; ITEMS * queries.len()];
            for (block, items) in self.items.chunks(ITEMS * self.width.max(1)).enumerate() {
                let rows = items.len() / self.width;
                let distances = &mut distances[..rows * queries.len()];
                self.distances(&words, items, distances);
                for (best, distances) in best.iter_mut().zip(distances.chunks_exact(rows)) {
                    keep(best, count, distances.iter().enumerate().map(|(i, d)| (*d, block * ITEMS + i)));
                }
            }
            let hits = |best: Vec<(u32, usize)>| best.into_iter().map(|(d, i)| self.hit(d, i)).collect::<Vec<_>>();
            best.into_iter().map(hits).collect::<Vec<_>>()
        };
        queries.par_chunks(QUERIES).flat_map_iter(batch).collect()
    }

    /// All items with a cosine above a threshold, nearest first.
    ///
    /// # Panics
    /// When the query's dimension is another.
    #[must_use]
    pub fn above(&self, query: &Bipolar, threshold: f64) -> Vec<Hit> {
        self.check(query);
        let mut hits: Vec<Hit> = self
            .items
            .par_chunks(ITEMS * self.width.max(1))
            .enumerate()
            .flat_map_iter(|(block, items)| {
                let mut distances = vec![0u32; items.len() / self.width];
                self.distances(&[query.words()], items, &mut distances);
                let hits = distances.into_iter().enumerate().map(move |(i, d)| self.hit(d, block * ITEMS + i));
                hits.filter(|hit| hit.cosine > threshold).collect::<Vec<_>>()
            })
            .collect();
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

    fn hit(&self, distance: u32, index: usize) -> Hit {
        Hit { index, cosine: (self.dimension as f64 - 2. * f64::from(distance)) / self.dimension as f64 }
    }

    /// Number of different components of every query with every item, query by query.
    fn distances(&self, queries: &[&[u64]], items: &[u64], out: &mut [u32]) {
        let rows = items.len() / self.width;
        Arch::new().dispatch(Distances { queries, items, width: self.width, rows, out });
    }
}

/// Every query against every item: a plain loop, which the compiler turns into the widest vector instructions of the
/// machine that it is dispatched to.
struct Distances<'a> {
    queries: &'a [&'a [u64]],
    items: &'a [u64],
    width: usize,
    rows: usize,
    out: &'a mut [u32],
}

impl WithSimd for Distances<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (query, out) in self.queries.iter().zip(self.out.chunks_exact_mut(self.rows)) {
            for (item, out) in self.items.chunks_exact(self.width).zip(out) {
                *out = different(query, item);
            }
        }
    }
}

#[inline(always)]
fn different(a: &[u64], b: &[u64]) -> u32 {
    let mut sum = 0u64;
    for (a, b) in a.iter().zip(b) {
        sum += u64::from((a ^ b).count_ones());
    }
    sum as u32
}

/// Keeps the `count` smallest, in order; of equals the smaller index first.
fn keep(best: &mut Vec<(u32, usize)>, count: usize, new: impl Iterator<Item = (u32, usize)>) {
    for candidate in new {
        if best.len() == count {
            match best.last() {
                Some(worst) if candidate < *worst => {}
                _ => continue,
            }
            best.pop();
        }
        let place = best.partition_point(|other| *other < candidate);
        best.insert(place, candidate);
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
