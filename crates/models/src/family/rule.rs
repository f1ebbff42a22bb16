//! How tensors of a checkpoint make up ours, readable in both directions.

use candle_core::{Result, Tensor};

/// Some tensors of ours are some of theirs: theirs one below the other, rotary_dim, are ours side by side.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// Our names, in the order of their columns.
    pub(crate) ours: Vec<String>,
    /// Their names and how many rows each has; one row stands for as many as there are.
    pub(crate) theirs: Vec<(String, usize)>,
    pub(crate) turn: Turn,
}

/// What happens between their tensor and ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing.
    Same,
    /// They keep `[out, in]`, we `[in, out]`; vectors stay as they are.
    Transposed,
    /// GPT-NeoX keeps query, key and value of each head together, `[heads, 3, d_head]` along its rows; transposed too.
    HeadByHead(usize),
}

impl Rule {
    pub(crate) fn new(ours: String, theirs: String, turn: Turn) -> Self {
        Self { ours: vec![ours], theirs: vec![(theirs, 1)], turn }
    }

    /// Ours, side by side, from theirs.
    pub(crate) fn read(&self, theirs: &[Tensor]) -> Result<Tensor> {
        let theirs = match theirs {
            [one] => one.clone(),
            many => Tensor::cat(many, 0)?,
        };
        match self.turn {
            Turn::Same => Ok(theirs),
            Turn::Transposed => transposed(&theirs),
            Turn::HeadByHead(heads) => transposed(&regrouped(&theirs, [heads, 3])?),
        }
    }

    /// Theirs, one below the other, from ours.
    pub(crate) fn write(&self, ours: &[Tensor]) -> Result<Tensor> {
        let ours = match ours {
            [one] => one.clone(),
            many => Tensor::cat(many, many[0].rank() - 1)?,
        };
        match self.turn {
            Turn::Same => Ok(ours),
            Turn::Transposed => transposed(&ours),
            Turn::HeadByHead(heads) => regrouped(&transposed(&ours)?, [3, heads]),
        }
    }
}

fn transposed(x: &Tensor) -> Result<Tensor> {
    if x.rank() == 2 { ops::transposed(x) } else { Ok(x.clone()) }
}

/// Rows in groups of groups, the two groupings swapped.
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
    fn what_is_written_is_read() {
        let cpu = &Device::Cpu;
        let x = Tensor::arange(0f32, 60., cpu).unwrap().reshape((12, 5)).unwrap();
        let bias = Tensor::arange(0f32, 12., cpu).unwrap();
        for turn in [Turn::Same, Turn::Transposed, Turn::HeadByHead(2)] {
            let rule = Rule::new(String::new(), String::new(), turn);
            for x in [&x, &bias] {
                let again = rule.write(&[rule.read(std::slice::from_ref(x)).unwrap()]).unwrap();
                assert_eq!(again.dims(), x.dims());
                let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(flat(&again), flat(x));
            }
        }
    }

    #[test]
    fn heads_are_taken_apart() {
        // two heads of width one: q0 k0 v0 q1 k1 v1
        let bias = Tensor::new(&[10f32, 20., 30., 11., 21., 31.], &Device::Cpu).unwrap();
        let ours = Rule::new(String::new(), String::new(), Turn::HeadByHead(2)).read(&[bias]).unwrap();
        assert_eq!(ours.to_vec1::<f32>().unwrap(), [10., 11., 20., 21., 30., 31.]);
    }
}
