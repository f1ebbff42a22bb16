//! Activation patching against attribution patching on indirect object identification (arXiv 2507.02559, section 5.2
//! and figure 2), for any list of checkpoints.
//!
//! Prompts come in pairs that differ in one token, the second mention of the subject (S2). Each is the corrupted
//! version of the other. Let f be the logit of the clean prompt's indirect object minus the logit of its subject, at
//! the last position. For layer l and position p:
//!
//! ```text
//! act[l, p]  = f(corrupted run with resid_pre[l, p] of the clean run) - f(corrupted run)
//! attr[l, p] = df / d resid_pre[l, p] at the corrupted run · (clean - corrupted)[l, p]
//! ```
//!
//! Both are divided, prompt by prompt, by f(clean) - f(corrupted), which equals act[0, S2].
//!
//! Tables: `maps` (act and attr by layer and position), `heads` (activation patching of each head's output), `errors`
//! (|act - attr| by layer), `behaviour` (performance on the task), `prompts`.

use crate::ioi_prompts::{Prompt, Sentences};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use capture::{Keep, capture};
use experiment::{Run, Seed};
use hooks::{HookedModel, Layer, Point, Site};
use models::Decoder;
use patching::{Effects, Metric, Patch, activation_patching, attribution_patching, each_head, each_position};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};
use tokens::{Bos, Tokenizer};

use crate::labels::labels;
use crate::subjects::Source;

/// A prompt is excluded from normalised effects if |f(clean) - f(corrupted)| is at most this share of the batch's
/// largest.
const MIN_GAIN: f64 = 1e-4;

/// Description of the columns `effect`.
const EFFECT: &str = "share of the logit difference between the corrupted and the clean run that the patch recovers, \
                      averaged over prompts";

/// Parameters of `ioi`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The checkpoints, one column of the figure each.
    #[schemars(length(min = 1))]
    pub models: Vec<Source>,
    /// Two of the models, with and without LayerNorm, whose errors are compared. Null (the default) skips the
    /// comparison.
    #[serde(default)]
    pub compare: Option<Comparison>,
    /// The sentence template and its words.
    pub sentences: Sentences,
    /// Number of random choices of names, location and object. Each gives four prompts.
    #[schemars(range(min = 1))]
    pub draws: usize,
    /// Number of pairs of prompts in a batch.
    #[schemars(range(min = 1))]
    pub batch_pairs: usize,
}

/// Two of the models, by name without the seed index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The model with LayerNorm, fine-tuned like the other.
    pub with_norms: String,
    /// The model without LayerNorm.
    pub without_norms: String,
}

/// The prompts as tokens of one model.
struct Encoded {
    tokens: Vec<Vec<u32>>,
    /// Token of each prompt's indirect object, IO.
    indirect_objects: Vec<u32>,
    /// Token of each prompt's subject, S.
    subjects: Vec<u32>,
    /// Labels of the token positions.
    labels: Vec<String>,
}

/// Measurements of one model.
struct Outcome {
    source: Source,
    n_layers: usize,
    n_heads: usize,
    labels: Vec<String>,
    /// Normalised effects of activation patching, averaged over prompts, `[layers * positions]`.
    act: Vec<f64>,
    /// Normalised effects of attribution patching, averaged over prompts, `[layers * positions]`.
    attr: Vec<f64>,
    /// Effects of activation patching, not normalised, in logits.
    act_logits: Vec<f64>,
    /// Effects of attribution patching, not normalised, in logits.
    attr_logits: Vec<f64>,
    /// Normalised effects of patching heads, averaged over prompts, `[layers * heads]`.
    heads: Vec<f64>,
    /// Sum over positions of |act - attr|, averaged over prompts, by layer.
    errors: Vec<f64>,
    /// f of every clean prompt.
    clean: Vec<f64>,
    /// Number of prompts excluded from normalised effects.
    excluded: usize,
}

