//! Heads and MLPs at the last position of a prompt as nodes of a circuit: what each writes, and the effect of replacing
//! it by what it writes in another prompt (arXiv 2307.09458, section 3).
//!
//! Only the last position changes, so base and source prompts may differ in length. Every pass computes that position
//! alone, after the keys and values of its base run.

use std::fmt;

use candle_core::{Result as CandleResult, Tensor};
use hooks::{End, Hook, HookedModel, Layer, Past, Point, Site, Start, Tokens};

use crate::edit::replace_slice;
use crate::run::last;
use crate::{Error, Run, direct_logit_attribution};

/// Rows of the residual stream that one pass aims at.
const ROWS: usize = 512;

/// A head or an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// An attention head.
    Head(Layer, usize),
    /// A whole MLP.
    Mlp(Layer),
}

impl Node {
    /// All nodes of a model, block by block, each block's heads before its MLP.
    #[must_use]
    pub fn all(model: &dyn HookedModel) -> Vec<Self> {
        let block = |layer| (0..model.n_heads()).map(move |head| Self::Head(layer, head)).chain([Self::Mlp(layer)]);
        (0..model.n_layers()).map(Layer).flat_map(block).collect()
    }

    /// The block.
    #[must_use]
    pub fn layer(self) -> Layer {
        match self {
            Self::Head(layer, _) | Self::Mlp(layer) => layer,
        }
    }

    /// The index of the head in its block; `None` for an MLP.
    #[must_use]
    pub fn head(self) -> Option<usize> {
        match self {
            Self::Head(_, head) => Some(head),
            Self::Mlp(_) => None,
        }
    }

    fn write(self) -> Change {
        match self {
            Self::Head(layer, head) => Change { layer, target: Target::Head(head), row: 0 },
            Self::Mlp(layer) => Change { layer, target: Target::Mlp, row: 0 },
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(Layer(layer), head) => write!(f, "L{layer}H{head}"),
            Self::Mlp(Layer(layer)) => write!(f, "MLP{layer}"),
        }
    }
}

/// Runs prompts of one length and records what [`Writes`] and patches need. Activations and logits are those of the
/// last position alone.
///
/// # Errors
/// When the tokens do not fit the model.
pub fn run_nodes(model: &dyn HookedModel, tokens: &Tokens) -> Result<Run, Error> {
    let inside = (0..model.n_layers()).map(Layer).flat_map(|layer| {
        [Point::Z, Point::Q, Point::Result, Point::AttnOut, Point::MlpOut].map(|point| Site::Block(layer, point))
    });
    let sites: Vec<Site> = inside.chain([Site::FinalScale]).collect();
    Run::of_last(model, tokens, &sites)
}

/// Head outputs, queries and MLP outputs at the last position of each prompt of a batch.
#[derive(Clone, Debug)]
pub struct Writes {
    /// Head outputs of each block, `[batch, n_heads, d_head]`.
    z: Vec<Tensor>,
    /// Queries of each block as projected, `[batch, n_heads, d_head]`.
    q: Vec<Tensor>,
    /// MLP output of each block, `[batch, d_model]`.
    mlp: Vec<Tensor>,
}

impl Writes {
    /// The writes of a run of [`run_nodes`].
    ///
    /// # Errors
    /// When another function made the run.
    pub fn of(run: &Run, n_layers: usize) -> Result<Self, Error> {
        let each = |point| {
            let layers = (0..n_layers).map(Layer);
            layers.map(|layer| at_last(run, Site::Block(layer, point))).collect::<Result<Vec<_>, Error>>()
        };
        Ok(Self { z: each(Point::Z)?, q: each(Point::Q)?, mlp: each(Point::MlpOut)? })
    }

    /// The writes of some prompts, in the order of `rows`; a prompt may repeat.
    ///
    /// # Errors
    /// When there is no such prompt.
    pub fn gather(&self, rows: &[usize]) -> Result<Self, Error> {
        self.each(|x| {
            let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
            x.index_select(&Tensor::new(rows, x.device())?, 0)
        })
    }

