//! Properties of the hypervector algebra before any model is involved (arXiv 2509.25045, sections 3 and 4).
//!
//! This experiment measures codebooks, the two-pair bundle, bundle capacity and the readouts on perfect vectors with
//! added noise. It also counts the documents of the corpus and the bytes of the embedding stores.
//!
//! The two-pair bundle of an analogy a : b = c : d is y = sign(a ⊙ b + c ⊙ d), where ⊙ multiplies component by
//! component.
//!
//! Tables: `identities`, `codebooks`, `cosines` and `target_cosines` (both for histograms), `bundle` (exact and
//! measured values of the two-pair bundle), `capacity`, `noise` (precision of the readouts when components flip),
//! `corpus`, `memory` (bytes).

use std::f64::consts::FRAC_1_SQRT_2;

use crate::analogies::{Corpus, Order};
use anyhow::{Result, bail};
use experiment::Run;
use probes::{mean, standard_deviation};
use rand::Rng;
use rand::seq::index;
use rand_chacha::ChaCha12Rng;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};
use vsa::{Bipolar, Codebook, Tie, Vector, constant_accuracy, member_cosine, noise};

use crate::documents::Relations;
use crate::readout::{Query, Readout, Words};

/// Parameters of `algebra`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The relations whose words form the codebook.
    pub relations: Relations,
    /// Dimensions (numbers of components) of the codebooks and bundles; at least 64 each.
    #[schemars(length(min = 1), inner(range(min = 64)))]
    pub dimensions: Vec<usize>,
    /// Seed that generates the codebooks.
    pub codebook_seed: u64,
    /// Number of cosines sampled for each histogram; at least 10.
    #[schemars(range(min = 10))]
    pub drawn: usize,
    /// Number of bundles that each mean is taken over; at least 2.
    #[schemars(range(min = 2))]
    pub bundles: usize,
    /// Largest number of vectors in one bundle, from 1 to 64.
    #[schemars(range(min = 1, max = 64))]
    pub members: u32,
    /// Settings of the readouts on noisy vectors.
    pub noise: Noise,
    /// Models whose embedding stores are sized.
    pub models: Vec<Model>,
}

/// Settings of the readouts on noisy vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// The cases, each as `[dimension, number of concepts]`; at least 64 dimensions and 8 concepts.
    #[schemars(length(min = 1))]
    pub cases: Vec<[usize; 2]>,
    /// Cosine threshold of the readouts, the same at every dimension. Other experiments raise the threshold as the
    /// dimension falls.
    #[schemars(range(min = 0, max = 1))]
    pub threshold: f64,
    /// Probabilities, from 0 to 1, that a component flips its sign.
    #[schemars(length(min = 1), inner(range(min = 0, max = 1)))]
    pub flips: Vec<f64>,
    /// Number of vectors sampled for each case.
    #[schemars(range(min = 1))]
    pub vectors: usize,
}

/// The sizes of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name of the model in the table.
    pub name: String,
    /// Number of transformer blocks.
    #[schemars(range(min = 1))]
    pub n_layers: usize,
    /// Width of the residual stream.
    #[schemars(range(min = 1))]
    pub d_model: usize,
    /// Hidden width of the encoder, which is also the dimension of its hypervectors.
    #[schemars(range(min = 1))]
    pub encoder: usize,
}

/// Records all tables of `algebra`.
pub fn run(run: &Run, mut params: Params) -> Result<()> {
    params.bundles = run.samples(params.bundles);
    params.noise.vectors = run.samples(params.noise.vectors);
    let corpus = params.relations.corpus()?;
    if let Some([d, items]) = params.noise.cases.iter().find(|[d, items]| *d < 64 || *items < 8) {
        bail!("params.noise.cases: [{d}, {items}]: a case needs at least 64 dimensions and 8 concepts");
    }
    identities(run, &params)?;
    codebooks(run, &params, &corpus)?;
    bundles(run, &params, &corpus)?;
    capacity(run, &params)?;
    noisy(run, &params)?;
    counts(run, &corpus)?;
    memory(run, &params)
}

