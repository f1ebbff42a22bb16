//! Activation patching against attribution patching on indirect object identification (arXiv 2507.02559, section 5.2 and
//! figure 2), for any list of checkpoints.
//!
//! Prompts come in pairs that differ in one token, the second mention of the subject (S2); each is the other's corrupted
//! version. With f = logit of the indirect object minus logit of the subject of the clean prompt, at the last place:
//!
//! ```text
//! act[l, p]  = f(corrupted with resid_pre[l, p] of the clean run) - f(corrupted)
//! attr[l, p] = df / d resid_pre[l, p] at the corrupted run · (clean - corrupted)[l, p]
//! ```
//!
//! both divided, prompt by prompt, by f(clean) - f(corrupted), which is act[0, S2].
//!
//! Tables: `maps` (both, by layer and place), `heads` (activation patching of each head's output), `errors`
//! (|act - attr| by layer), `behaviour` (does the model do the task at all), `prompts` (what was asked).

use crate::ioi_prompts::{Prompt, Sentences};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use capture::{Keep, capture};
use experiment::Run;
use hooks::{HookedModel, Layer, Point, Site};
use models::Decoder;
use patching::{Metric, Patch, activation_patching, attribution_patching, each_head, each_position};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};
use tokens::{Bos, Tokenizer};

use crate::labels::labels;
use crate::subjects::Source;

/// Below this share of the largest, a prompt's effect is too small to divide by.
const NO_EFFECT: f64 = 1e-4;

/// Parameters of `ioi`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The checkpoints, one column of the figure each.
    #[schemars(length(min = 1))]
    pub models: Vec<Source>,
    /// Which of them have, and which lack LayerNorm, to be compared; left out when they are not there.
    #[serde(default)]
    pub compare: Option<Comparison>,
    /// The sentences.
    pub sentences: Sentences,
    /// Random choices of names, place and object; each gives four prompts.
    #[schemars(range(min = 1))]
    pub draws: usize,
    /// Pairs of prompts in a batch.
    #[schemars(range(min = 1))]
    pub batch_pairs: usize,
}

/// Two of the models by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The one with LayerNorm, fine-tuned like the other.
    pub with_norms: String,
    /// The one without.
    pub without_norms: String,
}

/// Tokens of all prompts, and of their answers.
struct Asked {
    tokens: Vec<Vec<u32>>,
    /// IO of each prompt.
    right: Vec<u32>,
    /// S of each prompt.
    wrong: Vec<u32>,
    labels: Vec<String>,
}

/// What was measured of one model.
struct Outcome {
    source: Source,
    n_layers: usize,
    labels: Vec<String>,
    /// Normalised and averaged over prompts, `[layers * places]`.
    act: Vec<f64>,
    attr: Vec<f64>,
    /// Not normalised, in logits.
    act_logits: Vec<f64>,
    attr_logits: Vec<f64>,
    /// `[layers * heads]`, normalised.
    heads: Vec<f64>,
    n_heads: usize,
    /// Sum over places of |act - attr| of each prompt, averaged; by layer.
    errors: Vec<f64>,
    /// f of every clean prompt.
    clean: Vec<f64>,
    /// Prompts whose effect was too small to divide by.
    left_out: usize,
}

/// Patches every model and hands in the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let tokenizers = params.models.iter().map(|source| source.tokenizer(run)).collect::<Result<Vec<_>>>()?;
    let sentences = shared_words(&params.sentences, &tokenizers)?;
    let pairs = sentences.pairs(run.samples(params.draws), &mut run.rng("prompts")).context("params.sentences")?;
    let prompts: Vec<Prompt> = pairs.into_iter().flatten().collect();
    record_prompts(run, &sentences, &prompts)?;
    let mut outcomes = Vec::new();
    for (source, tokenizer) in params.models.iter().zip(&tokenizers) {
        let asked = ask(&sentences, &prompts, tokenizer, &source.name)?;
        let model = source.open(run)?;
        outcomes.push(patch(run, &model, source, asked, params.batch_pairs)?);
    }
    maps(run, &outcomes)?;
    heads(run, &outcomes)?;
    errors(run, &outcomes)?;
    behaviour(run, &outcomes)?;
    improvement(run, &params, &outcomes)
}

