//! A [`FrameBuffer`] returns the same frames, bodies and errors however its input is cut into pieces, and its output
//! encodes to the input again.
#![no_main]

use arbitrary::Arbitrary;
use ftx::wire::FrameBuffer;
use ftx::wire::frame::{FrameError, Framing, encode};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    native: bool,
    /// Sizes of the pieces, repeated.
    pieces: Vec<u8>,
    /// Bytes of body after each frame.
    body: u8,
    /// JSON of frames that the target encodes, so that their checksums are right.
    valid: Vec<&'a [u8]>,
    bytes: &'a [u8],
}

#[derive(Debug, PartialEq)]
enum Item {
    Frame(Vec<u8>),
    Body(Vec<u8>),
    Error(FrameError),
}

/// The items in `bytes`, pushed in pieces of these sizes, and the number of bytes left over.
fn read(
    framing: Framing,
    bytes: &[u8],
    body: usize,
    mut pieces: impl Iterator<Item = usize>,
) -> (Vec<Item>, usize) {
    let (mut buffer, mut items, mut pushed, mut body_left) = (FrameBuffer::new(), Vec::new(), 0, 0);
    loop {
        loop {
            if body_left > 0 {
                let taken = buffer.take_body(body_left);
                body_left -= taken.len();
                match items.last_mut() {
                    Some(Item::Body(body)) => body.extend_from_slice(taken),
                    _ => items.push(Item::Body(taken.to_vec())),
                }
                if body_left > 0 {
                    break;
                }
            }
            let has = buffer.has_frame(framing);
            match buffer.next_frame(framing) {
                Ok(Some(json)) => {
                    assert!(matches!(has, Ok(true)));
                    items.push(Item::Frame(json.to_vec()));
                    body_left = body;
                }
                Ok(None) => {
                    assert!(matches!(has, Ok(false)));
                    break;
                }
                Err(error) => {
                    items.push(Item::Error(error));
                    return (items, 0);
                }
            }
        }
        if pushed == bytes.len() {
            return (items, buffer.bytes().len());
        }
        let piece = pieces.next().unwrap_or(1).clamp(1, bytes.len() - pushed);
        let taken = buffer.push(&bytes[pushed..pushed + piece]);
        assert!(taken > 0, "a buffer whose frames are taken has space");
        pushed += taken;
    }
}

fuzz_target!(|input: Input| {
    let framing = if input.native { Framing::Native } else { Framing::Classic };
    let body = usize::from(input.body % 8);
    let mut bytes = Vec::new();
    for json in input.valid.iter().filter(|json| !json.is_empty()) {
        encode(framing, json, &mut bytes);
        bytes.extend(std::iter::repeat_n(b'B', body));
    }
    bytes.extend_from_slice(input.bytes);
    let at_once = read(framing, &bytes, body, std::iter::repeat(bytes.len()));
    let one_by_one = read(framing, &bytes, body, std::iter::repeat(1));
    let sizes = input.pieces.iter().map(|size| usize::from(*size)).cycle();
    let cut = read(framing, &bytes, body, sizes);
    assert_eq!(at_once, one_by_one);
    assert_eq!(at_once, cut);
    let mut encoded = Vec::new();
    for item in &at_once.0 {
        match item {
            Item::Frame(json) => encode(framing, json, &mut encoded),
            Item::Body(body) => encoded.extend_from_slice(body),
            Item::Error(_) => {}
        }
    }
    assert!(bytes.starts_with(&encoded));
});
