//! The accuracy of models on multiple-choice questions, by letter and by the likelihood of the option texts (arXiv
//! 2307.09458, section 2).
//!
//! Tables: `behaviour` (a row per model, format and number of solved examples before the question), `letters` (the
//! share of each answer by right option, which shows a bias to one letter).

use anyhow::{Context, Result};
use candle_core::{D, DType, Tensor};
use experiment::Run;
use hooks::{End, HookedModel, NoHook, Start};
use probes::{bootstrap, mean};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::letters::{choice, loss};
use crate::prompts::{Prompt, batches, tokens};
use crate::subject::{Questions, Set, Source, Subject, letter};

/// Parameters of `behaviour`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The models to evaluate, in order.
    #[schemars(length(min = 1))]
    pub subjects: Vec<Source>,
    /// Number of questions per model, at least 8.
    #[schemars(range(min = 8))]
    pub questions: usize,
    /// Numbers of solved examples before the question. Small models are evaluated without examples only, because their
    /// training has none.
    #[schemars(length(min = 1))]
    pub shots: Vec<usize>,
    /// Whether options are also scored by the likelihood of their text. Small models know single words only and are not
    /// scored this way.
    pub score_text: bool,
    /// Number of prompts per forward pass.
    #[schemars(range(min = 1))]
    pub batch: usize,
}

/// Asks every model all questions and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let mut behaviour = Builder::new(
        Schema::new("behaviour", "one model with one answer format and one number of examples")
            .text("subject", "name of the model")
            .int("parameters", "number of trainable parameters")
            .text(
                "format",
                "letter: the answer is the label with the largest logit; text: the option with the most likely text",
            )
            .int("shots", "number of solved examples before the question")
            .int("questions", "number of questions")
            .float("accuracy", "share of questions answered correctly", "fraction")
            .float("low", "lower end of the 95 % bootstrap interval", "fraction")
            .float("high", "upper end of the 95 % bootstrap interval", "fraction")
            .float("letter_mass", "mean total probability of the labels among all tokens", "fraction")
            .float("loss", "mean cross-entropy among the labels only", "nats"),
    );
    let mut confusion = Builder::new(
        Schema::new("letters", "one answer for one right option, letter format with the first number of examples")
            .text("subject", "name of the model")
            .text("right", "letter of the right option's position")
            .text("answer", "letter of the position of the chosen label")
            .float("share", "share of the questions with this right option", "fraction"),
    );
    for source in &params.subjects {
        run.check_interrupted()?;
        let subject = Subject::open(run, source).with_context(|| source.name.clone())?;
        let only = Questions { fit: 8, eval: params.questions, answered_only: false, batch: params.batch };
        let [examples, set] = subject.sets(run, &only)?;
        let parameters = subject.parameters;
        for shots in &params.shots {
            if *shots > 0 && subject.is_toy() {
                continue;
            }
            let asked = subject.with_examples(&set, &examples.questions, *shots);
            let scored = scored(&subject, &asked, params.batch)?;
            let [low, high] = bootstrap(&scored.right, 1000, &mut run.rng("bootstrap"));
            let (accuracy, mass) = (mean(&scored.right), mean(&scored.mass));
            let (name, count) = (&*subject.name, asked.prompts.len());
            let loss = mean(&scored.loss);
            behaviour.push(row![name, parameters, "letter", *shots, count, accuracy, low, high, mass, loss])?;
            run.metric(&format!("{name}.letter.{shots}.accuracy"), accuracy, "fraction");
            run.metric(&format!("{name}.letter.{shots}.mass"), mass, "fraction");
            if *shots == params.shots[0] {
                for (right, answers) in scored.answers.iter().enumerate() {
                    for (answer, share) in answers.iter().enumerate() {
                        confusion.push(row![name, letter(right), letter(answer), *share])?;
                    }
                }
            }
            if params.score_text && !subject.is_toy() {
                let right = by_text(run, &subject, &asked)?;
                let [low, high] = bootstrap(&right, 1000, &mut run.rng("bootstrap"));
                let none = None::<f64>;
                let accuracy = mean(&right);
                behaviour.push(row![name, parameters, "text", *shots, count, accuracy, low, high, none, none])?;
                run.metric(&format!("{name}.text.{shots}.accuracy"), accuracy, "fraction");
            }
        }
    }
    run.record(behaviour.finish()?);
    run.record(confusion.finish()?);
    Ok(())
}

