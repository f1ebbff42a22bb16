//! Special tokens from the files beside a `tokenizer.json`.

use std::path::Path;

use serde_json::Value;

use crate::Error;
use crate::tokenizer::Roles;

/// The files, in order of precedence.
const FILES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// Reads the roles of special tokens.
pub(crate) fn roles(folder: &Path, id: impl Fn(&str) -> Option<u32>) -> Result<Roles, Error> {
    let mut roles = Roles::default();
    for name in FILES {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let malformed = |reason: String| Error::Malformed { path: path.clone(), reason };
        let json: Value =
            serde_json::from_slice(&storage::read(&path)?).map_err(|error| malformed(error.to_string()))?;
        let role = |key: &str| match token(&json[key]) {
            None => Ok(None),
            Some(token) => match id(token) {
                Some(id) => Ok(Some(id)),
                None => Err(malformed(format!("`{key}` is `{token}`, which tokenizer.json lacks"))),
            },
        };
        let next = Roles {
            bos: role("bos_token")?,
            eos: role("eos_token")?,
            unk: role("unk_token")?,
            adds_bos: json["add_bos_token"].as_bool(),
        };
        roles = Roles {
            bos: roles.bos.or(next.bos),
            eos: roles.eos.or(next.eos),
            unk: roles.unk.or(next.unk),
            adds_bos: roles.adds_bos.or(next.adds_bos),
        };
    }
    Ok(roles)
}

/// A token is either a string or an object with its `content`.
fn token(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}
