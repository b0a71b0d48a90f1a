//! Frame objects of both dialects are parsed or refused, and a parsed one survives encoding and parsing again.
#![no_main]

use std::fmt::Display;

use ftx::escape::is_unsafe_to_print;
use ftx::relpath::NamePolicy;
use ftx::wire::classic::{encode_header, parse_header};
use ftx::wire::frame::{Framing, MAX_JSON_BYTES, encode};
use ftx::wire::limits::MAX_FILE_BYTES;
use ftx::wire::receiver::FirstFrame;
use ftx::wire::{Dialect, FrameBuffer, Message, dialect, receiver};
use libfuzzer_sys::fuzz_target;

/// The JSON of the first frame in `bytes` (as in `fixtures/wire`), or else `bytes` itself.
fn json_in(bytes: &[u8]) -> Vec<u8> {
    let mut buffer = FrameBuffer::new();
    buffer.push(bytes);
    // Any bytes may come first on a connection.
    let _ = dialect::detect(&buffer);
    for framing in [Framing::Native, Framing::Classic] {
        let mut buffer = FrameBuffer::new();
        buffer.push(bytes);
        if let Ok(Some(json)) = buffer.next_frame(framing) {
            return json.to_vec();
        }
    }
    bytes.to_vec()
}

fn check_message(error: &impl Display) {
    let message = error.to_string();
    assert!(!message.chars().any(is_unsafe_to_print), "{message:?}");
}

fuzz_target!(|bytes: &[u8]| {
    let json = &json_in(bytes)[..];
    if !(1..=MAX_JSON_BYTES).contains(&json.len()) {
        return;
    }
    let mut bytes = Vec::new();
    encode(Framing::Native, json, &mut bytes);
    let mut buffer = FrameBuffer::new();
    buffer.push(&bytes);
    let detected = dialect::detect(&buffer);
    assert!(!matches!(detected, Ok(None)), "one complete frame is enough");
    let Ok(Some(json)) = buffer.next_frame(Framing::Native) else {
        return;
    };
    let first = receiver::parse_first_frame(json);
    if let Err(error) = Message::parse(json) {
        check_message(&error);
        assert!(first.is_err());
    }
    if let Ok(message) = Message::parse(json) {
        match &message {
            Message::Join(join) => assert_eq!(first, Ok(FirstFrame::Joins(join.session))),
            Message::Hello(hello) => {
                assert_eq!(
                    first,
                    Ok(FirstFrame::Begins { session: hello.session, continues: hello.continues })
                );
            }
            _ => assert_eq!(first, Ok(FirstFrame::Begins { session: None, continues: None })),
        }
        assert!(matches!(detected, Ok(Some(Dialect::Native))), "{message:?}");
        let mut encoded = Vec::new();
        message.encode(&mut encoded);
        let mut buffer = FrameBuffer::new();
        buffer.push(&encoded);
        if let Ok(Some(json)) = buffer.next_frame(Framing::Native) {
            assert_eq!(Message::parse(json), Ok(message));
        } else {
            // A peer may send longer lists of features and longer names than this program encodes.
            assert!(encoded.len() > MAX_JSON_BYTES, "{message:?}");
        }
    }
    for policy in [NamePolicy::Strict, NamePolicy::AllowOdd] {
        let header = parse_header(json, policy);
        if let Err(error) = &header {
            check_message(error);
        }
        if let Ok(header) = header {
            assert!(header.size_bytes <= MAX_FILE_BYTES);
            let name = std::str::from_utf8(header.path.as_bytes()).expect("JSON holds text");
            let mut encoded = Vec::new();
            encode_header(name, header.size_bytes, header.md5, &mut encoded).unwrap();
            let mut buffer = FrameBuffer::new();
            buffer.push(&encoded);
            let json = buffer.next_frame(Framing::Classic).unwrap().expect("a frame");
            assert_eq!(parse_header(json, policy), Ok(header));
        }
    }
});
