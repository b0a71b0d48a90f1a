//! Frames: a length, that many bytes of JSON, and in the native dialect a checksum.

use std::ops::Range;

/// Width of the length field.
pub const LENGTH_BYTES: usize = 4;
/// Width of the checksum of a native frame.
pub const CRC_BYTES: usize = 4;
/// The longest JSON of a frame. Checked before anything is kept of it.
pub const MAX_JSON_BYTES: usize = 65_536;
/// How deep the JSON of a frame may nest. Nothing here needs more than three; deeper is an attack on recursion.
pub const MAX_JSON_DEPTH: usize = 32;
/// The longest frame of either dialect.
pub const MAX_FRAME_BYTES: usize = LENGTH_BYTES + MAX_JSON_BYTES + CRC_BYTES;

/// Which of the two frames is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Length and JSON.
    Classic,
    /// Length, JSON and CRC-32C.
    Native,
}

impl Framing {
    fn crc_bytes(self) -> usize {
        match self {
            Framing::Classic => 0,
            Framing::Native => CRC_BYTES,
        }
    }
}

/// Bytes that do not make a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Zero, or more than [`MAX_JSON_BYTES`].
    #[error("a header of {length} bytes was announced, 1 to {MAX_JSON_BYTES} are possible{}", if *big_endian { " (sent big-endian? the length is little-endian)" } else { "" })]
    Length {
        /// The length as it was read.
        length: u32,
        /// Would it be a fine length if it were read in network byte order?
        big_endian: bool,
    },
    /// JSON, perhaps, but not an object.
    #[error("a header is not a JSON dictionary")]
    NotADictionary,
    /// Nested deeper than [`MAX_JSON_DEPTH`].
    #[error("a header nests deeper than {MAX_JSON_DEPTH} levels")]
    TooDeep,
    /// The CRC-32C of a native frame does not match.
    #[error("a header arrived damaged (CRC-32C {actual:08x}, expected {expected:08x})")]
    Checksum {
        /// What the frame says.
        expected: u32,
        /// What its bytes give.
        actual: u32,
    },
}

/// Appends a frame with `json` to `out`.
pub fn encode(form: Framing, json: &[u8], out: &mut Vec<u8>) {
    encode_with(form, out, |out| out.extend_from_slice(json));
}

/// Appends a frame whose JSON `write` appends to `out`.
pub fn encode_with(form: Framing, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    write(out);
    let json = out.len() - start - LENGTH_BYTES;
    debug_assert!((1..=MAX_JSON_BYTES).contains(&json));
    out[start..start + LENGTH_BYTES].copy_from_slice(&(json as u32).to_le_bytes());
    if form == Framing::Native {
        let crc = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }
}

/// Reads a length field and refuses what cannot be one.
pub fn parse_length(field: [u8; LENGTH_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(field);
    let possible = |length: u32| (1..=MAX_JSON_BYTES as u32).contains(&length);
    if possible(length) {
        Ok(length as usize)
    } else {
        Err(FrameError::Length { length, big_endian: possible(length.swap_bytes()) })
    }
}

/// What the JSON reader does not check: it takes an array for a dictionary whose keys are left out, and skips unknown
/// keys without counting how deep they nest.
pub fn check_json(json: &[u8]) -> Result<(), FrameError> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(FrameError::NotADictionary);
    }
    // With so few brackets it cannot be deep, whatever stands where: true of almost all there are, and soon known.
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

/// Bytes that arrived on one connection and are not used up yet: frames, and whatever of a body came along.
///
/// It holds at most one frame and a read-ahead, whatever the peer announces, and grows only as bytes really come: a
/// thousand connections that have said nothing cost next to nothing.
#[derive(Debug)]
pub struct FrameBuffer {
    buffer: Box<[u8]>,
    filled: Range<usize>,
}

/// Room enough that one read from a socket brings many small frames.
const BUFFER_BYTES: usize = 4 * MAX_FRAME_BYTES;
/// Room enough for the first words of either side.
const FIRST_BYTES: usize = BUFFER_BYTES / 32;

impl Default for FrameBuffer {
    fn default() -> Self {
        FrameBuffer { buffer: vec![0; FIRST_BYTES].into(), filled: 0..0 }
    }
}

