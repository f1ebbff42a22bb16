//! Bits of many items side by side, so that one instruction counts differences in 512 items at once.
//!
//! Three components a, b, c of an item and of a query q differ in `s + 2 m` places, where
//! `s = (a ^ b ^ c) ^ (qa ^ qb ^ qc)` and `m` is the majority of `a ^ qa`, `b ^ qb`, `c ^ qc`.
//! A block holds, for each three components of 512 items, the row of `a ^ b ^ c` and four rows of `m`, one for each way
//! that two of the query's may differ from its third: two rows are read in place of three, perhaps flipped, and the first
//! two steps of adding are done.
//! The rest is added by carry-save adders (Harley and Seal) into counters whose binary digits are rows, too.

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

/// A bit of each item of a block, on one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Row([u32; ROW]);

/// Items in blocks.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    /// 64-bit words in a third of a vector: group g has the components g, g + 64 `thirds` and g + 128 `thirds`.
    thirds: usize,
    /// Digits that a count can have.
    digits: usize,
    len: usize,
    /// Group by group, block by block.
    rows: Vec<[Row; ROWS]>,
}

/// What the bits of a query, qc qb qa, ask of a group: whether to flip the row of odd differences and that of majorities,
/// and which of these it is. For any byte, so that nothing is left to check; only the first eight occur.
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

/// A query as it is compared: its bits in each group, a byte for each, eight in a word.
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

    /// Adds items, given as words of bits.
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
                    // eight bits, each to the lowest place of a byte of its own
                    let copies = (word >> (8 * byte) & 0xff) * 0x0101_0101_0101_0101;
                    ((copies & 0x8040_2010_0804_0201) + 0x7f7f_7f7f_7f7f_7f7f) >> 7 & 0x0101_0101_0101_0101
                };
                spread(a) | spread(b) << 1 | spread(c) << 2
            })
        });
        bits.collect()
    }

    /// Counts of different components of the items of a block and each query; `found` gets the query's place with them.
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

/// Swaps rows and bits.
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

/// A count for each item of a block, digit by digit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planes<'a> {
    digits: &'a [[u32; ROW]],
    live: [u32; ROW],
}

impl Planes<'_> {
    /// Whether an item has a count of at most this.
    pub fn any_within(&self, most: u32) -> bool {
        if most.checked_shr(self.digits.len() as u32).unwrap_or(0) != 0 {
            return self.live.iter().any(|word| *word != 0);
        }
        // those whose digits so far are those of `most`, and those that are below it
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

    /// Counts and places of the items, smallest count first; of equals in order.
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

    /// Those with the smallest count among some, and that count.
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

/// Every query against every item of a block.
struct Count<'a> {
    rows: &'a [[Row; ROWS]],
    questions: &'a [Question],
    /// Of every query, `each` in a row.
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

/// Some groups of a block, and a query.
///
/// No closures here, which would not be compiled for the wide instructions, and no index that could be out of bounds:
/// the jumps of the checks cost more than everything else.
#[derive(Clone, Copy)]
struct Chunk<'a, S: Simd> {
    simd: S,
    rows: &'a [[Row; ROWS]; CHUNK],
    question: &'a [u64; CHUNK / 8],
    /// Which of the vectors of a row.
    vector: usize,
}

impl<S: Simd> Chunk<'_, S> {
    #[inline(always)]
    fn vector(self, row: &Row) -> S::u32s {
        S::as_simd_u32s(&row.0).0[self.vector & (ROW / S::U32_LANES - 1)]
    }

    /// Rows of odd differences and of majorities.
    #[inline(always)]
    fn group(self, group: usize) -> (S::u32s, S::u32s) {
        let ([odd, majority], asked) = ASKED[usize::from((self.question[group / 8] >> (8 * (group % 8))) as u8)];
        let rows = &self.rows[group];
        (
            self.simd.xor_u32s(self.vector(&rows[0]), self.simd.splat_u32s(odd)),
            self.simd.xor_u32s(self.vector(&rows[1 + (asked & 3)]), self.simd.splat_u32s(majority)),
        )
    }

    /// Four groups; the first two digits and what is carried out of them.
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

/// A digit with six numbers added, and what is carried.
#[inline(always)]
fn up<S: Simd>(simd: S, digit: S::u32s, [a, b, c]: [S::u32s; 3], [d, e, f]: [S::u32s; 3]) -> (S::u32s, [S::u32s; 3]) {
    let (digit, one) = full(simd, digit, a, b);
    let (digit, two) = full(simd, digit, c, d);
    let (digit, three) = full(simd, digit, e, f);
    (digit, [one, two, three])
}

/// A digit with two numbers added, and what is carried.
#[inline(always)]
fn full<S: Simd>(simd: S, digit: S::u32s, a: S::u32s, b: S::u32s) -> (S::u32s, S::u32s) {
    let sum = simd.xor_u32s(simd.xor_u32s(digit, a), b);
    (sum, simd.or_u32s(simd.and_u32s(digit, a), simd.and_u32s(b, simd.or_u32s(digit, a))))
}

/// A digit with one number added, and what is carried.
#[inline(always)]
fn half<S: Simd>(simd: S, digit: S::u32s, a: S::u32s) -> (S::u32s, S::u32s) {
    (simd.xor_u32s(digit, a), simd.and_u32s(digit, a))
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn draw(words: usize, bits: usize, rng: &mut ChaCha8Rng) -> Vec<u64> {
        let mut drawn: Vec<u64> = (0..words).map(|_| rng.random()).collect();
        if let (Some(last), 1..) = (drawn.last_mut(), bits % 64) {
            *last &= u64::MAX >> (64 - bits % 64);
        }
        drawn
    }

    #[test]
    fn counts_are_those_of_the_definition() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (dimension, count) in
            [(1usize, 1usize), (63, 33), (64, 512), (65, 513), (200, 40), (1000, 1100), (4096, 70)]
        {
            let words = dimension.div_ceil(64);
            let items: Vec<Vec<u64>> = (0..count).map(|_| draw(words, dimension, &mut rng)).collect();
            let queries: Vec<Vec<u64>> =
                (0..3).map(|_| draw(words, dimension, &mut rng)).chain([items[0].clone()]).collect();
            let mut columns = Columns::new(dimension);
            // in pieces of every kind
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
    fn transposing_swaps_rows_and_bits() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let square: [u32; BITS] = std::array::from_fn(|_| rng.random());
        let mut turned = square;
        transpose(&mut turned);
        assert!((0..BITS).all(|i| (0..BITS).all(|j| square[i] >> j & 1 == turned[j] >> i & 1)));
    }
}
