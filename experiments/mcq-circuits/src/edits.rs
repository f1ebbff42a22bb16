//! Changes of queries at the last place, and of keys and values at the labels, head by head and prompt by prompt
//! (arXiv 2307.09458, section 4): what is collected is what is changed, after biases and before any rotation.

use std::collections::BTreeMap;

use candle_core::{DType, Result as CandleResult, Tensor};
use hooks::{Hook, Layer, Point, Site};

use crate::prompts::Prompt;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Queries at the last place: one vector.
    Query,
    /// Keys at the labels: a vector for each.
    Key,
    /// Values at the labels: a vector for each.
    Value,
}

impl Space {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Query, Self::Key, Self::Value];

    /// Where it is seen.
    pub fn point(self) -> Point {
        match self {
            Self::Query => Point::Q,
            Self::Key => Point::K,
            Self::Value => Point::V,
        }
    }

    /// Its letter.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Query => "Q",
            Self::Key => "K",
            Self::Value => "V",
        }
    }

    /// Places of a prompt that count.
    pub fn places(self, prompt: &Prompt) -> Vec<usize> {
        match self {
            Self::Query => vec![prompt.tokens.len() - 1],
            Self::Key | Self::Value => prompt.labels(),
        }
    }
}

/// Changes the vectors of the prompt of this number in place.
type Change<'a> = dyn Fn(usize, &mut [Vec<f64>]) + 'a;

/// A change of one head's vectors; it is told the prompt's number in its set.
pub struct HeadEdit<'a> {
    /// Block.
    pub layer: Layer,
    /// Head.
    pub head: usize,
    /// Which vectors.
    pub space: Space,
    /// Changes the vectors of a prompt in place: one per label, or one for a query.
    pub change: Box<Change<'a>>,
}

/// Changes as a hook, for the prompts of one batch.
pub struct HeadEdits<'a> {
    /// What is changed, in this order.
    pub edits: &'a [HeadEdit<'a>],
    /// All prompts.
    pub prompts: &'a [Prompt],
    /// Which of them are in the batch, row by row.
    pub rows: Vec<usize>,
    /// Attention from the last place is watched in these blocks.
    pub watched: &'a [Layer],
    /// What was seen there, `[batch, heads, seq]` by block.
    pub seen: BTreeMap<Layer, Tensor>,
}

impl HeadEdits<'_> {
    fn watches(&self, site: Site) -> Option<Layer> {
        self.watched.iter().copied().find(|layer| site == Site::Block(*layer, Point::Pattern))
    }

    fn at(&self, site: Site) -> impl Iterator<Item = &HeadEdit<'_>> {
        self.edits.iter().filter(move |edit| Site::Block(edit.layer, edit.space.point()) == site)
    }
}

impl Hook for HeadEdits<'_> {
    fn wants(&self, site: Site) -> bool {
        self.at(site).next().is_some() || self.watches(site).is_some()
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> CandleResult<Tensor> {
        if let Some(layer) = self.watches(site) {
            let last = tensor.narrow(2, tensor.dim(2)? - 1, 1)?.squeeze(2)?;
            self.seen.insert(layer, last.contiguous()?);
            return Ok(tensor);
        }
        let (batch, seq, heads, width) = tensor.dims4()?;
        let mut numbers = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let at = |row: usize, place: usize, head: usize| ((row * seq + place) * heads + head) * width;
        for edit in self.at(site) {
            for (row, index) in self.rows.iter().enumerate().take(batch) {
                let places = edit.space.places(&self.prompts[*index]);
                let vector = |place: &usize| {
                    let from = at(row, *place, edit.head);
                    numbers[from..from + width].iter().map(|x| f64::from(*x)).collect::<Vec<f64>>()
                };
                let mut vectors: Vec<Vec<f64>> = places.iter().map(vector).collect();
                (edit.change)(*index, &mut vectors);
                for (place, vector) in places.iter().zip(&vectors) {
                    let from = at(row, *place, edit.head);
                    numbers[from..from + width].iter_mut().zip(vector).for_each(|(to, x)| *to = *x as f32);
                }
            }
        }
        Tensor::from_vec(numbers, (batch, seq, heads, width), tensor.device())?.to_dtype(tensor.dtype())
    }
}