    /// The mean over all prompts, repeated for `batch` prompts (mean ablation).
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn mean(&self, batch: usize) -> Result<Self, Error> {
        self.each(|x| {
            let mean = x.mean_keepdim(0)?;
            mean.repeat([&[batch], vec![1; x.rank() - 1].as_slice()].concat())
        })
    }

    /// Zeros (zero ablation).
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn zeros(&self) -> Result<Self, Error> {
        self.each(Tensor::zeros_like)
    }

    /// Several batches concatenated.
    ///
    /// # Errors
    /// When there is no batch, or their models differ.
    pub fn cat(batches: &[Self]) -> Result<Self, Error> {
        let first = batches.first().ok_or_else(|| Error::Request("no batches of writes to concatenate".to_owned()))?;
        let all = |of: fn(&Self) -> &Vec<Tensor>| {
            let layer = |layer: usize| Tensor::cat(&batches.iter().map(|b| &of(b)[layer]).collect::<Vec<_>>(), 0);
            (0..of(first).len()).map(layer).collect::<CandleResult<Vec<_>>>()
        };
        Ok(Self { z: all(|w| &w.z)?, q: all(|w| &w.q)?, mlp: all(|w| &w.mlp)? })
    }

    /// Number of prompts.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.mlp.first().map_or(0, |x| x.dims()[0])
    }

    fn each(&self, change: impl Fn(&Tensor) -> CandleResult<Tensor>) -> Result<Self, Error> {
        let all = |list: &[Tensor]| list.iter().map(&change).collect::<CandleResult<Vec<_>>>();
        Ok(Self { z: all(&self.z)?, q: all(&self.q)?, mlp: all(&self.mlp)? })
    }

    /// The activation that a change puts in, `[batch, ..]` without the axis of positions.
    fn at(&self, change: &Change) -> Option<&Tensor> {
        match change.target {
            Target::Head(_) => self.z.get(change.layer.0),
            Target::Query(_) => self.q.get(change.layer.0),
            Target::Mlp => self.mlp.get(change.layer.0),
        }
    }
}

/// The activation at the last position, `[batch, ..]`.
fn at_last(run: &Run, site: Site) -> Result<Tensor, Error> {
    let x = run.at(site)?;
    Ok(x.narrow(1, x.dim(1)? - 1, 1)?.squeeze(1)?.contiguous()?)
}

/// Direct effects of every node, as `read` of the logits, with the final norm frozen at the run's own scale.
#[derive(Clone, Debug)]
pub struct DirectEffects {
    /// Effects of each node, in the order of [`Node::all`].
    pub nodes: Vec<Tensor>,
    /// Effect of the embeddings and of the biases of attention outputs.
    pub rest: Tensor,
    /// Contribution of the biases of the final norm and the unembedding.
    pub constant: Tensor,
}

