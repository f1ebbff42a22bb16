//! Hooks that change what they see.

use candle_core::{Result as CandleResult, Tensor};
use hooks::{Hook, HookedModel, Site, Tokens};

use crate::Error;

type Change<'a> = Box<dyn Fn(&Tensor) -> CandleResult<Tensor> + 'a>;

/// What happens to the tensor at a site.
pub struct Edit<'a> {
    site: Site,
    change: Change<'a>,
}

impl<'a> Edit<'a> {
    /// Any function of the tensor, same shape out.
    pub fn new(site: Site, change: impl Fn(&Tensor) -> CandleResult<Tensor> + 'a) -> Self {
        Self { site, change: Box::new(change) }
    }

    /// Another tensor in its place, for instance that of another run (resample ablation).
    #[must_use]
    pub fn replace(site: Site, by: &Tensor) -> Self {
        let by = by.clone();
        Self::new(site, move |_| Ok(by.clone()))
    }

    /// Zeros (zero ablation).
    #[must_use]
    pub fn zero(site: Site) -> Self {
        Self::new(site, Tensor::zeros_like)
    }

    /// The mean over the batch and the sequence of `over` (mean ablation), or of what is there without it.
    #[must_use]
    pub fn mean(site: Site, over: Option<&Tensor>) -> Self {
        let over = over.cloned();
        Self::new(site, move |x| over.as_ref().unwrap_or(x).mean_keepdim((0, 1))?.broadcast_as(x.shape())?.contiguous())
    }

    /// A vector on top, times `strength` (steering); its axes are the last ones of the site.
    #[must_use]
    pub fn add(site: Site, vector: &Tensor, strength: f64) -> Self {
        let vector = vector.clone();
        Self::new(site, move |x| x.broadcast_add(&(&vector * strength)?))
    }

    /// The same, but only in one head: axis 2 of queries, keys, values and what heads give, axis 1 of scores and patterns.
    #[must_use]
    pub fn in_head(self, head: usize) -> Self {
        let axis = self.site.head_axis();
        self.within(axis, head)
    }

    /// The same, but only at one place of the sequence: axis 1, or the query's axis of scores and patterns.
    #[must_use]
    pub fn at_position(self, position: usize) -> Self {
        let axis = self.site.position_axis();
        self.within(Some(axis), position)
    }

    fn within(self, axis: Option<usize>, index: usize) -> Self {
        let Self { site, change } = self;
        Self::new(site, move |x| match axis {
            Some(axis) => put(x, &change(x)?, axis, index),
            None => candle_core::bail!("{site} has no heads"),
        })
    }

    /// The place.
    #[must_use]
    pub fn site(&self) -> Site {
        self.site
    }
}

/// `x` with one slice from `other`.
pub(crate) fn put(x: &Tensor, other: &Tensor, axis: usize, index: usize) -> CandleResult<Tensor> {
    let size = x.dim(axis)?;
    if index >= size {
        candle_core::bail!("index {index} of {size} along axis {axis}");
    }
    let parts =
        [x.narrow(axis, 0, index)?, other.narrow(axis, index, 1)?, x.narrow(axis, index + 1, size - index - 1)?];
    let parts: Vec<&Tensor> = parts.iter().filter(|part| part.elem_count() > 0).collect();
    Tensor::cat(&parts, axis)
}

/// Some edits as one hook.
pub struct Edits<'a> {
    edits: Vec<Edit<'a>>,
    fired: Vec<bool>,
}

impl<'a> Edits<'a> {
    /// Edits of one site are made in this order.
    #[must_use]
    pub fn new(edits: Vec<Edit<'a>>) -> Self {
        let fired = vec![false; edits.len()];
        Self { edits, fired }
    }

    /// Whether all were made.
    ///
    /// # Errors
    /// Names the first site that the forward pass never came by.
    pub fn check(&self) -> Result<(), Error> {
        match self.fired.iter().position(|fired| !fired) {
            Some(index) => Err(Error::NeverFired { site: self.edits[index].site }),
            None => Ok(()),
        }
    }
}

impl Hook for Edits<'_> {
    fn wants(&self, site: Site) -> bool {
        self.edits.iter().any(|edit| edit.site == site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> CandleResult<Tensor> {
        let mut tensor = tensor;
        for (edit, fired) in self.edits.iter().zip(&mut self.fired) {
            if edit.site == site {
                tensor = (edit.change)(&tensor)?;
                *fired = true;
            }
        }
        Ok(tensor)
    }
}

/// Logits `[batch, seq, d_vocab]` of a forward pass with some edits.
///
/// # Errors
/// When an edit's site was never visited, or an edit fails or changes a shape.
pub fn run_with_edits(model: &dyn HookedModel, tokens: &Tokens, edits: Vec<Edit<'_>>) -> Result<Tensor, Error> {
    let mut edits = Edits::new(edits);
    let logits = model.forward(tokens, &mut edits)?;
    edits.check()?;
    Ok(logits)
}
