//! The files of a session that were announced and are not complete: what each waits for, and its staged file.
//!
//! The lock of the table is held for look-ups and transitions alone. A thread that opens a staged file marks the file as
//! [`Stage::Creating`], opens it with no lock held, and puts it into the table afterwards.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::dest::local::{
    ExistingFile, Journal, Record, Records, SpaceReservation, StagedFile, StoreError, SyncedFile,
};
use crate::recv::registry::MAX_JOINED;
use crate::sync::{lock, wait};
use crate::wire::EntryId;
use crate::wire::receiver::FileEntry;

/// Staged files that may be open at the same time.
pub const MAX_STAGED: usize = 96;

/// See the module documentation.
#[derive(Default)]
pub struct FileTable {
    files: Mutex<Files>,
    /// Signalled when the opening of a staged file has ended.
    opened: Condvar,
}

#[derive(Default)]
struct Files {
    by_id: HashMap<EntryId, InboundFile>,
    /// Files in the stages `Creating` and `Staging`.
    staged: usize,
}

/// A file that is announced and not complete.
pub struct InboundFile {
    pub entry: FileEntry,
    pub stage: Stage,
    /// Space reserved for it until it is committed.
    reservation: Option<SpaceReservation>,
    /// Verified parts that its journal does not have yet.
    unrecorded: Records,
    /// Bytes that an earlier session had received.
    pub resumed_bytes: u64,
}

/// What there is of a file.
pub enum Stage {
    /// Nothing yet.
    Requested,
    /// A thread opens its staged file, which may take as long as the disk does.
    Creating,
    /// Some parts, in its staged file.
    Staging(StagedFile),
    /// An existing file of its name and size, which is compared with it.
    Comparing {
        existing: Arc<ExistingFile>,
        /// May the file replace the existing one, if they differ?
        may_replace: bool,
    },
}

/// A staged file to write to.
pub struct StagingTarget {
    pub bytes: SyncedFile,
    /// Is everything in it that was not written zeros?
    pub is_zero_filled: bool,
}

/// What a thread that has a part of a file is to do.
pub enum Staging {
    /// Write to the staged file.
    Open(StagingTarget),
    /// Open the staged file, and pass it to [`FileTable::finish_opening`].
    ToOpen(FileEntry, Option<SpaceReservation>),
}

/// A journal that is to be written.
pub struct Checkpoint {
    pub id: EntryId,
    pub journal: Arc<Journal>,
    pub written: SyncedFile,
    pub records: Records,
}

impl InboundFile {
    pub fn new(entry: FileEntry, stage: Stage, reservation: Option<SpaceReservation>) -> Self {
        InboundFile { entry, stage, reservation, unrecorded: Records::default(), resumed_bytes: 0 }
    }

    /// Removes its staged file.
    pub fn discard(self) -> FileEntry {
        if let Stage::Staging(staged) = self.stage {
            staged.discard();
        }
        self.entry
    }

    /// Keeps its staged file for another session, where it has a journal.
    pub fn keep(self) -> FileEntry {
        if let Stage::Staging(staged) = self.stage
            && let (Some(journal), Some(written)) = (staged.journal(), staged.written())
            && journal.record(&written, &self.unrecorded, true).is_err()
        {
            staged.discard();
        }
        self.entry
    }
}