/// Patches every model and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let tokenizers = params.models.iter().map(|source| source.tokenizer(run)).collect::<Result<Vec<_>>>()?;
    let sentences = single_token_words(&params.sentences, &tokenizers)?;
    let pairs = sentences.pairs(run.samples(params.draws), &mut run.rng("prompts")).context("params.sentences")?;
    let prompts: Vec<Prompt> = pairs.into_iter().flatten().collect();
    record_prompts(run, &sentences, &prompts)?;
    let mut outcomes = Vec::new();
    for (source, tokenizer) in params.models.iter().zip(&tokenizers) {
        let prompts = encode(&sentences, &prompts, tokenizer, &source.name)?;
        let model = source.open(run)?;
        outcomes.push(patch(run, &model, source, prompts, params.batch_pairs)?);
    }
    maps(run, &outcomes)?;
    heads(run, &outcomes)?;
    errors(run, &outcomes)?;
    behaviour(run, &outcomes)?;
    improvement(run, &params, &outcomes)
}

/// Keeps the names, locations and objects that are a single token, with a space before it, for every model.
fn single_token_words(sentences: &Sentences, tokenizers: &[Tokenizer]) -> Result<Sentences> {
    let is_single = |tokenizer: &Tokenizer, word: &str| {
        tokenizer.encode(&format!(" {word}"), Bos::Never).is_ok_and(|encoded| encoded.ids.len() == 1)
    };
    let keep = |words: &[String], key: &str, least: usize| -> Result<Vec<String>> {
        let fits = |word: &&String| tokenizers.iter().all(|tokenizer| is_single(tokenizer, word));
        let kept: Vec<String> = words.iter().filter(fits).cloned().collect();
        if kept.len() < words.len() {
            tracing::warn!(
                "{key}: using the {} of {} words that are a single token for all models",
                kept.len(),
                words.len()
            );
        }
        if kept.len() < least {
            bail!(
                "params.sentences.{key}: only {} of {} words are a single token for all models, need {least}",
                kept.len(),
                words.len()
            );
        }
        Ok(kept)
    };
    Ok(Sentences {
        template: sentences.template.clone(),
        names: keep(&sentences.names, "names", 2)?,
        places: keep(&sentences.places, "places", 1)?,
        objects: keep(&sentences.objects, "objects", 1)?,
    })
}

fn encode(sentences: &Sentences, prompts: &[Prompt], tokenizer: &Tokenizer, model: &str) -> Result<Encoded> {
    let ids = |prompt: &Prompt| -> Result<Vec<u32>> {
        let text = prompt.text(&sentences.template);
        let begin = if tokenizer.bos().is_some() { Bos::Always } else { Bos::Never };
        Ok(tokenizer.encode(&text, begin)?.ids)
    };
    let tokens = prompts.iter().map(ids).collect::<Result<Vec<_>>>()?;
    let length = tokens.first().map_or(0, Vec::len);
    if let Some(other) = tokens.iter().position(|ids| ids.len() != length) {
        bail!(
            "{model}: `{}` has {} tokens and `{}` has {}; all prompts must have the same number",
            prompts[0].text(&sentences.template),
            length,
            prompts[other].text(&sentences.template),
            tokens[other].len()
        );
    }
    let answer = |word: &str| -> Result<u32> {
        let ids = tokenizer.encode(&format!(" {word}"), Bos::Never)?.ids;
        ids.first().copied().with_context(|| format!("{model}: the tokenizer has no token for `{word}`"))
    };
    let text = |ids: &Vec<u32>| ids.iter().map(|id| Ok(tokenizer.decode(&[*id])?)).collect::<Result<Vec<_>>>();
    let texts = tokens.iter().map(text).collect::<Result<Vec<_>>>()?;
    Ok(Encoded {
        indirect_objects: prompts.iter().map(|prompt| answer(prompt.indirect_object())).collect::<Result<_>>()?,
        subjects: prompts.iter().map(|prompt| answer(prompt.subject())).collect::<Result<_>>()?,
        labels: labels(prompts, &texts),
        tokens,
    })
}

