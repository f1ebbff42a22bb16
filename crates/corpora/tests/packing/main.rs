//! Packs texts from files and from a loopback hub; tests interruption, damage and reading.

#[allow(dead_code)]
#[path = "../../../hub/tests/loopback/server.rs"]
mod server;

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use corpora::{
    Batches, Column, Content, Corpus, Error, Expected, ExpectedSplit, Holdout, Job, Packed, Recipe, Source, Step,
    numpy, pack,
};
use hub::{Hub, Settings};
use polars::prelude::{
    DataFrame, Int32Type, IntoColumn, IntoSeries, ListBuilderTrait, ListPrimitiveChunkedBuilder, NamedFrom,
    ParquetWriter, Series,
};
use server::{COMMIT, Page, Server, head, refuse};
use tempfile::TempDir;
use tokens::{Bos, END_OF_TEXT, Tokenizer};

/// Token ids: the end is 0, `a` is 1, `b` is 2, .. `z` is 26.
fn letters(folder: &Path) -> Tokenizer {
    let words: Vec<String> = std::iter::once(END_OF_TEXT.to_owned()).chain(('a'..='z').map(String::from)).collect();
    tokens::word_level(folder, &words, END_OF_TEXT).unwrap()
}

/// A recipe that keeps every document in order.
fn plain(block: usize) -> Recipe {
    Recipe {
        block,
        end: true,
        rows: None,
        holdout: None,
        shuffle: None,
        batches: None,
        only: None,
        documents: None,
        chunks: None,
    }
}

fn check_interrupted(_: Step<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A folder with a tokenizer, texts and corpora.
struct Bench {
    folder: TempDir,
    tokenizer: Tokenizer,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = letters(&folder.path().join("letters"));
        Self { folder, tokenizer }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) -> Source {
        storage::write_atomic(&self.at(path), text.as_bytes()).unwrap();
        Source::Local(self.at(path))
    }

    fn pack(&self, source: &Source, column: &Column, recipe: &Recipe) -> Result<Corpus, Error> {
        let job = Job { source, column, tokenizer: &self.tokenizer, recipe };
        pack(&self.at("corpora"), &job, None, &mut check_interrupted)
    }

    /// The error message of a packing that must fail.
    fn message(&self, source: &Source, column: &Column, recipe: &Recipe) -> String {
        self.pack(source, column, recipe).unwrap_err().to_string()
    }
}

fn save(path: &Path, column: Series, rows_per_group: usize) {
    let other: Vec<i64> = (0..column.len() as i64).collect();
    let columns = vec![Series::new("number".into(), other).into_column(), column.into_column()];
    let mut frame = DataFrame::new(columns[0].len(), columns).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let writer = ParquetWriter::new(fs::File::create(path).unwrap());
    writer.with_row_group_size(Some(rows_per_group)).finish(&mut frame).unwrap();
}

fn save_texts(path: &Path, texts: &[String], rows_per_group: usize) {
    save(path, Series::new("text".into(), texts), rows_per_group);
}

fn save_tokens(path: &Path, rows: &[Vec<i32>]) {
    let inner = polars::prelude::DataType::Int32;
    let mut lists = ListPrimitiveChunkedBuilder::<Int32Type>::new("input_ids".into(), rows.len(), 0, inner);
    rows.iter().for_each(|row| lists.append_slice(row));
    save(path, lists.finish().into_series(), 1000);
}

/// Document `number`: one or more letters, so that neighbouring documents differ.
fn document(number: usize) -> String {
    let letter = |at: usize| char::from(b'a' + (at % 26) as u8).to_string();
    (0..1 + number % 5).map(|at| letter(number * 7 + at)).collect::<Vec<_>>().join(" ")
}

fn documents(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(document).collect()
}

fn encoded(text: &str) -> Vec<u32> {
    let ids = text.split(' ').map(|letter| u32::from(letter.as_bytes()[0] - b'a') + 1);
    ids.chain([0]).collect()
}

