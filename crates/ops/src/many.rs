//! Backward passes through operations with more inputs than candle's custom operations can have.
//!
//! Such an operation takes one input of its own, so that candle's graph reaches it, and hands the gradients of the rest
//! over with [`deposit`]. [`backward`] puts them beside candle's.

use std::cell::RefCell;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, bail};

thread_local! {
    /// Gradients handed over in the backward pass that runs on this thread, if one does.
    static DEPOSITED: RefCell<Option<Vec<(Tensor, Tensor)>>> = const { RefCell::new(None) };
}

/// Gradients of a scalar with respect to everything it was computed from.
///
/// As [`Tensor::backward`], which fails where a [`deposit`] is made.
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

/// Hands over a gradient from inside a custom operation's backward pass.
///
/// # Errors
/// When the pass was not started by [`backward`]: the gradient would be lost.
pub fn deposit(of: &Tensor, gradient: Tensor) -> Result<()> {
    DEPOSITED.with_borrow_mut(|deposited| match deposited {
        Some(deposited) => {
            deposited.push((of.clone(), gradient));
            Ok(())
        }
        None => bail!(
            "this operation has more inputs than candle can follow: call ops::backward(&loss), not loss.backward()"
        ),
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Var};

    use super::*;

    /// `handle + a`, whose gradient for `a` is handed over.
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
    fn gradients_are_found_beside_candles_and_add_up() {
        let a = Var::new(3f64, &Device::Cpu).unwrap();
        let handle = Var::new(0f64, &Device::Cpu).unwrap();
        let twice = || handle.as_tensor().apply_op1(Sum { a: a.clone() }).unwrap();
        let loss = ((twice() * 2.).unwrap() + (twice() * a.as_tensor()).unwrap()).unwrap();
        // 2 a + a a at a = 3
        assert_eq!(backward(&loss).unwrap().get(&a).unwrap().to_scalar::<f64>().unwrap(), 8.);
        assert!(loss.backward().unwrap_err().to_string().contains("ops::backward"));
    }
}
