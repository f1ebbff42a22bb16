//! Which norm goes when (arXiv 2507.02559, appendix; tables 3 and 4).

use models::NormPath;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Norms that go one after the other, from the first block to the last.
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

    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::QueriesKeys => "qk",
            Self::Values => "v",
            Self::Final => "final",
        }
    }

    /// The group of a norm.
    pub fn of(path: NormPath) -> Self {
        match path {
            NormPath::Mlp(_) => Self::Mlp,
            NormPath::QueriesKeys(_) => Self::QueriesKeys,
            NormPath::Values(_) => Self::Values,
            NormPath::Final => Self::Final,
        }
    }
}

/// Steps from one removal to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gaps {
    /// Between norms before MLPs; 0: all at once.
    pub mlp: u64,
    /// Between norms of queries and keys.
    pub qk: u64,
    /// Between norms of values.
    pub v: u64,
}

/// When norms go: the first at `start`, each next one a gap later, a group right behind the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// Steps done before the first norm goes.
    pub start: u64,
    /// Steps between removals.
    pub gaps: Gaps,
    /// Order of the groups; those left out stay.
    #[serde(default = "Group::usual")]
    pub order: Vec<Group>,
}

/// A norm that divides by a fixed number from a step on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Steps done before.
    pub step: u64,
    /// The norm.
    pub path: NormPath,
}

impl Removal {
    /// Every removal of a decoder of so many blocks, in order.
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

    /// Section 3.2 of the specification, from tables 3 and 4: blocks, start and gaps, first events of each group, and how
    /// many events there are (U7).
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

    /// The predecessor's (arXiv 2409.13710), and everything at once.
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
