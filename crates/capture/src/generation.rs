//! Generation with a cache of keys and values.

use std::ops::Range;

use candle_core::{D, DType, IndexOp, Result, Tensor};
use hooks::{End, Hook, HookedModel, Layer, NoHook, Past, Point, Site, Start, Tokens};
use rand::Rng;

/// Keys and values of the tokens that a batch of sequences has read, so that later tokens need not read them again.
#[derive(Clone, Debug, Default)]
pub struct KeyValueCache {
    /// `[batch, seq]`.
    tokens: Option<Tensor>,
    past: Option<Past>,
}

impl KeyValueCache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of tokens read in each sequence.
    #[must_use]
    pub fn seq(&self) -> usize {
        self.past.as_ref().map_or(0, |past| past.seq)
    }

    /// Keys and values; `None` before the first token.
    #[must_use]
    pub fn past(&self) -> Option<&Past> {
        self.past.as_ref()
    }

    /// Keeps the first `seq` positions only.
    ///
    /// # Errors
    /// When fewer were read.
    pub fn truncate(&mut self, seq: usize) -> Result<()> {
        let (Some(tokens), Some(past)) = (&self.tokens, &self.past) else {
            candle_core::bail!("the cache is empty; read tokens before truncating it");
        };
        if seq == 0 {
            *self = Self::default();
            return Ok(());
        }
        let part = |x: &Tensor| x.narrow(1, 0, seq)?.contiguous();
        let tokens = part(tokens)?;
        let both = |[k, v]: &[Tensor; 2]| Ok([part(k)?, part(v)?]);
        let keys_values = past.keys_values.iter().map(both).collect::<Result<_>>()?;
        self.tokens = Some(tokens);
        self.past = Some(Past { seq, keys_values });
        Ok(())
    }

    /// Reads `tokens` `[batch, more]` after those that were read before, and returns the result at `end`. Result and
    /// hook see the new positions only.
    ///
    /// # Errors
    /// When the tokens do not fit the model, or earlier tokens had another batch size.
    pub fn read(&mut self, model: &dyn HookedModel, tokens: &Tokens, end: End, hook: &mut dyn Hook) -> Result<Tensor> {
        let (_, more) = tokens.dims2()?;
        let all = match &self.tokens {
            Some(before) => Tensor::cat(&[before, tokens], 1)?,
            None => tokens.clone(),
        };
        let seq = all.dim(1)?;
        // positions count from the first token, so the new tokens are embedded together with the old ones
        let embedded = model.forward_between(Start::Tokens(&all), End::Resid(Layer(0)), &mut NoHook)?;
        let resid = embedded.narrow(1, seq - more, more)?.contiguous()?;
        let mut keep = KeepPast::new(model, hook);
        let start = match &self.past {
            Some(past) => Start::Suffix(Layer(0), &resid, past),
            None => Start::Resid(Layer(0), &resid),
        };
        let out = model.forward_between(start, end, &mut keep)?;
        let new = keep.finish()?;
        let keys_values = match self.past.take() {
            Some(past) => {
                let join = |(old, new): ([Tensor; 2], [Tensor; 2])| -> Result<[Tensor; 2]> {
                    Ok([Tensor::cat(&[&old[0], &new[0]], 1)?, Tensor::cat(&[&old[1], &new[1]], 1)?])
                };
                past.keys_values.into_iter().zip(new).map(join).collect::<Result<_>>()?
            }
            None => new,
        };
        self.past = Some(Past { seq, keys_values });
        self.tokens = Some(all);
        Ok(out)
    }
}

/// Records keys and values, and passes every site on to another hook.
struct KeepPast<'a> {
    key: Point,
    kept: Vec<[Option<Tensor>; 2]>,
    then: &'a mut dyn Hook,
}

impl<'a> KeepPast<'a> {
    fn new(model: &dyn HookedModel, then: &'a mut dyn Hook) -> Self {
        Self { key: key_point(model), kept: vec![[None, None]; model.n_layers()], then }
    }

    /// The block and slot (0 for keys, 1 for values) of a site to keep.
    fn slot(&self, site: Site) -> Option<(usize, usize)> {
        let Site::Block(Layer(layer), point) = site else { return None };
        let slot = [self.key, Point::V].iter().position(|kept| *kept == point)?;
        Some((layer, slot))
    }

    fn finish(self) -> Result<Vec<[Tensor; 2]>> {
        let both = |kept: [Option<Tensor>; 2]| match kept {
            [Some(k), Some(v)] => Ok([k, v]),
            _ => candle_core::bail!("the forward pass ended before it had computed all keys and values"),
        };
        self.kept.into_iter().map(both).collect()
    }
}

