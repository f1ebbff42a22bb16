//! Checkpoints: one file each, whole or absent, from which a run goes on to the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, Var};
use weights::Named;

use crate::{AdamW, Error};

/// A folder of checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    identity: String,
}

/// What a checkpoint holds beside weights and optimiser.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// What the objective keeps: histories, counters.
    pub state: serde_json::Value,
}

/// Newest checkpoints kept; the older one is there for a disk that lost the newer.
const KEPT: usize = 2;
const PREFIX: &str = "step-";
const SUFFIX: &str = ".safetensors";

impl Checkpoints {
    /// Checkpoints in `folder` for the run that `identity` names (a hash of everything that moves a number).
    #[must_use]
    pub fn new(folder: &Path, identity: &str) -> Self {
        Self { folder: folder.to_owned(), identity: identity.to_owned() }
    }

    /// Saves a state and forgets all but the newest ones.
    ///
    /// # Errors
    /// When the file cannot be written; older checkpoints are then untouched.
    pub fn save(
        &self,
        step: u64,
        names: &[String],
        variables: &[Var],
        adam: &AdamW,
        state: &serde_json::Value,
    ) -> Result<(), Error> {
        let (updates, moments) = adam.state();
        let mut tensors = Named::new();
        for ((name, var), [m, v]) in names.iter().zip(variables).zip(moments) {
            tensors.insert(format!("weights.{name}"), var.as_tensor().clone());
            tensors.insert(format!("adam.m.{name}"), m.clone());
            tensors.insert(format!("adam.v.{name}"), v.clone());
        }
        let metadata = BTreeMap::from([
            ("identity".to_owned(), self.identity.clone()),
            ("step".to_owned(), step.to_string()),
            ("updates".to_owned(), updates.to_string()),
            ("state".to_owned(), state.to_string()),
        ]);
        weights::save(&self.folder.join(format!("{PREFIX}{step:012}{SUFFIX}")), &metadata, &tensors)?;
        for old in self.newest_first().into_iter().skip(KEPT) {
            // a file that stays does no harm
            let _ = fs::remove_file(old);
        }
        Ok(())
    }

