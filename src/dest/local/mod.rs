//! Stores entries below a directory of this machine. Everything is reached from one directory handle, and nothing is stored
//! outside it.
//!
//! A file is received in a [`StagedFile`] beside its final name, which it gets when it is committed:
//!
//! | step | a crash after it leaves |
//! | --- | --- |
//! | 1. exclusive create of `.ftx-<random>`, mode 0600 (the final mode, if the file is verified already) | a staged file |
//! | 2. write and verify every part | a staged file |
//! | 3. set mode and time through the handle | a staged file |
//! | 4. sync the data | a staged file |
//! | 5. rename; replaces only if the policy allows it | the complete file; its name perhaps not on the disk |
//! | 6. sync the directory | the complete file, durable |
//! | 7. only now: `stored` | the same |

mod bytes;
mod commit;
mod destination;
mod dir;
mod dir_cache;
mod dir_tree;
mod dirty_dirs;
mod exact_names;
mod existing;
mod item;
mod journal;
mod journal_file;
mod own_files;
mod place;
mod rename;
mod resume;
mod scratch;
mod session;
mod space;
mod staged;
mod sticky_sync;
mod sweep;
mod temp_names;
#[cfg(test)]
mod tests;

pub use bytes::SyncedFile;
pub use destination::LocalDestination;
pub use dir_tree::ImplicitDirs;
pub(crate) use existing::{Existing, ExistingFile};
pub(crate) use item::Item;
pub(crate) use journal::Records;
pub use journal::{JournalContents, Record, parse as parse_journal};
pub use journal_file::Journal;
pub(crate) use resume::{PartialFile, Resumable};
pub use session::LocalSession;
pub(crate) use space::{SpaceReservation, check_size_limit};
pub use staged::StagedFile;

pub use crate::dest::{
    Content, Digests, OnConflict, Placed, RootError, SourceVersion, StoreError, Unfinished,
};