/// Effects of all patches on the prompts of one batch, in logits.
struct BatchEffects {
    /// Activation patching, `[layers * positions][batch]`.
    by_position: Effects,
    /// Activation patching of head outputs, `[layers * heads][batch]`.
    by_head: Effects,
    /// Attribution patching, `[layers][batch][positions]`.
    attributions: Vec<Vec<Vec<f64>>>,
}

/// Sums of [`Outcome`]'s means over prompts.
struct Sums {
    act: Vec<f64>,
    attr: Vec<f64>,
    act_logits: Vec<f64>,
    attr_logits: Vec<f64>,
    heads: Vec<f64>,
    errors: Vec<f64>,
    /// f of every clean prompt.
    clean: Vec<f64>,
    /// Number of prompts in the normalised sums.
    included: usize,
}

impl Sums {
    fn zeros(layers: usize, positions: usize, n_heads: usize) -> Self {
        let [act, attr, act_logits, attr_logits] = [(); 4].map(|()| vec![0.; layers * positions]);
        let (heads, errors) = (vec![0.; layers * n_heads], vec![0.; layers]);
        Self { act, attr, act_logits, attr_logits, heads, errors, clean: Vec::new(), included: 0 }
    }

    fn add(&mut self, effects: &BatchEffects) {
        let BatchEffects { by_position, by_head, attributions } = effects;
        let gains: Vec<f64> =
            by_position.source.iter().zip(&by_position.base).map(|(source, base)| source - base).collect();
        let largest = gains.iter().map(|gain| gain.abs()).fold(0., f64::max);
        for (i, gain) in gains.into_iter().enumerate() {
            self.clean.push(by_position.source[i]);
            let included = gain.abs() > MIN_GAIN * largest;
            self.included += usize::from(included);
            for (layer, attributions) in attributions.iter().enumerate() {
                let positions = attributions[i].len();
                for (position, attr) in attributions[i].iter().copied().enumerate() {
                    let cell = layer * positions + position;
                    let act = by_position.patched[cell][i] - by_position.base[i];
                    self.act_logits[cell] += act;
                    self.attr_logits[cell] += attr;
                    if included {
                        self.act[cell] += act / gain;
                        self.attr[cell] += attr / gain;
                        self.errors[layer] += ((act - attr) / gain).abs();
                    }
                }
            }
            if included {
                for (sum, patched) in self.heads.iter_mut().zip(&by_head.patched) {
                    *sum += (patched[i] - by_head.base[i]) / gain;
                }
            }
        }
    }
}

fn patch(run: &Run, model: &Decoder, source: &Source, prompts: Encoded, batch_pairs: usize) -> Result<Outcome> {
    let (n_layers, n_heads, positions) = (model.n_layers(), model.n_heads(), prompts.labels.len());
    let mut sums = Sums::zeros(n_layers, positions, n_heads);
    let total = prompts.tokens.len();
    let mut task = run.task(&source.name, total as u64, "prompts");
    for start in (0..total).step_by(2 * batch_pairs) {
        run.check_interrupted()?;
        let batch: Vec<usize> = (start..total.min(start + 2 * batch_pairs)).collect();
        sums.add(&patch_batch(run, model, &prompts, &batch)?);
        task.at((start + batch.len()) as u64, &source.name);
    }
    let mean = |sums: Vec<f64>, count: usize| -> Vec<f64> { sums.iter().map(|sum| sum / count as f64).collect() };
    Ok(Outcome {
        source: source.clone(),
        n_layers,
        n_heads,
        labels: prompts.labels,
        act: mean(sums.act, sums.included),
        attr: mean(sums.attr, sums.included),
        act_logits: mean(sums.act_logits, total),
        attr_logits: mean(sums.attr_logits, total),
        heads: mean(sums.heads, sums.included),
        errors: mean(sums.errors, sums.included),
        clean: sums.clean,
        excluded: total - sums.included,
    })
}

