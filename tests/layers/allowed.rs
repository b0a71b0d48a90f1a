//! The offenders that the fences still allow: `allowed.txt`, a section for each fence, a line for each offender.
//!
//! The list equals the offenders of today, so that it can only shrink. `FTX_WRITE_ALLOWED=1 cargo test --test layers` writes
//! it again; its diff shows the direction.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::{cycles, lengths, names, phrases, places};

/// What a fence finds: a number for each offender, and what explains it.
#[derive(Default)]
pub struct Offenders(BTreeMap<String, Offence>);

#[derive(Default)]
pub struct Offence {
    pub number: usize,
    pub details: Vec<String>,
}

impl Offenders {
    /// Raises the number of `offender`.
    pub fn add(&mut self, offender: impl Into<String>, number: usize, detail: impl Into<String>) {
        let offence = self.0.entry(offender.into()).or_default();
        offence.number += number;
        offence.details.push(detail.into());
    }

    pub fn numbers(&self) -> BTreeMap<String, usize> {
        self.0.iter().map(|(offender, offence)| (offender.clone(), offence.number)).collect()
    }
}

/// The section of its list and what finds its offenders.
type Fence = (&'static str, fn() -> Offenders);

const FENCES: [Fence; 9] = [
    ("import-cycles", cycles::offenders),
    ("file-lines", lengths::long_files),
    ("function-lines", lengths::long_functions),
    ("places", places::offenders),
    ("unnamed-threads", places::unnamed_threads),
    ("repeated-names", names::repeated_names),
    ("banned-names", names::banned_names),
    ("banned-phrases", phrases::banned_phrases),
    ("phrase-rate", phrases::phrase_rate),
];

const HEAD: &str = "\
# What still offends the fences in this folder. A list may only shrink.
# `FTX_WRITE_ALLOWED=1 cargo test --test layers` rewrites this file.
";

/// How many places a message names for each offender.
const MAX_DETAILS: usize = 40;

fn path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "layers", "allowed.txt"].iter().collect()
}

fn is_to_be_written() -> bool {
    std::env::var_os("FTX_WRITE_ALLOWED").is_some()
}

/// Compares the offenders of a fence with its list.
pub fn check(section: &str) {
    if is_to_be_written() {
        return;
    }
    let (_, find) = FENCES.iter().find(|(name, _)| *name == section).unwrap();
    let text = fs::read_to_string(path()).unwrap();
    let faults = compare(&find(), &parse(&text, section));
    assert!(faults.is_empty(), "[{section}]\n{}", faults.join("\n"));
}

/// The list of a section: `<number> <offender>` lines.
fn parse(text: &str, section: &str) -> BTreeMap<String, usize> {
    let mut list = BTreeMap::new();
    let heading = format!("[{section}]");
    let lines =
        text.lines().skip_while(|line| **line != heading).skip(1).take_while(|line| !line.starts_with('['));
    for line in lines.filter(|line| !line.is_empty()) {
        let (number, offender) = line.split_once(' ').unwrap();
        list.insert(offender.to_owned(), number.parse().unwrap());
    }
    list
}

/// What differs between the offenders of today and the list.
fn compare(offenders: &Offenders, allowed: &BTreeMap<String, usize>) -> Vec<String> {
    let mut faults = Vec::new();
    for (offender, offence) in &offenders.0 {
        let number = offence.number;
        match allowed.get(offender).copied().unwrap_or_default() {
            limit if limit < number => {
                faults.push(format!("{offender}: {number}, allowed {limit}"));
                faults.extend(offence.details.iter().take(MAX_DETAILS).map(|detail| format!("    {detail}")));
            }
            limit if limit > number => {
                faults.push(format!("{offender}: lower it from {limit} to {number} in the list"))
            }
            _ => (),
        }
    }
    let gone = allowed.keys().filter(|offender| !offenders.0.contains_key(*offender));
    faults.extend(gone.map(|offender| format!("{offender}: no longer offends, remove it from the list")));
    faults
}

#[test]
fn the_list_is_written_when_asked_for() {
    if is_to_be_written() {
        let mut text = HEAD.to_owned();
        for (section, find) in FENCES {
            text += &format!("\n[{section}]\n");
            text.extend(find().numbers().iter().map(|(offender, number)| format!("{number} {offender}\n")));
        }
        fs::write(path(), text).unwrap();
    }
}

#[test]
fn the_list_has_no_other_sections() {
    if is_to_be_written() {
        return;
    }
    let text = fs::read_to_string(path()).unwrap();
    for heading in text.lines().filter(|line| line.starts_with('[')) {
        assert!(FENCES.iter().any(|(section, _)| heading == format!("[{section}]")), "{heading}");
    }
}

#[test]
fn this_list_can_only_shrink() {
    let list = parse("[other]\n7 src/x.rs\n\n[lines]\n3 src/a.rs\n5 src/b c\n\n[last]\n", "lines");
    let faults = |found: &[(&str, usize)]| {
        let mut offenders = Offenders::default();
        found.iter().for_each(|&(offender, number)| offenders.add(offender, number, "why"));
        compare(&offenders, &list)
    };
    assert_eq!(faults(&[("src/a.rs", 3), ("src/b c", 5)]), Vec::<String>::new());
    assert_eq!(faults(&[("src/a.rs", 4), ("src/b c", 5)]), ["src/a.rs: 4, allowed 3", "    why"]);
    assert_eq!(faults(&[("src/a.rs", 2), ("src/b c", 5)]), ["src/a.rs: lower it from 3 to 2 in the list"]);
    assert_eq!(faults(&[("src/a.rs", 3)]), ["src/b c: no longer offends, remove it from the list"]);
    assert_eq!(faults(&[("new", 1), ("src/a.rs", 3), ("src/b c", 5)]), ["new: 1, allowed 0", "    why"]);
}
