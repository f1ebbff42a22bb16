//! Plans a request before anything runs: resolves all configurations, reports all their mistakes together, adds and
//! orders the needs, and expands sweeps into points.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use config::{Catalogue, Envelope, ExperimentId, Override, Profile, Sweep};
use serde_json::Value;

use crate::places::{Variant, Workspace, short};

/// A request from the command line.
#[derive(Clone, Debug)]
pub struct Request {
    /// Papers and experiments; everything when empty.
    pub words: Vec<String>,
    /// The profile.
    pub profile: Profile,
    /// Whether to run only two steps with random weights.
    pub rehearse: bool,
    /// `--set`.
    pub set: Vec<Override>,
    /// Set by `cargo xtask sweep`: results go to the sweeps' folder.
    pub sweep: Option<SweepRequest>,
}

/// The additional request of `cargo xtask sweep`.
#[derive(Clone, Debug)]
pub struct SweepRequest {
    /// Points from the command line; when `None`, those of `sweep:` in the file.
    pub points: Option<Sweep>,
}

/// How a task makes its results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The paper's binary runs the experiment.
    Run,
    /// `render` joins the results of the points with these ids and task indices.
    Join(Vec<(String, usize)>),
}

/// One folder of results to make.
#[derive(Clone, Debug)]
pub struct Task {
    /// The experiment.
    pub id: ExperimentId,
    /// Id of the point; `None` for the experiment's own results.
    pub point: Option<String>,
    /// How its results are made.
    pub kind: Kind,
    /// Profile, overrides, rehearsal.
    pub variant: Variant,
    /// The resolved configuration.
    pub envelope: Envelope,
    /// Folder of the results.
    pub folder: PathBuf,
    /// Folder over all results of its kind, with `index.html`.
    pub root: PathBuf,
    /// Name of its records.
    pub stem: String,
    /// Whether the request names it; otherwise it is only needed by another task.
    pub selected: bool,
    /// Experiments whose results it reads, and the indices of their tasks.
    pub needs: Vec<(String, usize)>,
}

impl Task {
    /// For messages: `icot-mult/train (cpu)`.
    pub fn label(&self) -> String {
        match &self.point {
            Some(point) => format!("{} {point} ({})", self.id, self.variant.label()),
            None => format!("{} ({})", self.id, self.variant.label()),
        }
    }

    /// Indices of all tasks that must finish before this one.
    pub fn after(&self) -> Vec<usize> {
        let mut after: Vec<usize> = self.needs.iter().map(|(_, task)| *task).collect();
        if let Kind::Join(points) = &self.kind {
            after.extend(points.iter().map(|(_, task)| *task));
        }
        after
    }

    /// Whether this is an experiment's own result, which gets drawn.
    pub fn is_drawn(&self) -> bool {
        self.point.is_none()
    }
}

/// Tasks in an order in which they can run.
#[derive(Debug, Default)]
pub struct Plan {
    /// The tasks; each comes after all tasks that it needs.
    pub tasks: Vec<Task>,
    /// Requested experiments without a configuration of the profile.
    pub without_profile: Vec<ExperimentId>,
}

impl Plan {
    /// Plans a request.
    ///
    /// # Errors
    /// When a name is unknown, a configuration has mistakes (all of them are listed), no experiment has an overridden key,
    /// or needs are circular.
    pub fn make(workspace: &Workspace, catalogue: &Catalogue, request: &Request) -> Result<Self> {
        let (selected, without_profile) = select(catalogue, request)?;
        let resolved = resolve(workspace, catalogue, request, &selected)?;
        let overrides = |id: &ExperimentId| resolved.get(id).map_or(&[][..], |resolved| &resolved.overrides);
        let order = catalogue.order(&selected, request.profile, overrides)?;
        let mut plan = Self { tasks: Vec::new(), without_profile };
        let mut made: BTreeMap<ExperimentId, usize> = BTreeMap::new();
        for id in order {
            let Some(resolved) = resolved.get(&id) else { continue };
            let needs = resolved
                .envelope
                .body
                .needs
                .iter()
                .map(|need| {
                    let need_id: ExperimentId = need.parse()?;
                    let task =
                        made.get(&need_id).with_context(|| format!("{id} needs {need}, which was not planned"))?;
                    Ok((need.clone(), *task))
                })
                .collect::<Result<Vec<_>>>()?;
            plan.add(workspace, catalogue, request, resolved, needs)?;
            made.insert(id, plan.tasks.len() - 1);
        }
        Ok(plan)
    }

