//! One tree out of several: the chain of `extends` below a file, then overrides.
//!
//! Mappings merge, key by key; scalars and lists replace what was there.
//! A `null` in place of an optional key takes the key away.
//! Each entry remembers the last layer that touched it, so that a later layer may choose another variant of an enum
//! (see [`crate::check`]).

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::Value;

use crate::error::{Error, Mistake, did_you_mean, shown};
use crate::located::{At, Content, Entry, Node, Origin, Parsed, join, parse, parse_bytes};

/// The key by which a file names the one that it changes.
pub(crate) const EXTENDS: &str = "extends";

/// A value for a key from outside the file, such as `--set params.lr=1e-3`.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// Path of the key; `.` goes into mappings and lists, as in `claims.0.threshold`.
    pub key: String,
    /// Its new value.
    pub value: Value,
    /// The words as given, for messages.
    pub text: String,
}

impl Override {
    /// An override of a key.
    pub fn new(key: impl Into<String>, value: Value) -> Override {
        let key = key.into();
        // JSON is YAML, so these words parse to the same override.
        let text = format!("{key}={value}");
        Override { key, value, text }
    }

    fn at(&self) -> At {
        At::start(Origin::Set(self.text.clone()), "")
    }
}

impl std::fmt::Display for Override {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.text)
    }
}

/// `a.b=c`, with `c` in YAML.
impl FromStr for Override {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let at = At::start(Origin::Set(text.to_owned()), "");
        let fail = |what: &str| Error::mistakes("--set", vec![at.mistake("", what)]);
        let Some((key, value)) = text.split_once('=') else {
            return Err(fail("no `=`; write it as key=value"));
        };
        let key = key.trim();
        if key.is_empty() || key.split('.').any(str::is_empty) {
            return Err(fail("no key before `=`, or an empty part in it"));
        }
        let parsed = parse(Origin::Set(text.to_owned()), value);
        match parsed.node {
            Some(node) if parsed.mistakes.is_empty() => {
                Ok(Override { key: key.to_owned(), value: node.to_value(), text: text.to_owned() })
            }
            _ => Err(Error::mistakes("--set", parsed.mistakes)),
        }
    }
}

/// A file merged with all that it extends.
///
/// # Errors
/// When the file itself cannot be read; all else is among the mistakes.
pub(crate) fn read(path: &Path) -> Result<Parsed, Error> {
    let mut chain = Chain { files: Vec::new(), layers: Vec::new(), mistakes: Vec::new(), whole: true };
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: shown(path), source })?;
    chain.file(path, &bytes);
    let merged = chain.layers.into_iter().rev().enumerate().map(|(layer, mut node)| {
        set_layer(&mut node, layer);
        node
    });
    let node = merged.reduce(merge).filter(|_| chain.whole);
    Ok(Parsed { node, mistakes: chain.mistakes })
}

/// A file and those that it extends, top first.
struct Chain {
    files: Vec<PathBuf>,
    layers: Vec<Node>,
    mistakes: Vec<Mistake>,
    /// False once a layer is missing, after which looking further would only tell of its consequences.
    whole: bool,
}

impl Chain {
    fn file(&mut self, path: &Path, bytes: &[u8]) {
        self.files.push(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        let parsed = parse_bytes(Origin::File(shown(path)), bytes);
        self.mistakes.extend(parsed.mistakes);
        let Some(mut node) = parsed.node else {
            self.whole = false;
            return;
        };
        let extends = node.take(EXTENDS);
        self.layers.push(node);
        if let Some(extends) = extends {
            self.base(path, &extends.node);
        }
    }

    /// The file that `path` extends, or a mistake at the name.
    fn base(&mut self, path: &Path, name: &Node) {
        let found = match name.text() {
            Some(text) => self.open(path, text),
            None => Err("must be the name of a file".to_owned()),
        };
        match found {
            Ok((base, bytes)) => self.file(&base, &bytes),
            Err(what) => {
                self.whole = false;
                self.mistakes.push(name.at.mistake(EXTENDS, what));
            }
        }
    }

    fn open(&self, path: &Path, name: &str) -> Result<(PathBuf, Vec<u8>), String> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let base = folder.join(name);
        let bytes = std::fs::read(&base).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("no file {}{}", shown(&base), near_file(&base, name)),
            _ => format!("{}: {error}", shown(&base)),
        })?;
        let real = base.canonicalize().unwrap_or_else(|_| base.clone());
        match self.files.iter().position(|file| *file == real) {
            Some(first) => Err(self.circle(first)),
            None => Ok((base, bytes)),
        }
    }

    fn circle(&self, first: usize) -> String {
        let names: Vec<_> = self.files[first..].iter().chain([&self.files[first]]).map(|file| shown(file)).collect();
        format!("goes round in a circle: {}", names.join(" > "))
    }
}

