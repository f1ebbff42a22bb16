//! Compares the gradients of the backward pass with finite differences in f64.

use candle_core::{Device, Result, Tensor, Var};

/// A tensor with fixed, irregular entries in about [-1.5, 1.5].
pub fn filled(shape: &[usize], seed: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f64> =
        (0..count).map(|i| 1.5 * ((i * 7 + seed * 13) as f64 * 0.731 + 0.3 * seed as f64).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Checks the gradient of a weighted sum of the output of `f` with respect to the entries of every input: all entries of
/// small inputs, about 300 of large ones.
pub fn check_gradient(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let objective = |inputs: &[Tensor]| -> Tensor {
        let y = f(inputs).unwrap();
        let weights = filled(y.dims(), 99);
        (y * weights).unwrap().sum_all().unwrap()
    };
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let grads = objective(&tensors).backward().unwrap();
    for (which, input) in inputs.iter().enumerate() {
        let grad = grads.get(&vars[which]).unwrap_or_else(|| panic!("no gradient reaches input {which}"));
        let grad = grad.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let values = input.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        // an odd step, so that no column of an even width is left out
        let every = (grad.len() / 300) | 1;
        for (entry, expected) in grad.iter().enumerate().step_by(every) {
            let moved = |by: f64| {
                let mut values = values.clone();
                values[entry] += by;
                let mut inputs = inputs.to_vec();
                inputs[which] = Tensor::from_vec(values, input.shape(), &Device::Cpu).unwrap();
                objective(&inputs).to_scalar::<f64>().unwrap()
            };
            let step = 1e-5;
            let slope = (moved(step) - moved(-step)) / (2. * step);
            let error = (slope - expected).abs() / (1. + slope.abs());
            assert!(error < 1e-7, "input {which} entry {entry}: backward {expected}, finite difference {slope}");
        }
    }
}
