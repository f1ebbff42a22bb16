//! What a figure is made of: a table, the columns that become axes, colours and panels, and how they are labelled.
//!
//! `figures` draws it; nothing here knows how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ordered::Ordered;

/// One figure of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// File stem of the picture, unique in the experiment, such as `loss-per-digit`.
    pub id: String,
    /// Checklist id of the paper's figure or table, such as `M-F7`.
    pub artefact: String,
    /// Heading.
    pub title: String,
    /// What to look for, below the picture.
    #[serde(default)]
    pub caption: String,
    /// How it is drawn.
    pub kind: FigureKind,
    /// Table of this experiment, by name, or a CSV file relative to the configuration file, such as `published/curves.csv`.
    pub table: String,
    /// Keep only the rows in which each column has the value, one of the values, or none of those behind `not`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<Ordered<OneOrMany>>,
    /// Column on the horizontal axis (the value of a histogram, the columns of a heat map).
    pub x: String,
    /// Column on the vertical axis (the rows of a heat map); histograms have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// Column on the third axis of a scatter in space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub z: Option<String>,
    /// Table of straight lines in a scatter in space: columns `x_from`, `y_from`, `z_from`, `x_to`, `y_to`, `z_to`, and
    /// those of the panels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<String>,
    /// From where a scatter in space is seen, in degrees: round the third axis, and up from the plane of the other two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<[f64; 2]>,
    /// Column of a heat map's colour, or of the strength of arcs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Column whose first value's arcs lie above the line and whose second value's lie below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<String>,
    /// Column that splits the rows into lines, bar groups or coloured points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// Column whose values each get a panel, side by side, with shared scales.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facet: Option<String>,
    /// Column whose values each get a row of panels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facet_row: Option<String>,
    /// Explicit order (and choice) of the values of a column; file order otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Ordered<Vec<serde_json::Value>>>,
    /// Words in place of raw values or column names, such as `sft: plain fine-tuning`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Ordered<String>>,
    /// Axis label; the column's name and unit when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x_label: Option<String>,
    /// Axis label; the column's name and unit when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y_label: Option<String>,
    /// Label of the colour bar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_label: Option<String>,
    /// Horizontal scale.
    #[serde(default, skip_serializing_if = "Scale::is_linear")]
    pub x_scale: Scale,
    /// Vertical scale.
    #[serde(default, skip_serializing_if = "Scale::is_linear")]
    pub y_scale: Scale,
    /// Colour scale of a heat map.
    #[serde(default, skip_serializing_if = "Scale::is_linear")]
    pub value_scale: Scale,
    /// Fixed ends of the horizontal axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x_range: Option<[f64; 2]>,
    /// Fixed ends of the vertical axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y_range: Option<[f64; 2]>,
    /// Fixed ends of the colours; values outside are clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_range: Option<[f64; 2]>,
    /// Colours run both ways from this value, blue below and red above, as far on either side as the value farthest from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_centre: Option<f64>,
    /// Write each cell's number into a heat map, with so many decimals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotate: Option<u8>,
    /// Number of bins of a histogram.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub bins: Option<u32>,
    /// Published values drawn over ours, hollow and dashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
    /// Straight reference lines with a label, such as chance level.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

impl Figure {
    /// File of the table in the run folder; none when the figure draws published values, which lie beside the configuration.
    #[must_use]
    pub fn table_file(&self) -> Option<String> {
        (!self.table.ends_with(".csv")).then(|| format!("{}.csv", self.table))
    }

    /// Files of the figure in the run folder: both pictures, and its table where it has one there.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let pictures = ["svg", "png"].map(|ending| format!("{}.{ending}", self.id));
        let links = self.links.iter().map(|table| format!("{table}.csv"));
        pictures.into_iter().chain(self.table_file()).chain(links).collect()
    }
}

/// How a figure is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FigureKind {
    /// Lines over x, one per series.
    Line,
    /// Points, coloured by series.
    Scatter,
    /// Grouped bars: x categories, one bar per series.
    Bar,
    /// Points in space, coloured by series; each panel has its own scale, the same along all three axes.
    #[serde(rename = "scatter_3d")]
    Scatter3d,
    /// Places along a line, x, joined by arcs to other places, y, as strong as their value.
    Arcs,
    /// Coloured cells, x by y.
    HeatMap,
    /// Counts of x in bins, one outline per series.
    Histogram,
}

/// An axis or colour scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Proportional.
    #[default]
    Linear,
    /// Logarithmic; values that are not positive are clipped to the lower end.
    Log,
}

impl Scale {
    /// Whether it is the default.
    pub fn is_linear(&self) -> bool {
        *self == Scale::Linear
    }
}

/// A second table with the same columns drawn over the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// CSV file relative to the configuration file, such as `published/curves.csv`.
    pub file: String,
    /// Legend entry, such as `published`.
    pub label: String,
}

/// A straight reference line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Vertical line at this x.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<f64>,
    /// Horizontal line at this y.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<f64>,
    /// The diagonal x = y.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub diagonal: bool,
    /// Its words.
    pub label: String,
}

/// Values that are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct But {
    /// The values.
    pub not: Vec<serde_json::Value>,
}

/// A value, a list of values, or what is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// Any of these.
    Many(Vec<serde_json::Value>),
    /// Any but these, which need not be there.
    But(But),
    /// Exactly this.
    One(serde_json::Value),
}
