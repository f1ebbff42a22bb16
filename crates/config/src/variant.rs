//! Variants: named changes to a block of parameters.

use schemars::{JsonSchema, schema_for};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::check;
use crate::error::Error;
use crate::located::{At, Node, Origin};
use crate::ordered::Ordered;
use crate::overlay::{Override, apply};

/// A block of parameters under another name, with the keys that differ; all others are those of the block.
///
/// ```yaml
/// train: {icot: {smoothing: 4.0, side: left}}
/// variants:
///   - {name: full}
///   - {name: no-smoothing, set: {icot.smoothing: null}}
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name in tables and figures.
    #[schemars(regex(pattern = "^[a-z0-9_-]+$"))]
    pub name: String,
    /// The keys that differ.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub set: Changes,
}

impl Variant {
    /// The block with this variant's changes.
    ///
    /// # Errors
    /// When a key is unknown or a value does not fit; the message names the variant.
    pub fn apply<T: Serialize + DeserializeOwned + JsonSchema>(&self, block: &T) -> Result<T, Error> {
        self.set.apply(&self.name, block)
    }
}

/// Changes to a block of parameters: dotted keys, such as `icot.smoothing`, with their new values.
///
/// They merge as an overlay file does: mappings key by key, all else replaced, `null` takes an optional key away.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Changes(Ordered<Value>);

impl Changes {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The block with these changes; `name` stands in messages.
    ///
    /// # Errors
    /// When a key is unknown or a value does not fit.
    pub fn apply<T: Serialize + DeserializeOwned + JsonSchema>(&self, name: &str, block: &T) -> Result<T, Error> {
        let at = At::start(Origin::Whole(format!("variant `{name}`")), "");
        let unfit = |error: serde_json::Error| Error::mistakes("variants", vec![at.mistake("", error.to_string())]);
        let mut tree = Node::from_value(&serde_json::to_value(block).map_err(unfit)?, &at);
        let overrides: Vec<Override> = self.0.iter().map(|(key, value)| Override::new(key, value.clone())).collect();
        let mut mistakes = apply(&mut tree, &overrides);
        let schema = serde_json::to_value(schema_for!(T)).map_err(unfit)?;
        let (value, told) = check(&tree, &schema);
        mistakes.extend(told);
        if !mistakes.is_empty() {
            return Err(Error::mistakes(&format!("variant `{name}`"), mistakes));
        }
        serde_json::from_value(value).map_err(unfit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Block {
        steps: u64,
        icot: Icot,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Icot {
        #[serde(default)]
        smoothing: Option<f64>,
        side: String,
    }

    fn block() -> Block {
        Block { steps: 3, icot: Icot { smoothing: Some(4.), side: "left".to_owned() } }
    }

    fn varied(set: &str) -> Result<Block, Error> {
        let variant: Variant = yaml::from_str(&format!("{{name: v, set: {{{set}}}}}"), "x").unwrap();
        variant.apply(&block())
    }

    #[test]
    fn keys_that_differ_replace_those_of_the_block() {
        assert_eq!(varied("").unwrap(), block());
        let changed = varied("icot.smoothing: null, steps: 5").unwrap();
        assert_eq!((changed.steps, changed.icot.smoothing, changed.icot.side.as_str()), (5, None, "left"));
        assert_eq!(varied("icot: {side: right}").unwrap().icot.smoothing, Some(4.));
    }

    #[test]
    fn mistakes_name_the_variant_and_the_key() {
        let wrong = |set: &str| varied(set).unwrap_err().to_string();
        let told = wrong("icot.smothing: 1");
        assert!(told.contains("variant `v`") && told.contains("did you mean `smoothing`?"), "{told}");
        assert!(wrong("steps: many").contains("steps"));
    }
}
