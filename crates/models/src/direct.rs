//! The direct pass as one operation in candle's graph: all weights in, logits or losses out.
//!
//! candle follows a handle to it; the weights' gradients are handed over with [`ops::deposit`].

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, Var, bail};
use ops::kernel::Real;
use ops::kernel::activation::Activation;

use crate::pass::{self, DropoutKey, Keep, Model, Places, Shard, Upstream};
use crate::{Architecture, Config, FixedScales};

/// Shards of finished passes, for their buffers.
type Spare<T> = Mutex<Vec<Vec<Shard<T>>>>;

/// What the decoder keeps between passes: where its weights stand, and buffers.
#[derive(Debug)]
pub(crate) struct Direct {
    config: Config,
    places: Places,
    activation: Activation,
    spare: (Spare<f32>, Spare<f64>),
}

/// Number types that the direct pass runs on.
pub(crate) trait Pooled: Real {
    fn spare(direct: &Direct) -> &Spare<Self>;
}

impl Pooled for f32 {
    fn spare(direct: &Direct) -> &Spare<Self> {
        &direct.spare.0
    }
}

impl Pooled for f64 {
    fn spare(direct: &Direct) -> &Spare<Self> {
        &direct.spare.1
    }
}

impl Direct {
    /// `None` when the direct pass does not know the model's form.
    pub(crate) fn new(config: &Config, places: Places) -> Option<Self> {
        // whichever norms are fixed, and whenever
        let architecture = Architecture { fixed: FixedScales::default(), ..config.architecture.clone() };
        let activation = config.activation.kernel().filter(|_| architecture.is_gpt2())?;
        let spare = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        Some(Self { config: config.clone(), places, activation, spare })
    }

    fn take<T: Pooled>(&self, tokens: &[u32], positions: Option<&[u32]>, seq: usize) -> Vec<Shard<T>> {
        let mut shards = T::spare(self).lock().ok().and_then(|mut spare| spare.pop()).unwrap_or_default();
        pass::shards(&self.config, tokens, positions, seq, &mut shards);
        shards
    }

    fn give_back<T: Pooled>(&self, shards: Vec<Shard<T>>) {
        if let Ok(mut spare) = T::spare(self).lock()
            && spare.is_empty()
        {
            spare.push(shards);
        }
    }
}

/// What a pass is for.
#[derive(Debug)]
pub(crate) enum Want {
    /// Logits of every token, `[batch, seq, d_vocab]`; a backward pass would compute them again.
    Logits,
    /// Losses of the targets that count, then the outputs of the heads of some blocks, then, if wanted, the scale of every
    /// row of the final stream and the mean scales before attention and MLP of every block, all in one row.
    Losses { targets: Vec<u32>, recompute: bool, taps: Vec<usize>, norm_scales: bool },
}

/// What may change from pass to pass.
pub(crate) struct How {
    pub(crate) drop: DropoutKey,
    pub(crate) fixed: FixedScales,
}

/// One pass over one batch.
pub(crate) struct Pass<T: Pooled> {
    direct: Arc<Direct>,
    /// In the order of [`Config::shapes`].
    weights: Vec<Tensor>,
    tokens: Vec<u32>,
    /// Row of the position embedding for each token; counted from 0 in each sequence when left out.
    positions: Option<Vec<u32>>,
    seq: usize,
    how: How,
    want: Want,
    kept: Mutex<Option<Vec<Shard<T>>>>,
}

impl<T: Pooled> Pass<T> {
    pub(crate) fn new(
        direct: &Arc<Direct>,
        weights: &[(String, Var)],
        (tokens, positions): (Vec<u32>, Option<Vec<u32>>),
        seq: usize,
        how: How,
        want: Want,
    ) -> Self {
        let weights = weights.iter().map(|(_, var)| var.as_tensor().clone()).collect();
        Self { direct: direct.clone(), weights, tokens, positions, seq, how, want, kept: Mutex::new(None) }
    }

