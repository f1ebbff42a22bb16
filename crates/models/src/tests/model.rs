//! The composed forward pass: its sites, its norms, its gradients.

use candle_core::{DType, Device, Tensor};
use hooks::{HookedModel, Layer, NoHook, Point, Site};

use super::{Probe, distance, gpt2_variants, irregular, model, tokens};
use crate::config::tests::tiny;
use crate::{Architecture, Config, Decoder, FixedScales, NormPath};

/// As in arXiv 2507.02559, where queries and keys lose their norm first.
#[test]
fn values_do_not_change_when_only_queries_and_keys_have_a_fixed_scale() {
    let mut model = irregular(&tiny(), DType::F32);
    let seen = |model: &Decoder| {
        let mut probe = Probe::default();
        model.forward(&tokens(), &mut probe).unwrap();
        probe.seen
    };
    let free = seen(&model);
    let mut fixed = FixedScales::default();
    fixed.set(NormPath::QueriesKeys(0), Some(0.3));
    model.set_fixed_scales(fixed.clone()).unwrap();
    let now = seen(&model);
    assert!(distance(&free["blocks.0.attn.hook_v"], &now["blocks.0.attn.hook_v"]) < 1e-6);
    assert!(distance(&free["blocks.0.attn.hook_q"], &now["blocks.0.attn.hook_q"]) > 1e-3);
    assert!(distance(&free["blocks.0.attn.hook_k"], &now["blocks.0.attn.hook_k"]) > 1e-3);
    fixed.set(NormPath::Mlp(1), Some(-1.));
    assert!(model.set_fixed_scales(fixed).unwrap_err().to_string().contains("mlp1"));
    let many = FixedScales { ln2: vec![None; 3], ln_final: Some(1.), ..FixedScales::default() };
    assert!(model.set_fixed_scales(many).unwrap_err().to_string().contains("3 norms"));
}

