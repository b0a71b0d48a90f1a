//! Comments, messages and pages are plain technical English: no phrase of the list in `banned.txt`.

use super::allowed::{Offenders, check};
use super::source::tree;
use super::text::{Kind, Line, banned, lines, source_lines};

/// So many phrases in 1,000 lines of comments are too many.
const TOO_MANY_PER_1000: usize = 2;

pub fn banned_phrases() -> Offenders {
    banned_in(&lines(), &banned("[phrases]"))
}

/// An offender is a folder and a phrase, its number how often it occurs there.
fn banned_in(lines: &[Line], phrases: &[String]) -> Offenders {
    let mut offenders = Offenders::default();
    for line in lines.iter().filter(|line| line.kind != Kind::Code) {
        for phrase in phrases {
            let number = count(&line.text, phrase);
            if number > 0 {
                offenders.add(
                    format!("{}: {phrase}", line.scope),
                    number,
                    format!("{}: {}", line.place, line.text),
                );
            }
        }
    }
    offenders
}

/// How often the whole words of `phrase` are in `text`.
fn count(text: &str, phrase: &str) -> usize {
    let text = text.to_lowercase();
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let is_whole = |&(at, found): &(usize, &str)| {
        !text[..at].ends_with(is_part) && !text[at + found.len()..].starts_with(is_part)
    };
    text.match_indices(phrase).filter(is_whole).count()
}

pub fn phrase_rate() -> Offenders {
    rate(&lines(), &banned("[phrases]"))
}

/// The offender is `src`, if its comments have too many phrases. The number is 1.
fn rate(lines: &[Line], phrases: &[String]) -> Offenders {
    let comments: Vec<_> =
        lines.iter().filter(|line| line.scope == "src" && line.kind == Kind::Comment).collect();
    let found: usize =
        comments.iter().flat_map(|line| phrases.iter().map(|phrase| count(&line.text, phrase))).sum();
    let mut offenders = Offenders::default();
    if found * 1000 >= TOO_MANY_PER_1000 * comments.len() && found > 0 {
        let detail = format!("{found} phrases in {} lines of comments", comments.len());
        offenders.add(format!("src: {TOO_MANY_PER_1000} or more in 1,000 lines of comments"), 1, detail);
    }
    offenders
}

#[test]
fn language_is_plain() {
    check("banned-phrases");
}

#[test]
fn comments_have_few_banned_phrases() {
    check("phrase-rate");
}

#[test]
fn these_fences_can_fail() {
    let phrases = ["sings".to_owned(), "out loud".to_owned()];
    let text = |comments: usize| {
        format!(
            "// Sings, and `sings_it` rings out loud.\nlet sings = \"sings\";\n{}",
            "// a\n".repeat(comments)
        )
    };
    let lines = |comments| source_lines("src", &tree([("src/a.rs", text(comments).as_str())]));
    let found = banned_in(&lines(0), &phrases).numbers();
    assert_eq!(
        found.into_iter().collect::<Vec<_>>(),
        [("src: out loud".to_owned(), 1), ("src: sings".to_owned(), 2)]
    );
    assert_eq!(rate(&lines(999), &phrases).numbers().len(), 1);
    assert_eq!(rate(&lines(1000), &phrases).numbers().len(), 0);
}
