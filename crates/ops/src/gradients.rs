//! Backward passes through operations with more inputs than candle's custom operations support.
//!
//! Such an operation has one input in candle's graph, so that the backward pass reaches it. It records the gradients of its
//! other inputs with [`deposit`], and [`backward`] adds them to candle's.

use std::cell::RefCell;
use std::sync::Mutex;

use candle_core::backend::BackendStorage;
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, Var, bail};

thread_local! {
    /// Gradients deposited during the backward pass of this thread; `None` when no pass runs.
    static DEPOSITED: RefCell<Option<Vec<(Tensor, Tensor)>>> = const { RefCell::new(None) };
}

/// Gradients of a scalar with respect to every variable that it was computed from.
///
/// Use it instead of [`Tensor::backward`], which fails in operations that [`deposit`] gradients.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
///
/// let x = Var::from_tensor(&Tensor::new(&[1f64, 2., 3.], &Device::Cpu)?)?;
/// let gradients = ops::backward(&x.sqr()?.sum_all()?)?;
/// assert_eq!(gradients.get(&x).unwrap().to_vec1::<f64>()?, [2., 4., 6.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When candle or an operation fails.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    let outer = DEPOSITED.replace(Some(Vec::new()));
    let store = loss.backward();
    let deposited = DEPOSITED.replace(outer).unwrap_or_default();
    let mut store = store?;
    for (of, gradient) in deposited {
        let gradient = match store.remove(&of) {
            Some(before) => (before + gradient)?,
            None => gradient,
        };
        store.insert(&of, gradient);
    }
    Ok(store)
}

/// Records a gradient from inside the backward pass of a custom operation.
///
/// # Errors
/// When the pass was not started by [`backward`], because the gradient would then be lost.
pub fn deposit(of: &Tensor, gradient: Tensor) -> Result<()> {
    DEPOSITED.with_borrow_mut(|deposited| match deposited {
        Some(deposited) => {
            deposited.push((of.clone(), gradient));
            Ok(())
        }
        None => bail!(
            "this operation has more inputs than candle's graph supports: call ops::backward(&loss), not loss.backward()"
        ),
    })
}

/// Deposits the gradient of a variable if [`backward`] runs, and returns any other gradient for candle to handle.
///
/// Depositing is faster for variables: candle would allocate a tensor of zeros and add the gradient to it.
pub(crate) fn offer(of: &Tensor, gradient: Option<Tensor>) -> Option<Tensor> {
    let gradient = gradient?;
    if !of.is_variable() {
        return Some(gradient);
    }
    DEPOSITED.with_borrow_mut(|deposited| match deposited {
        Some(deposited) => {
            deposited.push((of.clone(), gradient));
            None
        }
        None => Some(gradient),
    })
}

/// Gradient checkpointing (arXiv 1604.06174): `run(x)` of which only `x` and the result stay in memory. The backward pass
/// runs it again, to the same bytes.
///
/// `out` is the result of `run(x)`; `parameters` are the variables that `run` reads, whose gradients are [`deposit`]ed.
///
/// # Errors
/// When candle fails.
pub fn run_again(
    x: &Tensor,
    out: Tensor,
    parameters: Vec<Tensor>,
    run: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    x.apply_op1(Again { out: Mutex::new(Some(out.detach().contiguous()?)), parameters, run: Box::new(run) })
}

type Run = Box<dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync>;

struct Again {
    out: Mutex<Option<Tensor>>,
    parameters: Vec<Tensor>,
    run: Run,
}

impl Again {
    fn out(&self) -> Result<Tensor> {
        match self.out.lock().ok().and_then(|mut out| out.take()) {
            Some(out) if out.layout().start_offset() == 0 => Ok(out),
            Some(out) => out.force_contiguous(),
            None => bail!("run-again: the forward pass ran twice"),
        }
    }
}