/// Patches the prompts with the given indices; they must be whole pairs.
fn patch_batch(run: &Run, model: &Decoder, prompts: &Encoded, batch: &[usize]) -> Result<BatchEffects> {
    let (layers, n_heads, positions) = (model.n_layers(), model.n_heads(), prompts.labels.len());
    let sites: Vec<Site> = (0..layers).map(|layer| Site::Block(Layer(layer), Point::ResidPre)).collect();
    let kept: Vec<Site> = (0..layers)
        .flat_map(|layer| [Point::ResidPre, Point::Z].map(|point| Site::Block(Layer(layer), point)))
        .collect();
    let ids = |of: &dyn Fn(usize) -> usize| -> Result<Tensor> {
        let rows: Vec<Vec<u32>> = batch.iter().map(|i| prompts.tokens[of(*i)].clone()).collect();
        Ok(Tensor::new(rows, run.device())?)
    };
    // prompts 2i and 2i + 1 are each other's corrupted version
    let (clean_ids, corrupted_ids) = (ids(&|i| i)?, ids(&|i| i ^ 1)?);
    let pick = |from: &[u32]| -> Vec<u32> { batch.iter().map(|i| from[*i]).collect() };
    let metric = Metric::logit_difference(&pick(&prompts.indirect_objects), &pick(&prompts.subjects));
    let clean = patching::Run::new(model, &clean_ids, &kept)?;
    let corrupted = patching::Run::new(model, &corrupted_ids, &kept)?;
    let patches: Vec<Patch> = each_position(layers, Point::ResidPre, positions);
    let by_position = activation_patching(model, &corrupted, &clean, &patches, &metric)?;
    let by_head = activation_patching(model, &corrupted, &clean, &each_head(layers, Point::Z, n_heads), &metric)?;
    let recorded = capture(model, &clean_ids, &sites, &Keep::default())?;
    let attributions = attribution_patching(model, &corrupted_ids, &recorded, &sites, &metric)?;
    let attributions = sites
        .iter()
        .map(|site| Ok(attributions[site].to_dtype(DType::F64)?.to_device(&Device::Cpu)?.to_vec2()?))
        .collect::<Result<_>>()?;
    Ok(BatchEffects { by_position, by_head, attributions })
}

fn record_prompts(run: &Run, sentences: &Sentences, prompts: &[Prompt]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("prompts", "one prompt; prompts 2i and 2i + 1 are each other's corrupted version")
            .int("prompt", "index of the prompt, from 0")
            .text("text", "text of the prompt, without the beginning-of-text token")
            .text("answer", "right answer: the indirect object, IO")
            .text("wrong", "wrong answer: the subject, S"),
    );
    for (number, prompt) in prompts.iter().enumerate() {
        table.push(row![number, prompt.text(&sentences.template), prompt.indirect_object(), prompt.subject()])?;
    }
    run.record(table.finish()?);
    Ok(())
}

fn maps(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("maps", "the effect of patching the residual stream before one block at one position")
            .text("model", "checkpoint")
            .text("method", "activation or attribution patching")
            .int("layer", "index of the block whose input is patched, from 0")
            .text("position", "patched position: token index, from 0, and the token or its role")
            .float("effect", EFFECT, "")
            .float("logits", "change of the logit difference, averaged over prompts, not normalised", "logits"),
    );
    for outcome in outcomes {
        let methods =
            [("activation", &outcome.act, &outcome.act_logits), ("attribution", &outcome.attr, &outcome.attr_logits)];
        for (method, effects, logits) in methods {
            for layer in 0..outcome.n_layers {
                for (position, label) in outcome.labels.iter().enumerate() {
                    let cell = layer * outcome.labels.len() + position;
                    table.push(row![&*outcome.source.name, method, layer, &**label, effects[cell], logits[cell]])?;
                }
            }
        }
        outcome.source.metric(run, "map_correlation", probes::correlation(&outcome.act, &outcome.attr), "");
    }
    run.record(table.finish()?);
    Ok(())
}

