//! Reading a `config.json`, with errors that name the file and the key.

use std::path::Path;

use serde_json::Value;

use crate::{Activation, Error, Rotary, Scaling};

/// A JSON object and the file it came from.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    path: &'a Path,
    value: &'a Value,
}

/// Larger sizes are mistakes.
const MAX_SIZE: u64 = 1 << 32;

impl<'a> Fields<'a> {
    /// The object in `path`.
    #[must_use]
    pub fn new(path: &'a Path, value: &'a Value) -> Self {
        Self { path, value }
    }

    /// An error about one key.
    pub(crate) fn wrong(&self, key: &str, message: &str) -> Error {
        let key = if key.is_empty() { String::new() } else { format!("`{key}`: ") };
        Error::Checkpoint(format!("{}: {key}{message}", self.path.display()))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    fn missing(&self, key: &str) -> Error {
        self.wrong(key, "is missing")
    }

    pub(crate) fn opt_size(&self, key: &str) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().filter(|size| *size > 0 && *size < MAX_SIZE) {
            Some(size) => Ok(Some(size as usize)),
            None => Err(self.wrong(key, &format!("{value} is not a size"))),
        }
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize, Error> {
        self.opt_size(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn opt_number(&self, key: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, &format!("{value} is not a number"))),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Result<f64, Error> {
        self.opt_number(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn flag(&self, key: &str, otherwise: bool) -> Result<bool, Error> {
        match self.get(key) {
            None => Ok(otherwise),
            Some(value) => {
                value.as_bool().ok_or_else(|| self.wrong(key, &format!("{value} is neither true nor false")))
            }
        }
    }

    pub(crate) fn opt_str(&self, key: &str) -> Result<Option<&'a str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| self.wrong(key, &format!("{value} is not a string"))),
        }
    }

    pub(crate) fn first_str(&self, key: &str) -> Result<Option<&'a str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(list.first().and_then(Value::as_str)),
            Some(value) => Err(self.wrong(key, &format!("{value} is not a list"))),
        }
    }

    pub(crate) fn list(&self, key: &str) -> Option<&'a [Value]> {
        self.get(key)?.as_array().map(Vec::as_slice)
    }

    fn object(&self, key: &str) -> Option<Self> {
        self.get(key).filter(|value| value.is_object()).map(|value| Self { path: self.path, value })
    }

    /// Checks that a key, if present, has the one supported value.
    pub(crate) fn only(&self, key: &str, supported: &Value) -> Result<(), Error> {
        match self.get(key) {
            Some(value) if value != supported => {
                Err(self.wrong(key, &format!("{value} is not supported, only {supported}")))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn activation(&self, key: &str, otherwise: &str) -> Result<Activation, Error> {
        match self.opt_str(key)?.unwrap_or(otherwise) {
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "gelu" => Ok(Activation::GeluErf),
            "silu" | "swish" => Ok(Activation::Silu),
            other => Err(self.wrong(key, &format!("`{other}` is not supported, only gelu_new, gelu and silu"))),
        }
    }

    /// Rotary positions from `rope_theta` and `rope_scaling`, or from `rope_parameters`.
    pub(crate) fn rotary(&self, d_head: usize, portion: &str, base: (&str, f64)) -> Result<Rotary, Error> {
        let inner = self.object("rope_parameters").or(self.object("rope_scaling"));
        let find = |key: &str| match &inner {
            Some(inner) => inner.opt_number(key),
            None => Ok(None),
        };
        let number = |key: &str| match find(key)? {
            Some(number) => Ok(Some(number)),
            None => self.opt_number(key),
        };
        let part = number(portion)?.or(number("partial_rotary_factor")?).unwrap_or(1.);
        let rotary_dim = (d_head as f64 * part) as usize;
        let base = number(base.0)?.or(number("rope_theta")?).unwrap_or(base.1);
        let scaling = match inner {
            Some(inner) => inner.scaling(self)?,
            None => Scaling::None,
        };
        Ok(Rotary { rotary_dim, base, scaling, interleaved: false })
    }

    fn scaling(&self, outer: &Self) -> Result<Scaling, Error> {
        let context = || -> Result<usize, Error> {
            let own = self.opt_size("original_max_position_embeddings")?;
            let outside = outer.opt_size("original_max_position_embeddings")?;
            own.or(outside).map_or_else(|| outer.size("max_position_embeddings"), Ok)
        };
        match self.opt_str("rope_type")?.or(self.opt_str("type")?).unwrap_or("default") {
            "default" => Ok(Scaling::None),
            "linear" => Ok(Scaling::Linear { factor: self.number("factor")? }),
            "llama3" => Ok(Scaling::Llama3 {
                factor: self.number("factor")?,
                low_freq_factor: self.number("low_freq_factor")?,
                high_freq_factor: self.number("high_freq_factor")?,
                original: context()?,
            }),
            "yarn" => {
                self.only("mscale", &Value::Null)?;
                let factor = self.number("factor")?;
                let attention_factor = self.opt_number("attention_factor")?.unwrap_or(0.1 * factor.ln() + 1.);
                Ok(Scaling::Yarn {
                    factor,
                    original: context()?,
                    beta_fast: self.opt_number("beta_fast")?.unwrap_or(32.),
                    beta_slow: self.opt_number("beta_slow")?.unwrap_or(1.),
                    truncate: self.flag("truncate", true)?,
                    attention_factor,
                })
            }
            other => Err(self.wrong("rope_type", &format!("`{other}` is not supported, only linear, llama3 and yarn"))),
        }
    }
}

/// `rope_scaling` as transformers reads it.
pub(crate) fn to_rope_scaling(scaling: &Scaling) -> Value {
    match scaling {
        Scaling::None => Value::Null,
        Scaling::Linear { factor } => serde_json::json!({ "rope_type": "linear", "factor": factor }),
        Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => serde_json::json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original,
        }),
        Scaling::Yarn { factor, original, beta_fast, beta_slow, truncate, attention_factor } => serde_json::json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "truncate": truncate,
            "attention_factor": attention_factor,
        }),
    }
}
