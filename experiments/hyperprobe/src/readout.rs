//! Reads a concept out of a hypervector (arXiv 2509.25045, section 5).
//!
//! Each readout unbinds the vector with some of the given words and compares the result with the whole codebook by
//! cosine. The most similar item is the answer. The published procedure uses the target while it chooses among queries,
//! so it gives an upper bound; two other procedures do not use the target.

use vsa::{Bipolar, Codebook, Vector};

/// The words of an analogy a : b = c : d, as indices into a codebook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// The indices of a, b and c: the example pair and the target's partner.
    pub given: [usize; 3],
    /// The index of d.
    pub target: usize,
}

/// The given words that a vector is unbound with, the most specific query first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Query {
    /// a, b and c.
    Context,
    /// b and c.
    ValueAndKey,
    /// a and c.
    KeyAndKey,
    /// a and b.
    Example,
    /// c.
    Key,
    /// b.
    ExampleValue,
    /// a.
    ExampleKey,
    /// No word.
    Original,
}

impl Query {
    /// All queries, in the order in which they are tried.
    pub const ALL: [Self; 8] = [
        Self::Context,
        Self::ValueAndKey,
        Self::KeyAndKey,
        Self::Example,
        Self::Key,
        Self::ExampleValue,
        Self::ExampleKey,
        Self::Original,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Context => "context",
            Self::ValueAndKey => "example value & key",
            Self::KeyAndKey => "example key & key",
            Self::Example => "example",
            Self::Key => "key",
            Self::ExampleValue => "example value",
            Self::ExampleKey => "example key",
            Self::Original => "original",
        }
    }

    /// The words of this query, as indices into `[a, b, c]`.
    pub fn uses(self) -> &'static [usize] {
        match self {
            Self::Context => &[0, 1, 2],
            Self::ValueAndKey => &[1, 2],
            Self::KeyAndKey => &[0, 2],
            Self::Example => &[0, 1],
            Self::Key => &[2],
            Self::ExampleValue => &[1],
            Self::ExampleKey => &[0],
            Self::Original => &[],
        }
    }
}

/// The result of one readout.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The query that gave the result; `None` if a search for the target gave it.
    pub query: Option<Query>,
    /// The word that the search unbound, if there was a search.
    pub searched: Option<usize>,
    /// Whether a second word was searched for and unbound as well.
    pub cleaned: bool,
    /// The most similar items and their cosines, in decreasing order.
    pub nearest: Vec<(usize, f64)>,
    /// The cosine of the target.
    pub target: f64,
}

impl Found {
    /// The most similar item and its cosine.
    pub fn best(&self) -> (usize, f64) {
        self.nearest.first().copied().unwrap_or((usize::MAX, f64::NEG_INFINITY))
    }

    /// Whether the target is among the `first` most similar items.
    pub fn among(&self, target: usize, first: usize) -> bool {
        self.nearest.iter().take(first).any(|(item, _)| *item == target)
    }
}

/// A codebook and a detection threshold.
#[derive(Clone, Copy, Debug)]
pub struct Readout<'a> {
    book: &'a Codebook<Bipolar>,
    threshold: f64,
}

/// The names of the readouts in [`Compared::all`], in order.
pub const READOUTS: [&str; 3] = ["published", "blind", "key"];

/// Number of most similar items kept per comparison.
const KEPT: usize = 5;

impl<'a> Readout<'a> {
    /// Uses the published threshold, which is 0.1 at 4,096 dimensions or 6.4 standard deviations of a chance cosine.
    /// Other dimensions keep that number of standard deviations.
    pub fn new(book: &'a Codebook<Bipolar>) -> Self {
        Self { book, threshold: 0.1 * (4096. / book.dimension() as f64).sqrt() }
    }

    /// Sets another threshold.
    pub fn above(self, threshold: f64) -> Self {
        Self { threshold, ..self }
    }

