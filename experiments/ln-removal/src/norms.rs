//! How long the residual stream is at the first place and at the rest, how it grows, and how much attention goes to the first
//! place (arXiv 2507.02559, section 5.3 and figure 3).
//!
//! Tables: `norms` (length by site), `growth` (from one site to the next: ratio of lengths and cosine), `sinks` (share of
//! attention that goes to the first place, by two definitions).

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{D, DType, Device, Tensor};
use experiment::Run;
use hooks::{Hook, HookedModel, Layer, Point, Site};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::subjects::{Source, Text, batch, shared_tokenizer};

/// Parameters of `norms`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The checkpoints.
    #[schemars(length(min = 1))]
    pub models: Vec<Source>,
    /// What they read.
    pub text: Text,
    /// Sequences.
    #[schemars(range(min = 2))]
    pub sequences: usize,
    /// Tokens in a sequence.
    #[schemars(range(min = 2))]
    pub length: usize,
    /// Sequences in a batch.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Attention to the first place from which on it counts as a sink.
    #[schemars(range(min = 0, max = 1))]
    pub threshold: f64,
}

/// Sums of numbers and of their squares.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, x: f64) {
        self.count += 1.;
        self.sum += x;
        self.squares += x * x;
    }

    fn mean(self) -> f64 {
        self.sum / self.count
    }

    fn deviation(self) -> f64 {
        (self.squares / self.count - self.mean() * self.mean()).max(0.).sqrt()
    }
}

/// Which places of a sequence: the first, or those behind it.
const PLACES: [&str; 2] = ["first", "rest"];

/// Reduces what it sees to sums at once, so that nothing is kept but the last site.
#[derive(Default)]
struct Looker {
    sites: Vec<Site>,
    before: Option<(Site, Tensor)>,
    /// By site, first place and rest.
    lengths: BTreeMap<Site, [Moments; 2]>,
    /// By pair of sites: ratio of lengths and cosine, each at the first place and the rest.
    growth: BTreeMap<(Site, Site), [[Moments; 2]; 2]>,
    threshold: f64,
    /// Of this batch: queries whose attention to the first place is above the threshold, all queries; heads whose mean is,
    /// all heads.
    sinks: [f64; 4],
}

impl Looker {
    fn new(model: &dyn HookedModel, threshold: f64) -> Self {
        let streams = |site: &Site| {
            matches!(site, Site::Embed | Site::PosEmbed | Site::FinalNormalized)
                || matches!(site, Site::Block(_, Point::ResidMid | Point::ResidPost | Point::Pattern))
                || *site == Site::Block(Layer(0), Point::ResidPre)
        };
        Self { sites: model.sites().into_iter().filter(streams).collect(), threshold, ..Self::default() }
    }

    fn look_at_pattern(&mut self, pattern: &Tensor) -> candle_core::Result<()> {
        // [b, h, q]
        let first = pattern.narrow(3, 0, 1)?.squeeze(3)?.to_dtype(DType::F64)?.to_device(&Device::Cpu)?;
        for head in first.flatten_to(1)?.to_vec2::<f64>()? {
            self.sinks[0] += head.iter().filter(|share| **share > self.threshold).count() as f64;
            self.sinks[1] += head.len() as f64;
            self.sinks[2] += f64::from(u8::from(probes::mean(&head) > self.threshold));
            self.sinks[3] += 1.;
        }
        Ok(())
    }

