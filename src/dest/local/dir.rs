//! An open directory below the root.

use std::sync::OnceLock;

use super::sticky_sync::StickySync;
use crate::sys::Errno;
use crate::sys::dir::DirHandle;
use crate::sys::stat::{FileId, FileStat};

/// An open directory below the root.
#[derive(Debug)]
pub struct Dir {
    /// The handle. To be synced by [`Dir::sync`] and [`Dir::sync_file_system`] only.
    pub handle: DirHandle,
    /// Which directory it is.
    pub id: FileId,
    /// The mode when it was opened.
    pub mode: u32,
    /// It was created by this session: every entry in it is of this session.
    pub is_new: bool,
    has_default_acl: OnceLock<bool>,
    may_be_case_insensitive: OnceLock<bool>,
    sync: StickySync,
}

impl Dir {
    pub fn new(handle: DirHandle) -> Result<Self, Errno> {
        let stat = FileStat::of(&handle)?;
        Ok(Dir {
            handle,
            id: stat.id,
            mode: stat.mode,
            is_new: false,
            has_default_acl: OnceLock::new(),
            may_be_case_insensitive: OnceLock::new(),
            sync: StickySync::default(),
        })
    }

    /// Syncs the names in it; an error on every call after the first failure.
    pub fn sync(&self) -> Result<(), Errno> {
        self.sync.run(|| self.handle.sync())
    }

    /// Syncs its whole file system; an error on every call after the first failure.
    pub fn sync_file_system(&self) -> Result<(), Errno> {
        self.sync.run(|| self.handle.sync_file_system())
    }

    /// Do new files get the permissions of a default access control list, and not those they are created with?
    pub fn has_default_acl(&self) -> bool {
        *self.has_default_acl.get_or_init(|| self.handle.has_default_acl())
    }

    /// May a name find an entry whose name differs in case or normalisation?
    pub fn may_be_case_insensitive(&self) -> bool {
        *self.may_be_case_insensitive.get_or_init(|| self.handle.may_be_case_insensitive())
    }
}
