//! Norms of the residual stream at the first position and at later positions, and attention to the first position
//! (arXiv 2507.02559, section 5.3 and figure 3).
//!
//! Norms are Euclidean. Growth compares the stream x' at a site with the stream x at the site before: |x'| / |x| and
//! cos(x', x). Attention sink rates are fractions, by two definitions.
//!
//! Tables: `norms` (norm by site), `growth` (change from one site to the next), `sinks` (attention to the first
//! position).

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};
use experiment::Run;
use hooks::{Hook, HookedModel, Layer, Point, Site};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::distributions::statistics::interval;
use crate::evaluation::{for_each_batch, shared_sequences};
use crate::subjects::{Source, Text};

/// Parameters of `norms`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The checkpoints to measure.
    #[schemars(length(min = 1))]
    pub models: Vec<Source>,
    /// The text that all checkpoints read.
    pub text: Text,
    /// Number of sequences.
    #[schemars(range(min = 2))]
    pub sequences: usize,
    /// Number of tokens in a sequence.
    #[schemars(range(min = 2))]
    pub length: usize,
    /// Number of sequences in a batch.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Attention probability on the first position above which a query or head counts as a sink.
    #[schemars(range(min = 0, max = 1))]
    pub threshold: f64,
}

/// Mean and standard deviation of a stream of numbers.
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

/// Names of the first position of a sequence and of all later positions.
const PLACES: [&str; 2] = ["first", "rest"];

/// Description of the columns `place`.
const PLACE: &str = "first: the first position of a sequence; rest: all later positions";

/// A hook that reduces activations to sums at once. It keeps only the stream at the previous site.
#[derive(Default)]
struct Recorder {
    /// Sites in the order of a forward pass.
    sites: Vec<Site>,
    previous: Option<(Site, Tensor)>,
    /// Norms by site, at the first position and at later positions.
    norms: BTreeMap<Site, [Moments; 2]>,
    /// Ratio of norms and cosine by pair of consecutive sites, each at the first position and at later positions.
    growth: BTreeMap<(Site, Site), [[Moments; 2]; 2]>,
    threshold: f64,
    /// Counts of this batch: queries whose attention to the first position is above the threshold, all queries, heads
    /// whose mean attention is, all heads.
    sinks: [f64; 4],
}

impl Recorder {
    fn new(model: &dyn HookedModel, threshold: f64) -> Self {
        let streams = |site: &Site| {
            matches!(site, Site::Embed | Site::PosEmbed | Site::FinalNormalized)
                || matches!(site, Site::Block(_, Point::ResidMid | Point::ResidPost | Point::Pattern))
                || *site == Site::Block(Layer(0), Point::ResidPre)
        };
        Self { sites: model.sites().into_iter().filter(streams).collect(), threshold, ..Self::default() }
    }

    fn record_pattern(&mut self, pattern: &Tensor) -> candle_core::Result<()> {
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

    fn record_stream(&mut self, site: Site, x: &Tensor) -> candle_core::Result<()> {
        let norms = |x: &Tensor| -> candle_core::Result<Vec<Vec<f64>>> {
            x.to_dtype(DType::F64)?.sqr()?.sum(D::Minus1)?.sqrt()?.to_device(&Device::Cpu)?.to_vec2()
        };
        let current = norms(x)?;
        // calls `take` with sequence, position, index in `PLACES` and value
        let each = |rows: &[Vec<f64>], take: &mut dyn FnMut(usize, usize, usize, f64)| {
            for (b, row) in rows.iter().enumerate() {
                row.iter().enumerate().for_each(|(t, value)| take(b, t, usize::from(t > 0), *value));
            }
        };
        let moments = self.norms.entry(site).or_default();
        each(&current, &mut |_, _, place, norm| moments[place].add(norm));
        // growth is of the stream in blocks: not of the embeddings alone, nor of the output of the final norm
        let in_stream = matches!(site, Site::Block(..));
        if let Some((from, previous)) = self.previous.take().filter(|_| in_stream) {
            let before = norms(&previous)?;
            let dots: Vec<Vec<f64>> = (x.to_dtype(DType::F64)? * previous.to_dtype(DType::F64)?)?
                .sum(D::Minus1)?
                .to_device(&Device::Cpu)?
                .to_vec2()?;
            let [ratio, cosine] = self.growth.entry((from, site)).or_default();
            each(&dots, &mut |b, t, place, dot| {
                ratio[place].add(current[b][t] / before[b][t]);
                cosine[place].add(dot / (current[b][t] * before[b][t]));
            });
        }
        self.previous = in_stream.then(|| (site, x.clone()));
        Ok(())
    }
}

impl Hook for Recorder {
    fn wants(&self, site: Site) -> bool {
        self.sites.contains(&site)
    }

    fn visit(&mut self, site: Site, x: Tensor) -> candle_core::Result<Tensor> {
        match site {
            Site::Block(_, Point::Pattern) => self.record_pattern(&x)?,
            _ => self.record_stream(site, &x)?,
        }
        Ok(x)
    }
}

/// Measurements of one model.
struct Outcome<'a> {
    source: &'a Source,
    recorder: Recorder,
    /// Sums of [`Recorder::sinks`] over all batches.
    sinks: [f64; 4],
    /// Sink rates of each batch, by definition.
    rates: [Vec<f64>; 2],
}