impl Hook for KeepPast<'_> {
    fn wants(&self, site: Site) -> bool {
        self.slot(site).is_some() || self.then.wants(site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> Result<Tensor> {
        let tensor = if self.then.wants(site) { self.then.visit(site, tensor)? } else { tensor };
        if let Some((layer, slot)) = self.slot(site) {
            self.kept[layer][slot] = Some(tensor.contiguous()?);
        }
        Ok(tensor)
    }
}

/// The site of the keys as attention reads them: after rotation in rotary models.
#[must_use]
pub fn key_point(model: &dyn HookedModel) -> Point {
    if model.sites().contains(&Site::Block(Layer(0), Point::RotK)) { Point::RotK } else { Point::K }
}

/// How tokens are chosen, and when generation stops.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The largest number of new tokens.
    pub most: usize,
    /// Tokens that end a sequence; they are part of the result.
    pub stop: Vec<u32>,
    /// Divides the logits before sampling; `None` takes the most likely token (greedy).
    pub temperature: Option<f64>,
}

/// Continues prompts `[batch, seq]` and returns each sequence's new tokens, up to and including its first stop token.
///
/// Greedy choices use no random numbers, and the first of equal logits wins. With a temperature, `rng` gives one number
/// per sequence and step, also for sequences that have ended, so a sequence's tokens do not depend on when others end.
///
/// # Errors
/// When the tokens do not fit the model, the model lacks positions for the new tokens, or the temperature is not
/// positive.
pub fn generate(
    model: &dyn HookedModel,
    prompts: &Tokens,
    choice: &Choice,
    rng: &mut impl Rng,
) -> Result<Vec<Vec<u32>>> {
    if choice.temperature.is_some_and(|t| !t.is_finite() || t <= 0.) {
        candle_core::bail!("the temperature must be positive; use `None` for greedy choices");
    }
    let (batch, _) = prompts.dims2()?;
    let mut written: Vec<Vec<u32>> = vec![Vec::new(); batch];
    let mut cache = KeyValueCache::new();
    let mut next = prompts.clone();
    for _ in 0..choice.most {
        let logits = cache.read(model, &next, End::LastLogits(1), &mut NoHook)?.i((.., 0, ..))?; // [batch, d_vocab]
        let tokens = match choice.temperature {
            None => logits.argmax(D::Minus1)?.to_vec1::<u32>()?,
            Some(temperature) => {
                let logits = logits.to_dtype(DType::F64)?.to_vec2::<f64>()?;
                logits.iter().map(|row| sample(row, temperature, rng.random_range(UNIT))).collect()
            }
        };
        let open = |written: &Vec<u32>| written.last().is_none_or(|last| !choice.stop.contains(last));
        for (written, token) in written.iter_mut().zip(&tokens).filter(|(written, _)| open(written)) {
            written.push(*token);
        }
        if !written.iter().any(open) {
            break;
        }
        next = Tensor::from_vec(tokens, (batch, 1), prompts.device())?;
    }
    Ok(written)
}

const UNIT: Range<f64> = 0. ..1.;