/// A hub with one data set, `o/n`, that has these files.
fn hub_of(files: Vec<(&'static str, Vec<u8>)>) -> Server {
    Server::start(move |request, stream| {
        if request.path.starts_with("/api/datasets/o/n/") {
            let list: Vec<String> = files.iter().map(|(name, _)| format!(r#"{{"rfilename":"{name}"}}"#)).collect();
            let body = format!(r#"{{"id":"o/n","sha":"{COMMIT}","tags":[],"siblings":[{}]}}"#, list.join(","));
            head(stream, 200, &[("Content-Length", &body.len().to_string())]);
            stream.write_all(body.as_bytes()).unwrap();
        } else if let Some((_, content)) = files.iter().find(|(name, _)| request.path.ends_with(name)) {
            Page::large(content.clone()).answer(request, stream);
        } else {
            refuse(stream, 404, &[("X-Error-Code", "EntryNotFound")]);
        }
    })
}

fn client(bench: &Bench, server: &Server, offline: bool) -> Hub {
    let mut settings = Settings::new(bench.at("hub"));
    settings.endpoint = server.endpoint();
    settings.proxy = false;
    settings.offline = offline;
    settings.first_pause = Duration::from_millis(1);
    Hub::new(settings).unwrap()
}

/// Three files of 30, 0 and 50 documents on a hub, in row groups of seven.
fn three_files(bench: &Bench) -> Server {
    let file = |name: &'static str, range| {
        let path = bench.at("made.parquet");
        save_texts(&path, &documents(range), 7);
        (name, fs::read(&path).unwrap())
    };
    let readme = ("README.md", b"about".to_vec());
    let train = "plain/train/0000.parquet";
    hub_of(vec![
        readme,
        file(train, 0..30),
        file("plain/train/0001.parquet", 0..0),
        file("plain/train/0002.parquet", 30..80),
    ])
}

const ON_HUB: &str = "hub:o/n@refs/convert/parquet:plain/train/";

#[test]
fn batches_are_cut_and_their_remainders_dropped() {
    let bench = Bench::new();
    let lines = "{\"text\": \"a b\"}\n{\"text\": \"c\"}\n\n{\"id\": 1, \"text\": \"a a a\"}\n{\"text\": \"b\"}\n";
    let source = bench.write("texts.jsonl", lines);
    let batched = |documents, workers| Recipe { batches: Some(Batches { documents, workers }), ..plain(2) };
    let chunks = |recipe: &Recipe| {
        let corpus = bench.pack(&source, &Column::text(), recipe).unwrap();
        let packed = corpus.split("all").unwrap();
        packed.verify().unwrap();
        let split = &corpus.manifest.splits[0];
        assert_eq!((split.documents, split.tokens, split.chunks as usize), (4, 11, packed.len()));
        packed.chunks().collect::<Vec<_>>()
    };
    // a b | end c | (end) and a a | a end | b end
    assert_eq!(chunks(&batched(2, 1)), [[1, 2], [0, 3], [1, 1], [1, 0], [2, 0]]);
    assert_eq!(chunks(&batched(4, 2)), chunks(&batched(2, 1)), "a worker has two documents either way");
    // a b | end c | end a | a a | end b | (end)
    assert_eq!(chunks(&plain(2)), [[1, 2], [0, 3], [0, 1], [1, 1], [0, 2]]);
    assert_eq!(chunks(&batched(1, 1)), [[1, 2], [3, 0], [1, 1], [1, 0], [2, 0]]);
    let few = Recipe { chunks: Some(3), ..plain(2) };
    assert_eq!(chunks(&few), [[1, 2], [0, 3], [0, 1]]);
    let message = bench.message(&source, &Column::text(), &Recipe { chunks: Some(6), ..plain(2) });
    assert!(message.contains("5 chunks of 2 tokens, but 6 are needed"), "{message}");
    let message = bench.message(&source, &Column::text(), &plain(12));
    assert!(message.contains("0 chunks of 12 tokens"), "{message}");
}

#[test]
fn splits_match_the_python_library() {
    let bench = Bench::new();
    let server = three_files(&bench);
    let hub = client(&bench, &server, false);
    let source: Source = ON_HUB.parse().unwrap();
    let recipe = Recipe { block: 4, holdout: Some(Holdout { test_size: 0.1, seed: 2357 }), ..Recipe::openwebtext() };
    let recipe = Recipe { batches: Some(Batches { documents: 10, workers: 1 }), ..recipe };
    let job = Job { source: &source, column: &Column::text(), tokenizer: &bench.tokenizer, recipe: &recipe };
    let corpus = pack(&bench.at("corpora"), &job, Some(&hub), &mut check_interrupted).unwrap();
    let (train, validation) = numpy::train_test_split(80, 0.1, 2357).unwrap();
    assert_eq!((train.len(), validation.len()), (72, 8));
    for (name, places) in [("train", &train), ("validation", &validation)] {
        let of_batch = |places: &[u32]| {
            let joined: Vec<u32> = places.iter().flat_map(|&place| encoded(&document(place as usize))).collect();
            joined.chunks_exact(4).map(<[u32]>::to_vec).collect::<Vec<_>>()
        };
        let expected: Vec<Vec<u32>> = places.chunks(10).flat_map(of_batch).collect();
        let packed = Packed::open(&corpus.file(name)).unwrap();
        assert!(packed.chunks().eq(expected), "{name}");
    }
    let manifest = &corpus.manifest;
    assert_eq!((manifest.documents, manifest.bits, manifest.commit.as_deref()), (80, 16, Some(COMMIT)));
    let shards: Vec<(&str, u64)> = manifest.shards.iter().map(|shard| (&*shard.name, shard.documents)).collect();
    let expected =
        [("plain/train/0000.parquet", 30), ("plain/train/0001.parquet", 0), ("plain/train/0002.parquet", 50)];
    assert_eq!(shards, expected);
    assert!(!corpus.folder.join("parts").exists());
    // A single split has the same bytes, and only its documents are encoded.
    let only = Recipe { only: Some("validation".to_owned()), ..recipe.clone() };
    let alone = pack(&bench.at("corpora"), &Job { recipe: &only, ..job }, Some(&hub), &mut check_interrupted).unwrap();
    assert_eq!(alone.manifest.splits, [manifest.splits[1].clone()]);
    assert!(alone.split("train").unwrap_err().to_string().contains("use one of validation"));
    // Fewer documents give the first chunks.
    let fewer = Recipe { only: Some("train".to_owned()), documents: Some(25), ..recipe.clone() };
    let fewer = pack(&bench.at("corpora"), &Job { recipe: &fewer, ..job }, Some(&hub), &mut check_interrupted).unwrap();
    let (fewer, whole) = (fewer.split("train").unwrap(), corpus.split("train").unwrap());
    assert!(fewer.len() > 5 && fewer.len() < whole.len());
    assert!(fewer.chunks().eq(whole.chunks().take(fewer.len())));
}

#[test]
fn an_interrupted_packing_resumes_with_the_same_bytes() {
    let bench = Bench::new();
    let server = three_files(&bench);
    let hub = client(&bench, &server, false);
    let source: Source = ON_HUB.parse().unwrap();
    let recipe = Recipe { holdout: Some(Holdout { test_size: 0.2, seed: 1 }), ..plain(5) };
    let job = Job { source: &source, column: &Column::text(), tokenizer: &bench.tokenizer, recipe: &recipe };
    let whole = pack(&bench.at("whole"), &job, Some(&hub), &mut check_interrupted).unwrap();
    let root = bench.at("interrupted");
    let stop_at = |wanted: usize| {
        let mut steps = 0;
        let mut watch = |step: Step<'_>| {
            steps += usize::from(matches!(step, Step::Encode { .. } | Step::Join { .. }));
            if steps > wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        pack(&root, &job, Some(&hub), &mut watch)
    };
    for steps in [0, 1, 3, 4] {
        let message = stop_at(steps).unwrap_err().to_string();
        assert!(message.contains("the same command resumes"), "{message}");
        assert!(Corpus::open(&root.join(whole.folder.file_name().unwrap())).is_err(), "not finished");
    }
    let parts = root.join(whole.folder.file_name().unwrap()).join("parts");
    let (first, last) = (parts.join("00000.part"), parts.join("00002.part"));
    let written = fs::metadata(&first).unwrap().modified().unwrap();
    let mut damaged = fs::read(&last).unwrap();
    damaged[3] ^= 1;
    fs::write(&last, damaged).unwrap();
    stop_at(3).unwrap_err();
    assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), written, "an existing part is reused");
    // The list of files and the files are now cached.
    let offline = client(&bench, &server, true);
    let again = pack(&root, &job, Some(&offline), &mut check_interrupted).unwrap();
    assert_eq!(again.manifest, whole.manifest);
    for name in ["train.bin", "validation.bin", "manifest.json"] {
        assert_eq!(fs::read(again.folder.join(name)).unwrap(), fs::read(whole.folder.join(name)).unwrap(), "{name}");
    }
    let mut steps = 0;
    let mut count = |_: Step<'_>| {
        steps += 1;
        ControlFlow::Continue(())
    };
    fs::create_dir_all(&parts).unwrap();
    pack(&root, &job, None, &mut count).unwrap();
    assert_eq!(steps, 0, "a finished corpus is only opened");
    assert!(!parts.exists(), "the leftovers of an interruption are removed");
}

