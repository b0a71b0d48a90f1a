//! Frames: a length, that many bytes of JSON, and, in the native dialect, a checksum.

/// Width of the length field.
pub const LENGTH_BYTES: usize = 4;
/// Width of the checksum of a native frame.
pub const CRC_BYTES: usize = 4;
/// The longest JSON of a frame. Checked before the frame is buffered.
pub const MAX_JSON_BYTES: usize = 65_536;
/// The nesting limit of the JSON of a frame. Valid frames need three levels; the limit protects recursive parsers.
pub const MAX_JSON_DEPTH: usize = 32;
/// The longest frame of either dialect.
pub const MAX_FRAME_BYTES: usize = LENGTH_BYTES + MAX_JSON_BYTES + CRC_BYTES;

/// The two kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Length and JSON.
    Classic,
    /// Length, JSON and CRC-32C.
    Native,
}

impl Framing {
    pub(super) fn crc_bytes(self) -> usize {
        match self {
            Framing::Classic => 0,
            Framing::Native => CRC_BYTES,
        }
    }
}

/// Bytes that are not a valid frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Zero, or more than [`MAX_JSON_BYTES`].
    #[error("invalid frame length {length} (1 to {MAX_JSON_BYTES}){}", if *big_endian { " (sent big-endian? the length is little-endian)" } else { "" })]
    Length {
        /// The length field, read as little-endian.
        length: u32,
        /// It would be valid in network byte order.
        big_endian: bool,
    },
    /// Not a JSON object.
    #[error("a frame is not a JSON object")]
    NotAnObject,
    /// Nested deeper than [`MAX_JSON_DEPTH`].
    #[error("a frame nests deeper than {MAX_JSON_DEPTH} levels")]
    TooDeep,
    /// The CRC-32C of a native frame does not match.
    #[error("frame checksum mismatch (CRC-32C {actual:08x}, expected {expected:08x})")]
    Checksum {
        /// The checksum in the frame.
        expected: u32,
        /// The checksum of its bytes.
        actual: u32,
    },
}

/// Appends a frame with `json` to `out`.
pub fn encode(framing: Framing, json: &[u8], out: &mut Vec<u8>) {
    encode_with(framing, out, |out| out.extend_from_slice(json));
}

/// Appends a frame whose JSON `write` appends to `out`.
pub fn encode_with(framing: Framing, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    write(out);
    let json = out.len() - start - LENGTH_BYTES;
    debug_assert!((1..=MAX_JSON_BYTES).contains(&json));
    out[start..start + LENGTH_BYTES].copy_from_slice(&(json as u32).to_le_bytes());
    if framing == Framing::Native {
        let crc = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }
}

/// Parses a length field; an impossible length is an error.
pub fn parse_length(field: [u8; LENGTH_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(field);
    let possible = |length: u32| (1..=MAX_JSON_BYTES as u32).contains(&length);
    if possible(length) {
        Ok(length as usize)
    } else {
        Err(FrameError::Length { length, big_endian: possible(length.swap_bytes()) })
    }
}

/// Checks what the JSON parser does not: it accepts an array in place of an object, and does not limit the nesting below
/// unknown keys.
pub fn check_json(json: &[u8]) -> Result<(), FrameError> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(FrameError::NotAnObject);
    }
    // With this few brackets, in strings or not, it cannot nest too deeply. Almost every frame ends here.
    if json.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= MAX_JSON_DEPTH {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_JSON_DEPTH {
            return Err(FrameError::TooDeep);
        }
    }
    Ok(())
}
