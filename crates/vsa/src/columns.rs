//! Bit-sliced storage of many items: a row holds the same bit of 512 items, so that vector instructions count the
//! differences to a query in all of them at once.
//!
//! Take three components a, b, c of an item and qa, qb, qc of a query. The number of them that differ is `s + 2 m`, where
//! `s = (a ^ b ^ c) ^ (qa ^ qb ^ qc)` and `m` is the majority of `a ^ qa`, `b ^ qb` and `c ^ qc`.
//! For every three components, a block stores the row `a ^ b ^ c` and four rows of majorities. There are four because
//! complementing all three query bits only complements the majority.
//! A query therefore reads two rows instead of three, complemented where needed, and a full adder is saved.
//! Harley–Seal carry-save adders sum these into bit-sliced counters.

use pulp::{Arch, Simd, WithSimd};

/// Items in a block.
pub(crate) const ITEMS: usize = 512;
/// Items in a word.
const BITS: usize = u32::BITS as usize;
/// Words in a row.
const ROW: usize = ITEMS / BITS;
/// Rows of a group, three components.
const ROWS: usize = 5;
/// Groups of three components that are added up at once.
const CHUNK: usize = 32;
/// Digits of a counter that the groups of a chunk are added to as they come.
const LOW: usize = 7;

/// One bit of each item of a block; exactly one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Row([u32; ROW]);

/// Items in blocks of 512, bit-sliced.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    /// 64-bit words in a third of a vector: group g has the components g, g + 64 `thirds` and g + 128 `thirds`.
    thirds: usize,
    /// Binary digits of the largest possible count.
    digits: usize,
    len: usize,
    /// The groups of the first block, then those of the next.
    rows: Vec<[Row; ROWS]>,
}

/// For the query bits `qc qb qa` of a group: masks that complement the parity and the majority row, and which majority row
/// to read. Only the first eight entries occur; the table has 256 so that indexing by a byte needs no bounds check.
static ASKED: [([u32; 2], usize); 256] = {
    let mut asked = [([0; 2], 0); 256];
    let mut bits = 0;
    while bits < 256 {
        let c = bits >> 2 & 1;
        let row = (bits & 3) ^ (c * 3);
        let odd = (bits & 1) ^ (bits >> 1 & 1) ^ c;
        asked[bits] = ([0u32.wrapping_sub(odd as u32), 0u32.wrapping_sub(c as u32)], row);
        bits += 1;
    }
    asked
};

/// A query prepared for comparison: one byte per group with its three bits, eight groups in a word.
pub(crate) type Question = Vec<u64>;

