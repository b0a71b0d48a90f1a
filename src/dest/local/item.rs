//! What can be committed.

use std::sync::Arc;

use super::existing::ExistingFile;
use super::staged::StagedFile;
use crate::dest::{Content, SourceVersion};
use crate::relpath::{LinkTarget, RelPath};
use crate::units::Metadata;

/// A complete entry that needs its final name.
#[derive(Debug)]
pub enum Item {
    /// A file whose parts are all verified.
    File {
        /// Its bytes.
        staged: StagedFile,
        /// What it holds.
        content: Content,
        /// Mode and time of modification.
        metadata: Metadata,
    },
    /// A file for which an identical one exists: that one only has to be synced.
    AlreadyThere {
        /// The existing file.
        file: Arc<ExistingFile>,
        /// Its version, if an interrupted session may have left a partial file of it.
        origin: Option<SourceVersion>,
    },
    /// A directory, after all its entries.
    Dir {
        /// Its path.
        path: RelPath,
        /// Mode and time of modification.
        metadata: Metadata,
    },
    /// A symbolic link.
    Link {
        /// Its path.
        path: RelPath,
        /// Its target.
        target: LinkTarget,
        /// Time of modification.
        metadata: Metadata,
    },
}