/// Direct effects at the last position: each node's write through the final norm, frozen at the run's scale, and the
/// unembedding. For a linear `read` of `[batch, 1, d_vocab]`, `nodes`, `rest` and `constant` sum to `read` of the run's
/// own logits.
///
/// # Errors
/// When the run was not made by [`run_nodes`], or `read` fails.
///
/// # Examples
/// ```
/// # use candle_core::{Device, Tensor};
/// # use models::{Config, Decoder};
/// # use rand::SeedableRng;
/// # let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
/// # let model = Decoder::fresh(&sizes, &mut rand_chacha::ChaCha12Rng::seed_from_u64(0), &Device::Cpu)?;
/// use patching::{Node, direct_effects, run_nodes};
///
/// let run = run_nodes(&model, &Tensor::new(&[[1u32, 2, 3, 4]], &Device::Cpu)?)?;
/// let logit_of_7 = |logits: &Tensor| logits.squeeze(1)?.narrow(1, 7, 1); // [batch, 1, d_vocab] to [batch, 1]
/// let effects = direct_effects(&model, &run, &logit_of_7)?;
/// assert_eq!(effects.nodes.len(), Node::all(&model).len());
///
/// let others = (&effects.rest + &effects.constant)?;
/// let sum = effects.nodes.iter().try_fold(others, |sum, effect| sum + effect)?;
/// let difference = (sum - logit_of_7(run.logits())?)?.abs()?.max_all()?.to_scalar::<f32>()?;
/// assert!(difference < 1e-5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn direct_effects(
    model: &dyn HookedModel,
    run: &Run,
    read: &dyn Fn(&Tensor) -> CandleResult<Tensor>,
) -> Result<DirectEffects, Error> {
    let scale = at_last(run, Site::FinalScale)?.unsqueeze(1)?;
    let effect = |write: &Tensor| -> Result<Tensor, Error> {
        Ok(read(&direct_logit_attribution(model, &write.unsqueeze(1)?, &scale)?)?)
    };
    let mut rest = at_last(run, Site::Block(Layer(0), Point::ResidPre))?; // [batch, d_model]
    let mut nodes = Vec::new();
    for layer in (0..model.n_layers()).map(Layer) {
        let heads = at_last(run, Site::Block(layer, Point::Result))?; // [batch, n_heads, d_model]
        for head in 0..model.n_heads() {
            nodes.push(effect(&heads.narrow(1, head, 1)?.squeeze(1)?)?);
        }
        let bias = (at_last(run, Site::Block(layer, Point::AttnOut))? - heads.sum(1)?)?;
        rest = (rest + bias)?;
        nodes.push(effect(&at_last(run, Site::Block(layer, Point::MlpOut))?)?);
    }
    let nothing = rest.zeros_like()?.unsqueeze(1)?;
    let constant = read(&model.forward_between(
        Start::Resid(Layer(model.n_layers()), &nothing),
        End::Logits,
        &mut hooks::NoHook,
    )?)?;
    Ok(DirectEffects { rest: effect(&rest)?, nodes, constant })
}

/// `read` of the logits `[batch, 1, d_vocab]` at the last position after each patch. A patch replaces the writes of one
/// group of nodes together by those of `source`; everything after them is computed again.
///
/// # Errors
/// When the source has another number of prompts, the run was not made by [`run_nodes`], or `read` fails.
pub fn patch_nodes(
    model: &dyn HookedModel,
    base: &Run,
    source: &Writes,
    groups: &[Vec<Node>],
    read: &dyn Fn(&Tensor) -> CandleResult<Tensor>,
) -> Result<Vec<Tensor>, Error> {
    let changes: Vec<Vec<Change>> =
        groups.iter().map(|nodes| nodes.iter().map(|node| node.write()).collect()).collect();
    changed(model, base, source, &changes, read)
}

/// Path patching into queries, for each sender (arXiv 2307.09458, section 3.1): `read` of the logits when the receivers
/// have the queries that follow if the sender alone writes what `source` has. Every other node keeps its write, so a
/// sender without a later receiver has no effect.
///
/// # Errors
/// As [`patch_nodes`]; when a receiver is not a head.
pub fn patch_queries(
    model: &dyn HookedModel,
    base: &Run,
    source: &Writes,
    (senders, receivers): (&[Node], &[Node]),
    read: &dyn Fn(&Tensor) -> CandleResult<Tensor>,
) -> Result<Vec<Tensor>, Error> {
    let own = Writes::of(base, model.n_layers())?;
    let into = queries(receivers)?;
    let mut read_off = Vec::new();
    for sender in senders {
        let mut seen = own.clone();
        for layer in into.iter().map(|change| change.layer).filter(|layer| sender.layer() < *layer) {
            seen.q[layer.0] = query_after(model, base, &own, source, *sender, layer)?;
        }
        read_off.extend(changed(model, base, &seen, std::slice::from_ref(&into), read)?);
    }
    Ok(read_off)
}

