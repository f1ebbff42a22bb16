//! Rules that a schema cannot express: names that must exist, ids that must differ, keys that belong together.
//!
//! The rules work on the located tree, so their mistakes are reported together with those of the schema.

use serde_json::{Number, Value};

use crate::check::check as check_schema;
use crate::envelope::Sweep;
use crate::error::{Mistake, did_you_mean};
use crate::figure::{CENTRE_ALONE, FigureKind, KeyUse};
use crate::located::{At, Content, Entry, Node, join};
use crate::overlay::put;
use crate::profile::{ExperimentId, is_name};

/// All experiments, and the one that is being loaded.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) own: &'a ExperimentId,
    pub(crate) all: &'a [ExperimentId],
}

/// The mistakes in the tree beyond its schema; `value` is the tree after the check against the schema.
pub(crate) fn check(tree: &Node, value: &Value, schema: &Value, known: Option<Known<'_>>) -> Vec<Mistake> {
    let mut rules = Rules { tree, mistakes: Vec::new() };
    rules.needs(known);
    ["artefacts", "claims", "figures"].into_iter().for_each(|list| rules.ids(list));
    ["claims", "figures", "published"].into_iter().for_each(|list| rules.artefacts(list));
    rules.thresholds();
    rules.claims_asked();
    rules.figures();
    rules.variants(schema);
    rules.sweep(value, schema);
    rules.mistakes
}

struct Rules<'t> {
    tree: &'t Node,
    mistakes: Vec<Mistake>,
}