impl FrameBuffer {
    /// An empty inbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Free room to read into; never empty as long as frames are taken out before more is read.
    pub fn space(&mut self) -> &mut [u8] {
        if self.filled.end > self.buffer.len() / 2 && self.buffer.len() < BUFFER_BYTES {
            // What there was room for has come: more may be on its way.
            let mut larger = vec![0; (self.buffer.len() * 4).min(BUFFER_BYTES)];
            larger[..self.filled.len()].copy_from_slice(self.bytes());
            (self.buffer, self.filled) = (larger.into(), 0..self.filled.len());
        } else if self.filled.is_empty() {
            self.filled = 0..0;
        } else if self.buffer.len() - self.filled.end < self.buffer.len() / 4 {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        &mut self.buffer[self.filled.end..]
    }

    /// Says that `count` bytes were read into [`Inbox::space`].
    pub fn filled(&mut self, count: usize) {
        debug_assert!(self.filled.end + count <= self.buffer.len());
        self.filled.end += count;
    }

    /// Takes in bytes from memory, as far as there is room; returns how many.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let space = self.space();
            let count = space.len().min(bytes.len() - taken);
            if count == 0 {
                return taken;
            }
            space[..count].copy_from_slice(&bytes[taken..taken + count]);
            self.filled(count);
            taken += count;
        }
    }

    /// What has arrived and is not taken yet.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.filled.clone()]
    }

    /// Nothing is left over: if the peer closes now, it does so between frames.
    pub fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    /// The JSON of the next frame, without taking it and unchecked but for its length; `None` if more must arrive.
    pub fn peek_json(&self) -> Result<Option<&[u8]>, FrameError> {
        let Some((field, rest)) = self.bytes().split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        Ok(rest.get(..parse_length(*field)?))
    }

    /// Is the next frame there as a whole?
    pub fn has_frame(&self, form: Framing) -> Result<bool, FrameError> {
        let json = self.peek_json()?.map(<[u8]>::len);
        Ok(json.is_some_and(|json| self.filled.len() >= LENGTH_BYTES + json + form.crc_bytes()))
    }

    /// Takes the next frame and returns its JSON; `None` if more must arrive.
    pub fn next_frame(&mut self, form: Framing) -> Result<Option<&[u8]>, FrameError> {
        let Some(json) = self.peek_json()?.map(<[u8]>::len) else {
            return Ok(None);
        };
        let start = self.filled.start;
        let json_end = start + LENGTH_BYTES + json;
        let end = json_end + form.crc_bytes();
        if self.filled.end < end {
            return Ok(None);
        }
        if let Some(field) = self.buffer[json_end..end].first_chunk::<CRC_BYTES>() {
            let expected = u32::from_le_bytes(*field);
            let actual = crc32c::crc32c(&self.buffer[start..json_end]);
            if expected != actual {
                return Err(FrameError::Checksum { expected, actual });
            }
        }
        self.filled.start = end;
        let json = &self.buffer[start + LENGTH_BYTES..json_end];
        check_json(json)?;
        Ok(Some(json))
    }

    /// Takes the bytes of a body that arrived together with its frame: at most `most`.
    pub fn take_body(&mut self, most: usize) -> &[u8] {
        let start = self.filled.start;
        self.filled.start += most.min(self.filled.len());
        &self.buffer[start..self.filled.start]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(form: Framing, json: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(form, json, &mut out);
        out
    }

    #[test]
    fn a_frame_arrives_byte_by_byte() {
        for form in [Framing::Classic, Framing::Native] {
            let bytes = frame(form, b"{\"a\":1}");
            let mut inbox = FrameBuffer::new();
            for (index, byte) in bytes.iter().enumerate() {
                assert_eq!(inbox.next_frame(form).unwrap(), None, "after {index} bytes");
                assert_eq!(inbox.push(&[*byte]), 1);
            }
            assert_eq!(inbox.next_frame(form).unwrap(), Some(&b"{\"a\":1}"[..]));
            assert!(inbox.is_empty());
        }
    }

    #[test]
    fn frames_and_bodies_that_stick_together_come_apart() {
        let mut bytes = frame(Framing::Classic, b"{}");
        bytes.extend_from_slice(b"body");
        bytes.extend_from_slice(&frame(Framing::Classic, b"{ }"));
        let mut inbox = FrameBuffer::new();
        inbox.push(&bytes);
        assert_eq!(inbox.next_frame(Framing::Classic).unwrap(), Some(&b"{}"[..]));
        assert_eq!(inbox.take_body(1), b"b");
        assert_eq!(inbox.take_body(3), b"ody");
        assert_eq!(inbox.next_frame(Framing::Classic).unwrap(), Some(&b"{ }"[..]));
    }

    #[test]
    fn impossible_lengths_are_refused_at_the_fourth_byte() {
        for (field, big_endian) in [
            (0u32, false),
            (65_537, false),
            (u32::MAX, false),
            (1 << 31, true),
            (1 << 30 | 1, false),
            (100u32.swap_bytes(), true),
        ] {
            let mut inbox = FrameBuffer::new();
            inbox.push(&field.to_le_bytes()[..3]);
            assert_eq!(inbox.next_frame(Framing::Native).unwrap(), None);
            inbox.push(&field.to_le_bytes()[3..]);
            let error = FrameError::Length { length: field, big_endian };
            assert_eq!(inbox.next_frame(Framing::Native), Err(error.clone()));
            assert_eq!(inbox.peek_json(), Err(error));
        }
        assert_eq!(parse_length(65_536u32.to_le_bytes()), Ok(65_536));
    }

    #[test]
    fn nesting_is_bounded_but_brackets_in_names_are_not_nesting() {
        let nested = |levels: usize| {
            [&b"{\"x\":"[..], &b"[".repeat(levels - 1), &b"]".repeat(levels - 1), b"}"].concat()
        };
        for (json, fine) in [
            (nested(32), true),
            (nested(33), false),
            (nested(10_000), false),
            ([&b"{\"\\\""[..], &b"[".repeat(100), b"\":1}"].concat(), true),
            (b"[1]".to_vec(), false),
        ] {
            let mut inbox = FrameBuffer::new();
            inbox.push(&frame(Framing::Native, &json));
            assert_eq!(inbox.next_frame(Framing::Native).is_ok(), fine, "{}", json.len());
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_in_a_native_frame_is_noticed() {
        let good = frame(Framing::Native, b"{\"ftx\":\"busy\"}");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut inbox = FrameBuffer::new();
            inbox.push(&bad);
            // A flip in the length may ask for bytes that have not come; it must never yield a frame.
            assert!(!matches!(inbox.next_frame(Framing::Native), Ok(Some(_))), "bit {bit}");
        }
    }

    #[test]
    fn the_longest_frame_fits() {
        let mut json = vec![b' '; MAX_JSON_BYTES];
        json[..2].copy_from_slice(b"{}");
        let bytes = frame(Framing::Native, &json);
        let mut inbox = FrameBuffer::new();
        let mut sent = 0;
        let mut frames = 0;
        let twenty: Vec<u8> = bytes.iter().copied().cycle().take(bytes.len() * 20).collect();
        while sent < twenty.len() {
            let count = inbox.push(&twenty[sent..]);
            assert!(count > 0, "an inbox that is emptied of frames has room");
            sent += count;
            while inbox.next_frame(Framing::Native).unwrap().is_some() {
                frames += 1;
            }
        }
        assert_eq!(frames, 20);
    }

    #[test]
    fn an_inbox_grows_only_as_bytes_come() {
        let mut inbox = FrameBuffer::new();
        inbox.push(&65_536u32.to_le_bytes());
        assert_eq!(inbox.buffer.len(), FIRST_BYTES, "whatever is announced");
        let taken = inbox.push(&vec![b' '; 2 * BUFFER_BYTES]);
        assert_eq!((taken, inbox.buffer.len()), (BUFFER_BYTES - LENGTH_BYTES, BUFFER_BYTES), "and so far");
        assert_eq!(inbox.bytes()[..LENGTH_BYTES], 65_536u32.to_le_bytes());
    }

    proptest! {
        #[test]
        fn any_bytes_give_frames_or_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut inbox = FrameBuffer::new();
            inbox.push(&bytes);
            while let Ok(Some(_)) = inbox.next_frame(Framing::Classic) {}
        }
    }
}
