//! What a component writes, read straight off the logits: direct effects with the final norm frozen, and the logit lens.

use candle_core::{Result as CandleResult, Tensor};
use hooks::{End, Hook, HookedModel, Layer, NoHook, Site, Start};

use crate::Error;

/// Divides by another scale than the norm's own.
struct Frozen<'a>(&'a Tensor);

impl Hook for Frozen<'_> {
    fn wants(&self, site: Site) -> bool {
        site == Site::FinalScale
    }

    fn visit(&mut self, _: Site, own: Tensor) -> CandleResult<Tensor> {
        if own.dims() != self.0.dims() {
            candle_core::bail!("a frozen scale of {:?} for {:?}", self.0.dims(), own.dims());
        }
        Ok(self.0.clone())
    }
}

/// Logits that a component of the stream adds by itself, with the final norm's divisor frozen at that of the run:
/// the direct logit attribution. Components that sum to the final stream give attributions that sum to the logits
/// less what the norm's and unembedding's biases add.
///
/// # Shapes
/// `component` `[batch, seq, d_model]`, `scale` `[batch, seq, 1]` (of `ln_final.hook_scale`), output
/// `[batch, seq, d_vocab]`.
///
/// # Errors
/// When the shapes do not fit the model.
pub fn direct_logit_attribution(model: &dyn HookedModel, component: &Tensor, scale: &Tensor) -> Result<Tensor, Error> {
    let read = |x: &Tensor| {
        let start = Start::Resid(Layer(model.n_layers()), x);
        model.forward_between(start, End::Logits, &mut Frozen(scale))
    };
    Ok((read(component)? - read(&component.zeros_like()?)?)?)
}

/// Logits read off the residual stream between blocks, `[batch, seq, d_vocab]`.
///
/// With the final norm, this is the logit lens; without it, the stream goes to the unembedding as it is.
///
/// # Errors
/// When the shape does not fit the model.
pub fn logit_lens(model: &dyn HookedModel, resid: &Tensor, norm: bool) -> Result<Tensor, Error> {
    if norm {
        let start = Start::Resid(Layer(model.n_layers()), resid);
        return Ok(model.forward_between(start, End::Logits, &mut NoHook)?);
    }
    Ok(model.unembed(resid)?)
}
