//! Reading and writing checkpoints of the hub.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use weights::{Checkpoint, Named};

use crate::architecture::{EXPORT_EPSILON, NormPath, QkNorm};
use crate::family::{Layout, Rule, gguf_config, gguf_name, unpermuted};
use crate::{Config, Decoder, Error, Family, Fields};

/// A model from a folder as on the hub (`config.json` beside safetensors), or from a GGUF file.
///
/// Numbers are widened or dequantised to `dtype` (f32 or f64). Nothing is folded: logits are those of the checkpoint.
///
/// # Errors
/// When the family is unknown, or a key or tensor is missing, unexpected, damaged, of the wrong shape or not finite.
/// The message names the file, and the key or tensor.
///
/// # Examples
/// ```
/// use candle_core::{DType, Device};
/// use models::{Config, Decoder, Family};
/// # use rand::SeedableRng;
/// # let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
/// # let model = Decoder::fresh(&sizes, &mut rand_chacha::ChaCha12Rng::seed_from_u64(0), &Device::Cpu)?;
/// # let scratch = tempfile::tempdir()?;
/// # let folder = scratch.path().join("gpt2");
/// models::export(&folder, &model, Family::Gpt2)?; // writes config.json and model.safetensors
///
/// let (same, family) = models::open(&folder, DType::F32, &Device::Cpu)?;
/// assert_eq!(family, Family::Gpt2);
/// assert_eq!(same.config(), model.config());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn open(path: &Path, dtype: DType, device: &Device) -> Result<(Decoder, Family), Error> {
    read(&Checkpoint::open(path)?, dtype, device)
}

/// [`open()`] for a checkpoint that is already open.
///
/// # Errors
/// As [`open()`].
pub fn read(checkpoint: &Checkpoint, dtype: DType, device: &Device) -> Result<(Decoder, Family), Error> {
    let (family, config) = describe(checkpoint)?;
    let named = Reader { checkpoint, family, config: &config, dtype }.all(device)?;
    Ok((Decoder::new(&config, named, device)?, family))
}

/// Family and sizes of a checkpoint, without reading its weights.
///
/// # Errors
/// As [`open()`].
pub fn describe_checkpoint(path: &Path) -> Result<(Family, Config), Error> {
    describe(&Checkpoint::open(path)?)
}

fn describe(checkpoint: &Checkpoint) -> Result<(Family, Config), Error> {
    let path = checkpoint.path();
    if let Some(gguf) = checkpoint.gguf() {
        let missing = || Error::Checkpoint(format!("{}: tensor `token_embd.weight` is missing", path.display()));
        let embedding = checkpoint.shape("token_embd.weight").ok_or_else(missing)?;
        let vocabulary = embedding.first().copied().unwrap_or(0);
        return gguf_config(gguf, vocabulary, &|name| checkpoint.shape(name).is_some());
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    read_hub_config(&folder.join("config.json"))
}

/// Family and sizes of a hub model's `config.json`.
///
/// # Errors
/// When the file cannot be read or its family is unknown; the message lists the known families.
pub fn read_hub_config(file: &Path) -> Result<(Family, Config), Error> {
    let wrong = |message: String| Error::Checkpoint(format!("{}: {message}", file.display()));
    let text = std::fs::read(file).map_err(|e| wrong(format!("{e}; a checkpoint needs this file")))?;
    let value: Value = serde_json::from_slice(&text).map_err(|e| wrong(format!("invalid JSON: {e}")))?;
    let fields = Fields::new(file, &value);
    let family = Family::of(&fields)?;
    Ok((family, family.config(&fields)?))
}

/// Writes a model as a folder that transformers loads: `config.json` and `model.safetensors`.
///
/// A model with all norms fixed gets an epsilon of 1e12, and gains that undo its root and divide by the fixed scales,
/// as the published models without norms do (arXiv 2507.02559). In f32 this is the same to 1e-7; in f16 the gains
/// overflow.
///
/// # Errors
/// When the family cannot express the model's architecture, only some norms are fixed, or writing fails. A failed
/// export leaves no partial files.
pub fn export(folder: &Path, model: &Decoder, family: Family) -> Result<(), Error> {
    let (config, ours) = without_fixed_norms(model)?;
    let config = &config;
    let hub_config = family.to_hub_config(config)?;
    let mut theirs = Named::new();
    for rule in family.rules(config) {
        let parts = rule.ours.iter().map(|name| find(&ours, name)).collect::<Result<Vec<_>, _>>()?;
        let whole = rule.write(&parts)?;
        if let [(name, _)] = rule.theirs.as_slice() {
            theirs.insert(name.clone(), whole);
            continue;
        }
        let mut first = 0;
        for (name, rows) in &rule.theirs {
            theirs.insert(name.clone(), whole.narrow(0, first, *rows)?.contiguous()?);
            first += rows;
        }
    }
    Ok(weights::export(folder, &hub_config, &theirs)?)
}

/// Configuration and weights with fixed norms expressed by epsilon and gains.
fn without_fixed_norms(model: &Decoder) -> Result<(Config, Named), Error> {
    let (mut config, mut named) = (model.config().clone(), model.weights());
    let fixed = std::mem::take(&mut config.architecture.fixed);
    if fixed.is_empty() {
        return Ok((config, named));
    }
    let wrong = |reason: &str| Err(Error::Config(format!("the hub's formats cannot express this model: {reason}")));
    if !fixed.is_complete(config.n_layers) {
        return wrong("some norms are fixed and others are not; fix all or none");
    }
    if fixed.ln1_qk != fixed.ln1_v {
        return wrong("a norm has one fixed scale for queries and keys and another for values");
    }
    if config.architecture.qk_norm != QkNorm::None {
        return wrong("fixed norms would share their epsilon with the norms of queries and keys");
    }
    config.norm_eps = EXPORT_EPSILON;
    let blocks = (0..config.n_layers).flat_map(|layer| {
        let paths = [("ln1", NormPath::QueriesKeys(layer)), ("ln2", NormPath::Mlp(layer))];
        paths.map(|(name, path)| (format!("blocks.{layer}.{name}.w"), path))
    });
    for (name, path) in blocks.chain([("ln_final.w".to_owned(), NormPath::Final)]) {
        let gain = find(&named, &name)?;
        let factor = EXPORT_EPSILON.sqrt() / fixed.get(path).unwrap_or(1.);
        named.insert(name, (gain.detach() * factor)?);
    }
    Ok((config, named))
}

fn find(named: &Named, name: &str) -> Result<Tensor, Error> {
    named.get(name).cloned().ok_or_else(|| Error::Config(format!("weight `{name}` is missing")))
}

struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    family: Family,
    config: &'a Config,
    dtype: DType,
}

