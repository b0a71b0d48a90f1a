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
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::beneath::{Beneath, Folder};
use super::landing::Written;
use super::partial::{NEW_SUFFIX, is_ours};
use crate::digest::{Md5, PART_BYTES, PartDigests, PartLayout};
use crate::units::MtimeNs;

/// Bytes of a line for one part, and then some; a longer journal than this allows is none of ours.
const MAX_LINE_BYTES: u64 = 256;
/// And of the first line.
const MAX_HEADER_BYTES: u64 = 8 * MAX_LINE_BYTES;

/// What tells one state of a file at its sender from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
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
    pub fn new(name: &[u8], origin: Origin, inode: u64, beneath: &Beneath) -> Self {
        Header { root: Some(beneath.root_inode()), ..Header::of(name, origin, inode) }
    }

    fn of(name: &[u8], origin: Origin, inode: u64) -> Self {
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

/// What a file's metadata looks like as long as nobody writes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    size: i64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    pub fn of(stat: &Stat) -> Self {
        let time = |seconds, nanoseconds| (seconds, nanoseconds as i64);
        Stamp {
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
    Closed(Stamp),
}

/// What a journal says, as far as it is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// Of which file, and which landing.
    pub header: Header,
    /// The parts that are in.
    pub digests: PartDigests,
    /// How the landing was left, if nothing was recorded since.
    pub closed: Option<Stamp>,
    /// Bytes up to the end of the last line that counts.
    pub len: u64,
    seed: u32,
}

/// Reads a journal; `None` if not even its first line is whole.
pub fn parse(bytes: &[u8]) -> Option<Told> {
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let first = lines.next()?;
    let Line::File(header) = read_line(first, 0)? else { return None };
    let seed = crc32c::crc32c(first);
    let layout = PartLayout::new(header.size);
    let mut told = Told { header, digests: PartDigests::new(), closed: None, len: first.len() as u64, seed };
    for line in lines {
        let fits = match read_line(line, seed) {
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
    }
    Some(told)
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
    dir: Arc<Folder>,
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
    seed: u32,
    /// Is there more than the first line?
    has_records: bool,
}

fn open_ours(dir: &Folder, name: &str) -> io::Result<Option<(File, Stat)>> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    let stat = rustix::fs::fstat(&file)?;
    Ok(is_ours(&stat).then_some((file, stat)))
}

/// The first lines, as they are and as they are understood.
fn read_start(file: &mut File) -> io::Result<(Vec<u8>, Option<Told>)> {
    let mut bytes = Vec::new();
    file.take(MAX_HEADER_BYTES).read_to_end(&mut bytes)?;
    let told = parse(&bytes);
    Ok((bytes, told))
}

impl Journal {
    /// Of a fresh landing.
    pub fn new(dir: Arc<Folder>, name: Box<str>, header: Header) -> Self {
        Journal { dir, name, header, open: Mutex::new(State::New) }
    }