    fn look_at_stream(&mut self, site: Site, x: &Tensor) -> candle_core::Result<()> {
        let lengths = |x: &Tensor| -> candle_core::Result<Vec<Vec<f64>>> {
            x.to_dtype(DType::F64)?.sqr()?.sum(D::Minus1)?.sqrt()?.to_device(&Device::Cpu)?.to_vec2()
        };
        let here = lengths(x)?;
        let each = |rows: &[Vec<f64>], take: &mut dyn FnMut(usize, usize, usize, f64)| {
            for (b, row) in rows.iter().enumerate() {
                row.iter().enumerate().for_each(|(t, value)| take(b, t, usize::from(t > 0), *value));
            }
        };
        let moments = self.lengths.entry(site).or_default();
        each(&here, &mut |_, _, place, length| moments[place].add(length));
        // the stream begins behind the embeddings, and ends before the norm
        let in_stream = matches!(site, Site::Block(..));
        if let Some((last, before)) = self.before.take().filter(|_| in_stream) {
            let there = lengths(&before)?;
            let dots: Vec<Vec<f64>> = (x.to_dtype(DType::F64)? * before.to_dtype(DType::F64)?)?
                .sum(D::Minus1)?
                .to_device(&Device::Cpu)?
                .to_vec2()?;
            let [ratio, cosine] = self.growth.entry((last, site)).or_default();
            each(&dots, &mut |b, t, place, dot| {
                ratio[place].add(here[b][t] / there[b][t]);
                cosine[place].add(dot / (here[b][t] * there[b][t]));
            });
        }
        self.before = in_stream.then(|| (site, x.clone()));
        Ok(())
    }
}

impl Hook for Looker {
    fn wants(&self, site: Site) -> bool {
        self.sites.contains(&site)
    }

    fn visit(&mut self, site: Site, x: Tensor) -> candle_core::Result<Tensor> {
        match site {
            Site::Block(_, Point::Pattern) => self.look_at_pattern(&x)?,
            _ => self.look_at_stream(site, &x)?,
        }
        Ok(x)
    }
}

/// Measures all models and hands in the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let tokenizer = shared_tokenizer(run, &params.models)?;
    let count = run.samples(params.sequences);
    let sequences = params.text.sequences(run, &tokenizer, count, params.length).context("params.text")?;
    let mut looked = Vec::new();
    for source in &params.models {
        let model = source.open_folded(run)?;
        let mut looker = Looker::new(&model, params.threshold);
        let mut rates = [Vec::new(), Vec::new()];
        let mut total = [0.; 4];
        let mut task = run.task(&source.name, sequences.len() as u64, "sequences");
        for (number, part) in sequences.chunks(params.batch).enumerate() {
            run.check_interrupted()?;
            model.forward(&batch(run, part)?, &mut looker)?;
            let sinks = std::mem::take(&mut looker.sinks);
            for (rates, of) in rates.iter_mut().zip([0, 2]) {
                rates.push(sinks[of] / sinks[of + 1]);
            }
            total.iter_mut().zip(sinks).for_each(|(total, part)| *total += part);
            task.at((number * params.batch + part.len()) as u64, &source.name);
        }
        looked.push((source, looker, total, rates));
    }
    norms(run, &looked)?;
    growth(run, &looked)?;
    sinks(run, &looked)
}

type Looked<'a> = (&'a Source, Looker, [f64; 4], [Vec<f64>; 2]);

/// Sites in the order of a forward pass.
fn in_order(looker: &Looker) -> impl Iterator<Item = &Site> {
    looker.sites.iter().filter(|site| looker.lengths.contains_key(*site))
}

fn norms(run: &Run, looked: &[Looked<'_>]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("norms", "length of the activations of one model at one site")
            .text("model", "checkpoint")
            .int("order", "of the site in a forward pass")
            .text("site", "where")
            .text("place", "first place of a sequence, or the rest")
            .float("length", "mean Euclidean length", "")
            .float("deviation", "standard deviation over tokens", ""),
    );
    for (source, looker, ..) in looked {
        let mut ratio: f64 = 0.;
        for (order, site) in in_order(looker).enumerate() {
            let moments = looker.lengths[site];
            for (place, moments) in PLACES.iter().zip(moments) {
                table.push(row![
                    &*source.name,
                    order,
                    site.to_string(),
                    *place,
                    moments.mean(),
                    moments.deviation()
                ])?;
            }
            if matches!(site, Site::Block(..)) {
                ratio = ratio.max(moments[0].mean() / moments[1].mean());
            }
        }
        source.metric(run, "first_over_rest", ratio, "");
    }
    run.record(table.finish()?);
    Ok(())
}

