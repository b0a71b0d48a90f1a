//! The receive buffer of a connection, from which complete frames are taken.

use std::ops::Range;

use super::frame::{CRC_BYTES, FrameError, Framing, LENGTH_BYTES, MAX_FRAME_BYTES, check_json, parse_length};

/// Bytes that arrived on one connection and are not consumed: frames, and parts of bodies that were read with them.
///
/// Its size is bounded by one frame and some read-ahead, whatever length the peer announces. It grows only as bytes
/// arrive, so that idle connections use little memory.
#[derive(Debug)]
pub struct FrameBuffer {
    buffer: Box<[u8]>,
    filled: Range<usize>,
}

/// Large enough that one read from a socket returns many small frames.
const BUFFER_BYTES: usize = 4 * MAX_FRAME_BYTES;
/// Large enough for the first frames of either side.
const INITIAL_BYTES: usize = BUFFER_BYTES / 32;

impl Default for FrameBuffer {
    fn default() -> Self {
        FrameBuffer { buffer: vec![0; INITIAL_BYTES].into(), filled: 0..0 }
    }
}

impl FrameBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Free space to read into; never empty if complete frames are taken before more is read.
    pub fn space(&mut self) -> &mut [u8] {
        if self.filled.end > self.buffer.len() / 2 && self.buffer.len() < BUFFER_BYTES {
            // More than half is used: grow, because more bytes may follow.
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

    /// Records that `count` bytes were read into [`FrameBuffer::space`].
    pub fn filled(&mut self, count: usize) {
        debug_assert!(self.filled.end + count <= self.buffer.len());
        self.filled.end += count;
    }

    /// Appends bytes from memory, as far as there is space; returns their number.
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

    /// The bytes that arrived and are not consumed.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.filled.clone()]
    }

    /// Is nothing left? A peer that closes now does so between frames.
    pub fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    /// The JSON of the next frame, not consumed, and unchecked except for its length; `None` if more must arrive.
    pub fn peek_json(&self) -> Result<Option<&[u8]>, FrameError> {
        let Some((field, rest)) = self.bytes().split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        Ok(rest.get(..parse_length(*field)?))
    }

    /// Is the next frame complete?
    pub fn has_frame(&self, framing: Framing) -> Result<bool, FrameError> {
        let json = self.peek_json()?.map(<[u8]>::len);
        Ok(json.is_some_and(|json| self.filled.len() >= LENGTH_BYTES + json + framing.crc_bytes()))
    }

    /// Consumes the next frame and returns its JSON; `None` if more must arrive.
    pub fn next_frame(&mut self, framing: Framing) -> Result<Option<&[u8]>, FrameError> {
        let Some(json) = self.peek_json()?.map(<[u8]>::len) else {
            return Ok(None);
        };
        let start = self.filled.start;
        let json_end = start + LENGTH_BYTES + json;
        let end = json_end + framing.crc_bytes();
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

    /// Consumes buffered bytes of a body, at most `most`.
    pub fn take_body(&mut self, most: usize) -> &[u8] {
        let start = self.filled.start;
        self.filled.start += most.min(self.filled.len());
        &self.buffer[start..self.filled.start]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{MAX_JSON_BYTES, encode};
    use proptest::prelude::*;

    fn frame(framing: Framing, json: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(framing, json, &mut out);
        out
    }

    #[test]
    fn a_frame_arrives_byte_by_byte() {
        for framing in [Framing::Classic, Framing::Native] {
            let bytes = frame(framing, b"{\"a\":1}");
            let mut buffer = FrameBuffer::new();
            for (index, byte) in bytes.iter().enumerate() {
                assert_eq!(buffer.next_frame(framing).unwrap(), None, "after {index} bytes");
                assert_eq!(buffer.push(&[*byte]), 1);
            }
            assert_eq!(buffer.next_frame(framing).unwrap(), Some(&b"{\"a\":1}"[..]));
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn frames_and_bodies_of_one_read_are_separated() {
        let mut bytes = frame(Framing::Classic, b"{}");
        bytes.extend_from_slice(b"body");
        bytes.extend_from_slice(&frame(Framing::Classic, b"{ }"));
        let mut buffer = FrameBuffer::new();
        buffer.push(&bytes);
        assert_eq!(buffer.next_frame(Framing::Classic).unwrap(), Some(&b"{}"[..]));
        assert_eq!(buffer.take_body(1), b"b");
        assert_eq!(buffer.take_body(3), b"ody");
        assert_eq!(buffer.next_frame(Framing::Classic).unwrap(), Some(&b"{ }"[..]));
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
            let mut buffer = FrameBuffer::new();
            buffer.push(&field.to_le_bytes()[..3]);
            assert_eq!(buffer.next_frame(Framing::Native).unwrap(), None);
            buffer.push(&field.to_le_bytes()[3..]);
            let error = FrameError::Length { length: field, big_endian };
            assert_eq!(buffer.next_frame(Framing::Native), Err(error.clone()));
            assert_eq!(buffer.peek_json(), Err(error));
        }
        assert_eq!(parse_length(65_536u32.to_le_bytes()), Ok(65_536));
    }

    #[test]
    fn nesting_is_bounded_and_brackets_in_strings_do_not_count() {
        let nested = |levels: usize| {
            [&b"{\"x\":"[..], &b"[".repeat(levels - 1), &b"]".repeat(levels - 1), b"}"].concat()
        };
        for (json, is_valid) in [
            (nested(32), true),
            (nested(33), false),
            (nested(10_000), false),
            ([&b"{\"\\\""[..], &b"[".repeat(100), b"\":1}"].concat(), true),
            (b"[1]".to_vec(), false),
        ] {
            let mut buffer = FrameBuffer::new();
            buffer.push(&frame(Framing::Native, &json));
            assert_eq!(buffer.next_frame(Framing::Native).is_ok(), is_valid, "{}", json.len());
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_in_a_native_frame_is_detected() {
        let good = frame(Framing::Native, b"{\"ftx\":\"busy\"}");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut buffer = FrameBuffer::new();
            buffer.push(&bad);
            // A flip in the length may need more bytes; it never yields a frame.
            assert!(!matches!(buffer.next_frame(Framing::Native), Ok(Some(_))), "bit {bit}");
        }
    }

    #[test]
    fn the_longest_frame_fits() {
        let mut json = vec![b' '; MAX_JSON_BYTES];
        json[..2].copy_from_slice(b"{}");
        let bytes = frame(Framing::Native, &json);
        let mut buffer = FrameBuffer::new();
        let mut sent = 0;
        let mut frames = 0;
        let twenty: Vec<u8> = bytes.iter().copied().cycle().take(bytes.len() * 20).collect();
        while sent < twenty.len() {
            let count = buffer.push(&twenty[sent..]);
            assert!(count > 0, "a buffer has space after its frames are taken");
            sent += count;
            while buffer.next_frame(Framing::Native).unwrap().is_some() {
                frames += 1;
            }
        }
        assert_eq!(frames, 20);
    }

    #[test]
    fn a_buffer_grows_only_as_bytes_arrive() {
        let mut buffer = FrameBuffer::new();
        buffer.push(&65_536u32.to_le_bytes());
        assert_eq!(buffer.buffer.len(), INITIAL_BYTES, "for any announced length");
        let taken = buffer.push(&vec![b' '; 2 * BUFFER_BYTES]);
        assert_eq!(
            (taken, buffer.buffer.len()),
            (BUFFER_BYTES - LENGTH_BYTES, BUFFER_BYTES),
            "and is bounded"
        );
        assert_eq!(buffer.bytes()[..LENGTH_BYTES], 65_536u32.to_le_bytes());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut buffer = FrameBuffer::new();
            buffer.push(&bytes);
            while let Ok(Some(_)) = buffer.next_frame(Framing::Classic) {}
        }
    }
}
