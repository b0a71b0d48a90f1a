//! Dictionaries of both dialects are read or refused, and what is read says the same when it is written again.
#![no_main]

use std::fmt::Display;

use ftx::escape::is_unsafe_to_print;
use ftx::relpath::NamePolicy;
use ftx::wire::classic::{MAX_FILE_BYTES, encode_header, parse_header};
use ftx::wire::frame::{Framing, MAX_JSON_BYTES, encode};
use ftx::wire::receiver::FirstFrame;
use ftx::wire::{Dialect, FrameBuffer, Message, dialect, receiver};
use libfuzzer_sys::fuzz_target;

/// The JSON of a frame as it travels (`fixtures/wire` has some), or else the bytes themselves.
fn json_in(bytes: &[u8]) -> Vec<u8> {
    let mut inbox = FrameBuffer::new();
    inbox.push(bytes);
    // Whatever comes first on a connection.
    let _ = dialect::detect(&inbox);
    for form in [Framing::Native, Framing::Classic] {
        let mut inbox = FrameBuffer::new();
        inbox.push(bytes);
        if let Ok(Some(json)) = inbox.next_frame(form) {
            return json.to_vec();
        }
    }
    bytes.to_vec()
}

fn refused(error: &impl Display) {
    let sentence = error.to_string();
    assert!(!sentence.chars().any(is_unsafe_to_print), "{sentence:?}");
}

fuzz_target!(|bytes: &[u8]| {
    let json = &json_in(bytes)[..];
    if !(1..=MAX_JSON_BYTES).contains(&json.len()) {
        return;
    }
    let mut bytes = Vec::new();
    encode(Framing::Native, json, &mut bytes);
    let mut inbox = FrameBuffer::new();
    inbox.push(&bytes);
    let told = dialect::detect(&inbox);
    assert!(!matches!(told, Ok(None)), "a whole frame tells");
    let Ok(Some(json)) = inbox.next_frame(Framing::Native) else {
        return;
    };
    let opening = receiver::parse_first_frame(json);
    if let Err(error) = Message::parse(json) {
        refused(&error);
        assert!(opening.is_err());
    }
    if let Ok(message) = Message::parse(json) {
        match &message {
            Message::Join(join) => assert_eq!(opening, Ok(FirstFrame::Joins(join.session))),
            Message::Hello(hello) => {
                assert_eq!(
                    opening,
                    Ok(FirstFrame::Begins { session: hello.session, continues: hello.continues })
                );
            }
            _ => assert_eq!(opening, Ok(FirstFrame::Begins { session: None, continues: None })),
        }
        assert!(matches!(told, Ok(Some(Dialect::Native))), "{message:?}");
        let mut written = Vec::new();
        message.encode(&mut written);
        let mut inbox = FrameBuffer::new();
        inbox.push(&written);
        if let Ok(Some(json)) = inbox.next_frame(Framing::Native) {
            assert_eq!(Message::parse(json), Ok(message));
        } else {
            // Features and names may be longer than what this program ever says.
            assert!(written.len() > MAX_JSON_BYTES, "{message:?}");
        }
    }
    for policy in [NamePolicy::Strict, NamePolicy::AllowOdd] {
        let header = parse_header(json, policy);
        if let Err(error) = &header {
            refused(error);
        }
        if let Ok(header) = header {
            assert!(header.size_bytes <= MAX_FILE_BYTES);
            let name = std::str::from_utf8(header.path.as_bytes()).expect("JSON holds text");
            let mut written = Vec::new();
            encode_header(name, header.size_bytes, header.md5, &mut written).unwrap();
            let mut inbox = FrameBuffer::new();
            inbox.push(&written);
            let json = inbox.next_frame(Framing::Classic).unwrap().expect("a frame");
            assert_eq!(parse_header(json, policy), Ok(header));
        }
    }
});
