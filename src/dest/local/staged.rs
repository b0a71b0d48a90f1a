//! The private file in which an entry is collected.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{
    AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, SeekFrom, Timespec, Timestamps, UTIME_OMIT,
};
use rustix::io::Errno;

use super::StoreError;
use super::dir_tree::{Dir, DirTree};
use super::journal::Journal;
use crate::digest::{PART_BYTES, PartRange};
use crate::relpath::{RESERVED_PREFIX, RelPath};
use crate::units::{Metadata, Mode as FileMode, MtimeNs};

const RANDOM_BYTES: usize = 8;
const OWNER_READS: u32 = 0o400;
const PRIVATE_MODE: u32 = 0o600;
/// Zeros of a sparse file are left out by blocks of this size, which is that of a page and of most file systems.
const HOLE_BLOCK_BYTES: usize = 4096;
/// Files above this are synced one by one, through their handle; smaller ones wait for their batch without a handle. Those
/// of several parts keep it: the handle holds the lock that tells other sessions that the file is in use.
pub(super) const KEEP_HANDLE_BYTES: u64 = if PART_BYTES < 1 << 20 { PART_BYTES } else { 1 << 20 };
/// Read at once where zeros are looked for.
const ZERO_CHUNK_BYTES: usize = 256 << 10;

/// A file in arrival: hidden, private, and removed when dropped before it got its final name.
#[derive(Debug)]
pub struct StagedFile {
    tree: DirTree,
    /// The folder it is in, as long as there is a handle on the file, too.
    dir: Option<Arc<Dir>>,
    device: u64,
    name: Box<str>,
    path: RelPath,
    file: Option<Arc<StagedBytes>>,
    /// The mode it has, where that is known.
    mode: Option<u32>,
    /// The mode that a file gets if none came with it.
    default_mode: u32,
    sealed: bool,
    committed: bool,
    /// Records what is in, if the landing can be taken up again.
    journal: Option<Arc<Journal>>,
    /// Whatever was not written to it is zeros.
    is_zero_filled: bool,
}

/// Names in [`RESERVED_PREFIX`] that cannot be guessed: `.ftx-<16 hex digits>-<number>`, with the same digits for all
/// clones. Until the last of these is dropped, the files are known to be in use.
#[derive(Clone, Debug)]
pub struct TempNames(Arc<Session>);

#[derive(Debug)]
struct Session {
    random: Box<str>,
    next: AtomicU64,
    live: LiveSessions,
}

/// What the names of the sessions of this process have in common, each with its own.
#[derive(Clone, Debug, Default)]
pub struct LiveSessions(Arc<Mutex<HashSet<Box<str>>>>);

impl LiveSessions {
    fn lock(&self) -> MutexGuard<'_, HashSet<Box<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.live.lock().remove(&self.random);
    }
}

impl TempNames {
    pub fn new(live: &LiveSessions) -> Result<Self, Errno> {
        let mut random = [0; RANDOM_BYTES];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let random: Box<str> = hex::encode(random).into();
        live.lock().insert(random.clone());
        Ok(TempNames(Arc::new(Session { random, next: AtomicU64::new(0), live: live.clone() })))
    }

    pub fn next(&self) -> Box<str> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        format!("{}{}-{number}", String::from_utf8_lossy(RESERVED_PREFIX), self.0.random).into()
    }

    /// The digits of a name of this form.
    fn random_of(name: &str) -> Option<&str> {
        let (random, number) =
            name.strip_prefix(std::str::from_utf8(RESERVED_PREFIX).ok()?)?.split_once('-')?;
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        (is_number && random.len() == 2 * RANDOM_BYTES && is_hex(random)).then_some(random)
    }

    /// Is it a name that some session could have made?
    pub fn has_form(name: &str) -> bool {
        TempNames::random_of(name).is_some()
    }

    /// Is it a name of a session of this process that is not over?
    pub fn is_live(&self, name: &str) -> bool {
        TempNames::random_of(name).is_some_and(|random| self.0.live.lock().contains(random))
    }
}

