//! Ingestion: the states of every document's last token go to an embedding store, and how redundant layers are is measured on
//! the way (arXiv 2509.25045, section 3).
//!
//! Tables: `ingested`, `silhouettes`, `correlations`, `clusters`, `spectrum` (of some documents' states over the layers),
//! `next_tokens` (what the model itself says, and what its states spell, for each document in words), `lens` (one document, place
//! by place).

use crate::analogies::Analogy;
use anyhow::{Context, Result, anyhow};
use candle_core::{Device, Tensor};
use experiment::{Needed, Run};
use hooks::HookedModel;
use probes::{Clusters, Matrix, correlation, mean, silhouette, spectrum, standard_deviation};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};
use weights::Named;

use crate::documents::{Documents, Sample, Set};
use crate::ingestion::{self, Judge, Next, Seen};
use crate::layers::{Pooling, Starts, sizes, states_of};
use crate::lens::{NextToken, Plain, Spelt};
use crate::source::{Source, Subject};
use crate::store::{self, Contents, Shelf};

/// Parameters of `states`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The documents.
    pub corpus: Sample,
    /// Models, one after the other.
    #[schemars(length(min = 1))]
    pub sources: Vec<Source>,
    /// Documents that go through a model together.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Clusters of layers; with few layers one less than there are.
    #[schemars(range(min = 1))]
    pub clusters: usize,
    /// Documents in a shard of the store.
    #[schemars(range(min = 1))]
    pub shard: usize,
    /// Documents whose layers are studied.
    #[schemars(range(min = 2))]
    pub studied: usize,
}

/// The documents whose states were read.
pub fn documents(need: &Needed) -> Result<Documents> {
    let mut sample = need.params::<Params>()?.corpus;
    if need.manifest().rehearsal {
        sample = rehearsed(sample, |count| count.min(REHEARSED));
    }
    Documents::draw(&sample, &need.rng("documents"))
}

/// Documents of each set in a rehearsal.
const REHEARSED: usize = 64;

fn rehearsed(sample: Sample, few: impl Fn(usize) -> usize) -> Sample {
    Sample { symbols: few(sample.symbols), words: few(sample.words), random: few(sample.random), ..sample }
}

/// What a model says next to a document, and what its states spell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// The next token against the target.
    pub next: NextToken,
    /// Tokens of the target behind the prompt.
    pub target_tokens: Option<usize>,
    /// What the states spell, unembedded as they are.
    pub raw: Spelt,
    /// What they spell behind the final norm.
    pub normed: Spelt,
}

/// Reads all documents with all models.
pub fn run(run: &Run, mut params: Params) -> Result<()> {
    if run.is_rehearsal() {
        params.corpus = rehearsed(params.corpus, |count| count.min(REHEARSED));
    }
    crate::source::check(run, &params.sources)?;
    let documents = Documents::draw(&params.corpus, &run.rng("documents"))?;
    let mut tables = Tables::new();
    for source in &params.sources {
        run.check_interrupted()?;
        let subject = Subject::open(run, source)?;
        // with the hash of the model's files, which are open now
        let provenance = run.provenance()?;
        let (states, clusters) = sizes(subject.model.n_layers(), params.clusters);
        let starts = Starts::new(states, clusters, &mut run.rng("clusters"));
        study(run, &params, &subject, &documents, &starts, &mut tables)?;
        let plain = Plain::new(subject.plain_tokens());
        let mut contents = Contents {
            model: source.model.to_string(),
            parameters: subject.model.config().n_parameters(),
            d_model: subject.model.config().d_model,
            sites: ingestion::sites(&subject).iter().map(ToString::to_string).collect(),
            clusters,
            sets: std::collections::BTreeMap::new(),
        };
        for set in Set::ALL {
            let shelf =
                ingest(run, &params, &subject, (set, documents.of(set)), &starts, (&plain, &provenance), &mut tables)?;
            contents.sets.insert(set.name().to_owned(), shelf);
        }
        let text = serde_json::to_string_pretty(&contents)?;
        storage::write_atomic(&run.output(&store::contents_file(&source.name)), format!("{text}\n").as_bytes())?;
        lens_map(&subject, &plain, documents.of(Set::Words), &mut tables)?;
    }
    tables.record(run)
}