    /// Adds the tasks of one experiment; the last of them makes its results.
    fn add(
        &mut self,
        workspace: &Workspace,
        catalogue: &Catalogue,
        request: &Request,
        resolved: &Resolved,
        needs: Vec<(String, usize)>,
    ) -> Result<()> {
        let id = resolved.envelope.id();
        // a task that reads overridden results counts as overridden too
        let overridden =
            !resolved.overrides.is_empty() || needs.iter().any(|(_, need)| self.tasks[*need].variant.set.is_some());
        let variant = Variant {
            profile: resolved.profile,
            rehearse: request.rehearse,
            set: Variant::new(request.profile, request.rehearse, &request.set).set.filter(|_| overridden),
        };
        let mut envelope = resolved.envelope.clone();
        let of_sweep = resolved.selected && request.sweep.is_some();
        if of_sweep && let Some(points) = request.sweep.as_ref().and_then(|sweep| sweep.points.clone()) {
            envelope.body.sweep = Some(points);
        }
        let (root, folder, stem) = if of_sweep {
            let folder = variant.sweep_folder(workspace, &id);
            (variant.sweeps(workspace), folder, format!("sweeps.{}", variant.stem(&id)))
        } else {
            (variant.root(workspace), variant.folder(workspace, &id), variant.stem(&id))
        };
        let mut task = Task {
            id: id.clone(),
            point: None,
            kind: Kind::Run,
            stem,
            variant,
            envelope,
            folder,
            root,
            selected: resolved.selected,
            needs,
        };
        if let Some(sweep) = task.envelope.body.sweep.clone() {
            task.kind = Kind::Join(self.add_points(workspace, catalogue, &task, &sweep)?);
        } else if of_sweep {
            bail!("{id} has no `sweep:` in its file: name a key to vary, such as `--grid seed=1,2,3`");
        }
        self.tasks.push(task);
        Ok(())
    }

    /// Adds one task per point of a sweep and returns their ids and task indices.
    fn add_points(
        &mut self,
        workspace: &Workspace,
        catalogue: &Catalogue,
        whole: &Task,
        sweep: &Sweep,
    ) -> Result<Vec<(String, usize)>> {
        let schema = catalogue.schema(&whole.id)?.unwrap_or_else(config::schema::<BTreeMap<String, Value>>);
        let points = sweep.points()?;
        let mut laid = Vec::with_capacity(points.len());
        let mut mistakes = Vec::new();
        for overrides in points {
            let point = point_id(&overrides);
            // all sweeps over the same base share the folders of points, so a longer sweep repeats nothing
            let folder = whole.variant.sweep_folder(workspace, &whole.id).join("points").join(&point);
            match whole.envelope.at_point(&overrides, &schema) {
                Ok(envelope) => {
                    self.tasks.push(Task {
                        point: Some(point.clone()),
                        kind: Kind::Run,
                        stem: format!("sweeps.{}.{point}", whole.variant.stem(&whole.id)),
                        envelope,
                        folder,
                        ..whole.clone()
                    });
                    laid.push((point, self.tasks.len() - 1));
                }
                Err(error) => mistakes.push(error.to_string()),
            }
        }
        report(&mistakes)?;
        Ok(laid)
    }

    /// The papers whose binaries the tasks run.
    pub fn papers(&self) -> Vec<String> {
        let papers: BTreeSet<&String> = self.tasks.iter().map(|task| &task.id.paper).collect();
        papers.into_iter().cloned().collect()
    }
}

/// One experiment with its resolved configuration.
struct Resolved {
    envelope: Envelope,
    overrides: Vec<Override>,
    profile: Profile,
    selected: bool,
}

/// The experiments that were asked for and have the profile, and those that lack it.
fn select(catalogue: &Catalogue, request: &Request) -> Result<(Vec<ExperimentId>, Vec<ExperimentId>)> {
    let ids = catalogue.select(&request.words)?;
    let profile = request.profile;
    let (with, without): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| catalogue.has(id, profile));
    for id in &without {
        if with.is_empty() || request.words.contains(&id.to_string()) {
            let there: Vec<String> = catalogue.profiles(id).iter().map(ToString::to_string).collect();
            bail!(
                "{id} has no profile {profile}: it has {}; write configs/{}/{}.{profile}.yaml to add it",
                there.join(", "),
                id.paper,
                id.name
            );
        }
    }
    if with.is_empty() {
        bail!("there is no experiment: create one with `cargo xtask new <paper>`");
    }
    Ok((with, without))
}

/// Loads the selected experiments and everything they need.
fn resolve(
    workspace: &Workspace,
    catalogue: &Catalogue,
    request: &Request,
    selected: &[ExperimentId],
) -> Result<BTreeMap<ExperimentId, Resolved>> {
    let (taken, mut mistakes) = assign(catalogue, request, selected);
    let mut resolved: BTreeMap<ExperimentId, Resolved> = BTreeMap::new();
    let mut seen: BTreeSet<ExperimentId> = BTreeSet::new();
    let mut queue: Vec<ExperimentId> = selected.iter().rev().cloned().collect();
    while let Some(id) = queue.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        if let Err(error) = workspace.require_paper(&id.paper) {
            mistakes.push(format!("{error:#}"));
            continue;
        }
        let overrides = taken.get(&id).cloned().unwrap_or_default();
        let profile = profile_in(catalogue, &id, request.profile);
        match catalogue.load(&id, profile, &overrides) {
            Ok(envelope) => {
                for need in &envelope.body.needs {
                    match find_need(catalogue, request.profile, &id, need) {
                        Ok(need) => queue.push(need),
                        Err(error) => mistakes.push(format!("{error:#}")),
                    }
                }
                let selected = selected.contains(&id);
                resolved.insert(id, Resolved { envelope, overrides, profile, selected });
            }
            Err(error) => mistakes.push(error.to_string()),
        }
    }
    report(&mistakes)?;
    Ok(resolved)
}