/// Are these the digits that hidden names have?
pub fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Makes the landing for `path` in the folder where it belongs: private, or with the mode that it will have.
pub fn create(
    tree: &DirTree,
    path: &RelPath,
    hidden: &TempNames,
    umask: u32,
    mode: Option<FileMode>,
) -> Result<StagedFile, StoreError> {
    let (parent, _) = path.split();
    let asked = mode.map_or(PRIVATE_MODE, |mode| mode.bits() & 0o777);
    let mut retried = false;
    loop {
        let dir = tree.open_or_make(parent)?;
        let name = hidden.next();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(asked);
        match tree.retry_without_cache(|| rustix::fs::openat(&*dir, &*name, flags, mode)) {
            Ok(file) => {
                let mode = (!dir.has_default_acl()).then_some(asked & !umask);
                let bytes = StagedBytes::new(File::from(file));
                return Ok(StagedFile::new(tree, dir, name, path, bytes, mode, umask));
            }
            Err(Errno::EXIST) => {}
            // The folder behind a kept handle was removed by somebody else.
            Err(Errno::NOENT) if !retried => {
                tree.invalidate(parent);
                retried = true;
            }
            Err(errno) => return Err(StoreError::io("create the file")(errno)),
        }
    }
}

impl StagedFile {
    pub(super) fn new(
        tree: &DirTree,
        dir: Arc<Dir>,
        name: Box<str>,
        path: &RelPath,
        bytes: StagedBytes,
        mode: Option<u32>,
        umask: u32,
    ) -> Self {
        StagedFile {
            tree: tree.clone(),
            device: dir.device,
            dir: Some(dir),
            name,
            path: path.clone(),
            file: Some(Arc::new(bytes)),
            mode,
            default_mode: 0o666 & !umask,
            sealed: false,
            committed: false,
            journal: None,
            is_zero_filled: true,
        }
    }

    pub(super) fn with_journal(mut self, journal: Journal, is_fresh: bool) -> Self {
        self.journal = Some(Arc::new(journal));
        self.is_zero_filled = is_fresh;
        self
    }

    /// What records its parts, if it can be taken up again.
    pub fn journal(&self) -> Option<Arc<Journal>> {
        self.journal.clone()
    }

    /// Is whatever was not written to it zeros?
    pub fn is_zero_filled(&self) -> bool {
        self.is_zero_filled
    }

    /// The file will not come, or not like this: nothing is kept of it.
    pub fn discard(mut self) {
        if let Some(journal) = self.journal.take() {
            journal.remove();
        }
    }