fn heads(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("heads", "the effect of activation patching of one head's output at all positions")
            .text("model", "checkpoint")
            .int("layer", "block index, from 0")
            .int("head", "head index in the block, from 0")
            .float("effect", EFFECT, ""),
    );
    for outcome in outcomes {
        for (cell, effect) in outcome.heads.iter().enumerate() {
            table.push(row![&*outcome.source.name, cell / outcome.n_heads, cell % outcome.n_heads, *effect])?;
        }
    }
    run.record(table.finish()?);
    Ok(())
}

fn errors(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new(
            "errors",
            "the error of attribution patching (attr) against activation patching (act) before one block, normalised",
        )
        .text("model", "checkpoint")
        .int("layer", "index of the block whose input is patched, from 0")
        .float("error", "sum over positions of |act - attr|, averaged over prompts", "")
        .float(
            "error_of_means",
            "sum over positions of |act - attr| after averaging act and attr over prompts",
            "",
        ),
    );
    for outcome in outcomes {
        let positions = outcome.labels.len();
        for (layer, error) in outcome.errors.iter().enumerate() {
            let cells = layer * positions..(layer + 1) * positions;
            let error_of_means: f64 = cells.map(|cell| (outcome.act[cell] - outcome.attr[cell]).abs()).sum();
            table.push(row![&*outcome.source.name, layer, *error, error_of_means])?;
        }
        outcome.source.metric(run, "error", probes::mean(&outcome.errors), "");
    }
    run.record(table.finish()?);
    Ok(())
}

fn behaviour(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("behaviour", "the performance of one checkpoint on indirect object identification")
            .text("model", "checkpoint")
            .int("prompts", "number of clean prompts")
            .int("left_out", "number of prompts excluded because their clean and corrupted runs hardly differ")
            .float("accuracy", "share of prompts whose indirect object has a larger logit than the subject", "fraction")
            .float("logit_difference", "mean logit of the indirect object minus the logit of the subject", "logits"),
    );
    for Outcome { source, clean, excluded, .. } in outcomes {
        let right = clean.iter().filter(|difference| **difference > 0.).count() as f64 / clean.len() as f64;
        let mean = probes::mean(clean);
        table.push(row![&*source.name, clean.len(), *excluded, right, mean])?;
        source.metric(run, "accuracy", right, "fraction");
        source.metric(run, "logit_difference", mean, "logits");
    }
    run.record(table.finish()?);
    Ok(())
}

/// Records the decrease of the error without norms, layer by layer: mean and standard deviation (arXiv 2507.02559,
/// section 5.2).
fn improvement(run: &Run, params: &Params, outcomes: &[Outcome]) -> Result<()> {
    let Some(Comparison { with_norms, without_norms }) = &params.compare else {
        run.metric("improvement.mean", None, "");
        run.metric("improvement.std", None, "");
        run.metric("improvement.mean_over_std", None, "");
        return Ok(());
    };
    let mut seeds: Vec<Seed> = outcomes.iter().map(|outcome| outcome.source.seed().1).collect();
    seeds.dedup();
    for seed in seeds {
        let errors = |name: &String| {
            let found = outcomes.iter().find(|outcome| outcome.source.seed() == (name, seed));
            found.map(|outcome| &outcome.errors).with_context(|| {
                format!("params.compare: there is no model `{name}` with seed {seed} in params.models")
            })
        };
        let (with, without) = (errors(with_norms)?, errors(without_norms)?);
        if with.len() != without.len() {
            bail!(
                "params.compare: {with_norms} has {} blocks but {without_norms} has {}; they must have the same number",
                with.len(),
                without.len()
            );
        }
        let gains: Vec<f64> = with.iter().zip(without).map(|(with, without)| with - without).collect();
        let (mean, std) = (probes::mean(&gains), probes::standard_deviation(&gains));
        seed.metric(run, "improvement.mean", mean, "");
        seed.metric(run, "improvement.std", std, "");
        seed.metric(run, "improvement.mean_over_std", mean.abs() / std, "");
    }
    Ok(())
}
