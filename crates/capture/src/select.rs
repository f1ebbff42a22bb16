//! Which sites a run keeps, from patterns of addresses.

use hooks::{HookedModel, Point, Site};

use crate::Error;

/// Sites of a model whose addresses fit a pattern such as `blocks.*.hook_resid_post`: `*` for any characters, `?` for one,
/// `[0-5]` for some. In the order in which a forward pass comes by, each once.
///
/// `attn.hook_result`, which is `n_heads` times as large as the stream, is only meant by patterns that end with its name.
///
/// # Errors
/// When a text is no pattern, or fits no site of the model; the message has the nearest addresses.
pub fn select<P: AsRef<str>>(model: &dyn HookedModel, patterns: &[P]) -> Result<Vec<Site>, Error> {
    let known = model.sites();
    let mut chosen = Vec::new();
    for text in patterns.iter().map(AsRef::as_ref) {
        let pattern = glob::Pattern::new(text)
            .map_err(|e| Error::NoPattern { text: text.to_owned(), reason: e.msg.to_owned() })?;
        let meant = |site: &&Site| {
            let large = matches!(site, Site::Block(_, Point::Result)) && !text.ends_with("hook_result");
            !large && pattern.matches(&site.to_string())
        };
        let fitting: Vec<Site> = known.iter().filter(meant).copied().collect();
        if fitting.is_empty() {
            return Err(Error::NothingFits { text: text.to_owned(), nearest: nearest(&known, text) });
        }
        chosen.extend(fitting);
    }
    chosen.sort();
    chosen.dedup();
    Ok(known.into_iter().filter(|site| chosen.contains(site)).collect())
}

/// The three addresses most like a text, layers aside.
fn nearest(known: &[Site], text: &str) -> Vec<String> {
    let mut scored: Vec<(f64, String)> =
        known.iter().map(|site| site.to_string()).map(|name| (strsim::jaro_winkler(&name, text), name)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}
