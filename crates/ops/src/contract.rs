//! What every operation promises, checked for all of them alike: gradients against finite differences, agreement with
//! the same thing composed from candle's operations, non-contiguous inputs, NaN and infinity, and bytes that do not
//! depend on the number of threads.

use candle_core::{D, DType, Device, IndexOp, Result, Tensor, Var};

use crate::gradcheck::{check_gradient, filled};
use crate::kernel::norm::Kind;
use crate::{
    IGNORED, Pairs, Rotation, attention_pattern, attention_scores, causal_attention, dropout, embedding, fixed_norm,
    gelu_erf, gelu_tanh, layer_norm, layer_norm_parts, linear, mix_values, rms_norm, silu_gate, token_losses,
};

const SIZES: [usize; 5] = [1, 3, 17, 63, 65];

type Run = Box<dyn Fn(&[Tensor]) -> Result<Tensor> + Sync>;

/// One operation at one size.
struct Case {
    name: &'static str,
    shapes: Vec<Vec<usize>>,
    ours: Run,
    composed: Run,
}

fn case(
    name: &'static str,
    shapes: &[&[usize]],
    ours: impl Fn(&[Tensor]) -> Result<Tensor> + Sync + 'static,
    composed: impl Fn(&[Tensor]) -> Result<Tensor> + Sync + 'static,
) -> Case {
    let shapes = shapes.iter().map(|shape| shape.to_vec()).collect();
    Case { name, shapes, ours: Box::new(ours), composed: Box::new(composed) }
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
    let rotation = Rotation::new(Pairs::Halves, &frequencies, 0..rows);
    let unturned = rotation.clone();
    vec![
        case("linear", &[&[rows, n], &[n, 3]], |t| linear(&t[0], &t[1], None), |t| t[0].matmul(&t[1])),
        case(
            "linear-bias",
            &[&[rows, 3], &[3, n], &[n]],
            |t| linear(&t[0], &t[1], Some(&t[2])),
            |t| t[0].matmul(&t[1])?.broadcast_add(&t[2]),
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
        case(
            "rotary",
            &[&[1, rows, 1, n + n % 2 + 1]],
            move |t| rotation.apply(&t[0]),
            move |t| unturned.composed(&t[0]),
        ),
        case(
            "causal_attention",
            &[&[1, rows, 4, n]],
            |t| causal_attention(&t[0], 1),
            |t| {
                let part = |first, count| t[0].narrow(2, first, count)?.transpose(1, 2)?.contiguous();
                let (k, v): (Tensor, Tensor) = (part(2, 1)?, part(3, 1)?);
                let (k, v) = (Tensor::cat(&[&k, &k], 1)?, Tensor::cat(&[&v, &v], 1)?);
                mix_values(&attention_pattern(&attention_scores(&part(0, 2)?, &k, None)?)?, &v)?.transpose(1, 2)
            },
        ),
        case(
            "attention_scores",
            &[&[2, 2, rows, n], &[2, 1, rows, n]],
            |t| attention_scores(&t[0], &t[1], Some(3))?.maximum(-9.),
            |t| {
                let rows = t[0].dim(2)?;
                let k = Tensor::cat(&[&t[1], &t[1]], 1)?;
                let scores = (t[0].contiguous()?.matmul(&k.t()?.contiguous()?)? / (t[0].dim(3)? as f64).sqrt())?;
                let seen = |i: usize| u8::from(i % rows <= i / rows && i / rows - i % rows < 3);
                let seen: Vec<u8> = (0..rows * rows).map(seen).collect();
                let seen = Tensor::from_vec(seen, (rows, rows), t[0].device())?.broadcast_as(scores.shape())?;
                seen.where_cond(&scores.maximum(-9.)?, &(scores.zeros_like()? - 9.)?)
            },
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
        case("embedding", &[&[n, 3]], move |t| embedding(&ids, &t[0]), move |t| t[0].index_select(&ids2, 0)),
    ]
}

fn inputs(case: &Case, dtype: DType) -> Vec<Tensor> {
    let filled = |(seed, shape): (usize, &Vec<usize>)| filled(shape, seed + 1).to_dtype(dtype).unwrap();
    case.shapes.iter().enumerate().map(filled).collect()
}

/// Output, and the gradient of a weighted sum of it for each input.
fn all(run: &Run, inputs: &[Tensor]) -> Vec<Vec<f64>> {
    let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(&input.contiguous().unwrap()).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = run(&tensors).unwrap();
    let weights = filled(y.dims(), 99).to_dtype(y.dtype()).unwrap();
    let store = (&y * weights).unwrap().sum_all().unwrap().backward().unwrap();
    let gradients = vars.iter().map(|var| store.get(var).unwrap().clone());
    std::iter::once(y.clone()).chain(gradients).map(|x| numbers(&x)).collect()
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for n in SIZES {
        for case in cases(3, n) {
            check_gradient(&inputs(&case, DType::F64), &case.ours);
        }
    }
    // more rows than a part of the work has
    for case in cases(131, 3) {
        check_gradient(&inputs(&case, DType::F64), &case.ours);
    }
}

#[test]
fn single_precision_agrees_with_what_candle_composes() {
    for n in SIZES {
        for rows in [1, 5, 131] {
            for case in cases(rows, n) {
                let inputs = inputs(&case, DType::F32);
                for (which, (ours, theirs)) in
                    all(&case.ours, &inputs).iter().zip(all(&case.composed, &inputs)).enumerate()
                {
                    let largest = theirs.iter().fold(1f64, |most, x| most.max(x.abs()));
                    for (a, b) in ours.iter().zip(theirs) {
                        assert!((a - b).abs() <= 1e-5 * largest, "{} {rows} x {n}, {which}: {a} {b}", case.name);
                    }
                }
            }
        }
    }
}

#[test]
fn inputs_need_not_be_contiguous() {
    for case in cases(5, 17) {
        let inputs = inputs(&case, DType::F64);
        let turned: Vec<Tensor> = inputs
            .iter()
            .map(|x| {
                let last = x.rank() - 1;
                // the same numbers, with every second place of a wider tensor skipped
                let wide = Tensor::stack(&[x, &x.zeros_like().unwrap()], last + 1).unwrap();
                let view = wide.narrow(last + 1, 0, 1).unwrap().squeeze(last + 1).unwrap();
                assert!(x.elem_count() == 1 || !view.is_contiguous());
                view
            })
            .collect();
        let (a, b) = ((case.ours)(&inputs).unwrap(), (case.ours)(&turned).unwrap());
        assert_eq!(numbers(&a), numbers(&b), "{}", case.name);
    }
}

#[test]
fn nan_and_infinity_spread_as_in_what_candle_composes() {
    for bad in [f64::NAN, f64::INFINITY] {
        for case in cases(5, 17) {
            let inputs: Vec<Tensor> = inputs(&case, DType::F32)
                .iter()
                .enumerate()
                .map(|(which, x)| {
                    if which > 0 {
                        return x.clone();
                    }
                    let mut values = numbers(x);
                    let middle = values.len() / 2;
                    values[middle] = bad;
                    Tensor::from_vec(values, x.shape(), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
                })
                .collect();
            let places = |run: &Run| -> Vec<bool> {
                numbers(&run(&inputs).unwrap()).into_iter().map(|y| !y.is_finite()).collect()
            };
            assert_eq!(places(&case.ours), places(&case.composed), "{} with {bad}", case.name);
        }
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let on = |threads: usize, case: &Case| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let inputs = inputs(case, DType::F32);
        let bits = |x: Vec<f64>| x.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        pool.install(|| all(&case.ours, &inputs).into_iter().map(bits).collect::<Vec<_>>())
    };
    for case in cases(700, 65) {
        let one = on(1, &case);
        assert_eq!(one, on(2, &case), "{}", case.name);
        assert_eq!(one, on(4, &case), "{}", case.name);
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    // but for one row alone: faer has another product for it
    for case in cases(200, 65).into_iter().filter(|case| matches!(case.name, "linear" | "linear-bias" | "layer_norm")) {
        let inputs = inputs(&case, DType::F32);
        let whole = (case.ours)(&inputs).unwrap();
        for rows in [2, 3, 31, 64, 130] {
            let mut some = inputs.clone();
            some[0] = inputs[0].i(..rows).unwrap();
            let part = (case.ours)(&some).unwrap();
            assert_eq!(numbers(&part), numbers(&whole.i(..rows).unwrap()), "{} {rows}", case.name);
        }
    }
}