impl<'t> Rules<'t> {
    /// The items of a list of the body, with their paths.
    fn items(&self, list: &str) -> impl Iterator<Item = (String, &'t Node)> + use<'t> {
        let items = self.tree.get(list).map(Node::items).unwrap_or_default();
        let list = list.to_owned();
        items.iter().enumerate().map(move |(index, item)| (format!("{list}.{index}"), item))
    }

    fn tell(&mut self, at: &At, path: &str, what: impl Into<String>) {
        self.mistakes.push(at.mistake(path, what));
    }

    fn needs(&mut self, known: Option<Known<'_>>) {
        for (path, item) in self.items("needs") {
            let Some(text) = item.text() else { continue };
            match (text.parse::<ExperimentId>(), known) {
                (Err(error), _) => self.tell(&item.at, &path, error.to_string()),
                (Ok(id), Some(known)) if id == *known.own => {
                    self.tell(&item.at, &path, "an experiment cannot need itself")
                }
                (Ok(id), Some(known)) if !known.all.contains(&id) => {
                    let names: Vec<String> = known.all.iter().map(ToString::to_string).collect();
                    let guess = did_you_mean(text, names.iter().map(String::as_str));
                    self.tell(&item.at, &path, format!("unknown experiment `{text}`{guess}"));
                }
                _ => {}
            }
        }
    }

    /// Ids are unique; those of figures become file names.
    fn ids(&mut self, list: &str) {
        let mut seen: Vec<&str> = Vec::new();
        for (path, item) in self.items(list) {
            let Some((id, node)) = item.get("id").and_then(|node| Some((node.text()?, node))) else { continue };
            let path = join(&path, "id");
            if seen.contains(&id) {
                self.tell(&node.at, &path, format!("`{id}` is there already"));
            } else if list == "figures" && !is_name(id) {
                self.tell(&node.at, &path, "becomes a file name: letters, digits, `-` and `_` only");
            }
            seen.push(id);
        }
    }

    /// The artefact of a claim, figure or published number is in the list of artefacts.
    fn artefacts(&mut self, list: &str) {
        let ids: Vec<&str> = self.items("artefacts").filter_map(|(_, item)| item.get("id")?.text()).collect();
        for (path, item) in self.items(list) {
            let Some((id, node)) = item.get("artefact").and_then(|node| Some((node.text()?, node))) else { continue };
            if !ids.contains(&id) {
                let guess = did_you_mean(id, ids.iter().copied());
                self.tell(&node.at, &join(&path, "artefact"), format!("`{id}` is not among `artefacts`{guess}"));
            }
        }
    }

    fn thresholds(&mut self) {
        for (path, item) in self.items("claims") {
            if let Some(pair) = item.get("threshold").and_then(|threshold| threshold.get("between")) {
                self.rising(pair, &join(&path, "threshold.between"), true);
            }
        }
    }

    /// The ids of `claims_asked` are those of claims; with `--set claims=[]` they mean nothing.
    fn claims_asked(&mut self) {
        let ids: Vec<&str> = self.items("claims").filter_map(|(_, item)| item.get("id")?.text()).collect();
        if ids.is_empty() {
            return;
        }
        let entries = self.tree.get("claims_asked").map(Node::entries).unwrap_or_default();
        // an overlay may have chosen another variant: only the last layer counts
        let Some(asked) = entries.iter().max_by_key(|entry| entry.layer) else { return };
        for (index, item) in asked.node.items().iter().enumerate() {
            if let Some(id) = item.text().filter(|id| !ids.contains(id)) {
                let guess = did_you_mean(id, ids.iter().copied());
                let path = format!("claims_asked.{}.{index}", asked.key);
                self.tell(&item.at, &path, format!("there is no claim `{id}`{guess}"));
            }
        }
    }

    /// Two numbers, the second larger.
    fn rising(&mut self, pair: &Node, path: &str, may_be_equal: bool) {
        let [low, high] = pair.items() else { return };
        let (Some(low), Some(high)) = (low.number(), high.number()) else { return };
        if low > high || (low == high && !may_be_equal) {
            self.tell(&pair.at, path, format!("the first number must be the smaller one, found {low} and {high}"));
        }
    }

    fn figures(&mut self) {
        for (path, figure) in self.items("figures") {
            self.figure_keys(&path, figure);
            ["x", "y", "value"].into_iter().for_each(|axis| self.range(&path, figure, axis));
            self.centre(&path, figure);
            let rules = figure.get("rules").map(Node::items).unwrap_or_default();
            for (index, rule) in rules.iter().enumerate() {
                self.rule(&format!("{path}.rules.{index}"), rule);
            }
        }
    }

    /// The keys that a kind of figure needs, and those that mean nothing to it.
    fn figure_keys(&mut self, path: &str, figure: &Node) {
        let Some(name) = figure.get("kind").and_then(Node::text) else { return };
        // the schema has already reported an unknown kind
        let Ok(kind) = serde_json::from_value::<FigureKind>(name.into()) else { return };
        for (key, usage) in kind.keys().by_name() {
            match (usage, present(figure, key)) {
                (KeyUse::Required, None) => {
                    self.tell(&figure.at, path, format!("a figure of kind `{name}` needs `{key}`"));
                }
                (KeyUse::Meaningless, Some(entry)) => {
                    let what = format!("means nothing in a figure of kind `{name}`");
                    self.tell(&entry.at, &join(path, &entry.key), what);
                }
                (KeyUse::Required, Some(_)) | (KeyUse::Meaningless, None) | (KeyUse::Optional, _) => {}
            }
        }
    }

    /// A range whose first number is the smaller one, and positive on a logarithmic scale.
    fn range(&mut self, path: &str, figure: &Node, axis: &str) {
        let key = format!("{axis}_range");
        let Some(pair) = figure.get(&key) else { return };
        let path = join(path, &key);
        self.rising(pair, &path, false);
        let log = figure.get(&format!("{axis}_scale")).and_then(Node::text) == Some("log");
        let low = pair.items().first().and_then(Node::number);
        if log && low.is_some_and(|low| low <= 0.0) {
            self.tell(&pair.at, &path, "must be positive on a logarithmic scale");
        }
    }

    /// A centre of the colours decides their range, on a linear scale.
    fn centre(&mut self, path: &str, figure: &Node) {
        let Some(centre) = present(figure, "value_centre") else { return };
        let log = figure.get("value_scale").and_then(Node::text) == Some("log");
        if log || present(figure, "value_range").is_some() {
            self.tell(&centre.at, &join(path, "value_centre"), CENTRE_ALONE);
        }
    }

    fn rule(&mut self, path: &str, rule: &Node) {
        let diagonal = matches!(rule.get("diagonal"), Some(Node { content: Content::Bool(true), .. }));
        let count = usize::from(diagonal) + ["x", "y"].iter().filter(|key| present(rule, key).is_some()).count();
        if count != 1 && matches!(rule.content, Content::Map(_)) {
            self.tell(&rule.at, path, "exactly one of `x`, `y`, `diagonal: true` must say where the line is");
        }
    }

    /// Every variant's changes fit the block that it varies; `x-varies` in the schema of a list names that block.
    fn variants(&mut self, schema: &Value) {
        let without = check_schema(self.tree, schema).1;
        for (list, block) in varied(schema) {
            let items = self.tree.get("params").and_then(|params| params.get(&list)).map(Node::items);
            for (index, item) in items.unwrap_or_default().iter().enumerate() {
                let mut tree = self.tree.clone();
                for change in item.get("set").map(Node::entries).unwrap_or_default() {
                    let path = format!("params.{block}.{}", change.key);
                    if let Err(mistake) = put(&mut tree, &path, change.node.clone(), &change.at, usize::MAX) {
                        self.mistakes.push(mistake);
                    }
                }
                let name = item.get("name").and_then(Node::text).map_or_else(|| index.to_string(), str::to_owned);
                let told = check_schema(&tree, schema).1.into_iter().filter(|mistake| !without.contains(mistake));
                self.mistakes.extend(told.map(|mistake| mistake.of_variant(&name)));
            }
        }
    }

    /// Every point of a sweep is a configuration without mistakes.
    fn sweep(&mut self, value: &Value, schema: &Value) {
        let Some(entry) = self.tree.entry("sweep") else { return };
        if let Ok(sweep) = serde_json::from_value::<Sweep>(value["sweep"].clone())
            && let Err(error) = sweep.points()
        {
            self.tell(&entry.at, "sweep", error.to_string());
        }
        let without = check_schema(self.tree, schema).1;
        for (key, node) in swept(&entry.node) {
            if !is_sweepable(&key.key) {
                self.tell(&key.at, &key.key, "only `seed` and keys below `params` can be swept");
                continue;
            }
            let mut tree = self.tree.clone();
            match put(&mut tree, &key.key, node, &key.at, usize::MAX) {
                Err(mistake) => self.mistakes.push(mistake),
                Ok(()) => {
                    let told = check_schema(&tree, schema).1;
                    self.mistakes.extend(told.into_iter().filter(|mistake| !without.contains(mistake)));
                }
            }
        }
    }
}

/// Lists of variants among the parameters, each with the key of the block that it varies.
fn varied(schema: &Value) -> Vec<(String, String)> {
    let params = &schema["properties"]["params"];
    let definition = params["$ref"].as_str().and_then(|path| schema.pointer(path.strip_prefix('#')?));
    let properties = definition.unwrap_or(params)["properties"].as_object();
    let pair = |(list, property): (&String, &Value)| Some((list.clone(), property["x-varies"].as_str()?.to_owned()));
    properties.into_iter().flatten().filter_map(pair).collect()
}

/// The entry of a key that is there and not `null`.
fn present<'t>(node: &'t Node, key: &str) -> Option<&'t Entry> {
    node.entry(key).filter(|entry| match &entry.node.content {
        Content::Null => false,
        // a resolved configuration writes out empty lists
        Content::List(items) => !items.is_empty(),
        _ => true,
    })
}