fn near_file(path: &Path, name: &str) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    did_you_mean(name, names.iter().map(String::as_str).filter(|name| name.ends_with(".yaml")))
}

fn set_layer(node: &mut Node, layer: usize) {
    match &mut node.content {
        Content::List(items) => items.iter_mut().for_each(|item| set_layer(item, layer)),
        Content::Map(entries) => entries.iter_mut().for_each(|entry| {
            entry.layer = layer;
            set_layer(&mut entry.node, layer);
        }),
        _ => {}
    }
}

/// `top` over `base`.
fn merge(mut base: Node, top: Node) -> Node {
    let (Content::Map(entries), true) = (&mut base.content, matches!(top.content, Content::Map(_))) else {
        return top;
    };
    let Content::Map(changes) = top.content else { return base };
    for change in changes {
        match entries.iter_mut().find(|entry| entry.key == change.key) {
            Some(entry) => merge_entry(entry, change),
            None => entries.push(change),
        }
    }
    base
}

fn merge_entry(entry: &mut Entry, change: Entry) {
    entry.layer = change.layer;
    let old = std::mem::replace(&mut entry.node, Node { content: Content::Null, at: change.at.clone() });
    // The key's place is the one where the whole value stands.
    if !matches!((&old.content, &change.node.content), (Content::Map(_), Content::Map(_))) {
        entry.at = change.at;
    }
    entry.node = merge(old, change.node);
}

/// Puts the overrides over the tree, each a layer of its own.
pub(crate) fn apply(tree: &mut Node, overrides: &[Override]) -> Vec<Mistake> {
    let below = top_layer(tree);
    let mut mistakes = Vec::new();
    for (index, change) in overrides.iter().enumerate() {
        let at = change.at();
        let mut leaf = Node::from_value(&change.value, &at);
        let layer = below + 1 + index;
        set_layer(&mut leaf, layer);
        mistakes.extend(put(tree, &change.key, leaf, &at, layer).err());
    }
    mistakes
}

fn top_layer(node: &Node) -> usize {
    let entries = node.entries().iter().map(|entry| entry.layer.max(top_layer(&entry.node)));
    entries.chain(node.items().iter().map(top_layer)).max().unwrap_or(0)
}

/// Puts a value at a path; keys that are not there yet stand at `at`.
pub(crate) fn put(tree: &mut Node, path: &str, leaf: Node, at: &At, layer: usize) -> Result<(), Mistake> {
    put_below(tree, "", path, leaf, at, layer)
}

/// `done` is the path so far, `path` the rest of it.
fn put_below(node: &mut Node, done: &str, path: &str, leaf: Node, at: &At, layer: usize) -> Result<(), Mistake> {
    let (part, rest) = path.split_once('.').map_or((path, None), |(part, rest)| (part, Some(rest)));
    let done = join(done, part);
    let child = match &mut node.content {
        Content::List(items) => {
            let count = items.len();
            item(items, part).ok_or_else(|| at.mistake(&done, no_item(part, count)))?
        }
        _ => key(node, part, at, layer, rest.is_none() && !matches!(leaf.content, Content::Map(_))),
    };
    match rest {
        Some(rest) => put_below(child, &done, rest, leaf, at, layer),
        None => {
            let old = std::mem::replace(child, Node { content: Content::Null, at: at.clone() });
            *child = merge(old, leaf);
            Ok(())
        }
    }
}