impl FileTable {
    fn lock(&self) -> MutexGuard<'_, Files> {
        lock(&self.files)
    }

    pub fn insert(&self, file: InboundFile) {
        let mut files = self.lock();
        files.staged += usize::from(matches!(file.stage, Stage::Staging(_)));
        files.by_id.insert(file.entry.id, file);
    }

    pub fn remove(&self, id: EntryId) -> Option<InboundFile> {
        let mut files = self.lock();
        let file = files.by_id.remove(&id)?;
        files.staged -= usize::from(matches!(file.stage, Stage::Staging(_) | Stage::Creating));
        Some(file)
    }

    /// Calls `read` with the announcement of a file, with the table locked.
    pub fn with_entry<T>(&self, id: EntryId, read: impl FnOnce(&FileEntry) -> T) -> Option<T> {
        self.lock().by_id.get(&id).map(|file| read(&file.entry))
    }

    /// The existing file that is compared with an announced one.
    pub fn existing(&self, id: EntryId) -> Option<Arc<ExistingFile>> {
        match &self.lock().by_id.get(&id)?.stage {
            Stage::Comparing { existing, .. } => Some(Arc::clone(existing)),
            Stage::Requested | Stage::Creating | Stage::Staging(_) => None,
        }
    }

    /// The existing file differs: the announced one is requested in its place, if it may replace it. `None` if that was
    /// decided before.
    pub fn request_replacement(&self, id: EntryId) -> Option<Result<FileEntry, StoreError>> {
        let mut files = self.lock();
        let file = files.by_id.get_mut(&id)?;
        match file.stage {
            Stage::Comparing { may_replace: true, .. } => {
                file.stage = Stage::Requested;
                Some(Ok(file.entry.clone()))
            }
            Stage::Comparing { .. } => Some(Err(StoreError::Exists { what: "a different file" })),
            Stage::Requested | Stage::Creating | Stage::Staging(_) => None,
        }
    }

    pub fn set_reservation(&self, id: EntryId, reservation: Option<SpaceReservation>) {
        if let Some(file) = self.lock().by_id.get_mut(&id) {
            file.reservation = reservation;
        }
    }

    pub fn set_resumed_bytes(&self, id: EntryId, bytes: u64) {
        if let Some(file) = self.lock().by_id.get_mut(&id) {
            file.resumed_bytes = bytes;
        }
    }

    /// May one more partial file of an earlier session be held open? Half of the limit is kept for new files.
    pub fn may_resume(&self) -> bool {
        self.lock().staged < MAX_STAGED / 2
    }

    /// Whether a file has been requested and has no staged file yet.
    pub fn is_requested(&self, id: EntryId) -> bool {
        self.lock().by_id.get(&id).is_some_and(|file| matches!(file.stage, Stage::Requested))
    }

    /// Whether more files are staged than the session has connections.
    pub fn has_many_staged(&self) -> bool {
        self.lock().staged > MAX_JOINED
    }

    /// The staged file of a file, or the order to open it. Waits while another thread opens it.
    pub fn begin_opening(&self, id: EntryId) -> Result<Staging, StoreError> {
        let mut files = self.lock();
        loop {
            let staged = files.staged;
            let Some(InboundFile { entry, stage, reservation, .. }) = files.by_id.get_mut(&id) else {
                return Err(not_staged("the entry is already settled"));
            };
            match stage {
                Stage::Staging(staged) => return staging_target(staged).map(Staging::Open),
                Stage::Comparing { .. } => return Err(not_staged("it was not requested")),
                Stage::Creating => {
                    files = wait(&self.opened, files);
                }
                Stage::Requested if staged >= MAX_STAGED => {
                    return Err(not_staged("too many staged files"));
                }
                Stage::Requested => {
                    *stage = Stage::Creating;
                    let to_open = Staging::ToOpen(entry.clone(), reservation.take());
                    files.staged += 1;
                    return Ok(to_open);
                }
            }
        }
    }

    /// Puts a staged file into the table. One that was settled meanwhile is removed.
    pub fn finish_opening(
        &self,
        id: EntryId,
        opened: Result<(StagedFile, Option<SpaceReservation>), StoreError>,
    ) -> Result<StagingTarget, StoreError> {
        let mut files = self.lock();
        let result = match (opened, files.by_id.get_mut(&id)) {
            (Ok((staged, space)), Some(InboundFile { stage: stage @ Stage::Creating, reservation, .. })) => {
                *reservation = space;
                let bytes = staging_target(&staged);
                *stage = Stage::Staging(staged);
                bytes
            }
            (Err(error), Some(InboundFile { stage: stage @ Stage::Creating, .. })) => {
                *stage = Stage::Requested;
                files.staged -= 1;
                Err(error)
            }
            (opened, _) => {
                drop(files);
                opened.into_iter().for_each(|(staged, _)| staged.discard());
                Err(not_staged("the entry is already settled"))
            }
        };
        self.opened.notify_all();
        result
    }

    /// The journal of a staged file that can be resumed.
    pub fn journal(&self, id: EntryId) -> Option<Arc<Journal>> {
        match &self.lock().by_id.get(&id)?.stage {
            Stage::Staging(staged) => staged.journal(),
            Stage::Requested | Stage::Creating | Stage::Comparing { .. } => None,
        }
    }

    /// Notes verified parts for the journal of a file that can be resumed.
    pub fn add_record(&self, id: EntryId, record: Record) {
        if let Some(InboundFile { stage: Stage::Staging(staged), unrecorded, .. }) =
            self.lock().by_id.get_mut(&id)
            && staged.journal().is_some()
        {
            unrecorded.push(record);
        }
    }

    /// Takes what the journals do not have yet; with `close`, also journals that are complete but not closed.
    pub fn take_records(&self, close: bool) -> Vec<Checkpoint> {
        let mut checkpoints = Vec::new();
        for (&id, file) in &mut self.lock().by_id {
            if let Stage::Staging(staged) = &file.stage
                && let (Some(journal), Some(written)) = (staged.journal(), staged.written())
                && (!file.unrecorded.is_empty() || close && journal.has_records())
            {
                let records = std::mem::take(&mut file.unrecorded);
                checkpoints.push(Checkpoint { id, journal, written, records });
            }
        }
        checkpoints
    }
}

/// Ends the opening of a file if the thread that opens it panics, so that no other thread waits for it.
pub struct CreatingGuard<'a> {
    pub table: &'a FileTable,
    pub id: EntryId,
}

impl Drop for CreatingGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.table.finish_opening(self.id, Err(not_staged("its staged file was not opened")));
        }
    }
}

fn staging_target(staged: &StagedFile) -> Result<StagingTarget, StoreError> {
    let bytes = staged.written().ok_or(StoreError::Exists { what: "a complete file" })?;
    Ok(StagingTarget { bytes, is_zero_filled: staged.is_zero_filled() })
}

fn not_staged(why: &'static str) -> StoreError {
    StoreError::Io { doing: "stage the file", source: io::Error::other(why) }
}
