//! What is known of a landing that waits for the rest of its file: which parts are in, with their digests.
//!
//! The journal lies beside the landing and is a hint, never a proof: whatever does not fit is fetched again. A part is
//! recorded after its bytes were synced; where some turn out to be damaged, a journal of the others takes its place
//! in one step. Lines of text, each with the CRC-32C of the first line and itself, so that a torn line, or one of another
//! journal, ends what counts:
//!
//! ```text
//! {"file":{"name_hex":"612e696d67","size":25165824,"mtime_ns":1700000000000000000,"state":null,"inode":42}} 5f3a99c1
//! {"part":{"index":0,"md5":"96995b58d4cbf6aaa9041b4f00c7f6ae"}} 0c88d2be
//! {"hole":{"first":1,"parts":2}} 77c1e0aa
//! {"closed":{"size":25165824,"mtime":[1700000100,5],"ctime":[1700000100,5]}} 1d0f4e62
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::dir_tree::{Dir, DirTree};
use super::resume::{NEW_SUFFIX, is_safe_to_reuse};
use super::staged::SyncedFile;
use crate::digest::{Md5, PART_BYTES, PartDigests, PartLayout};
use crate::units::MtimeNs;

/// Bytes of a line at most, and of the first one, which has a name in it.
const MAX_LINE_BYTES: u64 = 256;
const MAX_HEADER_BYTES: u64 = 16 << 10;
/// More of a journal is neither written nor read: enough for seven terabytes of parts, and far more of holes. What comes
/// behind that is fetched again.
const MAX_JOURNAL_BYTES: u64 = 64 << 20;
/// What came in since the last checkpoint: parts of 32 GiB, or so many runs of holes. More of it is not recorded.
const MAX_UNRECORDED: usize = 4096;
/// A journal is rewritten where it has more than twice the lines that say the same, and then some.
const SPARE_LINES: u64 = 64;

/// What tells one state of a file at its sender from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceVersion {
    /// Its size.
    pub size_bytes: u64,
    /// Its time of modification.
    pub mtime: Option<MtimeNs>,
    /// What the sender says of its state; equal only if the file cannot have changed in between.
    pub state: Md5,
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The final name, without its folder.
    pub name_hex: String,
    pub size: u64,
    pub mtime_ns: Option<i64>,
    pub state: Option<String>,
    /// Of the landing: a journal does not speak of another file that has its name.
    pub inode: u64,
    /// The inode of the root of the receiver that began it, which alone removes what is too old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<u64>,
}

impl Header {
    pub fn new(name: &[u8], origin: SourceVersion, inode: u64, tree: &DirTree) -> Self {
        Header { root: Some(tree.root_inode()), ..Header::of(name, origin, inode) }
    }

    fn of(name: &[u8], origin: SourceVersion, inode: u64) -> Self {
        Header {
            name_hex: hex::encode(name),
            size: origin.size_bytes,
            mtime_ns: origin.mtime.map(|mtime| mtime.0),
            state: Some(origin.state.to_string()),
            inode,
            root: None,
        }
    }

    /// Is it the same state of the same file?
    pub fn is_same_state(&self, other: &Header) -> bool {
        *self == Header { root: self.root, ..other.clone() }
    }
}

/// Parts that are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// One part and its digest.
    Part(u64, Md5),
    /// So many whole parts of zeros, from the first on.
    Holes(u64, u64),
}

/// What is to be recorded at the next checkpoint.
#[derive(Debug, Default)]
pub struct Records(Vec<Record>);

impl Records {
    /// Adds one more. A run of holes that touches the one before is the same run: a sender that tells of zeros part by part
    /// costs no more than one that does not.
    pub fn push(&mut self, record: Record) {
        if let (Some(Record::Holes(first, parts)), Record::Holes(next, more)) = (self.0.last_mut(), record)
            && first.checked_add(*parts) == Some(next)
        {
            *parts += more;
        } else if self.0.len() < MAX_UNRECORDED {
            self.0.push(record);
        }
    }
}

impl std::ops::Deref for Records {
    type Target = [Record];

