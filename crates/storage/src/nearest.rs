//! The most similar of some names, for messages about mistyped ones.

use strsim::damerau_levenshtein;

/// The name most similar to a mistyped one, for `did you mean ..?`; `None` when no name is similar.
///
/// Counts insertions, deletions, substitutions and swaps, up to a third of the longer name. Case and the difference
/// between `-` and `_` do not count. After these come names that contain the text or that the text contains.
///
/// # Examples
/// ```
/// let keys = ["d_model", "n_layers"];
/// assert_eq!(storage::nearest("d_modle", keys.into_iter()).as_deref(), Some("d_model"));
/// assert_eq!(storage::nearest("layers", keys.into_iter()).as_deref(), Some("n_layers"));
/// assert_eq!(storage::nearest("temperature", keys.into_iter()), None);
/// ```
#[must_use]
pub fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let folded = fold(text);
    names.filter_map(|name| Some((distance(&folded, &fold(name))?, name))).min().map(|(_, name)| name.to_owned())
}

fn fold(text: &str) -> String {
    text.to_lowercase().replace('-', "_")
}

fn distance(text: &str, name: &str) -> Option<usize> {
    let (short, long) = (text.len().min(name.len()), text.len().max(name.len()));
    if short == 0 || long > 200 {
        return None;
    }
    let edits = damerau_levenshtein(text, name);
    if edits <= long.div_ceil(3) && edits < short {
        Some(edits)
    } else if short >= 3 && (name.contains(text) || text.contains(name)) {
        Some(100 + edits)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, names: &[&str], expected: Option<&str>) {
        assert_eq!(nearest(text, names.iter().copied()).as_deref(), expected, "{text}");
    }

    #[test]
    fn similar_names_are_found_and_others_are_not() {
        let keys = ["d_model", "d_mlp", "n_layers", "lr", "seed", "batch_size"];
        check("d_modle", &keys, Some("d_model"));
        check("d-model", &keys, Some("d_model"));
        check("layers", &keys, Some("n_layers"));
        check("batch", &keys, Some("batch_size"));
        check("lrr", &keys, Some("lr"));
        check("Seed", &keys, Some("seed"));
        check("ed", &["xy"], None);
        check("temperature", &keys, None);
        check("", &keys, None);
        check("x", &[], None);
    }
}
