//! Identities that hold in every model, checked on small random ones.

use candle_core::{DType, Device, Tensor, Var};
use hooks::{HookedModel, Layer, NoHook, Point, Site};
use models::{
    Activation, Architecture, Biases, Config, Decoder, Initialisation, NormKind, NormPlace, Positions, QkNorm, Rotary,
    Scaling,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::*;

fn gpt2() -> Config {
    Config {
        n_layers: 3,
        n_heads: 4,
        d_model: 16,
        d_mlp: 20,
        d_vocab: 23,
        n_positions: 12,
        initialisation: Initialisation::UniformFanIn,
        ..Config::gpt2_small()
    }
}

/// GPT-2; grouped heads with rotary positions and windows; norms after attention and MLP; parallel blocks.
fn configs() -> Vec<Config> {
    let rotary = Positions::Rotary(Rotary { rotary_dim: 4, base: 100., scaling: Scaling::None, interleaved: false });
    let llama = Architecture {
        n_key_value_heads: Some(2),
        d_head: Some(6),
        norm: NormKind::Rms,
        positions: rotary.clone(),
        gated: true,
        biases: Some(Biases::all(false)),
        windows: vec![None, Some(3), None],
        ..Architecture::default()
    };
    let olmo2 =
        Architecture { norm_place: NormPlace::After, qk_norm: QkNorm::Whole, windows: Vec::new(), ..llama.clone() };
    let neox = Architecture { positions: rotary, parallel: true, ..Architecture::default() };
    let silu = Config { activation: Activation::Silu, tied: false, ..gpt2() };
    vec![
        gpt2(),
        Config { architecture: llama, ..silu.clone() },
        Config { architecture: olmo2, ..silu },
        Config { architecture: neox, ..gpt2() },
    ]
}

fn model(config: &Config) -> Decoder {
    let mut rng = ChaCha12Rng::seed_from_u64(5);
    let fresh = Decoder::fresh(config, &mut rng, &Device::Cpu).unwrap();
    // noise on every weight, so that gains and biases matter too
    let jitter = |x: &Tensor| {
        let noise: Vec<f64> = (0..x.elem_count()).map(|_| rng.random_range(-0.3..0.3)).collect();
        (x.to_dtype(DType::F64).unwrap() + Tensor::from_vec(noise, x.dims(), &Device::Cpu).unwrap()).unwrap()
    };
    let mut jitter = jitter;
    let named = fresh.weights().into_iter().map(|(name, x)| (name, jitter(&x))).collect();
    Decoder::new(config, named, &Device::Cpu).unwrap()
}

/// Two batches of three sequences of 7 tokens that differ from position 4 on.
fn runs(model: &Decoder) -> [Tensor; 2] {
    let v = model.config().d_vocab as u32;
    let tokens = |shift: u32| {
        let token = |b: u32, t: u32| (3 * b + 5 * t + if t >= 4 { shift * (t + b) } else { 0 }) % v;
        let rows: Vec<u32> = (0..3).flat_map(|b| (0..7).map(move |t| token(b, t))).collect();
        Tensor::from_vec(rows, (3, 7), &Device::Cpu).unwrap()
    };
    [tokens(0), tokens(2)]
}

fn metric() -> Metric<'static> {
    Metric::logit_difference(&[1, 2, 3], &[4, 5, 6])
}

fn flat(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    flat(a).iter().zip(flat(b)).map(|(a, b)| (a - b).abs()).filter(|d| !d.is_nan()).fold(0., f64::max)
}

fn close(a: &[f64], b: &[f64]) {
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < 1e-9, "{a} {b}");
    }
}

const ALL: [Point; 8] =
    [Point::ResidPre, Point::AttnOut, Point::MlpOut, Point::ResidPost, Point::Z, Point::Q, Point::V, Point::Pattern];

