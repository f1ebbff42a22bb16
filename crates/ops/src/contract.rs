//! The contract of every operation, tested for all of them alike: gradients agree with finite differences, results agree
//! with a composition of candle's operations, inputs may be strided, NaN and infinity propagate, and bytes do not depend
//! on the number of threads.

use candle_core::{D, DType, Device, IndexOp, Result, Tensor, Var};

use crate::gradcheck::{check_gradient, filled};
use crate::kernel::activation::Activation;
use crate::kernel::norm::Kind;
use crate::{
    IGNORED, Pairs, Rotation, attention_pattern, attention_scores, attention_with_kv_cache, causal_attention,
    cross_entropy, dropout, embedding, fixed_norm, fixed_norm_parts, gelu_erf, gelu_tanh, layer_norm, layer_norm_parts,
    linear, linear_activated, linear_transposed, mix_values, rms_norm, rms_norm_parts, silu_gate, token_losses,
    transposed,
};

const SIZES: [usize; 5] = [1, 3, 17, 63, 65];

type Run = Box<dyn Fn(&[Tensor]) -> Result<Tensor> + Sync>;

/// One operation at one size.
struct Case {
    name: &'static str,
    shapes: Vec<Vec<usize>>,
    ours: Run,
    composed: Run,
    /// Whether the operation has a backward pass.
    backward: bool,
}

impl Case {
    /// Marks an operation that has no backward pass.
    fn forward_only(self) -> Self {
        Self { backward: false, ..self }
    }
}

fn case(
    name: &'static str,
    shapes: &[&[usize]],
    ours: impl Fn(&[Tensor]) -> Result<Tensor> + Sync + 'static,
    composed: impl Fn(&[Tensor]) -> Result<Tensor> + Sync + 'static,
) -> Case {
    let shapes = shapes.iter().map(|shape| shape.to_vec()).collect();
    Case { name, shapes, ours: Box::new(ours), composed: Box::new(composed), backward: true }
}

fn sees(query: usize, key: usize, window: Option<usize>) -> bool {
    key <= query && window.is_none_or(|window| query - key < window)
}

/// Masked scores of all heads of `q` and `k`, with hidden ones at `masked`, from candle's operations.
fn composed_scores(q: &Tensor, k: &Tensor, window: Option<usize>, masked: f64) -> Result<Tensor> {
    let (queries, keys, width) = (q.dim(2)?, k.dim(2)?, q.dim(3)?);
    let scores = (q.contiguous()?.matmul(&k.t()?.contiguous()?)? / (width as f64).sqrt())?;
    let seen = |i: usize| u8::from(sees(keys - queries + i / keys, i % keys, window));
    let seen: Vec<u8> = (0..queries * keys).map(seen).collect();
    let seen = Tensor::from_vec(seen, (queries, keys), q.device())?.broadcast_as(scores.shape())?;
    seen.where_cond(&scores, &scores.zeros_like()?.detach().affine(0., masked)?)
}

/// Attention of the last queries over all keys, from candle's operations; heads of keys and values are repeated.
fn composed_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let times = q.dim(1)? / k.dim(1)?;
    let served = |x: &Tensor| {
        let heads = (0..q.dim(1)?).map(|head| x.narrow(1, head / times, 1)).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&heads, 1)
    };
    let scores = composed_scores(q, &served(k)?, None, f64::NEG_INFINITY)?;
    candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&served(v)?.contiguous()?)?.transpose(1, 2)
}

fn composed_causal(qkv: &Tensor, heads: usize, kv_heads: usize) -> Result<Tensor> {
    let part = |first, count| qkv.narrow(2, first, count)?.transpose(1, 2)?.contiguous();
    composed_attention(&part(0, heads)?, &part(heads, kv_heads)?, &part(heads + kv_heads, kv_heads)?)
}

