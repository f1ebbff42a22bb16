//! The names of things: profiles, and experiments as `<paper>/<experiment>`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Size and place of a run; each is an overlay of the same file, never a path in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Tiny, made on the spot: seconds on any CPU.
    Smoke,
    /// The default: minutes on two cores, with the paper's effect really there.
    Cpu,
    /// Hours on two cores, in resumable pieces.
    Overnight,
    /// The published sizes on CUDA.
    Paper,
}

impl Profile {
    /// All four, smallest first.
    pub const ALL: [Profile; 4] = [Profile::Smoke, Profile::Cpu, Profile::Overnight, Profile::Paper];

    /// Its name in file names and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Smoke => "smoke",
            Profile::Cpu => "cpu",
            Profile::Overnight => "overnight",
            Profile::Paper => "paper",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        let known = Profile::ALL.map(Profile::name);
        let found = Profile::ALL.into_iter().find(|profile| profile.name() == word);
        found.ok_or_else(|| Error::unknown("profile", word, known))
    }
}

/// An experiment by its paper's folder and its own name, such as `icot-mult/train`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExperimentId {
    /// Folder name of the paper.
    pub paper: String,
    /// File stem of the experiment.
    pub name: String,
}

impl fmt::Display for ExperimentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.paper, self.name))
    }
}

impl FromStr for ExperimentId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once('/') {
            Some((paper, name)) if is_name(paper) && is_name(name) => {
                Ok(ExperimentId { paper: paper.to_owned(), name: name.to_owned() })
            }
            _ => Err(Error::NotAnId(text.to_owned())),
        }
    }
}

impl TryFrom<String> for ExperimentId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<ExperimentId> for String {
    fn from(id: ExperimentId) -> String {
        id.to_string()
    }
}

/// Letters, digits, `-` and `_`: safe as a file name and in a command.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_typos_are_answered() {
        for profile in Profile::ALL {
            assert_eq!(profile.to_string().parse::<Profile>().unwrap(), profile);
        }
        let error = "overnite".parse::<Profile>().unwrap_err().to_string();
        assert!(error.contains("did you mean `overnight`?"), "{error}");
        assert_eq!("icot-mult/train".parse::<ExperimentId>().unwrap().to_string(), "icot-mult/train");
        for bad in ["", "train", "a/b/c", "/b", "a/", "a/../b", "a b/c"] {
            assert!(bad.parse::<ExperimentId>().is_err(), "{bad}");
        }
    }
}
