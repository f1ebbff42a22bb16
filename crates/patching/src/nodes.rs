//! Heads and MLPs at the last place of a prompt, as the nodes of a circuit: what each writes, and what happens when it
//! writes what it writes in another prompt (arXiv 2307.09458, section 3).
//!
//! Only the last place is touched, so prompts of different lengths can stand in for each other, and every pass goes through
//! that one place alone, behind keys and values of the run it starts from.

use std::fmt;

use candle_core::{Result as CandleResult, Tensor};
use hooks::{End, Hook, HookedModel, Layer, Past, Point, Site, Start, Tokens};

use crate::edit::put;
use crate::run::last;
use crate::{Error, Run, direct_logit_attribution};

/// Rows of the stream that one pass aims at.
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
    /// All of a model, block by block, each block's heads before its MLP.
    #[must_use]
    pub fn all(model: &dyn HookedModel) -> Vec<Self> {
        let block = |layer| (0..model.n_heads()).map(move |head| Self::Head(layer, head)).chain([Self::Mlp(layer)]);
        (0..model.n_layers()).map(Layer).flat_map(block).collect()
    }

    /// Its block.
    #[must_use]
    pub fn layer(self) -> Layer {
        match self {
            Self::Head(layer, _) | Self::Mlp(layer) => layer,
        }
    }

    /// Its number among the heads of the block.
    #[must_use]
    pub fn head(self) -> Option<usize> {
        match self {
            Self::Head(_, head) => Some(head),
            Self::Mlp(_) => None,
        }
    }

    fn site(self) -> Site {
        match self {
            Self::Head(layer, _) => Site::Block(layer, Point::Z),
            Self::Mlp(layer) => Site::Block(layer, Point::MlpOut),
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

/// Forward passes of some prompts of one length, with all that [`Writes`] and patches at the last place need: what is seen
/// of the run, its logits too, is of the last place alone.
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

/// What every head and MLP has at the last place of each prompt of a batch.
#[derive(Clone, Debug)]
pub struct Writes {
    /// Mixed values of each block, `[batch, n_heads, d_head]`.
    z: Vec<Tensor>,
    /// Queries of each block as projected, `[batch, n_heads, d_head]`.
    q: Vec<Tensor>,
    /// What each block's MLP writes, `[batch, d_model]`.
    mlp: Vec<Tensor>,
}

impl Writes {
    /// Those of a finished run of [`run_nodes`].
    ///
    /// # Errors
    /// When the run did not keep them.
    pub fn of(run: &Run, n_layers: usize) -> Result<Self, Error> {
        let each = |point| {
            let layers = (0..n_layers).map(Layer);
            layers.map(|layer| at_last(run, Site::Block(layer, point))).collect::<Result<Vec<_>, Error>>()
        };
        Ok(Self { z: each(Point::Z)?, q: each(Point::Q)?, mlp: each(Point::MlpOut)? })
    }

    /// Those of some prompts, in the order of `rows`; a prompt may come several times.
    ///
    /// # Errors
    /// When there is no such prompt.
    pub fn gather(&self, rows: &[usize]) -> Result<Self, Error> {
        self.each(|x| {
            let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
            x.index_select(&Tensor::new(rows, x.device())?, 0)
        })
    }

    /// The mean over all prompts, for `batch` prompts (mean ablation).
    ///
    /// # Errors
    /// When candle cannot allocate.
    pub fn mean(&self, batch: usize) -> Result<Self, Error> {
        self.each(|x| {
            let mean = x.mean_keepdim(0)?;
            mean.repeat([&[batch], vec![1; x.rank() - 1].as_slice()].concat())
        })
    }

    /// Nothing at all (zero ablation).
    ///
    /// # Errors
    /// When candle cannot allocate.
    pub fn zeros(&self) -> Result<Self, Error> {
        self.each(Tensor::zeros_like)
    }

    /// Several batches as one.
    ///
    /// # Errors
    /// When there is none, or they are of different models.
    pub fn cat(batches: &[Self]) -> Result<Self, Error> {
        let first = batches.first().ok_or_else(|| Error::Request("no prompts to put together".to_owned()))?;
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

    /// What stands at a site, `[batch, ..]` without the axis of places.
    fn at(&self, site: Site) -> Option<&Tensor> {
        match site {
            Site::Block(Layer(layer), Point::Z) => self.z.get(layer),
            Site::Block(Layer(layer), Point::Q) => self.q.get(layer),
            Site::Block(Layer(layer), Point::MlpOut) => self.mlp.get(layer),
            _ => None,
        }
    }
}

/// `[batch, ..]` of the last place.
fn at_last(run: &Run, site: Site) -> Result<Tensor, Error> {
    let x = run.at(site)?;
    Ok(x.narrow(1, x.dim(1)? - 1, 1)?.squeeze(1)?.contiguous()?)
}

/// Direct effects of every node on what `read` takes from the logits, with the final norm frozen at the run's own scale.
#[derive(Clone, Debug)]
pub struct DirectEffects {
    /// Of each node, in the order of [`Node::all`].
    pub nodes: Vec<Tensor>,
    /// Of embeddings and biases that no head adds.
    pub rest: Tensor,
    /// What biases of the final norm and the unembedding add.
    pub constant: Tensor,
}

/// Direct effects at the last place: each node's write through the final norm, frozen at the run's scale, and the
/// unembedding. `nodes`, `rest` and `constant` add up to what `read` takes from the run's own logits, for a linear `read`
/// of `[batch, 1, d_vocab]`.
///
/// # Errors
/// When the run was not made by [`run_nodes`], or `read` fails.
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

/// Logits of the last place, as `read` takes them from `[batch, 1, d_vocab]`, when the nodes of each group together write
/// what `source` has, and everything behind them is computed again.
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
    let changes: Vec<Vec<Change>> = groups
        .iter()
        .map(|nodes| {
            let change = |node: &Node| Change { site: node.site(), head: node.head(), row: 0 };
            nodes.iter().map(change).collect()
        })
        .collect();
    changed(model, base, source, &changes, read)
}

/// Logits of the last place, as `read` takes them, when some heads have the queries that they would have if one sender wrote
/// what `source` has and every other node what it wrote before: path patching into queries, for each sender (arXiv
/// 2307.09458, section 3.1). A sender that no receiver comes after changes nothing.
///
/// # Errors
/// As [`patch_nodes`]; when a receiver is no head.
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
        for layer in into.iter().map(|change| change.layer()).filter(|layer| sender.layer() < *layer) {
            seen.q[layer.0] = query_after(model, base, &own, source, *sender, layer)?;
        }
        read_off.extend(changed(model, base, &seen, std::slice::from_ref(&into), read)?);
    }
    Ok(read_off)
}

