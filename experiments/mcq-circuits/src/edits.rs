//! Edits of queries at the last position, and of keys and values at the labels, by head and prompt (arXiv 2307.09458,
//! section 4).
//!
//! Vectors are collected and edited at the same sites: after biases and before any rotary embedding.

use std::collections::BTreeMap;

use candle_core::{DType, Result as CandleResult, Tensor};
use hooks::{Hook, Layer, Point, Site};

use crate::prompts::Prompt;

/// The vectors to edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// The query at the last position: one vector.
    Query,
    /// The keys at the labels: one vector per label.
    Key,
    /// The values at the labels: one vector per label.
    Value,
}

impl Space {
    /// All spaces, in declaration order.
    pub const ALL: [Self; 3] = [Self::Query, Self::Key, Self::Value];

    /// The hook point of these vectors.
    pub fn point(self) -> Point {
        match self {
            Self::Query => Point::Q,
            Self::Key => Point::K,
            Self::Value => Point::V,
        }
    }

    /// The letter in tables.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Query => "Q",
            Self::Key => "K",
            Self::Value => "V",
        }
    }

    /// The positions of a prompt whose vectors are edited.
    pub fn places(self, prompt: &Prompt) -> Vec<usize> {
        match self {
            Self::Query => vec![prompt.tokens.len() - 1],
            Self::Key | Self::Value => prompt.labels(),
        }
    }
}

/// Edits, in place, the vectors of the prompt with this index.
type Change<'a> = dyn Fn(usize, &mut [Vec<f64>]) + 'a;

/// An edit of one head's vectors.
pub struct HeadEdit<'a> {
    /// The block index.
    pub layer: Layer,
    /// The head index in the block.
    pub head: usize,
    /// The vectors to edit.
    pub space: Space,
    /// Edits the vectors of a prompt in place: one per label, or one for a query. Receives the prompt's index in its
    /// set.
    pub change: Box<Change<'a>>,
}

/// A hook that applies edits to the prompts of one batch.
pub struct HeadEdits<'a> {
    /// The edits, applied in this order.
    pub edits: &'a [HeadEdit<'a>],
    /// All prompts of the set.
    pub prompts: &'a [Prompt],
    /// The indices of the batch's prompts, row by row.
    pub rows: Vec<usize>,
    /// The blocks whose attention from the last position is recorded.
    pub watched: &'a [Layer],
    /// The recorded attention, `[batch, heads, seq]` by block.
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