/// Measures all models and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let sequences = shared_sequences(run, &params.models, &params.text, params.sequences, params.length)?;
    let mut outcomes = Vec::new();
    for source in &params.models {
        let model = source.open_folded(run)?;
        let mut recorder = Recorder::new(&model, params.threshold);
        let mut rates = [Vec::new(), Vec::new()];
        let mut total = [0.; 4];
        for_each_batch(run, &source.name, &sequences, params.batch, |_, tokens| {
            model.forward(&tokens, &mut recorder)?;
            let sinks = std::mem::take(&mut recorder.sinks);
            for (rates, count) in rates.iter_mut().zip([0, 2]) {
                rates.push(sinks[count] / sinks[count + 1]);
            }
            total.iter_mut().zip(sinks).for_each(|(total, sinks)| *total += sinks);
            Ok(())
        })?;
        outcomes.push(Outcome { source, recorder, sinks: total, rates });
    }
    norms(run, &outcomes)?;
    growth(run, &outcomes)?;
    sinks(run, &outcomes)
}

/// Sites with measured norms, in the order of a forward pass.
fn in_order(recorder: &Recorder) -> impl Iterator<Item = &Site> {
    recorder.sites.iter().filter(|site| recorder.norms.contains_key(*site))
}

fn norms(run: &Run, outcomes: &[Outcome<'_>]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("norms", "the norm of one model's activations at one site")
            .text("model", "checkpoint")
            .int("order", "index of the site in the order of a forward pass, from 0")
            .text("site", "hook site")
            .text("place", PLACE)
            .float("length", "mean Euclidean norm over tokens", "")
            .float("deviation", "standard deviation of the Euclidean norm over tokens", ""),
    );
    for Outcome { source, recorder, .. } in outcomes {
        let mut ratio: f64 = 0.;
        for (order, site) in in_order(recorder).enumerate() {
            let moments = recorder.norms[site];
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

fn growth(run: &Run, outcomes: &[Outcome<'_>]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("growth", "the change of one model's residual stream from one site to the next")
            .text("model", "checkpoint")
            .int("order", "index of the step in the order of a forward pass, from 0")
            .text("step", "hook site at the end of the step")
            .text("place", PLACE)
            .float("ratio", "Euclidean norm after the step divided by the norm before it, averaged over tokens", "")
            .float("cosine", "cosine of the streams before and after the step, averaged over tokens", ""),
    );
    for Outcome { source, recorder, .. } in outcomes {
        let mut steps: Vec<_> = recorder.growth.iter().collect();
        steps.sort_by_key(|((_, to), _)| recorder.sites.iter().position(|site| site == to));
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

fn sinks(run: &Run, outcomes: &[Outcome<'_>]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("sinks", "the attention sink rate of one model by one definition")
            .text("model", "checkpoint")
            .text(
                "definition",
                "queries: share of queries whose attention to the first position exceeds params.threshold; heads: share \
                 of heads in sequences whose attention to it, averaged over queries, exceeds it",
            )
            .float("rate", "sink rate over all batches", "fraction")
            .float("low", "2.5th percentile of the sink rate over batches", "fraction")
            .float("high", "97.5th percentile of the sink rate over batches", "fraction"),
    );
    for Outcome { source, sinks, rates, .. } in outcomes {
        for ((definition, count), rates) in [("queries", 0), ("heads", 2)].iter().zip(rates) {
            let [low, high] = interval(rates.clone());
            let rate = sinks[*count] / sinks[count + 1];
            table.push(row![&*source.name, *definition, rate, low, high])?;
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
        // two heads, three queries: attention to position 0
        let pattern = Tensor::new(
            &[[[[1f64, 0., 0.], [0.2, 0.8, 0.], [0.5, 0.2, 0.3]], [[1., 0., 0.], [0., 1., 0.], [0., 0., 1.]]]],
            &Device::Cpu,
        );
        let mut recorder = Recorder { threshold: 0.3, ..Recorder::default() };
        recorder.record_pattern(&pattern.unwrap()).unwrap();
        // first head: queries 0 and 2, mean 0.57; second head: query 0, mean 0.33
        assert_eq!(recorder.sinks, [3., 6., 2., 2.]);
    }

    #[test]
    fn norms_growth_and_cosines_of_a_known_stream() {
        let mut recorder = Recorder::default();
        let at = |point| Site::Block(Layer(0), point);
        let before = Tensor::new(&[[[3f32, 4.], [1., 0.], [0., 2.]]], &Device::Cpu).unwrap();
        recorder.record_stream(at(Point::ResidPre), &before).unwrap();
        let after = Tensor::new(&[[[6f32, 8.], [0., 2.], [0., 4.]]], &Device::Cpu).unwrap();
        recorder.record_stream(at(Point::ResidMid), &after).unwrap();
        let [first, rest] = recorder.norms[&at(Point::ResidMid)];
        assert_eq!((first.mean(), rest.mean(), rest.deviation()), (10., 3., 1.));
        let [ratio, cosine] = recorder.growth[&(at(Point::ResidPre), at(Point::ResidMid))];
        assert_eq!((ratio[0].mean(), ratio[1].mean()), (2., 2.));
        assert!((cosine[0].mean() - 1.).abs() < 1e-12 && (cosine[1].mean() - 0.5).abs() < 1e-12);
    }
}
