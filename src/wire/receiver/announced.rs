//! Validation of an announced entry.

use super::event::{FileEntry, OtherEntry, OtherKind};
use crate::digest::PartLayout;
use crate::error_code::ErrorCode;
use crate::relpath::{LinkTarget, NamePolicy, RelPath};
use crate::wire::limits::MAX_FILE_BYTES;
use crate::wire::message::{Entry, EntryKind};

/// A valid entry.
pub enum AnnouncedEntry {
    File(FileEntry),
    Other(OtherEntry),
}

/// Why an entry is refused, while the session continues.
pub struct Refusal {
    pub code: ErrorCode,
    pub reason: String,
}

impl Refusal {
    fn of_name(error: impl ToString) -> Self {
        Refusal { code: ErrorCode::Name, reason: error.to_string() }
    }
}

/// Checks the name, the size and the link target of an entry.
pub fn validate(entry: &Entry, policy: NamePolicy) -> Result<AnnouncedEntry, Refusal> {
    let (id, metadata) = (entry.id, entry.metadata);
    let path = RelPath::new(&entry.name, policy).map_err(Refusal::of_name)?;
    let kind = match &entry.kind {
        EntryKind::File { size_bytes, .. } if *size_bytes > MAX_FILE_BYTES => {
            let reason = format!("a size of {size_bytes} bytes is more than a file can hold");
            return Err(Refusal { code: ErrorCode::NoSpace, reason });
        }
        &EntryKind::File { size_bytes, is_sparse, state } => {
            let layout = PartLayout::new(size_bytes);
            let file = FileEntry { id, path, layout, is_sparse, state, metadata };
            return Ok(AnnouncedEntry::File(file));
        }
        EntryKind::Dir => OtherKind::Dir,
        EntryKind::Link { target } => {
            OtherKind::Link(LinkTarget::new(target, &path, policy).map_err(Refusal::of_name)?)
        }
    };
    Ok(AnnouncedEntry::Other(OtherEntry { id, path, kind, metadata }))
}
