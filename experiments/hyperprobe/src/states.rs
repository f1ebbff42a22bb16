//! Ingestion: stores the states of every document's last token and measures how redundant the layers are (arXiv
//! 2509.25045, section 3).
//!
//! Tables: `ingested` (one row per set), `silhouettes`, `correlations`, `clusters` and `spectrum` (all four on the
//! states of some documents over the layers), `next_tokens` (the model's prediction and the words its states decode to,
//! for each document in words), `lens` (one document, position by position).

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
use crate::ingestion::{self, Evaluate, Next, Seen};
use crate::layers::{Pooling, Starts, sizes, states_of};
use crate::lens::{NextToken, Plain, Spelt};
use crate::source::{Source, Subject};
use crate::store::{self, Contents, Shelf};

/// Parameters of `states`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The documents to read.
    pub corpus: Sample,
    /// The models to read, in order.
    #[schemars(length(min = 1))]
    pub sources: Vec<Source>,
    /// Number of documents per forward pass.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Number of k-means clusters over the layers; with few layers, one less than the number of states.
    #[schemars(range(min = 1))]
    pub clusters: usize,
    /// Number of documents per shard of the store.
    #[schemars(range(min = 1))]
    pub shard: usize,
    /// Number of documents in the study of redundant layers; at least 2.
    #[schemars(range(min = 2))]
    pub studied: usize,
}

/// Samples the documents whose states an earlier run read.
pub fn documents(need: &Needed) -> Result<Documents> {
    let mut sample = need.params::<Params>()?.corpus;
    if need.manifest().rehearsal {
        sample = rehearsed(sample, |count| count.min(REHEARSED));
    }
    Documents::draw(&sample, &need.rng("documents"))
}

/// Maximum number of documents per set in a rehearsal.
const REHEARSED: usize = 64;

fn rehearsed(sample: Sample, few: impl Fn(usize) -> usize) -> Sample {
    Sample { symbols: few(sample.symbols), words: few(sample.words), random: few(sample.random), ..sample }
}

/// How a model continues one document, and which words its states decode to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Continuation {
    /// The predicted next token compared with the target.
    pub next: NextToken,
    /// The number of tokens of the target after the prompt; `None` if the target changes the prompt's tokens.
    pub target_tokens: Option<usize>,
    /// The words that the states decode to without the final norm.
    pub raw: Spelt,
    /// The words that the states decode to after the final norm.
    pub normed: Spelt,
}

/// Reads all documents with all models and records the tables.
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

