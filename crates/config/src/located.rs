//! YAML text as a tree that remembers where each key and value stands.
//!
//! saphyr-parser gives events with positions, from which the tree is built without recursion.
//! Plain scalars get their types from serde_yaml's own rules (YAML 1.2 core schema: `no` is text, `1e-3` a number),
//! so that what [`crate::yaml`] writes is read back as it was.
//! Beyond what YAML allows, a file here has one document, no tags, unique keys that are scalars, finite numbers,
//! and at most [`MAX_DEPTH`] levels and [`MAX_NODES`] values with all aliases written out.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use crate::error::{Mistake, Place};

/// Deepest nesting of a file.
const MAX_DEPTH: usize = 64;
/// Most values in a file, aliases written out.
const MAX_NODES: usize = 100_000;

/// Who wrote a piece of YAML.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A file, by the path to show.
    File(String),
    /// An override, by its words.
    Set(String),
    /// A value that never was text, by name.
    Whole(String),
}

/// A piece of YAML and who wrote it.
#[derive(Debug)]
pub(crate) struct Source {
    origin: Origin,
    text: String,
}

/// Where a key or value stands.
#[derive(Clone, Debug)]
pub(crate) struct At {
    source: Arc<Source>,
    line: usize,
    column: usize,
    width: usize,
}

impl At {
    /// The start of something.
    pub(crate) fn start(origin: Origin, text: &str) -> At {
        At { source: Arc::new(Source { origin, text: text.to_owned() }), line: 1, column: 1, width: 1 }
    }

    /// The place to tell.
    pub(crate) fn place(&self) -> Place {
        match &self.source.origin {
            Origin::File(path) => Place::File {
                path: path.clone(),
                line: self.line,
                column: self.column,
                width: self.width,
                excerpt: self.excerpt().to_owned(),
            },
            Origin::Set(words) => Place::Set(words.clone()),
            Origin::Whole(name) => Place::Whole(name.clone()),
        }
    }

    /// A mistake here.
    pub(crate) fn mistake(&self, key: &str, what: impl Into<String>) -> Mistake {
        Mistake { place: self.place(), key: key.to_owned(), what: what.into() }
    }

    fn excerpt(&self) -> &str {
        self.source.text.lines().nth(self.line - 1).unwrap_or_default().trim_end()
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) at: At,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Already told as a mistake; fits everything.
    Broken,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: At,
    /// The overlay that touched it last; 0 is the file at the bottom.
    pub(crate) layer: usize,
    pub(crate) node: Node,
}

impl Node {
    /// The same value everywhere at one place.
    pub(crate) fn from_value(value: &Value, at: &At) -> Node {
        let content = match value {
            Value::Null => Content::Null,
            Value::Bool(bool) => Content::Bool(*bool),
            Value::Number(number) => Content::Number(number.clone()),
            Value::String(text) => Content::Text(text.clone()),
            Value::Array(items) => Content::List(items.iter().map(|item| Node::from_value(item, at)).collect()),
            Value::Object(map) => Content::Map(map.iter().map(|(key, value)| Entry::new(key, value, at)).collect()),
        };
        Node { content, at: at.clone() }
    }

    /// The value without its places.
    pub(crate) fn to_value(&self) -> Value {
        match &self.content {
            Content::Null | Content::Broken => Value::Null,
            Content::Bool(bool) => Value::Bool(*bool),
            Content::Number(number) => Value::Number(number.clone()),
            Content::Text(text) => Value::String(text.clone()),
            Content::List(items) => items.iter().map(Node::to_value).collect(),
            Content::Map(entries) => {
                let pairs = entries.iter().map(|entry| (entry.key.clone(), entry.node.to_value()));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }

    /// The entry of a key, if this is a mapping that has it.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The value of a key, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The entries, none if this is no mapping.
    pub(crate) fn entries(&self) -> &[Entry] {
        if let Content::Map(entries) = &self.content { entries } else { &[] }
    }

    /// The items, none if this is no list.
    pub(crate) fn items(&self) -> &[Node] {
        if let Content::List(items) = &self.content { items } else { &[] }
    }

    /// The text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Content::Text(text) = &self.content { Some(text) } else { None }
    }

    /// The number, if it is one.
    pub(crate) fn number(&self) -> Option<f64> {
        if let Content::Number(number) = &self.content { number.as_f64() } else { None }
    }

    /// Takes a key out of a mapping.
    pub(crate) fn take(&mut self, key: &str) -> Option<Entry> {
        let Content::Map(entries) = &mut self.content else { return None };
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index))
    }
}