    fn deref(&self) -> &[Record] {
        &self.0
    }
}

/// What a file's metadata looks like as long as nobody writes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    size: i64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl FileStamp {
    pub fn of(stat: &Stat) -> Self {
        let time = |seconds, nanoseconds| (seconds, nanoseconds as i64);
        FileStamp {
            size: stat.st_size,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    File(Header),
    Part {
        index: u64,
        md5: String,
    },
    Hole {
        first: u64,
        parts: u64,
    },
    /// The last session let go of the landing in good order, and left it like this.
    Closed(FileStamp),
}

/// What a journal says, as far as it is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct JournalContents {
    /// Of which file, and which landing.
    pub header: Header,
    /// The parts that are in.
    pub digests: PartDigests,
    /// How the landing was left, if nothing was recorded since.
    pub closed: Option<FileStamp>,
    /// Bytes up to the end of the last line that counts.
    pub len: u64,
    lines: u64,
    seed: u32,
}

impl JournalContents {
    /// Would far fewer lines say the same?
    fn has_redundant_lines(&self) -> bool {
        let (parts, holes) = self.digests.runs();
        self.lines > 2 * (parts + holes) as u64 + SPARE_LINES
    }
}

/// Understands a journal; `None` if not even its first line is whole.
pub fn parse(bytes: &[u8]) -> Option<JournalContents> {
    read(bytes).ok()?
}

/// Reads a journal line by line.
fn read(mut journal: impl BufRead) -> io::Result<Option<JournalContents>> {
    let mut line = Vec::new();
    let mut next_line = |line: &mut Vec<u8>, most: u64| {
        line.clear();
        journal.by_ref().take(most).read_until(b'\n', line)
    };
    next_line(&mut line, MAX_HEADER_BYTES)?;
    let Some(Line::File(header)) = read_line(&line, 0) else { return Ok(None) };
    let seed = crc32c::crc32c(&line);
    let layout = PartLayout::new(header.size);
    let len = line.len() as u64;
    let mut told = JournalContents { header, digests: PartDigests::new(), closed: None, len, lines: 1, seed };
    while next_line(&mut line, MAX_LINE_BYTES)? > 0 {
        let fits = match read_line(&line, seed) {
            Some(Line::Part { index, md5 }) => match md5.parse() {
                Ok(md5) if index < layout.count() && !told.digests.contains(index) => {
                    told.digests.insert(index, md5);
                    told.closed = None;
                    true
                }
                _ => false,
            },
            Some(Line::Hole { first, parts }) => {
                let last = parts.checked_sub(1).and_then(|more| first.checked_add(more));
                let last = last.and_then(|last| layout.range(last));
                let is_whole = last.is_some_and(|last| last.len == PART_BYTES);
                let fits = is_whole && !told.digests.contains_any(first, parts);
                if fits {
                    told.digests.insert_holes(first, parts);
                    told.closed = None;
                }
                fits
            }
            Some(Line::Closed(stamp)) => {
                told.closed = Some(stamp);
                true
            }
            Some(Line::File(_)) | None => false,
        };
        if !fits {
            break;
        }
        told.len += line.len() as u64;
        told.lines += 1;
    }
    Ok(Some(told))
}

fn read_line(line: &[u8], seed: u32) -> Option<Line> {
    let (json, crc) = line.strip_suffix(b"\n")?.split_last_chunk::<8>()?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
    (crc == crc32c::crc32c_append(seed, json)).then(|| serde_json::from_slice(json).ok())?
}

fn write_line(line: &Line, seed: u32, out: &mut Vec<u8>) {
    let start = out.len();
    // Plain structs of numbers and strings have no way to fail.
    let _ = serde_json::to_writer(&mut *out, line);
    out.push(b' ');
    let crc = crc32c::crc32c_append(seed, &out[start..]);
    let _ = writeln!(out, "{crc:08x}");
}

/// The journal of one landing. It is made with its first record.
#[derive(Debug)]
pub struct Journal {
    dir: Arc<Dir>,
    name: Box<str>,
    header: Header,
    open: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// There is no file yet.
    New,
    Open(Open),
    /// The landing has its name, or is gone: whoever still wants to record something of it comes too late.
    Removed,
}

