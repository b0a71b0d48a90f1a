//! Gives entries their final names.

use std::sync::Arc;

use super::dir::Dir;
use super::existing::{Existing, lookup, numbered_names};
use super::item::Item;
use super::rename::rename_new;
use super::resume;
use super::session::LocalSession;
use super::staged::{StagedFile, set_metadata};
use crate::dest::error::{FOLDER, StoreError};
use crate::dest::{Content, OnConflict, Placed};
use crate::relpath::{LinkTarget, RelPath};
use crate::sys::Errno;
use crate::sys::path::from_bytes;
use crate::sys::stat::FileStat;
use crate::units::{Metadata, Mode};

/// With this bit, a directory passes its group on to its entries.
const SETGID: u32 = 0o2000;

/// How a kind of entry gets its name.
struct Naming<'a> {
    /// What is tried, for errors.
    doing: &'static str,
    /// What an existing file with the name is called in errors.
    existing_file: &'static str,
    /// Is what has the entry's name the same entry?
    is_same: &'a dyn Fn(&Existing) -> Result<bool, StoreError>,
    /// Is there the same entry at this path beside it?
    is_copy: &'a dyn Fn(&RelPath) -> Result<bool, StoreError>,
}

impl LocalSession {
    /// Gives an entry its final name: step 5.
    pub(super) fn place(&self, item: Item) -> Result<Placed, StoreError> {
        match item {
            Item::File { staged, content, .. } => self.place_file(staged, &content),
            Item::AlreadyThere { file, origin } => {
                let dir = file.dir()?;
                self.tree.mark_dirty(&dir);
                if let Some(version) = origin {
                    resume::remove(&dir, file.name(), version);
                }
                Ok(file.copy_path().cloned().map_or(Placed::AlreadyThere, Placed::CopyThere))
            }
            Item::Dir { path, metadata } => self.place_dir(&path, metadata),
            Item::Link { path, target, metadata } => self.place_link(&path, &target, metadata),
        }
    }

    fn place_file(&self, mut staged: StagedFile, content: &Content) -> Result<Placed, StoreError> {
        let is_same = |existing: &Existing| match existing {
            Existing::File(file) if file.matches(content) => file.sync().map(|()| true),
            _ => Ok(false),
        };
        let naming = Naming {
            doing: "rename the file",
            existing_file: "a different file",
            is_same: &is_same,
            is_copy: &|copy| is_same(&lookup(&self.tree, copy)?),
        };
        let path = staged.path().clone();
        let placed = staged.dir().and_then(|dir| self.name(&dir, staged.name().as_bytes(), &path, &naming));
        match placed {
            Ok(Placed::Named | Placed::Renamed(_)) => staged.mark_committed(),
            Ok(Placed::AlreadyThere | Placed::CopyThere(_)) | Err(_) => staged.discard(),
        }
        placed
    }

    fn place_link(
        &self,
        path: &RelPath,
        target: &LinkTarget,
        metadata: Metadata,
    ) -> Result<Placed, StoreError> {
        let (parent, name) = path.split();
        let dir = self.tree.open_or_create(parent)?;
        let is_same = |name: &[u8]| {
            let existing = dir.handle.read_symlink(name);
            existing.is_ok_and(|existing| existing.as_bytes() == target.as_bytes())
                && self.tree.is_exact_name(&dir, parent, name).is_ok_and(|is| is)
        };
        if is_same(name) && self.on_conflict != OnConflict::Error {
            self.tree.mark_dirty(&dir);
            return Ok(Placed::AlreadyThere);
        }
        let naming = Naming {
            doing: "rename the link",
            existing_file: "a file",
            is_same: &|_| Ok(false),
            is_copy: &|copy| Ok(is_same(copy.split().1)),
        };
        // Created under a hidden name first, so that it gets its name in one step, like a file.
        let hidden = self.create_hidden_link(&dir, target)?;
        let timed = match metadata.mtime {
            Some(mtime) => dir.handle.set_entry_mtime(&*hidden, mtime),
            None => Ok(()),
        };
        let placed = timed
            .map_err(StoreError::io("set the time of modification"))
            .and_then(|()| self.name(&dir, hidden.as_bytes(), path, &naming));
        if !matches!(placed, Ok(Placed::Named | Placed::Renamed(_))) {
            let _ = dir.handle.remove_file(&*hidden);
        }
        placed
    }

