use super::*;
use crate::digest::Md5;
use crate::error_code::ErrorCode;
use crate::units::{Metadata, Mode, MtimeNs};
use crate::wire::FrameBuffer;
use proptest::prelude::*;

fn round_trip(message: &Message) -> Message {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    let mut buffer = FrameBuffer::new();
    buffer.push(&bytes);
    let parsed = Message::parse(buffer.next_frame(Framing::Native).unwrap().unwrap()).unwrap();
    assert!(buffer.is_empty());
    parsed
}

#[test]
fn a_name_that_is_not_utf8_keeps_its_bytes() {
    let entry = Entry {
        id: 3,
        name: b"caf\xe9/\xff".to_vec(),
        kind: EntryKind::Link { target: b"\xfe".to_vec() },
        metadata: Metadata::default(),
    };
    assert_eq!(round_trip(&Message::Entry(entry.clone())), Message::Entry(entry));
}

#[test]
fn the_longest_names_that_are_not_utf8_fit_into_a_frame() {
    let name = vec![0x01; 4096];
    let entry = Entry {
        id: u64::MAX,
        name: name.clone(),
        kind: EntryKind::Link { target: name },
        metadata: Metadata::default(),
    };
    assert_eq!(round_trip(&Message::Entry(entry.clone())), Message::Entry(entry));
    let name = vec![0xff; 4096];
    let entry = Entry {
        id: u64::MAX,
        name: name.clone(),
        kind: EntryKind::Link { target: name },
        metadata: Metadata::default(),
    };
    assert_eq!(round_trip(&Message::Entry(entry.clone())), Message::Entry(entry));
}