fn growth(run: &Run, looked: &[Looked<'_>]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("growth", "change of one model's stream from one site to the next")
            .text("model", "checkpoint")
            .int("order", "of the step in a forward pass")
            .text("step", "the site that is reached")
            .text("place", "first place of a sequence, or the rest")
            .float("ratio", "length there over length before, mean", "")
            .float("cosine", "between there and before, mean", ""),
    );
    for (source, looker, ..) in looked {
        let mut steps: Vec<_> = looker.growth.iter().collect();
        steps.sort_by_key(|((_, to), _)| looker.sites.iter().position(|site| site == to));
        for (order, ((_, to), [ratio, cosine])) in steps.into_iter().enumerate() {
            for (index, place) in PLACES.iter().enumerate() {
                let (ratio, cosine) = (ratio[index].mean(), cosine[index].mean());
                table.push(row![&*source.name, order, to.to_string(), *place, ratio, cosine])?;
            }
        }
    }
    run.record(table.finish()?);
    Ok(())
}

fn sinks(run: &Run, looked: &[Looked<'_>]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("sinks", "attention of one model to the first place")
            .text("model", "checkpoint")
            .text("definition", "queries: share of queries that give the first place more than the threshold; heads: share of heads and sequences whose mean over queries is more")
            .float("rate", "over all batches", "fraction")
            .float("low", "2.5th percentile of the batches", "fraction")
            .float("high", "97.5th percentile of the batches", "fraction"),
    );
    for (source, _, total, rates) in looked {
        for ((definition, of), rates) in [("queries", 0), ("heads", 2)].iter().zip(rates) {
            let mut sorted = rates.clone();
            sorted.sort_by(f64::total_cmp);
            let rate = total[*of] / total[of + 1];
            table.push(row![
                &*source.name,
                *definition,
                rate,
                probes::quantile(&sorted, 0.025),
                probes::quantile(&sorted, 0.975)
            ])?;
            source.metric(run, &format!("sink_rate.{definition}"), rate, "fraction");
        }
    }
    run.record(table.finish()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_are_counted_by_query_and_by_head() {
        // two heads, three queries: attention to place 0
        let pattern = Tensor::new(
            &[[[[1f64, 0., 0.], [0.2, 0.8, 0.], [0.5, 0.2, 0.3]], [[1., 0., 0.], [0., 1., 0.], [0., 0., 1.]]]],
            &Device::Cpu,
        );
        let mut looker = Looker { threshold: 0.3, ..Looker::default() };
        looker.look_at_pattern(&pattern.unwrap()).unwrap();
        // first head: queries 0 and 2, mean 0.57; second: query 0, mean 0.33
        assert_eq!(looker.sinks, [3., 6., 2., 2.]);
    }

    #[test]
    fn lengths_growth_and_cosines_of_a_known_stream() {
        let mut looker = Looker::default();
        let at = |point| Site::Block(Layer(0), point);
        let before = Tensor::new(&[[[3f32, 4.], [1., 0.], [0., 2.]]], &Device::Cpu).unwrap();
        looker.look_at_stream(at(Point::ResidPre), &before).unwrap();
        let after = Tensor::new(&[[[6f32, 8.], [0., 2.], [0., 4.]]], &Device::Cpu).unwrap();
        looker.look_at_stream(at(Point::ResidMid), &after).unwrap();
        let [first, rest] = looker.lengths[&at(Point::ResidMid)];
        assert_eq!((first.mean(), rest.mean(), rest.deviation()), (10., 3., 1.));
        let [ratio, cosine] = looker.growth[&(at(Point::ResidPre), at(Point::ResidMid))];
        assert_eq!((ratio[0].mean(), ratio[1].mean()), (2., 2.));
        assert!((cosine[0].mean() - 1.).abs() < 1e-12 && (cosine[1].mean() - 0.5).abs() < 1e-12);
    }
}
