//! A model in one safetensors file: weights, with the configuration as JSON in the header.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;

use crate::{Config, Decoder, Error};

const CONFIG: &str = "retrace.model";

/// Writes a decoder atomically.
///
/// # Errors
/// When the file cannot be written.
pub fn save(path: &Path, model: &Decoder) -> Result<(), Error> {
    let config = serde_json::to_string(model.config()).map_err(|e| Error::Config(e.to_string()))?;
    let metadata = BTreeMap::from([(CONFIG.to_owned(), config)]);
    Ok(weights::save(path, &metadata, &model.weights())?)
}

/// Reads a decoder that [`save`] wrote.
///
/// # Errors
/// When the file is missing, damaged, or was not written by [`save`]; the message names the file and the tensor.
pub fn load(path: &Path, device: &Device) -> Result<Decoder, Error> {
    let file = weights::load(path, device)?;
    let foreign = || Error::Foreign { path: path.to_owned() };
    let config = file.metadata.get(CONFIG).ok_or_else(foreign)?;
    let config: Config = serde_json::from_str(config).map_err(|_| foreign())?;
    config.check()?;
    let named = file.into_exactly(&config.shapes())?;
    Decoder::new(&config, named, device)
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;
    use hooks::{HookedModel, NoHook};
    use rand::SeedableRng;

    use super::*;
    use crate::config::tests::tiny;

    #[test]
    fn a_saved_model_loads_as_the_same_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let model = Decoder::fresh(&tiny(), &mut rand_chacha::ChaCha12Rng::seed_from_u64(3), &Device::Cpu).unwrap();
        save(&path, &model).unwrap();
        let again = load(&path, &Device::Cpu).unwrap();
        assert_eq!(again.config(), model.config());
        let tokens = Tensor::new(&[[1u32, 2, 3]], &Device::Cpu).unwrap();
        let logits =
            |m: &Decoder| m.forward(&tokens, &mut NoHook).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(logits(&model), logits(&again));
    }

    #[test]
    fn a_foreign_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("foreign.safetensors");
        weights::save(&path, &BTreeMap::new(), &weights::Named::new()).unwrap();
        assert!(load(&path, &Device::Cpu).unwrap_err().to_string().contains("foreign.safetensors"));
    }
}
