//! Forward and backward of each operation, on the shapes of a small and of a middling model.
#![allow(missing_docs)]

use candle_core::{DType, Device, Result, Tensor, Var};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

type Run<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

fn filled(shape: &[usize]) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.) / 50.).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Times `run` alone and with its backward pass.
fn both(c: &mut Criterion, name: &str, shape: &str, rows: usize, inputs: &[Tensor], run: Run<'_>) -> Result<()> {
    let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(rows as u64)).sample_size(20);
    group.bench_function(BenchmarkId::new("forward", shape), |b| b.iter(|| run(inputs).unwrap()));
    group.bench_function(BenchmarkId::new("forward and backward", shape), |b| {
        b.iter(|| run(&tensors).unwrap().sum_all().unwrap().backward().unwrap());
    });
    group.finish();
    Ok(())
}

/// Times `run`, which goes forward only.
fn forward(c: &mut Criterion, name: &str, shape: &str, rows: usize, run: &dyn Fn() -> Result<Tensor>) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(rows as u64)).sample_size(20);
    group.bench_function(BenchmarkId::new("forward", shape), |b| b.iter(|| run().unwrap()));
    group.finish();
}

fn all(c: &mut Criterion) -> Result<()> {
    for (shape, batch, seq, d, heads, v) in
        [("64 x 17, d 64", 64, 17, 64, 4, 16), ("8 x 256, d 256", 8, 256, 256, 4, 8192)]
    {
        let rows = batch * seq;
        let x = filled(&[rows, d])?;
        let (gain, bias) = (filled(&[d])?, filled(&[d])?);
        let wide = filled(&[rows, 4 * d])?;
        let (w, b) = (filled(&[d, 4 * d])?, filled(&[4 * d])?);
        let map = [x.clone(), w.clone(), b.clone()];
        both(c, "linear", shape, rows, &map, &|t| ops::linear(&t[0], &t[1], Some(&t[2])))?;
        let transposed = [x.clone(), ops::transposed(&w)?, b.clone()];
        both(c, "linear_transposed", shape, rows, &transposed, &|t| ops::linear_transposed(&t[0], &t[1], Some(&t[2])))?;
        let gelu = ops::kernel::activation::Activation::GeluTanh;
        forward(c, "linear_activated", shape, rows, &|| ops::linear_activated(&x, &w, Some(&b), gelu));
        forward(c, "transposed", shape, d, &|| ops::transposed(&w));
        let norm = [x.clone(), gain.clone(), bias];
        both(c, "layer_norm", shape, rows, &norm, &|t| ops::layer_norm(&t[0], &t[1], Some(&t[2]), 1e-5))?;
        let fixed = ops::kernel::norm::Kind::Layer;
        both(c, "fixed_norm", shape, rows, &norm, &|t| ops::fixed_norm(fixed, &t[0], &t[1], Some(&t[2]), 0.6))?;
        both(c, "rms_norm", shape, rows, &[x.clone(), gain], &|t| ops::rms_norm(&t[0], &t[1], 1e-5))?;
        both(c, "gelu_tanh", shape, rows, std::slice::from_ref(&wide), &|t| ops::gelu_tanh(&t[0]))?;
        both(c, "gelu_erf", shape, rows, std::slice::from_ref(&wide), &|t| ops::gelu_erf(&t[0]))?;
        both(c, "silu_gate", shape, rows, &[wide.clone(), wide.clone()], &|t| ops::silu_gate(&t[0], &t[1]))?;
        both(c, "dropout", shape, rows, std::slice::from_ref(&x), &|t| ops::dropout(&t[0], 0.1, 1))?;
        let qkv = filled(&[batch, seq, 3 * heads, d / heads])?;
        both(c, "causal_attention", shape, rows, &[qkv], &|t| ops::causal_attention(&t[0], heads))?;
        let few = filled(&[batch, seq, heads + 2, d / heads])?;
        both(c, "causal_attention, one key head", shape, rows, &[few], &|t| ops::causal_attention(&t[0], 1))?;
        let q = filled(&[batch, heads, seq, d / heads])?;
        let scores = ops::attention_scores(&q, &q, None)?;
        both(c, "attention_scores", shape, rows, &[q.clone(), q.clone()], &|t| {
            ops::attention_scores(&t[0], &t[1], None)
        })?;
        both(c, "attention_pattern", shape, rows, std::slice::from_ref(&scores), &|t| ops::attention_pattern(&t[0]))?;
        let pattern = ops::attention_pattern(&scores)?;
        both(c, "mix_values", shape, rows, &[pattern, q], &|t| ops::mix_values(&t[0], &t[1]))?;
        let (last, past) = (filled(&[batch, 1, 3 * heads, d / heads])?, filled(&[1, seq, heads, d / heads])?);
        let past = [past.clone(), past];
        forward(c, "attention_with_kv_cache", shape, batch, &|| ops::attention_with_kv_cache(&last, &past, heads));
        let half: Vec<f64> = (0..d / heads / 2).map(|i| 0.5f64.powi(i as i32)).collect();
        let rotation = ops::Rotation::new(ops::Pairs::Halves, &half, 0..seq);
        both(c, "rotary", shape, rows, &[x.reshape((batch, seq, heads, d / heads))?], &|t| rotation.apply(&t[0]))?;
        let interleaved = ops::Rotation::new(ops::Pairs::Interleaved, &half[..half.len() / 2], 0..seq);
        both(
            c,
            "interleaved rotary over half of the entries",
            shape,
            rows,
            &[x.reshape((batch, seq, heads, d / heads))?],
            &|t| interleaved.apply(&t[0]),
        )?;
        let ids: Vec<u32> = (0..rows).map(|i| (i * 7 % v) as u32).collect();
        let ids = Tensor::new(ids, &Device::Cpu)?;
        both(c, "embedding", shape, rows, &[filled(&[v, d])?], &|t| ops::embedding(&ids, &t[0]))?;
        both(c, "token_losses", shape, rows, &[filled(&[rows, v])?], &|t| ops::token_losses(&t[0], &ids))?;
        both(c, "cross_entropy", shape, rows, &[filled(&[rows, v])?], &|t| ops::cross_entropy(&t[0], &ids))?;
    }
    let count = 1 << 20;
    let [w, g, m, s] = [0; 4].map(|_| Tensor::ones(count, DType::F32, &Device::Cpu));
    let (w, g, m, s) = (w?, g?, m?, s?);
    let step = ops::AdamWStep { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1, t: 9, gradient_scale: 1. };
    let mut group = c.benchmark_group("adamw");
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function("a million", |b| {
        b.iter(|| ops::adamw(&[ops::Update { w: &w, g: &g, m: &m, v: &s, step }]).unwrap())
    });
    group.bench_function("a million: sum of squares", |b| b.iter(|| ops::sum_of_squares(&g).unwrap()));
    let mut sum = m.clone();
    group.bench_function("a million: accumulation", |b| b.iter(|| ops::add_to(&mut sum, &g).unwrap()));
    group.finish();
    Ok(())
}

fn benches(c: &mut Criterion) {
    all(c).unwrap();
}

criterion_group!(group, benches);
criterion_main!(group);