#[test]
fn only_needed_files_are_fetched() {
    let bench = Bench::new();
    let server = three_files(&bench);
    let hub = client(&bench, &server, false);
    let source: Source = ON_HUB.parse().unwrap();
    let recipe = Recipe { rows: Some(20), ..plain(3) };
    let job = Job { source: &source, column: &Column::text(), tokenizer: &bench.tokenizer, recipe: &recipe };
    let corpus = pack(&bench.at("corpora"), &job, Some(&hub), &mut check_interrupted).unwrap();
    assert_eq!(corpus.manifest.documents, 20);
    let mut rows = source.rows(Some(&hub), &Column::text()).unwrap();
    assert_eq!(rows.next().unwrap().unwrap(), Content::Text(document(0)));
    let asked = |name: &str| server.requests().iter().filter(|request| request.path.ends_with(name)).count();
    assert!(asked("0000.parquet") > 0);
    assert_eq!(asked("0002.parquet"), 0);
    assert_eq!(rows.count(), 79);
    assert!(asked("0002.parquet") > 0);
    let mut tokens = source.rows(Some(&hub), &Column::text()).unwrap().tokens(&bench.tokenizer, true).unwrap();
    assert!((0..80).all(|number| tokens.next().unwrap().unwrap() == encoded(&document(number))));
    assert!(tokens.next().is_none());
    let job = Job { recipe: &Recipe { rows: Some(81), ..plain(3) }, ..job };
    let message = pack(&bench.at("corpora"), &job, Some(&hub), &mut check_interrupted).unwrap_err().to_string();
    assert!(message.contains("`rows` is 81") && message.contains("has only 80"), "{message}");
    assert!(matches!(pack(&bench.at("corpora"), &job, None, &mut check_interrupted), Ok(_) | Err(Error::NoHub { .. })));
}