impl CustomOp1 for Again {
    fn name(&self) -> &'static str {
        "run-again"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.out()?;
        let (storage, layout) = out.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("run-again: the result and its input are on different devices"),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let out = self.out()?;
        let (storage, layout) = out.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("run-again: the result and its input are on different devices"),
        }
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let x = Var::from_tensor(&x.detach())?;
        let y = (self.run)(x.as_tensor())?;
        let mut store = backward(&(y * dy)?.sum_all()?)?;
        for parameter in &self.parameters {
            if let Some(gradient) = store.remove(parameter) {
                // candle's gradients still hold the graph that they were computed from
                deposit(parameter, gradient.detach())?;
            }
        }
        Ok(store.remove(x.as_tensor()).map(|dx| dx.detach()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// `handle + a`, which deposits the gradient of `a`.
    struct Sum {
        a: Var,
    }

    impl CustomOp1 for Sum {
        fn name(&self) -> &'static str {
            "sum"
        }

        fn cpu_fwd(&self, handle: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
            let a = self.a.as_tensor().to_scalar::<f64>()?;
            Ok((CpuStorage::F64(vec![handle.as_slice::<f64>()?[0] + a]), Shape::from(())))
        }

        fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
            deposit(self.a.as_tensor(), dy.clone())?;
            Ok(Some(dy.clone()))
        }
    }

    #[test]
    fn deposited_gradients_equal_those_of_candle() {
        let var = |shape: (usize, usize), seed| {
            Var::from_tensor(&crate::gradcheck::filled(&[shape.0, shape.1], seed)).unwrap()
        };
        let (x, w, b) = (var((5, 3), 1), var((3, 4), 2), Var::from_tensor(&crate::gradcheck::filled(&[4], 3)).unwrap());
        // the weight is used in two maps and once elsewhere, so that gradients must add up
        let once = crate::linear(x.as_tensor(), w.as_tensor(), Some(b.as_tensor())).unwrap();
        let twice = crate::linear(&x.sqr().unwrap(), w.as_tensor(), Some(b.as_tensor())).unwrap();
        let loss = ((once * twice).unwrap().sum_all().unwrap() + w.sqr().unwrap().sum_all().unwrap()).unwrap();
        let (ours, candles) = (backward(&loss).unwrap(), loss.backward().unwrap());
        for var in [&x, &w, &b] {
            let both = [&ours, &candles].map(|store| store.get(var).unwrap().flatten_all().unwrap());
            let away = (&both[0] - &both[1]).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(away < 1e-12, "{away}");
        }
    }

    #[test]
    fn deposited_gradients_are_added_to_those_of_candle() {
        let a = Var::new(3f64, &Device::Cpu).unwrap();
        let handle = Var::new(0f64, &Device::Cpu).unwrap();
        let twice = || handle.as_tensor().apply_op1(Sum { a: a.clone() }).unwrap();
        let loss = ((twice() * 2.).unwrap() + (twice() * a.as_tensor()).unwrap()).unwrap();
        // 2 a + a a at a = 3
        assert_eq!(backward(&loss).unwrap().get(&a).unwrap().to_scalar::<f64>().unwrap(), 8.);
        assert!(loss.backward().unwrap_err().to_string().contains("ops::backward"));
    }

    #[test]
    fn checkpointing_gives_the_same_bytes() {
        let var = |shape: &[usize], seed| Var::from_tensor(&crate::gradcheck::filled(shape, seed)).unwrap();
        let (x, w, b) = (var(&[5, 3], 1), var(&[3, 3], 2), var(&[3], 3));
        let block = |x: &Tensor, w: &Tensor, b: &Tensor| x + crate::gelu_tanh(&crate::linear(x, w, Some(b))?)?;
        let gradients = |again: bool| {
            let part = |x: &Tensor| -> Result<Tensor> {
                if !again {
                    return block(x, w.as_tensor(), b.as_tensor());
                }
                let (w, b) = (w.as_tensor().clone(), b.as_tensor().clone());
                let out = block(x, &w, &b)?;
                run_again(x, out, vec![w.clone(), b.clone()], move |x| block(x, &w, &b))
            };
            // twice through the same weights
            let y = part(&part(&x.sqr().unwrap()).unwrap()).unwrap();
            let store = backward(&y.sqr().unwrap().sum_all().unwrap()).unwrap();
            let bits = |var: &Var| store.get(var).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            [bits(&x), bits(&w), bits(&b)].map(|values| values.into_iter().map(f64::to_bits).collect::<Vec<_>>())
        };
        assert_eq!(gradients(true), gradients(false));
        let (w, b) = (w.as_tensor().clone(), b.as_tensor().clone());
        let out = block(x.as_tensor(), &w, &b).unwrap();
        let y = run_again(x.as_tensor(), out, vec![w.clone(), b.clone()], move |x| block(x, &w, &b)).unwrap();
        assert!(y.sum_all().unwrap().backward().unwrap_err().to_string().contains("ops::backward"));
    }
}
