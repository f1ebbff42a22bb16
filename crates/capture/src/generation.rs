//! Generation: a model continues its own tokens, with the keys and values of what it has read kept.

use std::ops::Range;

use candle_core::{D, DType, IndexOp, Result, Tensor};
use hooks::{End, Hook, HookedModel, Layer, NoHook, Past, Point, Site, Start, Tokens};
use rand::Rng;

/// Keys and values of what some sequences have read so far, so that what follows need not read it again.
#[derive(Clone, Debug, Default)]
pub struct KeyValueCache {
    /// `[batch, seq]`.
    tokens: Option<Tensor>,
    past: Option<Past>,
}

impl KeyValueCache {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens of each sequence so far.
    #[must_use]
    pub fn seq(&self) -> usize {
        self.past.as_ref().map_or(0, |past| past.seq)
    }

    /// Keys and values; nothing before the first token.
    #[must_use]
    pub fn past(&self) -> Option<&Past> {
        self.past.as_ref()
    }

    /// Only the first places.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn truncate(&mut self, seq: usize) -> Result<()> {
        let (Some(tokens), Some(past)) = (&self.tokens, &self.past) else {
            candle_core::bail!("nothing was read yet");
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

    /// Reads on: `tokens` `[batch, more]` come after what was read. The hook sees the new places only.
    ///
    /// Gives the pass's end: logits of the new places, of the last of them, or a stream.
    ///
    /// # Errors
    /// When the tokens do not fit the model, or another number of sequences was read before.
    pub fn read(&mut self, model: &dyn HookedModel, tokens: &Tokens, end: End, hook: &mut dyn Hook) -> Result<Tensor> {
        let (_, more) = tokens.dims2()?;
        let all = match &self.tokens {
            Some(before) => Tensor::cat(&[before, tokens], 1)?,
            None => tokens.clone(),
        };
        let seq = all.dim(1)?;
        // positions count from the first token, so the new ones are embedded behind the old ones
        let embedded = model.forward_between(Start::Tokens(&all), End::Resid(Layer(0)), &mut NoHook)?;
        let resid = embedded.narrow(1, seq - more, more)?.contiguous()?;
        let mut keep = Keep::new(model, hook);
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

/// Keeps keys and values on their way to another hook.
struct Keep<'a> {
    key: Point,
    kept: Vec<[Option<Tensor>; 2]>,
    then: &'a mut dyn Hook,
}

impl<'a> Keep<'a> {
    fn new(model: &dyn HookedModel, then: &'a mut dyn Hook) -> Self {
        Self { key: key_point(model), kept: vec![[None, None]; model.n_layers()], then }
    }

    fn slot(&self, site: Site) -> Option<(usize, usize)> {
        match site {
            Site::Block(Layer(layer), point) if point == self.key => Some((layer, 0)),
            Site::Block(Layer(layer), Point::V) => Some((layer, 1)),
            _ => None,
        }
    }

    fn finish(self) -> Result<Vec<[Tensor; 2]>> {
        let both = |kept: [Option<Tensor>; 2]| match kept {
            [Some(k), Some(v)] => Ok([k, v]),
            _ => candle_core::bail!("the pass ended before all keys and values were there"),
        };
        self.kept.into_iter().map(both).collect()
    }
}

impl Hook for Keep<'_> {
    fn wants(&self, site: Site) -> bool {
        self.slot(site).is_some() || self.then.wants(site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> Result<Tensor> {
        let tensor = if self.then.wants(site) { self.then.visit(site, tensor)? } else { tensor };
        if let Some((layer, which)) = self.slot(site) {
            self.kept[layer][which] = Some(tensor.contiguous()?);
        }
        Ok(tensor)
    }
}

/// Keys as attention reads them: turned, where positions are rotary.
#[must_use]
pub fn key_point(model: &dyn HookedModel) -> Point {
    if model.sites().contains(&Site::Block(Layer(0), Point::RotK)) { Point::RotK } else { Point::K }
}

/// How tokens are chosen, and when it is enough.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Tokens at most.
    pub most: usize,
    /// Tokens after which a sequence ends; the token itself is given.
    pub stop: Vec<u32>,
    /// Logits are divided by it and a token drawn; without: the likeliest token (greedy).
    pub temperature: Option<f64>,
}

/// Continues sequences of one length, `[batch, seq]`: for each its new tokens, up to and with its first stop token.
///
/// Greedy choices need no random numbers; of equal logits the first wins. With a temperature one number is drawn from `rng` per
/// sequence and step, also for sequences that have ended, so that a sequence's tokens do not depend on when others end.
///
/// # Errors
/// When the tokens do not fit the model, there are no positions left for `most` more, or the temperature is not positive.
pub fn generate(
    model: &dyn HookedModel,
    prompts: &Tokens,
    choice: &Choice,
    rng: &mut impl Rng,
) -> Result<Vec<Vec<u32>>> {
    if choice.temperature.is_some_and(|t| !t.is_finite() || t <= 0.) {
        candle_core::bail!("a temperature must be positive; without one the likeliest token is taken");
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
                logits.iter().map(|row| drawn(row, temperature, rng.random_range(UNIT))).collect()
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

/// The token at which the sum of probabilities passes `at`.
fn drawn(logits: &[f64], temperature: f64, at: f64) -> u32 {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| ((logit - most) / temperature).exp()).collect();
    let mut left = at * weights.iter().sum::<f64>();
    for (token, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0. {
            return token as u32;
        }
    }
    // rounding: the last token that can be drawn at all
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
    fn greedy_continuations_are_those_of_transformers_in_every_family() {
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
    fn reading_in_pieces_and_again_is_reading_at_once() {
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
    fn stop_tokens_end_each_sequence_by_itself() {
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
    fn temperatures_draw_by_probability_and_repeat_by_seed() {
        let shares = |temperature: f64| -> Vec<f64> {
            let mut rng = rng();
            let mut counts = [0.; 3];
            let draw = |rng: &mut ChaCha12Rng| drawn(&[0., 1., 2.], temperature, rng.random_range(UNIT));
            (0..20_000).for_each(|_| counts[draw(&mut rng) as usize] += 1. / 20_000.);
            counts.to_vec()
        };
        for temperature in [0.5, 1., 2.] {
            let weights = [0., 1., 2.].map(|logit: f64| (logit / temperature).exp());
            let total: f64 = weights.iter().sum();
            for (share, weight) in shares(temperature).iter().zip(weights) {
                assert!((share - weight / total).abs() < 0.015, "{temperature}: {share} {}", weight / total);
            }
        }
        assert_eq!(drawn(&[f64::NEG_INFINITY, 0., f64::NEG_INFINITY], 1., 0.999_999_999_999), 1);
        let warm = Choice { temperature: Some(1.), ..greedy(5) };
        let once = generate(&model(), &prompts(), &warm, &mut rng()).unwrap();
        assert_eq!(once, generate(&model(), &prompts(), &warm, &mut rng()).unwrap());
        let cold = Choice { temperature: Some(0.), ..greedy(5) };
        assert!(generate(&model(), &prompts(), &cold, &mut rng()).unwrap_err().to_string().contains("temperature"));
        let long = generate(&model(), &prompts(), &greedy(20), &mut rng()).unwrap_err().to_string();
        assert!(long.contains("12 positions"), "{long}");
    }
}