#[test]
fn long_files_are_read_in_ranges() {
    let bench = Bench::new();
    let texts = documents(0..9000);
    let check = |source: Source, recipe: &Recipe| {
        let rows: Vec<Content> = source.rows(None, &Column::text()).unwrap().map(Result::unwrap).collect();
        assert!(rows.into_iter().eq(texts.iter().cloned().map(Content::Text)));
        bench.pack(&source, &Column::text(), recipe).unwrap().manifest.splits
    };
    save_texts(&bench.at("one.parquet"), &texts, 100_000);
    save_texts(&bench.at("many.parquet"), &texts, 2500);
    let line = |text: &String| format!("{{\"text\": \"{text}\"}}\n");
    let lines = bench.write("lines.jsonl", &texts.iter().map(line).collect::<String>());
    for recipe in [
        plain(64),
        Recipe { holdout: Some(Holdout { test_size: 0.01, seed: 3 }), only: Some("validation".to_owned()), ..plain(8) },
    ] {
        let one = check(Source::Local(bench.at("one.parquet")), &recipe);
        assert_eq!(check(Source::Local(bench.at("many.parquet")), &recipe), one);
        assert_eq!(check(lines.clone(), &recipe), one);
    }
}

#[test]
fn rows_of_tokens_are_shuffled_joined_and_cut() {
    let bench = Bench::new();
    let rows: Vec<Vec<i32>> = (0..50).map(|row| (0..1 + row % 7).map(|at| (row + at) % 27).collect()).collect();
    let path = bench.at("rows.parquet");
    save_tokens(&path, &rows);
    let source = Source::Local(path.clone());
    let recipe = Recipe { block: 6, rows: Some(40), chunks: Some(20), ..Recipe::pile() };
    let corpus = bench.pack(&source, &Column::input_ids(), &recipe).unwrap();
    let stream = source.rows(None, &Column::input_ids()).unwrap().tokens(&bench.tokenizer, false).unwrap();
    let sample = corpora::shuffled_chunks(stream, 40, 42, 6, 20).unwrap();
    assert!(corpus.split("all").unwrap().chunks().eq(sample), "the same on disk and in memory");
    let stream = source.rows(None, &Column::input_ids()).unwrap().tokens(&bench.tokenizer, true).unwrap();
    assert_eq!(corpora::first_rows(stream, 3, 2).unwrap(), [vec![0, 0], vec![1, 2], vec![2, 3]]);
    save_tokens(&path, &[vec![1, 2], vec![3, 27]]);
    let message = bench.message(&source, &Column::input_ids(), &plain(1));
    assert!(
        message.contains("row 1 of") && message.contains("token 27") && message.contains("last id is 26"),
        "{message}"
    );
    save_tokens(&path, &[vec![1], vec![-5]]);
    let message = bench.message(&source, &Column::input_ids(), &plain(1));
    assert!(message.contains("row 1 of") && message.contains("-5 is not a token id"), "{message}");
    let lines = bench.write("rows.jsonl", "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [4]}\n");
    let corpus = bench.pack(&lines, &Column::input_ids(), &Recipe { end: false, ..plain(4) }).unwrap();
    assert_eq!(corpus.split("all").unwrap().chunk(0), [1, 2, 3, 4]);
}