impl Columns {
    pub fn new(dimension: usize) -> Self {
        assert!(u32::try_from(dimension).is_ok(), "vectors of {dimension} components");
        let digits = ((usize::BITS - dimension.leading_zeros()) as usize).max(LOW);
        Self { thirds: dimension.div_ceil(64).div_ceil(3), digits, len: 0, rows: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn bytes(&self) -> usize {
        size_of_val(self.rows.as_slice())
    }

    pub fn blocks(&self) -> usize {
        self.len.div_ceil(ITEMS)
    }

    fn groups(&self) -> usize {
        self.thirds * 64
    }

    /// Appends items, given as the words of their bits.
    pub fn extend(&mut self, items: &[&[u64]]) {
        let mut items = items;
        while !items.is_empty() {
            let first = self.len % BITS;
            let (now, later) = items.split_at(items.len().min(BITS - first));
            if self.len.is_multiple_of(ITEMS) {
                self.rows.resize(self.rows.len() + self.groups(), [Row([0; ROW]); ROWS]);
            }
            let (block, column) = (self.len / ITEMS * self.groups(), self.len % ITEMS / BITS);
            let taken = (u32::MAX >> (BITS - now.len())) << first;
            for word in 0..self.thirds {
                for half in 0..2 {
                    let [a, b, c] = [0, 1, 2].map(|third| {
                        let mut square = [0; BITS];
                        for (row, item) in square[first..].iter_mut().zip(now) {
                            let bits = item.get(third * self.thirds + word).copied().unwrap_or(0);
                            *row = (bits >> (32 * half)) as u32;
                        }
                        transpose(&mut square);
                        square
                    });
                    for bit in 0..BITS {
                        let [odd, majorities @ ..] = &mut self.rows[block + word * 64 + half * BITS + bit];
                        let [a, b, c] = [a[bit], b[bit], c[bit]];
                        odd.0[column] |= a ^ b ^ c;
                        for (row, (a, b)) in majorities.iter_mut().zip([(a, b), (!a, b), (a, !b), (!a, !b)]) {
                            row.0[column] |= (a & b | b & c | c & a) & taken;
                        }
                    }
                }
            }
            self.len += now.len();
            items = later;
        }
    }

    pub fn question(&self, words: &[u64]) -> Question {
        let third = |third: usize, word: usize| words.get(third * self.thirds + word).copied().unwrap_or(0);
        let bits = (0..self.thirds).flat_map(|word| {
            let [a, b, c] = [0, 1, 2].map(|k| third(k, word));
            (0..8).map(move |byte| {
                let spread = |word: u64| {
                    // spreads eight bits over eight bytes, each into the lowest bit
                    let copies = (word >> (8 * byte) & 0xff) * 0x0101_0101_0101_0101;
                    ((copies & 0x8040_2010_0804_0201) + 0x7f7f_7f7f_7f7f_7f7f) >> 7 & 0x0101_0101_0101_0101
                };
                spread(a) | spread(b) << 1 | spread(c) << 2
            })
        });
        bits.collect()
    }

    /// Counts the differing components between each query and all items of a block; `found` gets the index of the query
    /// and its counts.
    pub fn distances(&self, block: usize, questions: &[Question], mut found: impl FnMut(usize, &Planes<'_>)) {
        let live = (self.len - block * ITEMS).min(ITEMS);
        let live = std::array::from_fn(|word| match live.saturating_sub(word * BITS) {
            0 => 0,
            left => u32::MAX >> (BITS - left.min(BITS)),
        });
        let mut digits = vec![[0; ROW]; questions.len() * self.digits];
        let rows = &self.rows[block * self.groups()..(block + 1) * self.groups()];
        Arch::new().dispatch(Count { rows, questions, digits: &mut digits, each: self.digits });
        for (query, digits) in digits.chunks_exact(self.digits).enumerate() {
            found(query, &Planes { digits, live });
        }
    }
}

/// Transposes a square of bits.
fn transpose(square: &mut [u32; BITS]) {
    let (mut by, mut mask) = (BITS / 2, u32::MAX >> (BITS / 2));
    while by != 0 {
        for row in (0..BITS).filter(|row| row & by == 0) {
            let swap = (square[row] >> by ^ square[row + by]) & mask;
            square[row + by] ^= swap;
            square[row] ^= swap << by;
        }
        by /= 2;
        mask ^= mask << by;
    }
}

/// A bit-sliced count for each item of a block; `live` masks the items that exist.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planes<'a> {
    digits: &'a [[u32; ROW]],
    live: [u32; ROW],
}

impl Planes<'_> {
    /// Whether any item has a count of at most `most`.
    pub fn any_within(&self, most: u32) -> bool {
        if most.checked_shr(self.digits.len() as u32).unwrap_or(0) != 0 {
            return self.live.iter().any(|word| *word != 0);
        }
        // a comparison from the highest digit down: items equal to `most` so far, and items already below it
        let (mut same, mut below) = (self.live, [0; ROW]);
        for (digit, plane) in self.digits.iter().enumerate().rev() {
            let flip = 0u32.wrapping_sub(most >> digit & 1);
            for ((same, below), plane) in same.iter_mut().zip(&mut below).zip(plane) {
                *below |= *same & !plane & flip;
                *same &= !(plane ^ flip);
            }
        }
        same.iter().zip(&below).any(|(same, below)| same | below != 0)
    }

    /// (count, index) of the items, smallest count first, then by index.
    pub fn ascending(&self) -> impl Iterator<Item = (u32, usize)> {
        let mut left = self.live;
        let mut smallest = ([0; ROW], 0);
        std::iter::from_fn(move || {
            if smallest.0.iter().all(|word| *word == 0) {
                smallest = self.smallest(&left)?;
                left.iter_mut().zip(&smallest.0).for_each(|(left, taken)| *left &= !taken);
            }
            let word = smallest.0.iter().position(|word| *word != 0)?;
            let bit = smallest.0[word].trailing_zeros();
            smallest.0[word] &= smallest.0[word] - 1;
            Some((smallest.1, word * BITS + bit as usize))
        })
    }

    /// The items of `among` with the smallest count, and that count.
    fn smallest(&self, among: &[u32; ROW]) -> Option<([u32; ROW], u32)> {
        let (mut smallest, mut count) = (*among, 0);
        for (digit, plane) in self.digits.iter().enumerate().rev() {
            let mut zeros = smallest;
            zeros.iter_mut().zip(plane).for_each(|(zeros, plane)| *zeros &= !plane);
            match zeros.iter().any(|word| *word != 0) {
                true => smallest = zeros,
                false => count |= 1 << digit,
            }
        }
        smallest.iter().any(|word| *word != 0).then_some((smallest, count))
    }
}

/// Counts every query against every item of a block.
struct Count<'a> {
    rows: &'a [[Row; ROWS]],
    questions: &'a [Question],
    /// `each` digits per query.
    digits: &'a mut [[u32; ROW]],
    each: usize,
}