/// Reads a set of documents shard by shard; shards that are there already are kept.
fn ingest(
    run: &Run,
    params: &Params,
    subject: &Subject,
    (set, documents): (Set, &[Analogy]),
    starts: &Starts,
    (plain, provenance): (&Plain, &str),
    tables: &mut Tables,
) -> Result<Shelf> {
    let hash = store::hash(set, documents);
    let tokens = documents.iter().map(|one| subject.encode(&set.prompt(one))).collect::<Result<Vec<_>>>()?;
    let mut task = run.task(&format!("{} {}", subject.name, set.name()), documents.len() as u64, "documents");
    let mut shelf = Shelf { documents: documents.len(), shards: Vec::new(), prompts: hash.clone() };
    let mut norms = Vec::new();
    for (number, places) in (0..documents.len()).collect::<Vec<_>>().chunks(params.shard).enumerate() {
        run.check_interrupted()?;
        let file = store::shard_file(&subject.name, set, number);
        let path = run.output(&file);
        let identity = format!("{provenance} {} {} {hash} {number}", subject.name, set.name());
        let make = || -> Result<(Named, String)> {
            let of = &documents[places[0]..=places[places.len() - 1]];
            let ids = &tokens[places[0]..=places[places.len() - 1]];
            let judge = |place: usize, next: &Next| told(subject, plain, (&of[place], &ids[place]), next);
            let judge: Option<Judge<'_, Told>> = (set == Set::Words).then_some(&judge);
            let seen = ingestion::read(subject, ids, params.batch, judge)?;
            let told: Vec<&Told> = seen.iter().filter_map(|seen| seen.next.as_ref()).collect();
            let (tensors, told) = (tensors(&seen, starts)?, serde_json::to_string(&told)?);
            store::write(&path, &identity, &told, &tensors)?;
            Ok((tensors, told))
        };
        let (tensors, told) = store::load(&path, &identity).map_or_else(make, Ok)?;
        let told: Vec<Told> = serde_json::from_str(&told).with_context(|| format!("{} is damaged", path.display()))?;
        for (told, place) in told.iter().zip(places) {
            tables.next(subject, *place, told)?;
        }
        let pooled = tensors.get(Pooling::SumOfCentroids.name()).context("a shard has what was written")?;
        norms.extend(pooled.sqr()?.sum(1)?.sqrt()?.to_vec1::<f32>()?.into_iter().map(f64::from));
        shelf.shards.push(file);
        task.at(places[places.len() - 1] as u64 + 1, "");
    }
    let count: usize = tokens.iter().map(Vec::len).sum();
    let (states, clusters) = sizes(subject.model.n_layers(), params.clusters);
    tables.ingested.push(row![
        &*subject.name,
        set.name(),
        documents.len(),
        count as f64 / documents.len() as f64,
        states,
        clusters,
        mean(&norms),
        standard_deviation(&norms)
    ])?;
    if set == Set::Symbols {
        run.metric(&format!("{}.states", subject.name), states as f64, "states");
        run.metric(&format!("{}.clusters", subject.name), clusters as f64, "clusters");
    }
    Ok(shelf)
}

fn told(subject: &Subject, plain: &Plain, (analogy, prompt): (&Analogy, &[u32]), next: &Next) -> Told {
    let words = [0, 1, 2, 3].map(|at| analogy.words[at].to_lowercase());
    let given = [&*words[0], &*words[1], &*words[2]];
    let of = |which: usize| plain.spelt(next.lens.iter().map(|both| both[which].0), given, &words[3]);
    let whole = format!("{} {}", Set::Words.prompt(analogy), analogy.words[3]);
    // a target that changes the tokens before it has none of its own
    let tokens = subject.encode(&whole).ok().filter(|whole| whole.starts_with(prompt));
    let target_tokens = tokens.map(|whole| whole.len() - prompt.len());
    Told { next: plain.next(&next.logits, &words[3]), target_tokens, raw: of(0), normed: of(1) }
}

/// All poolings of some documents.
fn tensors(seen: &[Seen<Told>], starts: &Starts) -> Result<Named> {
    let pooled = |seen: &Seen<Told>| -> Result<Vec<Vec<f32>>> {
        let clusters = seen.states.clusters(starts)?;
        let of = |pooling: &Pooling| match pooling {
            Pooling::Embeddings => seen.embeddings.clone(),
            pooling => seen.states.pooled(*pooling, &clusters),
        };
        Ok(Pooling::ALL.iter().map(of).collect())
    };
    let all = seen.par_iter().map(pooled).collect::<Result<Vec<_>>>()?;
    let tensor = |(at, pooling): (usize, &Pooling)| {
        let rows: Vec<f32> = all.iter().flat_map(|of| of[at].iter().copied()).collect();
        let width = rows.len() / all.len().max(1);
        Ok((pooling.name().to_owned(), Tensor::from_vec(rows, (all.len(), width), &Device::Cpu)?))
    };
    Pooling::ALL.iter().enumerate().map(tensor).collect()
}