#[test]
fn large_vocabularies_take_four_bytes() {
    let bench = Bench::new();
    let words: Vec<String> =
        std::iter::once(END_OF_TEXT.to_owned()).chain((0..65_536).map(|word| format!("w{word}"))).collect();
    let tokenizer = tokens::word_level(&bench.at("words"), &words, END_OF_TEXT).unwrap();
    let source = bench.write("text.txt", "w65535 w0 w65534");
    let job = Job { source: &source, column: &Column::text(), tokenizer: &tokenizer, recipe: &plain(2) };
    let corpus = pack(&bench.at("corpora"), &job, None, &mut check_interrupted).unwrap();
    let packed = corpus.split("all").unwrap();
    assert_eq!((corpus.manifest.bits, packed.block(), packed.is_empty()), (32, 2, false));
    assert!(packed.chunks().eq([[65_536, 1], [65_535, 0]]));
}

#[test]
fn ends_as_token_and_as_text_agree() {
    let bench = Bench::new();
    let texts = ["the cat sat ", "on the mat\n\n", "", "  the"];
    let tokenizer = tokens::train_bpe(&bench.at("bpe"), texts.iter().cycle().take(20), 290).unwrap();
    let lines: String = texts.iter().map(|text| format!("{}\n", serde_json::json!({ "text": text }))).collect();
    let source = bench.write("texts.jsonl", &lines);
    let rows = source.rows(None, &Column::text()).unwrap().tokens(&tokenizer, true).unwrap();
    let found: Vec<Vec<u32>> = rows.map(Result::unwrap).collect();
    let whole = |text: &&str| tokenizer.encode(&format!("{text}{END_OF_TEXT}"), Bos::Never).unwrap().ids;
    assert_eq!(found, texts.iter().map(whole).collect::<Vec<_>>());
}

#[test]
fn the_key_covers_everything_that_determines_the_content() {
    let bench = Bench::new();
    let text = "a b c d e f g h";
    let folder = |source: &Source, recipe: &Recipe| bench.pack(source, &Column::text(), recipe).unwrap().folder;
    let first = folder(&bench.write("one/t.txt", text), &plain(2));
    assert_eq!(first, folder(&bench.write("two/t.txt", text), &plain(2)), "the location of a file does not matter");
    let others = [
        folder(&bench.write("one/t.txt", "a b c d e f g i"), &plain(2)),
        folder(&bench.write("two/t.txt", text), &plain(3)),
        folder(&bench.write("two/t.txt", text), &Recipe { end: false, ..plain(2) }),
    ];
    assert!(others.iter().all(|other| *other != first));
    let words: Vec<String> = std::iter::once(END_OF_TEXT.to_owned()).chain(('a'..='j').map(String::from)).collect();
    let tokenizer = tokens::word_level(&bench.at("fewer"), &words, END_OF_TEXT).unwrap();
    let source = bench.write("two/t.txt", text);
    let job = Job { source: &source, column: &Column::text(), tokenizer: &tokenizer, recipe: &plain(2) };
    assert_ne!(pack(&bench.at("corpora"), &job, None, &mut check_interrupted).unwrap().folder, first);
}

