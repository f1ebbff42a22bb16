//! A located tree against a JSON schema: all mistakes at once, and the value that is left.
//!
//! Knows what schemars writes: `$ref`, `type`, `properties`, `required`, `additionalProperties`, `items`, `prefixItems`,
//! `enum`, `const`, `oneOf`, `anyOf`, `allOf`, bounds of numbers (also those that a `format` such as `uint32` implies),
//! lengths of lists and texts; other keywords are left to editors.
//! Four rules go beyond the schema:
//! a `null` for an optional key is the same as no key, so that an overlay can take one away;
//! where an enum of one-key mappings has keys from several layers, the last layer chooses the variant;
//! a whole number where any number may stand becomes a float;
//! a mapping with declared keys has no others, even if its type forgot to say `deny_unknown_fields`.

use serde_json::{Map, Number, Value};

use storage::nearest;

use crate::error::{Mistake, did_you_mean};
use crate::located::{At, Content, Entry, Node, join};

/// What is wrong with the tree, and its value.
pub(crate) fn check(tree: &Node, schema: &Value) -> (Value, Vec<Mistake>) {
    let mut checker = Checker { root: schema, mistakes: Vec::new() };
    let empty = Node { content: Content::Map(Vec::new()), at: tree.at.clone() };
    // An empty file lacks keys rather than having the wrong type.
    let tree = if matches!(tree.content, Content::Null) { &empty } else { tree };
    let value = checker.value(tree, schema, Spot { path: "", key: &tree.at });
    (value, checker.mistakes)
}

/// Where the checker is: the path, and the place of the last key on it.
#[derive(Clone, Copy)]
struct Spot<'a> {
    path: &'a str,
    key: &'a At,
}

struct Checker<'s> {
    root: &'s Value,
    mistakes: Vec<Mistake>,
}

impl<'s> Checker<'s> {
    fn value(&mut self, node: &Node, schema: &'s Value, spot: Spot<'_>) -> Value {
        if matches!(node.content, Content::Broken) {
            return Value::Null;
        }
        let Value::Object(keywords) = schema else {
            if *schema == Value::Bool(false) {
                self.tell(&node.at, spot.path, "nothing may stand here");
            }
            return node.to_value();
        };
        if keywords.contains_key("$ref") {
            let value = self.value(node, resolve(self.root, schema), spot);
            self.bounds(node, keywords, spot);
            return value;
        }
        if let Some(Value::Array(branches)) = keywords.get("oneOf").or_else(|| keywords.get("anyOf")) {
            return self.choose(node, branches, spot);
        }
        if let Some(Value::Array(parts)) = keywords.get("allOf") {
            return parts.iter().map(|part| self.value(node, part, spot)).last().unwrap_or_default();
        }
        self.plain(node, keywords, spot)
    }

    /// A schema without branches.
    fn plain(&mut self, node: &Node, keywords: &'s Map<String, Value>, spot: Spot<'_>) -> Value {
        let words = words(keywords);
        if !words.is_empty() {
            return self.word(node, &words, &[], spot);
        }
        if !types(keywords).is_empty() && !types(keywords).iter().any(|kind| is_type(node, kind)) {
            let what = format!("expected {}, found {}{}", wanted(keywords), found(node), hint(node, keywords));
            self.tell(&node.at, spot.path, what);
            return Value::Null;
        }
        self.constants(node, keywords, spot);
        self.bounds(node, keywords, spot);
        match &node.content {
            Content::List(items) => self.list(node, items, keywords, spot),
            Content::Map(entries) => self.map(entries, keywords, spot),
            Content::Number(number) => as_wanted(number, keywords),
            _ => node.to_value(),
        }
    }

    /// `const` and `enum` of other things than text.
    fn constants(&mut self, node: &Node, keywords: &Map<String, Value>, spot: Spot<'_>) {
        let allowed: Vec<&Value> = match (keywords.get("const"), keywords.get("enum")) {
            (Some(only), _) => vec![only],
            (None, Some(Value::Array(several))) => several.iter().collect(),
            _ => return,
        };
        let value = node.to_value();
        if !allowed.contains(&&value) {
            let names: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            self.tell(&node.at, spot.path, format!("expected {}, found {}", one_of(&names), found(node)));
        }
    }

