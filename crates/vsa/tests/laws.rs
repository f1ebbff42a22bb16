//! Algebraic laws that hold for all vectors, and the inputs that are refused.

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use vsa::{Bipolar, Codebook, Counts, Error, Hrr, Memory, Tie, Vector, nearest};

fn vector(dimension: usize, seed: u64) -> Bipolar {
    Bipolar::random(dimension, &mut ChaCha12Rng::seed_from_u64(seed))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn algebraic_laws_hold(d in 1usize..300, seed in 0u64..1000, by in -400isize..400) {
        let [x, y, z] = [0, 1, 2].map(|i| vector(d, seed * 3 + i));
        prop_assert_eq!(x.bind(&y), y.bind(&x));
        prop_assert_eq!(x.bind(&y).bind(&z), x.bind(&y.bind(&z)));
        prop_assert_eq!(x.bind(&y).unbind(&y), x.clone());
        prop_assert_eq!(x.permute(by).permute(-by), x.clone());
        prop_assert_eq!(x.permute(by).dot(&y.permute(by)), x.dot(&y));
        prop_assert_eq!(x.negative().dot(&y), -x.dot(&y));
        prop_assert_eq!(Bipolar::from_signs(&x.signs()), x.clone());
        prop_assert_eq!(Bipolar::from_bytes(d, &x.to_bytes()), Some(x.clone()));
        // the permutation by its definition
        let signs = x.signs();
        let rolled: Vec<i8> = (0..d as isize).map(|i| signs[(i - by).rem_euclid(d as isize) as usize]).collect();
        prop_assert_eq!(x.permute(by).signs(), rolled);
        // the sum by its definition
        let sum: Vec<i32> = (0..d).map(|i| [&x, &y, &z].iter().map(|v| i32::from(v.signs()[i])).sum()).collect();
        let bundle = Bipolar::bundle([&x, &y, &z]);
        prop_assert_eq!(bundle.values(), sum.as_slice());
        let mut counts = Counts::empty(d);
        [&x, &y, &z].iter().for_each(|v| counts.add(v, 1));
        prop_assert_eq!(&counts, &bundle);
        prop_assert_eq!(&bundle.bind(&x).bind(&x), &bundle);
        let many: Vec<Bipolar> = (0..9000).map(|i| [&x, &y, &z][i % 3].clone()).collect();
        let sums: Vec<i32> = sum.iter().map(|value| value * 3000).collect();
        let all = vsa::bundle_all(&many);
        prop_assert_eq!(all.values(), sums.as_slice());
        prop_assert_eq!(vsa::bind_all(&many[..2], &many[1..3]), vec![x.bind(&y), y.bind(&z)]);
    }

    #[test]
    fn a_memory_finds_the_same_items_as_a_linear_search(
        d in prop_oneof![1usize..200, 4000usize..4700], items in 1usize..300, queries in 1usize..20, count in 0usize..9
    ) {
        let names: Vec<String> = (0..items).map(|i| i.to_string()).collect();
        let book = Codebook::<Bipolar>::new(d, 1, names).unwrap();
        let memory = Memory::new(&book);
        let asked: Vec<Bipolar> = (0..queries as u64).map(|i| vector(d, i + 5000)).collect();
        let all = memory.nearest_all(&asked, count);
        for (query, hits) in asked.iter().zip(&all) {
            prop_assert_eq!(hits, &nearest(book.vectors(), query, count));
            prop_assert_eq!(hits, &memory.nearest(query, count));
        }
        let above = memory.above(&asked[0], 0.1);
        prop_assert_eq!(above, nearest(book.vectors(), &asked[0], items).into_iter().filter(|h| h.cosine > 0.1).collect::<Vec<_>>());
    }

    #[test]
    fn codebooks_survive_a_round_trip_and_refuse_altered_bytes(cut in 0usize..400, flip in 0usize..400) {
        let book = Codebook::<Bipolar>::new(70, 9, ["one", "two", "three", "vier"]).unwrap();
        let bytes = book.to_bytes();
        let read = Codebook::<Bipolar>::from_bytes(&bytes).unwrap();
        prop_assert_eq!(read.names(), book.names());
        prop_assert_eq!(read.vectors(), book.vectors());
        prop_assert_eq!((read.seed(), read.dimension()), (9, 70));
        let short = &bytes[..cut.min(bytes.len() - 1)];
        let refused = matches!(Codebook::<Bipolar>::from_bytes(short), Err(Error::Bytes { .. }));
        prop_assert!(refused);
        let mut changed = bytes.clone();
        let at = flip % changed.len();
        changed[at] ^= 4;
        let refused = matches!(Codebook::<Bipolar>::from_bytes(&changed), Err(Error::Bytes { .. }));
        prop_assert!(refused);
    }
}

#[test]
fn a_vector_depends_on_seed_and_name_alone() {
    let small = Codebook::<Bipolar>::new(128, 1, ["b"]).unwrap();
    let large = Codebook::<Bipolar>::new(128, 1, ["a", "b", "c"]).unwrap();
    assert_eq!(small.get("b"), large.get("b"));
    assert_ne!(large.get("a"), large.get("b"));
    let other = Codebook::<Bipolar>::new(128, 2, ["b"]).unwrap();
    assert_ne!(small.get("b"), other.get("b"));
}

#[test]
fn invalid_input_is_refused() {
    let text = |error: Error| error.to_string();
    assert!(text(Codebook::<Bipolar>::new(64, 1, ["a", "b", "a"]).unwrap_err()).contains("two entries named `a`"));
    assert!(text(Codebook::<Bipolar>::new(0, 1, ["a"]).unwrap_err()).contains("at least one dimension"));
    let book = Codebook::<Bipolar>::new(64, 1, ["a"]).unwrap();
    assert!(text(book.vector("b").unwrap_err()).contains("no `b` among the 1 names"));
    let holographic = Codebook::<Hrr>::new(64, 1, ["a"]).unwrap();
    assert!(text(Codebook::<Bipolar>::from_bytes(&holographic.to_bytes()).unwrap_err()).contains("kind 3"));
    assert_eq!(Codebook::<Hrr>::from_bytes(&holographic.to_bytes()).unwrap().vectors(), holographic.vectors());
    assert_eq!(Bipolar::from_bytes(3, &[255; 8]), None);
    assert_eq!(Bipolar::from_numbers(&[0.5, -0.1, 0., f32::NAN]).signs(), [1, -1, -1, -1]);
    assert_eq!(Bipolar::multibind([]), None);
    assert_eq!(Bipolar::multibind([&vector(9, 1), &vector(9, 2)]), Some(vector(9, 1).bind(&vector(9, 2))));
    assert_eq!(Bipolar::bundle([&vector(9, 1)]).sign(Tie::Positive), vector(9, 1));
}
