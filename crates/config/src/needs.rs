//! Experiments in the order in which they must run.

use crate::error::{Error, Place};
use crate::profile::ExperimentId;

/// An experiment that another one needs, and where that is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Need {
    /// The needed experiment.
    pub id: ExperimentId,
    /// The item in `needs:`.
    pub place: Place,
}

/// The wanted experiments and all that they need, each after what it needs, otherwise in the order given.
///
/// # Errors
/// When they need each other in a circle, with the place of each step; or when `needs` fails.
pub fn order(
    wanted: &[ExperimentId],
    needs: impl FnMut(&ExperimentId) -> Result<Vec<Need>, Error>,
) -> Result<Vec<ExperimentId>, Error> {
    let mut walk = Walk { needs, done: Vec::new(), path: Vec::new() };
    for id in wanted {
        walk.visit(id)?;
    }
    Ok(walk.done)
}

struct Walk<F> {
    needs: F,
    done: Vec<ExperimentId>,
    /// From a wanted experiment down to the current one: each with the need that is being followed.
    path: Vec<(ExperimentId, Option<Place>)>,
}

impl<F: FnMut(&ExperimentId) -> Result<Vec<Need>, Error>> Walk<F> {
    fn visit(&mut self, id: &ExperimentId) -> Result<(), Error> {
        if self.done.contains(id) {
            return Ok(());
        }
        if let Some(first) = self.path.iter().position(|(above, _)| above == id) {
            return Err(self.circle(first));
        }
        self.path.push((id.clone(), None));
        for need in (self.needs)(id)? {
            if let Some((_, place)) = self.path.last_mut() {
                *place = Some(need.place);
            }
            self.visit(&need.id)?;
        }
        self.path.pop();
        self.done.push(id.clone());
        Ok(())
    }

    fn circle(&self, first: usize) -> Error {
        let circle = &self.path[first..];
        let next = circle.iter().skip(1).chain(circle.first());
        let steps = circle.iter().zip(next).map(|((id, place), (needed, _))| {
            let place = place.as_ref().map_or_else(String::new, |place| format!("{place}: "));
            format!("{place}{id} needs {needed}")
        });
        Error::Cycle(steps.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ExperimentId {
        ExperimentId { paper: "p".into(), name: name.into() }
    }

    /// `edges` such as `a>b c, b>c`.
    fn run(wanted: &str, edges: &str) -> Result<String, String> {
        let needs = |from: &ExperimentId| {
            let edge = edges.split(", ").filter_map(|edge| edge.split_once('>')).find(|(name, _)| *name == from.name);
            let names = edge.map_or("", |(_, names)| names).split_whitespace();
            let place = || Place::Whole(format!("{}.yaml:1:9", from.name));
            Ok(names.map(|name| Need { id: id(name), place: place() }).collect())
        };
        let wanted: Vec<_> = wanted.split_whitespace().map(id).collect();
        match order(&wanted, needs) {
            Ok(ids) => Ok(ids.into_iter().map(|id| id.name).collect::<Vec<_>>().join(" ")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn needs_come_first() {
        let check = |wanted: &str, edges: &str, expected: &str| assert_eq!(run(wanted, edges).unwrap(), expected);
        check("b a", "", "b a");
        check("a", "a>b, b>c", "c b a");
        check("a b c", "a>c, b>c", "c a b");
        check("a", "a>b c, b>d, c>d", "d b c a");
        check("a a", "", "a");
        check("", "", "");
    }

    #[test]
    fn a_circle_is_told_step_by_step() {
        let expected = "`needs` goes round in a circle:\n  a.yaml:1:9: p/a needs p/b\n  b.yaml:1:9: p/b needs p/a";
        assert_eq!(run("x", "x>a, a>b, b>a").unwrap_err(), expected);
        assert!(run("a", "a>a").unwrap_err().ends_with("a.yaml:1:9: p/a needs p/a"));
    }
}
