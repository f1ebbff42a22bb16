//! Hooks that change activations: replacing, ablating, steering.

use candle_core::{Result as CandleResult, Tensor};
use hooks::{Hook, HookedModel, Site, Tokens};

use crate::Error;

type Change<'a> = Box<dyn Fn(&Tensor) -> CandleResult<Tensor> + 'a>;

/// A change of the activation at one site.
///
/// # Examples
/// Steering: a vector added to the residual stream at one position.
/// ```
/// # use candle_core::{Device, Tensor};
/// # use models::{Config, Decoder};
/// # use rand::SeedableRng;
/// # let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
/// # let model = Decoder::fresh(&sizes, &mut rand_chacha::ChaCha12Rng::seed_from_u64(0), &Device::Cpu)?;
/// use hooks::{HookedModel, Layer, NoHook, Point, Site};
/// use patching::{Edit, run_with_edits};
///
/// let tokens = Tensor::new(&[[1u32, 2, 3, 4]], &Device::Cpu)?;
/// let site = Site::Block(Layer(0), Point::ResidPost);
/// let direction = Tensor::new(&[1f32, 0., 0., 0., 0., 0., 0., 0.], &Device::Cpu)?; // [d_model]
/// let steered = run_with_edits(&model, &tokens, vec![Edit::add(site, &direction, 4.).at_position(2)])?;
/// let change = (steered - model.forward(&tokens, &mut NoHook)?)?.abs()?;
/// assert!(change.narrow(1, 0, 2)?.max_all()?.to_scalar::<f32>()? < 1e-5); // earlier positions stay the same
/// assert!(change.narrow(1, 2, 2)?.max_all()?.to_scalar::<f32>()? > 1e-3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Edit<'a> {
    site: Site,
    change: Change<'a>,
}

impl<'a> Edit<'a> {
    /// Any function of the activation that keeps its shape.
    pub fn new(site: Site, change: impl Fn(&Tensor) -> CandleResult<Tensor> + 'a) -> Self {
        Self { site, change: Box::new(change) }
    }

    /// Replaces the activation, for instance by that of another run (resample ablation).
    #[must_use]
    pub fn replace(site: Site, by: &Tensor) -> Self {
        let by = by.clone();
        Self::new(site, move |_| Ok(by.clone()))
    }

    /// Replaces the activation by zeros (zero ablation).
    #[must_use]
    pub fn zero(site: Site) -> Self {
        Self::new(site, Tensor::zeros_like)
    }

    /// Replaces the activation by its mean over batch and sequence, or by the mean of `over` (mean ablation).
    #[must_use]
    pub fn mean(site: Site, over: Option<&Tensor>) -> Self {
        let over = over.cloned();
        Self::new(site, move |x| over.as_ref().unwrap_or(x).mean_keepdim((0, 1))?.broadcast_as(x.shape())?.contiguous())
    }

    /// Adds `strength * vector` (steering); the vector's axes are the last axes of the activation.
    #[must_use]
    pub fn add(site: Site, vector: &Tensor, strength: f64) -> Self {
        let vector = vector.clone();
        Self::new(site, move |x| x.broadcast_add(&(&vector * strength)?))
    }

    /// The same edit in one head only, along [`Site::head_axis`].
    #[must_use]
    pub fn in_head(self, head: usize) -> Self {
        let axis = self.site.head_axis();
        self.within(axis, head)
    }

    /// The same edit at one position only, along [`Site::position_axis`].
    #[must_use]
    pub fn at_position(self, position: usize) -> Self {
        let axis = self.site.position_axis();
        self.within(Some(axis), position)
    }

    fn within(self, axis: Option<usize>, index: usize) -> Self {
        let Self { site, change } = self;
        Self::new(site, move |x| match axis {
            Some(axis) => replace_slice(x, &change(x)?, axis, index),
            None => candle_core::bail!("{site} has no heads"),
        })
    }

    /// The site.
    #[must_use]
    pub fn site(&self) -> Site {
        self.site
    }
}

/// `x` with one slice along `axis` replaced by that of `other`.
pub(crate) fn replace_slice(x: &Tensor, other: &Tensor, axis: usize, index: usize) -> CandleResult<Tensor> {
    let size = x.dim(axis)?;
    if index >= size {
        candle_core::bail!("index {index} is outside the {size} entries of axis {axis}");
    }
    let parts =
        [x.narrow(axis, 0, index)?, other.narrow(axis, index, 1)?, x.narrow(axis, index + 1, size - index - 1)?];
    let parts: Vec<&Tensor> = parts.iter().filter(|part| part.elem_count() > 0).collect();
    Tensor::cat(&parts, axis)
}

/// A hook that makes several edits.
pub struct Edits<'a> {
    edits: Vec<Edit<'a>>,
    fired: Vec<bool>,
}

impl<'a> Edits<'a> {
    /// Edits of the same site are made in this order.
    #[must_use]
    pub fn new(edits: Vec<Edit<'a>>) -> Self {
        let fired = vec![false; edits.len()];
        Self { edits, fired }
    }

    /// Checks that every edit was made.
    ///
    /// # Errors
    /// When the forward pass never visited the site of an edit.
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
