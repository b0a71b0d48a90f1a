//! An [`FrameBuffer`] gives the same frames, bodies and errors however the bytes were cut, and what it gives encodes to what
//! came.
#![no_main]

use arbitrary::Arbitrary;
use ftx::wire::FrameBuffer;
use ftx::wire::frame::{FrameError, Framing, encode};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    native: bool,
    /// Sizes of the pieces, again and again.
    pieces: Vec<u8>,
    /// Bytes of a body behind each frame.
    body: u8,
    /// Built here rather than found: frames whose checksum holds.
    whole: Vec<&'a [u8]>,
    bytes: &'a [u8],
}

#[derive(Debug, PartialEq)]
enum Got {
    Frame(Vec<u8>),
    Body(Vec<u8>),
    Refused(FrameError),
}

/// What comes out of `bytes`, given in pieces of these sizes.
fn read(
    form: Framing,
    bytes: &[u8],
    body: usize,
    mut pieces: impl Iterator<Item = usize>,
) -> (Vec<Got>, usize) {
    let (mut inbox, mut got, mut given, mut wanted) = (FrameBuffer::new(), Vec::new(), 0, 0);
    loop {
        loop {
            if wanted > 0 {
                let taken = inbox.take_body(wanted);
                wanted -= taken.len();
                match got.last_mut() {
                    Some(Got::Body(body)) => body.extend_from_slice(taken),
                    _ => got.push(Got::Body(taken.to_vec())),
                }
                if wanted > 0 {
                    break;
                }
            }
            let has = inbox.has_frame(form);
            match inbox.next_frame(form) {
                Ok(Some(json)) => {
                    assert!(matches!(has, Ok(true)));
                    got.push(Got::Frame(json.to_vec()));
                    wanted = body;
                }
                Ok(None) => {
                    assert!(matches!(has, Ok(false)));
                    break;
                }
                Err(error) => {
                    got.push(Got::Refused(error));
                    return (got, 0);
                }
            }
        }
        if given == bytes.len() {
            return (got, inbox.bytes().len());
        }
        let piece = pieces.next().unwrap_or(1).clamp(1, bytes.len() - given);
        let taken = inbox.push(&bytes[given..given + piece]);
        assert!(taken > 0, "an inbox that is emptied has room");
        given += taken;
    }
}

fuzz_target!(|input: Input| {
    let form = if input.native { Framing::Native } else { Framing::Classic };
    let body = usize::from(input.body % 8);
    let mut bytes = Vec::new();
    for json in input.whole.iter().filter(|json| !json.is_empty()) {
        encode(form, json, &mut bytes);
        bytes.extend(std::iter::repeat_n(b'B', body));
    }
    bytes.extend_from_slice(input.bytes);
    let at_once = read(form, &bytes, body, std::iter::repeat(bytes.len()));
    let one_by_one = read(form, &bytes, body, std::iter::repeat(1));
    let sizes = input.pieces.iter().map(|size| usize::from(*size)).cycle();
    let cut = read(form, &bytes, body, sizes);
    assert_eq!(at_once, one_by_one);
    assert_eq!(at_once, cut);
    let mut again = Vec::new();
    for got in &at_once.0 {
        match got {
            Got::Frame(json) => encode(form, json, &mut again),
            Got::Body(body) => again.extend_from_slice(body),
            Got::Refused(_) => {}
        }
    }
    assert!(bytes.starts_with(&again));
});
