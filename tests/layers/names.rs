//! Names that were replaced do not return, and a name means one thing.

use std::collections::{BTreeMap, BTreeSet};

use super::allowed::{Offenders, check};
use super::modules::item_name;
use super::source::{SourceFile, identifiers, sources, tree};
use super::text::{Kind, Line, banned, lines, source_lines};

pub fn banned_names() -> Offenders {
    let lists = banned("[names]");
    banned_in(&lines(), &lists.iter().flat_map(|list| list.split_whitespace()).collect())
}

/// An offender is a name, its number how often it occurs.
fn banned_in(lines: &[Line], names: &BTreeSet<&str>) -> Offenders {
    let mut offenders = Offenders::default();
    for line in lines {
        let texts = match line.kind {
            Kind::Code => vec![line.text.as_str()],
            Kind::Comment | Kind::Page => code_spans(&line.text),
            Kind::Literal => Vec::new(),
        };
        for name in texts.into_iter().flat_map(identifiers).filter(|name| names.contains(name)) {
            offenders.add(name, 1, &line.place);
        }
    }
    offenders
}

/// The texts between backticks.
fn code_spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

pub fn repeated_names() -> Offenders {
    repeated(&sources("src"))
}

/// An offender is a type or constant, its number how many there are of that name.
fn repeated(files: &[SourceFile]) -> Offenders {
    let mut definitions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.is_test) {
        for (number, line) in file.numbered() {
            if let Some(name) = item_name(line).filter(|name| name.starts_with(char::is_uppercase)) {
                definitions.entry(name).or_default().push(format!("{}:{number}", file.path));
            }
        }
    }
    let mut offenders = Offenders::default();
    for (name, places) in definitions.iter().filter(|(_, places)| places.len() > 1) {
        places.iter().for_each(|place| offenders.add(*name, 1, place));
    }
    offenders
}

#[test]
fn replaced_names_do_not_return() {
    check("banned-names");
}

#[test]
fn types_and_constants_have_names_of_their_own() {
    check("repeated-names");
}

#[test]
fn these_fences_can_fail() {
    let text =
        "/// A bell: [`Bell`].\nstruct Bell;\nfn ring() -> Bell { print(\"Bell\") }\nstruct Doorbell;\n";
    let files = tree([("src/a.rs", text), ("src/b.rs", "pub enum Bell {}\nfn ring() {}\n")]);
    let found = banned_in(&source_lines("src", &files), &BTreeSet::from(["Bell", "Desk"]));
    assert_eq!(found.numbers().into_iter().collect::<Vec<_>>(), [("Bell".to_owned(), 4)]);
    assert_eq!(repeated(&files).numbers().into_iter().collect::<Vec<_>>(), [("Bell".to_owned(), 2)]);
}