fn is_sweepable(key: &str) -> bool {
    key == "seed" || key.strip_prefix("params.").is_some_and(|rest| rest.split('.').all(|part| !part.is_empty()))
}

/// Each key of a sweep with each value that it takes; of a draw, with values of the kind that it gives.
fn swept(sweep: &Node) -> Vec<(&Entry, Node)> {
    let mut pairs = Vec::new();
    let top = sweep.entries().iter().map(|entry| entry.layer).max();
    for kind in sweep.entries().iter().filter(|entry| Some(entry.layer) == top) {
        match kind.key.as_str() {
            "grid" => pairs.extend(kind.node.entries().iter().flat_map(|key| each(key, key.node.items()))),
            "list" => {
                let points = kind.node.items().iter().flat_map(Node::entries);
                pairs.extend(points.map(|key| (key, key.node.clone())));
            }
            "random" => {
                let keys = kind.node.get("keys").map(Node::entries).unwrap_or_default();
                pairs.extend(keys.iter().flat_map(drawn));
            }
            _ => {}
        }
    }
    pairs
}

fn each<'t>(key: &'t Entry, values: &[Node]) -> Vec<(&'t Entry, Node)> {
    values.iter().map(|node| (key, node.clone())).collect()
}

fn drawn(key: &Entry) -> Vec<(&Entry, Node)> {
    let Some(draw) = key.node.entries().last() else { return Vec::new() };
    let mut pairs = each(key, draw.node.items());
    if matches!(draw.key.as_str(), "uniform" | "log_uniform") {
        // Whole bounds, but draws between them.
        pairs.iter_mut().for_each(|(_, node)| as_float(node));
    }
    pairs
}

fn as_float(node: &mut Node) {
    if let Some(float) = node.number().and_then(Number::from_f64) {
        node.content = Content::Number(float);
    }
}
