//! What the analyses look at: the models that a training left, and problems to show them.

use std::collections::BTreeMap;

use crate::multiplication::{Problem, Split, Vocabulary};
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use capture::Keep;
use experiment::{Needed, Run};
use hooks::{HookedModel, Layer, Point, Site};
use models::Decoder;
use probes::Matrix;

use crate::batch::encode;
use crate::evaluation::Format;
use crate::objective::format;
use crate::params::{Method, TrainParams, Trained};

/// Sequences in one forward pass.
const CHUNK: usize = 500;

/// A training and what it held out.
pub struct Subject {
    needed: Needed,
    /// Its parameters.
    pub params: TrainParams,
    split: Split,
}

/// Which of the two places of a digit c_k is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where c_k is predicted.
    Predicting,
    /// Where c_k is the input.
    Input,
}

impl Place {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Predicting, Self::Input];

    /// Its word in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Predicting => "predicting",
            Self::Input => "input",
        }
    }
}

impl Subject {
    /// The training that the configuration needs, which must be the first under `needs:`.
    ///
    /// # Errors
    /// When nothing is needed, or that is no training.
    pub fn open(run: &Run) -> Result<Self> {
        let Some(name) = run.config().body.needs.first() else {
            bail!("needs: is empty, but this experiment looks at the models of a training, such as icot-mult/train");
        };
        let needed = run.need(name)?;
        let params: TrainParams = config::params(&needed.manifest().config)
            .with_context(|| format!("`{name}` under needs: is no training of this paper"))?;
        let task = &params.task;
        let split = Split::new(task.digits, task.train, task.validation, task.test, &mut needed.rng("split"))?;
        Ok(Self { needed, params, split })
    }

    /// Digits of each operand.
    pub fn n(&self) -> usize {
        self.params.task.digits
    }

    /// How problems are written.
    pub fn format(&self) -> Format {
        format(&self.params)
    }

    /// The model that a method left.
    ///
    /// # Errors
    /// When it was not trained, or its file has changed.
    pub fn model(&self, run: &Run, method: Trained) -> Result<Decoder> {
        Ok(models::load(&self.needed.model(&method.to_string())?, run.device())?.frozen())
    }

    /// The first of the validation problems, which no model has seen.
    ///
    /// # Errors
    /// When more are asked for than there are; `key` names the parameter.
    pub fn held_out(&self, run: &Run, key: &str, count: usize) -> Result<Vec<Problem>> {
        let (there, count) = (self.split.validation.len(), run.samples(count));
        if count > there {
            bail!("params.{key}: {count} asked for, but the training held out {there} for validation");
        }
        Ok(self.split.validation[..count].to_vec())
    }

    /// Problems that are none of the held-out ones, for fitting.
    pub fn others(&self, run: &Run, count: usize) -> Vec<Problem> {
        self.split.batch(&run.rng("problems for fitting"), 0, run.samples(count))
    }

    /// The middle digit to look at: the one asked for, or c2, as in the paper (c1 at two digits).
    ///
    /// # Errors
    /// When answers have no such digit.
    pub fn digit(&self, asked: Option<usize>) -> Result<usize> {
        let digits = 2 * self.n();
        let digit = asked.unwrap_or_else(|| 2.min(self.n().saturating_sub(1)));
        if digit >= digits {
            bail!("params.digit: there is no c{digit}; answers have {digits} digits, c0 to c{}", digits - 1);
        }
        Ok(digit)
    }

    /// Place in the sequence, without working, of answer digit `k`.
    pub fn place(&self, place: Place, k: usize) -> usize {
        let Format { digits, vocabulary, side } = self.format();
        let any = Problem { a: 0, b: 0, digits };
        let start = vocabulary.encode(&any, vocabulary.working_length(digits), side).answer_start;
        match place {
            Place::Predicting => start + k - 1,
            Place::Input => start + k,
        }
    }

    /// The tokens of problems without working, up to and with the last answer digit, `[problems, seq]`.
    ///
    /// # Errors
    /// When candle refuses.
    pub fn tokens(&self, problems: &[Problem], model: &Decoder) -> Result<Tensor> {
        let Format { digits, vocabulary, side } = self.format();
        let removed = vec![vocabulary.working_length(digits); problems.len()];
        let batch = encode(problems, &removed, side, vocabulary, &model.device())?;
        Ok(batch.inputs.narrow(1, 0, self.place(Place::Input, 2 * digits - 1) + 1)?)
    }

