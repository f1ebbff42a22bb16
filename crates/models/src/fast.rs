//! The fast pass: forward and backward on the CPU, for GPT-2's architecture, when no hook needs to see inside.
//!
//! The batch is cut into shards of whole sequences, by its shape alone. Each shard runs through all blocks on one
//! thread, with its activations in the cache. Sums over shards are taken in their order, so the bytes do not depend on
//! the number of threads.
//!
//! In candle's graph the pass is one operation, from a handle to logits or losses. candle's operations take three
//! inputs at most, so the weights' gradients go through [`ops::deposit`].

mod context;
mod output;
mod pass;
mod shard;

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor, Var, bail};
use hooks::Tokens;
use ops::kernel::Real;
use ops::kernel::activation::Activation;

use self::context::Context;
use self::output::{Output, Scales};
use self::pass::Upstream;
use self::shard::{Keep, Shard};
use crate::dropout::DropoutKey;
use crate::weight_index::WeightIndex;
use crate::{Architecture, Config, Decoder, FixedScales};

/// Shards of finished passes, whose buffers the next pass uses.
type Spare<T> = Mutex<Vec<Vec<Shard<T>>>>;

/// The part that all passes share: sizes, the index of the weights, and buffers.
#[derive(Debug)]
pub(crate) struct FastPass {
    config: Config,
    index: WeightIndex,
    activation: Activation,
    spare: (Spare<f32>, Spare<f64>),
}

/// A request for losses.
#[derive(Debug)]
pub(crate) struct FastLosses {
    pub(crate) targets: Vec<u32>,
    /// Keep only each block's input for the backward pass.
    pub(crate) recompute: bool,
    /// Blocks whose head outputs are requested.
    pub(crate) taps: Vec<usize>,
    pub(crate) norm_scales: bool,
}

impl FastLosses {
    fn keep(&self) -> Keep {
        if self.recompute { Keep::Blocks } else { Keep::All }
    }

    /// Lengths of the parts of the output.
    fn lengths(&self, config: &Config) -> Output<usize> {
        let rows = self.targets.len();
        Output {
            losses: self.targets.iter().filter(|target| **target != ops::IGNORED).count(),
            z: vec![rows * config.d_model; self.taps.len()],
            norm_scales: self.norm_scales.then_some(Scales {
                ln_final: rows,
                ln1: config.n_layers,
                ln2: config.n_layers,
            }),
        }
    }
}

impl Decoder {
    /// The fast pass, if it supports this architecture, device and type.
    pub(crate) fn fast(&self) -> Option<&Arc<FastPass>> {
        let supported = self.embed.device().is_cpu() && matches!(self.embed.dtype(), DType::F32 | DType::F64);
        self.fast.as_ref().filter(|_| supported)
    }

    /// Logits `[batch, seq, d_vocab]` of tokens `[batch, seq]`.
    pub(crate) fn fast_logits(&self, fast: &Arc<FastPass>, tokens: &Tokens) -> Result<Tensor> {
        let (batch, seq) = tokens.dims2()?;
        let flat = self.run_fast(fast, tokens, None, DropoutKey::default(), Request::Logits)?;
        flat.reshape((batch, seq, self.config.d_vocab))
    }

    /// Losses of tokens `[batch, seq]`, and what else is requested.
    pub(crate) fn fast_losses(
        &self,
        fast: &Arc<FastPass>,
        tokens: &Tokens,
        positions: Option<&[u32]>,
        dropout: DropoutKey,
        request: FastLosses,
    ) -> Result<Output<Tensor>> {
        let lengths = request.lengths(&self.config);
        lengths.split(&self.run_fast(fast, tokens, positions, dropout, Request::Losses(request))?)
    }

    /// One pass as an operation of candle's graph, with its flat output.
    fn run_fast(
        &self,
        fast: &Arc<FastPass>,
        tokens: &Tokens,
        positions: Option<&[u32]>,
        dropout: DropoutKey,
        request: Request,
    ) -> Result<Tensor> {
        let (_, seq) = tokens.dims2()?;
        let tokens = tokens.flatten_all()?.to_vec1::<u32>()?;
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.config.d_vocab) {
            bail!("token {token} is outside the vocabulary of {}", self.config.d_vocab);
        }
        let input = Input {
            tokens,
            positions: positions.map(<[u32]>::to_vec),
            seq,
            dropout,
            fixed: self.config.architecture.fixed.clone(),
        };
        let handle = self.handle.as_tensor();
        let out = match self.embed.dtype() {
            DType::F64 => handle.apply_op1(Pass::<f64>::new(fast, &self.parameters, input, request)),
            _ => handle.apply_op1(Pass::<f32>::new(fast, &self.parameters, input, request)),
        }?;
        // the weights of a frozen model take no gradient
        Ok(if self.embed.is_variable() { out } else { out.detach() })
    }
}

/// Number types of the fast pass.
trait Pooled: Real {
    fn spare(fast: &FastPass) -> &Spare<Self>;
}

impl Pooled for f32 {
    fn spare(fast: &FastPass) -> &Spare<Self> {
        &fast.spare.0
    }
}

impl Pooled for f64 {
    fn spare(fast: &FastPass) -> &Spare<Self> {
        &fast.spare.1
    }
}

impl FastPass {
    /// `None` for architectures other than GPT-2's; its norms may have fixed scales.
    pub(crate) fn new(config: &Config, index: WeightIndex) -> Option<Self> {
        let architecture = Architecture { fixed: FixedScales::default(), ..config.architecture.clone() };
        let activation = config.activation.kernel().filter(|_| architecture.is_gpt2())?;
        let spare = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        Some(Self { config: config.clone(), index, activation, spare })
    }