    /// Loads the newest whole checkpoint into the variables and the optimiser; nothing when there is none.
    ///
    /// A damaged newest file is passed over, with a warning, for the one before it.
    ///
    /// # Errors
    /// When files are there but none is whole, or they belong to another run.
    pub fn resume(&self, names: &[String], variables: &[Var], adam: &mut AdamW) -> Result<Option<Checkpoint>, Error> {
        self.remove_partial_files();
        let files = self.newest_first();
        let mut newest = None;
        for path in &files {
            match self.load(path, names, variables, adam) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(foreign @ Error::Foreign { .. }) => return Err(foreign),
                Err(error) => {
                    tracing::warn!("{error}; trying the checkpoint before it");
                    newest.get_or_insert(error.to_string());
                }
            }
        }
        match newest {
            None => Ok(None),
            Some(newest) => Err(Error::AllDamaged { folder: self.folder.clone(), newest }),
        }
    }

    fn load(&self, path: &Path, names: &[String], variables: &[Var], adam: &mut AdamW) -> Result<Checkpoint, Error> {
        let device = variables.first().map_or(&Device::Cpu, |var| var.device());
        let mut file = weights::load(path, device)?;
        let foreign = || Error::Foreign { path: path.to_owned() };
        let metadata = std::mem::take(&mut file.metadata);
        let text = |key: &str| metadata.get(key).ok_or_else(foreign);
        if *text("identity")? != self.identity {
            return Err(foreign());
        }
        let step = text("step")?.parse().map_err(|_| foreign())?;
        let updates = text("updates")?.parse().map_err(|_| foreign())?;
        let state = serde_json::from_str(text("state")?).map_err(|_| foreign())?;
        let kinds = ["weights", "adam.m", "adam.v"];
        let expected: Vec<(String, Vec<usize>)> = names
            .iter()
            .zip(variables)
            .flat_map(|(name, var)| kinds.map(|kind| (format!("{kind}.{name}"), var.dims().to_vec())))
            .collect();
        let mut tensors = file.into_exactly(&expected)?;
        let mut take = |kind: &str, name: &String| -> Result<Tensor, Error> {
            tensors.remove(&format!("{kind}.{name}")).ok_or_else(foreign)
        };
        let mut moments = Vec::new();
        for (name, var) in names.iter().zip(variables) {
            var.set(&take("weights", name)?)?;
            moments.push([take("adam.m", name)?, take("adam.v", name)?]);
        }
        adam.restore(updates, moments);
        Ok(Checkpoint { step, state })
    }

    fn newest_first(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.entries(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        files.sort();
        files.reverse();
        files
    }

    /// What a kill inside a write left behind.
    fn remove_partial_files(&self) {
        for file in self.entries(|name| name.starts_with(storage::TEMPORARY_PREFIX)) {
            let _ = fs::remove_file(file);
        }
    }

    fn entries(&self, keep: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(&keep)).map(|entry| entry.path()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AdamWConfig;

    struct Setup {
        _folder: tempfile::TempDir,
        checkpoints: Checkpoints,
        names: Vec<String>,
        variables: Vec<Var>,
        adam: AdamW,
    }

    fn setup() -> Setup {
        let folder = tempfile::tempdir().unwrap();
        let variables = vec![Var::new(&[1f32, 2.], &Device::Cpu).unwrap()];
        let config = AdamWConfig { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0. };
        let adam = AdamW::new(config, &variables).unwrap();
        Setup {
            checkpoints: Checkpoints::new(folder.path(), "run"),
            names: vec!["w".into()],
            variables,
            adam,
            _folder: folder,
        }
    }

    impl Setup {
        fn save(&self, step: u64) {
            let state = serde_json::json!({"losses": [0.1, f64::from(step as u32)]});
            self.checkpoints.save(step, &self.names, &self.variables, &self.adam, &state).unwrap();
        }

        fn resume(&mut self) -> Result<Option<Checkpoint>, Error> {
            self.checkpoints.resume(&self.names, &self.variables, &mut self.adam)
        }
    }

    #[test]
    fn a_saved_state_comes_back_and_old_ones_go() {
        let mut setup = setup();
        assert_eq!(setup.resume().unwrap(), None);
        for step in [1, 2, 3] {
            let gradient = Tensor::new(&[0.5f32, -1.], &Device::Cpu).unwrap();
            setup.adam.update(&setup.variables, &[true], &[gradient], 1., 1.).unwrap();
            setup.save(step);
        }
        let weights = setup.variables[0].as_tensor().to_vec1::<f32>().unwrap();
        let means = |setup: &Setup| setup.adam.state().1[0].clone().map(|x| x.to_vec1::<f32>().unwrap());
        let moments = means(&setup);
        setup.variables[0].set(&Tensor::new(&[0f32, 0.], &Device::Cpu).unwrap()).unwrap();
        setup.adam.reset(&setup.variables).unwrap();
        assert_ne!(means(&setup), moments);
        let checkpoint = setup.resume().unwrap().unwrap();
        assert_eq!(means(&setup), moments);
        assert_eq!((checkpoint.step, setup.adam.state().0), (3, 3));
        assert_eq!(setup.variables[0].as_tensor().to_vec1::<f32>().unwrap(), weights);
        assert_eq!(setup.checkpoints.newest_first().len(), KEPT);
    }

    #[test]
    fn a_damaged_newest_file_is_passed_over() {
        let mut setup = setup();
        setup.save(1);
        setup.save(2);
        let files = setup.checkpoints.newest_first();
        let bytes = fs::read(&files[0]).unwrap();
        fs::write(&files[0], &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(setup.resume().unwrap().unwrap().step, 1);
        fs::write(&files[1], b"junk").unwrap();
        let error = setup.resume().unwrap_err().to_string();
        assert!(error.contains("delete the folder"), "{error}");
    }

    #[test]
    fn another_runs_checkpoint_is_refused() {
        let mut setup = setup();
        setup.save(1);
        setup.checkpoints.identity = "other".to_owned();
        assert!(setup.resume().unwrap_err().to_string().contains("another configuration"));
    }

    #[test]
    fn leftovers_of_a_killed_write_are_swept() {
        let mut setup = setup();
        setup.save(1);
        let partial = setup.checkpoints.folder.join(".partial-xyz");
        fs::write(&partial, b"half").unwrap();
        assert_eq!(setup.resume().unwrap().unwrap().step, 1);
        assert!(!partial.exists());
    }
}