/// `read` of the logits when the receivers have the queries of `source`.
///
/// # Errors
/// As [`patch_queries`].
pub fn patch_whole_queries(
    model: &dyn HookedModel,
    base: &Run,
    source: &Writes,
    receivers: &[Node],
    read: &dyn Fn(&Tensor) -> CandleResult<Tensor>,
) -> Result<Tensor, Error> {
    let mut read_off = changed(model, base, source, &[queries(receivers)?], read)?;
    read_off.pop().ok_or_else(|| Error::Request("no receivers to patch queries into".to_owned()))
}

/// Changes of the queries of some heads.
fn queries(receivers: &[Node]) -> Result<Vec<Change>, Error> {
    let query = |node: &Node| match node {
        Node::Head(layer, head) => Ok(Change { layer: *layer, target: Target::Query(*head), row: 0 }),
        Node::Mlp(_) => Err(Error::Request(format!("{node} has no query"))),
    };
    receivers.iter().map(query).collect()
}

/// Queries of a block at the last position when one earlier node writes what the source has and no other node changes.
fn query_after(
    model: &dyn HookedModel,
    base: &Run,
    own: &Writes,
    source: &Writes,
    sender: Node,
    layer: Layer,
) -> Result<Tensor, Error> {
    let difference = match sender {
        Node::Mlp(Layer(from)) => (&source.mlp[from] - &own.mlp[from])?,
        Node::Head(Layer(from), head) => {
            // a head's write is linear in its output z, so the block's own map gives the difference
            let z = replace_slice(&own.z[from].unsqueeze(1)?, &source.z[from].unsqueeze(1)?, 2, head)?;
            let mut seen = AttentionOut { layer: Layer(from), z, out: None };
            let resid = at_last(base, Site::Block(Layer(from), Point::ResidPre))?.unsqueeze(1)?;
            model.forward_between(Start::Resid(Layer(from), &resid), End::Resid(Layer(from + 1)), &mut seen)?;
            let site = Site::Block(Layer(from), Point::AttnOut);
            let out = seen.out.ok_or(Error::NeverFired { site })?.squeeze(1)?;
            (out - at_last(base, site)?)?
        }
    };
    let resid = (at_last(base, Site::Block(layer, Point::ResidPre))? + difference)?.unsqueeze(1)?;
    let site = Site::Block(layer, Point::Q);
    let mut recorder = capture::Recorder::new(model, &[site])?;
    model.forward_between(Start::Resid(layer, &resid), End::Resid(Layer(layer.0 + 1)), &mut recorder)?;
    Ok(recorder.get(site)?.squeeze(1)?.contiguous()?)
}

/// Replaces the head outputs of a block and records its attention output.
struct AttentionOut {
    layer: Layer,
    z: Tensor,
    out: Option<Tensor>,
}

impl Hook for AttentionOut {
    fn wants(&self, site: Site) -> bool {
        [Point::Z, Point::AttnOut].iter().any(|point| site == Site::Block(self.layer, *point))
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> CandleResult<Tensor> {
        if site == Site::Block(self.layer, Point::Z) {
            return Ok(self.z.clone());
        }
        self.out = Some(tensor.clone());
        Ok(tensor)
    }
}

/// An activation to overwrite in the rows of one group of a stacked batch.
#[derive(Clone, Copy, Debug)]
struct Change {
    layer: Layer,
    target: Target,
    /// The index of the group.
    row: usize,
}

/// The part of a block that a change overwrites.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// The output of a head.
    Head(usize),
    /// The query of a head.
    Query(usize),
    /// The output of the MLP.
    Mlp,
}

impl Change {
    fn site(&self) -> Site {
        let point = match self.target {
            Target::Head(_) => Point::Z,
            Target::Query(_) => Point::Q,
            Target::Mlp => Point::MlpOut,
        };
        Site::Block(self.layer, point)
    }

    fn head(&self) -> Option<usize> {
        match self.target {
            Target::Head(head) | Target::Query(head) => Some(head),
            Target::Mlp => None,
        }
    }
}