    /// Bounds of numbers and lengths.
    fn bounds(&mut self, node: &Node, keywords: &Map<String, Value>, spot: Spot<'_>) {
        let what = match &node.content {
            Content::Number(number) => number_bounds(number, keywords),
            Content::Text(text) => length(text.chars().count(), keywords, "minLength", "maxLength", "character"),
            Content::List(items) => length(items.len(), keywords, "minItems", "maxItems", "item"),
            _ => None,
        };
        if let Some(what) = what {
            self.tell(&node.at, spot.path, what);
        }
    }

    fn list(&mut self, list: &Node, items: &[Node], keywords: &'s Map<String, Value>, spot: Spot<'_>) -> Value {
        let first = keywords.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let rest = keywords.get("items").unwrap_or(&Value::Bool(true));
        if *rest == Value::Bool(false) && items.len() > first.len() {
            self.tell(&list.at, spot.path, format!("expected {}, found {}", count(first.len(), "item"), items.len()));
            return Value::Null;
        }
        let values: Vec<Value> = items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                let path = join(spot.path, &index.to_string());
                self.value(item, first.get(index).unwrap_or(rest), Spot { path: &path, key: &item.at })
            })
            .collect();
        if keywords.get("uniqueItems") == Some(&Value::Bool(true)) {
            self.unique(items, &values, spot);
        }
        Value::Array(values)
    }

    fn unique(&mut self, items: &[Node], values: &[Value], spot: Spot<'_>) {
        for (index, value) in values.iter().enumerate() {
            if values[..index].contains(value) {
                self.tell(&items[index].at, spot.path, format!("{value} comes twice"));
            }
        }
    }

    fn map(&mut self, entries: &[Entry], keywords: &'s Map<String, Value>, spot: Spot<'_>) -> Value {
        let shape = Shape::of(keywords);
        let mut values = Map::new();
        let mut explained = Vec::new();
        for entry in entries {
            let path = join(spot.path, &entry.key);
            let inner = Spot { path: &path, key: &entry.at };
            if let Some(schema) = shape.properties.and_then(|properties| properties.get(&entry.key)) {
                let absent = matches!(entry.node.content, Content::Null) && !shape.requires(&entry.key);
                if !absent {
                    values.insert(entry.key.clone(), self.value(&entry.node, schema, inner));
                }
            } else if *shape.others == Value::Bool(false) {
                explained.extend(self.unknown_key(entry, entries, &shape, &path));
            } else {
                values.insert(entry.key.clone(), self.value(&entry.node, shape.others, inner));
            }
        }
        for key in shape.required.iter().filter(|key| !explained.contains(*key)) {
            if !entries.iter().any(|entry| entry.key == *key) {
                self.tell(spot.key, spot.path, format!("missing key `{key}`"));
            }
        }
        Value::Object(values)
    }

    /// Tells of an unknown key; gives the key that was probably meant, so that it does not count as missing too.
    fn unknown_key(&mut self, entry: &Entry, entries: &[Entry], shape: &Shape<'s>, path: &str) -> Option<&'s str> {
        let known: Vec<&'s str> = shape.properties.into_iter().flat_map(Map::keys).map(String::as_str).collect();
        let free = known.iter().copied().filter(|key| !entries.iter().any(|entry| entry.key == *key));
        let here = nearest(&entry.key, free).or_else(|| nearest(&entry.key, known.iter().copied()));
        let what = match (self.elsewhere(&entry.key), &here) {
            (Some(other), _) => format!("unknown key, did you mean `{other}`?"),
            (None, Some(here)) => format!("unknown key, did you mean `{here}`?"),
            (None, None) if known.is_empty() => "unknown key; there are none here".to_owned(),
            (None, None) => format!("unknown key; known here: {}", shortened(&known)),
        };
        self.tell(&entry.at, path, what);
        known.into_iter().find(|key| Some(*key) == here.as_deref())
    }

    /// Another place where the schema has exactly this key.
    fn elsewhere(&self, key: &str) -> Option<String> {
        let mut paths = Vec::new();
        find_key(self.root, self.root, key, "", 0, &mut paths);
        paths.into_iter().next()
    }

    /// One of several schemas.
    fn choose(&mut self, node: &Node, branches: &'s [Value], spot: Spot<'_>) -> Value {
        let mut flat = Vec::new();
        flatten(self.root, branches, 0, &mut flat);
        let nullable = flat.iter().any(|branch| is_null_schema(branch));
        if nullable && matches!(node.content, Content::Null) {
            return Value::Null;
        }
        flat.retain(|branch| !is_null_schema(branch));
        if let [only] = flat[..] {
            return self.value(node, only, spot);
        }
        let variants: Vec<Variant<'s>> = flat.iter().filter_map(|branch| variant(branch)).collect();
        if variants.len() == flat.len() {
            return self.variant(node, &variants, spot);
        }
        self.untagged(node, &flat, spot)
    }

    /// An enum: words, and mappings with one key.
    fn variant(&mut self, node: &Node, variants: &[Variant<'s>], spot: Spot<'_>) -> Value {
        let words: Vec<&'s str> = variants.iter().flat_map(Variant::words).collect();
        let tags: Vec<&'s str> = variants.iter().filter_map(Variant::tag).collect();
        let Content::Map(entries) = &node.content else {
            return self.word(node, &words, &tags, spot);
        };
        let top = entries.iter().map(|entry| entry.layer).max();
        let mut chosen = entries.iter().filter(|entry| Some(entry.layer) == top);
        match (chosen.next(), chosen.next()) {
            (Some(entry), None) => self.tagged(entry, variants, &words, &tags, spot),
            (Some(first), Some(second)) => {
                let what = format!("only one key may stand here, found `{}` and `{}`", first.key, second.key);
                self.tell(&second.at, spot.path, what);
                Value::Null
            }
            _ => {
                self.tell(&node.at, spot.path, format!("expected {}, found nothing", choices(&words, &tags)));
                Value::Null
            }
        }
    }

    fn tagged(
        &mut self,
        entry: &Entry,
        variants: &[Variant<'s>],
        words: &[&str],
        tags: &[&str],
        spot: Spot<'_>,
    ) -> Value {
        let path = join(spot.path, &entry.key);
        for variant in variants {
            if let Variant::Tagged(key, schema) = variant
                && *key == entry.key
            {
                let value = self.value(&entry.node, schema, Spot { path: &path, key: &entry.at });
                return Value::Object(Map::from_iter([(entry.key.clone(), value)]));
            }
        }
        let what = if words.contains(&entry.key.as_str()) {
            format!("takes no value; write just `{}`", entry.key)
        } else {
            let guess = did_you_mean(&entry.key, tags.iter().chain(words).copied());
            format!("unknown variant{}", or_choices(guess, words, tags))
        };
        self.tell(&entry.at, &path, what);
        Value::Null
    }

    /// A word out of a list.
    fn word(&mut self, node: &Node, words: &[&str], tags: &[&str], spot: Spot<'_>) -> Value {
        let what = match node.text() {
            Some(text) if words.contains(&text) => return node.to_value(),
            Some(text) if tags.contains(&text) => format!("`{text}` needs a value, as in `{text}: ..`"),
            Some(text) => {
                let guess = did_you_mean(text, words.iter().chain(tags).copied());
                format!(
                    "unknown value {}{}",
                    found(node).trim_start_matches("the text "),
                    or_choices(guess, words, tags)
                )
            }
            None => format!("expected {}, found {}", choices(words, tags), found(node)),
        };
        self.tell(&node.at, spot.path, what);
        Value::Null
    }

    /// The first branch that fits, or else the mistakes of the one that nearly does.
    fn untagged(&mut self, node: &Node, branches: &[&'s Value], spot: Spot<'_>) -> Value {
        let mut best: Option<Vec<Mistake>> = None;
        for branch in branches {
            let mut trial = Checker { root: self.root, mistakes: Vec::new() };
            let value = trial.value(node, branch, spot);
            if trial.mistakes.is_empty() {
                return value;
            }
            let kind_fits =
                branch.as_object().is_some_and(|keywords| types(keywords).iter().any(|kind| is_type(node, kind)));
            if kind_fits && best.as_ref().is_none_or(|best| trial.mistakes.len() < best.len()) {
                best = Some(trial.mistakes);
            }
        }
        match best {
            Some(mistakes) => self.mistakes.extend(mistakes),
            None => {
                let kinds: Vec<String> = branches.iter().filter_map(|branch| branch.as_object()).map(wanted).collect();
                self.tell(&node.at, spot.path, format!("expected {}, found {}", kinds.join(" or "), found(node)));
            }
        }
        Value::Null
    }

    fn tell(&mut self, at: &At, path: &str, what: impl Into<String>) {
        self.mistakes.push(at.mistake(path, what));
    }
}

/// What a schema says about the keys of a mapping.
struct Shape<'s> {
    properties: Option<&'s Map<String, Value>>,
    required: Vec<&'s str>,
    others: &'s Value,
}

impl<'s> Shape<'s> {
    fn of(keywords: &'s Map<String, Value>) -> Shape<'s> {
        let closed = if keywords.contains_key("properties") { &Value::Bool(false) } else { &Value::Bool(true) };
        let others = keywords.get("additionalProperties").or_else(|| keywords.get("unevaluatedProperties"));
        let required = keywords.get("required").and_then(Value::as_array).into_iter().flatten();
        Shape {
            properties: keywords.get("properties").and_then(Value::as_object),
            required: required.filter_map(Value::as_str).collect(),
            others: others.unwrap_or(closed),
        }
    }

    fn requires(&self, key: &str) -> bool {
        self.required.contains(&key)
    }
}

/// A branch of an enum as serde writes it.
enum Variant<'s> {
    Words(Vec<&'s str>),
    Tagged(&'s str, &'s Value),
}

impl<'s> Variant<'s> {
    fn words(&self) -> Vec<&'s str> {
        if let Variant::Words(words) = self { words.clone() } else { Vec::new() }
    }

    fn tag(&self) -> Option<&'s str> {
        if let Variant::Tagged(tag, _) = self { Some(tag) } else { None }
    }
}

fn variant(branch: &Value) -> Option<Variant<'_>> {
    let keywords = branch.as_object()?;
    let words = words(keywords);
    if !words.is_empty() {
        return Some(Variant::Words(words));
    }
    let properties = keywords.get("properties")?.as_object()?;
    let closed = keywords.get("additionalProperties") == Some(&Value::Bool(false));
    match (properties.iter().next(), properties.len(), closed) {
        (Some((key, schema)), 1, true) => Some(Variant::Tagged(key, schema)),
        _ => None,
    }
}

