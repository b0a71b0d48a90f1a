//! All text of the project that the fences for names and phrases read.

use super::source::{SourceFile, read, sources};

/// A line of text, and where it is.
pub struct Line {
    /// `src`, `tests`, `benches`, `fuzz` or `docs`.
    pub scope: &'static str,
    pub kind: Kind,
    /// `src/net/mod.rs:12`.
    pub place: String,
    pub text: String,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Code,
    Comment,
    Literal,
    /// Of a Markdown file.
    Page,
}

/// All pages: files and folders of Markdown.
const PAGES: [&str; 6] =
    ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "docs", "fuzz/README.md"];

/// The lines of all sources, tests and pages.
pub fn lines() -> Vec<Line> {
    let mut lines = source_lines("src", &sources("src"));
    lines.extend(source_lines("tests", &sources("tests")));
    lines.extend(source_lines("benches", &sources("benches")));
    lines.extend(source_lines("fuzz", &sources("fuzz/fuzz_targets")));
    for (path, text) in PAGES.iter().flat_map(|path| read(path, ".md")) {
        lines.extend(
            text.lines().enumerate().map(|(index, line)| Line::new("docs", Kind::Page, &path, index, line)),
        );
    }
    lines
}

/// The lines of Rust files, test code included.
pub fn source_lines(scope: &'static str, files: &[SourceFile]) -> Vec<Line> {
    let mut lines = Vec::new();
    for file in files {
        let views =
            [(Kind::Code, &file.code), (Kind::Comment, &file.comments), (Kind::Literal, &file.strings)];
        for (kind, view) in views {
            let written = view.iter().enumerate().filter(|(_, line)| !line.is_empty());
            lines.extend(written.map(|(index, line)| Line::new(scope, kind, &file.path, index, line)));
        }
    }
    lines
}

impl Line {
    fn new(scope: &'static str, kind: Kind, path: &str, index: usize, text: &str) -> Self {
        Self { scope, kind, place: format!("{path}:{}", index + 1), text: text.trim().to_owned() }
    }
}

/// A list of `banned.txt`: its lines between the heading and the next one.
pub fn banned(heading: &str) -> Vec<String> {
    let text = read("tests/layers/banned.txt", ".txt").remove(0).1;
    let lines =
        text.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with('['));
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}
