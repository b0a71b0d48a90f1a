//! A journal that was cut, damaged or made up says what its whole lines say, and nothing of a part that does not exist.
#![no_main]

use std::fmt::Write;

use arbitrary::Arbitrary;
use ftx::dest::local::{JournalContents, parse_journal as parse};
use ftx::digest::{Md5, PART_BYTES, PartLayout};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    name: &'a [u8],
    size: Size,
    state: Option<[u8; 16]>,
    lines: Vec<Line<'a>>,
    /// Where a crash cut it, if one did.
    cut: Option<u16>,
    /// A bit that flipped: where, and which.
    flip: Option<(u16, u8)>,
}

#[derive(Arbitrary, Debug)]
enum Size {
    Parts { count: u8, tail: u8 },
    Any(u64),
}

#[derive(Arbitrary, Debug)]
enum Line<'a> {
    Part {
        index: u8,
        md5: [u8; 16],
    },
    FarPart(u64),
    OddPart(&'a str),
    Holes {
        first: u8,
        parts: u8,
    },
    FarHoles {
        first: u64,
        parts: u64,
    },
    Closed(i64),
    HeaderAgain,
    /// Of a journal whose first line is another one.
    Foreign {
        index: u8,
    },
    /// Anything, with the checksum that it needs to be read.
    Json(&'a str),
    /// Anything, without.
    Raw(&'a [u8]),
}

/// What the lines so far say, found out without the code under test.
#[derive(Clone, Default)]
struct Model {
    /// Runs of parts, and their digest where it is one part.
    there: Vec<(u64, u64, Option<Md5>)>,
    is_closed: bool,
    len: usize,
}

impl Model {
    fn has_any(&self, first: u64, parts: u64) -> bool {
        self.there.iter().any(|&(at, len, _)| at < first + parts && first < at + len)
    }

    fn part(&mut self, layout: PartLayout, index: u64, md5: Md5) -> bool {
        if index >= layout.count() || self.has_any(index, 1) {
            return false;
        }
        self.there.push((index, 1, Some(md5)));
        self.is_closed = false;
        true
    }

    fn holes(&mut self, layout: PartLayout, first: u64, parts: u64) -> bool {
        let end = first.checked_add(parts).filter(|&end| parts > 0 && end <= layout.count());
        let is_whole =
            end.is_some_and(|end| layout.range(end - 1).is_some_and(|last| last.len == PART_BYTES));
        if !is_whole || self.has_any(first, parts) {
            return false;
        }
        self.there.push((first, parts, None));
        self.is_closed = false;
        true
    }

    fn count(&self) -> u64 {
        self.there.iter().map(|(_, parts, _)| parts).sum()
    }

    fn is_what(&self, told: &JournalContents) -> bool {
        self.len as u64 == told.len
            && self.is_closed == told.closed.is_some()
            && self.count() == told.digests.count()
            && self.there.iter().all(|&(first, parts, md5)| match md5 {
                Some(md5) => told.digests.get(first) == Some(md5),
                None => told.digests.contains(first) && told.digests.contains(first + parts - 1),
            })
    }
}

fn write_line(json: &str, seed: u32, out: &mut Vec<u8>) {
    let json = format!("{json} ");
    let crc = crc32c::crc32c_append(seed, json.as_bytes());
    out.extend_from_slice(format!("{json}{crc:08x}\n").as_bytes());
}

fn part_json(index: u64, md5: &str) -> String {
    let mut json = format!(r#"{{"part":{{"index":{index},"md5":"#);
    write!(json, "{}}}}}", serde_json::Value::from(md5)).unwrap();
    json
}

/// What holds of whatever is told.
fn check(bytes: &[u8], told: &JournalContents) {
    assert!(told.len as usize <= bytes.len() && bytes[told.len as usize - 1] == b'\n');
    let layout = PartLayout::new(told.header.size);
    let missing: u64 =
        told.digests.missing(layout.count()).iter().map(|run| run.end() - run.start() + 1).sum();
    assert_eq!(told.digests.count() + missing, layout.count(), "a part that does not exist, or one twice");
    // What counts is told again after the rest was cut off, and after a line of which only a part reached the disk.
    let mut again = bytes[..told.len as usize].to_vec();
    assert_eq!(parse(&again).as_ref(), Some(told));
    again.extend_from_slice(b"{\"part\":{\"index\":0,");
    assert_eq!(parse(&again).as_ref(), Some(told));
}

fuzz_target!(|input: Input| {
    let size = match input.size {
        Size::Parts { count, tail } => u64::from(count % 32) * PART_BYTES + u64::from(tail % 3),
        Size::Any(size) => size,
    };
    let layout = PartLayout::new(size);
    let (name, state) = (hex::encode(input.name), input.state.map(hex::encode));
    let header = format!(
        r#"{{"file":{{"name_hex":"{name}","size":{size},"mtime_ns":5,"state":{},"inode":42}}}}"#,
        serde_json::Value::from(state)
    );
    let mut bytes = Vec::new();
    write_line(&header, 0, &mut bytes);
    let seed = crc32c::crc32c(&bytes);
    // What is told after each line, as long as that can be told beforehand.
    let mut models = vec![Model { len: bytes.len(), ..Model::default() }];
    let (mut is_over, mut is_known) = (false, true);
    for line in input.lines.iter().take(64) {
        let mut model = models.last().cloned().unwrap_or_default();
        let fits = match *line {
            Line::Part { index, md5 } => {
                write_line(&part_json(index.into(), &hex::encode(md5)), seed, &mut bytes);
                model.part(layout, index.into(), md5.into())
            }
            Line::FarPart(index) => {
                write_line(&part_json(index, &"ab".repeat(16)), seed, &mut bytes);
                model.part(layout, index, [0xab; 16].into())
            }
            Line::OddPart(md5) => {
                write_line(&part_json(0, md5), seed, &mut bytes);
                md5.parse::<Md5>().is_ok_and(|md5| model.part(layout, 0, md5))
            }
            Line::Holes { first, parts } => {
                let (first, parts) = (first.into(), parts.into());
                write_line(&format!(r#"{{"hole":{{"first":{first},"parts":{parts}}}}}"#), seed, &mut bytes);
                model.holes(layout, first, parts)
            }
            Line::FarHoles { first, parts } => {
                write_line(&format!(r#"{{"hole":{{"first":{first},"parts":{parts}}}}}"#), seed, &mut bytes);
                model.holes(layout, first, parts)
            }
            Line::Closed(at) => {
                let json = format!(r#"{{"closed":{{"size":{at},"mtime":[{at},0],"ctime":[{at},1]}}}}"#);
                write_line(&json, seed, &mut bytes);
                model.is_closed = true;
                true
            }
            Line::HeaderAgain => {
                write_line(&header, seed, &mut bytes);
                false
            }
            Line::Foreign { index } => {
                write_line(&part_json(index.into(), &"00".repeat(16)), seed ^ 1, &mut bytes);
                false
            }
            Line::Json(json) => {
                write_line(json, seed, &mut bytes);
                is_known &= is_over;
                false
            }
            Line::Raw(raw) => {
                bytes.extend_from_slice(raw);
                is_known &= is_over;
                false
            }
        };
        is_over |= !fits;
        if !is_over {
            model.len = bytes.len();
            models.push(model);
        }
    }
    if let Some(cut) = input.cut {
        bytes.truncate(cut.into());
        models.retain(|model| model.len <= bytes.len());
    }
    let mut whole = models.last();
    let mut before_flip = whole;
    if let Some((at, bit)) = input.flip
        && !bytes.is_empty()
    {
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
        before_flip = models.iter().rev().find(|model| model.len <= at);
        // An upper-case digit of a checksum is the same digit, but in the first line it changes all that follow.
        whole = if at < models.first().map_or(0, |model| model.len) { models.first() } else { whole };
    }
    let told = parse(&bytes);
    if let Some(told) = &told {
        check(&bytes, told);
    }
    if is_known {
        let is = |model: Option<&Model>| match (model, &told) {
            (Some(model), Some(told)) => model.is_what(told),
            (None, None) => true,
            _ => false,
        };
        assert!(is(before_flip) || is(whole), "{told:?}");
    }
});
