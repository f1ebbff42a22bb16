//! The JSON schema of an experiment's file, for [`crate::Catalogue::load`] and for editors.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::envelope::Body;
use crate::overlay::EXTENDS;

/// The schema of a whole file: [`Body`] with `params` as `P`.
pub fn schema<P: JsonSchema>() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let params = generator.subschema_for::<P>().to_value();
    let mut root = generator.into_root_schema_for::<Body>().to_value();
    root["properties"]["params"] = described(params, &root["properties"]["params"]);
    root
}

/// `params` with the description that the envelope gives it, unless its type has its own.
fn described(mut params: Value, envelope: &Value) -> Value {
    if let (Value::Object(params), Some(words)) = (&mut params, envelope.get("description")) {
        params.entry("description").or_insert_with(|| words.clone());
    }
    params
}

/// The schema of a file with `extends`: the same keys, none of them required, and `null` to take an optional one away.
pub fn overlay_schema(whole: &Value) -> Value {
    let mut overlay = whole.clone();
    relax(&mut overlay);
    let words = "The file that this one changes, relative to this one. Mappings merge, all else is replaced.";
    overlay["properties"][EXTENDS] = json!({ "type": "string", "description": words });
    overlay["required"] = json!([EXTENDS]);
    overlay
}

/// Takes the `required` out of a schema and all within.
fn relax(schema: &mut Value) {
    let Value::Object(keywords) = schema else { return };
    let required = keywords.shift_remove("required").unwrap_or_default();
    for key in ["properties", "$defs"] {
        if let Some(Value::Object(named)) = keywords.get_mut(key) {
            named.values_mut().for_each(relax);
        }
    }
    if let Some(Value::Object(properties)) = keywords.get_mut("properties") {
        let optional = properties.iter_mut().filter(|(key, _)| !holds(&required, key));
        optional.for_each(|(_, schema)| allow_null(schema));
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if let Some(Value::Array(branches)) = keywords.get_mut(key) {
            branches.iter_mut().for_each(relax);
        }
    }
}

fn holds(list: &Value, key: &str) -> bool {
    list.as_array().is_some_and(|items| items.iter().any(|item| item == key))
}

fn allow_null(schema: &mut Value) {
    match schema {
        Value::Object(keywords) if keywords.contains_key("$ref") || keywords.contains_key("oneOf") => {
            let inner = std::mem::take(keywords);
            *keywords = Map::from_iter([("anyOf".to_owned(), json!([inner, { "type": "null" }]))]);
        }
        Value::Object(keywords) if !keywords.contains_key("enum") && !keywords.contains_key("const") => {
            if let Some(kind @ Value::String(_)) = keywords.get_mut("type") {
                *kind = json!([kind.clone(), "null"]);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(JsonSchema)]
    #[schemars(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Params {
        /// Learning rate.
        lr: f64,
        note: Option<String>,
        #[schemars(default)]
        layers: Vec<Inner>,
        inner: Inner,
    }

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Inner {
        required: u32,
    }

    #[test]
    fn params_stand_in_the_envelope() {
        let whole = schema::<Params>();
        assert_eq!(whole["additionalProperties"], json!(false));
        assert_eq!(whole["required"], json!(["title", "seed", "params"]));
        assert_eq!(whole["properties"]["params"]["$ref"], json!("#/$defs/Params"));
        assert_eq!(whole["$defs"]["Params"]["required"], json!(["lr", "inner"]));
        assert!(whole["$defs"]["Claim"]["properties"]["threshold"].is_object());
        let open = schema::<BTreeMap<String, Value>>();
        assert_eq!(open["properties"]["params"]["type"], json!("object"));
    }

    #[test]
    fn an_overlay_requires_nothing_but_extends() {
        let overlay = overlay_schema(&schema::<Params>());
        assert_eq!(overlay["required"], json!(["extends"]));
        assert_eq!(overlay["$defs"]["Params"].get("required"), None);
        assert_eq!(overlay["$defs"]["Params"]["properties"]["layers"]["type"], json!(["array", "null"]));
        assert_eq!(overlay["$defs"]["Params"]["properties"]["lr"]["type"], json!("number"));
        assert!(overlay["$defs"]["Inner"]["properties"]["required"].is_object());
    }
}
