//! Schedules of norm removal (arXiv 2507.02559, appendix; tables 3 and 4).
//!
//! Times are in optimiser steps. A removed norm divides by a fixed scale instead of its input's own scale.

use models::NormPath;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A group of norms that are removed one after the other, from the first block to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Norms before MLPs.
    Mlp,
    /// Norms before attention, for queries and keys.
    QueriesKeys,
    /// The same norms, for values.
    Values,
    /// The final norm.
    Final,
}

impl Group {
    /// The paper's order.
    fn usual() -> Vec<Self> {
        vec![Self::Mlp, Self::QueriesKeys, Self::Values, Self::Final]
    }

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::QueriesKeys => "qk",
            Self::Values => "v",
            Self::Final => "final",
        }
    }

    /// The group that a norm belongs to.
    pub fn of(path: NormPath) -> Self {
        match path {
            NormPath::Mlp(_) => Self::Mlp,
            NormPath::QueriesKeys(_) => Self::QueriesKeys,
            NormPath::Values(_) => Self::Values,
            NormPath::Final => Self::Final,
        }
    }
}

/// Number of steps between one removal and the next, by group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gaps {
    /// Steps between the removals of norms before MLPs. 0 removes all at once.
    pub mlp: u64,
    /// Steps between the removals of norms for queries and keys. 0 removes all at once.
    pub qk: u64,
    /// Steps between the removals of norms for values. 0 removes all at once.
    pub v: u64,
}

/// A schedule of norm removal. The first norm is removed at `start` and each next one a gap later. A group begins one
/// gap after the last norm of the group before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// Number of steps before the first norm is removed.
    pub start: u64,
    /// Numbers of steps between removals.
    pub gaps: Gaps,
    /// Order in which groups are removed. Groups that are not listed keep their norms. By default: mlp, queries_keys,
    /// values, final.
    #[serde(default = "Group::usual")]
    pub order: Vec<Group>,
}

/// The removal of one norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Number of steps before the removal.
    pub step: u64,
    /// The removed norm.
    pub path: NormPath,
}

impl Removal {
    /// All removals from a decoder with `n_layers` blocks, in order.
    pub fn events(&self, n_layers: usize) -> Vec<Event> {
        let (mut events, mut step) = (Vec::new(), self.start);
        for group in &self.order {
            let (gap, path): (u64, fn(usize) -> NormPath) = match group {
                Group::Mlp => (self.gaps.mlp, NormPath::Mlp),
                Group::QueriesKeys => (self.gaps.qk, NormPath::QueriesKeys),
                Group::Values => (self.gaps.v, NormPath::Values),
                Group::Final => {
                    events.push(Event { step, path: NormPath::Final });
                    continue;
                }
            };
            events.extend((0..n_layers).map(|layer| Event { step: step + gap * layer as u64, path: path(layer) }));
            step += gap * n_layers as u64;
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual(start: u64, [mlp, qk, v]: [u64; 3]) -> Removal {
        Removal { start, gaps: Gaps { mlp, qk, v }, order: Group::usual() }
    }

    /// The schedules of tables 3 and 4: number of blocks, start and gaps, first step of each group, number of removals.
    #[test]
    fn the_four_published_schedules() {
        let sizes = [
            (12, usual(20, [2, 2, 3]), [20, 44, 68, 104], 37),
            (24, usual(20, [2, 2, 3]), [20, 68, 116, 188], 73),
            (36, usual(30, [4, 4, 6]), [30, 174, 318, 534], 109),
            (48, usual(50, [4, 4, 6]), [50, 242, 434, 722], 145),
        ];
        for (n_layers, removal, firsts, count) in sizes {
            let events = removal.events(n_layers);
            assert_eq!(events.len(), count);
            let at = |path| events.iter().find(|event| event.path == path).unwrap().step;
            let found = [NormPath::Mlp(0), NormPath::QueriesKeys(0), NormPath::Values(0), NormPath::Final].map(at);
            assert_eq!(found, firsts);
            assert!(events.is_sorted_by_key(|event| event.step));
        }
        let rows = |n_layers, removal: Removal| -> Vec<(u64, String)> {
            removal.events(n_layers).iter().map(|event| (event.step, event.path.to_string())).collect()
        };
        let small = rows(12, usual(20, [2, 2, 3]));
        for row in [(22, "mlp1"), (42, "mlp11"), (66, "qk11"), (71, "v1"), (101, "v11"), (104, "final")] {
            assert!(small.contains(&(row.0, row.1.to_owned())), "{row:?}");
        }
        let medium = rows(24, usual(20, [2, 2, 3]));
        for row in [(66, "mlp23"), (68, "qk0"), (114, "qk23"), (116, "v0"), (185, "v23"), (188, "final")] {
            assert!(medium.contains(&(row.0, row.1.to_owned())), "{row:?}");
        }
        let large = rows(36, usual(30, [4, 4, 6]));
        for row in [(34, "mlp1"), (170, "mlp35"), (174, "qk0"), (314, "qk35"), (324, "v1"), (528, "v35")] {
            assert!(large.contains(&(row.0, row.1.to_owned())), "{row:?}");
        }
        let xl = rows(48, usual(50, [4, 4, 6]));
        for row in [(238, "mlp47"), (242, "qk0"), (430, "qk47"), (440, "v1"), (716, "v47"), (722, "final")] {
            assert!(xl.contains(&(row.0, row.1.to_owned())), "{row:?}");
        }
    }

    /// The schedule of arXiv 2409.13710, removal of all norms at once, and a partial removal.
    #[test]
    fn other_schedules() {
        let events = usual(200, [20, 20, 30]).events(12);
        let at = |path| events.iter().find(|event| event.path == path).unwrap().step;
        assert_eq!([NormPath::QueriesKeys(0), NormPath::Values(0), NormPath::Final].map(at), [440, 680, 1040]);
        assert!(usual(20, [0; 3]).events(4).iter().all(|event| event.step == 20));
        let some = Removal { order: vec![Group::QueriesKeys, Group::Mlp], ..usual(5, [1, 2, 1]) };
        assert_eq!(some.events(2).iter().map(|event| event.step).collect::<Vec<_>>(), [5, 7, 9, 10]);
    }
}