    /// The cosine above which an item counts as detected.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    fn similarities(&self, vector: &Bipolar) -> Vec<f64> {
        self.book.vectors().iter().map(|item| item.cosine(vector)).collect()
    }

    /// Unbinds a vector with every query's words and compares each result with the whole codebook.
    pub fn compare(&'a self, vector: &'a Bipolar, words: &'a Words) -> Compared<'a> {
        let similarities = Query::ALL.map(|query| self.similarities(&self.unbound(vector, words, query)));
        Compared { readout: self, vector, words, similarities }
    }

    fn unbound(&self, vector: &Bipolar, words: &Words, query: Query) -> Bipolar {
        let given = query.uses().iter().map(|at| &self.book.vectors()[words.given[*at]]);
        given.fold(vector.clone(), |vector, word| vector.unbind(word))
    }

    /// The word that leaves the most of the target when it is unbound from the vector, with the resulting cosine.
    fn search(&self, vector: &Bipolar, target: usize) -> (usize, f64) {
        let mut s = self.similarities(&vector.unbind(&self.book.vectors()[target]));
        s[target] = f64::NEG_INFINITY;
        top(&s)
    }

    /// The items at or above the threshold in a vector that is not unbound, most similar first.
    pub fn members(&self, vector: &Bipolar) -> Vec<(usize, f64)> {
        let mut hits: Vec<(usize, f64)> = self.similarities(vector).into_iter().enumerate().collect();
        hits.retain(|(_, cosine)| *cosine >= self.threshold);
        hits.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        hits
    }
}

/// The similarities of one vector under every query.
#[derive(Clone, Debug)]
pub struct Compared<'a> {
    readout: &'a Readout<'a>,
    vector: &'a Bipolar,
    words: &'a Words,
    /// Cosines with all items, in the order of [`Query::ALL`].
    similarities: [Vec<f64>; 8],
}

impl Compared<'_> {
    /// The result of each of [`READOUTS`].
    pub fn all(&self) -> [Found; 3] {
        [self.published(true), self.blind(), self.key(true)]
    }

    fn queries(&self) -> impl Iterator<Item = (Query, &Vec<f64>)> {
        Query::ALL.into_iter().zip(&self.similarities)
    }

    /// The published readout. It uses the target to skip and choose queries and, with `search`, to search for words to
    /// unbind. Its precision is therefore an upper bound on that of a readout without the target.
    ///
    /// The search unbinds the vector itself, as the paper describes. The reference code unbinds the last vector tried.
    pub fn published(&self, search: bool) -> Found {
        let Readout { book, threshold } = *self.readout;
        let target = self.words.target;
        let [.., original] = &self.similarities;
        // The query without words is never skipped.
        let mut best = (Query::Original, original);
        let mut chosen = false;
        for (query, s) in self.queries() {
            let (first, most) = top(s);
            let artefact = query.uses().iter().any(|at| s[self.words.given[*at]] > threshold);
            if artefact && first != target {
                continue;
            }
            let (old_first, old_most) = top(best.1);
            let better = !chosen
                || (first == target && s[target] > best.1[target])
                || (most > old_most && old_first != target)
                || (most == old_most && second(best.1) < threshold);
            if better {
                (best, chosen) = ((query, s), true);
            }
        }
        let (mut query, mut s, mut searched, mut cleaned) = (Some(best.0), best.1.clone(), None, false);
        if search {
            let mut unbound = self.readout.unbound(self.vector, self.words, best.0);
            let (first, most) = top(&s);
            if first != target && most < 0.5 {
                let (word, similarity) = self.readout.search(self.vector, target);
                if similarity > most {
                    unbound = self.vector.unbind(&book.vectors()[word]);
                    (s, query, searched) = (self.readout.similarities(&unbound), None, Some(word));
                }
            }
            if second(&s) > threshold {
                let (word, similarity) = self.readout.search(&unbound, target);
                if similarity >= s[target] {
                    s = self.readout.similarities(&unbound.unbind(&book.vectors()[word]));
                    cleaned = true;
                }
            }
        }
        let (first, most) = top(&s);
        if most < threshold && first != target {
            return found(Some(Query::Original), original, target);
        }
        Found { searched, cleaned, ..found(query, &s, target) }
    }

    /// A readout that does not use the target. It takes the query whose most similar item has the largest cosine and
    /// excludes all given words. Excluding only the query's own words would not suffice: a gives b as clearly as c
    /// gives d.
    pub fn blind(&self) -> Found {
        let of = |(query, s): (Query, &Vec<f64>)| found(Some(query), &self.without_given(s), self.words.target);
        let [first, rest @ ..] = Query::ALL;
        let mut best = of((first, &self.similarities[0]));
        for next in rest.into_iter().zip(&self.similarities[1..]).map(of) {
            if next.best().1 > best.best().1 {
                best = next;
            }
        }
        best
    }

    /// The most similar item after unbinding the key alone; `others` restricts it to items other than the given words.
    pub fn key(&self, others: bool) -> Found {
        let s = &self.similarities[Query::Key as usize];
        match others {
            true => found(Some(Query::Key), &self.without_given(s), self.words.target),
            false => found(Some(Query::Key), s, self.words.target),
        }
    }

    fn without_given(&self, s: &[f64]) -> Vec<f64> {
        let mut s = s.to_vec();
        self.words.given.iter().for_each(|given| s[*given] = f64::NEG_INFINITY);
        s
    }
}