/// Fixed norms, folded norms, and an exported checkpoint with a large epsilon.
#[test]
fn fixed_norms_folded_or_exported_give_the_same_model() {
    let fixed = FixedScales {
        ln1_qk: vec![Some(0.7), Some(2.4)],
        ln1_v: vec![Some(0.7), Some(2.4)],
        ln2: vec![Some(1.7), Some(0.9)],
        ln_final: Some(3.1),
    };
    let config = Config { architecture: Architecture { fixed, ..tiny().architecture }, ..tiny() };
    let model = irregular(&config, DType::F32);
    let logits = model.forward(&tokens(), &mut NoHook).unwrap();
    let transforms = [crate::Transform::FoldNorms, crate::Transform::CentreWriting];
    let folded = model.transformed(&transforms).unwrap();
    assert_eq!(folded.config.architecture.fixed, FixedScales::all(2, 1.));
    assert!(distance(&logits, &folded.forward(&tokens(), &mut NoHook).unwrap()) < 1e-3);
    let folder = tempfile::tempdir().unwrap();
    crate::export(folder.path(), &model, crate::Family::Gpt2).unwrap();
    let (again, _) = crate::open(folder.path(), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(again.config.architecture.fixed, FixedScales::all(2, 1e6));
    assert!(distance(&logits, &again.forward(&tokens(), &mut NoHook).unwrap()) < 1e-3);
    // with the epsilon itself, as PyTorch computes it
    let weights = again.weights();
    let plain = Config { norm_eps: 1e12, architecture: Architecture::default(), ..config.clone() };
    let plain = Decoder::new(&plain, weights, &Device::Cpu).unwrap();
    assert!(distance(&logits, &plain.forward(&tokens(), &mut NoHook).unwrap()) < 1e-3);
    let mut some = model.clone();
    some.set_fixed_scales(FixedScales { ln_final: None, ..config.architecture.fixed }).unwrap();
    let refused = crate::export(folder.path(), &some, crate::Family::Gpt2).unwrap_err().to_string();
    assert!(refused.contains("others are not"), "{refused}");
}

#[test]
fn every_site_is_visited_once_in_reading_order_without_changing_the_logits() {
    for config in gpt2_variants() {
        let model = model(&config);
        let mut probe = Probe::default();
        let seen = model.forward(&tokens(), &mut probe).unwrap();
        assert_eq!(probe.order, model.sites());
        assert!(distance(&seen, &model.forward(&tokens(), &mut NoHook).unwrap()) < 1e-6);
    }
}

#[test]
fn the_residual_stream_is_the_sum_of_its_writes() {
    let mut probe = Probe::default();
    model(&tiny()).forward(&tokens(), &mut probe).unwrap();
    let at = |name: &str| &probe.seen[name];
    let mut sum = (at("hook_embed") + at("hook_pos_embed")).unwrap();
    for layer in 0..2 {
        sum = (sum + at(&format!("blocks.{layer}.hook_attn_out"))).unwrap();
        assert!(distance(&sum, at(&format!("blocks.{layer}.hook_resid_mid"))) < 1e-6);
        sum = (sum + at(&format!("blocks.{layer}.hook_mlp_out"))).unwrap();
        assert!(distance(&sum, at(&format!("blocks.{layer}.hook_resid_post"))) < 1e-6);
    }
    assert_eq!(at("blocks.1.attn.hook_pattern").dims(), [2, 2, 4, 4]);
    assert_eq!(at("blocks.1.attn.hook_z").dims(), [2, 4, 2, 4]);
    assert_eq!(at("blocks.0.ln1.hook_scale").dims(), [2, 4, 1]);
}

#[test]
fn a_replaced_site_changes_later_sites_only() {
    let model = model(&tiny());
    let site = Site::Block(Layer(1), Point::Z);
    let zeros = Tensor::zeros((2, 4, 2, 4), DType::F32, &Device::Cpu).unwrap();
    let mut clean = Probe::default();
    let logits = model.forward(&tokens(), &mut clean).unwrap();
    let mut patched = Probe { replace: Some((site, zeros)), ..Probe::default() };
    let other = model.forward(&tokens(), &mut patched).unwrap();
    assert!(distance(&logits, &other) > 1e-6);
    for (name, tensor) in &clean.seen {
        let before =
            patched.order.iter().position(|s| s.to_string() == *name) <= patched.order.iter().position(|s| *s == site);
        if before {
            assert_eq!(distance(tensor, &patched.seen[name]), 0., "{name}");
        }
    }
    let wrong = Tensor::zeros((2, 4, 8), DType::F32, &Device::Cpu).unwrap();
    let mut patched = Probe { replace: Some((site, wrong)), ..Probe::default() };
    assert!(model.forward(&tokens(), &mut patched).unwrap_err().to_string().contains("blocks.1.attn.hook_z"));
}

#[test]
fn later_tokens_do_not_reach_earlier_logits() {
    let model = model(&tiny());
    let other = Tensor::new(&[[1u32, 5, 3, 9], [2, 2, 0, 1]], &Device::Cpu).unwrap();
    let (a, b) = (model.forward(&tokens(), &mut NoHook).unwrap(), model.forward(&other, &mut NoHook).unwrap());
    assert_eq!(distance(&a.narrow(1, 0, 3).unwrap(), &b.narrow(1, 0, 3).unwrap()), 0.);
    assert!(distance(&a, &b) > 0.);
}

#[test]
fn gradients_reach_every_weight() {
    for config in gpt2_variants() {
        let model = model(&config);
        let loss = model.forward(&tokens(), &mut NoHook).unwrap().sqr().unwrap().sum_all().unwrap();
        let grads = ops::backward(&loss).unwrap();
        for (name, var) in model.parameters() {
            assert!(grads.get(var).is_some(), "{name}");
        }
    }
}

#[test]
fn a_sequence_that_is_too_long_is_rejected() {
    let tokens = Tensor::zeros((1, 8), DType::U32, &Device::Cpu).unwrap();
    let error = model(&tiny()).forward(&tokens, &mut NoHook).unwrap_err().to_string();
    assert!(error.contains("8 tokens") && error.contains("7 positions"), "{error}");
}
