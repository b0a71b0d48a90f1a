//! What happens if the name of an entry is taken.

use super::error::{FOLDER, StoreError};
use crate::relpath::RelPath;

/// What to do if the name of an entry is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Skip an identical file, refuse a different one.
    SkipSame,
    /// Skip an identical file, replace a different one.
    Overwrite,
    /// Skip an identical file, store a different one beside it: `name (1).ext`.
    Rename,
    /// Refuse every entry whose name is taken.
    Error,
}

impl OnConflict {
    /// May an entry be stored although its name is `taken`?
    pub(crate) fn allows_replacing(self, taken: &StoreError) -> bool {
        match self {
            OnConflict::Overwrite => {
                !matches!(taken, StoreError::Exists { what: FOLDER } | StoreError::EquivalentName)
            }
            OnConflict::Rename => true,
            OnConflict::SkipSame | OnConflict::Error => false,
        }
    }
}

/// How an entry was stored.
#[derive(Debug, PartialEq, Eq)]
pub enum Placed {
    /// Under its name.
    Named,
    /// Under another name, because its own was taken.
    Renamed(RelPath),
    /// Not at all: an identical entry has its name.
    AlreadyThere,
    /// Not at all: its name is taken, and an identical entry has this name beside it.
    CopyThere(RelPath),
}
