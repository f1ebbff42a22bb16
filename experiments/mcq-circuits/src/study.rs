//! The common start of every analysis: a model's questions, the direct effect of every node and the attention of each
//! head.

use anyhow::{Context, Result, bail};
use candle_core::DType;
use experiment::{Run, distinct};
use hooks::Site;
use patching::{Node, Writes, direct_effects, run_nodes};
use probes::mean;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::heads::{Class, Look, Portrait, Thresholds, index, looks};
use crate::letters::{Letters, net, reader, rows};
use crate::prompts::{Prompt, batches, tokens};
use crate::subject::{Questions, Set, Source, Subject};

/// Settings shared by all analyses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Common {
    /// The models to analyse, in order.
    #[schemars(length(min = 1))]
    pub subjects: Vec<Source>,
    /// The number of questions and which of them are kept.
    pub questions: Questions,
    /// The thresholds that classify heads.
    pub thresholds: Thresholds,
    /// Share of the positive direct effect, from 0 to 1, that the circuit must reach.
    #[schemars(range(min = 0, max = 1))]
    pub share: f64,
}

/// Direct effects on the label logits, with the final norm frozen.
pub struct Direct {
    /// The effect of each node on each label minus their mean, `[nodes][prompts][options]`.
    pub net: Vec<Vec<Letters>>,
    /// The effect of everything that is not a node: embeddings and biases, `[prompts][options]`.
    pub rest: Vec<Letters>,
    /// The model's own label logits.
    pub letters: Vec<Letters>,
    /// The activations of each node at the last position.
    pub writes: Writes,
    /// The divisor of the final norm at the last position, per prompt.
    pub scales: Vec<f64>,
}

/// Computes the direct effects of every node on some prompts.
pub fn direct(subject: &Subject, prompts: &[Prompt], batch: usize) -> Result<Direct> {
    let nodes = Node::all(&subject.model);
    let mut found = vec![vec![Letters::new(); prompts.len()]; nodes.len()];
    let (mut rest, mut letters) = (vec![Letters::new(); prompts.len()], vec![Letters::new(); prompts.len()]);
    let (mut writes, mut scales) = (Vec::new(), vec![1.; prompts.len()]);
    let mut order = Vec::new();
    for indices in batches(prompts, batch) {
        let run = run_nodes(&subject.model, &tokens(prompts, &indices, &subject.model.device())?)?;
        let picked: Vec<&Prompt> = indices.iter().map(|index| &prompts[*index]).collect();
        let read = reader(&picked);
        let effects = direct_effects(&subject.model, &run, &read)?;
        for (node, effect) in effects.nodes.iter().enumerate() {
            for (index, row) in indices.iter().zip(rows(effect)?) {
                found[node][*index] = net(&row);
            }
        }
        let others = rows(&(&effects.rest + &effects.constant)?)?;
        let own = rows(&read(run.logits())?)?;
        let scale = run.at(Site::FinalScale)?.flatten_all()?.to_dtype(DType::F64)?;
        indices.iter().zip(scale.to_vec1::<f64>()?).for_each(|(index, scale)| scales[*index] = scale);
        for ((index, other), own) in indices.iter().zip(others).zip(own) {
            rest[*index] = net(&other);
            letters[*index] = own;
        }
        writes.push(Writes::of(&run, subject.sizes().0)?);
        order.extend(indices);
    }
    // Restore the order of the prompts.
    let mut place = vec![0; order.len()];
    order.iter().enumerate().for_each(|(row, index)| place[*index] = row);
    let writes = Writes::cat(&writes)?.gather(&place)?;
    Ok(Direct { net: found, rest, letters, writes, scales })
}

impl Direct {
    /// The mean direct effect of each node on the right label.
    pub fn means(&self, prompts: &[Prompt]) -> Vec<f64> {
        let node = |effects: &Vec<Letters>| mean(&right(effects, prompts));
        self.net.iter().map(node).collect()
    }

    /// The completeness gap: the largest absolute difference between the sum of all parts and the net logit.
    pub fn gap(&self, prompts: &[Prompt]) -> f64 {
        let gap = |prompt: usize| {
            let c = prompts[prompt].correct;
            let sum: f64 = self.net.iter().map(|node| node[prompt][c]).sum();
            (sum + self.rest[prompt][c] - net(&self.letters[prompt])[c]).abs()
        };
        (0..prompts.len()).map(gap).fold(0., f64::max)
    }
}

/// The entry of the right label, per prompt.
pub fn right(effects: &[Letters], prompts: &[Prompt]) -> Vec<f64> {
    effects.iter().zip(prompts).map(|(effect, prompt)| effect[prompt.correct]).collect()
}

/// Samples for each prompt a source prompt with a different right option; the prompt itself if there is none.
pub fn sources(prompts: &[Prompt], rng: &mut ChaCha12Rng) -> Vec<usize> {
    let options = prompts.iter().map(|prompt| prompt.correct + 1).max().unwrap_or(0);
    let other_than = |option: usize| (0..prompts.len()).filter(|i| prompts[*i].correct != option).collect();
    let pools: Vec<Vec<usize>> = (0..options).map(other_than).collect();
    prompts.iter().enumerate().map(|(i, prompt)| pools[prompt.correct].choose(rng).copied().unwrap_or(i)).collect()
}