impl WithSimd for Count<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let vectors = ROW / S::U32_LANES;
        let mut states = vec![simd.splat_u32s(0); self.digits.len()];
        for vector in 0..vectors {
            states.fill(simd.splat_u32s(0));
            for (index, rows) in self.rows.as_chunks::<CHUNK>().0.iter().enumerate() {
                for (query, state) in states.chunks_exact_mut(self.each).enumerate() {
                    let question = &self.questions[query].as_chunks().0[index];
                    Chunk { simd, rows, question, vector }.add(state);
                }
            }
            for (digit, state) in self.digits.iter_mut().zip(&states) {
                S::as_mut_simd_u32s(digit).0[vector] = *state;
            }
        }
    }
}

/// A chunk of the groups of a block, and the part of a query that belongs to it.
///
/// The methods use no closures, because those would not be compiled for the wide instructions. No index can be out of
/// bounds, because the branches of bounds checks would cost more than the rest of the loop.
#[derive(Clone, Copy)]
struct Chunk<'a, S: Simd> {
    simd: S,
    rows: &'a [[Row; ROWS]; CHUNK],
    question: &'a [u64; CHUNK / 8],
    /// Index of the vector register within a row.
    vector: usize,
}

impl<S: Simd> Chunk<'_, S> {
    #[inline(always)]
    fn vector(self, row: &Row) -> S::u32s {
        S::as_simd_u32s(&row.0).0[self.vector & (ROW / S::U32_LANES - 1)]
    }

    /// Parity and majority of the differences in a group.
    #[inline(always)]
    fn group(self, group: usize) -> (S::u32s, S::u32s) {
        let ([odd, majority], asked) = ASKED[usize::from((self.question[group / 8] >> (8 * (group % 8))) as u8)];
        let rows = &self.rows[group];
        (
            self.simd.xor_u32s(self.vector(&rows[0]), self.simd.splat_u32s(odd)),
            self.simd.xor_u32s(self.vector(&rows[1 + (asked & 3)]), self.simd.splat_u32s(majority)),
        )
    }

    /// Adds four groups; returns the two lowest digits and the carries out of them.
    #[inline(always)]
    fn four(self, [p0, p1]: [S::u32s; 2], first: usize) -> ([S::u32s; 2], [S::u32s; 3]) {
        let ((a, u), (b, v)) = (self.group(first), self.group(first + 1));
        let ((c, w), (d, x)) = (self.group(first + 2), self.group(first + 3));
        let (p0, low) = full(self.simd, p0, a, b);
        let (p0, high) = full(self.simd, p0, c, d);
        let (p1, carry) = up(self.simd, p1, [low, high, u], [v, w, x]);
        ([p0, p1], carry)
    }

    #[inline(always)]
    fn eight(self, [p0, p1, p2]: [S::u32s; 3], first: usize) -> ([S::u32s; 3], [S::u32s; 3]) {
        let (p, low) = self.four([p0, p1], first);
        let ([p0, p1], high) = self.four(p, first + 4);
        let (p2, carry) = up(self.simd, p2, low, high);
        ([p0, p1, p2], carry)
    }

    #[inline(always)]
    fn sixteen(self, [p0, p1, p2, p3]: [S::u32s; 4], first: usize) -> ([S::u32s; 4], [S::u32s; 3]) {
        let (p, low) = self.eight([p0, p1, p2], first);
        let ([p0, p1, p2], high) = self.eight(p, first + 8);
        let (p3, carry) = up(self.simd, p3, low, high);
        ([p0, p1, p2, p3], carry)
    }

    /// Adds all groups to the counters.
    #[inline(always)]
    fn add(self, state: &mut [S::u32s]) {
        let Some((low, high)) = state.split_first_chunk_mut::<LOW>() else { return };
        let [p0, p1, p2, p3, p4, p5, p6] = *low;
        let (p, first) = self.sixteen([p0, p1, p2, p3], 0);
        let ([p0, p1, p2, p3], second) = self.sixteen(p, 16);
        let (p4, [a, b, c]) = up(self.simd, p4, first, second);
        let (p5, one) = full(self.simd, p5, a, b);
        let (p5, other) = half(self.simd, p5, c);
        let (p6, mut carry) = full(self.simd, p6, one, other);
        *low = [p0, p1, p2, p3, p4, p5, p6];
        for digit in high {
            (*digit, carry) = half(self.simd, *digit, carry);
        }
    }
}