    /// Opens the one that was left behind, if there is one that anybody can believe.
    pub fn open(dir: Arc<Folder>, name: Box<str>) -> io::Result<Option<(Self, Told)>> {
        let Some((mut file, stat)) = open_ours(&dir, &name)? else { return Ok(None) };
        // The header says how long it can be: read that much, and no more than it takes.
        let (mut bytes, Some(start)) = read_start(&mut file)? else { return Ok(None) };
        let most = (PartLayout::new(start.header.size).count() + 64).saturating_mul(2 * MAX_LINE_BYTES);
        file.take(most).read_to_end(&mut bytes)?;
        let Some(told) = parse(&bytes) else { return Ok(None) };
        let Some((mut file, again)) = open_ours(&dir, &name)? else { return Ok(None) };
        if again.st_ino != stat.st_ino {
            return Ok(None);
        }
        file.set_len(told.len)?;
        file.seek(SeekFrom::End(0))?;
        let has_records = told.digests.count() > 0;
        let open = Mutex::new(State::Open(Open { file, seed: told.seed, has_records }));
        Ok(Some((Journal { dir, name, header: told.header.clone(), open }, told)))
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
    pub fn record(&self, landing: &Written, records: &[Record], close: bool) -> Result<(), StoreError> {
        landing.sync_data()?;
        let _ = self.write(landing.file(), records, close);
        Ok(())
    }

    fn write(&self, landing: &File, records: &[Record], close: bool) -> io::Result<()> {
        let mut open = self.lock();
        if matches!(*open, State::New) {
            *open = State::Open(self.make(&self.name)?);
        }
        let State::Open(open) = &mut *open else { return Ok(()) };
        let closed = if close { Some(Stamp::of(&rustix::fs::fstat(landing)?)) } else { None };
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
        Ok(Open { file, seed: crc32c::crc32c(&line), has_records: false })
    }

    /// Only these of the recorded parts are really there: a journal that says so takes the place of the other one. They
    /// were synced before they were recorded, and hold what they held then.
    pub fn keep_only(&self, there: &PartDigests) {
        let mut open = self.lock();
        if matches!(*open, State::Open(_)) {
            *open = match self.replace(there) {
                Ok(replaced) => State::Open(replaced),
                // Then there is none, until something is recorded again.
                Err(_) => {
                    self.unlink(&self.name);
                    State::New
                }
            };
        }
    }

    fn replace(&self, there: &PartDigests) -> io::Result<Open> {
        let beside = format!("{}{NEW_SUFFIX}", self.name);
        // One that is left from a crash.
        self.unlink(&beside);
        let mut open = self.make(&beside)?;
        let parts = there.parts().map(|(part, md5)| Record::Part(part, md5));
        let holes = there.holes().map(|(first, parts)| Record::Holes(first, parts));
        let replaced = open.append(parts.chain(holes), None).and_then(|()| {
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
    fn append(&mut self, records: impl Iterator<Item = Record>, closed: Option<Stamp>) -> io::Result<()> {
        let mut lines = Vec::new();
        for record in records {
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
        self.file.write_all(&lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let origin =
            Origin { size_bytes: 3 * PART_BYTES + 5, mtime: Some(MtimeNs(7)), state: [9; 16].into() };
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
        let stamp = Stamp { size: 1, mtime: (2, 3), ctime: (4, 5) };
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
        let folder = Folder::new(File::open(dir.path()).unwrap().into()).unwrap();
        let journal = Journal::new(Arc::new(folder), "journal".into(), header());
        let landing = Written::before(file, (0, 0));
        let record = || journal.record(&landing, &[Record::Part(0, Md5::of(b""))], false).unwrap();
        record();
        assert!(journal.has_records() && dir.path().join("journal").exists());
        journal.remove();
        record();
        assert!(!journal.has_records() && !dir.path().join("journal").exists(), "it came too late");
    }

    #[test]
    fn what_is_left_of_it_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let landing = File::create(dir.path().join("landing")).unwrap();
        let landing = Written::before(landing, (0, 0));
        let folder = Arc::new(Folder::new(File::open(dir.path()).unwrap().into()).unwrap());
        let told = || parse(&std::fs::read(dir.path().join("journal")).unwrap()).unwrap();
        let record = |journal: &Journal, index| {
            journal.record(&landing, &[Record::Part(index, Md5::of(&[index as u8]))], true).unwrap();
        };
        let begun = Journal::new(Arc::clone(&folder), "journal".into(), header());
        (0..3).for_each(|index| record(&begun, index));
        let (journal, Told { digests: mut there, .. }) =
            Journal::open(folder, "journal".into()).unwrap().unwrap();
        // What a crash leaves is in no way.
        std::fs::write(dir.path().join("journal.new"), "half a jour").unwrap();
        there.remove(1..=1);
        journal.keep_only(&there);
        assert_eq!((told().digests, told().closed), (there.clone(), None), "nobody vouches for it");
        record(&journal, 1);
        assert_eq!(told().digests.count(), 3, "a part that came again counts");
        // Where it cannot be written, nothing is left that could be believed.
        std::fs::create_dir(dir.path().join("journal.new")).unwrap();
        journal.keep_only(&there);
        assert!(!dir.path().join("journal").exists() && !journal.has_records());
        record(&journal, 3);
        assert_eq!(told().digests.count(), 1);
    }
}