/// The overrides that apply to each selected experiment, which are those whose key it has. For each override that
/// applies to no experiment, also the error of the first experiment.
fn assign(
    catalogue: &Catalogue,
    request: &Request,
    selected: &[ExperimentId],
) -> (BTreeMap<ExperimentId, Vec<Override>>, Vec<String>) {
    let mut taken: BTreeMap<ExperimentId, Vec<Override>> = BTreeMap::new();
    let mut mistakes = Vec::new();
    for set in &request.set {
        let mut first_error = None;
        let mut applied = false;
        for id in selected {
            match refusal(catalogue, request.profile, id, set) {
                None => {
                    applied = true;
                    taken.entry(id.clone()).or_default().push(set.clone());
                }
                Some(error) => first_error = first_error.or(Some(error)),
            }
        }
        if let (false, Some(first_error)) = (applied, first_error) {
            mistakes.push(first_error);
        }
    }
    (taken, mistakes)
}

/// The error if an experiment does not have an overridden key; `None` if it has the key, even if the value is invalid.
fn refusal(catalogue: &Catalogue, profile: Profile, id: &ExperimentId, set: &Override) -> Option<String> {
    let error = catalogue.load(id, profile, std::slice::from_ref(set)).err()?;
    let plain = catalogue.load(id, profile, &[]).ok()?;
    let plain = serde_json::to_value(&plain.body).ok()?;
    (!has_key(&plain, &set.key)).then(|| error.to_string())
}

/// Whether a dotted path, with list indices as numbers, exists in `value`.
fn has_key(value: &Value, key: &str) -> bool {
    let step = |value: &'_ Value, part: &str| match value {
        Value::Object(map) => map.get(part).cloned(),
        Value::Array(list) => part.parse::<usize>().ok().and_then(|index| list.get(index)).cloned(),
        _ => None,
    };
    key.split('.').try_fold(value.clone(), |value, part| step(&value, part)).is_some()
}

/// The profile of an experiment in a request: the requested one, or `cpu` where `overnight` does not exist.
fn profile_in(catalogue: &Catalogue, id: &ExperimentId, profile: Profile) -> Profile {
    if profile == Profile::Overnight { catalogue.profile_of_need(id, profile) } else { profile }
}

/// The experiment that another one needs.
fn find_need(catalogue: &Catalogue, profile: Profile, id: &ExperimentId, need: &str) -> Result<ExperimentId> {
    let found: ExperimentId = need.parse()?;
    if !catalogue.has(&found, profile_in(catalogue, &found, profile)) {
        bail!(
            "{id} needs {found}, which has no profile {profile}: write configs/{}/{}.{profile}.yaml to add it",
            found.paper,
            found.name
        );
    }
    Ok(found)
}

/// Fails with all mistakes, if there are any.
fn report(mistakes: &[String]) -> Result<()> {
    if mistakes.is_empty() {
        return Ok(());
    }
    bail!("{}\nnothing was run", mistakes.join("\n\n"));
}

/// Folder name of a sweep's point: the swept keys and values, and the first digits of a hash that makes it unique.
fn point_id(overrides: &[Override]) -> String {
    let mut words: Vec<(String, String)> =
        overrides.iter().map(|set| (set.key.clone(), set.value.to_string())).collect();
    words.sort();
    let all: Vec<String> = words.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let digits = short(&storage::hash_bytes(all.join("\n").as_bytes()), 6);
    let plain = |text: &str| -> String {
        let kept = text.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c));
        kept.take(24).collect()
    };
    let name =
        |(key, value): &(String, String)| format!("{}-{}", plain(key.rsplit('.').next().unwrap_or(key)), plain(value));
    let slug: String = words.iter().map(name).collect::<Vec<_>>().join("_").chars().take(100).collect();
    format!("{slug}_{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(words: &[&str]) -> Vec<Override> {
        words.iter().map(|word| word.parse().unwrap()).collect()
    }

    #[test]
    fn points_have_readable_unique_names() {
        let id = point_id(&sets(&["seed=1", "params.method=icot"]));
        assert!(id.starts_with("method-icot_seed-1_"), "{id}");
        assert_eq!(id, point_id(&sets(&["params.method=icot", "seed=1"])), "whatever the order");
        assert_ne!(point_id(&sets(&["params.a.x=1"])), point_id(&sets(&["params.b.x=1"])));
        assert!(!point_id(&sets(&["params.path=../../etc"])).contains('/'));
    }

    #[test]
    fn dotted_keys_are_followed_through_maps_and_lists() {
        let value = serde_json::json!({"params": {"layers": [{"width": 1}], "lr": 0.1}});
        let check = |key| has_key(&value, key);
        assert!(check("params.lr") && check("params.layers.0.width"));
        assert!(!check("params.lrr") && !check("params.layers.1") && !check("params.lr.x"));
    }
}