/// Checks identities of the algebra on random vectors, comparing packed bits with plain arithmetic.
fn identities(run: &Run, params: &Params) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("identities", "one identity of the algebra")
            .text("rule", "the identity that is checked")
            .int("tried", "number of checks on random vectors")
            .int("failed", "number of checks that failed"),
    );
    type Rule = (&'static str, fn(&[Bipolar; 3], usize) -> bool);
    let rules: [Rule; 7] = [
        ("a bound with a is the identity", |[a, _, _], d| a.bind(a) == Bipolar::identity(d)),
        ("a bound with b and unbound is a", |[a, b, _], _| a.bind(b).unbind(b) == *a),
        ("binding commutes", |[a, b, _], _| a.bind(b) == b.bind(a)),
        ("permuting there and back is nothing", |[a, _, _], _| a.permute(7).permute(-7) == *a),
        ("binding on bits is the product of signs", |[a, b, _], _| {
            let product: Vec<i8> = a.signs().iter().zip(b.signs()).map(|(a, b)| a * b).collect();
            a.bind(b).signs() == product
        }),
        ("bundling on bits is the sign of the sum, noughts -1", |[a, b, c], _| {
            let sign = |vectors: &[&Bipolar]| -> Vec<i8> {
                let signs: Vec<Vec<i8>> = vectors.iter().map(|vector| vector.signs()).collect();
                (0..a.dimension())
                    .map(|i| if signs.iter().map(|s| i32::from(s[i])).sum::<i32>() > 0 { 1 } else { -1 })
                    .collect()
            };
            let of = |vectors: &[&Bipolar]| Bipolar::bundle(vectors.iter().copied()).sign(Tie::Negative).signs();
            of(&[a, b]) == sign(&[a, b]) && of(&[a, b, c]) == sign(&[a, b, c])
        }),
        ("cosine on bits is that of the signs", |[a, b, _], d| {
            let dot: i32 = a.signs().iter().zip(b.signs()).map(|(a, b)| i32::from(a * b)).sum();
            (a.cosine(b) - f64::from(dot) / d as f64).abs() < 1e-12
        }),
    ];
    let mut failures = 0;
    for (rule, holds) in rules {
        let (mut tried, mut failed) = (0, 0);
        for d in &params.dimensions {
            let mut rng = run.rng("identities");
            for _ in 0..20 {
                let vectors = [(); 3].map(|()| Bipolar::random(*d, &mut rng));
                tried += 1;
                failed += usize::from(!holds(&vectors, *d));
            }
        }
        failures += failed;
        table.push(row![rule, tried, failed])?;
    }
    run.metric("identities.failed", failures as f64, "");
    run.record(table.finish()?);
    Ok(())
}

fn codebooks(run: &Run, params: &Params, corpus: &Corpus) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("codebooks", "the cosines between all pairs of vectors of one codebook")
            .int("dimension", "number of components of a vector")
            .int("concepts", "number of vectors in the codebook")
            .float("mean", "mean of the cosines", "")
            .float("sd", "standard deviation of the cosines", "")
            .float("expected_sd", "standard deviation expected for random vectors: 1 / sqrt(dimension)", "")
            .float("least", "smallest cosine", "")
            .float("most", "largest cosine", "")
            .float("expected_most", "largest cosine of one vector with the others that is expected by chance", ""),
    );
    let mut cosines = Builder::new(
        Schema::new("cosines", "one sampled pair of concepts")
            .int("dimension", "number of components of a vector")
            .float("cosine", "cosine between the two vectors", ""),
    );
    for d in &params.dimensions {
        run.check_interrupted()?;
        let book = Codebook::<Bipolar>::new(*d, params.codebook_seed, corpus.concepts())?;
        let all: Vec<f64> = (0..book.len())
            .into_par_iter()
            .flat_map_iter(|i| (0..i).map(|j| book.vectors()[i].cosine(&book.vectors()[j])).collect::<Vec<_>>())
            .collect();
        let sd = standard_deviation(&all);
        let expected = 1. / (*d as f64).sqrt();
        let (least, most) = all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), x| (x.min(l), x.max(m)));
        table.push(row![*d, book.len(), mean(&all), sd, expected, least, most, noise(*d, book.len())])?;
        run.metric(&format!("codebook.{d}.sd_over_expected"), sd / expected, "");
        let chosen = index::sample(&mut run.rng("cosines"), all.len(), params.drawn.min(all.len()));
        chosen.into_iter().try_for_each(|at| cosines.push(row![*d, all[at]]))?;
    }
    run.record(table.finish()?);
    run.record(cosines.finish()?);
    Ok(())
}

/// Samples four different indices below `count`.
fn four(count: usize, rng: &mut ChaCha12Rng) -> Words {
    let drawn = index::sample(rng, count, 4).into_vec();
    Words { given: [drawn[0], drawn[1], drawn[2]], target: drawn[3] }
}

fn encoded(book: &Codebook<Bipolar>, words: &Words, tie: Tie) -> Bipolar {
    let v = book.vectors();
    let [a, b, c] = words.given;
    Bipolar::bundle(&[v[a].bind(&v[b]), v[c].bind(&v[words.target])]).sign(tie)
}