    /// Where it will land.
    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// Writes bytes at an offset.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        self.written().ok_or_else(closed)?.write_at(bytes, offset)
    }

    /// Makes it a file of so many zeros that take no room.
    pub fn make_sparse(&self, size_bytes: u64) -> Result<(), StoreError> {
        let bytes = self.file.as_ref().ok_or_else(closed)?;
        bytes
            .file
            .set_len(size_bytes)
            .map_err(|source| StoreError::Io { doing: "make the file that large", source })
    }

    /// What was written, to be read again by whoever verifies it.
    pub fn written(&self) -> Option<SyncedFile> {
        self.file.clone().map(SyncedFile)
    }

    /// All bytes are in: sets mode and time of modification. Small files let go of their handles, so that thousands of
    /// them can wait for their batch. A second call does nothing.
    pub fn seal(&mut self, metadata: Metadata, size_bytes: u64) -> Result<(), StoreError> {
        if self.sealed {
            return Ok(());
        }
        let bytes = self.file.as_ref().ok_or_else(closed)?;
        let mode = metadata.mode.unwrap_or(FileMode::new(self.default_mode));
        // Most files are made with the mode that they keep.
        let to_set = Some(mode).filter(|mode| Some(mode.bits()) != self.mode);
        set_metadata(&bytes.file, to_set.map(FileMode::bits), metadata.mtime)?;
        self.mode = Some(mode.bits());
        self.sealed = true;
        // Without a right to read it, it could not be opened again to be synced.
        if size_bytes <= KEEP_HANDLE_BYTES && mode.bits() & OWNER_READS != 0 {
            (self.file, self.dir) = (None, None);
        } else {
            bytes.seal()?;
        }
        Ok(())
    }

    /// Brings data and metadata to stable storage.
    pub fn sync(&self) -> Result<(), StoreError> {
        match &self.file {
            Some(bytes) => bytes.sync(|file| rustix::fs::fsync(file)),
            None => {
                let dir = self.dir()?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let open = || rustix::fs::openat(&*dir, &*self.name, flags, Mode::empty());
                let reopened = self.tree.retry_without_cache(open);
                let synced = reopened.and_then(rustix::fs::fsync);
                synced.map_err(StoreError::io("bring the file to stable storage"))
            }
        }
    }

    /// Does it keep its handle, to be synced by itself?
    pub fn is_large(&self) -> bool {
        self.file.is_some()
    }

    /// Locks it, so that no other receiver takes it for left behind, whatever the clock says. Of use for files that keep
    /// their handle; others have their name in a moment. A file system without locks is no hindrance.
    pub(super) fn lock(&self) {
        if let Some(bytes) = &self.file {
            // One who looks whether it is in use has it for a moment only.
            let lock = || rustix::fs::flock(&bytes.file, FlockOperation::LockExclusive);
            let _ = rustix::io::retry_on_intr(lock);
        }
    }

    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// The folder it is in. One that was opened again may be another one by now, without a file of this name.
    pub(super) fn dir(&self) -> Result<Arc<Dir>, StoreError> {
        match &self.dir {
            Some(dir) => Ok(Arc::clone(dir)),
            None => {
                let dir = self.tree.open(self.path.split().0);
                dir.map_err(StoreError::io("open the folder it belongs in"))
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// It has its final name now: nothing to remove any more.
    pub(super) fn mark_committed(&mut self) {
        self.committed = true;
        if let Some(journal) = self.journal.take() {
            journal.remove();
        }
    }
}

/// An open file, and its time of modification once nobody should write to it any more.
#[derive(Debug)]
pub(super) struct StagedBytes {
    file: File,
    sealed: OnceLock<(i64, i64)>,
    /// Did a sync of it fail? The system tells of lost bytes only once, and whoever asks next hears that all is well.
    sync_failed: Mutex<bool>,
}

impl StagedBytes {
    pub(super) fn new(file: File) -> Self {
        StagedBytes { file, sealed: OnceLock::new(), sync_failed: Mutex::new(false) }
    }

    /// Brings it to stable storage, or says that some of it is lost, however often it is asked.
    fn sync(&self, sync: impl FnOnce(&File) -> Result<(), Errno>) -> Result<(), StoreError> {
        let mut is_lost = self.sync_failed.lock().unwrap_or_else(PoisonError::into_inner);
        let synced = if *is_lost { Err(Errno::IO) } else { sync(&self.file) };
        *is_lost |= synced.is_err();
        synced.map_err(StoreError::io("bring the file to stable storage"))
    }

    fn seal(&self) -> Result<(), StoreError> {
        let modified = modified(&self.file)?;
        self.sealed.get_or_init(|| modified);
        Ok(())
    }
}

fn modified(file: &File) -> Result<(i64, i64), StoreError> {
    let stat = rustix::fs::fstat(file).map_err(StoreError::io("look at the file"))?;
    Ok((stat.st_mtime, stat.st_mtime_nsec as i64))
}

/// A landing's bytes. Reading them does not keep its name.
#[derive(Clone, Debug)]
pub struct SyncedFile(Arc<StagedBytes>);

impl SyncedFile {
    /// The file, for the kernel to write to.
    pub fn file(&self) -> &File {
        &self.0.file
    }

    /// The bytes of a file that was there before, last modified at `modified`.
    pub(super) fn before(file: File, modified: (i64, i64)) -> Self {
        SyncedFile(Arc::new(StagedBytes { sealed: modified.into(), ..StagedBytes::new(file) }))
    }

    /// Brings what was written to stable storage.
    pub(super) fn sync_data(&self) -> Result<(), StoreError> {
        self.0.sync(|file| rustix::fs::fdatasync(file))
    }

    /// Did nobody write to it since it was complete?
    pub fn check_unchanged(&self) -> Result<(), StoreError> {
        if self.0.sealed.get().is_none_or(|sealed| modified(&self.0.file).is_ok_and(|now| now == *sealed)) {
            return Ok(());
        }
        let source = io::Error::other("somebody wrote to it meanwhile");
        Err(StoreError::Io { doing: "read the file as it arrived", source })
    }

    /// Makes a range zeros, without room on the disk where that is possible.
    pub fn clear(&self, range: PartRange) -> Result<(), StoreError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.0.file, flags, range.offset, range.len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            done => return done.map_err(StoreError::io("make a hole in the file")),
        }
        let zeros = vec![0; (range.len as usize).min(1 << 20)];
        let end = range.offset + range.len;
        (range.offset..end).step_by(zeros.len().max(1)).try_for_each(|offset| {
            let len = (end - offset).min(zeros.len() as u64) as usize;
            self.write_at(&zeros[..len], offset)
        })
    }

    /// Writes bytes at an offset, but not blocks of zeros: they are there already in a fresh sparse file.
    pub fn write_sparse_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        // Blocks of the file, not of what came in one piece.
        let misaligned = (offset % HOLE_BLOCK_BYTES as u64) as usize;
        let first = ((HOLE_BLOCK_BYTES - misaligned) % HOLE_BLOCK_BYTES).min(bytes.len());
        let blocks = [&bytes[..first]].into_iter().chain(bytes[first..].chunks(HOLE_BLOCK_BYTES));
        let (mut start, mut end) = (0, 0);
        for block in blocks {
            if block.iter().all(|byte| *byte == 0) {
                if start < end {
                    self.write_at(&bytes[start..end], offset + start as u64)?;
                }
                start = end + block.len();
            }
            end += block.len();
        }
        if start < end { self.write_at(&bytes[start..end], offset + start as u64) } else { Ok(()) }
    }

    /// Writes bytes at an offset.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let written = self.0.file.write_all_at(bytes, offset);
        written.map_err(|source| StoreError::Io { doing: "write the file", source })
    }

    /// Does it have a range, and zeros alone in it? Holes need not be read.
    pub fn is_zero(&self, range: PartRange) -> bool {
        let has_range = self.0.file.metadata().is_ok_and(|file| file.len() >= range.offset + range.len);
        has_range && is_zero(&self.0.file, range).unwrap_or(false)
    }

    /// Fills `buffer` from an offset.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let read = self.0.file.read_exact_at(buffer, offset);
        read.map_err(|source| StoreError::Io { doing: "read back what was written", source })
    }
}