#[test]
fn two_processes_cannot_pack_the_same_corpus() {
    let bench = Bench::new();
    let source = bench.write("t.txt", "a b c d");
    let job = Job { source: &source, column: &Column::text(), tokenizer: &bench.tokenizer, recipe: &plain(2) };
    let root = bench.at("corpora");
    let mut message = String::new();
    let mut watch = |step: Step<'_>| {
        if let Step::Encode { .. } = step {
            message = pack(&root, &job, None, &mut check_interrupted).unwrap_err().to_string();
        }
        ControlFlow::Continue(())
    };
    pack(&root, &job, None, &mut watch).unwrap();
    assert!(message.contains("is in use by process"), "{message}");
}

#[test]
fn wrong_columns_are_reported() {
    let bench = Bench::new();
    let path = bench.at("t.parquet");
    save_texts(&path, &documents(0..3), 2);
    let source = Source::Local(path.clone());
    let message = |column: &Column| bench.message(&source, column, &plain(1));
    let missing = message(&Column::Text("txt".to_owned()));
    assert!(missing.contains("no column `txt`; use one of number, text") && missing.contains("t.parquet"), "{missing}");
    let number = message(&Column::Text("number".to_owned()));
    assert!(number.contains("column `number`") && number.contains("holds i64, not text"), "{number}");
    let tokens = message(&Column::Tokens("text".to_owned()));
    assert!(tokens.contains("holds str, not lists of token ids"), "{tokens}");
    save(&path, Series::new("text".into(), [Some("a"), None]), 2);
    assert!(message(&Column::text()).contains("row 1 of"), "{}", message(&Column::text()));
    fs::write(&path, "no parquet").unwrap();
    assert!(message(&Column::text()).contains("cannot read"));
    fs::write(&path, "").unwrap();
    assert!(message(&Column::text()).contains("cannot read"));

    let message = |text: &str, column: &Column| bench.message(&bench.write("t.jsonl", text), column, &plain(1));
    let missing = message("{\"text\": \"a\"}\n\n{\"b\": 1, \"c\": 2}\n", &Column::text());
    assert!(missing.contains("no column `text`; use one of b, c"), "{missing}");
    let kind = message("{\"text\": \"a\"}\n\n{\"text\": 1}\n", &Column::text());
    assert!(kind.contains("holds something else in line 3, not text"), "{kind}");
    let kind = message("{\"input_ids\": [1, -1]}\n", &Column::input_ids());
    assert!(kind.contains("line 1, not lists of token ids"), "{kind}");
    assert!(message("{\"text\": \"a\"\n", &Column::text()).contains("line 1"));
    assert!(message("[1]\n", &Column::text()).contains("not a JSON object"));
    let unknown = message("{\"text\": \"a\"}\n{\"text\": \"a B\"}\n", &Column::text());
    assert!(unknown.contains("row 1 of") && unknown.contains("t.jsonl"), "{unknown}");
    assert!(bench.message(&bench.write("t.txt", "a"), &Column::input_ids(), &plain(1)).contains("`.txt` file"));
    fs::write(bench.at("t.txt"), [0xff, 0xfe]).unwrap();
    assert!(bench.message(&Source::Local(bench.at("t.txt")), &Column::text(), &plain(1)).contains("UTF-8"));
    assert!(bench.message(&Source::Local(bench.at("none")), &Column::text(), &plain(1)).contains("none"));
}

#[test]
fn invalid_recipes_are_reported() {
    let bench = Bench::new();
    let source = bench.write("t.txt", "a b c d");
    let holdout = |test_size| Some(Holdout { test_size, seed: 1 });
    for (recipe, words) in [
        (plain(0), "`block` is 0"),
        (Recipe { rows: Some(0), ..plain(1) }, "`rows` is 0"),
        (Recipe { chunks: Some(0), ..plain(1) }, "`chunks` is 0"),
        (Recipe { batches: Some(Batches { documents: 0, workers: 1 }), ..plain(1) }, "`batches.documents` is 0"),
        (Recipe { batches: Some(Batches { documents: 1, workers: 0 }), ..plain(1) }, "`batches.workers` is 0"),
        (Recipe { holdout: holdout(0.5), shuffle: Some(1), ..plain(1) }, "remove `shuffle`"),
        (Recipe { holdout: holdout(1.5), ..plain(1) }, "1.5"),
        (Recipe { holdout: holdout(0.5), ..plain(1) }, "empty for 1 documents"),
        (Recipe { only: Some("train".to_owned()), ..plain(1) }, "the splits are all"),
        (Recipe { holdout: holdout(0.5), only: Some("test".to_owned()), ..plain(1) }, "train, validation"),
        (Recipe { rows: Some(2), ..plain(1) }, "`rows` is 2"),
    ] {
        let message = bench.message(&source, &Column::text(), &recipe);
        assert!(message.contains(words), "{message}");
    }
    let words: Vec<String> = vec!["a".to_owned(), "b".to_owned()];
    let tokenizer = tokens::word_level(&bench.at("no-end"), &words, "a").unwrap();
    let job = Job { source: &source, column: &Column::text(), tokenizer: &tokenizer, recipe: &plain(1) };
    let message = pack(&bench.at("corpora"), &job, None, &mut check_interrupted).unwrap_err().to_string();
    assert!(message.contains(END_OF_TEXT) && message.contains("no-end"), "{message}");
}

