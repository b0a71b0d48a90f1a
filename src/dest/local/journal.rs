//! The journal of a resumable file: which parts are stored, and their digests.
//!
//! The journal lies beside the staged file. It is a hint, never a proof: what it does not contain is fetched again. A part is
//! recorded after its bytes were synced. If some turn out to be damaged, a journal of the others replaces it in one step.
//! Lines of text, each with the CRC-32C of the first line and itself: reading stops at the first line that is torn or belongs
//! to another journal.
//!
//! ```text
//! {"file":{"name_hex":"612e696d67","size":25165824,"mtime_ns":1700000000000000000,"state":null,"inode":42}} 5f3a99c1
//! {"part":{"index":0,"md5":"96995b58d4cbf6aaa9041b4f00c7f6ae"}} 0c88d2be
//! {"hole":{"first":1,"parts":2}} 77c1e0aa
//! {"closed":{"size":25165824,"mtime":[1700000100,5],"ctime":[1700000100,5]}} 1d0f4e62
//! ```

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

use crate::dest::SourceVersion;
use crate::digest::{Md5, PART_BYTES, PartDigests, PartLayout};
use crate::sys::stat::FileStamp;

/// The longest line, and the longest first line, which contains a name.
pub const MAX_LINE_BYTES: u64 = 256;
const MAX_HEADER_BYTES: u64 = 16 << 10;
/// The parts that came in since the last checkpoint: parts of 32 GiB, or this many runs of holes. More are not recorded.
const MAX_UNRECORDED: usize = 4096;
/// A journal is rewritten if it has more than twice the lines it needs, and this many more.
const MAX_SPARE_LINES: u64 = 64;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The final name, without its directory.
    pub name_hex: String,
    /// The size of the complete file.
    pub size: u64,
    /// Its time of modification.
    pub mtime_ns: Option<i64>,
    /// The sender's digest of its state.
    pub state: Option<String>,
    /// The inode of the staged file: a journal is not valid for a later file with the same name.
    pub inode: u64,
    /// The inode of the root of the receiver that began it, which alone removes it when it is too old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<u64>,
}

impl Header {
    pub(super) fn new(name: &[u8], version: SourceVersion, inode: u64, root_inode: u64) -> Self {
        Header {
            name_hex: hex::encode(name),
            size: version.size_bytes,
            mtime_ns: version.mtime.map(|mtime| mtime.0),
            state: Some(version.state.to_string()),
            inode,
            root: Some(root_inode),
        }
    }

    /// Is it of the same staged file and the same version of its source?
    pub(super) fn is_same_version(&self, other: &Header) -> bool {
        *self == Header { root: self.root, ..other.clone() }
    }
}

/// Parts that are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// One part and its digest.
    Part(u64, Md5),
    /// Whole parts of zeros: the first one, and how many.
    Holes(u64, u64),
}

/// What is to be recorded at the next checkpoint.
#[derive(Debug, Default)]
pub struct Records(Vec<Record>);