fn all_sites(model: &Decoder) -> Vec<Site> {
    let layers = (0..model.n_layers()).map(Layer);
    layers.flat_map(|layer| ALL.map(|point| Site::Block(layer, point))).collect()
}

fn both(model: &Decoder) -> (Run, Run) {
    let [base, source] = runs(model);
    let sites = all_sites(model);
    (Run::new(model, &base, &sites).unwrap(), Run::new(model, &source, &sites).unwrap())
}

#[test]
fn a_pass_that_resumes_is_the_same_pass() {
    for config in configs() {
        let model = model(&config);
        let [base, _] = runs(&model);
        let run = Run::new(&model, &base, &[]).unwrap();
        for layer in 0..=2 {
            for from in [1, 4, 6] {
                let resumed = run.resumed(&model, Layer(layer), from).unwrap();
                let whole = run.logits().narrow(1, from, 7 - from).unwrap();
                assert!(distance(&resumed, &whole) < 1e-10, "{layer} {from}");
            }
        }
    }
}

#[test]
fn patching_a_run_into_itself_changes_nothing_and_patching_all_of_it_gives_the_source() {
    for config in configs() {
        let model = model(&config);
        let (base, source) = both(&model);
        let patches = each_position(3, Point::ResidPre, 7);
        let same = activation_patching(&model, &base, &base, &patches, &metric()).unwrap();
        for patched in &same.patched {
            assert_eq!(patched, &same.base);
        }
        for layer in (0..3).map(Layer) {
            let all = Patch { layer, point: Point::ResidPre, position: None, head: None };
            let other = activation_patching(&model, &base, &source, &[all], &metric()).unwrap();
            close(&other.patched[0], &other.source);
            assert!((other.recovered()[0] - 1.).abs() < 1e-9);
        }
    }
}

#[test]
fn a_sweep_gives_the_numbers_of_whole_passes() {
    for config in configs() {
        let model = model(&config);
        let (base, source) = both(&model);
        let [tokens, _] = runs(&model);
        let mut patches = Vec::new();
        for point in ALL {
            let heads = if point == Point::V { config.n_key_value_heads() } else { config.n_heads };
            patches.extend(each_position(3, point, 7));
            if matches!(point, Point::Z | Point::Q | Point::V | Point::Pattern) {
                patches.extend(each_head(3, point, heads));
                patches.extend(each_head_and_position(3, point, heads, 7));
            }
        }
        let effects = activation_patching(&model, &base, &source, &patches, &metric()).unwrap();
        for (patch, seen) in patches.iter().zip(&effects.patched) {
            let by = source.at(patch.site()).unwrap();
            let edit = Edit::replace(patch.site(), by);
            let edit = match (patch.head, patch.position) {
                (Some(head), None) => edit.in_head(head),
                (None, Some(position)) => edit.at_position(position),
                (None, None) => edit,
                (Some(head), Some(position)) => {
                    let by = by.clone();
                    let (position_axis, head_axis) = (patch.site().position_axis(), patch.site().head_axis().unwrap());
                    Edit::new(patch.site(), move |x| {
                        crate::edit::replace_slice(
                            x,
                            &crate::edit::replace_slice(x, &by, position_axis, position)?,
                            head_axis,
                            head,
                        )
                    })
                }
            };
            let logits = run_with_edits(&model, &tokens, vec![edit]).unwrap();
            close(seen, &crate::run::numbers(&metric().of(&logits).unwrap()).unwrap());
        }
    }
}

#[test]
fn a_head_of_the_residual_stream_is_an_error() {
    let model = Decoder::fresh(&gpt2(), &mut ChaCha12Rng::seed_from_u64(1), &Device::Cpu).unwrap();
    let tokens = Tensor::new(&[[1u32, 2, 3]], &Device::Cpu).unwrap();
    let site = Site::Block(Layer(1), Point::ResidPre);
    let refused = run_with_edits(&model, &tokens, vec![Edit::zero(site).in_head(0)]).unwrap_err().to_string();
    assert!(refused.contains("blocks.1.hook_resid_pre has no heads"), "{refused}");
}