impl Reader<'_> {
    fn all(&self, device: &Device) -> Result<Named, Error> {
        let shapes: BTreeMap<String, Vec<usize>> = self.config.shapes().into_iter().collect();
        let (mut named, mut used) = (Named::new(), Vec::new());
        let bare = self.is_bare();
        for rule in self.family.rules(self.config) {
            let expected = self.expected(&rule, &shapes)?;
            let mut theirs = Vec::new();
            for ((hub, _), shape) in rule.theirs.iter().zip(&expected) {
                let name = self.stored_name(hub, bare);
                theirs.push(self.tensor(hub, &name, shape, device)?);
                used.push(name);
            }
            let whole = rule.read(&theirs)?;
            if let [name] = rule.ours.as_slice() {
                named.insert(name.clone(), whole);
                continue;
            }
            let mut first = 0;
            for name in &rule.ours {
                let width = shapes.get(name).and_then(|shape| shape.last()).copied().unwrap_or(0);
                let axis = whole.rank() - 1;
                named.insert(name.clone(), whole.narrow(axis, first, width)?.contiguous()?);
                first += width;
            }
        }
        used.sort();
        let is_extra = |name: &&str| {
            used.binary_search_by(|known| known.as_str().cmp(name)).is_err()
                && !self.family.is_ignored(name, self.config)
        };
        let extra: Vec<String> = self.checkpoint.names().filter(is_extra).map(str::to_owned).collect();
        if extra.is_empty() {
            Ok(named)
        } else {
            Err(weights::Error::Extra { path: self.checkpoint.path().to_owned(), names: extra }.into())
        }
    }

    /// Whether tensors lack the prefix of the whole model, as in checkpoints of the body alone.
    fn is_bare(&self) -> bool {
        let prefixes = ["transformer.", "gpt_neox.", "model."];
        !self.checkpoint.names().any(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
    }

    fn stored_name(&self, hub: &str, bare: bool) -> String {
        if self.checkpoint.gguf().is_some() {
            return gguf_name(hub);
        }
        let prefixes = ["transformer.", "gpt_neox.", "model."];
        match prefixes.iter().find_map(|prefix| hub.strip_prefix(prefix)) {
            Some(rest) if bare => rest.to_owned(),
            _ => hub.to_owned(),
        }
    }

    /// Shapes of the checkpoint's tensors, derived from ours.
    fn expected(&self, rule: &Rule, shapes: &BTreeMap<String, Vec<usize>>) -> Result<Vec<Vec<usize>>, Error> {
        let ours = rule
            .ours
            .iter()
            .map(|name| shapes.get(name).ok_or_else(|| Error::Config(format!("the model has no weight `{name}`"))));
        let ours = ours.collect::<Result<Vec<_>, Error>>()?;
        let columns: usize = ours.iter().filter_map(|shape| shape.last()).sum();
        let rows = |rows: usize| if rule.theirs.len() == 1 { columns } else { rows };
        Ok(match (rule.layout, ours[0].as_slice()) {
            (Layout::Same, shape) => vec![shape.to_vec()],
            (_, [_]) => rule.theirs.iter().map(|(_, count)| vec![rows(*count)]).collect(),
            (_, shape) => rule.theirs.iter().map(|(_, count)| vec![rows(*count), shape[0]]).collect(),
        })
    }

    fn tensor(&self, hub: &str, name: &str, expected: &[usize], device: &Device) -> Result<Tensor, Error> {
        if let Some(found) = self.checkpoint.shape(name)
            && found != expected
        {
            let (path, name) = (self.checkpoint.path().to_owned(), name.to_owned());
            return Err(weights::Error::Shape { path, name, expected: expected.to_vec(), found }.into());
        }
        let tensor = self.checkpoint.tensor(name, self.dtype, device)?;
        if self.checkpoint.gguf().is_some() {
            return Ok(unpermuted(self.family, hub, &tensor, self.config.d_head())?);
        }
        Ok(tensor)
    }
}
