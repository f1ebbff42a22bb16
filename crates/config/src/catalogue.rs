//! The experiments that there are: `configs/<paper>/<experiment>[.<profile>].yaml`.
//!
//! There is no list to keep; the folder is the list.
//! A file whose name starts with `_` is only there to be extended; `schema` and `published` are no papers or experiments.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::envelope::Envelope;
use crate::error::{Error, shown};
use crate::load::{Names, Rules, resolve};
use crate::located::Node;
use crate::needs::{Need, order};
use crate::overlay::{Override, apply, read};
use crate::profile::{ExperimentId, Profile, is_name};
use crate::schema::schema;
use crate::semantics::Known;

/// The experiments below `configs`, each with the profiles that it has.
#[derive(Clone, Debug)]
pub struct Catalogue {
    folder: PathBuf,
    ids: Vec<ExperimentId>,
    profiles: BTreeMap<ExperimentId, Vec<Profile>>,
}

impl Catalogue {
    /// Looks through `<root>/configs`.
    ///
    /// # Errors
    /// When a folder cannot be read, or a file's name says no experiment and profile.
    pub fn scan(root: &Path) -> Result<Catalogue, Error> {
        let folder = root.join("configs");
        let mut profiles: BTreeMap<ExperimentId, Vec<Profile>> = BTreeMap::new();
        for paper in
            list(&folder)?.iter().filter(|path| path.is_dir() && path.file_name() != Some(OsStr::new("schema")))
        {
            for file in list(paper)?.iter().filter(|path| path.is_file()) {
                if let Some((id, profile)) = named(paper, file)? {
                    profiles.entry(id).or_default().push(profile);
                }
            }
        }
        profiles.values_mut().for_each(|profiles| profiles.sort_unstable());
        Ok(Catalogue { folder, ids: profiles.keys().cloned().collect(), profiles })
    }

    /// All of them, by paper and name.
    pub fn experiments(&self) -> &[ExperimentId] {
        &self.ids
    }

    /// The profiles that an experiment has, smallest first; none if there is no such experiment.
    pub fn profiles(&self, id: &ExperimentId) -> Vec<Profile> {
        self.profiles.get(id).cloned().unwrap_or_default()
    }

    /// Whether an experiment has a profile.
    pub fn has(&self, id: &ExperimentId, profile: Profile) -> bool {
        self.profiles.get(id).is_some_and(|profiles| profiles.contains(&profile))
    }

    /// Experiments by words as on the command line: nothing or `""` for all, a paper, or `<paper>/<experiment>`.
    ///
    /// # Errors
    /// For a word that names nothing, with the nearest name and the list of all.
    pub fn select(&self, words: &[String]) -> Result<Vec<ExperimentId>, Error> {
        if words.is_empty() {
            return Ok(self.ids.clone());
        }
        let mut selected = Vec::new();
        for word in words {
            for id in self.matching(word.trim_end_matches('/'))? {
                if !selected.contains(id) {
                    selected.push(id.clone());
                }
            }
        }
        Ok(selected)
    }

    fn matching(&self, word: &str) -> Result<Vec<&ExperimentId>, Error> {
        let fits = |id: &&ExperimentId| word.is_empty() || id.paper == word || id.to_string() == word;
        let found: Vec<_> = self.ids.iter().filter(fits).collect();
        if found.is_empty() && !word.is_empty() { Err(self.unknown(word)) } else { Ok(found) }
    }

    fn unknown(&self, word: &str) -> Error {
        let mut known: Vec<String> = self.ids.iter().map(ToString::to_string).collect();
        if !word.contains('/') {
            known.extend(self.ids.iter().map(|id| id.paper.clone()));
            known.sort();
            known.dedup();
        }
        Error::unknown(if word.contains('/') { "experiment" } else { "paper or experiment" }, word, known)
    }

    /// Loads and checks an experiment in a profile, with overrides.
    ///
    /// The schema is the one at [`Catalogue::schema_path`]; where that file is missing, `params` may be anything.
    ///
    /// # Errors
    /// When there is no such experiment or profile; all mistakes at once; needs that do not exist.
    pub fn load(&self, id: &ExperimentId, profile: Profile, overrides: &[Override]) -> Result<Envelope, Error> {
        let path = self.existing(id, profile)?;
        let parsed = read(&path)?;
        let schema = self.schema(id)?.unwrap_or_else(schema::<BTreeMap<String, Value>>);
        let names = Names { paper: id.paper.clone(), experiment: id.name.clone(), profile: profile.to_string() };
        let known = Some(Known { own: id, all: &self.ids });
        resolve(parsed, &shown(&path), names, &Rules { schema: &schema, overrides, known })
    }

