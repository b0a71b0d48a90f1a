//! Source files, their text split into code, comments and strings, and their test code apart from the rest.
//!
//! All of it works on text and relies on rustfmt: an item ends at its closing bracket, in the column where it began.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::split::split;

/// A Rust file. Every list has one entry for each line of the file.
pub struct SourceFile {
    /// Below the root of the project: `src/net/mod.rs`.
    pub path: String,
    /// The code, with blanks for comments and literals.
    pub code: Vec<String>,
    /// The same, with blank lines for items that exist in test builds only.
    pub production: Vec<String>,
    /// The comments alone.
    pub comments: Vec<String>,
    /// The string and character literals alone.
    pub strings: Vec<String>,
    /// The lines that are not test code.
    pub production_lines: usize,
    /// The file is compiled in test builds only.
    pub is_test: bool,
}

impl SourceFile {
    pub fn new(path: &str, text: &str) -> Self {
        let views = split(text);
        let lines = |view: &str| view.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        let code = lines(&views.code);
        let test_lines = test_lines(&code);
        let mut production = code.clone();
        for &line in &test_lines {
            production[line].clear();
        }
        Self {
            path: path.to_owned(),
            production_lines: code.len() - test_lines.len(),
            comments: lines(&views.comments),
            strings: lines(&views.strings),
            code,
            production,
            is_test: false,
        }
    }

    /// `["net", "bell"]` for `src/net/bell.rs`; empty for the root of the crate.
    pub fn module(&self) -> Vec<String> {
        let below_src = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let mut module: Vec<String> =
            below_src.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
            module.pop();
        }
        module
    }

    /// (line number, line) of all production code.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        self.production.iter().enumerate().map(|(index, line)| (index + 1, line.as_str()))
    }

    /// The modules that are declared for test builds only.
    fn test_modules(&self) -> Vec<Vec<String>> {
        let declared = |(code, production): (&String, &String)| {
            let name = code.trim().strip_prefix("mod ")?.strip_suffix(';')?;
            let mut module = self.module();
            module.push(name.to_owned());
            production.is_empty().then_some(module)
        };
        self.code.iter().zip(&self.production).filter_map(declared).collect()
    }
}

/// The index of every line that belongs to an item under `#[cfg(test)]`.
fn test_lines(code: &[String]) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for start in 0..code.len() {
        let line = code[start].trim_start();
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test,") {
            found.extend(start..=item_end(code, start));
        }
    }
    found
}

/// The index of the last line of the item that begins at `start`, with its attributes.
fn item_end(code: &[String], start: usize) -> usize {
    let is_end =
        |line: &String| indentation(line) == indentation(&code[start]) && line.ends_with([';', '}', ',']);
    (start..code.len()).find(|&index| is_end(&code[index])).unwrap_or(code.len() - 1)
}

/// The column in which a line begins; `None` for one without code.
pub fn indentation(line: &str) -> Option<usize> {
    line.find(|c: char| c != ' ')
}

/// The identifiers of a line.
pub fn identifiers(line: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.split(move |c| !is_part(c)).filter(|word| word.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}

/// Files of a crate, with `is_test` set for all that only test builds compile.
pub fn tree<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<SourceFile> {
    let mut files: Vec<_> = files.into_iter().map(|(path, text)| SourceFile::new(path, text)).collect();
    let test_modules: Vec<_> = files.iter().flat_map(SourceFile::test_modules).collect();
    for file in &mut files {
        file.is_test = test_modules.iter().any(|module| file.module().starts_with(module));
    }
    files
}

/// (path below the root of the project, text) of all files in `folder` whose names end in `suffix`.
pub fn read(folder: &str, suffix: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(root.join(folder)).sort_by_file_name() {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if entry.file_type().is_file() && path.ends_with(suffix) {
            files.push((path, fs::read_to_string(entry.path()).unwrap()));
        }
    }
    files
}

/// The files of `src` or `tests`.
pub fn sources(folder: &str) -> Vec<SourceFile> {
    let files = read(folder, ".rs");
    tree(files.iter().map(|(path, text)| (path.as_str(), text.as_str())))
}

#[test]
fn test_code_is_separated_from_production_code() {
    let root = "mod a;\n#[cfg(test)]\nmod pair;\nfn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {\n    }\n}\nfn h() {}\n";
    let files = tree([("src/net/mod.rs", root), ("src/net/pair.rs", ""), ("src/net/a.rs", "")]);
    assert_eq!(files.iter().map(|file| file.is_test).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(files[0].production_lines, 3);
    let production: Vec<_> = files[0].numbered().filter(|(_, line)| !line.is_empty()).collect();
    assert_eq!(production, [(1, "mod a;"), (4, "fn f() {}"), (10, "fn h() {}")]);
    assert_eq!(files[2].module(), ["net", "a"]);
}
