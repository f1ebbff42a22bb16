//! The kinds of figures, and which keys each of them uses.
//!
//! This is the only table of its sort. The checker of configurations reads it, and so does whatever draws a figure.
//! A new kind needs a variant of [`FigureKind`] and a row here; the compiler then asks for its drawing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use KeyUse::{Meaningless, Optional, Required};

/// How a figure is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FigureKind {
    /// Lines over x, one per series.
    Line,
    /// Points, coloured by series.
    Scatter,
    /// Grouped bars: x holds categories, with one bar per series.
    Bar,
    /// Points in three dimensions, coloured by series; each panel has its own scale, the same along all three axes.
    #[serde(rename = "scatter_3d")]
    Scatter3d,
    /// Tokens along a line, x, joined by arcs to other tokens, y; the width of an arc is its value.
    Arcs,
    /// Coloured cells, x by y.
    HeatMap,
    /// Counts of x in bins, one outline per series.
    Histogram,
}

/// Whether a kind of figure uses a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// The figure cannot be drawn without the key.
    Required,
    /// The figure uses the key where it is given.
    Optional,
    /// The key would change nothing, so it is a mistake.
    Meaningless,
}

/// The use that one kind makes of every key that some kind does without.
///
/// The keys that are not here (`x`, `where`, `facet`, `names`, ..) serve every kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindKeys {
    /// `y`.
    pub y: KeyUse,
    /// `z`.
    pub z: KeyUse,
    /// `value` and `value_label`; the label is never required.
    pub value: KeyUse,
    /// `series`.
    pub series: KeyUse,
    /// `side`.
    pub side: KeyUse,
    /// `links`.
    pub links: KeyUse,
    /// `view`.
    pub view: KeyUse,
    /// `bins`.
    pub bins: KeyUse,
    /// `annotate`.
    pub annotate: KeyUse,
    /// `overlay`.
    pub overlay: KeyUse,
    /// `rules`.
    pub rules: KeyUse,
    /// `x_scale` and `x_range`.
    pub x_scale: KeyUse,
    /// `y_scale` and `y_range`.
    pub y_scale: KeyUse,
    /// `y_label`.
    pub y_label: KeyUse,
    /// `value_scale`, `value_range` and `value_centre`.
    pub colours: KeyUse,
}

const LINE: KindKeys = KindKeys {
    y: Required,
    z: Meaningless,
    value: Meaningless,
    series: Optional,
    side: Meaningless,
    links: Meaningless,
    view: Meaningless,
    bins: Meaningless,
    annotate: Meaningless,
    overlay: Optional,
    rules: Optional,
    x_scale: Optional,
    y_scale: Optional,
    y_label: Optional,
    colours: Meaningless,
};

const SCATTER: KindKeys = KindKeys {
    y: Required,
    z: Meaningless,
    value: Meaningless,
    series: Optional,
    side: Meaningless,
    links: Meaningless,
    view: Meaningless,
    bins: Meaningless,
    annotate: Meaningless,
    overlay: Optional,
    rules: Optional,
    x_scale: Optional,
    y_scale: Optional,
    y_label: Optional,
    colours: Meaningless,
};

/// The horizontal axis always holds categories.
const BAR: KindKeys = KindKeys {
    y: Required,
    z: Meaningless,
    value: Meaningless,
    series: Optional,
    side: Meaningless,
    links: Meaningless,
    view: Meaningless,
    bins: Meaningless,
    annotate: Optional,
    overlay: Optional,
    rules: Optional,
    x_scale: Meaningless,
    y_scale: Optional,
    y_label: Optional,
    colours: Meaningless,
};

/// The box of a panel fits its points, so there are no scales to choose.
const SCATTER_3D: KindKeys = KindKeys {
    y: Required,
    z: Required,
    value: Meaningless,
    series: Optional,
    side: Meaningless,
    links: Optional,
    view: Optional,
    bins: Meaningless,
    annotate: Meaningless,
    overlay: Meaningless,
    rules: Meaningless,
    x_scale: Meaningless,
    y_scale: Meaningless,
    y_label: Optional,
    colours: Meaningless,
};

