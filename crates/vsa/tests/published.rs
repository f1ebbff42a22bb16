//! Published test vectors (torchhd), and published facts about bundles, noise and tie-breaking (arXiv 2509.25045).

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use vsa::{Bipolar, Codebook, Counts, Error, Hrr, Map, Memory, Tie, Vector, constant_accuracy, member_cosine, noise};

fn rng(seed: u64) -> ChaCha12Rng {
    ChaCha12Rng::seed_from_u64(seed)
}

fn sample<V: Vector>(count: usize, dimension: usize, seed: u64) -> Vec<V> {
    let mut rng = rng(seed);
    (0..count).map(|_| V::random(dimension, &mut rng)).collect()
}

fn close(value: f64, expected: f64, tolerance: f64) {
    assert!((value - expected).abs() <= tolerance, "{value}, expected {expected} ± {tolerance}");
}

#[test]
fn bundles_and_products_of_torchhd() {
    let x = Bipolar::from_signs(&[1, 1, -1, -1, 1, 1, 1, 1, -1, -1]);
    let y = Bipolar::from_signs(&[1, 1, -1, -1, -1, -1, -1, -1, 1, -1]);
    assert_eq!(Bipolar::bundle([&x, &y]).values(), [2, 2, -2, -2, 0, 0, 0, 0, 0, -2]);
    let x = Bipolar::from_signs(&[1, 1, -1, 1, -1, 1, -1, 1, -1, 1]);
    let y = Bipolar::from_signs(&[1, -1, -1, 1, 1, -1, 1, -1, 1, -1]);
    assert_eq!((x.dot(&x), x.dot(&y)), (10, -4));
    assert_eq!(x.bind(&x), Bipolar::identity(10));
    assert_eq!(x.bind(&y).bind(&y), x);
    assert_eq!(x.bind(&y).signs(), [1, -1, 1, 1, -1, -1, -1, -1, -1, -1]);
}

/// Key and value pairs in one unnormalised sum: a key retrieves its value until the pair is removed.
fn hash_table<V: Vector>(similar: impl Fn(&[(V, V)], &V, &V) -> f64, dimension: usize) {
    for pairs in 2..=3 {
        let v: Vec<V> = sample(2 * pairs, dimension, 5);
        let all: Vec<(V, V)> = v.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        let (key, value) = &all[0];
        assert!(similar(&all, key, value) > 0.5);
        assert!(similar(&all[1..], key, value) < 0.2);
        assert!(similar(&all, value, &all[1].1) < 0.5);
    }
}

#[test]
fn hash_tables_of_torchhd() {
    hash_table::<Bipolar>(
        |pairs, key, value| {
            let bound: Vec<Bipolar> = pairs.iter().map(|(key, value)| key.bind(value)).collect();
            Bipolar::bundle(&bound).bind(key).cosine(value)
        },
        10_000,
    );
    hash_table::<Hrr>(
        |pairs, key, value| {
            let bound: Vec<Hrr> = pairs.iter().map(|(key, value)| key.bind(value)).collect();
            // unbinding one pair is approximate, and the other pairs add noise of the same strength
            Hrr::bundle(&bound).unbind(key).cosine(value) * (pairs.len() as f64 + 1.).sqrt() / 1.5
        },
        10_000,
    );
}

#[test]
fn multisets_of_torchhd() {
    let v: Vec<Bipolar> = sample(2, 1000, 2);
    let mut set = Counts::empty(1000);
    set.add(&v[0], 1);
    set.add(&v[1], 1);
    assert_eq!(set, Bipolar::bundle(&v));
    assert!(set.cosine(&v[0]) > 0.5);
    set.add(&v[0], -1);
    assert!(set.cosine(&v[0]).abs() < 0.1);
    assert_eq!(set.sign(Tie::Negative), v[1]);
    assert_eq!(Counts::empty(70).cosine(&Bipolar::identity(70)), 0.);
    assert_eq!(Bipolar::bundle([&v[0], &v[0], &v[0]]).clipped(1).values()[0].abs(), 1);
}

#[test]
fn clean_up_of_torchhd() {
    let book = Codebook::<Bipolar>::new(100, 4, ["a", "b", "c", "d", "e"]).unwrap();
    let memory = Memory::new(&book);
    for (index, item) in book.vectors().iter().enumerate() {
        let noisy = Bipolar::bundle([item, &Bipolar::random(100, &mut rng(index as u64))]).sign(Tie::Random(1));
        assert_eq!(memory.cleanup(&noisy, 0.3).unwrap().index, index);
    }
    let stranger = Bipolar::random(100, &mut rng(99));
    assert!(matches!(memory.cleanup(&stranger, 0.6), Err(Error::TooFar { .. })));
    assert_eq!(Memory::empty(100).cleanup(&stranger, 0.), Err(Error::Empty));
}

#[test]
fn the_sign_of_two_with_ties_at_minus_one_is_a_bitwise_or() {
    let v: Vec<Bipolar> = sample(2, 4096, 3);
    let y = Bipolar::bundle(&v).sign(Tie::Negative);
    // y = (-1 + x1 + x2 + x1 x2) / 2, component by component
    let both = v[0].bind(&v[1]);
    for (i, y) in y.signs().into_iter().enumerate() {
        let [a, b, c] = [&v[0], &v[1], &both].map(|v| i32::from(v.signs()[i]));
        assert_eq!(i32::from(y) * 2, a + b + c - 1);
        if i > 200 {
            break;
        }
    }
    close(y.mean(), -0.5, 0.03);
    let minus = Bipolar::identity(4096).negative();
    close(y.cosine(&minus), 0.5, 0.03);
    close(y.agreement(&minus), 0.75, 0.02);
    let other: Vec<Bipolar> = sample(2, 4096, 30);
    close(y.cosine(&Bipolar::bundle(&other).sign(Tie::Negative)), 0.25, 0.05);
}