/// The answers of a model by letter.
struct Scored {
    /// 1 if the answer is right, else 0, per question.
    right: Vec<f64>,
    /// Total probability of the labels, per question.
    mass: Vec<f64>,
    loss: Vec<f64>,
    /// Share of each answer, by right option.
    answers: Vec<Vec<f64>>,
}

fn scored(subject: &Subject, set: &Set, batch: usize) -> Result<Scored> {
    let (prompts, options) = (&set.prompts, set.options());
    let mut scored =
        Scored { right: Vec::new(), mass: Vec::new(), loss: Vec::new(), answers: vec![vec![0.; options]; options] };
    let mut counts = vec![0.; options];
    for indices in batches(prompts, batch) {
        let ids = tokens(prompts, &indices, &subject.model.device())?;
        let logits = subject.model.forward_between(Start::Tokens(&ids), End::LastLogits(1), &mut NoHook)?.squeeze(1)?;
        let all = logits.to_dtype(DType::F64)?.log_sum_exp(D::Minus1)?.to_vec1::<f64>()?;
        let picked: Vec<&Prompt> = indices.iter().map(|index| &prompts[*index]).collect();
        let letters = crate::letters::rows(&crate::letters::reader(&picked)(&logits.unsqueeze(1)?)?)?;
        for ((prompt, z), all) in picked.iter().zip(&letters).zip(all) {
            let answer = choice(z);
            counts[prompt.correct] += 1.;
            scored.answers[prompt.correct][answer] += 1.;
            scored.right.push(if answer == prompt.correct { 1. } else { 0. });
            scored.mass.push(z.iter().map(|z| (z - all).exp()).sum());
            scored.loss.push(loss(z, prompt.correct));
        }
    }
    for (row, count) in scored.answers.iter_mut().zip(counts) {
        row.iter_mut().for_each(|share| *share /= f64::max(count, 1.));
    }
    Ok(scored)
}

/// 1 for each question whose right option has the largest mean log-probability per token after `Answer:`, else 0.
fn by_text(run: &Run, subject: &Subject, set: &Set) -> Result<Vec<f64>> {
    let mut right = Vec::new();
    for question in &set.questions {
        run.check_interrupted()?;
        let mut scores = Vec::new();
        for (before, option) in subject.asker.option_texts(question)? {
            let (shared, count) = (before.len(), before.len() + option.len());
            let ids: Vec<u32> = before.into_iter().chain(option.iter().copied()).collect();
            let ids = Tensor::from_vec(ids, (1, count), &subject.model.device())?;
            let end = End::LastLogits(count - shared + 1);
            let logits = subject.model.forward_between(Start::Tokens(&ids), end, &mut NoHook)?.squeeze(0)?;
            // A token's logits are at the position before it.
            let logits = logits.narrow(0, 0, count - shared)?.to_dtype(DType::F64)?;
            let all = logits.log_sum_exp(D::Minus1)?.to_vec1::<f64>()?;
            let chosen = Tensor::from_slice(&option, (option.len(), 1), logits.device())?;
            let own = logits.contiguous()?.gather(&chosen, 1)?.squeeze(1)?.to_vec1::<f64>()?;
            scores.push(mean(&own.iter().zip(all).map(|(own, all)| own - all).collect::<Vec<f64>>()));
        }
        right.push(if choice(&scores) == question.correct { 1. } else { 0. });
    }
    Ok(right)
}