/// A model with the results on its nodes that all analyses share.
pub struct Study {
    /// The model.
    pub subject: Subject,
    /// The fit questions, which rankings, means and bases are estimated from.
    pub fit: Set,
    /// The evaluation questions, which reported metrics use.
    pub eval: Set,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// The mean direct effect of each node on the right label, on the fit questions.
    pub effects: Vec<f64>,
    /// The direct effects on the fit questions.
    pub direct: Direct,
    /// The node indices by decreasing direct effect.
    pub ranking: Vec<usize>,
    /// The number of nodes in the circuit, the first ones of the ranking.
    pub kept: usize,
    /// The attention of each head on the evaluation questions, `[heads]`.
    pub portraits: Vec<Portrait>,
    /// The attention behind the portraits, `[heads][prompts]`.
    pub looks: Vec<Vec<Look>>,
    /// The class of each head.
    pub classes: Vec<Class>,
}

impl Study {
    /// Opens a model, evaluates its questions and analyses every node.
    pub fn new(run: &Run, common: &Common, source: &Source) -> Result<Self> {
        let subject = Subject::open(run, source)?;
        let [fit, eval] = subject.sets(run, &common.questions)?;
        let batch = common.questions.batch;
        let direct = direct(&subject, &fit.prompts, batch)?;
        let nodes = Node::all(&subject.model);
        let effects = direct.means(&fit.prompts);
        let mut ranking: Vec<usize> = (0..nodes.len()).collect();
        ranking.sort_by(|a, b| effects[*b].total_cmp(&effects[*a]));
        let positive: f64 = effects.iter().filter(|effect| **effect > 0.).sum();
        if positive <= 0. {
            bail!(
                "{}: no node raises the right label on average, so there is no circuit; check that the model answers the questions",
                source.name
            );
        }
        let mut sum = 0.;
        let kept = ranking.iter().take_while(|node| {
            let more = sum < common.share * positive && effects[**node] > 0.;
            sum += effects[**node];
            more
        });
        let kept = kept.count();
        run.check_interrupted()?;
        let looks = looks(&subject.model, &eval.prompts, batch)?;
        let portraits: Vec<Portrait> = looks.iter().map(|looks| Portrait::of(looks, &eval.prompts)).collect();
        let mut study =
            Self { subject, fit, eval, nodes, effects, direct, ranking, kept, portraits, looks, classes: Vec::new() };
        study.classes = study.classed(&common.thresholds);
        tracing::info!("{}: the circuit has {} of {} nodes", source.name, study.kept, study.nodes.len());
        Ok(study)
    }

    /// The name of the model.
    pub fn name(&self) -> &str {
        &self.subject.name
    }

    /// The class of each head under these thresholds.
    pub fn classed(&self, thresholds: &Thresholds) -> Vec<Class> {
        let (_, n_heads) = self.subject.sizes();
        let heads = self.nodes.iter().zip(&self.effects).filter(|(node, _)| node.head().is_some());
        heads
            .map(|(node, effect)| self.portraits[index(*node, n_heads).unwrap_or(0)].class(*effect, thresholds))
            .collect()
    }

    /// The class of a node; `None` for an MLP.
    pub fn class(&self, node: Node) -> Option<Class> {
        index(node, self.subject.sizes().1).map(|head| self.classes[head])
    }

    /// The nodes of the circuit.
    pub fn circuit(&self) -> Vec<Node> {
        self.ranking[..self.kept].iter().map(|node| self.nodes[*node]).collect()
    }

    /// The heads of a class by decreasing direct effect.
    pub fn of_class(&self, class: Class) -> Vec<Node> {
        let ranked = self.ranking.iter().map(|node| self.nodes[*node]);
        ranked.filter(|node| self.class(*node) == Some(class)).collect()
    }

    /// The Correct Letter heads. If a model has none, the list is empty and a warning is logged.
    pub fn letter_heads(&self) -> Vec<Node> {
        let heads = self.of_class(Class::CorrectLetter);
        if heads.is_empty() {
            tracing::warn!("{}: no Correct Letter head found; metrics about such heads are left empty", self.name());
        }
        heads
    }
}

/// Runs `of` on a study of every subject, in order.
pub fn each(run: &Run, common: &Common, mut of: impl FnMut(&Study) -> Result<()>) -> Result<()> {
    distinct("params.subjects", common.subjects.iter().map(|source| source.name.as_str()))?;
    let mut task = run.task("subjects", common.subjects.len() as u64, "models");
    let mut done = 0;
    for source in &common.subjects {
        run.check_interrupted()?;
        let study = Study::new(run, common, source).with_context(|| source.name.clone())?;
        of(&study)?;
        done += 1;
        task.at(done, source.name.as_str());
    }
    Ok(())
}