#[test]
fn recipes_are_read_from_configurations() {
    let text = r#"{"block": 8, "end": true, "holdout": {"test_size": 0.1, "seed": 7}, "chunks": 3}"#;
    let recipe: Recipe = serde_json::from_str(text).unwrap();
    let expected = Recipe { holdout: Some(Holdout { test_size: 0.1, seed: 7 }), chunks: Some(3), ..plain(8) };
    assert_eq!(recipe, expected);
    assert!(serde_json::from_str::<Recipe>(r#"{"block": 8, "end": true, "chunk": 3}"#).is_err());
    let column: Column = serde_json::from_str(r#"{"tokens": "input_ids"}"#).unwrap();
    assert_eq!(column, Column::input_ids());
}

#[test]
fn damaged_files_are_reported() {
    let bench = Bench::new();
    let source = bench.write("t.txt", "a b c d e f");
    let corpus = bench.pack(&source, &Column::text(), &plain(2)).unwrap();
    let file = corpus.file("all");
    let good = fs::read(&file).unwrap();
    let again = || bench.pack(&source, &Column::text(), &plain(2)).map(drop).unwrap_err().to_string();
    fs::write(&file, &good[..5]).unwrap();
    let message = again();
    assert!(
        message.contains("has 5 bytes") && message.contains("all.bin") && message.contains("pack it again"),
        "{message}"
    );
    let mut other = good.clone();
    other[0] ^= 1;
    fs::write(&file, &other).unwrap();
    let message = Packed::open(&file).unwrap().verify().unwrap_err().to_string();
    assert!(message.contains("has the hash"), "{message}");
    fs::remove_file(&file).unwrap();
    assert!(again().contains("all.bin"));
    fs::write(&file, &good).unwrap();
    corpus.split("all").unwrap().verify().unwrap();
    assert!(Packed::open(&corpus.folder.join("train.bin")).unwrap_err().to_string().contains("use one of all"));
    let manifest = corpus.folder.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"bits\": 16", "\"bits\": 12")).unwrap();
    assert!(again().contains("manifest.json"));
    fs::write(&manifest, text.replace(&corpus.manifest.key, "another")).unwrap();
    assert!(again().contains("belongs to another corpus"));
    fs::write(&manifest, "{").unwrap();
    assert!(again().contains("not a manifest"));
}

#[test]
fn differences_in_counts_are_described() {
    let bench = Bench::new();
    let lines: String = documents(0..20).iter().map(|text| format!("{{\"text\": \"{text}\"}}\n")).collect();
    let source = bench.write("t.jsonl", &lines);
    let recipe = Recipe { holdout: Some(Holdout { test_size: 0.1, seed: 1 }), ..plain(2) };
    let manifest = bench.pack(&source, &Column::text(), &recipe).unwrap().manifest;
    let split = |name, documents, tokens| ExpectedSplit { name, documents, tokens };
    let tokens = manifest.splits[1].tokens;
    let expected =
        Expected { documents: 20, splits: vec![split("train", 18, None), split("validation", 2, Some(tokens))] };
    assert!(expected.differences(&manifest).is_empty());
    let wrong =
        Expected { documents: 21, splits: vec![split("test", 2, None), split("validation", 3, Some(tokens + 1))] };
    let differences = [
        "documents: 20, expected 21".to_owned(),
        "documents of `validation`: 2, expected 3".to_owned(),
        format!("tokens of `validation` before packing: {tokens}, expected {}", tokens + 1),
        "the split `test` is missing".to_owned(),
    ];
    assert_eq!(wrong.differences(&manifest), differences);
    assert_eq!(Expected::openwebtext().differences(&manifest).len(), 4);
}
