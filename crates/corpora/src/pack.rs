//! From documents to chunks: every file becomes a part, and the parts are joined in the order of the recipe.
//!
//! Two passes, because an order that a seed decides jumps from file to file: the first encodes each file once, on all
//! threads, into a part; the second copies documents out of the mapped parts.
//! Memory holds a stretch of rows, the order (four bytes a document) and a batch; the disk holds the tokens twice until
//! the parts are removed.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hub::Hub;
use serde::Serialize;
use storage::Lock;
use tokens::Tokenizer;

use crate::documents::{Encoder, Reader};
use crate::manifest::FORMAT;
use crate::order::{Order, orders};
use crate::packed::width;
use crate::parts::{Making, Part, Trouble, write_with};
use crate::source::Shard;
use crate::{Column, Corpus, Error, MANIFEST, Manifest, Recipe, ShardCount, Source, SplitCount};

/// What is to be packed.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The documents.
    pub source: &'a Source,
    /// Where in its files they stand.
    pub column: &'a Column,
    /// What makes tokens of them, or made them.
    pub tokenizer: &'a Tokenizer,
    /// What becomes of them.
    pub recipe: &'a Recipe,
}

/// What [`pack()`] does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Fetches a file, unless it is there, and counts its documents.
    Count {
        /// Its name.
        shard: &'a str,
        /// Its number, from 0.
        number: usize,
        /// How many files there are; a recipe with `rows` may not need all.
        of: usize,
    },
    /// Encodes a file, unless that was done before.
    Encode {
        /// Its name.
        shard: &'a str,
        /// Its number, from 0.
        number: usize,
        /// How many files there are.
        of: usize,
    },
    /// Joins the documents of a split and cuts them into chunks.
    Join {
        /// The split.
        split: &'a str,
    },
}

const PARTS: &str = "parts";

type Watch<'a> = &'a mut dyn FnMut(Step<'_>) -> ControlFlow<()>;

/// All that decides the content. Where local files lie does not.
#[derive(Serialize)]
struct Identity<'a> {
    format: u32,
    /// A source on the hub.
    source: Option<String>,
    /// Names and hashes of local files.
    files: Vec<(String, String)>,
    column: &'a Column,
    tokenizer: &'a str,
    recipe: &'a Recipe,
}

/// Packs documents into a folder below `root` that is named by a hash of all that decides its content, or opens that
/// folder if this was done before. arXiv 2507.02559, section 4 and its code, with the recipes of that name.
///
/// Interrupted, it goes on with the next file that has no part; the bytes are the same.
/// `watch` is told every step, and stops the packing before it with `Break`.
/// A branch on the hub counts by its name: what was packed stays, whatever is pushed; a commit says more.
///
/// # Errors
/// When the recipe contradicts itself or asks for more than there is, a file cannot be had, read or written, a column
/// is missing or holds something else, a row is empty or cannot be encoded, another process packs the same, `watch`
/// says stop, or what was packed before is damaged.
pub fn pack(root: &Path, job: &Job<'_>, hub: Option<&Hub>, watch: Watch<'_>) -> Result<Corpus, Error> {
    job.recipe.check()?;
    let encoder = Encoder::new(job.tokenizer, job.recipe.end)?;
    let tokenizer = storage::hash_file(job.tokenizer.path())?;
    let key = key(job, &tokenizer)?;
    let folder = root.join(&key[..16]);
    if folder.join(MANIFEST).exists() {
        return finished(&folder, &key);
    }
    let _lock = Lock::acquire(&folder)?;
    if folder.join(MANIFEST).exists() {
        return finished(&folder, &key);
    }
    let shards = remembered_shards(job.source, &folder, hub)?;
    let mut packing = Packing { job, hub, watch, folder: &folder, parts: folder.join(PARTS), commit: None };
    let used = packing.count(&shards)?;
    let documents: usize = used.iter().map(|(_, rows)| rows).sum();
    let n = u32::try_from(documents).map_err(|_| Error::Recipe {
        problem: format!("{documents} documents are more than {}: take fewer `rows`", u32::MAX),
    })?;
    let orders = orders(job.recipe, n)?;
    let parts = packing.encode(&used, &orders, &encoder)?;
    let splits = orders.iter().map(|order| packing.join(order, &parts)).collect::<Result<_, _>>()?;
    let d_vocab = job.tokenizer.d_vocab();
    let count = |(shard, rows): &(&Shard, usize)| ShardCount { name: shard.name.clone(), documents: *rows as u64 };
    let manifest = Manifest {
        format: FORMAT,
        key,
        source: job.source.to_string(),
        commit: packing.commit.take(),
        column: job.column.clone(),
        tokenizer,
        d_vocab,
        bits: 8 * width(d_vocab) as u32,
        recipe: job.recipe.clone(),
        documents: documents as u64,
        shards: used.iter().map(count).collect(),
        splits,
    };
    write_json(&folder.join(MANIFEST), &manifest)?;
    drop(parts);
    finished(&folder, &manifest.key)
}

