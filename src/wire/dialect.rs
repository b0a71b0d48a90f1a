//! Detects the dialect of a connection from its first bytes.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::frame::{FrameError, check_json};
use super::frame_buffer::FrameBuffer;

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Frames with the key `ftx`.
    Native,
    /// A header and a body, without replies.
    Classic,
    /// A TLS record: `16 03`.
    Tls,
    /// An HTTP request.
    Http,
}

/// First bytes that belong to no supported dialect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialectError {
    /// Not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame, but not a JSON object.
    #[error("the header is not a JSON object: {}", crate::escape::Escaped::new(.0))]
    Json(String),
    /// A JSON object without any of the three keys.
    #[error("the header names no file (it has none of the keys ftx, filename, file_name)")]
    Keys,
}

const TLS_RECORD: [u8; 2] = [0x16, 0x03];
/// The first four bytes of the common HTTP methods.
const HTTP_METHODS: [&[u8; 4]; 9] =
    [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"CONN", b"OPTI", b"TRAC", b"PATC"];

/// The keys that distinguish the native dialect from the classic one.
#[derive(Deserialize)]
struct FirstKeys {
    ftx: Option<IgnoredAny>,
    filename: Option<IgnoredAny>,
    file_name: Option<IgnoredAny>,
}

/// Detects the dialect without consuming bytes; `None` if more must arrive.
pub fn detect(buffer: &FrameBuffer) -> Result<Option<Dialect>, DialectError> {
    // No length in 1..=65536 looks like a TLS record with a body, or like an HTTP method.
    if let Some(start) = buffer.bytes().first_chunk::<4>() {
        if start.starts_with(&TLS_RECORD) && start[2..] != [0, 0] {
            return Ok(Some(Dialect::Tls));
        }
        if HTTP_METHODS.contains(&start) {
            return Ok(Some(Dialect::Http));
        }
    }
    let Some(json) = buffer.peek_json()? else {
        return Ok(None);
    };
    check_json(json)?;
    let keys: FirstKeys =
        serde_json::from_slice(json).map_err(|error| DialectError::Json(error.to_string()))?;
    match keys {
        FirstKeys { ftx: Some(_), .. } => Ok(Some(Dialect::Native)),
        FirstKeys { filename: Some(_), .. } | FirstKeys { file_name: Some(_), .. } => {
            Ok(Some(Dialect::Classic))
        }
        _ => Err(DialectError::Keys),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Framing, encode};

    fn detect_bytes(bytes: &[u8]) -> Result<Option<Dialect>, DialectError> {
        let mut buffer = FrameBuffer::new();
        buffer.push(bytes);
        detect(&buffer)
    }

    fn detect_json(json: &str) -> Result<Option<Dialect>, DialectError> {
        let mut bytes = Vec::new();
        encode(Framing::Classic, json.as_bytes(), &mut bytes);
        detect_bytes(&bytes)
    }

    #[test]
    fn each_dialect_is_detected_by_its_first_bytes() {
        assert_eq!(detect_json(r#"{"ftx":"hello"}"#), Ok(Some(Dialect::Native)));
        assert_eq!(detect_json(r#"{"filename":"a","size":1}"#), Ok(Some(Dialect::Classic)));
        assert_eq!(detect_json(r#"{"md5":"","file_name":"a"}"#), Ok(Some(Dialect::Classic)));
        assert_eq!(detect_bytes(b"\x16\x03\x01\x02\x00\x01"), Ok(Some(Dialect::Tls)));
        assert_eq!(detect_bytes(b"GET / HTTP/1.1\r\n"), Ok(Some(Dialect::Http)));
        assert_eq!(detect_bytes(b"OPTIONS * HTTP/1.1\r\n"), Ok(Some(Dialect::Http)));
    }

    #[test]
    fn incomplete_first_frames_are_undecided() {
        for few in [&b""[..], b"G", b"GET", b"\x10\0\0", b"\x10\0\0\0{\"ftx\":"] {
            assert_eq!(detect_bytes(few), Ok(None), "{few:?}");
        }
    }

    #[test]
    fn other_first_bytes_are_refused() {
        assert_eq!(detect_json(r#"{"size":1}"#), Err(DialectError::Keys));
        for json in ["[]", "[1]", "7", "null", "\"ftx\"", "{", "{\"ftx\":1,\"ftx\":2}", "\u{feff}{}"] {
            assert!(detect_json(json).is_err(), "{json}");
        }
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(matches!(detect_json(&deep), Err(DialectError::Frame(FrameError::TooDeep))));
        assert!(matches!(detect_bytes(b"SSH-2.0-OpenSSH"), Err(DialectError::Frame(_))));
        assert!(matches!(detect_bytes(&[0; 8]), Err(DialectError::Frame(_))));
    }
}
