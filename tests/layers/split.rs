//! Splits Rust source into code, comments and literals.

/// The text three times, each with blanks in place of the other two. All have the lines of the text.
#[derive(Default)]
pub struct Views {
    pub code: String,
    pub comments: String,
    pub strings: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

pub fn split(text: &str) -> Views {
    let chars: Vec<char> = text.chars().collect();
    let mut views = Views::default();
    let mut at = 0;
    while at < chars.len() {
        let (kind, length) = next_piece(&chars[at..]);
        let end = (at + length).min(chars.len());
        for &c in &chars[at..end] {
            let blank = if c == '\n' { '\n' } else { ' ' };
            views.code.push(if kind == Kind::Code { c } else { blank });
            views.comments.push(if kind == Kind::Comment { c } else { blank });
            views.strings.push(if kind == Kind::Literal { c } else { blank });
        }
        at = end;
    }
    views
}

/// The kind and length of what `rest` begins with. `rest` is never empty.
fn next_piece(rest: &[char]) -> (Kind, usize) {
    if rest.starts_with(&['/', '/']) {
        return (Kind::Comment, rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(&['/', '*']) {
        return (Kind::Comment, block_comment_length(rest));
    }
    match rest[0] {
        '"' => (Kind::Literal, string_length(rest)),
        '\'' => char_length(rest).map_or((Kind::Code, 1), |length| (Kind::Literal, length)),
        c if c.is_alphanumeric() || c == '_' => match raw_string_length(rest) {
            Some(length) => (Kind::Literal, length),
            None => (Kind::Code, rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count()),
        },
        _ => (Kind::Code, 1),
    }
}

/// Block comments nest.
fn block_comment_length(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_length(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// `None` for a lifetime.
fn char_length(rest: &[char]) -> Option<usize> {
    if rest.get(1) == Some(&'\\') {
        return rest.iter().skip(3).position(|&c| c == '\'').map(|position| position + 4);
    }
    (rest.get(2) == Some(&'\'')).then_some(3)
}

/// `None` unless `rest` begins with a raw string: `r"`, `br"`, `r#"`.
fn raw_string_length(rest: &[char]) -> Option<usize> {
    let prefix =
        rest.iter().position(|&c| c == 'r').filter(|&r| r == 0 || (r == 1 && "bc".contains(rest[0])))?;
    let hashes = rest[prefix + 1..].iter().take_while(|&&c| c == '#').count();
    let open = prefix + 1 + hashes;
    if rest.get(open) != Some(&'"') {
        return None;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let length = rest[open + 1..].windows(close.len()).position(|window| window == close)?;
    Some(open + 1 + length + close.len())
}

#[test]
fn the_views_are_apart() {
    let text = "let a = \"x // \\\" y\"; // c \"d\"\nlet b: &'static str = br#\"q \" r\"#; /* e /* f */ g */ let c = '\\'';\n";
    let views = split(text);
    let words = |view: &str| view.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    assert_eq!(words(&views.code), "let a = ; let b: &'static str = ; let c = ;");
    assert_eq!(words(&views.comments), "// c \"d\" /* e /* f */ g */");
    assert_eq!(words(&views.strings), "\"x // \\\" y\" br#\"q \" r\"# '\\''");
    assert!([&views.code, &views.comments, &views.strings].iter().all(|view| view.lines().count() == 2));
}
