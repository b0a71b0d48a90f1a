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

/// Names of types that have a meaning only with their module, and are always written with it (`send::Options`), and the
/// register type that every kernel of `digest::lanes` defines for itself.
const CONVENTIONAL_WITH_MODULE: [&str; 2] = ["Options", "Vector"];

pub fn repeated_names() -> Offenders {
    repeated(&sources("src"))
}

/// An offender is a type, or a constant with a visibility, its number how many files define that name. Constants that are
/// private to a file are not counted: `BUFFER_BYTES` of two files is idiomatic.
fn repeated(files: &[SourceFile]) -> Offenders {
    let mut definitions: BTreeMap<&str, Vec<(&String, usize)>> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.is_test) {
        for (number, line) in file.numbered() {
            if let Some(name) = item_name(line).filter(|name| is_counted(line, name)) {
                let places = definitions.entry(name).or_default();
                // One file may define a constant twice, for two systems.
                if !places.iter().any(|(path, _)| **path == file.path) {
                    places.push((&file.path, number));
                }
            }
        }
    }
    let mut offenders = Offenders::default();
    for (name, places) in definitions.iter().filter(|(_, places)| places.len() > 1) {
        for (path, line) in places {
            offenders.add(*name, 1, format!("{path}:{line}"));
        }
    }
    offenders
}

/// Is `name`, which `line` defines, a type or a constant that other files can use?
fn is_counted(line: &str, name: &str) -> bool {
    let is_private_constant = line.starts_with("const ") || line.starts_with("static ");
    name.starts_with(char::is_uppercase) && !is_private_constant && !CONVENTIONAL_WITH_MODULE.contains(&name)
}

#[test]
fn replaced_names_do_not_return() {
    check("banned-names");
}

#[test]
fn types_and_public_constants_have_names_of_their_own() {
    check("repeated-names");
}

#[test]
fn these_fences_can_fail() {
    let text =
        "/// A bell: [`Bell`].\nstruct Bell;\nfn ring() -> Bell { print(\"Bell\") }\nstruct Doorbell;\n";
    let other = "pub enum Bell {}\nfn ring() {}\nconst LIMIT: u8 = 1;\npub struct Options;\n";
    let third = "const LIMIT: u8 = 2;\nstruct Options;\npub const RATE: u8 = 1;\npub const RATE: u8 = 2;\n";
    let files = tree([("src/a.rs", text), ("src/b.rs", other), ("src/c.rs", third)]);
    let found = banned_in(&source_lines("src", &files), &BTreeSet::from(["Bell", "Desk"]));
    assert_eq!(found.numbers().into_iter().collect::<Vec<_>>(), [("Bell".to_owned(), 4)]);
    assert_eq!(repeated(&files).numbers().into_iter().collect::<Vec<_>>(), [("Bell".to_owned(), 2)]);
}