/// Adds six bits to a digit; returns the digit and three carries.
#[inline(always)]
fn up<S: Simd>(simd: S, digit: S::u32s, [a, b, c]: [S::u32s; 3], [d, e, f]: [S::u32s; 3]) -> (S::u32s, [S::u32s; 3]) {
    let (digit, one) = full(simd, digit, a, b);
    let (digit, two) = full(simd, digit, c, d);
    let (digit, three) = full(simd, digit, e, f);
    (digit, [one, two, three])
}

/// Full adder: adds two bits to a digit; returns the digit and the carry.
#[inline(always)]
fn full<S: Simd>(simd: S, digit: S::u32s, a: S::u32s, b: S::u32s) -> (S::u32s, S::u32s) {
    let sum = simd.xor_u32s(simd.xor_u32s(digit, a), b);
    (sum, simd.or_u32s(simd.and_u32s(digit, a), simd.and_u32s(b, simd.or_u32s(digit, a))))
}

/// Half adder: adds one bit to a digit; returns the digit and the carry.
#[inline(always)]
fn half<S: Simd>(simd: S, digit: S::u32s, a: S::u32s) -> (S::u32s, S::u32s) {
    (simd.xor_u32s(digit, a), simd.and_u32s(digit, a))
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn sample(words: usize, bits: usize, rng: &mut ChaCha8Rng) -> Vec<u64> {
        let mut sampled: Vec<u64> = (0..words).map(|_| rng.random()).collect();
        if let (Some(last), 1..) = (sampled.last_mut(), bits % 64) {
            *last &= u64::MAX >> (64 - bits % 64);
        }
        sampled
    }

    #[test]
    fn counts_match_the_definition() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (dimension, count) in
            [(1usize, 1usize), (63, 33), (64, 512), (65, 513), (200, 40), (1000, 1100), (4096, 70)]
        {
            let words = dimension.div_ceil(64);
            let items: Vec<Vec<u64>> = (0..count).map(|_| sample(words, dimension, &mut rng)).collect();
            let queries: Vec<Vec<u64>> =
                (0..3).map(|_| sample(words, dimension, &mut rng)).chain([items[0].clone()]).collect();
            let mut columns = Columns::new(dimension);
            // extended by one item, by part of a word, and across blocks
            let all: Vec<&[u64]> = items.iter().map(Vec::as_slice).collect();
            let (one, rest) = all.split_at(1);
            let (some, rest) = rest.split_at(rest.len() / 3);
            [one, some, rest].iter().for_each(|part| columns.extend(part));
            assert_eq!((columns.len(), columns.blocks()), (count, count.div_ceil(ITEMS)));
            let questions: Vec<Question> = queries.iter().map(|query| columns.question(query)).collect();
            let mut found = vec![vec![u32::MAX; count]; queries.len()];
            for block in 0..columns.blocks() {
                columns.distances(block, &questions, |query, planes| {
                    let order: Vec<(u32, usize)> = planes.ascending().collect();
                    assert!(order.is_sorted());
                    assert_eq!(
                        [0, 1].map(|less| planes.any_within(order[0].0.wrapping_sub(less))),
                        [true, order[0].0 == 0]
                    );
                    order.into_iter().for_each(|(distance, item)| found[query][block * ITEMS + item] = distance);
                });
            }
            for (query, found) in queries.iter().zip(&found) {
                let differences =
                    |item: &Vec<u64>| item.iter().zip(query).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
                assert!(items.iter().map(differences).eq(found.iter().copied()), "{dimension} {count}");
            }
        }
    }

    #[test]
    fn transpose_swaps_rows_and_bits() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let square: [u32; BITS] = std::array::from_fn(|_| rng.random());
        let mut swapped = square;
        transpose(&mut swapped);
        assert!((0..BITS).all(|i| (0..BITS).all(|j| square[i] >> j & 1 == swapped[j] >> i & 1)));
    }
}
