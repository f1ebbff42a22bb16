//! In-place updates of parameters and gradients.

use std::cell::RefCell;

use candle_core::{
    CpuStorage, DType, InplaceOp1, InplaceOp2, Layout, Result, Storage, Tensor, backend::BackendStorage, bail,
};
use rayon::prelude::*;

use crate::custom::takes;
use crate::kernel::{Real, optimizer, rows};

/// Numbers in one part of a parallel update.
const BLOCK: usize = 1 << 14;

/// Settings of one AdamW update (arXiv 1711.05101).
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the running mean and the running mean square of the gradient.
    pub betas: [f64; 2],
    /// Added to the root of the running mean square.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this update, counted from 1.
    pub t: u64,
    /// Factor on the gradient, from clipping.
    pub gradient_scale: f64,
}

/// One parameter to update, with its gradient and its running means, all of the same shape.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// The parameter, changed in place.
    pub w: &'a Tensor,
    /// Its gradient.
    pub g: &'a Tensor,
    /// Running mean of the gradient, changed in place.
    pub m: &'a Tensor,
    /// Running mean of its square, changed in place.
    pub v: &'a Tensor,
    /// Learning rate and the other settings.
    pub step: AdamWStep,
}

/// Updates parameters and their running means in place: `m` and `v` move towards `g` and `g^2`, and
/// `w -= lr (m^ / (sqrt(v^) + eps) + decay w)` with bias-corrected means.
///
/// On the CPU this is one pass over all parameters, split over threads; elsewhere it is composed from candle's operations.
///
/// # Errors
/// When the shapes of one update differ, when a tensor to be changed is not contiguous, or when it occurs twice. Nothing is
/// changed then.
pub fn adamw(updates: &[Update<'_>]) -> Result<()> {
    for Update { w, g, m, v, .. } in updates {
        if [g, m, v].into_iter().any(|x| x.shape() != w.shape()) {
            bail!(
                "adamw: gradient {:?} and means {:?}, {:?} for a parameter {:?}",
                g.shape(),
                m.shape(),
                v.shape(),
                w.shape()
            );
        }
    }
    on_cpu::<f32>(updates)?;
    on_cpu::<f64>(updates)?;
    updates.iter().filter(|update| !takes(update.w)).try_for_each(composed)
}

fn composed(update: &Update<'_>) -> Result<()> {
    let Update { w, g, m, v, step } = *update;
    let AdamWStep { lr, betas: [beta1, beta2], eps, weight_decay, t, gradient_scale } = step;
    let g = (g.detach() * gradient_scale)?;
    let set = |to: &Tensor, from: Tensor| -> Result<()> { to.slice_set(&flat(from)?, 0, 0) };
    let (w, m, v) = (flat(w.clone())?, flat(m.clone())?, flat(v.clone())?);
    let g = flat(g)?;
    set(&m, ((&m * beta1)? + (&g * (1. - beta1))?)?)?;
    set(&v, ((&v * beta2)? + (g.sqr()? * (1. - beta2))?)?)?;
    let correct = |x: &Tensor, beta: f64| x / (1. - beta.powf(t as f64));
    let change = (correct(&m, beta1)? / (correct(&v, beta2)?.sqrt()? + eps)?)?;
    set(&w, ((&w * (1. - lr * weight_decay))? - (change * lr)?)?)
}

/// A view of the tensor as one row.
fn flat(x: Tensor) -> Result<Tensor> {
    x.detach().flatten_all()
}

fn step_of<T: Real>(step: &AdamWStep) -> optimizer::Step<T> {
    optimizer::Step::new(step.lr, step.betas, step.eps, step.weight_decay, step.t, step.gradient_scale)
}

/// Runs the updates of this number type on the CPU in one pass.
fn on_cpu<T: Real>(updates: &[Update<'_>]) -> Result<()> {
    let ours = |update: &&Update<'_>| takes(update.w) && update.w.dtype() == T::DTYPE;
    let updates: Vec<&Update<'_>> = updates.iter().filter(ours).collect();
    let gradients = updates.iter().map(|update| update.g.detach().contiguous()).collect::<Result<Vec<_>>>()?;
    let taken = |of: fn(&Update<'_>) -> Tensor| updates.iter().map(move |update| TakenNumbers::<T>::new(of(update)));
    let mut w: Vec<TakenNumbers<T>> = taken(|update| update.w.clone()).collect::<Result<_>>()?;
    let mut m: Vec<TakenNumbers<T>> = taken(|update| update.m.clone()).collect::<Result<_>>()?;
    let mut v: Vec<TakenNumbers<T>> = taken(|update| update.v.clone()).collect::<Result<_>>()?;
    let guards: Vec<_> = gradients.iter().map(Tensor::storage_and_layout).collect();
    let mut parts = Vec::new();
    for ((((update, (g, layout)), w), m), v) in updates.iter().zip(&guards).zip(&mut w).zip(&mut m).zip(&mut v) {
        let Storage::Cpu(g) = &**g else { bail!("adamw: a gradient and its parameter are on different devices") };
        let g = crate::custom::slice::<T>((g, layout))?.chunks(BLOCK);
        let step = step_of::<T>(&update.step);
        let means = m.numbers().chunks_mut(BLOCK).zip(v.numbers().chunks_mut(BLOCK));
        parts.extend(w.numbers().chunks_mut(BLOCK).zip(g).zip(means).map(|((w, g), (m, v))| (step, w, g, m, v)));
    }
    parts.into_par_iter().with_min_len(2).for_each(|(step, w, g, m, v)| optimizer::adamw(&step, w, g, m, v));
    Ok(())
}

/// The numbers of a tensor, moved out of it until this is dropped. candle gives mutable access to one tensor at a time, but
/// an update needs several.
struct TakenNumbers<T: Real> {
    tensor: Tensor,
    numbers: Vec<T>,
    range: std::ops::Range<usize>,
}

impl<T: Real> TakenNumbers<T> {
    fn new(tensor: Tensor) -> Result<Self> {
        let Some((start, end)) = tensor.layout().contiguous_offsets() else {
            bail!("an in-place update needs contiguous tensors");
        };
        let mut taken = Self { tensor, numbers: Vec::new(), range: start..end };
        taken.swap()?;
        if taken.numbers.len() < end {
            bail!("an in-place update was given the same tensor twice");
        }
        Ok(taken)
    }

    fn numbers(&mut self) -> &mut [T] {
        &mut self.numbers[self.range.clone()]
    }

    fn swap(&mut self) -> Result<()> {
        self.tensor.inplace_op1(&Swap(RefCell::new(&mut self.numbers)))
    }
}

impl<T: Real> Drop for TakenNumbers<T> {
    fn drop(&mut self) {
        // the swap that took the numbers has succeeded, so the swap back cannot fail
        let _ = self.swap();
    }
}

struct Swap<'a, T>(RefCell<&'a mut Vec<T>>);

impl<T: Real> InplaceOp1 for Swap<'_, T> {
    fn name(&self) -> &'static str {
        "swap"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        let dtype = storage.dtype();
        match T::numbers_mut(storage) {
            Some(numbers) => std::mem::swap(numbers, *self.0.borrow_mut()),
            None => bail!("an in-place update of {:?} was given {dtype:?}", T::DTYPE),
        }
        Ok(())
    }
}

