//! The classic dialect: a header and a body, repeated until the connection ends.
//!
//! Small programs write it as `struct.pack("i", len(header)) + header + body`. [`parse_header`] accepts every spelling of
//! the keys that is in use, and [`encode_header`] writes all of them, so that every such receiver finds its own.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::frame::{self, Framing};
use super::limits::MAX_FILE_BYTES;
use crate::digest::Md5;
use crate::relpath::{NameError, NamePolicy, RelPath};

/// A classic header: one file, whose body follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicHeader {
    /// Its destination path.
    pub path: RelPath,
    /// The size of the body.
    pub size_bytes: u64,
    /// The digest of the body.
    pub md5: Md5,
}

/// JSON that is not a classic header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassicError {
    /// Not JSON, or not of the right shape.
    #[error("invalid header: {}", crate::escape::Escaped::new(.0))]
    Json(String),
    /// A key is missing; the text lists its spellings.
    #[error("the header has no {0}")]
    Missing(&'static str),
    /// Two spellings of one key have different values.
    #[error("the header has two different values for the {0}")]
    Ambiguous(&'static str),
    /// Larger than [`MAX_FILE_BYTES`].
    #[error("the header announces {0} bytes, more than a file can hold")]
    TooLarge(u64),
    /// Not 32 hex digits.
    #[error("the header's md5 is not 32 hex digits")]
    Digest,
    /// The name is invalid.
    #[error("refused the name \"{}\": {error}", crate::escape::Escaped::new(name))]
    Name {
        /// The name, raw.
        name: String,
        /// The reason.
        error: NameError,
    },
}

#[derive(Deserialize)]
struct RawHeader<'a> {
    #[serde(borrow)]
    filename: Option<Cow<'a, str>>,
    #[serde(borrow)]
    file_name: Option<Cow<'a, str>>,
    size: Option<u64>,
    total_size: Option<u64>,
    file_size: Option<u64>,
    #[serde(borrow)]
    md5: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct AllSpellings<'a> {
    filename: &'a str,
    file_name: &'a str,
    size: u64,
    total_size: u64,
    file_size: u64,
    md5: &'a str,
}

/// Parses the JSON of a classic frame.
pub fn parse_header(json: &[u8], policy: NamePolicy) -> Result<ClassicHeader, ClassicError> {
    let raw: RawHeader =
        serde_json::from_slice(json).map_err(|error| ClassicError::Json(error.to_string()))?;
    let name = single_value([raw.filename, raw.file_name], "file's name (filename or file_name)")?;
    let size_bytes = single_value(
        [raw.size, raw.total_size, raw.file_size],
        "file's size (size, total_size or file_size)",
    )?;
    let md5 = raw.md5.ok_or(ClassicError::Missing("md5"))?;
    if size_bytes > MAX_FILE_BYTES {
        return Err(ClassicError::TooLarge(size_bytes));
    }
    let md5 = md5.parse().map_err(|_| ClassicError::Digest)?;
    let path = RelPath::new(destination_name(&name).as_bytes(), policy)
        .map_err(|error| ClassicError::Name { name: name.into_owned(), error })?;
    Ok(ClassicHeader { path, size_bytes, md5 })
}

/// Some small senders put the absolute path of the source into the header: its last component is used.
fn destination_name(name: &str) -> &str {
    match name.strip_prefix('/') {
        Some(absolute) => absolute.rsplit('/').next().unwrap_or_default(),
        None => name,
    }
}

fn single_value<T: PartialEq, const N: usize>(
    spellings: [Option<T>; N],
    what: &'static str,
) -> Result<T, ClassicError> {
    let mut found = spellings.into_iter().flatten();
    let first = found.next().ok_or(ClassicError::Missing(what))?;
    if found.all(|other| other == first) { Ok(first) } else { Err(ClassicError::Ambiguous(what)) }
}

