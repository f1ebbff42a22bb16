//! Direct effects of components on the logits, with the final norm frozen, and the logit lens.

use candle_core::{Result as CandleResult, Tensor};
use hooks::{End, Hook, HookedModel, Layer, NoHook, Site, Start};

use crate::Error;

/// Replaces the divisor of the final norm.
struct FrozenScale<'a>(&'a Tensor);

impl Hook for FrozenScale<'_> {
    fn wants(&self, site: Site) -> bool {
        site == Site::FinalScale
    }

    fn visit(&mut self, _: Site, own: Tensor) -> CandleResult<Tensor> {
        if own.dims() != self.0.dims() {
            candle_core::bail!("the frozen scale has shape {:?}, expected {:?}", self.0.dims(), own.dims());
        }
        Ok(self.0.clone())
    }
}

/// Direct logit attribution: the logits that one component of the residual stream adds, with the final norm's divisor
/// frozen at the run's own. If components sum to the final stream, their attributions sum to the logits without the
/// biases of the final norm and the unembedding.
///
/// # Shapes
/// `component` `[batch, seq, d_model]`, `scale` `[batch, seq, 1]` (of `ln_final.hook_scale`), output
/// `[batch, seq, d_vocab]`.
///
/// # Errors
/// When the shapes do not fit the model.
///
/// # Examples
/// ```
/// # use candle_core::{Device, Tensor};
/// # use models::{Config, Decoder};
/// # use rand::SeedableRng;
/// # let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
/// # let model = Decoder::fresh(&sizes, &mut rand_chacha::ChaCha12Rng::seed_from_u64(0), &Device::Cpu)?;
/// use hooks::{Layer, Point, Site};
/// use patching::direct_logit_attribution;
///
/// let tokens = Tensor::new(&[[1u32, 2, 3, 4]], &Device::Cpu)?;
/// let (mlp, scale) = (Site::Block(Layer(1), Point::MlpOut), Site::FinalScale);
/// let (_, seen) = capture::run_with_cache(&model, &tokens, &[mlp, scale])?;
/// let added = direct_logit_attribution(&model, seen.get(mlp)?, seen.get(scale)?)?;
/// assert_eq!(added.dims(), [1, 4, 50]); // what MLP 1 adds to each logit
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn direct_logit_attribution(model: &dyn HookedModel, component: &Tensor, scale: &Tensor) -> Result<Tensor, Error> {
    let read = |x: &Tensor| {
        let start = Start::Resid(Layer(model.n_layers()), x);
        model.forward_between(start, End::Logits, &mut FrozenScale(scale))
    };
    Ok((read(component)? - read(&component.zeros_like()?)?)?)
}

/// Logits `[batch, seq, d_vocab]` of an intermediate residual stream `[batch, seq, d_model]`.
///
/// With `norm` the stream passes through the final norm first: the logit lens. Without it the unembedding reads the
/// stream directly.
///
/// # Errors
/// When the shape does not fit the model.
///
/// # Examples
/// ```
/// # use candle_core::{Device, Tensor};
/// # use models::{Config, Decoder};
/// # use rand::SeedableRng;
/// # let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
/// # let model = Decoder::fresh(&sizes, &mut rand_chacha::ChaCha12Rng::seed_from_u64(0), &Device::Cpu)?;
/// use hooks::{HookedModel, Layer, NoHook, Point, Site};
/// use patching::logit_lens;
///
/// let tokens = Tensor::new(&[[1u32, 2, 3, 4]], &Device::Cpu)?;
/// let (early, last) = (Site::Block(Layer(0), Point::ResidPost), Site::Block(Layer(1), Point::ResidPost));
/// let (logits, seen) = capture::run_with_cache(&model, &tokens, &[early, last])?;
/// let distance = |x: Tensor| (x - &logits)?.abs()?.max_all()?.to_scalar::<f32>();
/// assert!(distance(logit_lens(&model, seen.get(last)?, true)?)? < 1e-5);
/// assert!(distance(logit_lens(&model, seen.get(early)?, true)?)? > 1e-5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn logit_lens(model: &dyn HookedModel, resid: &Tensor, norm: bool) -> Result<Tensor, Error> {
    if norm {
        let start = Start::Resid(Layer(model.n_layers()), resid);
        return Ok(model.forward_between(start, End::Logits, &mut NoHook)?);
    }
    Ok(model.unembed(resid)?)
}