/// A rotation from candle's operations, pair by pair.
fn composed_rotation(x: &Tensor, pairs: Pairs, frequencies: &[f64], factor: f64) -> Result<Tensor> {
    let (seq, width) = (x.dim(1)?, x.dim(3)?);
    let half = frequencies.len();
    let mut entries: Vec<Tensor> = (0..width).map(|i| x.narrow(3, i, 1)).collect::<Result<_>>()?;
    for (pair, frequency) in frequencies.iter().enumerate() {
        let (a, b) = match pairs {
            Pairs::Halves => (pair, half + pair),
            Pairs::Interleaved => (2 * pair, 2 * pair + 1),
        };
        let by_position = |f: fn(f64) -> f64| {
            let values: Vec<f64> = (0..seq).map(|position| factor * f(position as f64 * frequency)).collect();
            Tensor::from_vec(values, (1, seq, 1, 1), x.device())?.to_dtype(x.dtype())
        };
        let (cos, sin) = (by_position(f64::cos)?, by_position(f64::sin)?);
        let rotated = [
            (entries[a].broadcast_mul(&cos)? - entries[b].broadcast_mul(&sin)?)?,
            (entries[b].broadcast_mul(&cos)? + entries[a].broadcast_mul(&sin)?)?,
        ];
        [entries[a], entries[b]] = rotated;
    }
    Tensor::cat(&entries, 3)
}