/// Appends the frame for one file to `out`. The dialect only supports names that are UTF-8.
pub fn encode_header(
    name: &str,
    size_bytes: u64,
    md5: Md5,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let json = serde_json::to_vec(&AllSpellings {
        filename: name,
        file_name: name,
        size: size_bytes,
        total_size: size_bytes,
        file_size: size_bytes,
        md5: &md5.to_string(),
    })?;
    frame::encode(Framing::Classic, &json, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::FrameBuffer;

    const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";

    fn parse(json: &str) -> Result<ClassicHeader, ClassicError> {
        parse_header(json.as_bytes(), NamePolicy::Strict)
    }

    #[test]
    fn every_spelling_in_use_is_accepted() {
        for (name, size) in [("filename", "size"), ("filename", "total_size"), ("file_name", "file_size")] {
            let header = parse(&format!(r#"{{"{name}":"a.txt","md5":"{MD5}","{size}":3}}"#)).unwrap();
            assert_eq!((header.path.as_bytes(), header.size_bytes), (&b"a.txt"[..], 3));
            assert_eq!(header.md5.to_string(), MD5);
        }
        let upper = parse(&format!(r#"{{"filename":"a","size":3,"md5":"{}"}}"#, MD5.to_uppercase())).unwrap();
        assert_eq!(upper.md5.to_string(), MD5);
    }

    #[test]
    fn of_an_absolute_name_the_last_component_is_used() {
        let path =
            |name: &str| parse(&format!(r#"{{"filename":"{name}","size":3,"md5":"{MD5}"}}"#)).map(|h| h.path);
        assert_eq!(path("/a/b/c/a.txt").unwrap().as_bytes(), b"a.txt");
        assert_eq!(path("b/a.txt").unwrap().as_bytes(), b"b/a.txt");
        for bad in
            ["", "/", "/a/", "/a/..", "../a", "a/../b", ".", "a\\u0000b", "a\\u001bb", "a\\nb", ".ftx-x"]
        {
            assert!(matches!(path(bad), Err(ClassicError::Name { .. })), "{bad}");
        }
    }

    #[test]
    fn invalid_headers_are_refused() {
        let size = |size: &str| parse(&format!(r#"{{"filename":"a","size":{size},"md5":"{MD5}"}}"#));
        for bad in ["1.0", "\"1\"", "-1", "null", "18446744073709551616", "true", "1e3", "[]"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(size("9223372036854775808"), Err(ClassicError::TooLarge(1 << 63)));
        assert!(size("9223372036854775807").is_ok());
        assert!(matches!(
            parse(&format!(r#"{{"filename":"a","md5":"{MD5}"}}"#)),
            Err(ClassicError::Missing(_))
        ));
        assert!(matches!(parse(&format!(r#"{{"size":1,"md5":"{MD5}"}}"#)), Err(ClassicError::Missing(_))));
        assert_eq!(parse(r#"{"filename":"a","size":1}"#), Err(ClassicError::Missing("md5")));
        assert_eq!(parse(r#"{"filename":"a","size":1,"md5":"9001"}"#), Err(ClassicError::Digest));
        assert!(matches!(
            parse(&format!(r#"{{"filename":"a","file_name":"b","size":1,"md5":"{MD5}"}}"#)),
            Err(ClassicError::Ambiguous(_))
        ));
        assert!(matches!(
            parse(&format!(r#"{{"filename":"a","filename":"a","size":1,"md5":"{MD5}"}}"#)),
            Err(ClassicError::Json(_))
        ));
        for json in ["", "[]", "7", "{", "{}x"] {
            assert!(parse(json).is_err(), "{json}");
        }
    }

    #[test]
    fn an_encoded_header_is_parsed_again() {
        let mut bytes = Vec::new();
        let md5 = MD5.parse().unwrap();
        encode_header("ä/b.txt", 7, md5, &mut bytes).unwrap();
        let mut buffer = FrameBuffer::new();
        buffer.push(&bytes);
        let header =
            parse_header(buffer.next_frame(Framing::Classic).unwrap().unwrap(), NamePolicy::Strict).unwrap();
        assert_eq!((header.path.as_bytes(), header.size_bytes, header.md5), ("ä/b.txt".as_bytes(), 7, md5));
    }
}