    /// The experiment's schema, if it has been written.
    ///
    /// # Errors
    /// When the file cannot be read or is no JSON.
    pub fn schema(&self, id: &ExperimentId) -> Result<Option<Value>, Error> {
        let path = self.schema_path(id);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Read { path: shown(&path), source }),
        };
        let parsed = serde_json::from_slice(&text);
        parsed.map(Some).map_err(|source| Error::Shape { origin: shown(&path), source })
    }

    /// Where the schema of an experiment's file belongs.
    pub fn schema_path(&self, id: &ExperimentId) -> PathBuf {
        self.folder.join("schema").join(&id.paper).join(format!("{}.json", id.name))
    }

    /// The file of an experiment and profile, whether or not it exists.
    pub fn path(&self, id: &ExperimentId, profile: Profile) -> PathBuf {
        let name = match profile {
            Profile::Cpu => format!("{}.yaml", id.name),
            _ => format!("{}.{profile}.yaml", id.name),
        };
        self.folder.join(&id.paper).join(name)
    }

    fn existing(&self, id: &ExperimentId, profile: Profile) -> Result<PathBuf, Error> {
        if self.has(id, profile) {
            return Ok(self.path(id, profile));
        }
        let profiles = self.profiles(id);
        if profiles.is_empty() {
            return Err(self.unknown(&id.to_string()));
        }
        let names: Vec<_> = profiles.iter().map(ToString::to_string).collect();
        let reason = format!("{id} has no profile `{profile}`; it has {}", names.join(", "));
        Err(Error::Layout { path: shown(&self.path(id, profile)), reason })
    }

    /// What an experiment needs in a profile and after overrides, with the places; the file is not checked beyond that.
    ///
    /// # Errors
    /// When there is no such experiment or profile, the file is no YAML, or it needs what does not exist.
    pub fn needs(&self, id: &ExperimentId, profile: Profile, overrides: &[Override]) -> Result<Vec<Need>, Error> {
        let path = self.existing(id, profile)?;
        let parsed = read(&path)?;
        let Some(mut tree) = parsed.node else { return Err(Error::mistakes(&shown(&path), parsed.mistakes)) };
        let mistakes = apply(&mut tree, overrides);
        if !mistakes.is_empty() {
            return Err(Error::mistakes(&shown(&path), mistakes));
        }
        let items = tree.get("needs").map(Node::items).unwrap_or_default();
        let needs = items.iter().filter_map(|item| Some((item.text()?, item.at.place())));
        needs.map(|(text, place)| Ok(Need { id: self.known(text)?, place })).collect()
    }

    fn known(&self, text: &str) -> Result<ExperimentId, Error> {
        let id: ExperimentId = text.parse()?;
        if self.profiles.contains_key(&id) { Ok(id) } else { Err(self.unknown(text)) }
    }

    /// The profile in which a run of `profile` takes a needed experiment: the same, or `cpu` where it has no such.
    pub fn profile_of_need(&self, id: &ExperimentId, profile: Profile) -> Profile {
        if self.has(id, profile) { profile } else { Profile::Cpu }
    }

    /// The wanted experiments and all that they need after their overrides, in the order in which they must run.
    ///
    /// # Errors
    /// When they need each other in a circle, with the place of each step; as [`Catalogue::needs`].
    pub fn order<'o>(
        &self,
        wanted: &[ExperimentId],
        profile: Profile,
        overrides: impl Fn(&ExperimentId) -> &'o [Override],
    ) -> Result<Vec<ExperimentId>, Error> {
        order(wanted, |id| self.needs(id, self.profile_of_need(id, profile), overrides(id)))
    }
}

/// What is in a folder, sorted, without hidden files.
fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let fail = |source| Error::Read { path: shown(folder), source };
    let entries = std::fs::read_dir(folder).map_err(fail)?;
    let mut paths = entries.map(|entry| Ok(entry.map_err(fail)?.path())).collect::<Result<Vec<_>, Error>>()?;
    paths.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')));
    paths.sort();
    Ok(paths)
}

/// What a file's name says; none for files that are no configurations.
fn named(paper: &Path, file: &Path) -> Result<Option<(ExperimentId, Profile)>, Error> {
    let fail = |reason: String| Error::Layout { path: shown(file), reason };
    let (folder, name) = (lossy(paper.file_name()), lossy(file.file_name()));
    if name.ends_with(".yml") {
        return Err(fail("configurations end in .yaml".to_owned()));
    }
    let Some(stem) = name.strip_suffix(".yaml").filter(|stem| !stem.starts_with('_')) else { return Ok(None) };
    let (experiment, profile) = match stem.split_once('.') {
        None => (stem, Profile::Cpu),
        Some((_, "cpu")) => return Err(fail("the file without a profile in its name is the one for `cpu`".to_owned())),
        Some((experiment, word)) => (experiment, word.parse().map_err(|error: Error| fail(error.to_string()))?),
    };
    if !is_name(experiment) || !is_name(&folder) {
        return Err(fail("names of papers and experiments have letters, digits, `-` and `_` only".to_owned()));
    }
    Ok(Some((ExperimentId { paper: folder, name: experiment.to_owned() }, profile)))
}

