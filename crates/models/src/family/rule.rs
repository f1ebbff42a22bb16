//! How tensors of a checkpoint map to ours, in both directions.

use candle_core::{Result, Tensor};

/// A group of tensors of the checkpoint and the tensors of ours that hold the same numbers: theirs stacked along rows,
/// and transposed, are ours stacked along columns.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// Our names, in the order of their columns.
    pub(crate) ours: Vec<String>,
    /// Their names and numbers of rows; a single tensor has all rows, whatever its number says.
    pub(crate) theirs: Vec<(String, usize)>,
    pub(crate) layout: Layout,
}

/// The layout of their tensor compared with ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// The same.
    Same,
    /// Theirs is `[out, in]`, ours `[in, out]`; vectors are the same.
    Transposed,
    /// Transposed, with query, key and value of each head together, `[heads, 3, d_head]` along the rows (GPT-NeoX).
    HeadByHead(usize),
}

impl Rule {
    pub(crate) fn new(ours: String, theirs: String, layout: Layout) -> Self {
        Self { ours: vec![ours], theirs: vec![(theirs, 1)], layout }
    }

    /// Ours, stacked along columns, from theirs.
    pub(crate) fn read(&self, theirs: &[Tensor]) -> Result<Tensor> {
        let theirs = match theirs {
            [one] => one.clone(),
            many => Tensor::cat(many, 0)?,
        };
        match self.layout {
            Layout::Same => Ok(theirs),
            Layout::Transposed => transposed(&theirs),
            Layout::HeadByHead(heads) => transposed(&regrouped(&theirs, [heads, 3])?),
        }
    }

    /// Theirs, stacked along rows, from ours.
    pub(crate) fn write(&self, ours: &[Tensor]) -> Result<Tensor> {
        let ours = match ours {
            [one] => one.clone(),
            many => Tensor::cat(many, many[0].rank() - 1)?,
        };
        match self.layout {
            Layout::Same => Ok(ours),
            Layout::Transposed => transposed(&ours),
            Layout::HeadByHead(heads) => regrouped(&transposed(&ours)?, [3, heads]),
        }
    }
}

fn transposed(x: &Tensor) -> Result<Tensor> {
    if x.rank() == 2 { ops::transposed(x) } else { Ok(x.clone()) }
}

/// Swaps the outer and inner grouping of rows.
fn regrouped(x: &Tensor, [outer, inner]: [usize; 2]) -> Result<Tensor> {
    let shape = x.dims().to_vec();
    let rest: usize = shape[1..].iter().product();
    let width = shape[0] / (outer * inner);
    x.reshape((outer, inner, width, rest))?.transpose(0, 1)?.contiguous()?.reshape(shape)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn writing_undoes_reading() {
        let cpu = &Device::Cpu;
        let x = Tensor::arange(0f32, 60., cpu).unwrap().reshape((12, 5)).unwrap();
        let bias = Tensor::arange(0f32, 12., cpu).unwrap();
        for layout in [Layout::Same, Layout::Transposed, Layout::HeadByHead(2)] {
            let rule = Rule::new(String::new(), String::new(), layout);
            for x in [&x, &bias] {
                let again = rule.write(&[rule.read(std::slice::from_ref(x)).unwrap()]).unwrap();
                assert_eq!(again.dims(), x.dims());
                let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(flat(&again), flat(x));
            }
        }
    }

    #[test]
    fn queries_keys_and_values_of_heads_are_separated() {
        // two heads of width one: q0 k0 v0 q1 k1 v1
        let bias = Tensor::new(&[10f32, 20., 30., 11., 21., 31.], &Device::Cpu).unwrap();
        let ours = Rule::new(String::new(), String::new(), Layout::HeadByHead(2)).read(&[bias]).unwrap();
        assert_eq!(ours.to_vec1::<f32>().unwrap(), [10., 11., 20., 21., 30., 31.]);
    }
}
