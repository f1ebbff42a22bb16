//! A configuration as two strings: one for its numbers, one for its pictures.
//!
//! Caches hash both. A change of the first needs a new run; a change of the second only needs a new drawing.

use serde_json::{Map, Value, json};

use crate::envelope::Envelope;

impl Envelope {
    /// Canonical JSON of every key that changes a number: paper, experiment, seed, needs, params and sweep.
    ///
    /// Keys of `params` are sorted; the sweep keeps its order, which is that of the joined table.
    pub fn identity(&self) -> String {
        let body = &self.body;
        let identity = json!({
            "paper": self.paper,
            "experiment": self.experiment,
            "seed": body.seed,
            "needs": body.needs,
            "params": sorted(&body.params),
            "sweep": body.sweep,
        });
        identity.to_string()
    }

    /// Canonical JSON of the rest: profile, titles, published numbers, claims and figures.
    pub fn picture_identity(&self) -> String {
        let body = &self.body;
        let identity = json!({
            "profile": self.profile,
            "title": body.title,
            "summary": body.summary,
            "artefacts": body.artefacts,
            "published": body.published,
            "claims": body.claims,
            "claims_asked": body.claims_asked,
            "figures": body.figures,
        });
        identity.to_string()
    }
}

/// The same value with the keys of all mappings sorted.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(pairs.into_iter().collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(text: &str) -> Envelope {
        let text = format!("{{paper: p, experiment: e, profile: cpu, title: t, seed: 1, {text}}}");
        crate::yaml::from_str(&text, "x").unwrap()
    }

    #[test]
    fn only_keys_that_change_a_number_count() {
        let base = envelope("params: {a: 1, b: {c: 2, d: 3}}");
        let check = |text: &str, same_numbers: bool, same_pictures: bool| {
            let other = envelope(text);
            assert_eq!(base.identity() == other.identity(), same_numbers, "{text}");
            assert_eq!(base.picture_identity() == other.picture_identity(), same_pictures, "{text}");
        };
        check("params: {b: {d: 3, c: 2}, a: 1}", true, true);
        check("params: {a: 1, b: {c: 2, d: 4}}", false, true);
        check("params: {a: 1, b: {c: 2, d: 3}}, summary: x", true, false);
        check("params: {a: 1, b: {c: 2, d: 3}}, artefacts: [{id: a, title: b}]", true, false);
        check("params: {a: 1, b: {c: 2, d: 3}}, needs: [a/b]", false, true);
        check("params: {a: 1, b: {c: 2, d: 3}}, sweep: {grid: {seed: [1]}}", false, true);
    }
}
