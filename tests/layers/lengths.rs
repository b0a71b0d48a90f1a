//! How long a file and a function may be. Test code is not counted.

use super::allowed::{Offenders, check};
use super::source::{SourceFile, indentation, sources, tree};

const MAX_FILE_LINES: usize = 450;
const MAX_FUNCTION_LINES: usize = 60;

pub fn long_files() -> Offenders {
    files_over(MAX_FILE_LINES, &sources("src"))
}

pub fn long_functions() -> Offenders {
    functions_over(MAX_FUNCTION_LINES, &sources("src"))
}

fn files_over(limit: usize, files: &[SourceFile]) -> Offenders {
    let mut offenders = Offenders::default();
    for file in files.iter().filter(|file| !file.is_test && file.production_lines > limit) {
        offenders.add(
            &file.path,
            file.production_lines,
            format!("a file has at most {limit} lines without its tests"),
        );
    }
    offenders
}

fn functions_over(limit: usize, files: &[SourceFile]) -> Offenders {
    let mut offenders = Offenders::default();
    for file in files.iter().filter(|file| !file.is_test) {
        for (number, line) in file.numbered() {
            let length = function_length(&file.production[number - 1..]);
            if length > limit {
                let name = function_name(line).unwrap();
                let detail = format!("{}:{number}: a function has at most {limit} lines", file.path);
                offenders.add(format!("{} {name}", file.path), length, detail);
            }
        }
    }
    offenders
}

/// The lines of the function that `lines` begin with, from `fn` to its closing brace; 0 if they begin with none.
fn function_length(lines: &[String]) -> usize {
    if function_name(&lines[0]).is_none() {
        return 0;
    }
    let is_end = |line: &String| indentation(line) == indentation(&lines[0]) && line.ends_with(['}', ';']);
    let Some(end) = lines.iter().position(is_end) else { return lines.len() };
    // A declaration in a trait has no body.
    if lines[end].ends_with('}') { end + 1 } else { 0 }
}

/// The name of the function whose first line this is.
fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let is_qualifier = |word: &str| {
        matches!(word, "const" | "unsafe" | "async" | "extern" | "default") || word.starts_with("pub")
    };
    if !before.split_whitespace().all(is_qualifier) {
        return None;
    }
    after.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

#[test]
fn files_are_short() {
    check("file-lines");
}

#[test]
fn functions_are_short() {
    check("function-lines");
}

#[test]
fn this_fence_can_fail() {
    let text = "trait T {\n    fn declared(\n        a: u8,\n    ) -> u8;\n}\nimpl T for U {\n    pub(crate) const fn long() {\n        \
                work(\"}\");\n\n        if a {\n        }\n    }\n}\nfn short() {}\n#[cfg(test)]\nmod tests {\n    fn f() {\n\n\n\n\n    }\n}\n";
    let files = tree([("src/a.rs", text)]);
    let numbers = |offenders: Offenders| offenders.numbers().into_iter().collect::<Vec<_>>();
    assert_eq!(numbers(functions_over(5, &files)), [("src/a.rs long".to_owned(), 6)]);
    assert_eq!(numbers(functions_over(6, &files)), []);
    assert_eq!(numbers(files_over(13, &files)), [("src/a.rs".to_owned(), 14)]);
    assert_eq!(numbers(files_over(14, &files)), []);
}