    /// Short names of the places of [`Self::tokens`]: `a0 .. * .. b0 .. % % # c0 ..`, all different.
    pub fn labels(&self) -> Vec<String> {
        let n = self.n();
        let digits = |name: char, count: usize| (0..count).map(move |k| format!("{name}{k}"));
        let first = self.place(Place::Input, 0);
        let between = (2 * n + 1..first).map(|place| match (first - place, place - 2 * n) {
            (1, _) => "#".to_owned(),
            (_, i) => "%".repeat(i),
        });
        digits('a', n).chain(["*".to_owned()]).chain(digits('b', n)).chain(between).chain(digits('c', 2 * n)).collect()
    }

    /// Activations of problems without working, in chunks, each site's joined along the problems.
    ///
    /// # Errors
    /// When the model lacks a site, or a signal asks to stop.
    pub fn activations(
        &self,
        run: &Run,
        model: &Decoder,
        problems: &[Problem],
        sites: &[Site],
        keep: &Keep,
    ) -> Result<BTreeMap<Site, Tensor>> {
        let mut parts: BTreeMap<Site, Vec<Tensor>> = BTreeMap::new();
        for chunk in problems.chunks(CHUNK) {
            run.check_interrupted()?;
            let recorder = capture::capture(model, &self.tokens(chunk, model)?, sites, keep)?;
            for site in sites {
                parts.entry(*site).or_default().push(recorder.get(*site)?.clone());
            }
        }
        parts.into_iter().map(|(site, parts)| Ok((site, Tensor::cat(&parts, 0)?))).collect()
    }

    /// Activations at one site and one place of the sequence, a row per problem.
    ///
    /// # Errors
    /// As [`Self::activations`].
    pub fn rows(&self, run: &Run, model: &Decoder, problems: &[Problem], site: Site, place: usize) -> Result<Matrix> {
        let keep = Keep { positions: Some(vec![place as isize]), heads: None };
        let seen = self.activations(run, model, problems, &[site], &keep)?;
        Ok(probes::matrix(&seen[&site].squeeze(1)?)?)
    }
}

/// A model and what it is looked at with.
pub struct Scene<'a> {
    /// The run.
    pub run: &'a Run,
    /// The training that left the model.
    pub subject: &'a Subject,
    /// The way of training.
    pub method: Trained,
    /// What it left.
    pub model: &'a Decoder,
    /// The answer digit c_k in question.
    pub digit: usize,
}

/// The digit of each operand that a row of attention, over the places of [`Subject::tokens`], is most on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Digit of the first operand, 0 the units.
    pub a: usize,
    /// Digit of the second.
    pub b: usize,
    /// Attention on both together.
    pub mass: f64,
}

impl Pair {
    /// The pair that `row` is most on; it must reach up to the first digit of the second operand at least.
    pub fn of(row: &[f64], n: usize) -> Self {
        let largest = |from: usize, to: usize| {
            (from..to).fold((from, f64::NEG_INFINITY), |best, at| if row[at] > best.1 { (at, row[at]) } else { best })
        };
        let ((a, on_a), (b, on_b)) = (largest(0, n), largest(n + 1, (2 * n + 1).min(row.len())));
        Self { a, b: b - n - 1, mass: on_a + on_b }
    }
}

/// The methods of which no draw was asked for.
pub fn left_out(methods: &[Trained]) -> impl Iterator<Item = Trained> {
    let there = |method: &Method| methods.iter().any(|trained| trained.method == *method);
    Method::ALL.into_iter().filter(move |method| !there(method)).map(Trained::first)
}

/// Records the metrics of the methods that were not asked for, without a value: their claims stay open.
pub fn leave_open(run: &Run, methods: &[Trained], names: &[&str]) {
    for method in left_out(methods) {
        for name in names {
            method.metric(run, name, None, "");
        }
    }
}

/// The residual stream after attention and after the MLP of every block, in order.
pub fn stream_sites(model: &Decoder) -> Vec<Site> {
    let points = [Point::ResidMid, Point::ResidPost];
    (0..model.n_layers()).flat_map(|layer| points.map(|point| Site::Block(Layer(layer), point))).collect()
}

/// Rows of the embedding (or, with `out`, of the unembedding) for the digits 0 .. 9, `[10, d_model]`.
///
/// # Errors
/// When candle refuses.
pub fn digit_rows(model: &Decoder, vocabulary: Vocabulary, out: bool) -> Result<Tensor> {
    let ids: Vec<u32> = (0..10).map(|digit| vocabulary.digit(digit)).collect();
    let weights = model.weights();
    let rows = match weights.get("unembed.W_U") {
        Some(unembed) if out => unembed.t()?.contiguous()?,
        _ => weights.get("embed.W_E").context("the model has no embedding")?.clone(),
    };
    let ids = Tensor::new(ids, rows.device())?;
    Ok(rows.index_select(&ids, 0)?)
}
