//! Entries that were announced and are neither stored nor failed.

use std::sync::Arc;

use super::byte_ledger::ByteLedger;
use crate::digest::{Md5, PartDigests};
use crate::relpath::{LinkTarget, RelPath};
use crate::source::Source;
use crate::units::Metadata;

/// An entry in flight, with what the sender has to know of it beside the session's own state.
pub enum InFlightEntry {
    File {
        source: Arc<Source>,
        ledger: ByteLedger,
        /// The receiver has an identical file, and nothing has to be sent.
        already_there: bool,
        /// The MD5 of a file of one part, once it was hashed.
        md5: Option<Md5>,
        /// Parts that an earlier session of this transfer hashed.
        digests: PartDigests,
    },
    Dir(RelPath, Metadata),
    Link {
        name: RelPath,
        target: LinkTarget,
        metadata: Metadata,
    },
}

impl InFlightEntry {
    pub fn file(source: Arc<Source>) -> Self {
        InFlightEntry::File {
            source,
            ledger: ByteLedger::default(),
            already_there: false,
            md5: None,
            digests: PartDigests::new(),
        }
    }

    pub fn name(&self) -> &RelPath {
        match self {
            InFlightEntry::File { source, .. } => &source.name,
            InFlightEntry::Dir(name, _) | InFlightEntry::Link { name, .. } => name,
        }
    }
}
