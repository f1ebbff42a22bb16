//! Reading documents: the states of their last tokens, and what the model would say next.

use anyhow::Result;
use candle_core::{D, DType, Tensor};
use capture::{Keep, Recorder};
use hooks::{End, HookedModel, Layer, NoHook, Point, Site, Start};
use rayon::prelude::*;

use crate::layers::{States, states_of};
use crate::source::Subject;

/// What was seen of one document.
#[derive(Clone, Debug)]
pub struct Seen<T> {
    /// States of the last token.
    pub states: States,
    /// Sum of the embeddings of all tokens.
    pub embeddings: Vec<f32>,
    /// What was made of what comes next, where that was asked for.
    pub next: Option<T>,
}

/// What a model would say next, and what its states say when they are unembedded as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    /// Logits of the next token.
    pub logits: Vec<f32>,
    /// Of each state, the likeliest token and its probability, without and with the final norm.
    pub lens: Vec<[(u32, f32); 2]>,
}

/// Sites of the states of indices ⌊L/2⌋ to L; the last one is behind the final norm.
pub fn sites(subject: &Subject) -> Vec<Site> {
    let n_layers = subject.model.n_layers();
    let first = n_layers + 1 - states_of(n_layers);
    let blocks = (first..n_layers).map(|index| Site::Block(Layer(index - 1), Point::ResidPost));
    blocks.chain([Site::FinalNormalized]).collect()
}

/// Makes something of what a document, by its place, goes on with.
pub type Judge<'a, T> = &'a (dyn Fn(usize, &Next) -> T + Sync);

/// Reads documents, `batch` of one length at a time, and gives what was seen in their order.
pub fn read<T: Clone + Send>(
    subject: &Subject,
    documents: &[Vec<u32>],
    batch: usize,
    judge: Option<Judge<'_, T>>,
) -> Result<Vec<Seen<T>>> {
    let sites = sites(subject);
    let model = &subject.model;
    let mut seen: Vec<Option<Seen<T>>> = (0..documents.len()).map(|_| None).collect();
    for places in tokens::of_one_length(documents.iter().map(Vec::len), batch) {
        let ids: Vec<u32> = places.iter().flat_map(|place| documents[*place].iter().copied()).collect();
        let ids = Tensor::from_vec(ids, (places.len(), documents[places[0]].len()), &model.device())?;
        let last = Keep { positions: Some(vec![-1]), heads: None };
        let mut recorder = Recorder::new(model, &sites)?.keeping(last);
        let logits = model.forward_between(Start::Tokens(&ids), End::LastLogits(1), &mut recorder)?.squeeze(1)?;
        let states: Vec<Tensor> = sites
            .iter()
            .map(|site| Ok(recorder.get(*site)?.squeeze(1)?.to_dtype(DType::F32)?.contiguous()?))
            .collect::<Result<_>>()?;
        let embedded = ops::embedding(&ids, &subject.embedding)?.to_dtype(DType::F32)?.sum(1)?.to_vec2::<f32>()?;
        let lens = if judge.is_some() { Some(lens(subject, &states)?) } else { None };
        let logits = if judge.is_some() { Some(logits.to_dtype(DType::F32)?.to_vec2::<f32>()?) } else { None };
        let rows: Vec<Vec<Vec<f32>>> = states.iter().map(|x| Ok(x.to_vec2::<f32>()?)).collect::<Result<_>>()?;
        let of: Vec<Seen<T>> = (0..places.len())
            .into_par_iter()
            .map(|row| Seen {
                states: States::new(rows.iter().map(|state| state[row].clone()).collect()),
                embeddings: embedded[row].clone(),
                next: judge.zip(logits.as_ref().zip(lens.as_ref())).map(|(judge, (logits, lens))| {
                    let lens = lens.iter().map(|[raw, normed]| [raw[row], normed[row]]).collect();
                    judge(places[row], &Next { logits: logits[row].clone(), lens })
                }),
            })
            .collect();
        places.iter().zip(of).for_each(|(place, of)| seen[*place] = Some(of));
    }
    // every place belongs to one length, and every length was read
    Ok(seen.into_iter().flatten().collect())
}

/// Likeliest tokens of a batch and their probabilities.
type Likeliest = Vec<(u32, f32)>;

/// Each state unembedded as it is, and behind the final norm; the last state has been through it.
fn lens(subject: &Subject, states: &[Tensor]) -> Result<Vec<[Likeliest; 2]>> {
    let model = &subject.model;
    let unembed = |x: &Tensor| match &subject.unembedding {
        Some(w) => ops::linear(x, w, None),
        None => ops::linear_transposed(x, &subject.embedding, None),
    };
    let last = states.len() - 1;
    let each = |(index, x): (usize, &Tensor)| {
        let raw = likeliest(&unembed(x)?)?;
        let normed = match index == last {
            true => raw.clone(),
            false => {
                let start = x.unsqueeze(1)?;
                let start = Start::Resid(Layer(model.n_layers()), &start);
                likeliest(&model.forward_between(start, End::Logits, &mut NoHook)?.squeeze(1)?)?
            }
        };
        Ok([raw, normed])
    };
    states.iter().enumerate().map(each).collect()
}

fn likeliest(logits: &Tensor) -> Result<Likeliest> {
    let logits = logits.to_dtype(DType::F32)?;
    let ids = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let all = logits.log_sum_exp(D::Minus1)?.to_vec1::<f32>()?;
    let most = logits.max(D::Minus1)?.to_vec1::<f32>()?;
    Ok(ids.into_iter().zip(most.iter().zip(all).map(|(most, all)| (most - all).exp())).collect())
}
