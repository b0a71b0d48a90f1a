//! Dictionaries of both dialects are read or refused, and what is read says the same when it is written again.
#![no_main]

use ftx::relpath::NamePolicy;
use ftx::wire::classic::{MAX_FILE_BYTES, encode_header, parse_header};
use ftx::wire::frame::{Form, MAX_JSON_BYTES, encode};
use ftx::wire::{Dialect, Inbox, Message, dialect, receiver};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let mut raw = Inbox::new();
    raw.push(json);
    let _ = dialect::detect(&raw);
    if !(1..=MAX_JSON_BYTES).contains(&json.len()) {
        return;
    }
    let mut bytes = Vec::new();
    encode(Form::Native, json, &mut bytes);
    let mut inbox = Inbox::new();
    inbox.push(&bytes);
    let told = dialect::detect(&inbox);
    assert!(!matches!(told, Ok(None)), "a whole frame tells");
    let Ok(Some(json)) = inbox.next_frame(Form::Native) else {
        return;
    };
    let _ = receiver::opening(json);
    if let Ok(message) = Message::parse(json) {
        assert!(matches!(told, Ok(Some(Dialect::Native))), "{message:?}");
        let mut written = Vec::new();
        message.encode(&mut written);
        let mut inbox = Inbox::new();
        inbox.push(&written);
        if let Ok(Some(json)) = inbox.next_frame(Form::Native) {
            assert_eq!(Message::parse(json), Ok(message));
        } else {
            // Features and names may be longer than what this program ever says.
            assert!(written.len() > MAX_JSON_BYTES, "{message:?}");
        }
    }
    for policy in [NamePolicy::Strict, NamePolicy::AllowOdd] {
        if let Ok(header) = parse_header(json, policy) {
            assert!(header.size_bytes <= MAX_FILE_BYTES);
            let name = std::str::from_utf8(header.path.as_bytes()).expect("JSON holds text");
            let mut written = Vec::new();
            encode_header(name, header.size_bytes, header.md5, &mut written).unwrap();
            let mut inbox = Inbox::new();
            inbox.push(&written);
            let json = inbox.next_frame(Form::Classic).unwrap().expect("a frame");
            assert_eq!(parse_header(json, policy), Ok(header));
        }
    }
});