#[test]
fn gradients_are_finite_differences() {
    for config in configs() {
        let model = model(&config).frozen();
        let [tokens, _] = runs(&model);
        let sites = [
            Site::Block(Layer(0), Point::ResidPre),
            Site::Block(Layer(1), Point::Z),
            Site::Block(Layer(2), Point::MlpOut),
        ];
        let slopes = gradients(&model, &tokens, &sites, &metric()).unwrap();
        for site in sites {
            let slope = &slopes[&site];
            let noise: Vec<f64> = (0..slope.elem_count()).map(|i| ((i * 37 % 11) as f64 - 5.) / 5.).collect();
            let direction = Tensor::from_vec(noise, slope.dims(), &Device::Cpu).unwrap();
            let at = |step: f64| {
                let logits = run_with_edits(&model, &tokens, vec![Edit::add(site, &direction, step)]).unwrap();
                metric().of(&logits).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            let product = (slope * &direction).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
            assert!((difference - product).abs() < 1e-6 * (1. + product.abs()), "{site}: {difference} {product}");
        }
    }
}

#[test]
fn attribution_is_the_slope_of_patching() {
    for config in configs() {
        let model = model(&config).frozen();
        let [tokens, other] = runs(&model);
        let site = Site::Block(Layer(1), Point::ResidPre);
        let keep = capture::Keep::default();
        let source = capture::capture(&model, &other, &[site], &keep).unwrap();
        let effect = attribution_patching(&model, &tokens, &source, &[site], &metric()).unwrap();
        assert_eq!(effect[&site].dims(), [3, 7]);
        // a small step towards the source changes the metric by that share of the effect
        let base = capture::capture(&model, &tokens, &[site], &keep).unwrap();
        let step = (source.get(site).unwrap() - base.get(site).unwrap()).unwrap();
        let at = |share: f64| {
            let logits = run_with_edits(&model, &tokens, vec![Edit::add(site, &step, share)]).unwrap();
            flat(&metric().of(&logits).unwrap())
        };
        let (more, less) = (at(1e-5), at(-1e-5));
        let slopes: Vec<f64> = more.iter().zip(less).map(|(a, b)| (a - b) / 2e-5).collect();
        for (slope, sum) in slopes.iter().zip(flat(&effect[&site].sum(1).unwrap())) {
            assert!((slope - sum).abs() < 1e-5 * (1. + sum.abs()), "{slope} {sum}");
        }
    }
}

#[test]
fn a_frozen_model_has_the_same_gradients_of_activations_and_none_of_weights() {
    let model = model(&gpt2());
    let [tokens, _] = runs(&model);
    let site = Site::Block(Layer(0), Point::ResidPre);
    let slopes = |model: &Decoder| gradients(model, &tokens, &[site], &metric()).unwrap()[&site].clone();
    assert!(distance(&slopes(&model), &slopes(&model.frozen())) < 1e-12);
    let loss = model.frozen().forward(&tokens, &mut Watch).unwrap().sum_all().unwrap();
    let store = ops::backward(&loss).unwrap();
    assert!(model.parameters().iter().all(|(_, var): &(String, Var)| store.get(var).is_none()));
}

/// Wants a site and changes nothing, so that the composed pass runs.
struct Watch;

impl hooks::Hook for Watch {
    fn wants(&self, site: Site) -> bool {
        site == Site::Embed
    }

    fn visit(&mut self, _: Site, x: Tensor) -> candle_core::Result<Tensor> {
        Ok(x)
    }
}

#[test]
fn direct_attributions_sum_to_the_logits() {
    for config in configs() {
        let model = model(&config);
        let [tokens, _] = runs(&model);
        let mut sites = vec![Site::Embed, Site::FinalScale];
        if model.sites().contains(&Site::PosEmbed) {
            sites.push(Site::PosEmbed);
        }
        for layer in (0..3).map(Layer) {
            sites.extend([Point::AttnOut, Point::MlpOut].map(|point| Site::Block(layer, point)));
        }
        let run = Run::new(&model, &tokens, &sites).unwrap();
        let scale = run.at(Site::FinalScale).unwrap();
        let parts = sites.iter().filter(|site| **site != Site::FinalScale);
        let parts: Vec<Tensor> =
            parts.map(|site| direct_logit_attribution(&model, run.at(*site).unwrap(), scale).unwrap()).collect();
        let mut sum = parts[0].clone();
        for part in &parts[1..] {
            sum = (sum + part).unwrap();
        }
        // what is left is the bias of the norm, the same everywhere
        let rest = (run.logits() - sum).unwrap();
        let first = rest.narrow(1, 0, 1).unwrap().broadcast_as(rest.shape()).unwrap();
        assert!(distance(&rest, &first) < 1e-9);
    }
}

#[test]
fn the_direct_effect_of_a_last_component_is_that_of_removing_it_with_a_frozen_norm() {
    let model = model(&gpt2());
    let [tokens, _] = runs(&model);
    let site = Site::Block(Layer(2), Point::MlpOut);
    let run = Run::new(&model, &tokens, &[site, Site::FinalScale]).unwrap();
    let scale = run.at(Site::FinalScale).unwrap();
    let attribution = direct_logit_attribution(&model, run.at(site).unwrap(), scale).unwrap();
    let edits = vec![Edit::zero(site), Edit::replace(Site::FinalScale, scale)];
    let without = run_with_edits(&model, &tokens, edits).unwrap();
    assert!(distance(&(run.logits() - without).unwrap(), &attribution) < 1e-9);
}

#[test]
fn the_lens_on_the_last_stream_is_the_model() {
    let model = model(&gpt2());
    let [tokens, _] = runs(&model);
    let site = Site::Block(Layer(2), Point::ResidPost);
    let run = Run::new(&model, &tokens, &[site]).unwrap();
    assert!(distance(&logit_lens(&model, run.at(site).unwrap(), true).unwrap(), run.logits()) < 1e-12);
    assert!(distance(&logit_lens(&model, run.at(site).unwrap(), false).unwrap(), run.logits()) > 1e-3);
}

#[test]
fn a_path_to_the_last_stream_is_a_patch_and_a_path_to_an_earlier_block_has_no_effect() {
    let model = model(&gpt2());
    let (base, source) = both(&model);
    let [tokens, _] = runs(&model);
    // from a head of the last block to the last stream, with MLPs that pass the change on: the whole effect
    let sender = Sender { layer: Layer(2), head: 1 };
    let stream = Receiver { site: Site::Block(Layer(2), Point::ResidPost), head: None };
    let path = path_patching(&model, &tokens, (&base, &source), &[sender], &[stream], false, &metric()).unwrap();
    let patch = Patch { layer: Layer(2), point: Point::Z, position: None, head: Some(1) };
    let effects = activation_patching(&model, &base, &source, &[patch], &metric()).unwrap();
    close(&path, &effects.patched[0]);
    // the queries of an earlier block do not see it
    let before = Receiver { site: Site::Block(Layer(1), Point::Q), head: Some(0) };
    let none = path_patching(&model, &tokens, (&base, &source), &[sender], &[before], false, &metric()).unwrap();
    close(&none, &effects.base);
    // an earlier head through a later query only: part of the effect
    let sender = Sender { layer: Layer(0), head: 2 };
    let query = Receiver { site: Site::Block(Layer(2), Point::Q), head: Some(3) };
    let some = path_patching(&model, &tokens, (&base, &source), &[sender], &[query], true, &metric()).unwrap();
    assert!(some.iter().zip(&effects.base).any(|(a, b)| (a - b).abs() > 1e-9));
}

#[test]
fn head_results_sum_to_the_attention_output() {
    let model = model(&gpt2());
    let [tokens, _] = runs(&model);
    let layer = Layer(1);
    let sites = [Site::Block(layer, Point::Result), Site::Block(layer, Point::AttnOut)];
    let run = Run::new(&model, &tokens, &sites).unwrap();
    let bias = &model.weights()["blocks.1.attn.b_O"];
    let sum = run.at(sites[0]).unwrap().sum(2).unwrap().broadcast_add(bias).unwrap();
    assert!(distance(&sum, run.at(sites[1]).unwrap()) < 1e-12);
}

#[test]
fn metrics_match_their_formulas() {
    let logits = Tensor::new(&[[[0f64, 0., 0.], [1., 2., 4.]]], &Device::Cpu).unwrap();
    let value = |metric: Metric<'_>| metric.of(&logits).unwrap().to_vec1::<f64>().unwrap()[0];
    assert_eq!(value(Metric::logit_difference(&[2], &[0])), 3.);
    let two = 1f64.exp() + 2f64.exp();
    assert!((value(Metric::restricted_loss(&[0], &[0, 1])) - (two.ln() - 1.)).abs() < 1e-12);
    let reference = Tensor::new(&[[1f64, 2., 4.]], &Device::Cpu).unwrap();
    assert!(value(Metric::divergence(&reference)).abs() < 1e-12);
    let other = Tensor::new(&[[4f64, 2., 1.]], &Device::Cpu).unwrap();
    assert!(value(Metric::divergence(&other)) > 0.1);
    assert!(Metric::logit_difference(&[9], &[0]).of(&logits).unwrap_err().to_string().contains("token 9"));
}

#[test]
fn invalid_patches_are_rejected() {
    let model = model(&gpt2());
    let (base, source) = both(&model);
    let check = |patch: Patch, expected: &str| {
        let error = activation_patching(&model, &base, &source, &[patch], &metric()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let valid = Patch { layer: Layer(0), point: Point::Z, position: None, head: None };
    check(Patch { head: Some(4), ..valid }, "no head 4 of 4");
    check(Patch { position: Some(7), ..valid }, "no position 7 of 7");
    check(Patch { point: Point::ResidPre, head: Some(0), ..valid }, "no head 0 of 0");
    check(Patch { layer: Layer(3), ..valid }, "blocks.3");
    check(Patch { point: Point::MlpPre, ..valid }, "hook_pre");
    let [tokens, _] = runs(&model);
    let missing = Edit::zero(Site::Block(Layer(7), Point::Z));
    assert!(run_with_edits(&model, &tokens, vec![missing]).unwrap_err().to_string().contains("blocks.7.attn.hook_z"));
    let _ = model.forward(&tokens, &mut NoHook).unwrap();
}

/// Label logits for tests: some columns of the vocabulary, `[batch, 4]`.
fn four(logits: &Tensor) -> candle_core::Result<Tensor> {
    logits.squeeze(1)?.contiguous()?.index_select(&Tensor::new(&[1u32, 5, 2, 9], logits.device())?, 1)
}

fn prompts(batch: usize, seq: usize, seed: u64) -> Tensor {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let ids: Vec<u32> = (0..batch * seq).map(|_| rng.random_range(0..23)).collect();
    Tensor::from_vec(ids, (batch, seq), &Device::Cpu).unwrap()
}

#[test]
fn direct_effects_of_all_nodes_add_up_to_the_logits() {
    for config in configs() {
        let model = model(&config);
        let run = run_nodes(&model, &prompts(3, 7, 1)).unwrap();
        let whole = model.forward(&prompts(3, 7, 1), &mut hooks::NoHook).unwrap().narrow(1, 6, 1).unwrap();
        assert!(
            distance(run.logits(), &whole) < 1e-9,
            "the pass of the last position alone gives the logits of the whole pass"
        );
        let effects = direct_effects(&model, &run, &four).unwrap();
        let parts = effects.nodes.iter().chain([&effects.rest, &effects.constant]);
        let sum = parts.fold(effects.rest.zeros_like().unwrap(), |sum, part| sum.broadcast_add(part).unwrap());
        let own = four(run.logits()).unwrap();
        assert!(distance(&sum, &own) < 1e-9, "{}", distance(&sum, &own));
        assert_eq!(effects.nodes.len(), Node::all(&model).len());
    }
}

#[test]
fn patching_nodes_is_editing_the_last_position() {
    for config in configs() {
        let model = model(&config);
        let (base, source) = (prompts(2, 7, 1), prompts(2, 5, 2)); // lengths differ
        let (run, other) = (run_nodes(&model, &base).unwrap(), run_nodes(&model, &source).unwrap());
        let writes = Writes::of(&other, 3).unwrap();
        let mut groups: Vec<Vec<Node>> = Node::all(&model).into_iter().map(|node| vec![node]).collect();
        groups.push(vec![Node::Mlp(Layer(2)), Node::Head(Layer(1), 3), Node::Head(Layer(1), 0)]);
        groups.push(Vec::new());
        let patched = patch_nodes(&model, &run, &writes, &groups, &four).unwrap();
        for (group, ours) in groups.iter().zip(&patched) {
            let edit = |node: &Node| {
                let (site, point) = match node {
                    Node::Head(layer, _) => (Site::Block(*layer, Point::Z), other.at(Site::Block(*layer, Point::Z))),
                    Node::Mlp(layer) => {
                        (Site::Block(*layer, Point::MlpOut), other.at(Site::Block(*layer, Point::MlpOut)))
                    }
                };
                // as long as the base, so that its last position is the source's last position
                let by = point.unwrap();
                let by = by.repeat(if by.rank() == 4 { vec![1, 7, 1, 1] } else { vec![1, 7, 1] }).unwrap();
                let head = node.head();
                Edit::new(site, move |x| {
                    let last = crate::edit::replace_slice(x, &by, 1, 6)?;
                    match head {
                        Some(head) => crate::edit::replace_slice(x, &last, 2, head),
                        None => Ok(last),
                    }
                })
            };
            let logits = run_with_edits(&model, &base, group.iter().map(edit).collect()).unwrap();
            let theirs = four(&logits.narrow(1, 6, 1).unwrap()).unwrap();
            assert!(distance(ours, &theirs) < 1e-9, "{group:?}: {}", distance(ours, &theirs));
        }
    }
}

#[test]
fn queries_of_all_senders_at_once_are_the_whole_query() {
    // with one sender alone, the path through the queries is what path patching with everything else frozen gives
    for config in configs() {
        let model = model(&config);
        let (base, source) = (prompts(2, 7, 1), prompts(2, 7, 2));
        let (run, other) = (run_nodes(&model, &base).unwrap(), run_nodes(&model, &source).unwrap());
        let writes = Writes::of(&other, 3).unwrap();
        let receivers = [Node::Head(Layer(2), 1), Node::Head(Layer(1), 2)];
        let senders = [Node::Head(Layer(0), 1), Node::Head(Layer(1), 0), Node::Mlp(Layer(0)), Node::Head(Layer(2), 0)];
        let ours = patch_queries(&model, &run, &writes, (&senders, &receivers), &four).unwrap();
        let own = four(run.logits()).unwrap();
        assert!(distance(&ours[3], &own) < 1e-12, "nothing reads what the last block's heads write");
        assert!(distance(&ours[0], &own) > 1e-6 && distance(&ours[2], &own) > 1e-6);
        let whole = patch_whole_queries(&model, &run, &writes, &receivers, &four).unwrap();
        let edit = |(layer, head): (usize, usize)| {
            let site = Site::Block(Layer(layer), Point::Q);
            let by = other.at(site).unwrap().repeat((1, 7, 1, 1)).unwrap();
            Edit::new(site, move |x| {
                let last = crate::edit::replace_slice(x, &by, 1, 6)?;
                crate::edit::replace_slice(x, &last, 2, head)
            })
        };
        let theirs = run_with_edits(&model, &base, [(2, 1), (1, 2)].map(edit).into_iter().collect()).unwrap();
        assert!(distance(&whole, &four(&theirs.narrow(1, 6, 1).unwrap()).unwrap()) < 1e-9);
    }
}

#[test]
fn one_senders_path_into_queries_agrees_with_path_patching_at_the_last_position() {
    // sources that differ in the last token alone differ at the last position alone, where both must agree
    for config in configs() {
        let model = model(&config);
        let base = prompts(2, 7, 1);
        let mut ids = base.to_vec2::<u32>().unwrap();
        ids.iter_mut().for_each(|row| row[6] = (row[6] + 1) % 23);
        let source = Tensor::new(ids, &Device::Cpu).unwrap();
        let (run, other) = (run_nodes(&model, &base).unwrap(), run_nodes(&model, &source).unwrap());
        let writes = Writes::of(&other, 3).unwrap();
        let receivers = [Node::Head(Layer(2), 1)];
        let ours =
            patch_queries(&model, &run, &writes, (&[Node::Head(Layer(0), 1)], &receivers), &four).unwrap().remove(0);
        let metric = Metric::new(1, |logits| four(logits)?.narrow(1, 2, 1)?.squeeze(1));
        let sender = [Sender { layer: Layer(0), head: 1 }];
        let receiver = [Receiver { site: Site::Block(Layer(2), Point::Q), head: Some(1) }];
        let points = [Point::Z, Point::AttnOut, Point::MlpOut];
        let sites: Vec<Site> = (0..3).flat_map(|layer| points.map(|point| Site::Block(Layer(layer), point))).collect();
        let [run, other] = [&base, &source].map(|tokens| Run::new(&model, tokens, &sites).unwrap());
        let theirs = path_patching(&model, &base, (&run, &other), &sender, &receiver, true, &metric).unwrap();
        for (row, theirs) in theirs.iter().enumerate() {
            let ours = ours.get(row).unwrap().get(2).unwrap().to_scalar::<f64>().unwrap();
            assert!((ours - theirs).abs() < 1e-9, "{ours} {theirs}");
        }
    }
}

#[test]
fn writes_of_other_prompts_must_match_the_batch() {
    let model = model(&gpt2());
    let run = run_nodes(&model, &prompts(2, 7, 1)).unwrap();
    let writes = Writes::of(&run, 3).unwrap();
    let few = writes.gather(&[0]).unwrap();
    let error = |source: &Writes| patch_nodes(&model, &run, source, &[vec![]], &four).unwrap_err().to_string();
    assert!(error(&few).contains("the source has 1 prompts and the base 2"));
    let again = Writes::cat(&[few, writes.gather(&[1]).unwrap()]).unwrap();
    let all: Vec<Vec<Node>> = vec![Node::all(&model)];
    let same = patch_nodes(&model, &run, &again, &all, &four).unwrap().remove(0);
    assert!(distance(&same, &four(run.logits()).unwrap()) < 1e-12);
    let twice = writes.gather(&[0, 0]).unwrap();
    let ways = [&twice, &twice.mean(2).unwrap()].map(|w| patch_nodes(&model, &run, w, &all, &four).unwrap().remove(0));
    assert!(distance(&ways[0], &ways[1]) < 1e-12, "the mean of two equal writes is the same write");
    let zeros = patch_nodes(&model, &run, &writes.zeros().unwrap(), &all, &four).unwrap().remove(0);
    assert!(distance(&zeros, &ways[0]) > 1e-3);
    assert!(patch_whole_queries(&model, &run, &writes, &[Node::Mlp(Layer(0))], &four).is_err());
    assert_eq!(Node::all(&model)[4].to_string(), "MLP0");
}
