//! Reading a concept out of a hypervector: the published procedure, which looks at the answer while it chooses, and two that
//! do not (arXiv 2509.25045, section 5).
//!
//! A vector is unbound with some of the words that were given and compared with the whole codebook; the most similar item is
//! the answer.

use vsa::{Bipolar, Codebook, Vector};

/// The words of an analogy a : b = c : d, as places in a codebook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// a, b and c: the example pair and the target's partner.
    pub given: [usize; 3],
    /// d.
    pub target: usize,
}

/// Which of the given words a vector is unbound with, the most specific first.
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
    /// None.
    Original,
}

impl Query {
    /// All of them, in the order in which they are tried.
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

    /// In tables.
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

    /// The words, as places in a, b, c.
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

/// What was found in a vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Which query it came from; none when a search for the target did.
    pub query: Option<Query>,
    /// The word that the search unbound with, where there was one.
    pub searched: Option<usize>,
    /// Whether a second word was searched for and unbound as well.
    pub cleaned: bool,
    /// The most similar items and their cosines, the nearest first.
    pub nearest: Vec<(usize, f64)>,
    /// Cosine of the target.
    pub target: f64,
}

impl Found {
    /// The most similar item.
    pub fn best(&self) -> (usize, f64) {
        self.nearest.first().copied().unwrap_or((usize::MAX, f64::NEG_INFINITY))
    }

    /// Whether the target is among the first so many.
    pub fn among(&self, target: usize, first: usize) -> bool {
        self.nearest.iter().take(first).any(|(item, _)| *item == target)
    }
}

/// A codebook and a threshold.
#[derive(Clone, Copy, Debug)]
pub struct Readout<'a> {
    book: &'a Codebook<Bipolar>,
    threshold: f64,
}

/// Names of what [`Compared::all`] gives.
pub const READOUTS: [&str; 3] = ["published", "blind", "key"];

/// Items that are kept of each comparison.
const KEPT: usize = 5;

impl<'a> Readout<'a> {
    /// The published threshold, 0.1 at 4,096 dimensions, is 6.4 standard deviations of chance; other dimensions keep that
    /// number.
    pub fn new(book: &'a Codebook<Bipolar>) -> Self {
        Self { book, threshold: 0.1 * (4096. / book.dimension() as f64).sqrt() }
    }

    /// With another threshold.
    pub fn above(self, threshold: f64) -> Self {
        Self { threshold, ..self }
    }

    /// Cosines above this are no chance.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    fn similarities(&self, vector: &Bipolar) -> Vec<f64> {
        self.book.vectors().iter().map(|item| item.cosine(vector)).collect()
    }

    /// Unbinds a vector with every query's words and compares what is left with the whole codebook.
    pub fn compare(&'a self, vector: &'a Bipolar, words: &'a Words) -> Compared<'a> {
        let similarities = Query::ALL.map(|query| self.similarities(&self.unbound(vector, words, query)));
        Compared { readout: self, vector, words, similarities }
    }

    fn unbound(&self, vector: &Bipolar, words: &Words, query: Query) -> Bipolar {
        let given = query.uses().iter().map(|at| &self.book.vectors()[words.given[*at]]);
        given.fold(vector.clone(), |vector, word| vector.unbind(word))
    }

    /// The word that, unbound from a vector, leaves most of the target.
    fn search(&self, vector: &Bipolar, target: usize) -> (usize, f64) {
        let mut s = self.similarities(&vector.unbind(&self.book.vectors()[target]));
        s[target] = f64::NEG_INFINITY;
        top(&s)
    }

    /// Items above the threshold in a vector as it is.
    pub fn members(&self, vector: &Bipolar) -> Vec<(usize, f64)> {
        let mut hits: Vec<(usize, f64)> = self.similarities(vector).into_iter().enumerate().collect();
        hits.retain(|(_, cosine)| *cosine >= self.threshold);
        hits.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        hits
    }
}

/// A vector, compared by every query.
#[derive(Clone, Debug)]
pub struct Compared<'a> {
    readout: &'a Readout<'a>,
    vector: &'a Bipolar,
    words: &'a Words,
    /// Cosines with all items, in the order of [`Query::ALL`].
    similarities: [Vec<f64>; 8],
}

impl Compared<'_> {
    /// What each of [`READOUTS`] finds.
    pub fn all(&self) -> [Found; 3] {
        [self.published(true), self.blind(), self.key(true)]
    }

    fn queries(&self) -> impl Iterator<Item = (Query, &Vec<f64>)> {
        Query::ALL.into_iter().zip(&self.similarities)
    }

    /// Precision as published: queries are skipped, chosen and, with `search`, added to by what they do for the target. An
    /// upper bound, then, on what a reader without the answer can get.
    ///
    /// The search unbinds with what the reference means, the vector itself, where its code takes the last vector tried.
    pub fn published(&self, search: bool) -> Found {
        let Readout { book, threshold } = *self.readout;
        let target = self.words.target;
        let [.., original] = &self.similarities;
        // the query without words is never skipped
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

    /// Precision of a reader without the answer: the query whose most similar item is the most similar of all, the given words
    /// left out everywhere. (Were only a query's own words left out, a would give b as clearly as c gives d.)
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

    /// The most similar item when unbound with the key alone; the given words are left out where `others` says so.
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

/// What the most similar items of all are.
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

/// The largest and where it is; of equals the first.
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
    fn a_perfect_vector_gives_its_target_to_every_reader() {
        let book = book();
        let readout = Readout::new(&book);
        assert!((readout.threshold() - 0.1).abs() < 1e-12);
        let (mut by_key, mut by_context, mut drawn_by_key) = (0, 0, 0);
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
            // with ties at -1, all three words give the key and the target alike; a reader that leaves given words out is not
            // fooled
            assert_eq!(readout.compare(&y, &words).blind().best().0, words.target);
            // drawn ties leave the key's own query alone, but for another query whose most similar item is by chance as similar
            let y = encoded(&book, &words, Tie::Random(start as u64));
            let found = readout.compare(&y, &words).published(true);
            drawn_by_key += usize::from((found.best().0, found.query) == (words.target, Some(Query::Key)));
        }
        assert!(by_key > 60 && by_context > 20 && drawn_by_key >= 70, "{by_key} {by_context} {drawn_by_key}");
    }

    #[test]
    fn nothing_is_found_in_noise_without_the_answer() {
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
