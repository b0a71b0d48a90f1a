//! The file that a journal is kept in.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use super::bytes::SyncedFile;
use super::dir::Dir;
use super::journal::{ClosedStamp, Header, JournalContents, Line, MAX_LINE_BYTES, Record, read, write_line};
use super::own_files::is_safe_to_reuse;
use super::temp_names::NEW_SUFFIX;
use crate::dest::StoreError;
use crate::digest::PartDigests;
use crate::sync;
use crate::sys;
use crate::sys::dir::Access;
use crate::sys::stat::FileStat;

/// More of a journal is neither written nor read: enough for seven terabytes of parts, and far more of holes. Parts beyond it
/// are fetched again.
const MAX_JOURNAL_BYTES: u64 = 64 << 20;

/// The journal of one staged file. The file is created with the first record.
#[derive(Debug)]
pub struct Journal {
    dir: Arc<Dir>,
    name: Box<str>,
    header: Header,
    state: Mutex<JournalState>,
}

#[derive(Debug)]
enum JournalState {
    /// There is no file yet.
    New,
    Open(JournalFile),
    /// The staged file was committed or discarded: later records are ignored.
    Removed,
}

#[derive(Debug)]
struct JournalFile {
    file: File,
    len: u64,
    /// The checksum of the first line.
    seed: u32,
    has_records: bool,
}

impl Journal {
    /// Of a new staged file.
    pub(super) fn new(dir: Arc<Dir>, name: Box<str>, header: Header) -> Self {
        Journal { dir, name, header, state: Mutex::new(JournalState::New) }
    }

    /// Opens the journal that an earlier session left; `None` if it is not valid.
    pub(super) fn open(dir: Arc<Dir>, name: Box<str>) -> io::Result<Option<(Self, JournalContents)>> {
        let mut file = dir.handle.open_file(&*name, Access::ReadWrite)?;
        if !is_safe_to_reuse(&FileStat::of(&file)?) {
            return Ok(None);
        }
        let Some(contents) = read(BufReader::new((&file).take(MAX_JOURNAL_BYTES)))? else { return Ok(None) };
        file.set_len(contents.len)?;
        file.seek(SeekFrom::End(0))?;
        let has_records = contents.digests.count() > 0;
        let open = JournalFile { file, len: contents.len, seed: contents.seed, has_records };
        let header = contents.header.clone();
        let journal = Journal { dir, name, header, state: Mutex::new(JournalState::Open(open)) };
        if contents.has_redundant_lines()
            && let Ok(shorter) = journal.replace(&contents.digests, contents.closed)
        {
            *journal.lock() = JournalState::Open(shorter);
        }
        Ok(Some((journal, contents)))
    }

