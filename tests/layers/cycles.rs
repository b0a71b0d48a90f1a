//! No import cycle between the files of `src`.

use std::collections::{BTreeMap, BTreeSet};

use super::allowed::{Offenders, check};
use super::modules::{Edges, Modules};
use super::source::{SourceFile, sources, tree};

pub fn offenders() -> Offenders {
    find(&sources("src"))
}

/// An offender is an edge of a cycle, its number the names that make it.
fn find(files: &[SourceFile]) -> Offenders {
    let edges = Modules::new(files).edges();
    let mut offenders = Offenders::default();
    for cycle in cycles(&edges) {
        let first = cycle.first().unwrap();
        for ((from, to), names) in
            edges.iter().filter(|((from, to), _)| cycle.contains(from) && cycle.contains(to))
        {
            let names_text = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let detail = format!("{names_text} (in the cycle of {} files with {first})", cycle.len());
            offenders.add(format!("{from} -> {to}"), names.len(), detail);
        }
    }
    offenders
}

/// The sets of files that all reach each other: strongly connected components of more than one file.
fn cycles(edges: &Edges) -> BTreeSet<BTreeSet<String>> {
    let mut targets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        targets.entry(from).or_default().push(to);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        targets.keys().map(|&from| (from, reachable(from, &targets))).collect();
    let mut found = BTreeSet::new();
    for (from, all) in reached.iter().filter(|(from, all)| all.contains(*from)) {
        let both_ways = all.iter().filter(|&to| reached.get(to).is_some_and(|back| back.contains(from)));
        found.insert(both_ways.map(|file| (*file).to_owned()).collect());
    }
    found
}

/// All files that `from` uses, directly or not.
fn reachable<'a>(from: &'a str, targets: &BTreeMap<&'a str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut left = vec![from];
    while let Some(file) = left.pop() {
        for &target in targets.get(file).into_iter().flatten() {
            if reached.insert(target) {
                left.push(target);
            }
        }
    }
    reached
}

#[test]
fn files_import_each_other_in_no_cycle() {
    check("import-cycles");
}

#[test]
fn this_fence_can_fail() {
    let shown = |c: &str| {
        let files = [
            ("src/lib.rs", "pub mod a;\npub mod b;\npub mod c;\n"),
            ("src/a.rs", "use crate::b::B;\npub struct A;\n"),
            ("src/b/mod.rs", "mod inner;\npub use inner::B;\n"),
            (
                "src/b/inner.rs",
                "pub struct B(crate::c::C);\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n",
            ),
            ("src/c.rs", c),
        ];
        find(&tree(files)).numbers().into_keys().collect::<Vec<_>>()
    };
    assert_eq!(shown("pub struct C;\n"), Vec::<String>::new());
    let cycle = ["src/a.rs -> src/b/inner.rs", "src/b/inner.rs -> src/c.rs", "src/c.rs -> src/a.rs"];
    assert_eq!(shown("use crate::{\n    a::{self, A},\n};\npub struct C;\n"), cycle);
}