/// Both ends of an arc lie on the one line of categories.
const ARCS: KindKeys = KindKeys {
    y: Required,
    z: Meaningless,
    value: Required,
    series: Optional,
    side: Optional,
    links: Meaningless,
    view: Meaningless,
    bins: Meaningless,
    annotate: Meaningless,
    overlay: Meaningless,
    rules: Meaningless,
    x_scale: Meaningless,
    y_scale: Meaningless,
    y_label: Meaningless,
    colours: Meaningless,
};

const HEAT_MAP: KindKeys = KindKeys {
    y: Required,
    z: Meaningless,
    value: Required,
    series: Meaningless,
    side: Meaningless,
    links: Meaningless,
    view: Meaningless,
    bins: Meaningless,
    annotate: Optional,
    overlay: Optional,
    rules: Optional,
    x_scale: Optional,
    y_scale: Optional,
    y_label: Optional,
    colours: Optional,
};

/// The vertical axis counts rows.
const HISTOGRAM: KindKeys = KindKeys {
    y: Meaningless,
    z: Meaningless,
    value: Meaningless,
    series: Optional,
    side: Meaningless,
    links: Meaningless,
    view: Meaningless,
    bins: Optional,
    annotate: Meaningless,
    overlay: Optional,
    rules: Optional,
    x_scale: Optional,
    y_scale: Optional,
    y_label: Optional,
    colours: Meaningless,
};

impl FigureKind {
    /// The use that the kind makes of each key.
    #[must_use]
    pub fn keys(self) -> KindKeys {
        match self {
            FigureKind::Line => LINE,
            FigureKind::Scatter => SCATTER,
            FigureKind::Bar => BAR,
            FigureKind::Scatter3d => SCATTER_3D,
            FigureKind::Arcs => ARCS,
            FigureKind::HeatMap => HEAT_MAP,
            FigureKind::Histogram => HISTOGRAM,
        }
    }
}

impl KindKeys {
    /// Every key by its name in a configuration.
    #[must_use]
    pub fn by_name(self) -> [(&'static str, KeyUse); 20] {
        let Self {
            y,
            z,
            value,
            series,
            side,
            links,
            view,
            bins,
            annotate,
            overlay,
            rules,
            x_scale,
            y_scale,
            y_label,
            colours,
        } = self;
        let value_label = if value == Required { Optional } else { value };
        [
            ("y", y),
            ("z", z),
            ("value", value),
            ("value_label", value_label),
            ("series", series),
            ("side", side),
            ("links", links),
            ("view", view),
            ("bins", bins),
            ("annotate", annotate),
            ("overlay", overlay),
            ("rules", rules),
            ("x_scale", x_scale),
            ("x_range", x_scale),
            ("y_scale", y_scale),
            ("y_range", y_scale),
            ("y_label", y_label),
            ("value_scale", colours),
            ("value_range", colours),
            ("value_centre", colours),
        ]
    }
}

#[cfg(test)]
mod tests {
    use schemars::schema_for;

    use super::*;
    use crate::Figure;

    /// Keys that serve every kind.
    const COMMON: [&str; 13] = [
        "id",
        "artefact",
        "title",
        "caption",
        "kind",
        "table",
        "where",
        "x",
        "facet",
        "facet_row",
        "order",
        "names",
        "x_label",
    ];

    #[test]
    fn the_table_of_kinds_decides_every_key_of_a_figure() {
        let schema = schema_for!(Figure).to_value();
        let mut keys: Vec<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut decided: Vec<&str> = LINE.by_name().iter().map(|(key, _)| *key).chain(COMMON).collect();
        keys.sort_unstable();
        decided.sort_unstable();
        assert_eq!(keys, decided);
    }
}