/// The texts that a schema allows, if it allows nothing else.
fn words(keywords: &Map<String, Value>) -> Vec<&str> {
    match (keywords.get("const"), keywords.get("enum")) {
        (Some(Value::String(word)), _) => vec![word],
        (None, Some(Value::Array(several))) => {
            several.iter().map(Value::as_str).collect::<Option<Vec<_>>>().unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// The schema behind `$ref`; a reference to nowhere allows everything.
fn resolve<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let mut schema = schema;
    for _ in 0..32 {
        let Some(Value::String(reference)) = schema.get("$ref") else { return schema };
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        schema = target.unwrap_or(&Value::Bool(true));
    }
    &Value::Bool(true)
}

/// Branches of branches, references followed.
fn flatten<'s>(root: &'s Value, branches: &'s [Value], depth: usize, flat: &mut Vec<&'s Value>) {
    for branch in branches {
        let branch = resolve(root, branch);
        match branch.get("oneOf").or_else(|| branch.get("anyOf")) {
            Some(Value::Array(inner)) if depth < 8 => flatten(root, inner, depth + 1, flat),
            _ => flat.push(branch),
        }
    }
}

fn is_null_schema(schema: &Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "null")
}

fn types(keywords: &Map<String, Value>) -> Vec<&str> {
    match keywords.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn is_type(node: &Node, kind: &str) -> bool {
    match (&node.content, kind) {
        (Content::Null, "null") | (Content::Bool(_), "boolean") | (Content::Text(_), "string") => true,
        (Content::List(_), "array") | (Content::Map(_), "object") | (Content::Number(_), "number") => true,
        (Content::Number(number), "integer") => !number.is_f64(),
        _ => false,
    }
}

fn as_wanted(number: &Number, keywords: &Map<String, Value>) -> Value {
    let kinds = types(keywords);
    if kinds.contains(&"number") && !kinds.contains(&"integer") {
        return number.as_f64().map_or(Value::Null, Value::from);
    }
    Value::Number(number.clone())
}

fn wanted(keywords: &Map<String, Value>) -> String {
    let kinds = types(keywords).into_iter().filter(|kind| *kind != "null");
    let names: Vec<&str> = kinds
        .map(|kind| match kind {
            "boolean" => "true or false",
            "integer" => "a whole number",
            "number" => "a number",
            "string" => "text",
            "array" => "a list",
            _ => "a mapping",
        })
        .collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(" or ") }
}