/// The token at which the cumulative probability exceeds `at`.
fn sample(logits: &[f64], temperature: f64, at: f64) -> u32 {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| ((logit - most) / temperature).exp()).collect();
    let mut left = at * weights.iter().sum::<f64>();
    for (token, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0. {
            return token as u32;
        }
    }
    // rounding can leave a rest: take the last token with a positive probability
    weights.iter().rposition(|weight| *weight > 0.).unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use candle_core::Device;
    use models::{Config, Decoder};
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;

    fn model() -> Decoder {
        let config = Config {
            n_layers: 2,
            n_heads: 2,
            d_model: 8,
            d_mlp: 16,
            d_vocab: 11,
            n_positions: 12,
            ..Config::gpt2_small()
        };
        let fresh = Decoder::fresh(&config, &mut ChaCha12Rng::seed_from_u64(1), &Device::Cpu).unwrap();
        let wide = |(name, x): (String, Tensor)| (name, (x.to_dtype(DType::F64).unwrap() * 30.).unwrap());
        Decoder::new(&config, fresh.weights().into_iter().map(wide).collect(), &Device::Cpu).unwrap()
    }

    fn prompts() -> Tensor {
        Tensor::new(&[[1u32, 5, 3], [9, 0, 2]], &Device::Cpu).unwrap()
    }

    fn rng() -> ChaCha12Rng {
        ChaCha12Rng::seed_from_u64(7)
    }

    fn greedy(most: usize) -> Choice {
        Choice { most, stop: Vec::new(), temperature: None }
    }

    #[test]
    fn greedy_continuations_equal_those_of_transformers_in_every_family() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/parity");
        let text = std::fs::read_to_string(folder.join("greedy.json")).unwrap();
        let expected: BTreeMap<String, Vec<Vec<u32>>> = serde_json::from_str(&text).unwrap();
        assert_eq!(expected.len(), 17);
        for (case, theirs) in expected {
            let case: PathBuf = folder.join(case);
            let model = models::open(&case, DType::F32, &Device::Cpu).unwrap().0.frozen();
            let reference = candle_core::safetensors::load(case.join("reference.safetensors"), &Device::Cpu).unwrap();
            let prompts = reference["tokens"].to_dtype(DType::U32).unwrap();
            let ours = generate(&model, &prompts, &greedy(8), &mut rng()).unwrap();
            assert_eq!(ours, theirs, "{}", case.display());
        }
    }

    #[test]
    fn reading_in_pieces_equals_reading_at_once() {
        let (model, tokens) = (model(), Tensor::new(&[[1u32, 5, 3, 7, 2], [9, 0, 2, 2, 4]], &Device::Cpu).unwrap());
        let whole = model.forward(&tokens, &mut NoHook).unwrap();
        let mut cache = KeyValueCache::new();
        assert!(cache.truncate(1).is_err() && cache.past().is_none());
        let read = |from: usize, count: usize, cache: &mut KeyValueCache| {
            let part = tokens.narrow(1, from, count).unwrap();
            let ours = cache.read(&model, &part, End::Logits, &mut NoHook).unwrap();
            let theirs = whole.narrow(1, from, count).unwrap();
            let away = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(away < 1e-12 && cache.seq() == from + count, "{from} {count}: {away}");
        };
        read(0, 2, &mut cache);
        read(2, 1, &mut cache);
        read(3, 2, &mut cache);
        cache.truncate(1).unwrap();
        read(1, 4, &mut cache);
        cache.truncate(0).unwrap();
        read(0, 5, &mut cache);
    }

    #[test]
    fn stop_tokens_end_each_sequence_independently() {
        let model = model();
        let free = generate(&model, &prompts(), &greedy(6), &mut rng()).unwrap();
        let stop = vec![free[0][1]];
        let stopped = generate(&model, &prompts(), &Choice { stop: stop.clone(), ..greedy(6) }, &mut rng()).unwrap();
        for (stopped, free) in stopped.iter().zip(&free) {
            let end = free.iter().position(|token| stop.contains(token)).map_or(free.len(), |at| at + 1);
            assert_eq!(stopped, &free[..end]);
        }
        assert!(stopped[0].len() <= 2);
    }

    #[test]
    fn sampling_follows_probabilities_and_repeats_by_seed() {
        let shares = |temperature: f64| -> Vec<f64> {
            let mut rng = rng();
            let mut counts = [0.; 3];
            let token = |rng: &mut ChaCha12Rng| sample(&[0., 1., 2.], temperature, rng.random_range(UNIT));
            (0..20_000).for_each(|_| counts[token(&mut rng) as usize] += 1. / 20_000.);
            counts.to_vec()
        };
        for temperature in [0.5, 1., 2.] {
            let weights = [0., 1., 2.].map(|logit: f64| (logit / temperature).exp());
            let total: f64 = weights.iter().sum();
            for (share, weight) in shares(temperature).iter().zip(weights) {
                assert!((share - weight / total).abs() < 0.015, "{temperature}: {share} {}", weight / total);
            }
        }
        assert_eq!(sample(&[f64::NEG_INFINITY, 0., f64::NEG_INFINITY], 1., 0.999_999_999_999), 1);
        let warm = Choice { temperature: Some(1.), ..greedy(5) };
        let once = generate(&model(), &prompts(), &warm, &mut rng()).unwrap();
        assert_eq!(once, generate(&model(), &prompts(), &warm, &mut rng()).unwrap());
        let cold = Choice { temperature: Some(0.), ..greedy(5) };
        assert!(generate(&model(), &prompts(), &cold, &mut rng()).unwrap_err().to_string().contains("temperature"));
        let long = generate(&model(), &prompts(), &greedy(20), &mut rng()).unwrap_err().to_string();
        assert!(long.contains("12 positions"), "{long}");
    }
}
