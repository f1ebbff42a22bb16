//! The output of a fast pass with losses, and its layout in the one flat vector that candle's graph can hold.
//!
//! candle's custom operations return one tensor. The layout of the vector is the order in which [`Output::try_map`]
//! visits the parts; joining, splitting and slicing all go through it.

use std::ops::Range;

use candle_core::{Result, Tensor};

/// The parts of the output: numbers, slices, tensors, or only their lengths.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Output<P> {
    /// Loss of each counted target.
    pub(crate) losses: P,
    /// Head outputs of each tapped block, `[rows, d_model]`.
    pub(crate) z: Vec<P>,
    /// Scales of the norms' inputs, if requested.
    pub(crate) norm_scales: Option<Scales<P>>,
}

/// The scales of the norms' inputs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scales<P> {
    /// Of every row before the final norm.
    pub(crate) ln_final: P,
    /// Mean before the attention of each block.
    pub(crate) ln1: P,
    /// Mean before the MLP of each block.
    pub(crate) ln2: P,
}

impl<P> Output<P> {
    /// Applies `f` to every part, in the order of the layout.
    fn try_map<Q>(self, mut f: impl FnMut(P) -> Result<Q>) -> Result<Output<Q>> {
        Ok(Output {
            losses: f(self.losses)?,
            z: self.z.into_iter().map(&mut f).collect::<Result<_>>()?,
            norm_scales: match self.norm_scales {
                Some(Scales { ln_final, ln1, ln2 }) => {
                    Some(Scales { ln_final: f(ln_final)?, ln1: f(ln1)?, ln2: f(ln2)? })
                }
                None => None,
            },
        })
    }
}

impl<T: Copy> Output<Vec<T>> {
    /// The flat vector.
    pub(super) fn join(self) -> Result<Vec<T>> {
        let mut flat = Vec::new();
        self.try_map(|part| {
            flat.extend_from_slice(&part);
            Ok(())
        })?;
        Ok(flat)
    }
}

impl Output<usize> {
    fn ranges(self) -> Result<Output<Range<usize>>> {
        let mut end = 0;
        self.try_map(|length| {
            end += length;
            Ok(end - length..end)
        })
    }

    /// The parts of a flat tensor; gradients flow back through all of them.
    pub(super) fn split(self, flat: &Tensor) -> Result<Output<Tensor>> {
        self.ranges()?.try_map(|range| flat.narrow(0, range.start, range.len()))
    }

    /// The parts of a flat slice, such as the gradient of the flat tensor.
    pub(super) fn slices<T>(self, flat: &[T]) -> Result<Output<&[T]>> {
        self.ranges()?.try_map(|range| match flat.get(range.clone()) {
            Some(part) => Ok(part),
            None => candle_core::bail!("the fast pass expected a gradient up to {}, got {}", range.end, flat.len()),
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn splitting_and_slicing_undo_joining() {
        let scales = |norm_scales: bool| {
            norm_scales.then(|| Scales { ln_final: vec![5., 6., 7.], ln1: vec![8., 9.], ln2: vec![10., 11.] })
        };
        for norm_scales in [false, true] {
            let output =
                Output { losses: vec![1f32], z: vec![vec![2., 3.], vec![4., 4.]], norm_scales: scales(norm_scales) };
            let lengths = output.clone().try_map(|part| Ok(part.len())).unwrap();
            let flat = output.clone().join().unwrap();
            let tensor = Tensor::new(flat.as_slice(), &Device::Cpu).unwrap();
            let split = lengths.clone().split(&tensor).unwrap().try_map(|part| part.to_vec1::<f32>()).unwrap();
            assert_eq!(split, output);
            let slices = lengths.clone().slices(&flat).unwrap().try_map(|part| Ok(part.to_vec())).unwrap();
            assert_eq!(slices, output);
            assert!(lengths.slices(&flat[1..]).is_err());
        }
    }
}