/// The part of a storage that a tensor occupies.
fn numbers<'a, T: Real>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("an in-place addition needs contiguous tensors");
    };
    let dtype = storage.dtype();
    match T::numbers_mut(storage) {
        Some(numbers) => Ok(&mut numbers[start..end]),
        None => bail!("an in-place addition to {:?} was given {dtype:?}", T::DTYPE),
    }
}

/// Sum of the squares of all entries, in a fixed order; partial sums are added in f64.
///
/// # Errors
/// When candle fails.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    if !takes(x) {
        return x.detach().sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar();
    }
    fn run<T: Real>(x: &[T]) -> f64 {
        let parts: Vec<f64> = x.par_chunks(4 * BLOCK).map(optimizer::sum_of_squares).collect();
        parts.into_iter().sum()
    }
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("a CPU tensor without CPU storage") };
    Ok(match x.dtype() {
        DType::F64 => run(crate::custom::slice::<f64>((storage, layout))?),
        _ => run(crate::custom::slice::<f32>((storage, layout))?),
    })
}

/// `sum += x`, in place on the CPU where possible.
///
/// # Errors
/// When the shapes differ.
pub fn add_to(sum: &mut Tensor, x: &Tensor) -> Result<()> {
    if takes(sum) && sum.is_contiguous() && sum.shape() == x.shape() {
        return sum.inplace_op2(&x.contiguous()?, &Add);
    }
    *sum = (&*sum + x)?.detach();
    Ok(())
}