impl Entry {
    fn new(key: &str, value: &Value, at: &At) -> Entry {
        Entry { key: key.to_owned(), at: at.clone(), layer: 0, node: Node::from_value(value, at) }
    }
}

/// What came of some text.
pub(crate) struct Parsed {
    /// The tree; none where the text is not YAML at all.
    pub(crate) node: Option<Node>,
    /// What is wrong so far.
    pub(crate) mistakes: Vec<Mistake>,
}

/// Bytes to a tree, for files.
pub(crate) fn parse_bytes(origin: Origin, bytes: &[u8]) -> Parsed {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(origin, text),
        Err(error) => {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let mut at = At::start(origin, &good);
            at.line = good.matches('\n').count() + 1;
            at.column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            Parsed { node: None, mistakes: vec![at.mistake("", "not UTF-8 text")] }
        }
    }
}

/// Text to a tree.
pub(crate) fn parse(origin: Origin, text: &str) -> Parsed {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::new(At::start(origin, text));
    let _: ControlFlow<()> = builder.run(text);
    builder.finish()
}

/// A list or mapping that is still open.
struct Frame {
    at: At,
    anchor: usize,
    size: usize,
    content: Open,
}

enum Open {
    List(Vec<Node>),
    Map(Vec<Entry>, Option<(String, At)>),
}

struct Builder {
    start: At,
    stack: Vec<Frame>,
    /// Finished nodes that have an anchor, with their sizes.
    anchors: HashMap<usize, (Node, usize)>,
    documents: usize,
    size: usize,
    root: Option<Node>,
    stopped: bool,
    mistakes: Vec<Mistake>,
}

impl Builder {
    fn new(start: At) -> Builder {
        Builder {
            start,
            stack: Vec::new(),
            anchors: HashMap::new(),
            documents: 0,
            size: 0,
            root: None,
            stopped: false,
            mistakes: Vec::new(),
        }
    }

