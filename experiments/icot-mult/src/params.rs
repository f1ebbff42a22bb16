//! What the configuration of a training says.

use std::fmt;

use crate::multiplication::{Side, Vocabulary};
use experiment::{Run, Seed};
use models::Config;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subject::Shape;
use training::Plan;

/// Parameters of `train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainParams {
    /// The problems.
    pub task: Task,
    /// The decoder; the vocabulary and the number of positions follow from the task.
    pub model: Shape,
    /// Ways of training. All start from the same fresh weights; `icot-2` is `icot` from a second seed.
    #[schemars(length(min = 1))]
    pub methods: Vec<Trained>,
    /// Problems in a micro-batch.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Steps, optimiser, schedule, checkpoints.
    pub training: Plan,
    /// How working is taken away, for `icot`.
    pub icot: Icot,
    /// The regression beside the language loss, for `aux`.
    pub aux: Aux,
    /// What is looked at on the way.
    pub evaluation: Evaluation,
}

/// A way of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Plain fine-tuning on the answer, without working.
    Sft,
    /// Implicit chain of thought: the working is taken away token by token.
    Icot,
    /// Explicit chain of thought: the working stays.
    Cot,
    /// Plain fine-tuning with a regression of the running sums from two heads.
    Aux,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sft, Self::Icot, Self::Cot, Self::Aux];
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sft => "sft",
            Self::Icot => "icot",
            Self::Cot => "cot",
            Self::Aux => "aux",
        })
    }
}

/// A way of training and its seed: `icot` is the first seed, `icot-2` the second.
///
/// Each seed has its own fresh weights and problems, which all ways of training share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^(sft|icot|cot|aux)(-[2-9])?$"))]
pub struct Trained {
    /// The way.
    pub method: Method,
    /// The seed.
    pub seed: Seed,
}

impl Trained {
    /// The first seed of a way.
    pub fn first(method: Method) -> Self {
        Self { method, seed: Seed::FIRST }
    }

    /// Records a metric of this seed under the way's name.
    pub fn metric(self, run: &Run, name: &str, value: impl Into<Option<f64>>, unit: &str) {
        self.seed.metric(run, &format!("{}.{name}", self.method), value, unit);
    }
}

impl fmt::Display for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.seed.label(&self.method.to_string()))
    }
}

impl From<Trained> for String {
    fn from(trained: Trained) -> Self {
        trained.to_string()
    }
}

impl TryFrom<String> for Trained {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (name, seed) = Seed::parse(&text);
        let method = Method::ALL.into_iter().find(|method| method.to_string() == name);
        match method.filter(|_| seed.number() <= 9) {
            Some(method) => Ok(Self { method, seed }),
            None => Err(format!("`{text}` is not sft, icot, cot or aux, nor a further seed of one, such as icot-2")),
        }
    }
}

/// Which problems.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Digits of each operand, n.
    #[schemars(range(min = 1, max = 9))]
    pub digits: usize,
    /// Which ids stand for the symbols.
    pub vocabulary: Vocabulary,
    /// Size of a fixed training set; fresh problems at every step when null.
    #[schemars(range(min = 1))]
    pub train: Option<usize>,
    /// Held-out problems for curves.
    #[schemars(range(min = 1))]
    pub validation: usize,
    /// Held-out problems for the last word.
    #[schemars(range(min = 1))]
    pub test: usize,
}

impl TrainParams {
    /// The decoder's full configuration: room for the longest sequence of the task.
    pub fn model_config(&self) -> Config {
        let Task { digits, vocabulary, .. } = self.task;
        self.model.config(vocabulary.size(), vocabulary.sequence_length(digits, 0))
    }
}

/// How working is taken away (arXiv 2405.14838, section 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Icot {
    /// Steps with all of the working, before the first token goes.
    pub full_working_steps: u64,
    /// Steps between one token going and the next.
    #[schemars(range(min = 1))]
    pub steps_per_token: u64,
    /// Lets a token go as soon as the model has recovered from the loss of the one before, so that the steps above become
    /// the most that are waited; by the clock alone, as published, when null.
    #[serde(default)]
    pub recovery: Option<Recovery>,
    /// From which end tokens go.
    pub side: Side,
    /// Removal smoothing: o more tokens go with probability proportional to exp(-this o); none when null.
    #[schemars(range(min = 0))]
    pub smoothing: Option<f64>,
    /// Whether the optimiser forgets its running means each time a token goes.
    pub reset_optimizer: bool,
    /// Whether what stands behind the removed tokens keeps its positions, instead of moving up (for every method, so that
    /// all see the answer at the same positions). The model is written with the places of the working left out.
    #[serde(default)]
    pub keep_positions: bool,
}

/// When a model counts as recovered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// Training loss, in nats, below which its mean must lie.
    #[schemars(range(min = 0))]
    pub below: f64,
    /// Steps in that mean, all since the last token went.
    #[schemars(range(min = 1))]
    pub over: usize,
}

/// The auxiliary loss (arXiv 2510.00184, section 6): running sums read from heads of the last block by one vector each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Aux {
    /// Weight of the mean squared error beside the language loss.
    #[schemars(range(min = 0))]
    pub weight: f64,
    /// Running sums are divided by this before the regression.
    #[schemars(range(min = 1e-9))]
    pub target_scale: f64,
    /// Heads of the last block, from 0.
    #[schemars(length(min = 1))]
    pub heads: Vec<usize>,
    /// Where they are read.
    pub position: AuxPosition,
}

/// Where the regression reads the heads, for digit k.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuxPosition {
    /// Where c_k is predicted.
    Predicting,
    /// Where c_k is the input.
    Input,
}

/// What is looked at on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Steps between evaluations.
    #[schemars(range(min = 1))]
    pub every: u64,
    /// Validation problems in each.
    #[schemars(range(min = 1))]
    pub problems: usize,
    /// Problems whose working the model must write itself, while there is any (slower).
    #[schemars(range(min = 1))]
    pub generated: usize,
    /// Steps between measurements of each digit's gradient.
    #[schemars(range(min = 1))]
    pub gradients_every: u64,
    /// Validation problems in each.
    #[schemars(range(min = 1))]
    pub gradient_problems: usize,
}
