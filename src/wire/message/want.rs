//! The key `parts` of `want`.

use serde::{Deserialize, Serialize};

use crate::wire::id_ranges::IdRanges;

/// The parts of a file that the receiver requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "RawWanted")]
pub enum WantedParts {
    /// Every part.
    All,
    /// None: an identical file exists.
    None,
    /// The digests first, as `offer` frames: a file of that name and size exists.
    Offers,
    /// These parts.
    #[serde(untagged)]
    Parts(IdRanges),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawWanted {
    Keyword(String),
    Parts(IdRanges),
}

impl TryFrom<RawWanted> for WantedParts {
    type Error = &'static str;

    fn try_from(raw: RawWanted) -> Result<Self, &'static str> {
        match raw {
            RawWanted::Parts(ranges) => Ok(WantedParts::Parts(ranges)),
            RawWanted::Keyword(keyword) => match keyword.as_str() {
                "all" => Ok(WantedParts::All),
                "none" => Ok(WantedParts::None),
                "offers" => Ok(WantedParts::Offers),
                _ => Err("parts are all, none, offers, or runs"),
            },
        }
    }
}