impl Records {
    /// Adds a record. Adjacent runs of holes become one, so that a sender that reports zeros part by part costs no more than
    /// one that reports the whole run.
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

/// The stamp of a staged file when its last session closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedStamp {
    size: i64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl From<FileStamp> for ClosedStamp {
    fn from(stamp: FileStamp) -> Self {
        ClosedStamp { size: stamp.size_bytes as i64, mtime: stamp.mtime, ctime: stamp.ctime }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line {
    File(Header),
    Part {
        index: u64,
        md5: String,
    },
    Hole {
        first: u64,
        parts: u64,
    },
    /// The last session closed the staged file in good order, with this stamp.
    Closed(ClosedStamp),
}

impl From<Record> for Line {
    fn from(record: Record) -> Self {
        match record {
            Record::Part(index, md5) => Line::Part { index, md5: md5.to_string() },
            Record::Holes(first, parts) => Line::Hole { first, parts },
        }
    }
}

/// The valid lines of a journal.
#[derive(Debug, PartialEq, Eq)]
pub struct JournalContents {
    /// The file, and the staged file.
    pub header: Header,
    /// The parts that are stored.
    pub digests: PartDigests,
    /// The stamp of the staged file, if it was closed after the last record.
    pub closed: Option<ClosedStamp>,
    /// Bytes up to the end of the last valid line.
    pub len: u64,
    lines: u64,
    /// The checksum of the first line, which every other line is bound to.
    pub(super) seed: u32,
}

impl JournalContents {
    /// Would far fewer lines say the same?
    pub(super) fn has_redundant_lines(&self) -> bool {
        let (parts, holes) = self.digests.runs();
        self.lines > 2 * (parts + holes) as u64 + MAX_SPARE_LINES
    }

    /// Applies a line; `false` if it is not valid behind the lines before it.
    fn apply(&mut self, line: Line, layout: PartLayout) -> bool {
        match line {
            Line::Part { index, md5 } => match md5.parse() {
                Ok(md5) if index < layout.count() && !self.digests.contains(index) => {
                    self.digests.insert(index, md5);
                    self.closed = None;
                    true
                }
                _ => false,
            },
            Line::Hole { first, parts } => {
                let last = parts.checked_sub(1).and_then(|more| first.checked_add(more));
                let last = last.and_then(|last| layout.range(last));
                let is_whole = last.is_some_and(|last| last.len == PART_BYTES);
                let is_valid = is_whole && !self.digests.contains_any(first, parts);
                if is_valid {
                    self.digests.insert_holes(first, parts);
                    self.closed = None;
                }
                is_valid
            }
            Line::Closed(stamp) => {
                self.closed = Some(stamp);
                true
            }
            Line::File(_) => false,
        }
    }
}

/// Parses a journal; `None` if its first line is not valid.
pub fn parse(bytes: &[u8]) -> Option<JournalContents> {
    read(bytes).ok()?
}

/// Reads a journal line by line.
pub(super) fn read(mut journal: impl BufRead) -> io::Result<Option<JournalContents>> {
    let mut line = Vec::new();
    let mut next_line = |line: &mut Vec<u8>, max_bytes: u64| {
        line.clear();
        journal.by_ref().take(max_bytes).read_until(b'\n', line)
    };
    next_line(&mut line, MAX_HEADER_BYTES)?;
    let Some(Line::File(header)) = parse_line(&line, 0) else { return Ok(None) };
    let seed = crc32c::crc32c(&line);
    let layout = PartLayout::new(header.size);
    let len = line.len() as u64;
    let mut contents =
        JournalContents { header, digests: PartDigests::new(), closed: None, len, lines: 1, seed };
    while next_line(&mut line, MAX_LINE_BYTES)? > 0 {
        if !parse_line(&line, seed).is_some_and(|line| contents.apply(line, layout)) {
            break;
        }
        contents.len += line.len() as u64;
        contents.lines += 1;
    }
    Ok(Some(contents))
}

fn parse_line(line: &[u8], seed: u32) -> Option<Line> {
    let (json, crc) = line.strip_suffix(b"\n")?.split_last_chunk::<8>()?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
    (crc == crc32c::crc32c_append(seed, json)).then(|| serde_json::from_slice(json).ok())?
}

pub(super) fn write_line(line: &Line, seed: u32, out: &mut Vec<u8>) {
    let start = out.len();
    // Structs of numbers and strings always serialize.
    let _ = serde_json::to_writer(&mut *out, line);
    out.push(b' ');
    let crc = crc32c::crc32c_append(seed, &out[start..]);
    let _ = writeln!(out, "{crc:08x}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MtimeNs;

    fn header() -> Header {
        let version =
            SourceVersion { size_bytes: 3 * PART_BYTES + 5, mtime: Some(MtimeNs(7)), state: [9; 16].into() };
        Header::new(b"a\xff", version, 42, 1)
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
    fn recorded_lines_are_read_back() {
        let stamp = ClosedStamp { size: 1, mtime: (2, 3), ctime: (4, 5) };
        let bytes = written(&[part(0), Line::Hole { first: 1, parts: 2 }, Line::Closed(stamp)]);
        let contents = parse(&bytes).unwrap();
        assert_eq!(
            (contents.header, contents.closed, contents.len),
            (header(), Some(stamp), bytes.len() as u64)
        );
        assert_eq!((contents.digests.count(), contents.digests.get(0)), (3, Some(Md5::of(&[0]))));
        let more = written(&[Line::Closed(stamp), part(3)]);
        assert_eq!(parse(&more).unwrap().closed, None, "the staged file was written to after that");
    }

    #[test]
    fn the_lines_before_a_cut_or_damaged_one_are_valid() {
        let bytes = written(&[part(0), part(1), part(2)]);
        let ends: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] == b'\n').map(|at| at + 1).collect();
        for cut in 0..bytes.len() {
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            let contents = parse(&bytes[..cut]);
            assert_eq!(
                contents.as_ref().map(|contents| contents.digests.count()),
                (whole as u64).checked_sub(1),
                "{cut}"
            );
            let mut damaged = bytes.clone();
            damaged[cut] ^= 0x10;
            let contents = parse(&damaged);
            assert!(contents.is_none_or(|contents| contents.digests.count() + 1 == whole as u64), "{cut}");
        }
    }

    #[test]
    fn reading_ends_at_the_first_line_that_does_not_fit() {
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
            let contents = parse(&written(&[part(0), wrong, part(2)])).unwrap();
            assert_eq!(contents.digests.count(), 1);
        }
        // If it were counted twice, the file would seem complete while a part is missing.
        let contents = parse(&written(&[Line::Hole { first: 1, parts: 2 }, part(2), part(3)])).unwrap();
        assert_eq!(contents.digests.count(), 2, "a part in a hole");
        let mut mixed = written(&[part(0)]);
        let mut other = Vec::new();
        write_line(&part(1), 12345, &mut other);
        mixed.extend(other);
        assert_eq!(parse(&mixed).unwrap().digests.count(), 1, "a line of another journal");
    }

    #[test]
    fn adjacent_holes_are_one_record_and_the_number_of_records_is_bounded() {
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

    #[test]
    fn a_line_without_a_newline_is_read_up_to_the_limit() {
        let mut bytes = written(&[part(0)]);
        let whole = bytes.len() as u64;
        bytes.resize(bytes.len() + (1 << 20), b'x');
        let mut left = &bytes[..];
        let contents = read(&mut left).unwrap().unwrap();
        assert_eq!((contents.len, contents.digests.count()), (whole, 1));
        assert_eq!(bytes.len() - left.len(), (whole + MAX_LINE_BYTES) as usize);
    }
}
