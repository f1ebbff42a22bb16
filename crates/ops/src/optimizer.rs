//! In-place updates.

use std::cell::RefCell;

use candle_core::{
    CpuStorage, DType, InplaceOp1, InplaceOp2, Layout, Result, Storage, Tensor, backend::BackendStorage, bail,
};
use rayon::prelude::*;

use crate::custom::takes;
use crate::kernel::{Real, optimizer, rows};

/// Numbers in one part of an update.
const BLOCK: usize = 1 << 14;

/// One update of AdamW (arXiv 1711.05101) for one parameter.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the two running means.
    pub betas: [f64; 2],
    /// Added to the root of the second running mean.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub t: u64,
    /// Factor on the gradient before anything else.
    pub gradient_scale: f64,
}

/// Updates a parameter and its two running means in place: `m` and `v` move towards `g` and `g^2`, and
/// `w -= lr (m^ / (sqrt(v^) + eps) + decay w)` with bias-corrected means.
///
/// On the CPU this is one pass over all four, split over threads; elsewhere it is composed from candle's operations.
///
/// # Shapes
/// All alike.
///
/// # Errors
/// When the shapes differ, or one of the tensors is a view that does not own its numbers.
pub fn adamw(w: &Tensor, g: &Tensor, m: &Tensor, v: &Tensor, step: &AdamWStep) -> Result<()> {
    let g = g.detach();
    if takes(w) {
        let g = g.contiguous()?;
        return match w.dtype() {
            DType::F64 => w.inplace_op1(&Outer { g: &g, m, v, step: step_of::<f64>(step) }),
            _ => w.inplace_op1(&Outer { g: &g, m, v, step: step_of::<f32>(step) }),
        };
    }
    let AdamWStep { lr, betas: [beta1, beta2], eps, weight_decay, t, gradient_scale } = *step;
    let g = (g * gradient_scale)?;
    let set = |to: &Tensor, from: Tensor| -> Result<()> { to.slice_set(&flat(from)?, 0, 0) };
    let (w, m, v) = (flat(w.clone())?, flat(m.clone())?, flat(v.clone())?);
    let g = flat(g)?;
    set(&m, ((&m * beta1)? + (&g * (1. - beta1))?)?)?;
    set(&v, ((&v * beta2)? + (g.sqr()? * (1. - beta2))?)?)?;
    let correct = |x: &Tensor, beta: f64| x / (1. - beta.powf(t as f64));
    let update = (correct(&m, beta1)? / (correct(&v, beta2)?.sqrt()? + eps)?)?;
    set(&w, ((&w * (1. - lr * weight_decay))? - (update * lr)?)?)
}

/// One row, which shares its numbers with the tensor.
fn flat(x: Tensor) -> Result<Tensor> {
    x.detach().flatten_all()
}

fn step_of<T: Real>(step: &AdamWStep) -> optimizer::Step<T> {
    optimizer::Step::new(step.lr, step.betas, step.eps, step.weight_decay, step.t, step.gradient_scale)
}

/// candle lends out the numbers of one tensor at a time, so three nested operations collect those of three.
struct Outer<'a, T> {
    g: &'a Tensor,
    m: &'a Tensor,
    v: &'a Tensor,
    step: optimizer::Step<T>,
}

struct Middle<'a, T> {
    w: RefCell<&'a mut [T]>,
    outer: &'a Outer<'a, T>,
}

struct Inner<'a, T> {
    w: RefCell<&'a mut [T]>,
    m: RefCell<&'a mut [T]>,
    step: &'a optimizer::Step<T>,
}

fn numbers<'a, T: Real>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("an update in place needs contiguous tensors");
    };
    let dtype = storage.dtype();
    match T::numbers_mut(storage) {
        Some(numbers) => Ok(&mut numbers[start..end]),
        None => bail!("an update in place of {:?} was given {dtype:?}", T::DTYPE),
    }
}

impl<T: Real> InplaceOp1 for Outer<'_, T> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, w: &mut CpuStorage, layout: &Layout) -> Result<()> {
        if self.g.shape() != layout.shape() || self.m.shape() != layout.shape() || self.v.shape() != layout.shape() {
            bail!("adamw: gradient {:?} or means for a parameter {:?}", self.g.shape(), layout.shape());
        }
        self.m.inplace_op1(&Middle { w: RefCell::new(numbers(w, layout)?), outer: self })
    }
}

impl<T: Real> InplaceOp1 for Middle<'_, T> {
    fn name(&self) -> &'static str {
        "adamw-mean"
    }

    fn cpu_fwd(&self, m: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let mut w = self.w.borrow_mut();
        let inner = Inner { w: RefCell::new(&mut w), m: RefCell::new(numbers(m, layout)?), step: &self.outer.step };
        self.outer.v.inplace_op2(self.outer.g, &inner)
    }
}

impl<T: Real> InplaceOp2 for Inner<'_, T> {
    fn name(&self) -> &'static str {
        "adamw-square"
    }

    fn cpu_fwd(&self, v: &mut CpuStorage, v_at: &Layout, g: &CpuStorage, g_at: &Layout) -> Result<()> {
        let (mut w, mut m, v) = (self.w.borrow_mut(), self.m.borrow_mut(), numbers(v, v_at)?);
        let g = crate::custom::slice::<T>((g, g_at))?;
        if g.len() <= BLOCK {
            optimizer::adamw(self.step, &mut w, g, &mut m, v);
            return Ok(());
        }
        let means = m.par_chunks_mut(BLOCK).zip(v.par_chunks_mut(BLOCK));
        w.par_chunks_mut(BLOCK)
            .zip(g.par_chunks(BLOCK))
            .zip(means)
            .for_each(|((w, g), (m, v))| optimizer::adamw(self.step, w, g, m, v));
        Ok(())
    }
}

/// Sum of the squares of all entries, in a fixed order, blocks of it in f64.
///
/// # Errors
/// When candle fails.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    if !takes(x) {
        return x.detach().sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar();
    }
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("a tensor of the CPU without its numbers") };
    Ok(match x.dtype() {
        DType::F64 => optimizer::sum_of_squares(crate::custom::slice::<f64>((storage, layout))?),
        _ => optimizer::sum_of_squares(crate::custom::slice::<f32>((storage, layout))?),
    })
}

/// `sum += x`, in place on the CPU.
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
                adamw(&w, &g, &m, &v, &step).unwrap();
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
    fn another_shape_is_refused() {
        let (w, other) = (filled(&[2], 1), filled(&[3], 1));
        let step = AdamWStep { lr: 0.1, betas: [0.9, 0.9], eps: 1e-8, weight_decay: 0., t: 1, gradient_scale: 1. };
        let before = w.to_vec1::<f64>().unwrap();
        assert!(adamw(&w, &other, &w.copy().unwrap(), &w.copy().unwrap(), &step).is_err());
        assert_eq!(w.to_vec1::<f64>().unwrap(), before);
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
