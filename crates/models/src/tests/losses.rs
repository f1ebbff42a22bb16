//! Options and errors of training steps.

use candle_core::{DType, Device, Tensor};
use hooks::{End, Layer, NoHook, Start};

use super::{batch, distance, irregular, model, other_architectures};
use crate::config::tests::tiny;
use crate::dropout::DropoutMasks;
use crate::{Config, Decoder, Losses, Step};

#[test]
fn chosen_positions_equal_a_model_without_the_skipped_positions() {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-6)] {
        let model = irregular(&Config { n_positions: 9, ..tiny() }, dtype);
        let (tokens, targets) = batch(6, 5);
        let left_out = [0, 1, 4, 6, 8];
        let positions: Vec<u32> = left_out.iter().copied().cycle().take(30).collect();
        let step = Step { positions: Some(&positions), ..Step::default() };
        let sum = |losses: &Losses| {
            losses.losses.sum_all().unwrap().to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap()
        };
        let losses = model.losses(&tokens, &targets, &[], step).unwrap();
        let ours = sum(&losses);
        let short = model.at_positions(&left_out).unwrap();
        assert_eq!(short.config().n_positions, 5);
        let theirs = sum(&short.losses(&tokens, &targets, &[], Step::default()).unwrap());
        assert!((ours - theirs).abs() < tolerance * ours, "{ours} {theirs}");
        let plain = sum(&model.losses(&tokens, &targets, &[], Step::default()).unwrap());
        assert!((ours - plain).abs() > 1e-3, "the positions have no effect");
        // the composed pass has the same gradients
        let composed = model.embed(&tokens, Some(&positions), &mut DropoutMasks::none(), &mut NoHook).unwrap();
        let end = |x: &Tensor| {
            let mut masks = DropoutMasks::none();
            let logits =
                model.forward_composed(Start::Resid(Layer(0), x), End::Logits, &mut masks, &mut NoHook).unwrap();
            let logits = logits.reshape((30, model.config.d_vocab)).unwrap();
            let counted: Vec<u32> = (0..30u32).filter(|row| row % 3 != 0).collect();
            let counted = Tensor::new(counted, &Device::Cpu).unwrap();
            ops::token_losses(&logits, &targets.flatten_all().unwrap())
                .unwrap()
                .index_select(&counted, 0)
                .unwrap()
                .sum_all()
                .unwrap()
        };
        let (a, b) = (ops::backward(&losses.losses.sum_all().unwrap()), ops::backward(&end(&composed)));
        let (a, b) = (a.unwrap(), b.unwrap());
        for (name, var) in &model.parameters {
            let of = |store: &candle_core::backprop::GradStore| {
                store.get(var).unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap()
            };
            let difference = (of(&a) - of(&b)).unwrap().abs().unwrap().max_all().unwrap();
            assert!(difference.to_scalar::<f64>().unwrap() < tolerance * 100., "{name}");
        }
        for (wrong, word) in [(vec![0u32; 7], "7 positions"), (vec![9u32; 30], "position 9")] {
            let step = Step { positions: Some(&wrong), ..Step::default() };
            let refused = model.losses(&tokens, &targets, &[], step).err().unwrap().to_string();
            assert!(refused.contains(word), "{refused}");
        }
    }
}

#[test]
fn a_model_made_from_anothers_weights_trains_independently() {
    let model = irregular(&tiny(), DType::F32);
    let other = Decoder::new(model.config(), model.weights(), &Device::Cpu).unwrap();
    let (var, same) = (&model.parameters[0].1, other.parameters[0].1.as_tensor());
    let before = same.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let step = ops::AdamWStep { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0., t: 1, gradient_scale: 1. };
    let zeros = || var.zeros_like().unwrap().detach();
    let (g, m, v) = (var.ones_like().unwrap().detach(), zeros(), zeros());
    ops::adamw(&[ops::Update { w: var.as_tensor(), g: &g, m: &m, v: &v, step }]).unwrap();
    assert_ne!(var.as_tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap(), before);
    assert_eq!(same.flatten_all().unwrap().to_vec1::<f32>().unwrap(), before);
}

#[test]
fn invalid_targets_tokens_and_blocks_are_rejected() {
    let model = irregular(&tiny(), DType::F32);
    let (tokens, targets) = batch(2, 3);
    let wrong = |tokens: &Tensor, targets: &Tensor, taps: &[Layer]| {
        model.losses(tokens, targets, taps, Step::default()).unwrap_err().to_string()
    };
    let eleven = Tensor::full(11u32, (2, 3), &Device::Cpu).unwrap();
    assert!(wrong(&tokens, &eleven, &[]).contains("target 11"));
    assert!(wrong(&eleven, &targets, &[]).contains("token 11"));
    assert!(wrong(&tokens, &targets, &[Layer(2)]).contains("block 2"));
    assert!(wrong(&tokens, &batch(1, 3).1, &[]).contains("3 targets"));
    assert!(wrong(&tokens, &targets, &[Layer(1), Layer(0), Layer(1)]).contains("twice"));
    let (nothing, none) = batch(2, 0);
    assert!(wrong(&nothing, &none, &[]).contains("no losses"));
}

#[test]
fn frozen_weights_get_no_gradient_from_losses() {
    for config in [vec![tiny()], other_architectures()].concat() {
        let model = irregular(&config, DType::F32);
        let (tokens, targets) = batch(2, 3);
        let loss = |model: &Decoder| {
            let losses = model.losses(&tokens, &targets, &[], Step::default()).unwrap().losses;
            ops::backward(&losses.sum_all().unwrap()).unwrap()
        };
        let (free, frozen) = (loss(&model), loss(&model.frozen()));
        assert!(model.parameters.iter().all(|(_, var)| free.get(var).is_some()));
        assert!(model.parameters.iter().all(|(_, var)| frozen.get(var).is_none()));
    }
}

#[test]
fn dropout_is_a_function_of_its_key() {
    let model = model(&Config { dropout: 0.5, ..tiny() });
    let (tokens, targets) = batch(2, 4);
    let run = |key| {
        let step = Step { dropout: Some(key), ..Step::default() };
        model.losses(&tokens, &targets, &[], step).unwrap().losses
    };
    assert_eq!(distance(&run(1), &run(1)), 0.);
    assert!(distance(&run(1), &run(2)) > 0.);
}