/// Collects the most similar items.
fn found(query: Option<Query>, s: &[f64], target: usize) -> Found {
    let mut order: Vec<usize> = (0..s.len()).collect();
    let count = KEPT.min(order.len());
    if count > 0 && count < order.len() {
        order.select_nth_unstable_by(count - 1, |a, b| s[*b].total_cmp(&s[*a]).then(a.cmp(b)));
    }
    order.truncate(count);
    order.sort_by(|a, b| s[*b].total_cmp(&s[*a]).then(a.cmp(b)));
    let nearest = order.into_iter().map(|item| (item, s[item])).collect();
    Found { query, searched: None, cleaned: false, nearest, target: s[target] }
}

/// The index and value of the largest entry; the first of equal ones.
fn top(s: &[f64]) -> (usize, f64) {
    s.iter().enumerate().fold((0, f64::NEG_INFINITY), |best, (i, x)| if *x > best.1 { (i, *x) } else { best })
}

fn second(s: &[f64]) -> f64 {
    let (first, _) = top(s);
    s.iter().enumerate().filter(|(i, _)| *i != first).map(|(_, x)| *x).fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;
    use vsa::Tie;

    use super::*;

    fn book() -> Codebook<Bipolar> {
        Codebook::new(4096, 101, (0..300).map(|i| format!("w{i}"))).unwrap()
    }

    fn encoded(book: &Codebook<Bipolar>, words: &Words, tie: Tie) -> Bipolar {
        let v = book.vectors();
        let [a, b, c] = words.given;
        Bipolar::bundle(&[v[a].bind(&v[b]), v[c].bind(&v[words.target])]).sign(tie)
    }

    #[test]
    fn every_readout_finds_the_target_in_a_perfect_vector() {
        let book = book();
        let readout = Readout::new(&book);
        assert!((readout.threshold() - 0.1).abs() < 1e-12);
        let (mut by_key, mut by_context, mut random_ties_by_key) = (0, 0, 0);
        for start in (0..296).step_by(4) {
            let words = Words { given: [start, start + 1, start + 2], target: start + 3 };
            for search in [false, true] {
                let y = encoded(&book, &words, Tie::Negative);
                let found = readout.compare(&y, &words).published(search);
                assert!(found.best().0 == words.target || found.best().1 >= found.target, "{found:?}");
                by_key += usize::from(found.query == Some(Query::Key));
                by_context += usize::from(found.query == Some(Query::Context));
            }
            let y = encoded(&book, &words, Tie::Negative);
            let key = readout.compare(&y, &words).key(true);
            assert!(key.best().0 == words.target && (key.target - 0.5).abs() < 0.07);
            // With ties at -1, unbinding all three words gives the key and the target the same cosine. A readout that
            // excludes the given words still finds the target.
            assert_eq!(readout.compare(&y, &words).blind().best().0, words.target);
            // Random ties leave the key query as the winner, except where another query's best item is as similar by
            // chance.
            let y = encoded(&book, &words, Tie::Random(start as u64));
            let found = readout.compare(&y, &words).published(true);
            random_ties_by_key += usize::from((found.best().0, found.query) == (words.target, Some(Query::Key)));
        }
        assert!(
            by_key > 60 && by_context > 20 && random_ties_by_key >= 70,
            "{by_key} {by_context} {random_ties_by_key}"
        );
    }

    #[test]
    fn noise_gives_no_target_without_the_answer() {
        let book = book();
        let readout = Readout::new(&book);
        let mut rng = ChaCha12Rng::seed_from_u64(5);
        let words = Words { given: [0, 1, 2], target: 3 };
        let hits = (0..200).filter(|_| {
            let noise = Bipolar::random(4096, &mut rng);
            assert!(readout.compare(&noise, &words).published(false).best().1 < readout.threshold());
            readout.compare(&noise, &words).blind().best().0 == 3
                || readout.compare(&noise, &words).key(true).best().0 == 3
        });
        assert!(hits.count() < 8, "about one in three hundred by chance");
        assert!(readout.members(&book.vectors()[7]) == [(7, 1.)]);
    }
}
