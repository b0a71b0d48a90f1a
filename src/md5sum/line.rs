//! A line as `md5sum` of GNU coreutils prints it and `md5sum -c` reads it.
//!
//! ```text
//! d41d8cd98f00b204e9800998ecf8427e  path/to/file
//! \d41d8cd98f00b204e9800998ecf8427e  new\nline            \\ backslash, \n newline, \r carriage return
//! ```
//!
//! Source: GNU coreutils manual, "cksum output modes" and "md5sum invocation". Bytes that are not UTF-8 stay as they are.

use crate::digest::Md5;

/// The line for a file, with its newline.
pub fn line(md5: Md5, path: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(path.len() + 36);
    if path.iter().any(|byte| escape(*byte).is_some()) {
        line.push(b'\\');
    }
    line.extend_from_slice(format!("{md5}  ").as_bytes());
    if path == b"-" {
        // `-` alone means standard input.
        line.extend_from_slice(b"./");
    }
    for byte in path {
        match escape(*byte) {
            Some(letter) => line.extend_from_slice(&[b'\\', letter]),
            None => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

fn escape(byte: u8) -> Option<u8> {
    match byte {
        b'\\' => Some(b'\\'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_md5sum_does() {
        let empty = "d41d8cd98f00b204e9800998ecf8427e";
        for (path, expected) in [
            (&b"a b"[..], format!("{empty}  a b\n").into_bytes()),
            (b"new\nline", format!("\\{empty}  new\\nline\n").into_bytes()),
            (b"cr\rback\\slash", format!("\\{empty}  cr\\rback\\\\slash\n").into_bytes()),
            (b"-", format!("{empty}  ./-\n").into_bytes()),
            (b"d/-", format!("{empty}  d/-\n").into_bytes()),
            (b"caf\xe9", [empty.as_bytes(), b"  caf\xe9\n"].concat()),
        ] {
            assert_eq!(line(Md5::of(b""), path), expected);
        }
    }
}