/// Every operation, over `rows` rows of width `n`.
fn cases(rows: usize, n: usize) -> Vec<Case> {
    let ids: Vec<u32> = (0..rows as u32).map(|row| row * 7 % n as u32).collect();
    let targets: Vec<u32> =
        (0..rows as u32).map(|row| if row % 3 == 2 { IGNORED } else { row * 5 % n as u32 }).collect();
    let ids = Tensor::new(ids, &Device::Cpu).unwrap();
    let targets = Tensor::new(targets, &Device::Cpu).unwrap();
    let (ids2, targets2) = (ids.clone(), targets.clone());
    let frequencies: Vec<f64> = (0..n.div_ceil(2)).map(|i| 0.7f64.powi(i as i32)).collect();
    // a head width for which short sequences have a kernel of their own
    let short = n.next_power_of_two().clamp(16, 64);
    let few = Tensor::new((0..rows as u32).map(|row| row * 7 % 3).collect::<Vec<_>>(), &Device::Cpu).unwrap();
    let (few2, targets3, targets4) = (few.clone(), targets.clone(), targets.clone());
    let counted = (rows - rows / 3) as f64;
    let rotary = |name, pairs: Pairs, spare: usize, factor: f64| {
        let (frequencies, again) = (frequencies.clone(), frequencies.clone());
        case(
            name,
            &[&[2, rows, 1, n + n % 2 + spare]],
            move |t| Rotation::new(pairs, &frequencies, 0..t[0].dim(1)?).scaled(factor).apply(&t[0]),
            move |t| composed_rotation(&t[0], pairs, &again, factor),
        )
    };
    vec![
        case("linear", &[&[rows, n], &[n, 3]], |t| linear(&t[0], &t[1], None), |t| t[0].matmul(&t[1])),
        case(
            "linear-bias",
            &[&[rows, 3], &[3, n], &[n]],
            |t| linear(&t[0], &t[1], Some(&t[2])),
            |t| t[0].matmul(&t[1])?.broadcast_add(&t[2]),
        ),
        case(
            "linear_transposed",
            &[&[rows, n], &[3, n]],
            |t| linear_transposed(&t[0], &t[1], None),
            |t| t[0].matmul(&t[1].t()?),
        ),
        case(
            "linear_transposed-bias",
            &[&[rows, 3], &[n, 3], &[n]],
            |t| linear_transposed(&t[0], &t[1], Some(&t[2])),
            |t| t[0].matmul(&t[1].t()?)?.broadcast_add(&t[2]),
        ),
        case(
            "linear_activated",
            &[&[rows, 3], &[3, n], &[n]],
            |t| linear_activated(&t[0], &t[1], Some(&t[2]), Activation::GeluTanh),
            |t| t[0].matmul(&t[1])?.broadcast_add(&t[2])?.gelu(),
        ),
        case(
            "linear_activated without bias",
            &[&[rows, n], &[n, 3]],
            |t| linear_activated(&t[0], &t[1], None, Activation::Silu),
            |t| t[0].matmul(&t[1])?.silu(),
        ),
        case("transposed", &[&[rows, n]], |t| transposed(&t[0]), |t| t[0].t()).forward_only(),
        case(
            "layer_norm_parts",
            &[&[rows, n]],
            |t| {
                let parts = layer_norm_parts(&t[0], 1e-3)?;
                Tensor::cat(&[parts.normalized, parts.scale], 1)
            },
            |t| {
                let mean = t[0].mean_keepdim(D::Minus1)?;
                let scale =
                    ((t[0].broadcast_sub(&mean)?.sqr()?.sum_keepdim(D::Minus1)? / t[0].dim(1)? as f64)? + 1e-3)?;
                let scale = scale.sqrt()?;
                Tensor::cat(&[(&t[0] - mean.broadcast_as(t[0].shape())?)?.broadcast_div(&scale)?, scale], 1)
            },
        ),
        case(
            "rms_norm_parts",
            &[&[rows, n]],
            |t| {
                let parts = rms_norm_parts(&t[0], 1e-3)?;
                Tensor::cat(&[parts.normalized, parts.scale], 1)
            },
            |t| {
                let scale = ((t[0].sqr()?.sum_keepdim(D::Minus1)? / t[0].dim(1)? as f64)? + 1e-3)?.sqrt()?;
                Tensor::cat(&[t[0].broadcast_div(&scale)?, scale], 1)
            },
        ),
        case(
            "fixed_norm_parts",
            &[&[rows, n]],
            |t| Ok(fixed_norm_parts(Kind::Layer, &t[0], 0.6)?.normalized),
            |t| t[0].broadcast_sub(&t[0].mean_keepdim(D::Minus1)?)? / 0.6,
        ),
        case(
            "layer_norm",
            &[&[rows, n], &[n], &[n]],
            |t| layer_norm(&t[0], &t[1], Some(&t[2]), 1e-3),
            |t| layer_norm_parts(&t[0], 1e-3)?.normalized.broadcast_mul(&t[1])?.broadcast_add(&t[2]),
        ),
        case(
            "layer_norm without bias",
            &[&[rows, n], &[n]],
            |t| layer_norm(&t[0], &t[1], None, 1e-3),
            |t| layer_norm_parts(&t[0], 1e-3)?.normalized.broadcast_mul(&t[1]),
        ),
        case(
            "rms_norm",
            &[&[rows, n], &[n]],
            |t| rms_norm(&t[0], &t[1], 1e-3),
            |t| {
                let scale = (t[0].sqr()?.mean_keepdim(D::Minus1)? + 1e-3)?.sqrt()?;
                t[0].broadcast_div(&scale)?.broadcast_mul(&t[1])
            },
        ),
        case(
            "fixed_norm",
            &[&[rows, n], &[n], &[n]],
            |t| fixed_norm(Kind::Layer, &t[0], &t[1], Some(&t[2]), 0.6),
            |t| {
                let centred = t[0].broadcast_sub(&t[0].mean_keepdim(D::Minus1)?)?;
                (centred / 0.6)?.broadcast_mul(&t[1])?.broadcast_add(&t[2])
            },
        ),
        case(
            "fixed_norm without a mean",
            &[&[rows, n], &[n]],
            |t| fixed_norm(Kind::Rms, &t[0], &t[1], None, 0.6),
            |t| (&t[0] / 0.6)?.broadcast_mul(&t[1]),
        ),
        case("gelu_tanh", &[&[rows, n]], |t| gelu_tanh(&t[0]), |t| t[0].gelu()),
        case("gelu_erf", &[&[rows, n]], |t| gelu_erf(&t[0]), |t| t[0].gelu_erf()),
        case("silu_gate", &[&[rows, n], &[rows, n]], |t| silu_gate(&t[0], &t[1]), |t| t[0].silu()? * &t[1]),
        case(
            "dropout",
            &[&[rows, n]],
            |t| dropout(&t[0], 0.4, 11),
            |t| {
                let mask = dropout(&t[0].ones_like()?.detach(), 0.4, 11)?;
                &t[0] * mask
            },
        ),
        rotary("rotary", Pairs::Halves, 1, 1.),
        rotary("rotary of all entries", Pairs::Halves, 0, 1.),
        rotary("interleaved rotary", Pairs::Interleaved, 0, 1.3),
        rotary("interleaved rotary of some entries", Pairs::Interleaved, 2, 1.),
        case("causal_attention", &[&[2, rows, 4, n]], |t| causal_attention(&t[0], 1), |t| composed_causal(&t[0], 2, 1)),
        case(
            "causal_attention over short sequences",
            &[&[2, rows % 65, 4, short]],
            |t| causal_attention(&t[0], 1),
            |t| composed_causal(&t[0], 2, 1),
        ),
        case(
            "attention_with_kv_cache",
            &[&[4, rows, 4, n], &[2, 5, 1, n], &[2, 5, 1, n]],
            |t| attention_with_kv_cache(&t[0], &[t[1].clone(), t[2].clone()], 1),
            |t| {
                let part = |first, count| t[0].narrow(2, first, count)?.transpose(1, 2)?.contiguous();
                let whole = |past: &Tensor, own: Tensor| {
                    let past = past.transpose(1, 2)?.contiguous()?;
                    Tensor::cat(&[&Tensor::cat(&[&past, &past], 0)?, &own], 2)
                };
                composed_attention(&part(0, 2)?, &whole(&t[1], part(2, 1)?)?, &whole(&t[2], part(3, 1)?)?)
            },
        )
        .forward_only(),
        case(
            "attention_scores",
            &[&[2, 2, rows, n], &[2, 1, rows, n]],
            |t| attention_scores(&t[0], &t[1], Some(3))?.maximum(-9.),
            |t| composed_scores(&t[0], &Tensor::cat(&[&t[1], &t[1]], 1)?, Some(3), -9.)?.maximum(-9.),
        ),
        case(
            "attention_scores of the last queries",
            &[&[2, 2, rows, n], &[2, 2, rows + 2, n]],
            |t| attention_scores(&t[0], &t[1], None)?.maximum(-9.),
            |t| composed_scores(&t[0], &t[1], None, -9.)?.maximum(-9.),
        ),
        case(
            "attention_pattern",
            &[&[1, 2, rows, n]],
            |t| attention_pattern(&t[0]),
            |t| candle_nn::ops::softmax(&t[0], D::Minus1),
        ),
        case(
            "mix_values",
            &[&[2, 2, rows, n], &[2, 1, n, 3]],
            |t| mix_values(&t[0], &t[1]),
            |t| t[0].matmul(&Tensor::cat(&[&t[1], &t[1]], 1)?),
        ),
        case(
            "token_losses",
            &[&[rows, n]],
            move |t| token_losses(&t[0], &targets),
            move |t| {
                let counts = targets2.ne(IGNORED)?;
                let chosen = counts.where_cond(&targets2, &targets2.zeros_like()?)?;
                let log = candle_nn::ops::log_softmax(&t[0], D::Minus1)?;
                let losses = log.gather(&chosen.unsqueeze(1)?, 1)?.squeeze(1)?.neg()?;
                counts.where_cond(&losses, &losses.zeros_like()?)
            },
        ),
        case(
            "cross_entropy",
            &[&[rows, n]],
            move |t| cross_entropy(&t[0], &targets3),
            move |t| {
                let counts = targets4.ne(IGNORED)?;
                let chosen = counts.where_cond(&targets4, &targets4.zeros_like()?)?;
                let log = candle_nn::ops::log_softmax(&t[0], D::Minus1)?;
                let losses = log.gather(&chosen.unsqueeze(1)?, 1)?.squeeze(1)?.neg()?;
                counts.where_cond(&losses, &losses.zeros_like()?)?.sum_all()? / counted
            },
        ),
        case("embedding", &[&[n, 3]], move |t| embedding(&ids, &t[0]), move |t| t[0].index_select(&ids2, 0)),
        case("embedding of n", &[&[3, n]], move |t| embedding(&few, &t[0]), move |t| t[0].index_select(&few2, 0)),
    ]
}