#[derive(Debug)]
struct Open {
    file: File,
    len: u64,
    seed: u32,
    /// Is there more than the first line?
    has_records: bool,
}

fn open_ours(dir: &Dir, name: &str) -> io::Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    let stat = rustix::fs::fstat(&file)?;
    Ok(is_safe_to_reuse(&stat).then_some(file))
}

impl Journal {
    /// Of a fresh landing.
    pub fn new(dir: Arc<Dir>, name: Box<str>, header: Header) -> Self {
        Journal { dir, name, header, open: Mutex::new(State::New) }
    }

    /// Opens the one that was left behind, if there is one that anybody can believe.
    pub fn open(dir: Arc<Dir>, name: Box<str>) -> io::Result<Option<(Self, JournalContents)>> {
        let Some(mut file) = open_ours(&dir, &name)? else { return Ok(None) };
        let Some(told) = read(BufReader::new((&file).take(MAX_JOURNAL_BYTES)))? else { return Ok(None) };
        file.set_len(told.len)?;
        file.seek(SeekFrom::End(0))?;
        let has_records = told.digests.count() > 0;
        let open = Open { file, len: told.len, seed: told.seed, has_records };
        let journal = Journal { dir, name, header: told.header.clone(), open: Mutex::new(State::Open(open)) };
        if told.has_redundant_lines()
            && let Ok(shorter) = journal.replace(&told.digests, told.closed)
        {
            *journal.lock() = State::Open(shorter);
        }
        Ok(Some((journal, told)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has anything been recorded?
    pub fn has_records(&self) -> bool {
        matches!(*self.lock(), State::Open(Open { has_records: true, .. }))
    }

    /// Brings the landing to stable storage and then records parts of it; with `close`, also how it is left.
    ///
    /// An error is one of the landing: the system tells of lost bytes once only, so it must not be used any more. That
    /// the journal itself cannot be written costs no more than what it would have told.
    pub fn record(&self, staged: &SyncedFile, records: &[Record], close: bool) -> Result<(), StoreError> {
        staged.sync_data()?;
        let _ = self.write(staged.file(), records, close);
        Ok(())
    }

    fn write(&self, staged: &File, records: &[Record], close: bool) -> io::Result<()> {
        let mut open = self.lock();
        if matches!(*open, State::New) {
            *open = State::Open(self.make(&self.name)?);
        }
        let State::Open(open) = &mut *open else { return Ok(()) };
        let closed = if close { Some(FileStamp::of(&rustix::fs::fstat(staged)?)) } else { None };
        open.append(records.iter().copied(), closed)?;
        if close {
            rustix::fs::fdatasync(&open.file)?;
            self.dir.sync()?;
        }
        Ok(())
    }

    fn make(&self, name: &str) -> io::Result<Open> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(rustix::fs::openat(&*self.dir, name, flags, mode)?);
        let mut line = Vec::new();
        write_line(&Line::File(self.header.clone()), 0, &mut line);
        if let Err(error) = file.write_all(&line) {
            // It would be in the way of the next attempt.
            self.unlink(name);
            return Err(error);
        }
        Ok(Open { file, len: line.len() as u64, seed: crc32c::crc32c(&line), has_records: false })
    }

    /// Only these of the recorded parts are really there: a journal that says so takes the place of the other one. They
    /// were synced before they were recorded, and hold what they held then.
    pub fn rewrite_with(&self, there: &PartDigests) {
        let mut open = self.lock();
        if matches!(*open, State::Open(_)) {
            *open = match self.replace(there, None) {
                Ok(replaced) => State::Open(replaced),
                // Then there is none, until something is recorded again.
                Err(_) => {
                    self.unlink(&self.name);
                    State::New
                }
            };
        }
    }

    fn replace(&self, there: &PartDigests, closed: Option<FileStamp>) -> io::Result<Open> {
        let beside = format!("{}{NEW_SUFFIX}", self.name);
        // One that is left from a crash.
        self.unlink(&beside);
        let mut open = self.make(&beside)?;
        let parts = there.parts().map(|(part, md5)| Record::Part(part, md5));
        let holes = there.holes().map(|(first, parts)| Record::Holes(first, parts));
        let replaced = open.append(parts.chain(holes), closed).and_then(|()| {
            // Before it has the name: a loss of power shall not leave an empty one.
            rustix::fs::fdatasync(&open.file)?;
            Ok(rustix::fs::renameat(&*self.dir, &*beside, &*self.dir, &*self.name)?)
        });
        if let Err(error) = replaced {
            self.unlink(&beside);
            return Err(error);
        }
        Ok(open)
    }

    /// One that stays behind speaks of another landing than the next one and counts for nothing.
    fn unlink(&self, name: &str) {
        let _ = rustix::fs::unlinkat(&*self.dir, name, AtFlags::empty());
    }

    /// The file is in place, or will not come: nothing is left to know.
    pub fn remove(&self) {
        if let State::Open(_) = std::mem::replace(&mut *self.lock(), State::Removed) {
            self.unlink(&self.name);
        }
    }
}

impl Open {
    fn append(&mut self, records: impl Iterator<Item = Record>, closed: Option<FileStamp>) -> io::Result<()> {
        let mut lines = Vec::new();
        for record in records {
            if self.len + lines.len() as u64 + 2 * MAX_LINE_BYTES > MAX_JOURNAL_BYTES {
                break;
            }
            self.has_records = true;
            let line = match record {
                Record::Part(index, md5) => Line::Part { index, md5: md5.to_string() },
                Record::Holes(first, parts) => Line::Hole { first, parts },
            };
            write_line(&line, self.seed, &mut lines);
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
    use super::*;

    fn header() -> Header {
        let origin =
            SourceVersion { size_bytes: 3 * PART_BYTES + 5, mtime: Some(MtimeNs(7)), state: [9; 16].into() };
        Header::of(b"a\xff", origin, 42)
    }

    fn written(lines: &[Line]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_line(&Line::File(header()), 0, &mut bytes);
        let seed = crc32c::crc32c(&bytes);
        lines.iter().for_each(|line| write_line(line, seed, &mut bytes));
        bytes
    }

    fn part(index: u64) -> Line {
        Line::Part { index, md5: Md5::of(&[index as u8]).to_string() }
    }

    #[test]
    fn what_was_recorded_is_told() {
        let stamp = FileStamp { size: 1, mtime: (2, 3), ctime: (4, 5) };
        let bytes = written(&[part(0), Line::Hole { first: 1, parts: 2 }, Line::Closed(stamp)]);
        let told = parse(&bytes).unwrap();
        assert_eq!((told.header, told.closed, told.len), (header(), Some(stamp), bytes.len() as u64));
        assert_eq!((told.digests.count(), told.digests.get(0)), (3, Some(Md5::of(&[0]))));
        let more = written(&[Line::Closed(stamp), part(3)]);
        assert_eq!(parse(&more).unwrap().closed, None, "the landing was written to after that");
    }

    #[test]
    fn wherever_it_is_cut_or_damaged_the_lines_before_count() {
        let bytes = written(&[part(0), part(1), part(2)]);
        let ends: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] == b'\n').map(|at| at + 1).collect();
        for cut in 0..bytes.len() {
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            let told = parse(&bytes[..cut]);
            assert_eq!(
                told.as_ref().map(|told| told.digests.count()),
                (whole as u64).checked_sub(1),
                "{cut}"
            );
            let mut damaged = bytes.clone();
            damaged[cut] ^= 0x10;
            let told = parse(&damaged);
            assert!(told.is_none_or(|told| told.digests.count() + 1 == whole as u64), "{cut}");
        }
    }

    #[test]
    fn lines_that_do_not_fit_the_file_end_what_counts() {
        for wrong in [
            part(4),
            part(u64::MAX),
            Line::Part { index: 1, md5: "zz".into() },
            part(0),
            Line::Hole { first: 3, parts: 1 },
            Line::Hole { first: 0, parts: 1 },
            Line::Hole { first: 1, parts: 0 },
            Line::Hole { first: u64::MAX, parts: 2 },
            Line::File(header()),
        ] {
            let told = parse(&written(&[part(0), wrong, part(2)])).unwrap();
            assert_eq!(told.digests.count(), 1);
        }
        // Counted twice, the file would be whole while a part of it is missing.
        let told = parse(&written(&[Line::Hole { first: 1, parts: 2 }, part(2), part(3)])).unwrap();
        assert_eq!(told.digests.count(), 2, "a part in a hole");
        let mut foreign = written(&[part(0)]);
        let mut other = Vec::new();
        write_line(&part(1), 12345, &mut other);
        foreign.extend(other);
        assert_eq!(parse(&foreign).unwrap().digests.count(), 1, "a line of another journal");
    }

    #[test]
    fn what_has_its_name_gets_no_journal_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("landing")).unwrap();
        let folder = Dir::new(File::open(dir.path()).unwrap().into()).unwrap();
        let journal = Journal::new(Arc::new(folder), "journal".into(), header());
        let staged = SyncedFile::before(file, (0, 0));
        let record = || journal.record(&staged, &[Record::Part(0, Md5::of(b""))], false).unwrap();
        record();
        assert!(journal.has_records() && dir.path().join("journal").exists());
        journal.remove();
        record();
        assert!(!journal.has_records() && !dir.path().join("journal").exists(), "it came too late");
    }

