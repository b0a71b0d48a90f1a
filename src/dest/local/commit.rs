//! From verified to durable: sync, final names, sync of the folders; many entries at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::dir_tree::Dir;
use super::existing::{Existing, ExistingFile, lookup, numbered_names};
use super::journal::SourceVersion;
use super::staged::{StagedFile, set_metadata, timestamps};
use super::{LocalSession, OnConflict, StoreError};
use crate::digest::{Md5, PartDigests};
use crate::relpath::{LinkTarget, RelPath};
use crate::units::{Metadata, Mode};

/// Up to this many, files and folders are synced one by one; more of them by one sync of their file system.
pub const MAX_SYNCED_ONE_BY_ONE: usize = 4;
/// The bit of a folder by which what is made in it belongs to its group.
const SETGID: u32 = 0o2000;

/// Something that is complete and wants its final name.
#[derive(Debug)]
pub enum Item {
    /// A file whose parts are all verified.
    File {
        /// Where its bytes are.
        staged: StagedFile,
        /// What it holds.
        content: Content,
        /// Mode and time of modification.
        metadata: Metadata,
    },
    /// A file that was there before and is identical: it only has to be durable.
    AlreadyThere {
        /// The file that is there.
        file: Arc<ExistingFile>,
        /// Of which state it is, if some of that may be left from a cut session.
        origin: Option<SourceVersion>,
    },
    /// A folder in which everything is in place.
    Dir {
        /// Where.
        path: RelPath,
        /// Mode and time of modification.
        metadata: Metadata,
    },
    /// A symbolic link.
    Link {
        /// Where.
        path: RelPath,
        /// Where it leads.
        target: LinkTarget,
        /// Time of modification.
        metadata: Metadata,
    },
}

/// What a verified file holds, to tell whether another one holds the same.
#[derive(Clone, Debug)]
pub struct Content {
    /// Its size.
    pub size_bytes: u64,
    /// Its digests.
    pub digests: Digests,
}

/// How a file was verified.
#[derive(Clone, Debug)]
pub enum Digests {
    /// Part by part.
    Parts(PartDigests),
    /// As a whole.
    Whole(Md5),
}

/// What became of an item.
#[derive(Debug, PartialEq, Eq)]
pub enum Placed {
    /// It has its name.
    Named,
    /// It has another name, because its own was taken.
    Renamed(RelPath),
    /// The same was there already.
    AlreadyThere,
    /// The same was there already beside its own name, which is taken by something else.
    CopyThere(RelPath),
}

