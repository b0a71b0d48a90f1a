//! The table of time limits in `ARCHITECTURE.md`: each constant of type `Duration`, with its value and its first sentence.

use std::fs;
use std::path::Path;

use super::source::sources;

const BEGIN: &str = "<!-- durations -->\n";
const END: &str = "<!-- /durations -->";

/// The rows for a file: `| name | file | value | meaning |`.
fn rows(path: &str, text: &str, production: &[String]) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut rows = Vec::new();
    for (index, line) in production.iter().enumerate() {
        let Some((name, rest)) =
            line.split_once("const ").and_then(|(_, rest)| rest.split_once(": Duration"))
        else {
            continue;
        };
        if !rest.trim_start().starts_with('=') {
            continue;
        }
        let statement: String = lines[index..].iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        let value =
            statement.split_once("= ").map_or("", |(_, value)| value.split(';').next().unwrap_or(value));
        let value = value.replace("Duration::from_", "").replace('|', "\\|");
        let docs = lines[..index].iter().rev().map_while(|line| line.trim().strip_prefix("///"));
        let mut docs: Vec<&str> = docs.map(str::trim).collect();
        docs.reverse();
        let meaning = docs.join(" ");
        let sentence = meaning.split_once(". ").map_or(meaning.as_str(), |(first, _)| first);
        let sentence = sentence.trim_end_matches('.').replace('|', "\\|");
        let file = path.strip_prefix("src/").unwrap_or(path);
        rows.push(format!("| `{name}` | `{file}` | `{value}` | {sentence} |"));
    }
    rows
}

fn table() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut table = String::from("| constant | in `src/` | value | meaning |\n| --- | --- | --- | --- |\n");
    for file in sources("src").iter().filter(|file| !file.is_test) {
        let text = fs::read_to_string(root.join(&file.path)).unwrap();
        for row in rows(&file.path, &text, &file.production) {
            table += &format!("{row}\n");
        }
    }
    table
}

#[test]
fn the_table_of_time_limits_is_complete() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the begin of the table");
    let (found, after) = rest.split_once(END).expect("the end of the table");
    let expected = table();
    if std::env::var_os("FTX_WRITE_ALLOWED").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
        return;
    }
    let missing: Vec<&str> = expected.lines().filter(|line| !found.contains(line)).collect();
    let stale: Vec<&str> = found.lines().filter(|line| !expected.contains(line)).collect();
    assert!(missing.is_empty() && stale.is_empty(), "missing: {missing:#?}\nstale: {stale:#?}");
}

#[test]
fn the_table_finds_constants_and_their_meaning() {
    let text = "/// How long to wait.\n/// More.\npub const WAIT: Duration = Duration::from_secs(2);\nconst OTHER: u32 = 1;\n";
    let production: Vec<String> =
        text.lines().map(|line| if line.starts_with("//") { "" } else { line }.into()).collect();
    assert_eq!(rows("src/a.rs", text, &production), ["| `WAIT` | `a.rs` | `secs(2)` | How long to wait |"]);
}