    fn run(&mut self, text: &str) -> ControlFlow<()> {
        // The parser takes NUL for the end of the text, which would cut a file short without a word.
        if let Some(index) = text.find('\0') {
            let mut at = self.start.clone();
            at.line = text[..index].matches('\n').count() + 1;
            return self.stop(&at, "a NUL character has no place in a text file");
        }
        let mut parser = Parser::new_from_str(text);
        while let Some(next) = parser.next_event() {
            match next {
                Ok((event, span)) => self.event(event, span)?,
                Err(error) => {
                    let at = self.at(Span::empty(*error.marker()));
                    return self.stop(&at, error.info());
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn finish(self) -> Parsed {
        let empty = Node { content: Content::Null, at: self.start };
        let node = if self.stopped { None } else { Some(self.root.unwrap_or(empty)) };
        Parsed { node, mistakes: self.mistakes }
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> ControlFlow<()> {
        let at = self.at(span);
        match event {
            Event::DocumentStart(_) => return self.document(&at),
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), &at);
                self.scalar(&text, style, anchor, at);
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), &at);
                return self.open(anchor, at, Open::List(Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), &at);
                return self.open(anchor, at, Open::Map(Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        if self.size > MAX_NODES {
            let start = self.start.clone();
            return self.stop(&start, format!("more than {MAX_NODES} values"));
        }
        ControlFlow::Continue(())
    }

    fn document(&mut self, at: &At) -> ControlFlow<()> {
        self.documents += 1;
        if self.documents > 1 {
            return self.stop(at, "a second document; a configuration is one");
        }
        ControlFlow::Continue(())
    }

    fn open(&mut self, anchor: usize, mut at: At, content: Open) -> ControlFlow<()> {
        if self.stack.len() >= MAX_DEPTH {
            return self.stop(&at, format!("nested more than {MAX_DEPTH} deep"));
        }
        at.width = usize::MAX;
        self.stack.push(Frame { at, anchor, size: 1, content });
        ControlFlow::Continue(())
    }

    fn close(&mut self, end: Span) {
        let Some(Frame { mut at, anchor, size, content }) = self.stack.pop() else { return };
        // The span of a closing bracket takes in the space after it.
        if end.start.line() == at.line {
            at.width = (end.start.col() + 2).saturating_sub(at.column).max(1);
        }
        let content = match content {
            Open::List(items) => Content::List(items),
            Open::Map(entries, _) => Content::Map(entries),
        };
        self.place(Node { content, at }, anchor, size);
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, at: At) {
        if let Some(Frame { content: Open::Map(_, key @ None), .. }) = self.stack.last_mut() {
            *key = Some((text.to_owned(), at));
            return;
        }
        let content = match style {
            ScalarStyle::Plain => self.plain(text, &at),
            _ => Content::Text(text.to_owned()),
        };
        self.place(Node { content, at }, anchor, 1);
    }

    /// The type of a scalar without quotes.
    fn plain(&mut self, text: &str, at: &At) -> Content {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Content::Null,
            "true" | "True" | "TRUE" => return Content::Bool(true),
            "false" | "False" | "FALSE" => return Content::Bool(false),
            _ => {}
        }
        match text.parse::<serde_yaml::Number>() {
            Ok(number) => self.number(&number, text, at),
            // More digits than 64 bits hold; as text it would only be a riddle later.
            Err(_) if is_digits(text) => self.broken(at, format!("`{text}` does not fit into 64 bits")),
            Err(_) => Content::Text(text.to_owned()),
        }
    }

    fn number(&mut self, number: &serde_yaml::Number, text: &str, at: &At) -> Content {
        let number = if let Some(whole) = number.as_u64() {
            Some(whole.into())
        } else if let Some(whole) = number.as_i64() {
            Some(whole.into())
        } else {
            number.as_f64().and_then(Number::from_f64)
        };
        match number {
            Some(number) => Content::Number(number),
            None => self.broken(at, format!("`{text}` is not a finite number")),
        }
    }

    fn broken(&mut self, at: &At, what: String) -> Content {
        let key = self.path();
        self.mistakes.push(at.mistake(&key, what));
        Content::Broken
    }

    fn alias(&mut self, anchor: usize, at: At) {
        match self.anchors.get(&anchor) {
            Some((node, size)) if self.size + size <= MAX_NODES => {
                let (content, size) = (node.content.clone(), *size);
                self.place(Node { content, at }, 0, size);
            }
            Some(_) => self.size = MAX_NODES + 1,
            None => {
                let content = self.broken(&at, "an alias inside what it stands for".to_owned());
                self.place(Node { content, at }, 0, 1);
            }
        }
    }

    /// Puts a finished node where it belongs.
    fn place(&mut self, node: Node, anchor: usize, size: usize) {
        self.size += 1;
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(node);
            return;
        };
        frame.size += size;
        match &mut frame.content {
            Open::List(items) => items.push(node),
            Open::Map(entries, key) => match key.take() {
                Some((key, at)) => self.mistakes.extend(insert(entries, key, at, node)),
                None => {
                    self.mistakes.push(node.at.mistake("", "a key must be plain text"));
                    *key = Some((String::new(), node.at));
                }
            },
        }
    }

    fn refuse_tag(&mut self, tagged: bool, at: &At) {
        if tagged {
            self.mistakes.push(at.mistake(&self.path(), "a tag (`!..`) has no meaning here"));
        }
    }

    fn stop(&mut self, at: &At, what: impl Into<String>) -> ControlFlow<()> {
        self.mistakes.push(at.mistake("", what));
        self.stopped = true;
        ControlFlow::Break(())
    }

    /// Path of the value that comes next.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.stack {
            match &frame.content {
                Open::List(items) => path = join(&path, &items.len().to_string()),
                Open::Map(_, Some((key, _))) => path = join(&path, key),
                Open::Map(_, None) => {}
            }
        }
        path
    }