/// Does a range of a file hold zeros alone? What lies behind its end counts as zeros.
pub fn is_zero(file: &File, range: PartRange) -> io::Result<bool> {
    let mut buffer = vec![0; ZERO_CHUNK_BYTES];
    let (mut offset, end) = (range.offset, range.offset + range.len);
    while offset < end {
        match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(data) if data >= end => return Ok(true),
            Ok(data) => offset = data,
            Err(Errno::NXIO) => return Ok(true),
            // A file system without holes.
            Err(_) => {}
        }
        let chunk = &mut buffer[..(end - offset).min(ZERO_CHUNK_BYTES as u64) as usize];
        file.read_exact_at(chunk, offset)?;
        if chunk.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        offset += chunk.len() as u64;
    }
    Ok(true)
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let is_kept = self.journal.as_ref().is_some_and(|journal| journal.has_records());
        if !self.committed && !is_kept {
            self.journal.iter().for_each(|journal| journal.remove());
            // Nothing can be done about a failure here; the name tells what the file is.
            let _ = self.dir().map(|dir| rustix::fs::unlinkat(&*dir, &*self.name, AtFlags::empty()));
        }
    }
}

/// Sets what there is of mode and time of modification.
pub fn set_metadata(
    file: impl std::os::fd::AsFd,
    mode_bits: Option<u32>,
    mtime: Option<MtimeNs>,
) -> Result<(), StoreError> {
    if let Some(bits) = mode_bits {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(bits)).map_err(StoreError::io("set the mode"))?;
    }
    if let Some(mtime) = mtime {
        rustix::fs::futimens(&file, &timestamps(mtime))
            .map_err(StoreError::io("set the time of modification"))?;
    }
    Ok(())
}

/// For the calls of the `utimens` family: the time of access stays as it is.
pub fn timestamps(mtime: MtimeNs) -> Timestamps {
    let (seconds, nanoseconds) = mtime.to_parts();
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    }
}

fn closed() -> StoreError {
    StoreError::Io { doing: "write the file", source: io::Error::other("it is complete already") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeros_are_left_out_wherever_a_piece_begins() {
        // Every other block is one of zeros.
        let block = |number: usize| [(number % 2) as u8; HOLE_BLOCK_BYTES];
        let whole: Vec<u8> = (0..64).flat_map(block).collect();
        let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).unwrap();
        file.set_len(whole.len() as u64).unwrap();
        let written = SyncedFile(Arc::new(StagedBytes::new(file)));
        let mut offset = 0;
        for piece in [1, 4095, 4097, 10_000, 3, usize::MAX] {
            let piece = &whole[offset..offset + piece.min(whole.len() - offset)];
            written.write_sparse_at(piece, offset as u64).unwrap();
            offset += piece.len();
        }
        let mut read = vec![9; whole.len()];
        written.read_at(&mut read, 0).unwrap();
        assert!(read == whole);
        let reservation = written.file().metadata().unwrap().blocks() * 512;
        assert!(
            reservation <= (whole.len() / 2 + HOLE_BLOCK_BYTES) as u64,
            "{reservation} bytes of {}",
            whole.len()
        );
    }

    #[test]
    fn a_sync_that_failed_once_never_succeeds() {
        let bytes = StagedBytes::new(tempfile::tempfile().unwrap());
        assert!(bytes.sync(|file| rustix::fs::fsync(file)).is_ok());
        assert!(bytes.sync(|_| Err(Errno::IO)).is_err());
        // The system would say that all is well now.
        assert!(bytes.sync(|file| rustix::fs::fsync(file)).is_err());
    }
}