fn found(node: &Node) -> String {
    match &node.content {
        Content::Null => "nothing".to_owned(),
        Content::Bool(bool) => format!("`{bool}`"),
        Content::Number(number) => format!("the number {number}"),
        Content::Text(text) if text.chars().count() > 40 => {
            format!("the text `{}..`", text.chars().take(40).collect::<String>().escape_debug())
        }
        Content::Text(text) => format!("the text `{}`", text.escape_debug()),
        Content::List(_) => "a list".to_owned(),
        Content::Map(_) => "a mapping".to_owned(),
        Content::Broken => "something unreadable".to_owned(),
    }
}

/// How to write it so that it fits.
fn hint(node: &Node, keywords: &Map<String, Value>) -> String {
    let kinds = types(keywords);
    match &node.content {
        Content::Number(number) if kinds.contains(&"integer") => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => format!("; write {float:.0}"),
            _ => String::new(),
        },
        Content::Number(_) | Content::Bool(_) if kinds.contains(&"string") => "; put it in quotes".to_owned(),
        Content::Number(_) | Content::Bool(_) | Content::Text(_) if kinds.contains(&"array") => {
            "; put it in brackets".to_owned()
        }
        _ => String::new(),
    }
}

fn number_bounds(number: &Number, keywords: &Map<String, Value>) -> Option<String> {
    let value = number.as_f64()?;
    let bound = |key: &str| keywords.get(key).and_then(Value::as_f64);
    let low = bound("minimum");
    let high = bound("maximum");
    if let Some(low) = low.filter(|low| value < *low) {
        return Some(format!("must be at least {low}, found {number}"));
    }
    if let Some(high) = high.filter(|high| value > *high) {
        return Some(format!("must be at most {high}, found {number}"));
    }
    if let Some(low) = bound("exclusiveMinimum").filter(|low| value <= *low) {
        return Some(format!("must be more than {low}, found {number}"));
    }
    if let Some(high) = bound("exclusiveMaximum").filter(|high| value >= *high) {
        return Some(format!("must be less than {high}, found {number}"));
    }
    if let Some(step) = bound("multipleOf").filter(|step| *step > 0.0 && value % step != 0.0) {
        return Some(format!("must be a multiple of {step}, found {number}"));
    }
    let fits = fits_format(number, keywords.get("format").and_then(Value::as_str)?);
    (!fits).then(|| format!("{number} is too large for this key"))
}