/// The quantities of the two-pair bundle y = sign(a ⊙ b + c ⊙ d) with their exact values. `x, with z` is the cosine of x
/// and y unbound with z.
const QUANTITIES: [(&str, f64); 16] = [
    ("mean of y", -0.5),
    ("another target", 0.25),
    ("constant -1, cosine", 0.5),
    ("constant -1, share of components", 0.75),
    ("a b alone, cosine", 0.5),
    ("best guess from a b alone, cosine", FRAC_1_SQRT_2),
    ("nothing, with d", 0.),
    ("c, with d", 0.5),
    ("c, with c", -0.5),
    ("a, with b", 0.5),
    ("a b c, with c", 0.5),
    ("a b c, with d", 0.5),
    ("a c, with d", 0.),
    ("c, with an unrelated word", 0.),
    ("drawn ties: a b c, with c", 0.5),
    ("drawn ties: a b c, with d", 0.),
];

/// Measures means over two-pair bundles, with ties at -1, and compares them with their exact values.
fn bundles(run: &Run, params: &Params, corpus: &Corpus) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("bundle", "one quantity of the two-pair bundle y = sign(a b + c d), with ties set to -1")
            .int("dimension", "number of components of a vector")
            .text("quantity", "the quantity of y; `x, with z` is the cosine of x and y unbound with z")
            .float("exact", "exact value, by counting sign patterns", "")
            .float("mean", "mean over the sampled bundles", "")
            .float(
                "error",
                "distance between mean and exact value in units of four standard errors; below 1 they agree",
                "",
            ),
    );
    let mut targets = Builder::new(
        Schema::new("target_cosines", "one pair of bundles whose analogies share no word")
            .int("dimension", "number of components of a vector")
            .float("cosine", "cosine between the two bundles", ""),
    );
    let mut worst: f64 = 0.;
    for d in &params.dimensions {
        run.check_interrupted()?;
        let book = Codebook::<Bipolar>::new(*d, params.codebook_seed, corpus.concepts())?;
        let v = book.vectors();
        let constant = Bipolar::identity(*d).negative();
        let mut rng = run.rng("bundles");
        let mut sums = QUANTITIES.map(|(name, exact)| (name, exact, Vec::new()));
        for _ in 0..params.bundles {
            let words = four(book.len(), &mut rng);
            let ([a, b, c], t) = (words.given, words.target);
            let y = encoded(&book, &words, Tie::Negative);
            let drawn = encoded(&book, &words, Tie::Random(rng.random()));
            let unrelated = std::iter::repeat_with(|| rng.random_range(0..book.len()))
                .find(|word| ![a, b, c, t].contains(word))
                .unwrap_or(a);
            let other = std::iter::repeat_with(|| four(book.len(), &mut rng))
                .find(|other| [a, b, c, t].iter().all(|word| !other.given.contains(word) && other.target != *word))
                .unwrap_or(words);
            let other = encoded(&book, &other, Tie::Negative);
            let all = y.bind(&v[a]).bind(&v[b]).bind(&v[c]);
            let drawn_all = drawn.bind(&v[a]).bind(&v[b]).bind(&v[c]);
            let example = v[a].bind(&v[b]);
            // Where a b is -1, y is also -1. Elsewhere nothing is known, so the best guess is 0.
            let guess = ((1. - example.mean()) / 2.).sqrt();
            let values = [
                y.mean(),
                y.cosine(&other),
                y.cosine(&constant),
                y.agreement(&constant),
                y.cosine(&example),
                guess,
                y.cosine(&v[t]),
                y.bind(&v[c]).cosine(&v[t]),
                y.bind(&v[c]).cosine(&v[c]),
                y.bind(&v[a]).cosine(&v[b]),
                all.cosine(&v[c]),
                all.cosine(&v[t]),
                y.bind(&v[a]).bind(&v[c]).cosine(&v[t]),
                y.bind(&v[c]).cosine(&v[unrelated]),
                drawn_all.cosine(&v[c]),
                drawn_all.cosine(&v[t]),
            ];
            sums.iter_mut().zip(values).for_each(|((_, _, sum), value)| sum.push(value));
            if targets.len() < params.drawn * params.dimensions.len() {
                targets.push(row![*d, y.cosine(&other)])?;
            }
        }
        for (name, exact, values) in &sums {
            let mean = mean(values);
            // A cosine over D components has a standard deviation of at most 1/√D.
            let error = (mean - exact).abs() / (4. / (*d as f64 * values.len() as f64).sqrt());
            worst = worst.max(error);
            table.push(row![*d, *name, *exact, mean, error])?;
        }
    }
    run.metric("bundle.worst_error", worst, "");
    run.record(table.finish()?);
    run.record(targets.finish()?);
    Ok(())
}