fn finished(folder: &Path, key: &str) -> Result<Corpus, Error> {
    let corpus = Corpus::open(folder)?;
    if corpus.manifest.key != key {
        return Err(Error::damaged(&folder.join(MANIFEST), "belongs to something else"));
    }
    // parts that cannot be removed cost room and nothing else
    let _ = std::fs::remove_dir_all(folder.join(PARTS));
    Ok(corpus)
}

fn key(job: &Job<'_>, tokenizer: &str) -> Result<String, Error> {
    let (source, files) = match job.source {
        Source::Hub { .. } => (Some(job.source.to_string()), Vec::new()),
        Source::Local(_) => {
            let hash = |shard: Shard| Ok((storage::hash_file(&shard.path(None)?)?, shard.name));
            let hashes = job.source.shards(None)?.into_iter().map(hash);
            let files = hashes.map(|pair: Result<_, Error>| pair.map(|(hash, name)| (name, hash)));
            (None, files.collect::<Result<_, _>>()?)
        }
    };
    let identity = Identity { format: FORMAT, source, files, column: job.column, tokenizer, recipe: job.recipe };
    let text = serde_json::to_vec(&identity).map_err(|error| Error::Recipe { problem: error.to_string() })?;
    Ok(storage::hash_bytes(&text))
}

/// The files of a source; a list of the hub is kept, so that a packing that goes on needs no network for it.
fn remembered_shards(source: &Source, folder: &Path, hub: Option<&Hub>) -> Result<Vec<Shard>, Error> {
    if let Source::Local(_) = source {
        return source.shards(hub);
    }
    let path = folder.join("shards.json");
    if let Some(names) = storage::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return source.named(names);
    }
    let shards = source.shards(hub)?;
    write_json(&path, &shards.iter().map(|shard| &shard.name).collect::<Vec<_>>())?;
    Ok(shards)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::damaged(path, format!("cannot be written ({error})")))?;
    text.push(b'\n');
    Ok(storage::write_atomic(path, &text)?)
}

/// What a split came to.
#[derive(Default)]
struct Tally {
    tokens: u64,
    chunks: u64,
}

struct Packing<'a> {
    job: &'a Job<'a>,
    hub: Option<&'a Hub>,
    watch: Watch<'a>,
    folder: &'a Path,
    parts: PathBuf,
    commit: Option<String>,
}