/// The sentences with those names, places and objects that are one token for every model, with a space before them.
fn shared_words(sentences: &Sentences, tokenizers: &[Tokenizer]) -> Result<Sentences> {
    let is_one = |tokenizer: &Tokenizer, word: &str| {
        tokenizer.encode(&format!(" {word}"), Bos::Never).is_ok_and(|encoded| encoded.ids.len() == 1)
    };
    let keep = |words: &[String], key: &str, least: usize| -> Result<Vec<String>> {
        let fits = |word: &&String| tokenizers.iter().all(|tokenizer| is_one(tokenizer, word));
        let kept: Vec<String> = words.iter().filter(fits).cloned().collect();
        if kept.len() < words.len() {
            tracing::warn!("{key}: {} of {} are one token for all models and are used", kept.len(), words.len());
        }
        if kept.len() < least {
            bail!(
                "params.sentences.{key}: {} of {} words are one token for all models, {least} are needed",
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

fn ask(sentences: &Sentences, prompts: &[Prompt], tokenizer: &Tokenizer, model: &str) -> Result<Asked> {
    let encode = |prompt: &Prompt| -> Result<Vec<u32>> {
        let text = prompt.text(&sentences.template);
        let begin = if tokenizer.bos().is_some() { Bos::Always } else { Bos::Never };
        Ok(tokenizer.encode(&text, begin)?.ids)
    };
    let tokens = prompts.iter().map(encode).collect::<Result<Vec<_>>>()?;
    let length = tokens.first().map_or(0, Vec::len);
    if let Some(other) = tokens.iter().position(|ids| ids.len() != length) {
        bail!(
            "{model}: `{}` has {} tokens, `{}` {}: prompts must be equally long",
            prompts[0].text(&sentences.template),
            length,
            prompts[other].text(&sentences.template),
            tokens[other].len()
        );
    }
    let answer = |word: &str| -> Result<u32> {
        let ids = tokenizer.encode(&format!(" {word}"), Bos::Never)?.ids;
        ids.first().copied().with_context(|| format!("{model}: no token for `{word}`"))
    };
    let text = |ids: &Vec<u32>| ids.iter().map(|id| Ok(tokenizer.decode(&[*id])?)).collect::<Result<Vec<_>>>();
    let texts = tokens.iter().map(text).collect::<Result<Vec<_>>>()?;
    Ok(Asked {
        right: prompts.iter().map(|prompt| answer(prompt.indirect_object())).collect::<Result<_>>()?,
        wrong: prompts.iter().map(|prompt| answer(prompt.subject())).collect::<Result<_>>()?,
        labels: labels(prompts, &texts),
        tokens,
    })
}

/// Sums over prompts.
struct Sums {
    act: Vec<f64>,
    attr: Vec<f64>,
    act_logits: Vec<f64>,
    attr_logits: Vec<f64>,
    heads: Vec<f64>,
    errors: Vec<f64>,
}

fn patch(run: &Run, model: &Decoder, source: &Source, asked: Asked, batch_pairs: usize) -> Result<Outcome> {
    let (layers, places, n_heads) = (model.n_layers(), asked.labels.len(), model.n_heads());
    let sites: Vec<Site> = (0..layers).map(|layer| Site::Block(Layer(layer), Point::ResidPre)).collect();
    let kept: Vec<Site> = (0..layers)
        .flat_map(|layer| [Point::ResidPre, Point::Z].map(|point| Site::Block(Layer(layer), point)))
        .collect();
    let cells = layers * places;
    let mut sums = Sums {
        act: vec![0.; cells],
        attr: vec![0.; cells],
        act_logits: vec![0.; cells],
        attr_logits: vec![0.; cells],
        heads: vec![0.; layers * n_heads],
        errors: vec![0.; layers],
    };
    let (mut clean, mut counted) = (Vec::new(), 0usize);
    let total = asked.tokens.len();
    let mut task = run.task(&source.name, total as u64, "prompts");
    for start in (0..total).step_by(2 * batch_pairs) {
        run.check_interrupted()?;
        let batch: Vec<usize> = (start..total.min(start + 2 * batch_pairs)).collect();
        let ids = |of: &dyn Fn(usize) -> usize| -> Result<Tensor> {
            let rows: Vec<Vec<u32>> = batch.iter().map(|i| asked.tokens[of(*i)].clone()).collect();
            Ok(Tensor::new(rows, run.device())?)
        };
        // prompts 2i and 2i + 1 are each other's corrupted version
        let (clean_ids, corrupted_ids) = (ids(&|i| i)?, ids(&|i| i ^ 1)?);
        let pick = |from: &[u32]| -> Vec<u32> { batch.iter().map(|i| from[*i]).collect() };
        let metric = Metric::logit_difference(&pick(&asked.right), &pick(&asked.wrong));
        let clean_run = patching::Run::new(model, &clean_ids, &kept)?;
        let base = patching::Run::new(model, &corrupted_ids, &kept)?;
        let positions: Vec<Patch> = each_position(layers, Point::ResidPre, places);
        let by_place = activation_patching(model, &base, &clean_run, &positions, &metric)?;
        let by_head = activation_patching(model, &base, &clean_run, &each_head(layers, Point::Z, n_heads), &metric)?;
        let recorded = capture(model, &clean_ids, &sites, &Keep::default())?;
        let slopes = attribution_patching(model, &corrupted_ids, &recorded, &sites, &metric)?;
        let slopes: Vec<Vec<Vec<f64>>> = sites
            .iter()
            .map(|site| Ok(slopes[site].to_dtype(DType::F64)?.to_device(&Device::Cpu)?.to_vec2()?))
            .collect::<Result<_>>()?;
        let gain: Vec<f64> = by_place.source.iter().zip(&by_place.base).map(|(source, base)| source - base).collect();
        let largest = gain.iter().map(|gain| gain.abs()).fold(0., f64::max);
        for i in 0..batch.len() {
            clean.push(by_place.source[i]);
            let usable = gain[i].abs() > NO_EFFECT * largest;
            counted += usize::from(usable);
            for (layer, slopes) in slopes.iter().enumerate() {
                for (place, attr) in slopes[i].iter().copied().enumerate() {
                    let cell = layer * places + place;
                    let act = by_place.patched[cell][i] - by_place.base[i];
                    sums.act_logits[cell] += act;
                    sums.attr_logits[cell] += attr;
                    if usable {
                        sums.act[cell] += act / gain[i];
                        sums.attr[cell] += attr / gain[i];
                        sums.errors[layer] += ((act - attr) / gain[i]).abs();
                    }
                }
                for head in (0..n_heads).filter(|_| usable) {
                    let cell = layer * n_heads + head;
                    sums.heads[cell] += (by_head.patched[cell][i] - by_head.base[i]) / gain[i];
                }
            }
        }
        task.at((start + batch.len()) as u64, &source.name);
    }
    let mean = |sums: Vec<f64>, count: usize| -> Vec<f64> { sums.iter().map(|sum| sum / count as f64).collect() };
    Ok(Outcome {
        source: source.clone(),
        n_layers: layers,
        n_heads,
        labels: asked.labels,
        act: mean(sums.act, counted),
        attr: mean(sums.attr, counted),
        act_logits: mean(sums.act_logits, total),
        attr_logits: mean(sums.attr_logits, total),
        heads: mean(sums.heads, counted),
        errors: mean(sums.errors, counted),
        clean,
        left_out: total - counted,
    })
}

fn record_prompts(run: &Run, sentences: &Sentences, prompts: &[Prompt]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("prompts", "one prompt; the next or the one before is its corrupted version")
            .int("prompt", "number")
            .text("text", "what the model reads, behind a beginning-of-text token")
            .text("answer", "indirect object, IO")
            .text("wrong", "subject, S"),
    );
    for (number, prompt) in prompts.iter().enumerate() {
        table.push(row![number, prompt.text(&sentences.template), prompt.indirect_object(), prompt.subject()])?;
    }
    run.record(table.finish()?);
    Ok(())
}

fn maps(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("maps", "patching of the residual stream before one block at one place, mean over prompts")
            .text("model", "checkpoint")
            .text("method", "activation or attribution")
            .int("layer", "block whose input is patched")
            .text("position", "place and what stands there")
            .float("effect", "share of the way from the corrupted to the clean run", "")
            .float("logits", "the same, not normalised", "logits"),
    );
    for outcome in outcomes {
        let methods =
            [("activation", &outcome.act, &outcome.act_logits), ("attribution", &outcome.attr, &outcome.attr_logits)];
        for (method, effects, logits) in methods {
            for layer in 0..outcome.n_layers {
                for (place, label) in outcome.labels.iter().enumerate() {
                    let cell = layer * outcome.labels.len() + place;
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
        Schema::new("heads", "activation patching of one head's output at all places, mean over prompts")
            .text("model", "checkpoint")
            .int("layer", "block")
            .int("head", "head")
            .float("effect", "share of the way from the corrupted to the clean run", ""),
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
        Schema::new("errors", "distance of attribution from activation patching before one block")
            .text("model", "checkpoint")
            .int("layer", "block whose input is patched")
            .float("error", "sum over places of |act - attr|, mean over prompts", "")
            .float("error_of_means", "sum over places of |mean act - mean attr|", ""),
    );
    for outcome in outcomes {
        let places = outcome.labels.len();
        for (layer, error) in outcome.errors.iter().enumerate() {
            let row = layer * places..(layer + 1) * places;
            let differ: f64 = row.map(|cell| (outcome.act[cell] - outcome.attr[cell]).abs()).sum();
            table.push(row![&*outcome.source.name, layer, *error, differ])?;
        }
        outcome.source.metric(run, "error", probes::mean(&outcome.errors), "");
    }
    run.record(table.finish()?);
    Ok(())
}

fn behaviour(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("behaviour", "whether one checkpoint does the task")
            .text("model", "checkpoint")
            .int("prompts", "clean prompts")
            .int("left_out", "prompts whose effect was too small to divide by")
            .float("accuracy", "prompts whose indirect object has the larger logit", "fraction")
            .float("logit_difference", "indirect object minus subject, mean", "logits"),
    );
    for Outcome { source, clean, left_out, .. } in outcomes {
        let right = clean.iter().filter(|difference| **difference > 0.).count() as f64 / clean.len() as f64;
        let mean = probes::mean(clean);
        table.push(row![&*source.name, clean.len(), *left_out, right, mean])?;
        source.metric(run, "accuracy", right, "fraction");
        source.metric(run, "logit_difference", mean, "logits");
    }
    run.record(table.finish()?);
    Ok(())
}

/// How much smaller the error is without norms, layer by layer: mean and standard deviation (arXiv 2507.02559, section 5.2).
fn improvement(run: &Run, params: &Params, outcomes: &[Outcome]) -> Result<()> {
    let Some(Comparison { with_norms, without_norms }) = &params.compare else {
        run.metric("improvement.mean", None, "");
        run.metric("improvement.std", None, "");
        run.metric("improvement.mean_over_std", None, "");
        return Ok(());
    };
    let mut draws: Vec<usize> = outcomes.iter().map(|outcome| outcome.source.draw().1).collect();
    draws.dedup();
    for draw in draws {
        let errors = |name: &String| {
            let found = outcomes.iter().find(|outcome| outcome.source.draw() == (name, draw));
            found
                .map(|outcome| &outcome.errors)
                .with_context(|| format!("params.compare: no model is called `{name}` in draw {draw}"))
        };
        let (with, without) = (errors(with_norms)?, errors(without_norms)?);
        if with.len() != without.len() {
            bail!("params.compare: {with_norms} has {} blocks, {without_norms} {}", with.len(), without.len());
        }
        let gains: Vec<f64> = with.iter().zip(without).map(|(with, without)| with - without).collect();
        let (mean, spread) = (probes::mean(&gains), probes::standard_deviation(&gains));
        run.metric_of_draw(draw, "improvement.mean", mean, "");
        run.metric_of_draw(draw, "improvement.std", spread, "");
        run.metric_of_draw(draw, "improvement.mean_over_std", mean.abs() / spread, "");
    }
    Ok(())
}