fn inputs(case: &Case, dtype: DType) -> Vec<Tensor> {
    let filled = |(seed, shape): (usize, &Vec<usize>)| filled(shape, seed + 1).to_dtype(dtype).unwrap();
    case.shapes.iter().enumerate().map(filled).collect()
}

/// The output, and the gradient of a weighted sum of it for each input.
fn all(run: &Run, inputs: &[Tensor], backward: bool) -> Vec<Vec<f64>> {
    let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(&input.contiguous().unwrap()).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = run(&tensors).unwrap();
    if !backward {
        return vec![numbers(&y)];
    }
    let store = weighted(&y).backward().unwrap();
    let gradients = vars.iter().map(|var| store.get(var).unwrap().clone());
    std::iter::once(y.clone()).chain(gradients).map(|x| numbers(&x)).collect()
}

fn weighted(y: &Tensor) -> Tensor {
    (y * filled(y.dims(), 99).to_dtype(y.dtype()).unwrap()).unwrap().sum_all().unwrap()
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn gradients_agree_with_finite_differences() {
    // one thread: the parts of work are too small to share
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let check = |rows, n| {
        for case in cases(rows, n).into_iter().filter(|case| case.backward) {
            check_gradient(&inputs(&case, DType::F64), &case.ours);
        }
    };
    pool.install(|| SIZES.into_iter().for_each(|n| check(3, n)));
    // more rows than one part of the work has
    pool.install(|| check(131, 3));
}

#[test]
fn single_precision_agrees_with_candle() {
    for n in SIZES {
        for rows in [1, 5, 131] {
            for case in cases(rows, n) {
                let inputs = inputs(&case, DType::F32);
                let ours = all(&case.ours, &inputs, case.backward);
                let theirs = all(&case.composed, &inputs, case.backward);
                let exact: Vec<Tensor> = inputs.iter().map(|x| x.to_dtype(DType::F64).unwrap()).collect();
                let exact = all(&case.composed, &exact, case.backward);
                let away = |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0f64, |most, (a, b)| most.max((a - b).abs()));
                for (which, (ours, (theirs, exact))) in ours.iter().zip(theirs.iter().zip(&exact)).enumerate() {
                    // where numbers cancel, candle's single precision is as inexact
                    let allowed = 1e-5 * away(exact, &vec![0.; exact.len()]) + 2. * away(theirs, exact);
                    assert!(ours.len() == exact.len() && ours.iter().all(|x| x.is_finite()), "{}", case.name);
                    let found = away(ours, exact);
                    assert!(found <= allowed, "{} {rows} x {n}, {which}: {found} {allowed}", case.name);
                }
            }
        }
    }
}