impl Packing<'_> {
    fn tell(&mut self, step: Step<'_>) -> Result<(), Error> {
        match (self.watch)(step) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped { folder: self.folder.to_owned() }),
        }
    }

    /// The files that the recipe looks at, and how many rows of each.
    fn count<'a>(&mut self, shards: &'a [Shard]) -> Result<Vec<(&'a Shard, usize)>, Error> {
        let most = self.job.recipe.rows.and_then(|rows| usize::try_from(rows).ok());
        let mut left = most.unwrap_or(usize::MAX);
        let mut used = Vec::new();
        for (number, shard) in shards.iter().enumerate() {
            if left == 0 {
                break;
            }
            self.tell(Step::Count { shard: &shard.name, number, of: shards.len() })?;
            let path = shard.path(self.hub)?;
            if let Source::Hub { .. } = self.job.source {
                self.commit = self.commit.take().or_else(|| commit(&path));
            }
            let rows = Reader::count(&path, self.job.column)?.min(left);
            left -= rows;
            used.push((shard, rows));
        }
        if let Some(most) = most
            && left > 0
        {
            let problem = format!("`rows` is {most}, and {} has {}", self.job.source, most - left);
            return Err(Error::Recipe { problem });
        }
        Ok(used)
    }

    fn encode(
        &mut self,
        used: &[(&Shard, usize)],
        orders: &[Order],
        encoder: &Encoder<'_>,
    ) -> Result<Vec<Part>, Error> {
        let mut wanted = vec![false; used.iter().map(|(_, rows)| rows).sum()];
        orders.iter().flat_map(|order| &order.places).for_each(|&place| wanted[place as usize] = true);
        let mut wanted = wanted.as_slice();
        let mut parts = Vec::with_capacity(used.len());
        for (number, &(shard, rows)) in used.iter().enumerate() {
            self.tell(Step::Encode { shard: &shard.name, number, of: used.len() })?;
            let (here, rest) = wanted.split_at(rows);
            wanted = rest;
            let width = width(self.job.tokenizer.d_vocab());
            let making = Making { shard: &shard.name, wanted: here, encoder, width };
            let path = self.parts.join(format!("{number:05}.part"));
            let part = match making.find(&path) {
                Some(part) => part,
                None => {
                    let file = shard.path(self.hub)?;
                    making.make(&path, Reader::open(&file, self.job.column)?, &file)?
                }
            };
            parts.push(part);
        }
        Ok(parts)
    }

    fn join(&mut self, order: &Order, parts: &[Part]) -> Result<SplitCount, Error> {
        self.tell(Step::Join { split: order.name })?;
        let recipe = self.job.recipe;
        let path = self.folder.join(format!("{}.bin", order.name));
        let tally = write_with(&path, |out| self.fill(out, order, parts))?;
        let wanted = recipe.chunks.unwrap_or(1);
        if tally.chunks < wanted {
            let what = format!("split `{}` of {}", order.name, self.job.source);
            return Err(Error::Short { what, found: tally.chunks, wanted, block: recipe.block });
        }
        Ok(SplitCount {
            name: order.name.to_owned(),
            documents: order.places.len() as u64,
            tokens: tally.tokens,
            chunks: tally.chunks,
            hash: storage::hash_file(&path)?,
        })
    }

    /// Joins batch by batch; what is left of a batch is dropped.
    fn fill(&self, out: &mut dyn Write, order: &Order, parts: &[Part]) -> Result<Tally, Trouble> {
        let firsts: Vec<usize> = parts
            .iter()
            .scan(0, |next, part| {
                *next += part.rows();
                Some(*next - part.rows())
            })
            .collect();
        let width = width(self.job.tokenizer.d_vocab());
        let chunk = self.job.recipe.block * width;
        let most = self.job.recipe.chunks.unwrap_or(u64::MAX);
        let mut tally = Tally::default();
        let mut joined: Vec<u8> = Vec::new();
        for batch in &order.batches {
            joined.clear();
            for &place in &order.places[batch.clone()] {
                let place = place as usize;
                // files without rows share their first place with the next
                let number = firsts.partition_point(|&first| first <= place) - 1;
                let document = parts[number].document(place - firsts[number]);
                let document = document.ok_or_else(|| {
                    let part = self.parts.join(format!("{number:05}.part"));
                    Error::damaged(&part, "has changed while it was read")
                })?;
                tally.tokens += (document.len() / width) as u64;
                if tally.chunks == most {
                    continue;
                }
                joined.extend_from_slice(document);
                let whole = ((joined.len() / chunk) as u64).min(most - tally.chunks);
                let bytes = whole as usize * chunk;
                out.write_all(&joined[..bytes])?;
                joined.drain(..bytes);
                tally.chunks += whole;
            }
        }
        Ok(tally)
    }
}

/// The commit in the path of a file in the hub's cache.
fn commit(path: &Path) -> Option<String> {
    let mut names = path.iter().map(|name| name.to_string_lossy());
    names.find(|name| name == "snapshots")?;
    names.next().map(|commit| commit.into_owned())
}