    #[test]
    fn what_is_left_of_it_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let staged = File::create(dir.path().join("landing")).unwrap();
        let staged = SyncedFile::before(staged, (0, 0));
        let folder = Arc::new(Dir::new(File::open(dir.path()).unwrap().into()).unwrap());
        let told = || parse(&std::fs::read(dir.path().join("journal")).unwrap()).unwrap();
        let record = |journal: &Journal, index| {
            journal.record(&staged, &[Record::Part(index, Md5::of(&[index as u8]))], true).unwrap();
        };
        let begun = Journal::new(Arc::clone(&folder), "journal".into(), header());
        (0..3).for_each(|index| record(&begun, index));
        let (journal, JournalContents { digests: mut there, .. }) =
            Journal::open(folder, "journal".into()).unwrap().unwrap();
        // What a crash leaves is in no way.
        std::fs::write(dir.path().join("journal.new"), "half a jour").unwrap();
        there.remove(1..=1);
        journal.rewrite_with(&there);
        assert_eq!((told().digests, told().closed), (there.clone(), None), "nobody vouches for it");
        record(&journal, 1);
        assert_eq!(told().digests.count(), 3, "a part that came again counts");
        // Where it cannot be written, nothing is left that could be believed.
        std::fs::create_dir(dir.path().join("journal.new")).unwrap();
        journal.rewrite_with(&there);
        assert!(!dir.path().join("journal").exists() && !journal.has_records());
        record(&journal, 3);
        assert_eq!(told().digests.count(), 1);
    }

    #[test]
    fn runs_of_holes_that_touch_are_one_record_and_there_are_only_so_many() {
        let mut records = Records::default();
        (0..1_000_000).for_each(|part| records.push(Record::Holes(part, 1)));
        records.push(Record::Part(1_000_000, Md5::of(b"")));
        records.push(Record::Holes(1_000_001, 2));
        let md5 = Md5::of(b"");
        let all = [Record::Holes(0, 1_000_000), Record::Part(1_000_000, md5), Record::Holes(1_000_001, 2)];
        assert_eq!(*records, all);
        (0..1_000_000).for_each(|part| records.push(Record::Holes(2_000_000 + 2 * part, 1)));
        assert_eq!(records.len(), MAX_UNRECORDED);
    }

    /// A journal of a file of so many parts in its own folder.
    fn journal_of(dir: &std::path::Path, parts: u64) -> Journal {
        let folder = Arc::new(Dir::new(File::open(dir).unwrap().into()).unwrap());
        let origin = SourceVersion { size_bytes: parts * PART_BYTES, mtime: None, state: [9; 16].into() };
        Journal::new(folder, "journal".into(), Header::of(b"a", origin, 42))
    }

    #[test]
    fn a_journal_that_is_longer_than_what_it_says_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let staged = SyncedFile::before(File::create(dir.path().join("landing")).unwrap(), (0, 0));
        let journal = journal_of(dir.path(), 1 << 40);
        let holes: Vec<Record> = (0..10_000).map(|part| Record::Holes(part, 1)).collect();
        journal.record(&staged, &holes, true).unwrap();
        let path = dir.path().join("journal");
        let (long, before) = (std::fs::metadata(&path).unwrap().len(), parse(&std::fs::read(&path).unwrap()));
        let folder = Arc::clone(&journal.dir);
        let (journal, told) = Journal::open(Arc::clone(&folder), "journal".into()).unwrap().unwrap();
        let short = std::fs::metadata(&path).unwrap().len();
        assert!(long > 300_000 && short < 500, "{long}, {short}");
        let after = parse(&std::fs::read(&path).unwrap()).unwrap();
        let before = before.unwrap();
        assert_eq!(
            (&after.digests, after.closed),
            (&before.digests, before.closed),
            "and vouched for as before"
        );
        assert!(after.closed.is_some() && told.digests == after.digests && journal.has_records());
        // And goes on.
        journal.record(&staged, &[Record::Holes(10_000, 5)], false).unwrap();
        assert_eq!(parse(&std::fs::read(&path).unwrap()).unwrap().digests.count(), 10_005);
        let (_, told) = Journal::open(folder, "journal".into()).unwrap().unwrap();
        assert_eq!(told.digests.count(), 10_005);
    }

    #[test]
    fn more_than_a_journal_may_have_is_neither_written_nor_read() {
        let dir = tempfile::tempdir().unwrap();
        let staged = SyncedFile::before(File::create(dir.path().join("landing")).unwrap(), (0, 0));
        let journal = journal_of(dir.path(), 1 << 40);
        journal.record(&staged, &[Record::Holes(0, 1)], false).unwrap();
        if let State::Open(open) = &mut *journal.lock() {
            open.len = MAX_JOURNAL_BYTES - 3 * MAX_LINE_BYTES;
        }
        let holes: Vec<Record> = (1..1000).map(|part| Record::Holes(2 * part, 1)).collect();
        journal.record(&staged, &holes, true).unwrap();
        let path = dir.path().join("journal");
        let told = parse(&std::fs::read(&path).unwrap()).unwrap();
        assert!((2..10).contains(&told.digests.count()), "{}", told.digests.count());
        assert!(told.closed.is_some(), "how the landing is left is told in any case");
        // Lines that fit, behind the bound.
        let journal = File::options().write(true).open(&path).unwrap();
        let mut lines = Vec::new();
        while (lines.len() as u64) < MAX_JOURNAL_BYTES {
            write_line(&Line::Closed(told.closed.unwrap()), told.seed, &mut lines);
        }
        write_line(&Line::Hole { first: 1 << 20, parts: 1 }, told.seed, &mut lines);
        std::os::unix::fs::FileExt::write_all_at(&journal, &lines, told.len).unwrap();
        let folder = Arc::new(Dir::new(File::open(dir.path()).unwrap().into()).unwrap());
        let (_, again) = Journal::open(folder, "journal".into()).unwrap().unwrap();
        assert_eq!(again.digests, told.digests);
        assert!(std::fs::metadata(&path).unwrap().len() < 10_000);
    }

    #[test]
    fn a_line_without_an_end_is_not_read_to_its_end() {
        let mut bytes = written(&[part(0)]);
        let whole = bytes.len() as u64;
        bytes.resize(bytes.len() + (1 << 20), b'x');
        let mut left = &bytes[..];
        let told = read(&mut left).unwrap().unwrap();
        assert_eq!((told.len, told.digests.count()), (whole, 1));
        assert_eq!(bytes.len() - left.len(), (whole + MAX_LINE_BYTES) as usize);
    }
}