#[test]
fn unknown_keys_are_ignored_and_unknown_kinds_are_errors() {
    assert_eq!(
        Message::parse(br#"{"ftx":"end","entries":7,"colour":[1,{}]}"#),
        Ok(Message::End { entries: 7 })
    );
    assert_eq!(
        Message::parse(br#"{"ftx":"dance"}"#),
        Err(MessageError::UnknownKind { kind: "dance".into() })
    );
}

/// The JSON reader quotes values of the peer in its errors.
#[test]
fn quoted_values_in_errors_are_escaped() {
    let json = br#"{"ftx":"entry","entry":0,"type":"\u001b[2J\nmine","filename":"a","size":3}"#;
    let shown = Message::parse(json).unwrap_err().to_string();
    assert!(shown.contains(r"\x1b[2J\nmine") && !shown.contains(['\u{1b}', '\n']), "{shown}");
}

#[test]
fn frames_of_wrong_shape_are_refused() {
    for json in [
        "",
        "[]",
        "7",
        "null",
        "{}",
        r#"{"ftx":7}"#,
        r#"{"ftx":"end"}"#,
        r#"{"ftx":"end","entries":-1}"#,
        r#"{"ftx":"end","entries":1.0}"#,
        r#"{"ftx":"end","entries":"1"}"#,
        r#"{"ftx":"end","entries":1,"entries":1}"#,
        r#"{"ftx":"end","ftx":"end","entries":1}"#,
        r#"{"ftx":"end","entries":18446744073709551616}"#,
        r#"{"ftx":"entry","entry":0,"type":"file","filename":"a"}"#,
        r#"{"ftx":"entry","entry":0,"type":"link","filename":"a"}"#,
        r#"{"ftx":"entry","entry":0,"type":"fifo","filename":"a"}"#,
        r#"{"ftx":"entry","entry":0,"type":"dir","filename":"a","filename_hex":"6"}"#,
        r#"{"ftx":"entry","entry":0,"type":"file","filename":"a","size":1,"mode":-1}"#,
        r#"{"ftx":"part","entry":0,"part":0,"size":1,"md5":"12"}"#,
        r#"{"ftx":"want","entries":[[1,0]],"parts":"all"}"#,
        r#"{"ftx":"want","entries":[[0,1]],"parts":"some"}"#,
        r#"{"ftx":"want","entries":[[0,1]],"parts":{"all":null}}"#,
        r#"{"ftx":"measure","what":"disk","size":1}"#,
        r#"{"ftx":"measure","what":"wire"}"#,
        r#"{"ftx":"measured","bytes":1,"ns":-1}"#,
        r#"{"ftx":"busy","ftx":"busy"}"#,
        r#"{"ftx":"busy","f\u0074x":"busy"}"#,
        r#"{"ftx":"busy","x"}"#,
    ] {
        assert!(Message::parse(json.as_bytes()).is_err(), "{json}");
    }
    assert!(Message::parse(b"{\"ftx\":\"busy\",\"\xff\":1}").is_err(), "a key that is not UTF-8");
}

/// The fast path reads a leading kind; the slow path accepts it anywhere and in any spelling.
#[test]
fn the_kind_is_read_anywhere_and_in_any_spelling() {
    for json in [
        r#"{"ftx":"end","entries":3}"#,
        r#"{"ftx":"e\u006ed","entries":3}"#,
        r#"{"f\u0074x":"end","entries":3}"#,
        r#"{"entries":3,"ftx":"end"}"#,
        r#" { "ftx" : "end" , "entries" : 3 } "#,
        r#"{"ftx":"end","entries":3,"x":"ftx"}"#,
        r#"{"ftx":"end","entries":3,"x":"a \"ftx\" b"}"#,
    ] {
        assert_eq!(Message::parse(json.as_bytes()), Ok(Message::End { entries: 3 }), "{json}");
    }
}

#[test]
fn long_error_messages_are_truncated_at_a_character() {
    let report = ErrorReport { entry: None, code: ErrorCode::Other, message: "ä".repeat(1000) };
    let Message::Error(truncated) = round_trip(&Message::Error(report)) else { panic!("another kind") };
    assert_eq!(truncated.message, "ä".repeat(512));
}

proptest! {
    #[test]
    fn arbitrary_json_never_panics(json in "\\{\"ftx\":\"(entry|part|want|error)\",.{0,80}\\}") {
        let _ = Message::parse(json.as_bytes());
    }

    #[test]
    fn entries_survive_encoding(id: u64, name: Vec<u8>, size: u64, mode in 0u32..0o1000, mtime: i64) {
        let entry = Message::Entry(Entry { id, name, kind: EntryKind::File { size_bytes: size, is_sparse: size % 2 == 0, state: (size % 3 == 0).then_some(Md5::from([7; 16])) },
            metadata: Metadata { mode: Some(Mode::new(mode)), mtime: Some(MtimeNs(mtime)) } });
        prop_assert_eq!(round_trip(&entry), entry);
    }

    #[test]
    fn parts_survive_encoding(entry: u64, part: u64, size_bytes: u64, md5: [u8; 16]) {
        let part = Message::Part(Part { entry, part, size_bytes, md5: md5.into() });
        prop_assert_eq!(round_trip(&part), part);
    }
}

#[test]
fn an_optional_key_that_is_null_is_missing() {
    for (with_null, without) in [
        (
            r#"{"ftx":"hello","version":1,"features":null,"session":null,"continues":null,"agent":null}"#,
            r#"{"ftx":"hello","version":1}"#,
        ),
        (
            r#"{"ftx":"entry","entry":0,"type":"file","filename":"a","size":1,"sparse":null,"state":null,"mode":null}"#,
            r#"{"ftx":"entry","entry":0,"type":"file","filename":"a","size":1}"#,
        ),
        (
            r#"{"ftx":"hole","entry":0,"part":0,"parts":1,"offer":null}"#,
            r#"{"ftx":"hole","entry":0,"part":0,"parts":1}"#,
        ),
        (
            r#"{"ftx":"kept","entry":0,"part":0,"md5":null,"zeros":1}"#,
            r#"{"ftx":"kept","entry":0,"part":0,"zeros":1}"#,
        ),
        (r#"{"ftx":"stored","entries":[[0,0]],"etags":null}"#, r#"{"ftx":"stored","entries":[[0,0]]}"#),
        (r#"{"ftx":"measured","bytes":1,"ns":1,"memory":null}"#, r#"{"ftx":"measured","bytes":1,"ns":1}"#),
    ] {
        assert_eq!(Message::parse(with_null.as_bytes()), Message::parse(without.as_bytes()), "{with_null}");
        assert!(Message::parse(without.as_bytes()).is_ok(), "{without}");
    }
}