    fn at(&self, span: Span) -> At {
        let (start, end) = (span.start, span.end);
        let width = if end.line() == start.line() { end.col().saturating_sub(start.col()) } else { usize::MAX };
        At {
            source: Arc::clone(&self.start.source),
            line: start.line().max(1),
            column: start.col() + 1,
            width: width.max(1),
        }
    }
}

/// Adds an entry, or tells that the key is there already.
fn insert(entries: &mut Vec<Entry>, key: String, at: At, mut node: Node) -> Option<Mistake> {
    if let Some(first) = entries.iter().find(|entry| entry.key == key) {
        return Some(at.mistake(&key, format!("duplicate key, first on line {}", first.at.line)));
    }
    // The position of nothing is somewhere after the key.
    if matches!(node.content, Content::Null) && node.at.width <= 1 {
        node.at = at.clone();
    }
    entries.push(Entry { key, at, layer: 0, node });
    None
}

fn is_digits(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.starts_with('0') && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A path one step further.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Parsed {
        parse(Origin::File("x.yaml".into()), text)
    }

    #[track_caller]
    fn check(text: &str, expected: Value) {
        let parsed = read(text);
        assert_eq!(parsed.mistakes, [], "{text}");
        assert_eq!(parsed.node.unwrap().to_value(), expected, "{text}");
    }

    #[track_caller]
    fn refuse(text: &str, expected: &[&str]) {
        let told: Vec<String> = read(text).mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(told, expected, "{text}");
    }

    #[test]
    fn scalars_have_the_types_of_serde_yaml() {
        let plain = [
            "1",
            "-1",
            "0x1F",
            "1e-3",
            "1e5",
            "1.0",
            ".5",
            "-0.0",
            "007",
            "no",
            "on",
            "y",
            "True",
            "~",
            "null",
            "1_000",
            "1e400",
            "18446744073709551615",
            "-9223372036854775808",
            "abc def",
            "inf",
            "nan",
            "2025-01-01",
            "0o17",
            "-",
        ];
        for text in plain {
            let expected: Value = serde_yaml::from_str(text).unwrap_or(Value::String("-".into()));
            check(text, expected);
        }
        check("1e-3", json!(0.001));
        check("lr: 1e-3", json!({"lr": 0.001}));
        check("a: '1'\nb: \"2\"\nc: |\n  3\n", json!({"a": "1", "b": "2", "c": "3\n"}));
    }

    #[test]
    fn shapes() {
        check("", Value::Null);
        check("# only a comment\n", Value::Null);
        check("\u{feff}a: 1", json!({"a": 1}));
        check(
            "a: {b: [1, 2], c: }\nd:\n- x\n- y: 1\n  z: 2\n",
            json!({"a": {"b": [1, 2], "c": null}, "d": ["x", {"y": 1, "z": 2}]}),
        );
        check("a: &x {b: 1}\nc: *x\n", json!({"a": {"b": 1}, "c": {"b": 1}}));
        check("1: a\ntrue: b\n", json!({"1": "a", "true": "b"}));
        check("a: 1\r\nb: 2\r\n", json!({"a": 1, "b": 2}));
    }

    #[test]
    fn what_yaml_allows_and_we_do_not() {
        refuse("a: 1\nb: 2\na: 3\n", &["x.yaml:3:1: a: duplicate key, first on line 1"]);
        refuse("a: {b: !x 1}", &["x.yaml:1:8: a.b: a tag (`!..`) has no meaning here"]);
        refuse(
            "a: .nan\nb: [1, -.inf]",
            &["x.yaml:1:4: a: `.nan` is not a finite number", "x.yaml:2:8: b.1: `-.inf` is not a finite number"],
        );
        refuse("a: 123456789012345678901", &["x.yaml:1:4: a: `123456789012345678901` does not fit into 64 bits"]);
        refuse("a: 1\n---\nb: 2\n", &["x.yaml:2:1: a second document; a configuration is one"]);
        refuse("[a]: 1\n", &["x.yaml:1:1: a key must be plain text"]);
        refuse("a: &x [*x]", &["x.yaml:1:8: a.0: an alias inside what it stands for"]);
        refuse("a: 1\nb: \0", &["x.yaml:2:1: a NUL character has no place in a text file"]);
        refuse(&"[".repeat(100), &["x.yaml:1:65: nested more than 64 deep"]);
        let laughs = "a: &a [1,1,1,1,1,1,1,1,1,1]\n".to_owned()
            + &(b'b'..=b'h')
                .map(|c| format!("{0}: &{0} [{1}]\n", c as char, vec![format!("*{}", (c - 1) as char); 10].join(",")))
                .collect::<String>();
        refuse(&laughs, &["x.yaml:1:1: more than 100000 values"]);
    }

    #[test]
    fn not_yaml_has_a_line() {
        let parsed = read("a: 1\nb: [1,\nc: 2\n");
        assert!(parsed.node.is_none());
        assert_eq!(parsed.mistakes.len(), 1);
        let latin = parse_bytes(Origin::File("x.yaml".into()), b"a: 1\nb: caf\xe9\n");
        assert_eq!(latin.mistakes[0].to_string(), "x.yaml:2:7: not UTF-8 text");
    }

    #[test]
    fn spans_cover_keys_and_values() {
        let node = read("model:\n  d_modle : 64  # width\n  list: [1, 2] \n  text: 'a b'\n").node.unwrap();
        let model = node.get("model").unwrap();
        let span = |at: &At| (at.line, at.column, at.width);
        assert_eq!(span(&node.entry("model").unwrap().at), (1, 1, 5));
        assert_eq!(span(&model.entry("d_modle").unwrap().at), (2, 3, 7));
        assert_eq!(span(&model.get("d_modle").unwrap().at), (2, 13, 2));
        assert_eq!(span(&model.get("list").unwrap().at), (3, 9, 6));
        assert_eq!(span(&model.get("text").unwrap().at), (4, 9, 5));
    }

    fn snippets() -> impl Strategy<Value = String> {
        let words = prop::sample::select(vec![
            "a",
            "b: ",
            ": ",
            "- ",
            "? ",
            "[",
            "]",
            "{",
            "}",
            ",",
            "\n",
            "\n  ",
            "\n    ",
            "'",
            "\"",
            "|",
            ">",
            "&x ",
            "*x",
            "!t ",
            "#",
            "---",
            "...",
            "%YAML 1.2\n",
            "\\u00e9",
            "\\",
            "\t",
            "\r",
            "\u{85}",
            "é",
            "1e-3",
            "~",
            "@",
            "`",
            "<<",
            "extends",
            "|2-\n",
            "\u{feff}",
        ]);
        prop::collection::vec(words, 0..40).prop_map(|words| words.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            parse_bytes(Origin::File("x.yaml".into()), &bytes);
        }

        #[test]
        fn no_yaml_like_text_panics(text in snippets()) {
            let parsed = read(&text);
            let told = crate::Error::mistakes("x.yaml", parsed.mistakes);
            prop_assert!(!told.to_string().is_empty());
        }
    }
}