fn capacity(run: &Run, params: &Params) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("capacity", "the bundles of one dimension and one number of members")
            .int("dimension", "number of components of a vector")
            .int("members", "number of vectors in the bundle")
            .float("exact", "cosine of the bundle with a member, exact by counting", "")
            .float("cosine", "cosine of the bundle with a member, measured", "")
            .float("mean", "mean of the bundle's components", "")
            .float("constant_accuracy", "share of components that the constant prediction -1 gets right", "fraction")
            .float(
                "expected_constant_accuracy",
                "the share that a constant -1 gets right, exact by counting",
                "fraction",
            )
            .float("detected", "share of members whose cosine with the bundle is above the threshold", "fraction"),
    );
    let mut worst: f64 = 0.;
    for d in &params.dimensions {
        let threshold = 0.1 * (4096. / *d as f64).sqrt();
        for members in 1..=params.members {
            run.check_interrupted()?;
            let mut rng = run.rng("capacity");
            let (mut cosines, mut means, mut constant) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..params.bundles.div_ceil(members as usize) {
                let vectors: Vec<Bipolar> = (0..members).map(|_| Bipolar::random(*d, &mut rng)).collect();
                let y = Bipolar::bundle(&vectors).sign(Tie::Negative);
                cosines.extend(vectors.iter().map(|vector| y.cosine(vector)));
                means.push(y.mean());
                constant.push((1. - y.mean()) / 2.);
            }
            let detected = cosines.iter().filter(|cosine| **cosine > threshold).count() as f64 / cosines.len() as f64;
            let (exact, measured) = (member_cosine(members), mean(&cosines));
            if *d == 4096 {
                worst = worst.max((exact - measured).abs());
            }
            let accuracy = constant_accuracy(members);
            table.push(row![*d, members, exact, measured, mean(&means), mean(&constant), accuracy, detected])?;
        }
    }
    run.metric("capacity.worst_difference", params.dimensions.contains(&4096).then_some(worst), "");
    run.record(table.finish()?);
    Ok(())
}

/// The result of one readout on one vector.
struct Answer {
    /// The most similar item is the target.
    hit: bool,
    /// Its cosine is at or above the threshold.
    clear: bool,
    by: Option<Query>,
}

/// Measures the precision of every readout on vectors whose components flip at random.
fn noisy(run: &Run, params: &Params) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("noise", "one readout on vectors with randomly flipped components")
            .int("dimension", "number of components of a vector")
            .int("concepts", "number of vectors in the codebook")
            .float("flips", "probability that a component flips", "")
            .text("ties", "tie-breaking of zero components: `-1` or sampled at random (`drawn`)")
            .text("readout", "the procedure that looks for the target")
            .float("precision_1", "share of vectors whose most similar item is the target", "fraction")
            .float("by_key", "share of vectors answered correctly, above the threshold, by the key query", "fraction")
            .float(
                "by_context",
                "share of vectors answered correctly, above the threshold, by the query with all three words",
                "fraction",
            ),
    );
    for [d, items] in &params.noise.cases {
        let book = Codebook::<Bipolar>::new(*d, params.codebook_seed, (0..*items).map(|i| format!("concept {i}")))?;
        let readout = Readout::new(&book).above(params.noise.threshold);
        for flips in &params.noise.flips {
            run.check_interrupted()?;
            for ties in ["-1", "drawn"] {
                let stream = run.rng("noise");
                let each = |number: usize| {
                    let mut rng = training::stream_at(&stream, number as u64);
                    let words = four(*items, &mut rng);
                    let tie = if ties == "-1" { Tie::Negative } else { Tie::Random(rng.random()) };
                    let signs = encoded(&book, &words, tie).signs();
                    let flipped: Vec<i8> =
                        signs.into_iter().map(|sign| if rng.random_bool(*flips) { -sign } else { sign }).collect();
                    let y = Bipolar::from_signs(&flipped);
                    let compared = readout.compare(&y, &words);
                    let [published, blind, key] = compared.all();
                    let found = [compared.published(false), published, blind, compared.key(false), key];
                    found.map(|found| Answer {
                        hit: found.best().0 == words.target,
                        clear: found.best().1 >= readout.threshold(),
                        by: found.query,
                    })
                };
                let all: Vec<[Answer; 5]> = (0..params.noise.vectors).into_par_iter().map(each).collect();
                let names = ["published, without search", "published", "blind", "key, all items", "key"];
                for (at, name) in names.into_iter().enumerate() {
                    let share = |count: usize| count as f64 / all.len() as f64;
                    let precision = share(all.iter().filter(|found| found[at].hit).count());
                    let by = |query: Query| {
                        let read =
                            |found: &&[Answer; 5]| found[at].hit && found[at].clear && found[at].by == Some(query);
                        share(all.iter().filter(read).count())
                    };
                    let (key, context) = (by(Query::Key), by(Query::Context));
                    table.push(row![*d, *items, *flips, ties, name, precision, key, context])?;
                    if ties == "drawn" && name == "published, without search" {
                        run.metric(&format!("noise.{d}.{items}.{flips}.drawn.by_key"), key, "fraction");
                    }
                    if ties == "-1" {
                        let id = name.replace(", ", "_").replace(' ', "_");
                        run.metric(&format!("noise.{d}.{items}.{flips}.{id}"), precision, "fraction");
                        if id == "published_without_search" {
                            run.metric(&format!("noise.{d}.{items}.{flips}.by_key"), key, "fraction");
                        }
                    }
                }
            }
        }
    }
    run.record(table.finish()?);
    Ok(())
}

