//! Holds the layer map of `src/lib.rs`: a file uses what stands below it, never above it or beside it. The modules hold the
//! rest of the structure: import cycles, lengths, names, language.

mod layers {
    mod allowed;
    mod cycles;
    mod durations;
    mod imports;
    mod lengths;
    mod modules;
    mod names;
    mod phrases;
    mod places;
    mod source;
    mod split;
    mod text;
}

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The boxes of a layer, top layer first. A box may use its own files and every layer below.
const LAYERS: [&[&[&str]]; 11] = [
    &[&["main", "app"]],
    &[&["report"]],
    &[&["bench"]],
    &[&["send"], &["recv"]],
    &[&["link"], &["source"], &["dest"], &["md5sum"], &["measure"]],
    &[&["net"], &["temp_dirs"]],
    &[&["wire"]],
    &[&["sync"], &["event"]],
    &[&["digest"]],
    &[&["sys"]],
    &[&["relpath", "units", "error_code", "exit_code", "summary", "escape", "busy_time"]],
];

/// What a box that is pure may not touch.
const WIRE_MAY_NOT: [&str; 6] = ["std::net", "std::fs", "std::io", "std::thread", "std::time", "std::sync"];

/// (module, path, source) of every file in `src`.
fn sources() -> Vec<(String, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    for entry in walkdir::WalkDir::new(&src) {
        let entry = entry.unwrap();
        if entry.path().extension().is_some_and(|extension| extension == "rs") {
            let path = entry.path().strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            let module = path.split(['/', '.']).next().unwrap().to_owned();
            sources.push((module, path, fs::read_to_string(entry.path()).unwrap()));
        }
    }
    sources
}

/// The modules of this crate that a source names, comments left aside.
fn used(source: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for line in source.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for rest in line.split("crate::").skip(1) {
            // `use crate::{recv, send};` and `crate::recv::Server`.
            let list = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or(rest);
            let names = if list.len() < rest.len() && rest.starts_with('{') {
                list.split(',').collect()
            } else {
                vec![list]
            };
            for name in names {
                let name = name.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                used.insert(name.to_owned());
            }
        }
    }
    used
}

/// (layer, box) of a module.
fn place(module: &str) -> Option<(usize, usize)> {
    LAYERS.iter().enumerate().find_map(|(layer, boxes)| {
        boxes.iter().position(|modules| modules.contains(&module)).map(|position| (layer, position))
    })
}

/// These stand above `wire`, but know no frames all the same.
const KNOW_NO_FRAMES: [&str; 5] = ["source", "dest", "net", "md5sum", "measure"];

fn may_use(from: &str, to: &str) -> bool {
    if to == "wire" && KNOW_NO_FRAMES.contains(&from) {
        return false;
    }
    match (place(from), place(to)) {
        (Some(from), Some(to)) => from == to || from.0 < to.0,
        _ => false,
    }
}

#[test]
fn no_file_uses_what_stands_above_or_beside_it() {
    let mut wrong = Vec::new();
    for (module, path, source) in sources().iter().filter(|(module, ..)| module != "lib") {
        assert!(place(module).is_some(), "{path} is in no box of the layer map");
        for target in used(source).iter().filter(|target| !may_use(module, target)) {
            wrong.push(format!("{path} uses {target}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_wire_knows_no_sockets_files_clocks_or_threads() {
    for (_, path, source) in sources().iter().filter(|(module, ..)| module == "wire") {
        for forbidden in WIRE_MAY_NOT {
            assert!(!source.contains(forbidden), "{path} uses {forbidden}");
        }
    }
}

#[test]
fn the_map_in_the_crate_documentation_is_this_one() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for module in LAYERS.iter().flat_map(|boxes| boxes.iter()).flat_map(|modules| modules.iter()) {
        assert!(
            lib.lines().any(|line| line.starts_with("//!") && line.contains(module)),
            "{module} is not on the map"
        );
    }
}

#[test]
fn this_test_can_fail() {
    assert!(!may_use("wire", "net") && !may_use("net", "wire") && !may_use("send", "recv"));
    assert!(!may_use("dest", "source") && !may_use("digest", "report") && !may_use("nowhere", "wire"));
    assert!(may_use("send", "wire") && may_use("digest", "escape") && may_use("report", "recv"));
    let names = used("use crate::{recv, send};\nlet x = crate::net::TICK;\n// crate::store\n");
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["net", "recv", "send"]);
}