/// How redundant the layers of some documents are.
fn study(
    run: &Run,
    params: &Params,
    subject: &Subject,
    documents: &Documents,
    starts: &Starts,
    tables: &mut Tables,
) -> Result<()> {
    let name = &*subject.name;
    let some: Vec<&Analogy> = documents.of(Set::Symbols).iter().take(run.samples(params.studied)).collect();
    let tokens = some.iter().map(|one| subject.encode(&one.prompt())).collect::<Result<Vec<_>>>()?;
    let seen = ingestion::read::<()>(subject, &tokens, params.batch, None)?;
    let all: Vec<Matrix> = seen.iter().map(|seen| seen.states.matrix()).collect();
    let (states, chosen) = sizes(subject.model.n_layers(), params.clusters);
    let first = subject.model.n_layers() + 1 - states;
    let mut best: Option<(usize, f64)> = None;
    for k in 2..states {
        run.check_interrupted()?;
        let starts = Starts::new(states, k, &mut run.rng("clusters"));
        let score = |seen: &Seen<()>| -> Result<f64> {
            let Clusters { labels, .. } = seen.states.clusters(&starts)?;
            Ok(silhouette(seen.states.matrix().as_ref(), &labels)?)
        };
        let scores = seen.par_iter().map(score).collect::<Result<Vec<f64>>>()?;
        let average = mean(&scores);
        if best.is_none_or(|(_, most)| average > most) {
            best = Some((k, average));
        }
        if k == chosen {
            run.metric(&format!("{name}.silhouette"), average, "");
        }
        tables.silhouettes.push(row![name, k, average, standard_deviation(&scores)])?;
    }
    run.metric(&format!("{name}.best_k"), best.map(|(k, _)| k as f64), "clusters");
    let row_of = |x: &Matrix, i: usize| -> Vec<f64> { (0..x.ncols()).map(|f| x[(i, f)]).collect() };
    let mut adjacent = Vec::new();
    for i in 0..states {
        for j in 0..states {
            let r: Vec<f64> = all.par_iter().map(|x| correlation(&row_of(x, i), &row_of(x, j))).collect();
            let r = mean(&r);
            if j == i + 1 {
                adjacent.push(r);
            }
            tables.correlations.push(row![name, first + i, first + j, r])?;
        }
    }
    run.metric(&format!("{name}.adjacent_correlation"), mean(&adjacent), "");
    // clusters are numbered by the first layer they hold
    let labels = seen.par_iter().map(|seen| Ok(renumbered(&seen.states.clusters(starts)?.labels)));
    let labels = labels.collect::<Result<Vec<Vec<usize>>>>()?;
    let mut together = 0.;
    for layer in 0..states {
        for cluster in 0..chosen {
            let share = labels.iter().filter(|of| of[layer] == cluster).count() as f64 / labels.len() as f64;
            tables.clusters.push(row![name, first + layer, cluster + 1, share])?;
        }
    }
    for of in &labels {
        let changes = of.windows(2).filter(|pair| pair[0] != pair[1]).count();
        let filled = of.iter().collect::<std::collections::BTreeSet<_>>().len();
        together += f64::from(u8::from(changes + 1 == filled)) / labels.len() as f64;
    }
    run.metric(&format!("{name}.contiguous_clusters"), together, "fraction");
    let values = all.par_iter().map(|x| Ok(spectrum(x.as_ref())?)).collect::<Result<Vec<Vec<f64>>>>()?;
    let normed: Vec<Vec<f64>> = values
        .iter()
        .map(|values| {
            let sum: f64 = values.iter().sum();
            values.iter().map(|value| value / sum).collect()
        })
        .collect();
    for component in 0..states {
        let of = |values: &[Vec<f64>]| -> Vec<f64> { values.iter().map(|values| values[component]).collect() };
        let (raw, share) = (of(&values), of(&normed));
        tables.spectrum.push(row![name, component + 1, mean(&raw), standard_deviation(&raw), mean(&share)])?;
    }
    let effective: Vec<f64> = normed.iter().map(|of| 1. / of.iter().map(|x| x * x).sum::<f64>()).collect();
    run.metric(&format!("{name}.effective_states"), mean(&effective), "states");
    Ok(())
}

fn renumbered(labels: &[usize]) -> Vec<usize> {
    let mut order = Vec::new();
    let mut number = |label: usize| match order.iter().position(|seen| *seen == label) {
        Some(at) => at,
        None => {
            order.push(label);
            order.len() - 1
        }
    };
    labels.iter().map(|label| number(*label)).collect()
}