fn counts(run: &Run, corpus: &Corpus) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("corpus", "one relation")
            .text("relation", "name of the relation")
            .text("area", "the relation's field of knowledge")
            .int("pairs", "number of word pairs")
            .int("standard", "training documents in standard order")
            .int("flipped", "training documents with both pairs reversed")
            .int("mixed", "training documents in the two crossed orders")
            .int("words", "test documents, written in words")
            .int("distinct", "training documents that no earlier relation contains"),
    );
    let (training, words) = (corpus.training(), corpus.verbose());
    let repeats = corpus.training_with_repeats();
    for (index, category) in corpus.categories.iter().enumerate() {
        let of = |orders: &[Order]| {
            repeats.iter().filter(|one| one.category == index && orders.contains(&one.order)).count()
        };
        let in_words = words.iter().filter(|one| one.category == index).count();
        let crossed = of(&[Order::SecondsFirst, Order::FirstsFirst]);
        let area = category.area.to_string();
        let distinct = training.iter().filter(|one| one.category == index).count();
        let pairs = category.pairs.len();
        table.push(row![
            &*category.name,
            &*area,
            pairs,
            of(&[Order::Standard]),
            of(&[Order::Flipped]),
            crossed,
            in_words,
            distinct
        ])?;
    }
    run.metric("corpus.with_repeats", repeats.len() as f64, "documents");
    run.metric("corpus.training", training.len() as f64, "documents");
    run.metric("corpus.words", words.len() as f64, "documents");
    run.metric("corpus.concepts", corpus.concepts().count() as f64, "concepts");
    run.record(table.finish()?);
    Ok(())
}

fn memory(run: &Run, params: &Params) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("memory", "one model")
            .text("model", "name of the model")
            .int("n_layers", "number of transformer blocks")
            .int("d_model", "width of the residual stream")
            .int("states", "states per document: the second half of the layers")
            .int("clusters", "k-means centroids kept per document")
            .int("bytes_raw", "bytes of one document's states, at two bytes a number")
            .int("bytes_clustered", "bytes of one document's centroids")
            .int("bytes_pooled", "bytes of the sum of the centroids")
            .float("cut_clustered", "share of the bytes saved by keeping centroids only", "fraction")
            .float("cut_pooled", "share of the bytes saved by keeping their sum only", "fraction")
            .int("encoder_parameters", "number of trainable parameters of the encoder"),
    );
    for Model { name, n_layers, d_model, encoder: width } in &params.models {
        let (states, clusters) = crate::layers::sizes(*n_layers, 5);
        let bytes = |states: usize| 2 * states * d_model;
        let cut = |kept: usize| 1. - kept as f64 / states as f64;
        let shape = encoder::Shape { d_in: *d_model, width: *width, dimension: *width, blocks: 2 };
        table.push(row![
            &**name,
            *n_layers,
            *d_model,
            states,
            clusters,
            bytes(states),
            bytes(clusters),
            bytes(1),
            cut(clusters),
            cut(1),
            shape.n_parameters()
        ])?;
        run.metric(&format!("memory.{name}.cut_clustered"), cut(clusters), "fraction");
        run.metric(&format!("memory.{name}.encoder_parameters"), shape.n_parameters() as f64, "");
    }
    run.record(table.finish()?);
    Ok(())
}
