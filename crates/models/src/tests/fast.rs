//! The fast pass against the composed pass, and the bytes of both at any number of threads.

use candle_core::{DType, Device, Tensor};
use hooks::{End, HookedModel, Layer, NoHook, Start};

use super::{Probe, batch, bytes, counts, gpt2_variants, irregular, other_architectures};
use crate::config::tests::tiny;
use crate::dropout::{DropoutKey, DropoutMasks};
use crate::{Config, Decoder, Losses, NormScales, Step};

/// Every output of a step: losses, head outputs, scales if requested, and the gradient of every weight for a sum of
/// these.
fn step(model: &Decoder, fast: bool, recompute: bool, norm_scales: bool) -> Vec<(String, Tensor)> {
    step_of(model, batch(6, 7), fast, recompute, norm_scales)
}

/// [`step`] on any batch.
fn step_of(
    model: &Decoder,
    (tokens, targets): (Tensor, Tensor),
    fast: bool,
    recompute: bool,
    norm_scales: bool,
) -> Vec<(String, Tensor)> {
    let rows = tokens.elem_count();
    let taps = [Layer(1), Layer(0)];
    let scale = |x: &Tensor| ops::layer_norm_parts(x, 1e-5).unwrap().scale;
    let Losses { losses, z, norm_scales } = if fast {
        let step = Step { dropout: Some(9), recompute, norm_scales, ..Step::default() };
        model.losses(&tokens, &targets, &taps, step).unwrap()
    } else {
        let mut probe = Probe::default();
        let mut masks = DropoutMasks::new(DropoutKey { p: model.config.dropout, key: 9 });
        let logits = model.forward_composed(Start::Tokens(&tokens), End::Logits, &mut masks, &mut probe).unwrap();
        let logits = logits.reshape((rows, model.config.d_vocab)).unwrap();
        let losses = ops::token_losses(&logits, &targets.flatten_all().unwrap()).unwrap();
        let counted: Vec<u32> = (0..rows as u32).filter(|row| counts(*row as usize)).collect();
        let losses = losses.index_select(&Tensor::new(counted, &Device::Cpu).unwrap(), 0).unwrap();
        let mean = |layer: usize, site: &str| {
            let scales = scale(&probe.seen[&format!("blocks.{layer}.{site}")]).to_dtype(DType::F64).unwrap();
            scales.mean_all().unwrap().to_scalar::<f64>().unwrap()
        };
        let norm_scales = norm_scales.then(|| NormScales {
            ln1: vec![mean(0, "hook_resid_pre"), mean(1, "hook_resid_pre")],
            ln2: vec![mean(0, "hook_resid_mid"), mean(1, "hook_resid_mid")],
            ln_final: scale(&probe.seen["blocks.1.hook_resid_post"]).squeeze(2).unwrap(),
        });
        Losses {
            norm_scales,
            losses,
            z: taps.map(|l| probe.seen[&format!("blocks.{}.attn.hook_z", l.0)].clone()).to_vec(),
        }
    };
    let sum = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap();
    let mut total = (sum(&losses) + (sum(&z[0]) + sum(&z[1])).unwrap()).unwrap();
    let mut seen =
        vec![("losses".to_owned(), losses), ("z1".to_owned(), z[0].clone()), ("z0".to_owned(), z[1].clone())];
    if let Some(NormScales { ln1, ln2, ln_final }) = norm_scales {
        total = (total + sum(&ln_final)).unwrap();
        let means = Tensor::new([ln1, ln2].concat(), &Device::Cpu).unwrap().to_dtype(ln_final.dtype()).unwrap();
        seen.extend([("scales".to_owned(), ln_final), ("mean scales".to_owned(), means)]);
    }
    let store = ops::backward(&total).unwrap();
    let gradients = model
        .parameters
        .iter()
        .map(|(name, var)| (name.clone(), store.get(var).unwrap_or_else(|| panic!("no gradient for {name}")).clone()));
    seen.into_iter().chain(gradients).collect()
}

#[test]
fn the_fast_pass_agrees_with_the_composed_pass() {
    for config in gpt2_variants() {
        // what is left out for rows that do not count depends on both
        for (dropout, norm_scales) in [(0., false), (0., true), (0.3, false), (0.3, true)] {
            let config = Config { dropout, ..config.clone() };
            for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 1e-5)] {
                let model = irregular(&config, dtype);
                let (fast, composed) =
                    (step(&model, true, false, norm_scales), step(&model, false, false, norm_scales));
                let case = format!("{dtype:?}, dropout {dropout}, norm_scales {norm_scales}");
                assert_close(&fast, &composed, tolerance, &case);
            }
        }
    }
}

fn assert_close(fast: &[(String, Tensor)], composed: &[(String, Tensor)], tolerance: f64, case: &str) {
    for ((name, fast), (_, composed)) in fast.iter().zip(composed) {
        let flat = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        let largest = flat(composed).abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        let difference = (flat(fast) - flat(composed)).unwrap().abs().unwrap().max_all().unwrap();
        let difference = difference.to_scalar::<f64>().unwrap() / (1. + largest);
        assert!(difference < tolerance, "{name}, {case}: {difference}");
    }
}