/// Whether the Rust type behind a `format` holds the number.
fn fits_format(number: &Number, format: &str) -> bool {
    match format {
        "uint32" => number.as_u64().is_some_and(|n| u32::try_from(n).is_ok()),
        "int32" => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        "uint64" | "uint" => number.is_u64(),
        "int64" | "int" => number.is_i64(),
        "float" => number.as_f64().is_some_and(|n| (n as f32).is_finite()),
        _ => true,
    }
}

fn length(size: usize, keywords: &Map<String, Value>, low: &str, high: &str, unit: &str) -> Option<String> {
    let bound = |key: &str| keywords.get(key).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
    let (low, high) = (bound(low).unwrap_or(0), bound(high).unwrap_or(usize::MAX));
    if (low..=high).contains(&size) {
        return None;
    }
    let wanted = match (size < low, low == high) {
        (_, true) => count(low, unit),
        (true, false) => format!("at least {}", count(low, unit)),
        (false, false) => format!("at most {}", count(high, unit)),
    };
    Some(format!("expected {wanted}, found {size}"))
}

fn count(n: usize, unit: &str) -> String {
    if n == 1 { format!("1 {unit}") } else { format!("{n} {unit}s") }
}

fn choices(words: &[&str], tags: &[&str]) -> String {
    let tags = tags.iter().map(|tag| format!("`{tag}: ..`"));
    one_of(&words.iter().map(|word| format!("`{word}`")).chain(tags).collect::<Vec<_>>())
}