/// What the states of one document spell, place by place.
fn lens_map(subject: &Subject, plain: &Plain, documents: &[Analogy], tables: &mut Tables) -> Result<()> {
    let Some(analogy) = documents.first() else { return Ok(()) };
    let ids = subject.encode(&Set::Words.prompt(analogy))?;
    let judge = |_: usize, next: &Next| next.lens.clone();
    let first = subject.model.n_layers() + 1 - states_of(subject.model.n_layers());
    // the state of a place depends on what stands before it alone, so each place is the last of its own prefix
    for end in 1..=ids.len() {
        let seen = ingestion::read(subject, &[ids[..end].to_vec()], 1, Some(&judge))?;
        let lens =
            seen.into_iter().next().and_then(|seen| seen.next).ok_or_else(|| anyhow!("a document was not read"))?;
        let word = subject.decode(&ids[end - 1..end]).replace('\n', "\\n");
        let place = format!("{end} {}", word.trim());
        for (layer, [(raw, p), (normed, q)]) in lens.into_iter().enumerate() {
            let (raw, normed) = (plain.word(raw), plain.word(normed));
            tables.lens.push(row![&*subject.name, &*place, first + layer, f64::from(p), raw, f64::from(q), normed])?;
        }
    }
    Ok(())
}

struct Tables {
    ingested: Builder,
    silhouettes: Builder,
    correlations: Builder,
    clusters: Builder,
    spectrum: Builder,
    next_tokens: Builder,
    lens: Builder,
}

impl Tables {
    fn new() -> Self {
        let of = |schema: Schema| schema.text("source", "which model");
        let ingested = of(Schema::new("ingested", "one set of documents as one model read it"))
            .text("set", "symbols, words or random")
            .int("documents", "how many")
            .float("tokens", "of a document, on average", "")
            .int("states", "of a document")
            .int("clusters", "of its states")
            .float("norm", "length of the sum of centroids, on average", "")
            .float("norm_sd", "its standard deviation", "");
        let silhouettes = of(Schema::new("silhouettes", "one number of clusters"))
            .int("k", "clusters of a document's states")
            .float("silhouette", "mean over documents", "")
            .float("sd", "over documents", "");
        let correlations = of(Schema::new("correlations", "two layers"))
            .int("layer", "index of a state")
            .int("other", "index of another")
            .float("r", "Pearson's correlation over the features, mean over documents", "");
        let clusters = of(Schema::new("clusters", "one layer and one cluster"))
            .int("layer", "index of a state")
            .int("cluster", "numbered by the first layer it holds")
            .float("share", "of the documents that put the layer there", "fraction");
        let spectrum = of(Schema::new("spectrum", "one eigenvalue of the states' Gram matrix"))
            .int("component", "from the largest")
            .float("eigenvalue", "mean over documents", "")
            .float("sd", "over documents", "")
            .float("share", "of the sum, mean over documents", "fraction");
        let next_tokens = of(Schema::new("next_tokens", "one document in words"))
            .int("document", "its number in the sample")
            .text("token", "likeliest next token, without blanks, in small letters")
            .float("score_1", "1 if it is the target, 0.5 if the target begins with it", "")
            .float("score_5", "the best of the five likeliest", "")
            .float("exact", "1 if it is the whole target", "")
            .float("rank", "tokens likelier than the target or its likeliest beginning", "")
            .float("probability", "of that token", "")
            .float("gap", "how much more probable the likeliest token is", "")
            .int("target_tokens", "tokens of the target")
            .text("spelt", "which of the words some state's likeliest token is or begins, unembedded as it is")
            .text("spelt_normed", "the same behind the final norm");
        let lens = of(Schema::new("lens", "one place and one layer of one document"))
            .text("place", "number and token")
            .int("layer", "index of the state")
            .float("probability", "of the likeliest token, the state unembedded as it is", "")
            .text("token", "the likeliest token")
            .float("probability_normed", "the same behind the final norm", "")
            .text("token_normed", "the likeliest token behind the final norm");
        let [ingested, silhouettes, correlations, clusters, spectrum, next_tokens, lens] =
            [ingested, silhouettes, correlations, clusters, spectrum, next_tokens, lens].map(Builder::new);
        Self { ingested, silhouettes, correlations, clusters, spectrum, next_tokens, lens }
    }

    fn next(&mut self, subject: &Subject, place: usize, told: &Told) -> Result<()> {
        let NextToken { token, score_1, score_5, exact, rank, probability, gap } = &told.next;
        let (raw, normed) = (told.raw.name(), told.normed.name());
        Ok(self.next_tokens.push(row![
            &*subject.name,
            place,
            &**token,
            *score_1,
            *score_5,
            *exact,
            *rank,
            *probability,
            *gap,
            told.target_tokens,
            &*raw,
            &*normed
        ])?)
    }

    fn record(self, run: &Run) -> Result<()> {
        let Self { ingested, silhouettes, correlations, clusters, spectrum, next_tokens, lens } = self;
        for table in [ingested, silhouettes, correlations, clusters, spectrum, next_tokens, lens] {
            run.record(table.finish()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_numbered_as_they_come() {
        assert_eq!(renumbered(&[3, 3, 0, 0, 1]), [0, 0, 1, 1, 2]);
    }
}