/// Sizes at which work is cut: several tiles of a weight, several blocks of queries, the kernel for short sequences, a
/// smaller last shard, and a single sequence whose products all threads share.
#[test]
fn the_fast_pass_agrees_where_work_is_cut_into_parts() {
    let wide = Config { n_heads: 4, d_model: 64, d_mlp: 400, d_vocab: 43, n_positions: 130, ..tiny() };
    for (sequences, seq) in [(3, 130), (1, 130), (27, 20), (1, 20), (1, 2), (5, 64)] {
        for (dropout, norm_scales) in [(0., false), (0.3, true)] {
            let config = Config { dropout, ..wide.clone() };
            for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 1e-5)] {
                let model = irregular(&config, dtype);
                let step = |fast| step_of(&model, batch(sequences, seq), fast, false, norm_scales);
                let case = format!("{sequences} x {seq}, {dtype:?}, dropout {dropout}");
                assert_close(&step(true), &step(false), tolerance, &case);
            }
        }
    }
}

#[test]
fn other_architectures_have_the_same_bytes_with_recompute_and_at_any_number_of_threads() {
    for config in other_architectures() {
        let model = irregular(&Config { dropout: 0.2, ..config }, DType::F32);
        assert!(model.fast().is_none());
        let (tokens, targets) = batch(6, 7);
        let on = |threads: usize, recompute, taps: &[Layer]| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let step = Step { dropout: Some(9), recompute, norm_scales: true, ..Step::default() };
                let Losses { losses, z, norm_scales } = model.losses(&tokens, &targets, taps, step).unwrap();
                let NormScales { ln1, ln2, ln_final } = norm_scales.unwrap();
                let sum = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap();
                let total = z.iter().fold((sum(&losses) + sum(&ln_final)).unwrap(), |t, z| (t + sum(z)).unwrap());
                let store = ops::backward(&total).unwrap();
                let means = Tensor::new([ln1, ln2].concat(), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
                let gradients = model.parameters.iter().map(|(name, var)| {
                    (name.clone(), store.get(var).unwrap_or_else(|| panic!("no gradient for {name}")).clone())
                });
                bytes(
                    [("losses".to_owned(), losses), ("means".to_owned(), means)].into_iter().chain(gradients).collect(),
                )
            })
        };
        for taps in [[].as_slice(), &[Layer(1)]] {
            let kept = on(1, false, taps);
            for threads in [1, 2, 4] {
                assert_eq!(kept, on(threads, false, taps));
                assert_eq!(kept, on(threads, true, taps));
            }
        }
    }
}

#[test]
fn the_fast_pass_has_the_same_bytes_with_recompute_and_at_any_number_of_threads() {
    for (dropout, norm_scales) in [(0.2, true), (0., false)] {
        let model = irregular(&Config { dropout, ..tiny() }, DType::F32);
        let on = |threads: usize, recompute| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bytes(step(&model, true, recompute, norm_scales)))
        };
        let one = on(1, false);
        assert_eq!(one, on(2, false));
        assert_eq!(one, on(4, false));
        assert_eq!(one, on(2, true));
    }
}

/// Splitting a batch changes the order of the sums, so gradients agree to rounding.
#[test]
fn gradients_of_a_batch_are_the_sums_over_its_parts() {
    for config in [gpt2_variants(), other_architectures()].concat() {
        let model = irregular(&config, DType::F64);
        let (tokens, targets) = batch(12, 7);
        let gradients = |first: usize, count: usize| -> Vec<Tensor> {
            let part = |x: &Tensor| x.narrow(0, first, count).unwrap();
            let losses = model.losses(&part(&tokens), &part(&targets), &[], Step::default()).unwrap().losses;
            let store = ops::backward(&losses.sum_all().unwrap()).unwrap();
            model.parameters.iter().map(|(_, var)| store.get(var).unwrap().detach()).collect()
        };
        let whole = gradients(0, 12);
        for parts in [vec![6, 6], vec![4, 4, 4], vec![1, 5, 6]] {
            let mut first = 0;
            let mut sums: Vec<Tensor> = Vec::new();
            for count in parts {
                let part = gradients(first, count);
                first += count;
                if sums.is_empty() {
                    sums = part;
                } else {
                    sums.iter_mut().zip(&part).for_each(|(sum, part)| ops::add_to(sum, part).unwrap());
                }
            }
            for (((name, _), sum), whole) in model.parameters.iter().zip(&sums).zip(&whole) {
                let away = (sum - whole).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                assert!(away < 1e-11, "{name}: {away}");
            }
        }
    }
}

#[test]
fn a_second_backward_pass_gives_the_same_gradients() {
    let model = irregular(&tiny(), DType::F32);
    let (tokens, targets) = batch(3, 5);
    let losses = model.losses(&tokens, &targets, &[], Step::default()).unwrap().losses;
    let gradient = || {
        let store = ops::backward(&losses.sum_all().unwrap()).unwrap();
        store.get(&model.parameters[0].1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(gradient(), gradient());
    let logits = model.forward(&tokens, &mut NoHook).unwrap();
    let losses = ops::token_losses(&logits.reshape((15, 11)).unwrap(), &targets.flatten_all().unwrap()).unwrap();
    let store = ops::backward(&losses.sum_all().unwrap()).unwrap();
    let other = store.get(&model.parameters[0].1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (a, b) in gradient().iter().zip(other) {
        assert!((a - b).abs() < 1e-5);
    }
}
