//! From a name to a path.

use std::path::{Path, PathBuf};

use hub::{Hub, Repo};
use serde_json::Value;

use crate::Error;

/// The path of what is there, or of what is fetched.
///
/// # Errors
/// When it is neither a path nor a repository.
pub fn locate(name: &str) -> Result<PathBuf, Error> {
    if is_here(name)? { Ok(PathBuf::from(name)) } else { fetch(name) }
}

/// Whether the name is a path that exists; a repository otherwise.
pub(crate) fn is_here(name: &str) -> Result<bool, Error> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(true);
    }
    let looks_like_path = name.starts_with(['.', '/', '~']) || name.ends_with(".gguf") || name.matches('/').count() > 1;
    if looks_like_path {
        return Err(Error::NoPath { path: path.to_owned() });
    }
    Ok(false)
}

fn repository(name: &str) -> Repo {
    let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
    Repo::model(id, revision)
}

/// Fetches what a repository says of its model, and nothing else.
pub(crate) fn fetch_config(name: &str) -> Result<PathBuf, Error> {
    let file = Hub::from_env()?.file(&repository(name), "config.json", None);
    file.map_err(|error| Error::NowhereAtAll { name: name.to_owned(), error })
}

/// Fetches the files of a model (`owner/name`, or `owner/name@revision`) and gives their folder.
///
/// # Errors
/// When the hub does not have it, or it has no safetensors.
pub fn fetch(name: &str) -> Result<PathBuf, Error> {
    let repo = repository(name);
    let hub = Hub::from_env()?.watched(|progress| {
        if progress.total == Some(progress.done) {
            tracing::info!("{}: {} bytes", progress.file, progress.done);
        }
    });
    let config =
        hub.file(&repo, "config.json", None).map_err(|error| Error::NowhereAtAll { name: name.to_owned(), error })?;
    let index = "model.safetensors.index.json";
    if hub.exists(&repo, index)? {
        for shard in shards(&hub.file(&repo, index, None)?)? {
            hub.file(&repo, &shard, None)?;
        }
    } else {
        let file = hub.file(&repo, "model.safetensors", None);
        file.map_err(|error| Error::NoSafetensors { repo: repo.to_string(), error })?;
    }
    for extra in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        if hub.exists(&repo, extra)? {
            hub.file(&repo, extra, None)?;
        }
    }
    Ok(config.parent().unwrap_or(Path::new(".")).to_owned())
}

/// Files that an index names, each once.
pub(crate) fn shards(index: &Path) -> Result<Vec<String>, Error> {
    let wrong = |reason: String| Error::Index { path: index.to_owned(), reason };
    let text = std::fs::read(index).map_err(|error| wrong(error.to_string()))?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| wrong(format!("no JSON: {error}")))?;
    let map = value["weight_map"].as_object().ok_or_else(|| wrong("no `weight_map`".to_owned()))?;
    let mut shards: Vec<String> = map.values().filter_map(Value::as_str).map(str::to_owned).collect();
    shards.sort_unstable();
    shards.dedup();
    Ok(shards)
}
