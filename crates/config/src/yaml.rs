//! YAML for the files that the machine writes and reads: resolved configurations, manifests.
//!
//! Values go through JSON, so enums are plain text or one-key mappings, never `!tags`.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Error;
use crate::located::{Origin, Parsed, parse};

/// A value as YAML; a number that is not finite becomes `null`.
///
/// # Errors
/// When the value has no form in YAML that reads back as itself, such as a map whose keys are lists.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, Error> {
    let value = serde_json::to_value(value).map_err(|error| Error::Write(error.to_string()))?;
    let text = serde_yaml::to_string(&value).map_err(|error| Error::Write(error.to_string()))?;
    if reads_as(&text, &value) {
        return Ok(text);
    }
    // The writer follows YAML 1.1, in which U+2028 and its like break lines; JSON has no such doubts and is YAML too.
    let json = serde_json::to_string_pretty(&value).map_err(|error| Error::Write(error.to_string()))?;
    if reads_as(&json, &value) { Ok(json + "\n") } else { Err(Error::Write("no form that reads back".to_owned())) }
}

fn reads_as(text: &str, value: &Value) -> bool {
    from_str::<Value>(text, "").is_ok_and(|back| back == *value)
}

/// A value from YAML; `origin` names the text in messages.
///
/// # Errors
/// When the text is no YAML or does not fit the type.
pub fn from_str<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, Error> {
    match parse(Origin::File(origin.to_owned()), text) {
        Parsed { node: Some(node), mistakes } if mistakes.is_empty() => {
            serde_json::from_value(node.to_value()).map_err(|source| Error::Shape { origin: origin.to_owned(), source })
        }
        Parsed { mistakes, .. } => Err(Error::mistakes(origin, mistakes)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{Draw, Over, Provenance, Threshold};

    #[track_caller]
    fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: T, text: &str) {
        assert_eq!(to_string(&value).unwrap().trim_end(), text);
        assert_eq!(from_str::<T>(text, "x").unwrap(), value);
    }

    #[test]
    fn enums_have_no_tags() {
        check(Threshold::AtLeast(0.9), "at_least: 0.9");
        check(Threshold::Between([0.0, 1e-10]), "between:\n- 0.0\n- 1e-10");
        check(Over::Median, "median");
        check(Provenance::Unstated, "unstated");
        check(vec![Draw::Integer([1, 3])], "- integer:\n  - 1\n  - 3");
    }

    #[test]
    fn errors_name_their_origin() {
        let check = |text: &str, expected: &str| {
            assert_eq!(from_str::<Threshold>(text, "run.yaml").unwrap_err().to_string().lines().next(), Some(expected));
        };
        check("at_least: [", "run.yaml: 1 mistake");
        check("at_least: x", "run.yaml: invalid type: string \"x\", expected f64");
        check("", "run.yaml: invalid type: null, expected string or map");
    }

    fn values() -> impl Strategy<Value = Value> {
        let texts = prop_oneof![
            any::<String>().prop_map(|text| text.replace('\0', "0")),
            "[ -~\n]{0,12}",
            prop::sample::select(vec![
                "1e-3", "no", "~", "", "- a", "a: b", "0x1", "#", "\n a\n", "\u{2028}", "\u{85} ", "é\t", "---", "<<",
                "=", "null"
            ])
            .prop_map(str::to_owned),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Value::from),
            texts.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((texts.clone(), inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn what_is_written_is_read_back(value in values()) {
            let text = to_string(&value).unwrap();
            let back = from_str::<Value>(&text, "x");
            prop_assert!(back.is_ok(), "{}\n{:?}", back.unwrap_err(), text);
            prop_assert_eq!(back.unwrap(), value, "{}", text);
        }
    }

    #[test]
    fn numbers_that_are_not_finite() {
        assert_eq!(to_string(&json!({"a": f64::NAN})).unwrap(), "a: null\n");
    }
}