    fn take_shards<T: Pooled>(&self, input: &Input) -> Vec<Shard<T>> {
        let mut shards = T::spare(self).lock().ok().and_then(|mut spare| spare.pop()).unwrap_or_default();
        shard::shards(&self.config, &input.tokens, input.positions.as_deref(), input.seq, &mut shards);
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

/// The result that a pass computes.
#[derive(Debug)]
enum Request {
    /// Logits of every token, `[batch, seq, d_vocab]`. Nothing is kept; a backward pass would compute them again.
    Logits,
    /// The joined parts of an [`Output`].
    Losses(FastLosses),
}

/// A batch, and what can differ from pass to pass.
struct Input {
    tokens: Vec<u32>,
    /// Row of the position embedding for each token; by default counted from 0 in each sequence.
    positions: Option<Vec<u32>>,
    seq: usize,
    dropout: DropoutKey,
    fixed: FixedScales,
}

/// One pass over one batch.
struct Pass<T: Pooled> {
    fast: Arc<FastPass>,
    /// In the order of [`Config::shapes`].
    weights: Vec<Tensor>,
    input: Input,
    request: Request,
    /// Shards of the forward pass, for the backward pass.
    kept: Mutex<Option<Vec<Shard<T>>>>,
}

impl<T: Pooled> Pass<T> {
    fn new(fast: &Arc<FastPass>, weights: &[(String, Var)], input: Input, request: Request) -> Self {
        let weights = weights.iter().map(|(_, var)| var.as_tensor().clone()).collect();
        Self { fast: fast.clone(), weights, input, request, kept: Mutex::new(None) }
    }

    /// Runs `run` on the numbers of all weights.
    fn with_weights<R>(&self, run: impl FnOnce(&Context<'_, T>) -> Result<R>) -> Result<R> {
        let guards: Vec<_> = self.weights.iter().map(Tensor::storage_and_layout).collect();
        let numbers = guards.iter().map(|(guard, layout)| match (&**guard, layout.contiguous_offsets()) {
            (Storage::Cpu(cpu), Some((start, end))) => Ok(&cpu.as_slice::<T>()?[start..end]),
            _ => bail!("the fast pass needs contiguous weights on the CPU"),
        });
        let numbers = numbers.collect::<Result<Vec<&[T]>>>()?;
        run(&self.context(&numbers))
    }

    fn context<'a>(&'a self, weights: &'a [&'a [T]]) -> Context<'a, T> {
        let (taps, norm_scales) = match &self.request {
            Request::Logits => ([].as_slice(), false),
            Request::Losses(losses) => (losses.taps.as_slice(), losses.norm_scales),
        };
        let FastPass { config, index, activation, .. } = &*self.fast;
        let Input { tokens, seq, dropout, fixed, .. } = &self.input;
        let single_shard = shard::is_single(config, tokens.len() / (*seq).max(1), *seq);
        let (activation, dropout) = (*activation, *dropout);
        Context { config, index, activation, weights, dropout, fixed, taps, norm_scales, single_shard }
    }

    fn forward(&self, context: &Context<'_, T>) -> Result<Vec<T>> {
        let mut shards = self.fast.take_shards(&self.input);
        match &self.request {
            Request::Logits => {
                let logits = pass::logits(context, &mut shards);
                self.fast.give_back(shards);
                Ok(logits)
            }
            Request::Losses(request) => {
                let out = pass::losses(context, &mut shards, &request.targets, request.keep());
                if let Ok(mut kept) = self.kept.lock() {
                    *kept = Some(shards);
                }
                out.join()
            }
        }
    }

    fn backward(&self, context: &Context<'_, T>, upstream: &[T]) -> Result<Vec<Vec<T>>> {
        let kept = self.kept.lock().ok().and_then(|mut kept| kept.take());
        // a second backward pass finds nothing kept
        let run_again = kept.is_none();
        let mut shards = kept.unwrap_or_else(|| self.fast.take_shards(&self.input));
        let upstream = match &self.request {
            Request::Logits => {
                pass::logits_kept(context, &mut shards);
                Upstream::Logits(upstream)
            }
            Request::Losses(request) => {
                if run_again {
                    pass::losses(context, &mut shards, &request.targets, request.keep());
                }
                Upstream::Losses(request.lengths(context.config).slices(upstream)?)
            }
        };
        let gradients = pass::backward(context, &mut shards, &upstream);
        self.fast.give_back(shards);
        Ok(gradients)
    }
}

impl<T: Pooled> Drop for Pass<T> {
    fn drop(&mut self) {
        if let Ok(Some(shards)) = self.kept.get_mut().map(Option::take) {
            self.fast.give_back(shards);
        }
    }
}

impl<T: Pooled> CustomOp1 for Pass<T> {
    fn name(&self) -> &'static str {
        "decoder"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.with_weights(|context| self.forward(context))?;
        let shape = Shape::from(out.len());
        Ok((T::to_cpu_storage_owned(out), shape))
    }

    fn bwd(&self, handle: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let upstream = upstream.contiguous()?;
        let (numbers, layout) = upstream.storage_and_layout();
        let (Storage::Cpu(numbers), Some((start, end))) = (&*numbers, layout.contiguous_offsets()) else {
            bail!("the fast pass runs on the CPU");
        };
        let upstream = &numbers.as_slice::<T>()?[start..end];
        let gradients = self.with_weights(|context| self.backward(context, upstream))?;
        for (weight, gradient) in self.weights.iter().zip(gradients) {
            ops::deposit(weight, Tensor::from_vec(gradient, weight.shape(), weight.device())?)?;
        }
        handle.zeros_like().map(Some)
    }
}