    fn lock(&self) -> MutexGuard<'_, JournalState> {
        sync::lock(&self.state)
    }

    /// Has anything been recorded?
    pub(crate) fn has_records(&self) -> bool {
        matches!(*self.lock(), JournalState::Open(JournalFile { has_records: true, .. }))
    }

    /// Syncs the staged file, then records parts of it and, with `close`, its stamp.
    ///
    /// # Errors
    ///
    /// The staged file could not be synced and must not be used any more: the kernel reports lost bytes only once. If the
    /// journal cannot be written, its parts are fetched again; that is no error.
    pub fn record(&self, staged: &SyncedFile, records: &[Record], close: bool) -> Result<(), StoreError> {
        staged.sync_data()?;
        let _ = self.write(staged.file(), records, close);
        Ok(())
    }

    fn write(&self, staged: &File, records: &[Record], close: bool) -> io::Result<()> {
        let mut state = self.lock();
        if matches!(*state, JournalState::New) {
            *state = JournalState::Open(self.create(&self.name)?);
        }
        let JournalState::Open(journal) = &mut *state else { return Ok(()) };
        let closed = if close { Some(FileStat::of(staged)?.stamp.into()) } else { None };
        journal.append(records.iter().copied(), closed)?;
        if close {
            sys::file::sync_data(&journal.file)?;
            self.dir.sync()?;
        }
        Ok(())
    }

    fn create(&self, name: &str) -> io::Result<JournalFile> {
        let mut file = self.dir.handle.create_file(name, 0o600)?;
        let mut line = Vec::new();
        write_line(&Line::File(self.header.clone()), 0, &mut line);
        if let Err(error) = file.write_all(&line) {
            // The next attempt needs the name.
            self.unlink(name);
            return Err(error);
        }
        Ok(JournalFile { file, len: line.len() as u64, seed: crc32c::crc32c(&line), has_records: false })
    }

    /// Replaces the journal by one of `intact` alone, because other recorded parts turned out to be damaged. The intact
    /// parts were synced before they were recorded, and are unchanged since.
    pub(crate) fn rewrite_with(&self, intact: &PartDigests) {
        let mut state = self.lock();
        if matches!(*state, JournalState::Open(_)) {
            *state = match self.replace(intact, None) {
                Ok(replaced) => JournalState::Open(replaced),
                // No journal is better than a wrong one; the next record creates it again.
                Err(_) => {
                    self.unlink(&self.name);
                    JournalState::New
                }
            };
        }
    }

    fn replace(&self, digests: &PartDigests, closed: Option<ClosedStamp>) -> io::Result<JournalFile> {
        let new_name = format!("{}{NEW_SUFFIX}", self.name);
        // A crash may have left one.
        self.unlink(&new_name);
        let mut new = self.create(&new_name)?;
        let parts = digests.parts().map(|(part, md5)| Record::Part(part, md5));
        let holes = digests.holes().map(|(first, parts)| Record::Holes(first, parts));
        let replaced = new.append(parts.chain(holes), closed).and_then(|()| {
            // Before the rename: a loss of power must not leave an empty journal.
            sys::file::sync_data(&new.file)?;
            Ok(self.dir.handle.rename(&*new_name, &*self.name)?)
        });
        if let Err(error) = replaced {
            self.unlink(&new_name);
            return Err(error);
        }
        Ok(new)
    }

    /// A journal that cannot be removed has the inode of another staged file than the next one, and is not valid for it.
    fn unlink(&self, name: &str) {
        let _ = self.dir.handle.remove_file(name);
    }

    /// The staged file was committed or will be discarded.
    pub(super) fn remove(&self) {
        if let JournalState::Open(_) = std::mem::replace(&mut *self.lock(), JournalState::Removed) {
            self.unlink(&self.name);
        }
    }
}

impl JournalFile {
    fn append(
        &mut self,
        records: impl Iterator<Item = Record>,
        closed: Option<ClosedStamp>,
    ) -> io::Result<()> {
        let mut lines = Vec::new();
        for record in records {
            if self.len + lines.len() as u64 + 2 * MAX_LINE_BYTES > MAX_JOURNAL_BYTES {
                break;
            }
            self.has_records = true;
            write_line(&record.into(), self.seed, &mut lines);
        }
        if let Some(stamp) = closed {
            write_line(&Line::Closed(stamp), self.seed, &mut lines);
        }
        self.len += lines.len() as u64;
        self.file.write_all(&lines)
    }
}

#[cfg(test)]
mod tests {
    use super::super::journal::parse;
    use super::*;
    use crate::dest::SourceVersion;
    use crate::digest::{Md5, PART_BYTES};
    use crate::sys::dir::DirHandle;
    use std::path::Path;

    /// A journal of a file of so many parts, in `dir`.
    fn journal_of(dir: &Path, parts: u64) -> Journal {
        let version = SourceVersion { size_bytes: parts * PART_BYTES, mtime: None, state: [9; 16].into() };
        Journal::new(open(dir), "journal".into(), Header::new(b"a", version, 42, 1))
    }

    fn open(dir: &Path) -> Arc<Dir> {
        Arc::new(Dir::new(DirHandle::open(dir).unwrap()).unwrap())
    }

    fn staged(dir: &Path) -> SyncedFile {
        SyncedFile::existing(File::create(dir.join("staged")).unwrap(), (0, 0))
    }

    #[test]
    fn a_committed_file_gets_no_journal_again() {
        let dir = tempfile::tempdir().unwrap();
        let (staged, journal) = (staged(dir.path()), journal_of(dir.path(), 1));
        let record = || journal.record(&staged, &[Record::Part(0, Md5::of(b""))], false).unwrap();
        record();
        assert!(journal.has_records() && dir.path().join("journal").exists());
        journal.remove();
        record();
        assert!(!journal.has_records() && !dir.path().join("journal").exists(), "it was ignored");
    }

