//! Packs documents into chunks: every file becomes a part, and the parts are joined in the order of the recipe.
//!
//! Packing takes two passes, because a seeded order jumps between files. The first pass encodes each file once, on all
//! threads, into a part. The second pass copies documents out of the memory-mapped parts. Memory holds a range of rows,
//! the order (four bytes per document) and one batch. The disk holds the tokens twice until the parts are removed.

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

/// The input of [`pack()`].
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The source of the documents.
    pub source: &'a Source,
    /// The column that holds them.
    pub column: &'a Column,
    /// The tokenizer that encodes them, or that encoded them before.
    pub tokenizer: &'a Tokenizer,
    /// The recipe.
    pub recipe: &'a Recipe,
}

/// The next step of [`pack()`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Fetches a file if it is not cached, and counts its documents.
    Count {
        /// The file name.
        shard: &'a str,
        /// The file index, from 0.
        number: usize,
        /// Number of files; a recipe with `rows` may not need all of them.
        of: usize,
    },
    /// Encodes a file, unless its part exists.
    Encode {
        /// The file name.
        shard: &'a str,
        /// The file index, from 0.
        number: usize,
        /// Number of files.
        of: usize,
    },
    /// Joins the documents of a split and cuts them into chunks.
    Join {
        /// The name of the split.
        split: &'a str,
    },
}

const PARTS: &str = "parts";

type Watch<'a> = &'a mut dyn FnMut(Step<'_>) -> ControlFlow<()>;

/// Everything that determines the content. The location of local files does not.
#[derive(Serialize)]
struct Identity<'a> {
    format: u32,
    /// The source, if it is on the hub.
    source: Option<String>,
    /// Names and hashes of local files.
    files: Vec<(String, String)>,
    column: &'a Column,
    tokenizer: &'a str,
    recipe: &'a Recipe,
}

/// Packs documents into a folder below `root`, or opens that folder if it was finished before. The folder is named
/// after a hash of everything that determines its content. The method is that of arXiv 2507.02559, section 4 and its
/// code, with the recipes of that paper.
///
/// An interrupted packing resumes with the next file that has no part, and gives the same bytes. `watch` receives every
/// step and stops the packing before it by returning `Break`. A branch on the hub is identified by its name, so a
/// packed corpus stays the same after later pushes; a commit is more precise.
///
/// # Errors
///
/// Fails if the recipe is inconsistent or needs more than the source has; if a file cannot be fetched, read or written;
/// if a column is missing or has another type; if a row is empty or cannot be encoded; if another process packs the
/// same corpus; if `watch` stops it; or if an earlier result is damaged.
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
        problem: format!("{documents} documents are more than the maximum of {}; set `rows` to fewer", u32::MAX),
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
        return Err(Error::damaged(&folder.join(MANIFEST), "belongs to another corpus"));
    }
    // Parts that cannot be removed only cost disk space.
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

/// The files of a source. The hub's list is stored, so that resuming needs no network for it.
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

/// The counts of a split.
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
    fn announce(&mut self, step: Step<'_>) -> Result<(), Error> {
        match (self.watch)(step) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped { folder: self.folder.to_owned() }),
        }
    }

    /// The files that the recipe uses, and the number of rows of each.
    fn count<'a>(&mut self, shards: &'a [Shard]) -> Result<Vec<(&'a Shard, usize)>, Error> {
        let most = self.job.recipe.rows.and_then(|rows| usize::try_from(rows).ok());
        let mut left = most.unwrap_or(usize::MAX);
        let mut used = Vec::new();
        for (number, shard) in shards.iter().enumerate() {
            if left == 0 {
                break;
            }
            self.announce(Step::Count { shard: &shard.name, number, of: shards.len() })?;
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
            let problem = format!("`rows` is {most}, but {} has only {}", self.job.source, most - left);
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
        orders.iter().flat_map(|order| &order.indices).for_each(|&index| wanted[index as usize] = true);
        let mut wanted = wanted.as_slice();
        let mut parts = Vec::with_capacity(used.len());
        for (number, &(shard, rows)) in used.iter().enumerate() {
            self.announce(Step::Encode { shard: &shard.name, number, of: used.len() })?;
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
        self.announce(Step::Join { split: order.name })?;
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
            documents: order.indices.len() as u64,
            tokens: tally.tokens,
            chunks: tally.chunks,
            hash: storage::hash_file(&path)?,
        })
    }

    /// Joins the documents batch by batch; the remainder of each batch is dropped.
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
            for &index in &order.indices[batch.clone()] {
                let index = index as usize;
                // Files without rows share their first index with the next file.
                let number = firsts.partition_point(|&first| first <= index) - 1;
                let document = parts[number].document(index - firsts[number]);
                let document = document.ok_or_else(|| {
                    let part = self.parts.join(format!("{number:05}.part"));
                    Error::damaged(&part, "changed while it was read")
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