/// The guess, and beside it the full list.
fn or_choices(guess: String, words: &[&str], tags: &[&str]) -> String {
    if guess.is_empty() {
        format!("; expected {}", choices(words, tags))
    } else {
        format!("{guess} (expected {})", choices(words, tags))
    }
}

fn one_of(names: &[String]) -> String {
    match names {
        [only] => only.clone(),
        _ => format!("one of {}", names.join(", ")),
    }
}

fn shortened(known: &[&str]) -> String {
    let names: Vec<String> = known.iter().take(12).map(|key| format!("`{key}`")).collect();
    format!("{}{}", names.join(", "), if known.len() > 12 { ", .." } else { "" })
}

/// All paths through mappings that end in this key.
fn find_key(root: &Value, schema: &Value, key: &str, path: &str, depth: usize, paths: &mut Vec<String>) {
    if depth > 8 || paths.len() > 4 {
        return;
    }
    let schema = resolve(root, schema);
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = join(path, name);
        if name == key {
            paths.push(path.clone());
        }
        find_key(root, inner, key, &path, depth + 1, paths);
    }
    for branches in ["oneOf", "anyOf"] {
        for branch in schema.get(branches).and_then(Value::as_array).into_iter().flatten() {
            find_key(root, branch, key, path, depth + 1, paths);
        }
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::located::{Origin, parse};

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Sample {
        #[schemars(range(min = 1, max = 10))]
        size: u32,
        rate: f64,
        name: Option<String>,
        method: Option<Method>,
        #[serde(default)]
        layers: Vec<u8>,
        pair: Option<(u8, String)>,
        range: Option<[f64; 2]>,
        either: Option<Either>,
        inner: Option<Box<Inner>>,
        #[serde(default)]
        flag: bool,
        small: Option<f32>,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Inner {
        depth: i32,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[expect(dead_code, reason = "only its schema is used")]
    enum Method {
        /// Plain.
        Plain,
        Fancy,
        Tuned {
            steps: u64,
            warmup: u64,
        },
        Scaled(f64),
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "only its schema is used")]
    enum Either {
        Number(f64),
        Numbers(Vec<f64>),
    }

    fn run(text: &str) -> (Value, Vec<String>) {
        let tree = parse(Origin::File("x".into()), text).node.unwrap();
        let (value, mistakes) = super::check(&tree, schemars::schema_for!(Sample).as_value());
        (value, mistakes.iter().map(ToString::to_string).collect())
    }

    /// One mistake in a line after two good ones.
    #[track_caller]
    fn check(line: &str, expected: &[&str]) {
        let (_, told) = run(&format!("size: 1\nrate: 1\n{line}\n"));
        assert_eq!(told, expected, "{line}");
    }

    #[track_caller]
    fn accept(text: &str, expected: Value) {
        let (value, told) = run(text);
        assert_eq!(told, [""; 0], "{text}");
        assert_eq!(value, expected, "{text}");
        serde_json::from_value::<Sample>(value).unwrap();
    }

    #[test]
    fn good_values() {
        accept("size: 10\nrate: 1", json!({"size": 10, "rate": 1.0}));
        accept("size: 1\nrate: 1e-3\nname: ~\nlayers:\n", json!({"size": 1, "rate": 0.001}));
        accept("{size: 1, rate: 0, method: plain}", json!({"size": 1, "rate": 0.0, "method": "plain"}));
        accept("{size: 1, rate: 0, method: {scaled: 2}}", json!({"size": 1, "rate": 0.0, "method": {"scaled": 2.0}}));
        accept("{size: 1, rate: 0, either: 2}", json!({"size": 1, "rate": 0.0, "either": 2.0}));
        accept(
            "{size: 1, rate: 0, either: [2], pair: [1, a]}",
            json!({"size": 1, "rate": 0.0, "either": [2.0], "pair": [1, "a"]}),
        );
    }

    #[test]
    fn keys() {
        check("nam: x", &["x:3:1: nam: unknown key, did you mean `name`?"]);
        check("inner: {dept: 1}", &["x:3:9: inner.dept: unknown key, did you mean `depth`?"]);
        check("inner: {x: 1, depth: 1}", &["x:3:9: inner.x: unknown key; known here: `depth`"]);
        check("depth: 3", &["x:3:1: depth: unknown key, did you mean `inner.depth`?"]);
        check("inner: {}", &["x:3:1: inner: missing key `depth`"]);
        assert_eq!(run("").1, ["x:1:1: missing key `size`", "x:1:1: missing key `rate`"]);
        assert_eq!(run("# c\nsizes: 1\nrate: 1").1, ["x:2:1: sizes: unknown key, did you mean `size`?"]);
        assert_eq!(run("[1]").1, ["x:1:1: expected a mapping, found a list"]);
        assert_eq!(run("size:\nrate: 1").1, ["x:1:1: size: expected a whole number, found nothing"]);
    }

    #[test]
    fn types_and_bounds() {
        assert_eq!(run("size: 0\nrate: 1").1, ["x:1:7: size: must be at least 1, found 0"]);
        assert_eq!(
            run("size: 11\nrate: a").1,
            ["x:1:7: size: must be at most 10, found 11", "x:2:7: rate: expected a number, found the text `a`",]
        );
        assert_eq!(
            run("size: 1e0\nrate: 1").1,
            ["x:1:7: size: expected a whole number, found the number 1.0; write 1"]
        );
        check("name: 3", &["x:3:7: name: expected text, found the number 3; put it in quotes"]);
        check("layers: 3", &["x:3:9: layers: expected a list, found the number 3; put it in brackets"]);
        check(
            "layers: [1, 256, -1, a]",
            &[
                "x:3:13: layers.1: must be at most 255, found 256",
                "x:3:18: layers.2: must be at least 0, found -1",
                "x:3:22: layers.3: expected a whole number, found the text `a`",
            ],
        );
        check("inner: {depth: 3000000000}", &["x:3:16: inner.depth: 3000000000 is too large for this key"]);
        check("range: [1]", &["x:3:8: range: expected 2 items, found 1"]);
        check("pair: [1, 2]", &["x:3:11: pair.1: expected text, found the number 2; put it in quotes"]);
        check("flag: yes", &["x:3:7: flag: expected true or false, found the text `yes`"]);
        check("small: 1e39", &["x:3:8: small: 1e+39 is too large for this key"]);
    }

    #[test]
    fn enums() {
        let all = "(expected one of `fancy`, `plain`, `tuned: ..`, `scaled: ..`)";
        let told = run("size: 1\nrate: 1\nmethod: fanzy").1;
        assert!(
            told[0].starts_with("x:3:9: method: unknown value `fanzy`, did you mean `fancy`? (expected one of "),
            "{told:?}, {all}"
        );
        check("method: tuned", &["x:3:9: method: `tuned` needs a value, as in `tuned: ..`"]);
        check("method: {plain: 1}", &["x:3:10: method.plain: takes no value; write just `plain`"]);
        check(
            "method: {tuned: {stepps: 1, warmup: 2}}",
            &["x:3:18: method.tuned.stepps: unknown key, did you mean `steps`?"],
        );
        check("method: {tuned: {steps: 1}}", &["x:3:10: method.tuned: missing key `warmup`"]);
        check(
            "method: {scaled: 1, plain: 2}",
            &["x:3:21: method: only one key may stand here, found `scaled` and `plain`"],
        );
        let told = run("size: 1\nrate: 1\nmethod: {tund: {steps: 1}}").1;
        assert!(told[0].starts_with("x:3:10: method.tund: unknown variant, did you mean `tuned`?"), "{told:?}");
        check("either: a", &["x:3:9: either: expected a number or a list, found the text `a`"]);
        check("either: [a]", &["x:3:10: either.0: expected a number, found the text `a`"]);
    }
}
