//! The keys that every experiment's file has, around the `params` of its own.
//!
//! A file `configs/<paper>/<experiment>.yaml` holds one [`Envelope`] without the keys that follow from its path
//! (`paper`, `experiment`, `profile`); [`crate::Catalogue::load`] adds those.

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::figure::Figure;
use crate::ordered::Ordered;

/// A checked configuration, with overlays and overrides applied.
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
    /// The keys of the file.
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
    /// The measurement and its method, in a few sentences for the report.
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
    /// Parameters of this experiment.
    #[schemars(with = "std::collections::BTreeMap<String, Value>")]
    pub params: Value,
    /// Several runs that differ in the listed keys, joined in one table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
    /// Published numbers to stand beside ours.
    #[serde(default)]
    pub published: Vec<Published>,
    /// Expected results, each with the threshold that decides.
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// The claims that are asked of a run of this size; the others are listed as not asked.
    #[serde(default, skip_serializing_if = "ClaimsAsked::is_all")]
    pub claims_asked: ClaimsAsked,
    /// Figures to draw from the tables.
    #[serde(default)]
    pub figures: Vec<Figure>,
}

/// One table or figure of the paper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    /// Id from the paper's checklist, such as `M-F2`.
    pub id: String,
    /// One line on its content.
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
    /// Points sampled at random.
    Random(RandomSweep),
}

/// A sweep of `count` points, each key sampled from its own distribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomSweep {
    /// How many points.
    #[schemars(range(min = 1))]
    pub count: usize,
    /// Seed of the sampling, separate from the experiment's own.
    pub seed: u64,
    /// Key to distribution.
    pub keys: Ordered<Draw>,
}

/// The distribution of one key in a random sweep.
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
    /// The quantity, in words.
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
    /// The threshold that the number must meet.
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

/// The claims that a profile asks, by id. A small profile inherits all claims and asks only what its size can show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ClaimsAsked {
    /// Every claim.
    #[default]
    All,
    /// No claim.
    None,
    /// These claims.
    Only(Vec<String>),
    /// All claims but these.
    Except(Vec<String>),
}

impl ClaimsAsked {
    /// Whether the claim with this id is asked.
    pub fn includes(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Only(ids) => ids.iter().any(|asked| asked == id),
            Self::Except(ids) => ids.iter().all(|left_out| left_out != id),
        }
    }

    fn is_all(&self) -> bool {
        *self == Self::All
    }
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
