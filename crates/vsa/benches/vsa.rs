//! Binding, bundling and clean-up at the sizes of arXiv 2509.25045: D = 4,096, 2,996 concepts.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::SeedableRng;
use vsa::{Bipolar, Codebook, Hrr, Memory, Tie, Vector};

const D: usize = 4096;

fn sample<V: Vector>(count: usize) -> Vec<V> {
    let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(1);
    (0..count).map(|_| V::random(D, &mut rng)).collect()
}

fn algebra(c: &mut Criterion) {
    let v: Vec<Bipolar> = sample(1000);
    let mut group = c.benchmark_group("bipolar");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("bind", |b| b.iter(|| v.iter().map(|x| x.bind(&v[0])).collect::<Vec<_>>()));
    group.bench_function("bundle", |b| b.iter(|| Bipolar::bundle(black_box(&v)).sign(Tie::Negative)));
    group.bench_function("permute", |b| b.iter(|| v.iter().map(|x| x.permute(77)).collect::<Vec<_>>()));
    group.finish();
    let v: Vec<Hrr> = sample(2);
    c.bench_function("hrr/bind", |b| b.iter(|| v[0].bind(black_box(&v[1]))));
}

fn clean_up(c: &mut Criterion) {
    let names: Vec<String> = (0..2996).map(|i| i.to_string()).collect();
    let book = Codebook::<Bipolar>::new(D, 101, names);
    let Ok(book) = book else { return };
    let (memory, queries) = (Memory::new(&book), sample::<Bipolar>(1000));
    let mut group = c.benchmark_group("clean-up");
    group.throughput(Throughput::Elements(1000)).sample_size(20);
    group.bench_function("nearest of 2,996, 1,000 queries", |b| b.iter(|| memory.nearest_all(black_box(&queries), 1)));
    group.finish();
}

criterion_group!(benches, algebra, clean_up);
criterion_main!(benches);