    /// Runs `run` on the numbers of all weights.
    fn with<R>(&self, run: impl FnOnce(&Model<'_, T>) -> R) -> Result<R> {
        let guards: Vec<_> = self.weights.iter().map(Tensor::storage_and_layout).collect();
        let numbers = guards.iter().map(|(guard, layout)| match (&**guard, layout.contiguous_offsets()) {
            (Storage::Cpu(cpu), Some((start, end))) => Ok(&cpu.as_slice::<T>()?[start..end]),
            _ => bail!("the direct pass takes contiguous weights on the CPU"),
        });
        let numbers = numbers.collect::<Result<Vec<&[T]>>>()?;
        Ok(run(&self.model(&numbers)))
    }

    fn model<'a>(&'a self, weights: &'a [&'a [T]]) -> Model<'a, T> {
        let (taps, norm_scales) = match &self.want {
            Want::Logits => ([].as_slice(), false),
            Want::Losses { taps, norm_scales, .. } => (taps.as_slice(), *norm_scales),
        };
        let Direct { config, places, activation, .. } = &*self.direct;
        let How { drop, fixed } = &self.how;
        let alone = pass::is_alone(config, self.tokens.len() / self.seq.max(1), self.seq);
        Model { config, places, activation: *activation, weights, drop: *drop, fixed, taps, norm_scales, alone }
    }

    fn forward(&self, model: &Model<'_, T>) -> Vec<T> {
        let mut shards = self.direct.take(&self.tokens, self.positions.as_deref(), self.seq);
        match &self.want {
            Want::Logits => {
                let logits = pass::logits(model, &mut shards);
                self.direct.give_back(shards);
                logits
            }
            Want::Losses { targets, recompute, taps, norm_scales } => {
                let mut out = pass::losses(model, &mut shards, targets, keep(*recompute));
                (0..taps.len()).for_each(|tap| out.extend(pass::tapped(&shards, tap)));
                if *norm_scales {
                    out.extend(pass::final_scales(&shards));
                    out.extend(pass::mean_scales(&shards, self.direct.config.n_layers));
                }
                if let Ok(mut kept) = self.kept.lock() {
                    *kept = Some(shards);
                }
                out
            }
        }
    }

    fn backward(&self, model: &Model<'_, T>, upstream: &[T]) -> Vec<Vec<T>> {
        let kept = self.kept.lock().ok().and_then(|mut kept| kept.take());
        let again = kept.is_none();
        let mut shards = kept.unwrap_or_else(|| self.direct.take(&self.tokens, self.positions.as_deref(), self.seq));
        let gradient = match &self.want {
            Want::Logits => {
                pass::again(model, &mut shards);
                pass::backward(model, &mut shards, Upstream::Logits(upstream), &[])
            }
            Want::Losses { targets, recompute, taps, norm_scales } => {
                if again {
                    pass::losses(model, &mut shards, targets, keep(*recompute));
                }
                let (rows, blocks) = (self.tokens.len(), 2 * self.direct.config.n_layers);
                let behind = if *norm_scales { rows + blocks } else { 0 };
                let (upstream, scales) = upstream.split_at(upstream.len() - behind);
                let each = rows * self.direct.config.d_model;
                let (losses, rest) = upstream.split_at(upstream.len() - taps.len() * each);
                let dz: Vec<&[T]> = rest.chunks_exact(each.max(1)).collect();
                let scales = scales.split_at(scales.len().min(rows)).0;
                pass::backward(model, &mut shards, Upstream::Losses { losses, scales }, &dz)
            }
        };
        self.direct.give_back(shards);
        gradient
    }
}

/// What a pass that will go backward keeps.
fn keep(recompute: bool) -> Keep {
    if recompute { Keep::Blocks } else { Keep::All }
}

impl<T: Pooled> std::ops::Drop for Pass<T> {
    fn drop(&mut self) {
        if let Ok(Some(shards)) = self.kept.get_mut().map(Option::take) {
            self.direct.give_back(shards);
        }
    }
}

impl<T: Pooled> CustomOp1 for Pass<T> {
    fn name(&self) -> &'static str {
        "decoder"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.with(|model| self.forward(model))?;
        let shape = Shape::from(out.len());
        Ok((T::to_cpu_storage_owned(out), shape))
    }

    fn bwd(&self, handle: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let upstream = upstream.contiguous()?;
        let (numbers, layout) = upstream.storage_and_layout();
        let (Storage::Cpu(numbers), Some((start, end))) = (&*numbers, layout.contiguous_offsets()) else {
            bail!("the direct pass runs on the CPU");
        };
        let upstream = &numbers.as_slice::<T>()?[start..end];
        let gradients = self.with(|model| self.backward(model, upstream))?;
        for (weight, gradient) in self.weights.iter().zip(gradients) {
            ops::deposit(weight, Tensor::from_vec(gradient, weight.shape(), weight.device())?)?;
        }
        handle.zeros_like().map(Some)
    }
}