#[test]
fn similarities_after_unbinding_an_analogy() {
    let v: Vec<Bipolar> = sample(5, 16_384, 8);
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|i| &v[i]);
    let pairs = [a.bind(b), c.bind(d)];
    let y = Bipolar::bundle(&pairs).sign(Tie::Negative);
    let tolerance = 0.04;
    [a, b, c, d].iter().for_each(|x| close(y.cosine(x), 0., tolerance));
    let by_key = y.bind(c);
    close(by_key.cosine(d), 0.5, tolerance);
    close(by_key.cosine(c), -0.5, tolerance);
    close(by_key.cosine(e), 0., tolerance);
    // with three of the four, key and target come out alike ...
    let by_three = y.bind(a).bind(b).bind(c);
    close(by_three.cosine(c), 0.5, tolerance);
    close(by_three.cosine(d), 0.5, tolerance);
    // ... because of the tie-breaking: with random ties the mean is 0 and only the key comes out
    let fair = Bipolar::bundle(&pairs).sign(Tie::Random(4));
    close(fair.mean(), 0., tolerance);
    close(fair.bind(c).cosine(d), 0.5, tolerance);
    close(fair.bind(a).bind(b).bind(c).cosine(c), 0.5, tolerance);
    close(fair.bind(a).bind(b).bind(c).cosine(d), 0., tolerance);
    close(Bipolar::bundle(&pairs).sign(Tie::Positive).mean(), 0.5, tolerance);
}

#[test]
fn bundles_have_the_expected_cosine_with_their_members() {
    let published = [1., 0.5, 0.5, 0.375, 0.375, 0.3125, 0.3125, 0.2734, 0.2734, 0.2461, 0.2461, 0.2256];
    let constant = [0.5, 0.75, 0.5, 0.6875, 0.5, 0.6562, 0.5, 0.6367, 0.5, 0.6230, 0.5, 0.6128];
    for n in 1..=12u32 {
        let (signal, share) = (published[n as usize - 1], constant[n as usize - 1]);
        close(member_cosine(n), signal, 5e-5);
        close(constant_accuracy(n), share, 6e-5);
        let v: Vec<Bipolar> = sample(n as usize, 16_384, u64::from(n));
        let bundle = Bipolar::bundle(&v).sign(Tie::Negative);
        let mean = v.iter().map(|x| bundle.cosine(x)).sum::<f64>() / f64::from(n);
        close(mean, signal, 0.02);
        close(bundle.agreement(&Bipolar::identity(16_384).negative()), share, 0.02);
    }
    close(member_cosine(1001), (2. / (std::f64::consts::PI * 1001.)).sqrt(), 1e-4);
}

#[test]
fn chance_matches_have_the_expected_cosine() {
    for (dimension, items, published) in
        [(256, 100, 0.148), (512, 500, 0.128), (1024, 2996, 0.107), (4096, 100, 0.037), (4096, 2996, 0.054)]
    {
        close(noise(dimension, items), published, 0.1 * published);
        let names: Vec<String> = (0..items).map(|i| i.to_string()).collect();
        let memory = Memory::new(&Codebook::new(dimension, 11, names).unwrap());
        let queries: Vec<Bipolar> = sample(200, dimension, 12);
        let hits = memory.nearest_all(&queries, 1);
        let mean = hits.iter().map(|hits| hits[0].cosine).sum::<f64>() / 200.;
        close(mean, published, 0.07 * published);
    }
    // flipping a fraction p of the signs scales the cosine by 1 - 2p
    let x = Bipolar::random(16_384, &mut rng(1));
    let mut signs = x.signs();
    (0..16_384).filter(|i| i % 50 < 3).for_each(|i| signs[i] = -signs[i]);
    close(x.cosine(&Bipolar::from_signs(&signs)), 0.88, 1e-3);
}

#[test]
fn holographic_binding_is_circular_convolution() {
    let (x, y) = (Hrr(vec![1., 2., 3., 4., 5.]), Hrr(vec![2., 0., -1., 0.5, 1.]));
    let expected: Vec<f32> = (0..5).map(|k| (0..5).map(|i| x.0[i] * y.0[(k + 5 - i) % 5]).sum()).collect();
    for (a, b) in x.bind(&y).0.iter().zip(&expected) {
        close(f64::from(*a), f64::from(*b), 1e-4);
    }
    let v: Vec<Hrr> = sample(2, 2048, 6);
    assert!(v[0].bind(&v[1]).bind(&v[1].exact_inverse()).cosine(&v[0]) > 0.999);
    let rough = v[0].bind(&v[1]).unbind(&v[1]).cosine(&v[0]);
    assert!((0.6..0.85).contains(&rough), "{rough}");
    assert!(v[0].bind(&Hrr::identity(2048)).cosine(&v[0]) > 0.9999);
    assert!(v[0].bind(&v[1]).cosine(&v[0]).abs() < 0.1);
}

#[test]
fn real_map_binds_by_products() {
    let v: Vec<Map> = sample(2, 4096, 6);
    assert_eq!(v[0].bind(&Map::identity(4096)), v[0]);
    assert!(v[0].bind(&v[1]).cosine(&v[0]).abs() < 0.1);
    assert!(v[0].bind(&v[1]).unbind(&v[1]).cosine(&v[0]) > 0.5);
    assert!(Map::bundle(&v).cosine(&v[0]) > 0.6);
}
