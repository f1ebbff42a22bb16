//! What every experiment's file says, whatever the paper: the envelope around its `params`.
//!
//! These are plain types; what is done with them stands in the modules after this one.
//! A file `configs/<paper>/<experiment>.yaml` holds one [`Envelope`] without the keys that the path already says
//! (`paper`, `experiment`, `profile`); [`crate::Catalogue::load`] fills those in.

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::figure::Figure;
use crate::ordered::Ordered;

/// A checked, resolved configuration: what the file, its overlays and the overrides amount to.
///
/// Written out, it is one flat mapping: the three names from the path and then the keys of the [`Body`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Envelope {
    /// Folder name of the paper, such as `icot-mult`.
    pub paper: String,
    /// File stem of the experiment, such as `train`.
    pub experiment: String,
    /// `smoke`, `cpu`, `overnight` or `paper`.
    pub profile: String,
    /// What the file itself says.
    #[serde(flatten)]
    pub body: Body,
}

/// By hand, because serde does not promise that `flatten` and `deny_unknown_fields` work together.
impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut keys = Map::deserialize(deserializer)?;
        let paper = take_text(&mut keys, "paper").map_err(D::Error::custom)?;
        let experiment = take_text(&mut keys, "experiment").map_err(D::Error::custom)?;
        let profile = take_text(&mut keys, "profile").map_err(D::Error::custom)?;
        let body = serde_json::from_value(Value::Object(keys)).map_err(D::Error::custom)?;
        Ok(Envelope { paper, experiment, profile, body })
    }
}

fn take_text(keys: &mut Map<String, Value>, key: &str) -> Result<String, String> {
    match keys.shift_remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("`{key}` must be text, found {other}")),
        None => Err(format!("missing field `{key}`")),
    }
}

/// The keys of a configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// One line for headings.
    pub title: String,
    /// What is measured and how, in a few sentences for the report.
    #[serde(default)]
    pub summary: String,
    /// The paper's tables and figures that this experiment rebuilds.
    #[serde(default)]
    pub artefacts: Vec<Artefact>,
    /// Experiments whose results this one reads, as `<paper>/<experiment>`.
    #[serde(default)]
    pub needs: Vec<String>,
    /// The one seed; every random stream is split from it by name.
    pub seed: u64,
    /// What only this experiment knows.
    #[schemars(with = "std::collections::BTreeMap<String, Value>")]
    pub params: Value,
    /// Several runs that differ in the listed keys, joined in one table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
    /// Published numbers to stand beside ours.
    #[serde(default)]
    pub published: Vec<Published>,
    /// What should come out, with the threshold that decides.
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// What to draw from the tables.
    #[serde(default)]
    pub figures: Vec<Figure>,
}

/// One table or figure of the paper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    /// Id from the paper's checklist, such as `M-F2`.
    pub id: String,
    /// What it shows, in one line.
    pub title: String,
}

/// How the points of a sweep are chosen: exactly one of the three.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Sweep {
    /// Every combination of the values of every key.
    Grid(Ordered<Vec<Value>>),
    /// Exactly these points.
    List(Vec<Ordered<Value>>),
    /// Points drawn at random.
    Random(RandomSweep),
}

/// A sweep of `count` points, each key drawn from its own distribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomSweep {
    /// How many points.
    #[schemars(range(min = 1))]
    pub count: usize,
    /// Seed of the draw, apart from the experiment's own.
    pub seed: u64,
    /// Key to distribution.
    pub keys: Ordered<Draw>,
}

/// Where a random sweep draws one key from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Draw {
    /// One of these, each equally likely.
    Choice(Vec<Value>),
    /// Uniform between two numbers.
    Uniform([f64; 2]),
    /// Uniform in the logarithm between two positive numbers.
    LogUniform([f64; 2]),
    /// A whole number between two bounds, both included.
    Integer([i64; 2]),
}

/// A number from the paper, and the metric of ours that it stands beside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Checklist id of the table or figure it belongs to.
    pub artefact: String,
    /// Name of the metric that the experiment reports.
    pub metric: String,
    /// What it is, in words.
    pub statement: String,
    /// The published value; left out where none could be found.
    #[serde(default)]
    pub value: Option<f64>,
    /// Unit, such as `nats` or `fraction`.
    #[serde(default)]
    pub unit: String,
    /// Where it stands: paper, section, table.
    pub source: String,
    /// How it is known.
    pub provenance: Provenance,
}

/// How a published number is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// Printed in the paper's text, a table or a figure.
    Published,
    /// Reported by others who had the whole text.
    Reported,
    /// Read off the released code, logs or data.
    Read,
    /// Computed from the definitions or the released data.
    Computed,
    /// From an indicative small run.
    Pilot,
    /// Not stated anywhere that could be reached; ours is a choice.
    Unstated,
}

impl std::fmt::Display for Provenance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Published => "published",
            Self::Reported => "reported",
            Self::Read => "read",
            Self::Computed => "computed",
            Self::Pilot => "pilot",
            Self::Unstated => "unstated",
        })
    }
}

/// A statement that the run decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Short name, unique in the file.
    pub id: String,
    /// Checklist id of the table or figure it rests on.
    pub artefact: String,
    /// The claim in words.
    pub statement: String,
    /// Name of the metric that decides.
    pub metric: String,
    /// A second metric to take off the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minus: Option<String>,
    /// How several points of a sweep become one number; the side worst for the threshold when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Over>,
    /// What the number must meet.
    pub threshold: Threshold,
    /// The paper's value of the same quantity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<f64>,
    /// Unit, such as `nats` or `fraction`.
    #[serde(default)]
    pub unit: String,
    /// Where the claim and its published value stand.
    #[serde(default)]
    pub source: String,
}

/// One number out of the points of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// Arithmetic mean.
    Mean,
    /// Middle value.
    Median,
    /// Smallest.
    Min,
    /// Largest.
    Max,
}

/// The threshold of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Threshold {
    /// Holds when the value is at least this.
    AtLeast(f64),
    /// Holds when the value is at most this.
    AtMost(f64),
    /// Holds between the two, both included.
    Between([f64; 2]),
}
