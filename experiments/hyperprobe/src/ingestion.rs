//! Runs a model on documents and reads the states of their last tokens and the predicted next token.

use anyhow::Result;
use candle_core::{D, DType, Tensor};
use capture::{Keep, Recorder};
use hooks::{End, HookedModel, Layer, NoHook, Point, Site, Start};
use rayon::prelude::*;

use crate::layers::{States, states_of};
use crate::source::Subject;

/// The readings of one document.
#[derive(Clone, Debug)]
pub struct Seen<T> {
    /// The states of the last token.
    pub states: States,
    /// The sum of the embeddings of all tokens, `[d_model]`.
    pub embeddings: Vec<f32>,
    /// The evaluation of the next token, if one was requested.
    pub next: Option<T>,
}

/// The model's prediction after a document, and the predictions obtained by unembedding its states (the logit lens).
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    /// The logits of the next token, `[d_vocab]`.
    pub logits: Vec<f32>,
    /// The most likely token of each state and its probability, without and with the final norm.
    pub lens: Vec<[(u32, f32); 2]>,
}

/// The sites of the states with indices ⌊L/2⌋ to L, where L is the number of blocks. The last one is after the final
/// norm.
pub fn sites(subject: &Subject) -> Vec<Site> {
    let n_layers = subject.model.n_layers();
    let first = n_layers + 1 - states_of(n_layers);
    let blocks = (first..n_layers).map(|index| Site::Block(Layer(index - 1), Point::ResidPost));
    blocks.chain([Site::FinalNormalized]).collect()
}

/// Evaluates the model's prediction for the document of this index.
pub type Evaluate<'a, T> = &'a (dyn Fn(usize, &Next) -> T + Sync);

/// Reads documents in batches of at most `batch` prompts of equal length. Returns the readings in the order of the
/// documents; `evaluate` turns each prediction into a value.
pub fn read<T: Clone + Send>(
    subject: &Subject,
    documents: &[Vec<u32>],
    batch: usize,
    evaluate: Option<Evaluate<'_, T>>,
) -> Result<Vec<Seen<T>>> {
    let sites = sites(subject);
    let model = &subject.model;
    let mut seen: Vec<Option<Seen<T>>> = (0..documents.len()).map(|_| None).collect();
    for indices in tokens::of_one_length(documents.iter().map(Vec::len), batch) {
        let ids: Vec<u32> = indices.iter().flat_map(|index| documents[*index].iter().copied()).collect();
        let ids = Tensor::from_vec(ids, (indices.len(), documents[indices[0]].len()), &model.device())?;
        let last = Keep { positions: Some(vec![-1]), heads: None };
        let mut recorder = Recorder::new(model, &sites)?.keeping(last);
        let logits = model.forward_between(Start::Tokens(&ids), End::LastLogits(1), &mut recorder)?.squeeze(1)?;
        let states: Vec<Tensor> = sites
            .iter()
            .map(|site| Ok(recorder.get(*site)?.squeeze(1)?.to_dtype(DType::F32)?.contiguous()?))
            .collect::<Result<_>>()?;
        let embedded = ops::embedding(&ids, &subject.embedding)?.to_dtype(DType::F32)?.sum(1)?.to_vec2::<f32>()?;
        let lens = if evaluate.is_some() { Some(lens(subject, &states)?) } else { None };
        let logits = if evaluate.is_some() { Some(logits.to_dtype(DType::F32)?.to_vec2::<f32>()?) } else { None };
        let rows: Vec<Vec<Vec<f32>>> = states.iter().map(|x| Ok(x.to_vec2::<f32>()?)).collect::<Result<_>>()?;
        let of: Vec<Seen<T>> = (0..indices.len())
            .into_par_iter()
            .map(|row| Seen {
                states: States::new(rows.iter().map(|state| state[row].clone()).collect()),
                embeddings: embedded[row].clone(),
                next: evaluate.zip(logits.as_ref().zip(lens.as_ref())).map(|(evaluate, (logits, lens))| {
                    let lens = lens.iter().map(|[raw, normed]| [raw[row], normed[row]]).collect();
                    evaluate(indices[row], &Next { logits: logits[row].clone(), lens })
                }),
            })
            .collect();
        indices.iter().zip(of).for_each(|(index, of)| seen[*index] = Some(of));
    }
    // Every index belongs to one length, and every length was read, so no entry is missing.
    Ok(seen.into_iter().flatten().collect())
}

/// The most likely token of each prompt in a batch and its probability.
type TopTokens = Vec<(u32, f32)>;

/// Unembeds each state as it is and after the final norm. The last state has already been through the norm.
fn lens(subject: &Subject, states: &[Tensor]) -> Result<Vec<[TopTokens; 2]>> {
    let model = &subject.model;
    let unembed = |x: &Tensor| match &subject.unembedding {
        Some(w) => ops::linear(x, w, None),
        None => ops::linear_transposed(x, &subject.embedding, None),
    };
    let last = states.len() - 1;
    let each = |(index, x): (usize, &Tensor)| {
        let raw = top_tokens(&unembed(x)?)?;
        let normed = match index == last {
            true => raw.clone(),
            false => {
                let start = x.unsqueeze(1)?;
                let start = Start::Resid(Layer(model.n_layers()), &start);
                top_tokens(&model.forward_between(start, End::Logits, &mut NoHook)?.squeeze(1)?)?
            }
        };
        Ok([raw, normed])
    };
    states.iter().enumerate().map(each).collect()
}

fn top_tokens(logits: &Tensor) -> Result<TopTokens> {
    let logits = logits.to_dtype(DType::F32)?;
    let ids = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let all = logits.log_sum_exp(D::Minus1)?.to_vec1::<f32>()?;
    let most = logits.max(D::Minus1)?.to_vec1::<f32>()?;
    Ok(ids.into_iter().zip(most.iter().zip(all).map(|(most, all)| (most - all).exp())).collect())
}