/// Logits of the last place, as `read` takes them, when some heads have the queries of `source`.
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
    read_off.pop().ok_or_else(|| Error::Request("no queries to patch".to_owned()))
}

/// The queries of some heads as what is to be changed.
fn queries(receivers: &[Node]) -> Result<Vec<Change>, Error> {
    let query = |node: &Node| match node {
        Node::Head(layer, head) => Ok(Change { site: Site::Block(*layer, Point::Q), head: Some(*head), row: 0 }),
        Node::Mlp(_) => Err(Error::Request(format!("{node} has no query"))),
    };
    receivers.iter().map(query).collect()
}

/// Queries of a block at the last place when one node before it writes what the source has, and no other node changes.
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
            // what the head writes is linear in its mixed values: read it off the block's own map
            let z = put(&own.z[from].unsqueeze(1)?, &source.z[from].unsqueeze(1)?, 2, head)?;
            let mut seen = AttentionOut { site: Layer(from), z, out: None };
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

/// Puts mixed values into a block and sees what its attention writes.
struct AttentionOut {
    site: Layer,
    z: Tensor,
    out: Option<Tensor>,
}

impl Hook for AttentionOut {
    fn wants(&self, site: Site) -> bool {
        [Point::Z, Point::AttnOut].iter().any(|point| site == Site::Block(self.site, *point))
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> CandleResult<Tensor> {
        if site == Site::Block(self.site, Point::Z) {
            return Ok(self.z.clone());
        }
        self.out = Some(tensor.clone());
        Ok(tensor)
    }
}

/// A place to be overwritten, in some rows of a stacked batch.
#[derive(Clone, Copy, Debug)]
struct Change {
    site: Site,
    head: Option<usize>,
    /// Which group.
    row: usize,
}

impl Change {
    fn layer(&self) -> Layer {
        match self.site {
            Site::Block(layer, _) => layer,
            _ => Layer(0),
        }
    }
}

/// What `read` takes from the logits of the last place after each group of changes.
fn changed(
    model: &dyn HookedModel,
    base: &Run,
    source: &Writes,
    groups: &[Vec<Change>],
    read: &dyn Fn(&Tensor) -> CandleResult<Tensor>,
) -> Result<Vec<Tensor>, Error> {
    let (batch, seq) = base.sizes();
    if source.batch() != batch {
        return Err(Error::Request(format!("a source of {} prompts for a base of {batch}", source.batch())));
    }
    let first = |group: &Vec<Change>| group.iter().map(Change::layer).min().unwrap_or(Layer(model.n_layers()));
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

/// Logits `[groups * batch, 1, d_vocab]` of one pass of the last place from a block on.
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
    match changes.iter().find(|change| !hook.fired.contains(&change.site)) {
        Some(change) => Err(Error::NeverFired { site: change.site }),
        None => Ok(logits),
    }
}

/// Puts the source's activations into each group's rows.
struct Overwrite<'a> {
    changes: &'a [Change],
    source: &'a Writes,
    batch: usize,
    fired: Vec<Site>,
}

impl Hook for Overwrite<'_> {
    fn wants(&self, site: Site) -> bool {
        self.changes.iter().any(|change| change.site == site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> CandleResult<Tensor> {
        self.fired.push(site);
        let Some(source) = self.source.at(site) else { candle_core::bail!("the source has nothing at {site}") };
        let source = source.unsqueeze(1)?; // [batch, 1, ..]
        let rows = tensor.dim(0)? / self.batch;
        let mut parts =
            (0..rows).map(|row| tensor.narrow(0, row * self.batch, self.batch)).collect::<CandleResult<Vec<_>>>()?;
        for change in self.changes.iter().filter(|change| change.site == site) {
            let part = &mut parts[change.row];
            *part = match change.head {
                Some(head) => put(part, &source, 2, head)?,
                None => source.clone(),
            };
        }
        Tensor::cat(&parts, 0)
    }
}