    #[test]
    fn a_journal_of_the_intact_parts_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let staged = staged(dir.path());
        let contents = || parse(&std::fs::read(dir.path().join("journal")).unwrap()).unwrap();
        let record = |journal: &Journal, index| {
            journal.record(&staged, &[Record::Part(index, Md5::of(&[index as u8]))], true).unwrap();
        };
        let begun = journal_of(dir.path(), 4);
        (0..3).for_each(|index| record(&begun, index));
        let (journal, JournalContents { digests: mut intact, .. }) =
            Journal::open(open(dir.path()), "journal".into()).unwrap().unwrap();
        // One that a crash left is replaced.
        std::fs::write(dir.path().join("journal.new"), "half a jour").unwrap();
        intact.remove(1..=1);
        journal.rewrite_with(&intact);
        assert_eq!((contents().digests, contents().closed), (intact.clone(), None), "it has no stamp");
        record(&journal, 1);
        assert_eq!(contents().digests.count(), 3, "a part that was received again");
        // If it cannot be written, none is left.
        std::fs::create_dir(dir.path().join("journal.new")).unwrap();
        journal.rewrite_with(&intact);
        assert!(!dir.path().join("journal").exists() && !journal.has_records());
        record(&journal, 3);
        assert_eq!(contents().digests.count(), 1);
    }

    #[test]
    fn a_journal_with_redundant_lines_is_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let staged = staged(dir.path());
        let journal = journal_of(dir.path(), 1 << 40);
        let holes: Vec<Record> = (0..10_000).map(|part| Record::Holes(part, 1)).collect();
        journal.record(&staged, &holes, true).unwrap();
        let path = dir.path().join("journal");
        let (long, before) = (std::fs::metadata(&path).unwrap().len(), parse(&std::fs::read(&path).unwrap()));
        let parent = Arc::clone(&journal.dir);
        let (journal, contents) = Journal::open(Arc::clone(&parent), "journal".into()).unwrap().unwrap();
        let short = std::fs::metadata(&path).unwrap().len();
        assert!(long > 300_000 && short < 500, "{long}, {short}");
        let after = parse(&std::fs::read(&path).unwrap()).unwrap();
        let before = before.unwrap();
        assert_eq!((&after.digests, after.closed), (&before.digests, before.closed), "with the same stamp");
        assert!(after.closed.is_some() && contents.digests == after.digests && journal.has_records());
        // It can be extended.
        journal.record(&staged, &[Record::Holes(10_000, 5)], false).unwrap();
        assert_eq!(parse(&std::fs::read(&path).unwrap()).unwrap().digests.count(), 10_005);
        let (_, contents) = Journal::open(parent, "journal".into()).unwrap().unwrap();
        assert_eq!(contents.digests.count(), 10_005);
    }

    #[test]
    fn bytes_above_the_limit_are_neither_written_nor_read() {
        let dir = tempfile::tempdir().unwrap();
        let staged = staged(dir.path());
        let journal = journal_of(dir.path(), 1 << 40);
        journal.record(&staged, &[Record::Holes(0, 1)], false).unwrap();
        if let JournalState::Open(file) = &mut *journal.lock() {
            file.len = MAX_JOURNAL_BYTES - 3 * MAX_LINE_BYTES;
        }
        let holes: Vec<Record> = (1..1000).map(|part| Record::Holes(2 * part, 1)).collect();
        journal.record(&staged, &holes, true).unwrap();
        let path = dir.path().join("journal");
        let contents = parse(&std::fs::read(&path).unwrap()).unwrap();
        assert!((2..10).contains(&contents.digests.count()), "{}", contents.digests.count());
        assert!(contents.closed.is_some(), "the stamp is always written");
        // Valid lines beyond the limit.
        let journal = File::options().write(true).open(&path).unwrap();
        let mut lines = Vec::new();
        while (lines.len() as u64) < MAX_JOURNAL_BYTES {
            write_line(&Line::Closed(contents.closed.unwrap()), contents.seed, &mut lines);
        }
        write_line(&Line::Hole { first: 1 << 20, parts: 1 }, contents.seed, &mut lines);
        std::os::unix::fs::FileExt::write_all_at(&journal, &lines, contents.len).unwrap();
        let (_, again) = Journal::open(open(dir.path()), "journal".into()).unwrap().unwrap();
        assert_eq!(again.digests, contents.digests);
        assert!(std::fs::metadata(&path).unwrap().len() < 10_000);
    }
}