fn lossy(name: Option<&OsStr>) -> String {
    name.unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "title: t\nseed: 1\nparams: {a: 1}\n";

    fn catalogue(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Catalogue, Error>) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join("configs").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let catalogue = Catalogue::scan(root.path());
        (root, catalogue)
    }

    fn usual() -> (tempfile::TempDir, Catalogue) {
        let (root, catalogue) = catalogue(&[
            ("icot-mult/train.yaml", BODY),
            ("icot-mult/train.smoke.yaml", "extends: train.yaml\nseed: 2\n"),
            ("icot-mult/attribution.yaml", &format!("{BODY}needs: [icot-mult/train]\n")),
            ("icot-mult/_shared.yaml", "x: 1\n"),
            ("icot-mult/published/curves.csv", "a,b\n"),
            ("ln-removal/train.yaml", &format!("{BODY}needs: [icot-mult/attribution]\n")),
            ("schema/ln-removal/train.json", r#"{"properties": {"sede": {}}, "additionalProperties": false}"#),
        ]);
        (root, catalogue.unwrap())
    }

    fn words<T: ToString>(items: &[T]) -> String {
        items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn id(text: &str) -> ExperimentId {
        text.parse().unwrap()
    }

    #[test]
    fn the_folder_is_the_list() {
        let (_root, catalogue) = usual();
        assert_eq!(words(catalogue.experiments()), "icot-mult/attribution icot-mult/train ln-removal/train");
        assert_eq!(words(&catalogue.profiles(&id("icot-mult/train"))), "smoke cpu");
        let select = |words: &[&str]| catalogue.select(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(select(&[]).unwrap().len(), 3);
        assert_eq!(select(&[""]).unwrap().len(), 3);
        assert_eq!(
            words(&select(&["ln-removal", "icot-mult/train/", "ln-removal/train"]).unwrap()),
            "ln-removal/train icot-mult/train"
        );
        let error = select(&["icot-mlt/train"]).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "unknown experiment `icot-mlt/train`, did you mean `icot-mult/train`?\nthere are:\n  icot-mult/a"
            ),
            "{error}"
        );
        let error = select(&["icot_mult2"]).unwrap_err().to_string();
        assert!(error.starts_with("unknown paper or experiment `icot_mult2`, did you mean `icot-mult`?"), "{error}");
    }

    #[test]
    fn loads_with_the_profile_and_the_schema() {
        let (_root, catalogue) = usual();
        let smoke = catalogue.load(&id("icot-mult/train"), Profile::Smoke, &[]).unwrap();
        assert_eq!((smoke.profile.as_str(), smoke.body.seed), ("smoke", 2));
        let error = catalogue.load(&id("icot-mult/train"), Profile::Paper, &[]).unwrap_err().to_string();
        assert!(error.ends_with("icot-mult/train has no profile `paper`; it has smoke, cpu"), "{error}");
        assert!(matches!(catalogue.load(&id("a/b"), Profile::Cpu, &[]), Err(Error::Unknown { .. })));
        // Its schema allows only `sede`.
        let error = catalogue.load(&id("ln-removal/train"), Profile::Cpu, &[]).unwrap_err().to_string();
        assert!(error.contains(":2:1: seed: unknown key, did you mean `sede`?"), "{error}");
    }

    #[test]
    fn order_follows_needs() {
        let (_root, catalogue) = usual();
        let order = |name: &str, profile| words(&catalogue.order(&[id(name)], profile, |_| &[]).unwrap());
        assert_eq!(order("ln-removal/train", Profile::Cpu), "icot-mult/train icot-mult/attribution ln-removal/train");
        assert_eq!(order("icot-mult/train", Profile::Smoke), "icot-mult/train");
    }

    #[test]
    fn needs_without_sense() {
        let (_root, circle) = catalogue(&[
            ("p/a.yaml", &format!("{BODY}needs:\n- p/b\n")),
            ("p/b.yaml", &format!("{BODY}needs: [p/a]\n")),
            ("p/c.yaml", &format!("{BODY}needs: [p/c, p/d, q]\n")),
        ]);
        let circle = circle.unwrap();
        let error = circle.order(&[id("p/a")], Profile::Cpu, |_| &[]).unwrap_err().to_string();
        assert!(error.contains("a.yaml:5:3: p/a needs p/b") && error.contains("b.yaml:4:9: p/b needs p/a"), "{error}");
        let error = circle.load(&id("p/c"), Profile::Cpu, &[]).unwrap_err().to_string();
        for part in [
            "3 mistakes",
            "c.yaml:4:9: needs.0: an experiment cannot need itself",
            "c.yaml:4:14: needs.1: unknown experiment `p/d`, did you mean `p/a`?",
            "c.yaml:4:19: needs.2: `q` is not of the form",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn file_names_without_sense() {
        let check = |name: &str, expected: &str| {
            let error = catalogue(&[(name, BODY)]).1.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("p/train.smok.yaml", "unknown profile `smok`, did you mean `smoke`?");
        check("p/train.cpu.yaml", "is the one for `cpu`");
        check("p/train.yml", "end in .yaml");
        check("p/tr ain.yaml", "letters, digits");
        assert!(matches!(Catalogue::scan(Path::new("no/such/folder")), Err(Error::Read { .. })));
    }
}
