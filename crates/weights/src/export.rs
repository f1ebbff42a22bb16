//! Exports for other programs: a folder as on the hub.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::{list, summary};
use crate::{CONFIG, Error, Named, WEIGHTS, save};

/// Writes `config.json` and `model.safetensors` in the layout of the hub, each atomically.
///
/// An old configuration is removed first and the new one is written last. A configuration therefore always belongs to the
/// weights beside it, even after a crash. The weights carry `format: pt`, which transformers requires, and a content hash.
///
/// # Errors
/// When the folder holds any other file, or writing fails.
pub fn export(folder: &Path, config_json: &serde_json::Value, tensors: &Named) -> Result<(), Error> {
    let config = folder.join(CONFIG);
    if folder.exists() {
        let found = list(folder)?;
        let ours =
            |name: &String| [CONFIG, WEIGHTS].contains(&name.as_str()) || name.starts_with(storage::TEMPORARY_PREFIX);
        if !found.iter().all(ours) {
            return Err(Error::Occupied { path: folder.to_owned(), found: summary(&found) });
        }
        if config.exists() {
            let failed = |cause| storage::Error::Io { action: "remove", path: config.clone(), cause };
            std::fs::remove_file(&config).map_err(failed)?;
        }
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    save(&folder.join(WEIGHTS), &metadata, tensors)?;
    storage::write_atomic(&config, format!("{config_json:#}\n").as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::Checkpoint;

    #[test]
    fn an_export_is_read_back_and_replaced_but_never_mixed_with_foreign_files() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a/model");
        let tensors: Named = [("w".to_owned(), Tensor::new(&[[1f32, 2.]], &Device::Cpu).unwrap())].into();
        for width in [1, 2] {
            let config = serde_json::json!({ "model_type": "gpt2", "n_embd": width });
            export(&target, &config, &tensors).unwrap();
            let text = storage::read_text(&target.join("config.json")).unwrap();
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), config);
        }
        assert_eq!(list(&target).unwrap(), ["config.json", "model.safetensors"]);
        let checkpoint = Checkpoint::open(&target).unwrap();
        assert_eq!(checkpoint.tensor("w", DType::F32, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap(), [[1., 2.]]);
        assert_eq!(crate::load(&target.join(WEIGHTS), &Device::Cpu).unwrap().metadata["format"], "pt");

        std::fs::write(target.join("notes.txt"), "mine").unwrap();
        let error = export(&target, &serde_json::json!({}), &tensors).unwrap_err().to_string();
        assert!(error.contains("notes.txt") && error.contains("a/model"), "{error}");
        assert!(storage::read_text(&target.join("config.json")).unwrap().contains("gpt2"), "nothing was touched");
    }
}