#[test]
fn strided_inputs_give_the_same_bytes() {
    for case in cases(5, 17) {
        let inputs = inputs(&case, DType::F64);
        // the same numbers as every second entry of a wider tensor
        let view = |wide: &Tensor| wide.narrow(D::Minus1, 0, 1).unwrap().squeeze(D::Minus1).unwrap();
        let wide = |x: &Tensor| Var::from_tensor(&Tensor::stack(&[x, &x.zeros_like().unwrap()], x.rank()).unwrap());
        let vars: Vec<Var> = inputs.iter().map(|x| wide(x).unwrap()).collect();
        let strided: Vec<Tensor> = vars.iter().map(|var| view(var.as_tensor())).collect();
        assert!(strided.iter().all(|x| x.elem_count() == 1 || !x.is_contiguous()));
        let y = (case.ours)(&strided).unwrap();
        let mut got = vec![numbers(&y)];
        if case.backward {
            let store = weighted(&y).backward().unwrap();
            got.extend(vars.iter().map(|var| numbers(&view(store.get(var).unwrap()))));
        }
        assert_eq!(got, all(&case.ours, &inputs, case.backward), "{}", case.name);
    }
}

#[test]
fn nan_and_infinity_propagate_as_in_candle() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for case in cases(5, 17) {
            let good = inputs(&case, DType::F32);
            for (which, x) in good.iter().enumerate() {
                let count = x.elem_count();
                // the first, one in the middle, the last: among them queries, keys and values
                for index in [0, count / 2, count * 2 / 3, count - 1] {
                    let mut values = numbers(x);
                    values[index] = bad;
                    let mut inputs = good.clone();
                    inputs[which] =
                        Tensor::from_vec(values, x.shape(), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
                    let not_finite = |run: &Run| -> Vec<bool> {
                        numbers(&run(&inputs).unwrap()).into_iter().map(|y| !y.is_finite()).collect()
                    };
                    let (ours, theirs) = (not_finite(&case.ours), not_finite(&case.composed));
                    assert_eq!(ours, theirs, "{} with {bad} at {index} of input {which}", case.name);
                }
            }
        }
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let on = |threads: usize, case: &Case| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let inputs = inputs(case, DType::F32);
        let bits = |x: Vec<f64>| x.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        pool.install(|| all(&case.ours, &inputs, case.backward).into_iter().map(bits).collect::<Vec<_>>())
    };
    for case in cases(700, 65) {
        let one = on(1, &case);
        assert_eq!(one, on(2, &case), "{}", case.name);
        assert_eq!(one, on(4, &case), "{}", case.name);
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    let by_rows =
        |case: &Case| case.name.starts_with("linear") || matches!(case.name, "layer_norm" | "rms_norm" | "gelu_tanh");
    for case in cases(200, 65).into_iter().filter(by_rows) {
        let inputs = inputs(&case, DType::F32);
        let whole = (case.ours)(&inputs).unwrap();
        for rows in [1, 2, 3, 31, 64, 130] {
            let mut some = inputs.clone();
            some[0] = inputs[0].i(..rows).unwrap();
            let part = (case.ours)(&some).unwrap();
            assert_eq!(numbers(&part), numbers(&whole.i(..rows).unwrap()), "{} {rows}", case.name);
        }
    }
}