/// Reads a set of documents shard by shard; reuses the shards that exist already.
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
    for (number, indices) in (0..documents.len()).collect::<Vec<_>>().chunks(params.shard).enumerate() {
        run.check_interrupted()?;
        let file = store::shard_file(&subject.name, set, number);
        let path = run.output(&file);
        let identity = format!("{provenance} {} {} {hash} {number}", subject.name, set.name());
        let make = || -> Result<(Named, String)> {
            let of = &documents[indices[0]..=indices[indices.len() - 1]];
            let ids = &tokens[indices[0]..=indices[indices.len() - 1]];
            let evaluate = |index: usize, next: &Next| continuation(subject, plain, (&of[index], &ids[index]), next);
            let evaluate: Option<Evaluate<'_, Continuation>> = (set == Set::Words).then_some(&evaluate);
            let seen = ingestion::read(subject, ids, params.batch, evaluate)?;
            let continuations: Vec<&Continuation> = seen.iter().filter_map(|seen| seen.next.as_ref()).collect();
            let (tensors, json) = (tensors(&seen, starts)?, serde_json::to_string(&continuations)?);
            store::write(&path, &identity, &json, &tensors)?;
            Ok((tensors, json))
        };
        let (tensors, json) = store::load(&path, &identity).map_or_else(make, Ok)?;
        let continuations: Vec<Continuation> = serde_json::from_str(&json)
            .with_context(|| format!("{} is damaged; delete it and run the experiment again", path.display()))?;
        for (continuation, index) in continuations.iter().zip(indices) {
            tables.next(subject, *index, continuation)?;
        }
        let pooled = tensors.get(Pooling::SumOfCentroids.name()).context("the shard lacks the sum of centroids")?;
        norms.extend(pooled.sqr()?.sum(1)?.sqrt()?.to_vec1::<f32>()?.into_iter().map(f64::from));
        shelf.shards.push(file);
        task.at(indices[indices.len() - 1] as u64 + 1, "");
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

fn continuation(subject: &Subject, plain: &Plain, (analogy, prompt): (&Analogy, &[u32]), next: &Next) -> Continuation {
    let words = [0, 1, 2, 3].map(|at| analogy.words[at].to_lowercase());
    let given = [&*words[0], &*words[1], &*words[2]];
    let of = |which: usize| plain.spelt(next.lens.iter().map(|both| both[which].0), given, &words[3]);
    let whole = format!("{} {}", Set::Words.prompt(analogy), analogy.words[3]);
    // A target that changes the tokens before it has no tokens of its own.
    let tokens = subject.encode(&whole).ok().filter(|whole| whole.starts_with(prompt));
    let target_tokens = tokens.map(|whole| whole.len() - prompt.len());
    Continuation { next: plain.next(&next.logits, &words[3]), target_tokens, raw: of(0), normed: of(1) }
}

/// All poolings of some documents, each `[documents, d_model]`.
fn tensors(seen: &[Seen<Continuation>], starts: &Starts) -> Result<Named> {
    let pooled = |seen: &Seen<Continuation>| -> Result<Vec<Vec<f32>>> {
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

/// Measures how redundant the layers of some documents are.
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
    silhouettes(run, name, &seen, (states, chosen), tables)?;
    correlations(run, name, &all, (states, first), tables)?;
    // Clusters are numbered by the first layer that they contain.
    let labels = seen.par_iter().map(|seen| Ok(renumbered(&seen.states.clusters(starts)?.labels)));
    let labels = labels.collect::<Result<Vec<Vec<usize>>>>()?;
    clusters(run, name, &labels, (states, chosen, first), tables)?;
    spectra(run, name, &all, states, tables)
}

/// Silhouette scores by number of clusters.
fn silhouettes(
    run: &Run,
    name: &str,
    seen: &[Seen<()>],
    (states, chosen): (usize, usize),
    tables: &mut Tables,
) -> Result<()> {
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
    Ok(())
}

/// Correlations between the states of all pairs of layers.
fn correlations(
    run: &Run,
    name: &str,
    all: &[Matrix],
    (states, first): (usize, usize),
    tables: &mut Tables,
) -> Result<()> {
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
    Ok(())
}

/// Assignments of layers to clusters, `[documents][states]`.
fn clusters(
    run: &Run,
    name: &str,
    labels: &[Vec<usize>],
    (states, chosen, first): (usize, usize, usize),
    tables: &mut Tables,
) -> Result<()> {
    let mut together = 0.;
    for layer in 0..states {
        for cluster in 0..chosen {
            let share = labels.iter().filter(|of| of[layer] == cluster).count() as f64 / labels.len() as f64;
            tables.clusters.push(row![name, first + layer, cluster + 1, share])?;
        }
    }
    for of in labels {
        let changes = of.windows(2).filter(|pair| pair[0] != pair[1]).count();
        let filled = of.iter().collect::<std::collections::BTreeSet<_>>().len();
        together += f64::from(u8::from(changes + 1 == filled)) / labels.len() as f64;
    }
    run.metric(&format!("{name}.contiguous_clusters"), together, "fraction");
    Ok(())
}

/// Eigenvalues of the states' Gram matrices.
fn spectra(run: &Run, name: &str, all: &[Matrix], states: usize, tables: &mut Tables) -> Result<()> {
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

/// Decodes the states of one document, position by position.
fn lens_map(subject: &Subject, plain: &Plain, documents: &[Analogy], tables: &mut Tables) -> Result<()> {
    let Some(analogy) = documents.first() else { return Ok(()) };
    let ids = subject.encode(&Set::Words.prompt(analogy))?;
    let evaluate = |_: usize, next: &Next| next.lens.clone();
    let first = subject.model.n_layers() + 1 - states_of(subject.model.n_layers());
    // The state at a position depends only on the tokens up to it, so each position is read as the last of its own
    // prefix.
    for end in 1..=ids.len() {
        let seen = ingestion::read(subject, &[ids[..end].to_vec()], 1, Some(&evaluate))?;
        let lens = seen
            .into_iter()
            .next()
            .and_then(|seen| seen.next)
            .ok_or_else(|| anyhow!("the prediction for a document is missing"))?;
        let word = subject.decode(&ids[end - 1..end]).replace('\n', "\\n");
        let position = format!("{end} {}", word.trim());
        for (layer, [(raw, p), (normed, q)]) in lens.into_iter().enumerate() {
            let (raw, normed) = (plain.word(raw), plain.word(normed));
            tables.lens.push(row![
                &*subject.name,
                &*position,
                first + layer,
                f64::from(p),
                raw,
                f64::from(q),
                normed
            ])?;
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
        let of = |schema: Schema| schema.text("source", "name of the model");
        let ingested = of(Schema::new("ingested", "one set of documents, as read by one model"))
            .text("set", "name of the set: symbols, words or random")
            .int("documents", "number of documents")
            .float("tokens", "mean number of tokens per document", "")
            .int("states", "number of states per document")
            .int("clusters", "number of clusters per document")
            .float("norm", "mean norm of the sum of centroids", "")
            .float("norm_sd", "standard deviation of that norm", "");
        let silhouettes = of(Schema::new("silhouettes", "one number of clusters k"))
            .int("k", "number of clusters per document")
            .float("silhouette", "silhouette score, mean over the documents", "")
            .float("sd", "standard deviation over the documents", "");
        let correlations = of(Schema::new("correlations", "one pair of layers"))
            .int("layer", "index of the state")
            .int("other", "index of the other state")
            .float("r", "Pearson's correlation over the features, mean over the documents", "");
        let clusters = of(Schema::new("clusters", "one layer and one cluster"))
            .int("layer", "index of the state")
            .int("cluster", "number of the cluster, in the order of the first layer it contains")
            .float("share", "share of the documents that assign the layer to this cluster", "fraction");
        let spectrum = of(Schema::new("spectrum", "one eigenvalue of the states' Gram matrix"))
            .int("component", "rank of the eigenvalue, from 1 for the largest")
            .float("eigenvalue", "eigenvalue, mean over the documents", "")
            .float("sd", "standard deviation over the documents", "")
            .float("share", "share of the sum of eigenvalues, mean over the documents", "fraction");
        let next_tokens = of(Schema::new("next_tokens", "one document in words"))
            .int("document", "index of the document in the sample")
            .text("token", "most likely next token, trimmed and in lower case")
            .float("score_1", "1 if the most likely token is the target, 0.5 if the target starts with it", "")
            .float("score_5", "best such score among the five most likely tokens", "")
            .float("exact", "1 if the most likely token is the whole target", "")
            .float("rank", "number of tokens more likely than the target or its most likely prefix", "")
            .float("probability", "probability of the target or of that prefix", "")
            .float("gap", "probability of the most likely token minus that probability", "")
            .int("target_tokens", "number of tokens of the target")
            .text(
                "spelt",
                "words of the document that start with the most likely token of some state, without the final norm",
            )
            .text("spelt_normed", "the same, after the final norm");
        let lens = of(Schema::new("lens", "one position and one layer of one document"))
            .text("place", "position, from 1, and token")
            .int("layer", "index of the state")
            .float("probability", "probability of the most likely token, without the final norm", "")
            .text("token", "most likely token, without the final norm")
            .float("probability_normed", "probability of the most likely token, after the final norm", "")
            .text("token_normed", "most likely token, after the final norm");
        let [ingested, silhouettes, correlations, clusters, spectrum, next_tokens, lens] =
            [ingested, silhouettes, correlations, clusters, spectrum, next_tokens, lens].map(Builder::new);
        Self { ingested, silhouettes, correlations, clusters, spectrum, next_tokens, lens }
    }

    fn next(&mut self, subject: &Subject, index: usize, continuation: &Continuation) -> Result<()> {
        let NextToken { token, score_1, score_5, exact, rank, probability, gap } = &continuation.next;
        let (raw, normed) = (continuation.raw.name(), continuation.normed.name());
        Ok(self.next_tokens.push(row![
            &*subject.name,
            index,
            &**token,
            *score_1,
            *score_5,
            *exact,
            *rank,
            *probability,
            *gap,
            continuation.target_tokens,
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
    fn clusters_are_numbered_by_first_appearance() {
        assert_eq!(renumbered(&[3, 3, 0, 0, 1]), [0, 0, 1, 1, 2]);
    }
}
