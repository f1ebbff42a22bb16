//! Sites from patterns of addresses.

use hooks::{HookedModel, Point, Site};

use crate::Error;

/// Sites of a model whose addresses match one of the patterns, such as `blocks.*.hook_resid_post`. In a pattern `*`
/// stands for any characters, `?` for one and `[0-5]` for a range. Each site comes once, in the order of a forward
/// pass.
///
/// Only patterns that end with `hook_result` match `attn.hook_result`, which is `n_heads` times as large as the
/// residual stream.
///
/// # Errors
/// When a pattern is invalid or matches no site of the model; the message suggests the most similar address.
pub fn select<P: AsRef<str>>(model: &dyn HookedModel, patterns: &[P]) -> Result<Vec<Site>, Error> {
    let known = model.sites();
    let mut chosen = Vec::new();
    for text in patterns.iter().map(AsRef::as_ref) {
        let pattern = glob::Pattern::new(text)
            .map_err(|e| Error::NoPattern { text: text.to_owned(), reason: e.msg.to_owned() })?;
        let matches = |site: &&Site| {
            let large = matches!(site, Site::Block(_, Point::Result)) && !text.ends_with("hook_result");
            !large && pattern.matches(&site.to_string())
        };
        let matching: Vec<Site> = known.iter().filter(matches).copied().collect();
        if matching.is_empty() {
            let addresses: Vec<String> = known.iter().map(ToString::to_string).collect();
            let nearest = storage::nearest(text, addresses.iter().map(String::as_str));
            return Err(Error::NothingFits { text: text.to_owned(), nearest });
        }
        chosen.extend(matching);
    }
    chosen.sort();
    chosen.dedup();
    Ok(known.into_iter().filter(|site| chosen.contains(site)).collect())
}