    fn create_hidden_link(&self, dir: &Dir, target: &LinkTarget) -> Result<Box<str>, StoreError> {
        loop {
            let hidden = self.names.next();
            match dir.handle.create_symlink(from_bytes(target.as_bytes()), &*hidden) {
                Ok(()) => return Ok(hidden),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(StoreError::io("create the link")(errno)),
            }
        }
    }

    /// Renames `from` to the name of `path`, or applies the policy if that is taken.
    fn name(
        &self,
        dir: &Arc<Dir>,
        from: &[u8],
        path: &RelPath,
        naming: &Naming<'_>,
    ) -> Result<Placed, StoreError> {
        let placed = match rename_new(dir, from, path.split().1) {
            Ok(()) => Placed::Named,
            Err(Errno::EXIST) => {
                let existing = lookup(&self.tree, path)?;
                if self.on_conflict != OnConflict::Error && (naming.is_same)(&existing)? {
                    Placed::AlreadyThere
                } else {
                    let taken = existing.conflict(naming.existing_file);
                    self.resolve_conflict(dir, from, path, taken, naming)?
                }
            }
            Err(errno) => return Err(StoreError::io(naming.doing)(errno)),
        };
        // Also for an existing entry: the session that named it may not have synced the directory.
        self.tree.mark_dirty(dir);
        Ok(placed)
    }

    /// Applies the policy if the name is `taken`.
    fn resolve_conflict(
        &self,
        dir: &Dir,
        from: &[u8],
        path: &RelPath,
        taken: StoreError,
        naming: &Naming<'_>,
    ) -> Result<Placed, StoreError> {
        match self.on_conflict {
            OnConflict::Overwrite if self.on_conflict.allows_replacing(&taken) => {
                let renamed = dir.handle.rename(from, path.split().1);
                renamed.map(|()| Placed::Named).map_err(StoreError::io("replace the existing file"))
            }
            OnConflict::Rename => {
                for copy in numbered_names(path) {
                    match rename_new(dir, from, copy.split().1) {
                        Ok(()) => return Ok(Placed::Renamed(copy)),
                        // Most likely stored by a session that was interrupted before its sender learnt of it.
                        Err(Errno::EXIST) if (naming.is_copy)(&copy)? => return Ok(Placed::CopyThere(copy)),
                        Err(Errno::EXIST) => {}
                        Err(errno) => return Err(StoreError::io(naming.doing)(errno)),
                    }
                }
                Err(taken)
            }
            _ => Err(taken),
        }
    }

    fn place_dir(&self, path: &RelPath, metadata: Metadata) -> Result<Placed, StoreError> {
        let dir = self.open_or_create_dir(path)?;
        // An existing directory keeps its mode and time, unless the policy is to overwrite.
        let stat = FileStat::of(&dir.handle).map_err(StoreError::io("examine the folder"))?;
        let is_implicit = self.tree.is_implicit(&dir, stat.mode);
        if is_implicit || self.on_conflict == OnConflict::Overwrite {
            let default = is_implicit.then_some(Mode::new(0o777 & !self.umask));
            // The setgid bit is not part of the metadata: the directory inherits it.
            let mode = metadata.mode.or(default).map(|mode| mode.bits() | stat.mode & SETGID);
            set_metadata(&dir.handle, mode, metadata.mtime)?;
            self.tree.set_announced(&dir);
        }
        self.tree.mark_dirty(&dir);
        Ok(Placed::Named)
    }

    fn open_or_create_dir(&self, path: &RelPath) -> Result<Arc<Dir>, StoreError> {
        let path_bytes = path.as_bytes();
        if let Some(dir) = self.tree.open(path_bytes).ok().filter(|dir| self.tree.has_path(dir, path_bytes)) {
            return Ok(dir);
        }
        // The open directory was removed or replaced.
        self.tree.invalidate(path_bytes);
        match lookup(&self.tree, path)? {
            Existing::Nothing | Existing::Other(FOLDER) => self.tree.open_or_create(path_bytes),
            existing => Err(existing.conflict("a file")),
        }
    }
}