impl LocalSession {
    /// Brings all items to stable storage under their final names, in their order; an answer for each. When this
    /// returns, what it calls placed survives a loss of power.
    pub fn commit(&mut self, mut items: Vec<Item>) -> Vec<Result<Placed, StoreError>> {
        let mut results: Vec<Result<Placed, StoreError>> = self.sync_data(&mut items);
        for (item, result) in items.into_iter().zip(&mut results) {
            if result.is_ok() {
                *result = self.place(item);
            } else if let Item::File { staged, .. } = item {
                // Nobody knows what of it is on the disk: the next attempt must not build on it.
                staged.discard();
            }
        }
        if let Err(errno) = self.sync_names() {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(StoreError::io("sync the folder")(errno));
            }
        }
        results
    }

    /// Steps 3 and 4: metadata, then the data.
    fn sync_data(&self, items: &mut [Item]) -> Vec<Result<Placed, StoreError>> {
        let mut results: Vec<Result<Placed, StoreError>> = items
            .iter_mut()
            .map(|item| match item {
                Item::File { staged, content, metadata } => {
                    staged.seal(*metadata, content.size_bytes).map(|()| Placed::Named)
                }
                _ => Ok(Placed::Named),
            })
            .collect();
        let device_of_small = |item: &Item| match item {
            Item::File { staged, .. } if !staged.is_large() => Some(staged.device()),
            _ => None,
        };
        let in_a_batch = items.iter().filter_map(device_of_small).count() > MAX_SYNCED_ONE_BY_ONE;
        // One sync for all of a file system. What a failed one has lost may be in files of later batches, too, which were
        // written meanwhile: from then on, no sync of it succeeds in this session.
        let failed_devices: BTreeSet<u64> = if in_a_batch {
            let devices: BTreeSet<u64> = items.iter().filter_map(device_of_small).collect();
            devices.into_iter().filter(|device| self.tree.sync_device(*device).is_err()).collect()
        } else {
            BTreeSet::new()
        };
        for (item, result) in items.iter().zip(&mut results).filter(|(_, result)| result.is_ok()) {
            let synced = match item {
                Item::File { staged, .. } if in_a_batch && !staged.is_large() => {
                    if failed_devices.contains(&staged.device()) {
                        // Somebody's data on that file system was lost. It may be ours: never call it good.
                        Err(StoreError::io("bring the file to stable storage")(Errno::IO))
                    } else {
                        Ok(())
                    }
                }
                Item::File { staged, .. } => staged.sync(),
                Item::AlreadyThere { file, .. } => file.sync(),
                Item::Dir { .. } | Item::Link { .. } => Ok(()),
            };
            if let Err(error) = synced {
                *result = Err(error);
            }
        }
        results
    }

    /// Step 5.
    fn place(&mut self, item: Item) -> Result<Placed, StoreError> {
        match item {
            Item::File { staged, content, .. } => self.place_file(staged, &content),
            Item::AlreadyThere { file, origin } => {
                self.tree.mark_dirty(&file.dir()?);
                if let Some(origin) = origin {
                    file.remove_left_behind(origin);
                }
                Ok(file.copy_path().cloned().map_or(Placed::AlreadyThere, Placed::CopyThere))
            }
            Item::Dir { path, metadata } => self.place_dir(&path, metadata),
            Item::Link { path, target, metadata } => self.place_link(&path, &target, metadata),
        }
    }

    /// Step 6.
    fn sync_names(&mut self) -> Result<(), Errno> {
        let dirty = self.tree.take_dirty();
        let synced = dirty.sync(&self.tree);
        if synced.is_err() {
            // What is in them is not durable, now or after the next batch.
            self.tree.put_back_dirty(dirty);
        }
        synced
    }

    fn place_file(&mut self, mut staged: StagedFile, content: &Content) -> Result<Placed, StoreError> {
        let placed = self.name_file(&staged, content);
        match placed {
            Ok(Placed::Named | Placed::Renamed(_)) => staged.mark_committed(),
            Ok(Placed::AlreadyThere | Placed::CopyThere(_)) | Err(_) => staged.discard(),
        }
        placed
    }

    fn name_file(&mut self, staged: &StagedFile, content: &Content) -> Result<Placed, StoreError> {
        let path = staged.path().clone();
        let name = path.split().1;
        let dir = staged.dir()?;
        let placed = match rename_new(&dir, staged.name().as_bytes(), name) {
            Ok(()) => Placed::Named,
            Err(Errno::EXIST) => {
                let is_same = |occupant: &Existing| match occupant {
                    Existing::File(file) if file.matches(content) => file.sync().map(|()| true),
                    _ => Ok(false),
                };
                let occupant = lookup(&self.tree, &path)?;
                if self.on_conflict != OnConflict::Error && is_same(&occupant)? {
                    // The session that named it may not have synced its folder yet.
                    self.tree.mark_dirty(&dir);
                    return Ok(Placed::AlreadyThere);
                }
                let taken = match occupant {
                    Existing::File(_) | Existing::Nothing => StoreError::Exists { what: "a different file" },
                    Existing::EquivalentName => StoreError::SpelledOtherwise,
                    Existing::Other(what) => StoreError::Exists { what },
                };
                self.resolve_conflict(&dir, staged.name().as_bytes(), &path, taken, |copy| {
                    is_same(&lookup(&self.tree, copy)?)
                })?
            }
            Err(errno) => return Err(StoreError::io("give the file its name")(errno)),
        };
        self.tree.mark_dirty(&dir);
        Ok(placed)
    }

    /// The name is taken by something else: does what the policy says. `is_same` tells whether what is under another name
    /// is what would be put there.
    fn resolve_conflict(
        &self,
        dir: &Dir,
        from: &[u8],
        path: &RelPath,
        taken: StoreError,
        is_same: impl Fn(&RelPath) -> Result<bool, StoreError>,
    ) -> Result<Placed, StoreError> {
        let name = path.split().1;
        match self.on_conflict {
            OnConflict::Overwrite if self.on_conflict.allows_replacing(&taken) => {
                let renamed = rustix::fs::renameat(dir, from, dir, name);
                renamed.map(|()| Placed::Named).map_err(StoreError::io("replace the file that was there"))
            }
            OnConflict::Rename => {
                for other in numbered_names(path) {
                    match rename_new(dir, from, other.split().1) {
                        Ok(()) => return Ok(Placed::Renamed(other)),
                        // The same again, most likely from a session whose end its sender did not learn.
                        Err(Errno::EXIST) if is_same(&other)? => return Ok(Placed::CopyThere(other)),
                        Err(Errno::EXIST) => {}
                        Err(errno) => return Err(StoreError::io("give the file its name")(errno)),
                    }
                }
                Err(taken)
            }
            _ => Err(taken),
        }
    }

    fn place_dir(&mut self, path: &RelPath, metadata: Metadata) -> Result<Placed, StoreError> {
        let kept = self.tree.open(path.as_bytes()).ok();
        let handle = match kept.filter(|kept| self.tree.is_named(kept, path.as_bytes())) {
            Some(handle) => handle,
            None => {
                // Something else is there by now than the folder that is open, or nothing.
                self.tree.invalidate(path.as_bytes());
                match lookup(&self.tree, path)? {
                    Existing::Nothing | Existing::Other("a folder") => {
                        self.tree.open_or_make(path.as_bytes())?
                    }
                    Existing::File(_) => return Err(StoreError::Exists { what: "a file" }),
                    Existing::EquivalentName => return Err(StoreError::SpelledOtherwise),
                    Existing::Other(what) => return Err(StoreError::Exists { what }),
                }
            }
        };
        // A folder that was there before is somebody's: its rights and time are not ours to change unasked.
        let stat = rustix::fs::fstat(&handle).map_err(StoreError::io("look at the folder"))?;
        let is_ours = self.tree.is_implicit(&handle, stat.st_mode);
        if is_ours || self.on_conflict == OnConflict::Overwrite {
            let default = is_ours.then_some(Mode::new(0o777 & !self.umask));
            // The setgid bit is not the sender's: the folder has it from the one above, to hand its group on.
            let bits = metadata.mode.or(default).map(|mode| mode.bits() | stat.st_mode & SETGID);
            set_metadata(&*handle, bits, metadata.mtime)?;
            self.tree.set_announced(&handle);
        }
        self.tree.mark_dirty(&handle);
        Ok(Placed::Named)
    }

    fn place_link(
        &mut self,
        path: &RelPath,
        target: &LinkTarget,
        metadata: Metadata,
    ) -> Result<Placed, StoreError> {
        let (parent, name) = path.split();
        let dir = self.tree.open_or_make(parent)?;
        let is_same = |name: &[u8]| {
            rustix::fs::readlinkat(&dir, name, Vec::new())
                .is_ok_and(|there| there.as_bytes() == target.as_bytes())
                && self.tree.is_exact_name(&dir, parent, name).is_ok_and(|is| is)
        };
        if is_same(name) && self.on_conflict != OnConflict::Error {
            self.tree.mark_dirty(&dir);
            return Ok(Placed::AlreadyThere);
        }
        // Made under a hidden name first, so that it can take its place in one step like a file.
        let hidden = loop {
            let hidden = self.hidden.next();
            match rustix::fs::symlinkat(target.as_path(), &dir, &*hidden) {
                Ok(()) => break hidden,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(StoreError::io("make the link")(errno)),
            }
        };
        let placed = (|| {
            if let Some(mtime) = metadata.mtime {
                let set =
                    rustix::fs::utimensat(&dir, &*hidden, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW);
                set.map_err(StoreError::io("set the time of modification"))?;
            }
            match rename_new(&dir, hidden.as_bytes(), name) {
                Ok(()) => Ok(Placed::Named),
                Err(Errno::EXIST) => {
                    let taken = match lookup(&self.tree, path)? {
                        Existing::EquivalentName => StoreError::SpelledOtherwise,
                        Existing::Other(what) => StoreError::Exists { what },
                        Existing::File(_) | Existing::Nothing => StoreError::Exists { what: "a file" },
                    };
                    self.resolve_conflict(&dir, hidden.as_bytes(), path, taken, |copy| {
                        Ok(is_same(copy.split().1))
                    })
                }
                Err(errno) => Err(StoreError::io("give the link its name")(errno)),
            }
        })();
        if placed.is_ok() {
            self.tree.mark_dirty(&dir);
        }
        if !matches!(placed, Ok(Placed::Named | Placed::Renamed(_))) {
            let _ = rustix::fs::unlinkat(&dir, &*hidden, AtFlags::empty());
        }
        placed
    }
}

/// Renames within one folder, but never onto something that is there.
fn rename_new(dir: &Dir, from: &[u8], to: &[u8]) -> Result<(), Errno> {
    match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {}
        done => return done,
    }
    // A file system without RENAME_NOREPLACE: a hard link does not replace either.
    match rustix::fs::linkat(dir, from, dir, to, AtFlags::empty()) {
        Ok(()) => return rustix::fs::unlinkat(dir, from, AtFlags::empty()),
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {}
        Err(errno) => return Err(errno),
    }
    // Nor has it hard links (FAT and its kin). Other programs can still come between the look and the rename;
    // other sessions of this one cannot.
    static SYNC_LOCK: Mutex<()> = Mutex::new(());
    let _guard = SYNC_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    match rustix::fs::statat(dir, to, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::renameat(dir, from, dir, to),
        Ok(_) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    }
}