struct Add;

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "add-to"
    }

    fn cpu_fwd(&self, sum: &mut CpuStorage, sum_at: &Layout, x: &CpuStorage, x_at: &Layout) -> Result<()> {
        fn run<T: Real>(sum: &mut [T], x: &[T]) {
            sum.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(sum, x)| rows::add(sum, x));
        }
        match sum.dtype() {
            DType::F64 => run::<f64>(numbers(sum, sum_at)?, crate::custom::slice((x, x_at))?),
            _ => run::<f32>(numbers(sum, sum_at)?, crate::custom::slice((x, x_at))?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::gradcheck::filled;

    #[test]
    fn in_place_and_composed_agree() {
        // one entry more than a block, so that the update is split
        for shape in [vec![1], vec![3, 5], vec![BLOCK + 1]] {
            let start = [1, 2, 3].map(|seed| filled(&shape, seed));
            let [w, m, v] = start.clone().map(|x| x.copy().unwrap());
            let v = v.sqr().unwrap();
            let (mut m0, mut v0, mut w0) = (m.copy().unwrap(), v.copy().unwrap(), w.copy().unwrap());
            for t in 1..4 {
                let g = filled(&shape, 10 + t as usize);
                let step =
                    AdamWStep { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.3, t, gradient_scale: 0.5 };
                adamw(&[Update { w: &w, g: &g, m: &m, v: &v, step }]).unwrap();
                let g = (g * 0.5).unwrap();
                m0 = ((m0 * 0.9).unwrap() + (&g * 0.1).unwrap()).unwrap();
                v0 = ((v0 * 0.99).unwrap() + (g.sqr().unwrap() * 0.01).unwrap()).unwrap();
                let m_hat = (&m0 / (1. - 0.9f64.powi(t as i32))).unwrap();
                let v_hat = (&v0 / (1. - 0.99f64.powi(t as i32))).unwrap();
                let update = (m_hat / (v_hat.sqrt().unwrap() + 1e-8).unwrap()).unwrap();
                w0 = ((w0 * (1. - 0.03)).unwrap() - (update * 0.1).unwrap()).unwrap();
            }
            for (x, y) in [(w, w0), (m, m0), (v, v0)] {
                let difference = (x - y).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                assert!(difference < 1e-12, "{difference}");
            }
        }
    }

    #[test]
    fn a_joint_update_equals_single_updates_with_any_number_of_threads() {
        let step = |t| AdamWStep { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.3, t, gradient_scale: 0.5 };
        // mixed precisions, and parameters smaller and larger than a block
        let shapes = [vec![3], vec![BLOCK + 1], vec![2, 7], vec![40, 1000]];
        let tensors = |seed: usize| -> Vec<Tensor> {
            let dtype = |i| if i % 3 == 2 { DType::F64 } else { DType::F32 };
            let all = shapes.iter().enumerate();
            all.map(|(i, shape)| filled(shape, seed + i).to_dtype(dtype(i)).unwrap().copy().unwrap()).collect()
        };
        let run = |threads: usize, together: bool| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (w, m, v) = (tensors(1), tensors(20), tensors(40).iter().map(|x| x.sqr().unwrap()).collect::<Vec<_>>());
            for t in 1..4 {
                let g = tensors(60 + t as usize);
                let updates: Vec<Update<'_>> = (0..shapes.len())
                    .map(|i| Update { w: &w[i], g: &g[i], m: &m[i], v: &v[i], step: step(t) })
                    .collect();
                pool.install(|| {
                    if together {
                        adamw(&updates).unwrap();
                    } else {
                        updates.iter().for_each(|update| adamw(std::slice::from_ref(update)).unwrap());
                    }
                });
            }
            let bits = |x: &Tensor| x.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
            w.iter().chain(&m).chain(&v).map(bits).collect::<Vec<_>>()
        };
        let one = run(1, false);
        assert!([run(1, true), run(2, true), run(4, true)].iter().all(|all| *all == one));
    }

    #[test]
    fn invalid_updates_are_refused_before_anything_changes() {
        let (w, other) = (filled(&[2], 1), filled(&[3], 1));
        let step = AdamWStep { lr: 0.1, betas: [0.9, 0.9], eps: 1e-8, weight_decay: 0., t: 1, gradient_scale: 1. };
        let [first, m, v] = [1, 2, 3].map(|seed| filled(&[2], seed).copy().unwrap());
        let numbers = |x: &Tensor| x.to_vec1::<f64>().unwrap();
        let before = numbers(&first);
        let good = Update { w: &first, g: &w, m: &m, v: &v, step };
        assert!(adamw(&[good, Update { w: &w, g: &other, m: &m, v: &v, step }]).is_err());
        assert_eq!(numbers(&first), before);
        // the same tensor twice: refused, and the numbers are put back
        let error = adamw(&[good, good]).unwrap_err().to_string();
        assert!(error.contains("twice"), "{error}");
        assert_eq!(numbers(&first), before);
        assert_eq!(numbers(&m).len(), 2);
    }

    #[test]
    fn sums() {
        let x = Tensor::arange(0f32, 2000., &Device::Cpu).unwrap();
        let expected: f64 = (0..2000).map(|x| f64::from(x * x)).sum();
        assert!((sum_of_squares(&x).unwrap() / expected - 1.).abs() < 1e-6);
        let mut sum = x.copy().unwrap();
        add_to(&mut sum, &x).unwrap();
        assert_eq!(sum.to_vec1::<f32>().unwrap()[3], 6.);
        assert!(add_to(&mut sum, &Tensor::new(&[1f32, 2.], &Device::Cpu).unwrap()).is_err());
    }
}