/// The value of a key, made where it is missing; `moves` when the key's place is from now on the override's.
fn key<'a>(node: &'a mut Node, part: &str, at: &At, layer: usize, moves: bool) -> &'a mut Node {
    if !matches!(node.content, Content::Map(_)) {
        *node = Node { content: Content::Map(Vec::new()), at: at.clone() };
    }
    let Content::Map(entries) = &mut node.content else { unreachable!("made a mapping above") };
    let index = entries.iter().position(|entry| entry.key == part).unwrap_or_else(|| {
        let node = Node { content: Content::Null, at: at.clone() };
        entries.push(Entry { key: part.to_owned(), at: at.clone(), layer, node });
        entries.len() - 1
    });
    let entry = &mut entries[index];
    entry.layer = layer;
    if moves {
        entry.at = at.clone();
    }
    &mut entry.node
}

fn item<'a>(items: &'a mut [Node], part: &str) -> Option<&'a mut Node> {
    part.parse::<usize>().ok().and_then(|index| items.get_mut(index))
}

fn no_item(part: &str, count: usize) -> String {
    match count {
        0 => format!("`{part}` in a list that is empty"),
        _ => format!("`{part}` is no item of this list, which has 0 to {}", count - 1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tree(text: &str) -> Node {
        parse(Origin::File("x.yaml".into()), text).node.unwrap()
    }

    #[track_caller]
    fn check(base: &str, top: &str, sets: &[&str], expected: Value) {
        let mut merged = merge(tree(base), tree(top));
        let overrides: Vec<Override> = sets.iter().map(|set| set.parse().unwrap()).collect();
        assert_eq!(apply(&mut merged, &overrides), []);
        assert_eq!(merged.to_value(), expected);
    }

    #[test]
    fn mappings_merge_and_the_rest_replaces() {
        check("a: 1\nb: {c: 1, d: [1, 2]}", "b: {d: [3], e: 4}", &[], json!({"a": 1, "b": {"c": 1, "d": [3], "e": 4}}));
        check("a: {b: 1}", "a: 2", &[], json!({"a": 2}));
        check("a: 2", "a: {b: 1}", &[], json!({"a": {"b": 1}}));
        check("a: 1", "{}", &["a=1e-3", "b.c=[x, y]"], json!({"a": 0.001, "b": {"c": ["x", "y"]}}));
        check("a: [{b: 1, c: 2}]", "{}", &["a.0.b=5"], json!({"a": [{"b": 5, "c": 2}]}));
        check("a: {b: 1}", "{}", &["a={c: 2}"], json!({"a": {"b": 1, "c": 2}}));
        check("a: 1", "{}", &["a="], json!({"a": null}));
        check("a: 1", "{}", &["a=x=y"], json!({"a": "x=y"}));
    }

    #[track_caller]
    fn refuse(set: &str, expected: &str) {
        let told = match set.parse::<Override>() {
            Ok(change) => apply(&mut tree("a: [1, 2]\nb: []"), &[change])[0].to_string(),
            Err(error) => error.to_string().lines().nth(1).unwrap().trim().to_owned(),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn overrides_without_sense() {
        refuse("a", "--set a: no `=`; write it as key=value");
        refuse("=1", "--set =1: no key before `=`, or an empty part in it");
        refuse("a..b=1", "--set a..b=1: no key before `=`, or an empty part in it");
        refuse("a.2=1", "--set a.2=1: a.2: `2` is no item of this list, which has 0 to 1");
        refuse("a.x=1", "--set a.x=1: a.x: `x` is no item of this list, which has 0 to 1");
        refuse("b.0=1", "--set b.0=1: b.0: `0` in a list that is empty");
        refuse("a=.nan", "--set a=.nan: `.nan` is not a finite number");
        assert!("a=[1".parse::<Override>().is_err());
    }

    #[test]
    fn an_override_reads_its_own_words() {
        for value in
            [json!(1), json!(0.5), json!("a: b # c"), json!("1"), json!([1, "x"]), json!({"a": null}), json!("é\n\"")]
        {
            let change = Override::new("params.x", value);
            assert_eq!(change.to_string().parse::<Override>().unwrap(), change);
        }
    }
}