/// `read` of the logits at the last position after each group of changes.
fn changed(
    model: &dyn HookedModel,
    base: &Run,
    source: &Writes,
    groups: &[Vec<Change>],
    read: &dyn Fn(&Tensor) -> CandleResult<Tensor>,
) -> Result<Vec<Tensor>, Error> {
    let (batch, seq) = base.sizes();
    if source.batch() != batch {
        return Err(Error::Request(format!(
            "the source has {} prompts and the base {batch}; gather one source prompt for each base prompt",
            source.batch()
        )));
    }
    let first = |group: &Vec<Change>| group.iter().map(|change| change.layer).min().unwrap_or(Layer(model.n_layers()));
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|index| first(&groups[*index]));
    let past = if seq > 1 { Some(base.past(model, seq - 1)?) } else { None };
    let mut read_off: Vec<Option<Tensor>> = vec![None; groups.len()];
    let mut rest = order.as_slice();
    while let Some(index) = rest.first() {
        let layer = first(&groups[*index]);
        let same = rest.iter().take_while(|index| first(&groups[**index]) == layer).count();
        let (now, later) = rest.split_at(same.min((ROWS / batch).max(1)));
        rest = later;
        let stacked = now.iter().enumerate();
        let changes: Vec<Change> = stacked
            .flat_map(|(row, index)| groups[*index].iter().map(move |change| Change { row, ..*change }))
            .collect();
        let logits = pass(model, base, source, (layer, past.as_ref()), (&changes, now.len()))?;
        for (row, index) in now.iter().enumerate() {
            read_off[*index] = Some(read(&logits.narrow(0, row * batch, batch)?.contiguous()?)?);
        }
    }
    Ok(read_off.into_iter().flatten().collect())
}

/// Logits `[groups * batch, 1, d_vocab]` of one pass of the last position from a block on.
fn pass(
    model: &dyn HookedModel,
    base: &Run,
    source: &Writes,
    (layer, past): (Layer, Option<&Past>),
    (changes, groups): (&[Change], usize),
) -> Result<Tensor, Error> {
    let (batch, _) = base.sizes();
    if layer.0 >= model.n_layers() {
        return Ok(last(base.logits(), 1)?.repeat((groups, 1, 1))?);
    }
    let resid = at_last(base, Site::Block(layer, Point::ResidPre))?.unsqueeze(1)?;
    let resid = resid.repeat((groups, 1, 1))?.contiguous()?;
    let start = match past {
        Some(past) => Start::Suffix(layer, &resid, past),
        None => Start::Resid(layer, &resid),
    };
    let mut hook = Overwrite { changes, source, batch, fired: Vec::new() };
    let logits = model.forward_between(start, End::LastLogits(1), &mut hook)?;
    match changes.iter().find(|change| !hook.fired.contains(&change.site())) {
        Some(change) => Err(Error::NeverFired { site: change.site() }),
        None => Ok(logits),
    }
}

/// Puts the source's activations into the rows of each group.
struct Overwrite<'a> {
    changes: &'a [Change],
    source: &'a Writes,
    batch: usize,
    fired: Vec<Site>,
}

impl Hook for Overwrite<'_> {
    fn wants(&self, site: Site) -> bool {
        self.changes.iter().any(|change| change.site() == site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> CandleResult<Tensor> {
        self.fired.push(site);
        let rows = tensor.dim(0)? / self.batch;
        let mut parts =
            (0..rows).map(|row| tensor.narrow(0, row * self.batch, self.batch)).collect::<CandleResult<Vec<_>>>()?;
        for change in self.changes.iter().filter(|change| change.site() == site) {
            let Some(source) = self.source.at(change) else { candle_core::bail!("the source did not record {site}") };
            let source = source.unsqueeze(1)?; // [batch, 1, ..]
            let part = &mut parts[change.row];
            *part = match change.head() {
                Some(head) => replace_slice(part, &source, 2, head)?,
                None => source,
            };
        }
        Tensor::cat(&parts, 0)
    }
}
