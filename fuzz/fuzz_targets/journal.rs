//! A cut, damaged or forged journal parses to what its complete valid lines record, and never to a part that does not
//! exist.
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
    /// The length to which a crash cut it.
    cut: Option<u16>,
    /// A flipped bit: the byte and the bit in it.
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
    TextDigest(&'a str),
    Holes {
        first: u8,
        parts: u8,
    },
    FarHoles {
        first: u64,
        parts: u64,
    },
    Closed(i64),
    SecondHeader,
    /// A line of a journal with a different first line: its checksum has another seed.
    OtherJournal {
        index: u8,
    },
    /// Any text with a valid checksum.
    Json(&'a str),
    /// Any bytes without a checksum.
    Raw(&'a [u8]),
}

/// What the lines so far record, computed without the code under test.
#[derive(Clone, Default)]
struct Model {
    /// Runs of parts (first, count), with the digest if the run is one part.
    recorded: Vec<(u64, u64, Option<Md5>)>,
    is_closed: bool,
    len: usize,
}

impl Model {
    fn has_any(&self, first: u64, parts: u64) -> bool {
        self.recorded.iter().any(|&(at, len, _)| at < first + parts && first < at + len)
    }

    fn part(&mut self, layout: PartLayout, index: u64, md5: Md5) -> bool {
        if index >= layout.count() || self.has_any(index, 1) {
            return false;
        }
        self.recorded.push((index, 1, Some(md5)));
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
        self.recorded.push((first, parts, None));
        self.is_closed = false;
        true
    }

    fn count(&self) -> u64 {
        self.recorded.iter().map(|(_, parts, _)| parts).sum()
    }

    fn matches(&self, parsed: &JournalContents) -> bool {
        self.len as u64 == parsed.len
            && self.is_closed == parsed.closed.is_some()
            && self.count() == parsed.digests.count()
            && self.recorded.iter().all(|&(first, parts, md5)| match md5 {
                Some(md5) => parsed.digests.get(first) == Some(md5),
                None => parsed.digests.contains(first) && parsed.digests.contains(first + parts - 1),
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

/// Invariants of every parsed journal.
fn check(bytes: &[u8], parsed: &JournalContents) {
    assert!(parsed.len as usize <= bytes.len() && bytes[parsed.len as usize - 1] == b'\n');
    let layout = PartLayout::new(parsed.header.size);
    let missing: u64 =
        parsed.digests.missing(layout.count()).iter().map(|run| run.end() - run.start() + 1).sum();
    assert_eq!(parsed.digests.count() + missing, layout.count(), "a part that does not exist, or one twice");
    // The valid prefix parses to the same contents, alone and followed by a torn line.
    let mut again = bytes[..parsed.len as usize].to_vec();
    assert_eq!(parse(&again).as_ref(), Some(parsed));
    again.extend_from_slice(b"{\"part\":{\"index\":0,");
    assert_eq!(parse(&again).as_ref(), Some(parsed));
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
    // The expected contents after each valid line; `is_modelled` until a line of unknown meaning comes.
    let mut models = vec![Model { len: bytes.len(), ..Model::default() }];
    let (mut is_cut_off, mut is_modelled) = (false, true);
    for line in input.lines.iter().take(64) {
        let mut model = models.last().cloned().unwrap_or_default();
        let is_valid = match *line {
            Line::Part { index, md5 } => {
                write_line(&part_json(index.into(), &hex::encode(md5)), seed, &mut bytes);
                model.part(layout, index.into(), md5.into())
            }
            Line::FarPart(index) => {
                write_line(&part_json(index, &"ab".repeat(16)), seed, &mut bytes);
                model.part(layout, index, [0xab; 16].into())
            }
            Line::TextDigest(md5) => {
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
            Line::SecondHeader => {
                write_line(&header, seed, &mut bytes);
                false
            }
            Line::OtherJournal { index } => {
                write_line(&part_json(index.into(), &"00".repeat(16)), seed ^ 1, &mut bytes);
                false
            }
            Line::Json(json) => {
                write_line(json, seed, &mut bytes);
                is_modelled &= is_cut_off;
                false
            }
            Line::Raw(raw) => {
                bytes.extend_from_slice(raw);
                is_modelled &= is_cut_off;
                false
            }
        };
        is_cut_off |= !is_valid;
        if !is_cut_off {
            model.len = bytes.len();
            models.push(model);
        }
    }
    if let Some(cut) = input.cut {
        bytes.truncate(cut.into());
        models.retain(|model| model.len <= bytes.len());
    }
    let mut after_flip = models.last();
    let mut before_flip = after_flip;
    if let Some((at, bit)) = input.flip
        && !bytes.is_empty()
    {
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
        before_flip = models.iter().rev().find(|model| model.len <= at);
        // A flip can turn a hex digit of a checksum to upper case, which leaves its value. In the first line it still
        // invalidates all later lines, because their checksums are seeded with the bytes of that line.
        after_flip =
            if at < models.first().map_or(0, |model| model.len) { models.first() } else { after_flip };
    }
    let parsed = parse(&bytes);
    if let Some(parsed) = &parsed {
        check(&bytes, parsed);
    }
    if is_modelled {
        let is = |model: Option<&Model>| match (model, &parsed) {
            (Some(model), Some(parsed)) => model.matches(parsed),
            (None, None) => true,
            _ => false,
        };
        assert!(is(before_flip) || is(after_flip), "{parsed:?}");
    }
});
