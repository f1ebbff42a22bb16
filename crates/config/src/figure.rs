//! A figure as a configuration states it: a table, the columns that become axes, colours and panels, and their labels.
//!
//! The crate `figures` draws it. [`FigureKind::keys`] says which keys a kind of figure uses.

mod kind;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::kind::{FigureKind, KeyUse, KindKeys};
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
    /// Text below the picture that tells the reader what to look for.
    #[serde(default)]
    pub caption: String,
    /// Kind of figure.
    pub kind: FigureKind,
    /// Table of this experiment, by name, or a CSV file relative to the configuration file, such as `published/curves.csv`.
    pub table: String,
    /// Keep only the rows in which each column has this value, one of these values, or none of the values after `not`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<Ordered<OneOrMany>>,
    /// Column on the horizontal axis (the values of a histogram, the columns of a heat map).
    pub x: String,
    /// Column on the vertical axis (the rows of a heat map). Histograms have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// Column on the third axis of a `scatter_3d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub z: Option<String>,
    /// Table of straight line segments in a `scatter_3d`, with columns `x_from`, `y_from`, `z_from`, `x_to`, `y_to`,
    /// `z_to` and the columns of the panels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<String>,
    /// View of a `scatter_3d` in degrees: azimuth around the third axis, and elevation above the plane of the other two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<[f64; 2]>,
    /// Column of a heat map's colours, or of the widths of arcs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Column with two values: arcs of the first lie above the line, arcs of the second below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<String>,
    /// Column that splits the rows into lines, bar groups or coloured points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// Column whose values each get a panel; the panels stand side by side and share their scales.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facet: Option<String>,
    /// Column whose values each get a row of panels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facet_row: Option<String>,
    /// Order of the values of a column, and choice among them. Otherwise text keeps the order of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Ordered<Vec<serde_json::Value>>>,
    /// Labels in place of raw values or column names, such as `sft: plain fine-tuning`.
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
    /// Fixed ends of the colour scale; values outside are clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_range: Option<[f64; 2]>,
    /// Centre of a diverging colour scale, blue below and red above. The value farthest from the centre sets both ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_centre: Option<f64>,
    /// Print the number of each cell of a heat map, or above each bar, with this many decimals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotate: Option<u8>,
    /// Number of bins of a histogram.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub bins: Option<u32>,
    /// Second table, such as published values, drawn over the first with hollow markers and dashed lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
    /// Straight reference lines with a label, such as chance level.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

impl Figure {
    /// File name of the table in the run folder; `None` when the table is a CSV file beside the configuration.
    #[must_use]
    pub fn table_file(&self) -> Option<String> {
        (!self.table.ends_with(".csv")).then(|| format!("{}.csv", self.table))
    }

    /// Files of the figure in the run folder: the SVG picture, and the tables that lie there.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let picture = format!("{}.svg", self.id);
        let links = self.links.iter().map(|table| format!("{table}.csv"));
        std::iter::once(picture).chain(self.table_file()).chain(links).collect()
    }

    /// Checks what needs no table: the keys that the kind uses, the ranges, and the centre of the colours.
    ///
    /// # Errors
    /// The first mistake, as a clause without the figure's name.
    pub fn check(&self) -> Result<(), String> {
        self.check_keys()?;
        if self.value_centre.is_some() && (self.value_range.is_some() || self.value_scale == Scale::Log) {
            return Err(CENTRE_ALONE.to_owned());
        }
        for (key, range, scale) in [
            ("x_range", self.x_range, self.x_scale),
            ("y_range", self.y_range, self.y_scale),
            ("value_range", self.value_range, self.value_scale),
        ] {
            let Some([low, high]) = range else { continue };
            if !(low < high && low.is_finite() && high.is_finite()) {
                return Err(format!("the first number of `{key}` must be the smaller one"));
            }
            if scale == Scale::Log && low <= 0.0 {
                return Err(format!("`{key}` must be positive on a logarithmic scale"));
            }
        }
        Ok(())
    }

    /// Keys that are required and missing, or given and meaningless.
    fn check_keys(&self) -> Result<(), String> {
        let written = serde_json::to_value(self).map_err(|error| error.to_string())?;
        let given = |key: &str| written.get(key).is_some_and(|value| value.as_array().is_none_or(|a| !a.is_empty()));
        let kind = written["kind"].as_str().unwrap_or_default();
        for (key, usage) in self.kind.keys().by_name() {
            match usage {
                KeyUse::Required if !given(key) => return Err(format!("a figure of kind `{kind}` needs `{key}`")),
                KeyUse::Meaningless if given(key) => {
                    return Err(format!("`{key}` means nothing in a figure of kind `{kind}`"));
                }
                KeyUse::Required | KeyUse::Optional | KeyUse::Meaningless => {}
            }
        }
        Ok(())
    }
}

/// The mistake of a figure whose colours have a centre and also a range or a logarithmic scale.
pub(crate) const CENTRE_ALONE: &str =
    "`value_centre` sets a linear colour scale and its range: remove `value_range` and `value_scale`";

/// An axis or colour scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Linear.
    #[default]
    Linear,
    /// Logarithmic. Values that are not positive are clipped to the lower end.
    Log,
}

impl Scale {
    /// Whether the scale is linear, the default.
    pub fn is_linear(&self) -> bool {
        *self == Scale::Linear
    }
}

/// A second table with the same columns, drawn over the first.
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
    /// Legend entry.
    pub label: String,
}

/// Values to leave out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct But {
    /// The values.
    pub not: Vec<serde_json::Value>,
}

/// A value, a list of values, or values to leave out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// Any of these.
    Many(Vec<serde_json::Value>),
    /// Any value except these, which need not occur in the table.
    But(But),
    /// Exactly this.
    One(serde_json::Value),
}
