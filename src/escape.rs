//! Displays untrusted text safely.
//!
//! Names and messages come from a peer or from an untrusted disk. A terminal executes control characters in them (move
//! the cursor, change the title, write to standard input), and bidirectional controls reorder the text. All such text is
//! wrapped in [`Escaped`] before it is written to a terminal or a log.

use std::fmt::{self, Display, Write};

/// Text with escapes in place of everything that could control a terminal or reorder a line.
///
/// Control characters appear as `\n`, `\t`, `\x1b` or `\u{9b}`, bytes that are not UTF-8 as `\xff`, and the rest
/// unchanged, including emoji joiners. The result is for people and cannot be parsed back.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(&'a [u8]);

impl<'a> Escaped<'a> {
    /// Wraps text that may or may not be UTF-8.
    pub fn new(text: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Escaped(text.as_ref())
    }
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    c if c.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                    c if is_unsafe_to_print(c) || breaks_lines(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Is this a control character (C0, DEL, C1) or a bidirectional control (U+202A-202E, U+2066-2069)?
///
/// A receiver refuses names with these, unless `--allow-odd-names` is given.
pub fn is_unsafe_to_print(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Line and paragraph separators: valid in a name, but on a terminal they would start a new line.
fn breaks_lines(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(text: &[u8]) -> String {
        Escaped::new(text).to_string()
    }

    #[test]
    fn plain_text_is_unchanged() {
        for text in ["report.pdf", "Ünïcödé 写真", "👩‍👩‍👧", "back\\slash", ""] {
            assert_eq!(escaped(text.as_bytes()), text);
        }
    }

    #[test]
    fn terminal_controls_are_escaped() {
        assert_eq!(escaped(b"a\x1b[2Jb"), "a\\x1b[2Jb");
        assert_eq!(escaped("\u{9b}31m".as_bytes()), "\\u{9b}31m");
        assert_eq!(escaped("exe\u{202e}gpj".as_bytes()), "exe\\u{202e}gpj");
        assert_eq!(escaped(b"one\ntwo\r\t\x7f"), "one\\ntwo\\r\\t\\x7f");
        assert_eq!(escaped("x\u{2028}y".as_bytes()), "x\\u{2028}y");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_shown_in_hex() {
        assert_eq!(escaped(b"caf\xe9.txt"), "caf\\xe9.txt");
        assert_eq!(escaped(b"\x9b"), "\\x9b");
    }

    proptest! {
        #[test]
        fn no_control_character_ever_comes_out(bytes: Vec<u8>, text: String) {
            for out in [escaped(&bytes), escaped(text.as_bytes())] {
                prop_assert!(!out.chars().any(|c| is_unsafe_to_print(c) || breaks_lines(c)), "{out:?}");
            }
        }
    }
}
