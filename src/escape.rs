//! Showing foreign text safely.
//!
//! Names and messages come from a peer or from a disk that somebody else filled. A terminal obeys the control
//! characters in them (move the cursor, change the title, answer on standard input) and the bidirectional
//! controls re-order what a person reads. [`Shown`] is the only way such text reaches a screen or a log.

use std::fmt::{self, Display, Write};

/// Text for people: everything that could steer a terminal or re-order a line is written as an escape.
///
/// Control characters appear as `\n`, `\t`, `\x1b` or `\u{9b}`, bytes that are not UTF-8 as `\xff`, and the rest as
/// it is, emoji joiners and all. The form is for reading; it is not meant to be parsed back.
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
/// A receiver refuses names with these unless it was told to take them.
pub fn is_unsafe_to_print(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Line and paragraph separators: fine in a name, but on a screen they would start a line of the peer's choosing.
fn breaks_lines(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &[u8]) -> String {
        Escaped::new(text).to_string()
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["report.pdf", "Ünïcödé 写真", "👩‍👩‍👧", "back\\slash", ""] {
            assert_eq!(shown(text.as_bytes()), text);
        }
    }

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(shown(b"a\x1b[2Jb"), "a\\x1b[2Jb");
        assert_eq!(shown("\u{9b}31m".as_bytes()), "\\u{9b}31m");
        assert_eq!(shown("exe\u{202e}gpj".as_bytes()), "exe\\u{202e}gpj");
        assert_eq!(shown(b"one\ntwo\r\t\x7f"), "one\\ntwo\\r\\t\\x7f");
        assert_eq!(shown("x\u{2028}y".as_bytes()), "x\\u{2028}y");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_shown_in_hex() {
        assert_eq!(shown(b"caf\xe9.txt"), "caf\\xe9.txt");
        assert_eq!(shown(b"\x9b"), "\\x9b");
    }

    proptest! {
        #[test]
        fn no_control_character_ever_comes_out(bytes: Vec<u8>, text: String) {
            for out in [shown(&bytes), shown(text.as_bytes())] {
                prop_assert!(!out.chars().any(|c| is_unsafe_to_print(c) || breaks_lines(c)), "{out:?}");
            }
        }
    }
}
