use super::*;
use crate::digest::{Etag, Md5, PartRange};
use crate::wire::limits::*;
use crate::wire::message::KeptParts;
use crate::wire::{FrameBuffer, Framing};

/// A session whose `welcome` was sent.
fn open() -> ReceiverSession {
    let mut session = ReceiverSession::new(NamePolicy::Strict);
    session.handle(br#"{"ftx":"hello","version":1}"#).unwrap();
    session.take_output();
    session
}

fn take_messages(session: &mut ReceiverSession) -> Vec<Message> {
    let mut inbox = FrameBuffer::new();
    inbox.push(&session.take_output());
    let mut messages = Vec::new();
    while let Some(json) = inbox.next_frame(Framing::Native).unwrap() {
        messages.push(Message::parse(json).unwrap());
    }
    messages
}

fn announce(
    session: &mut ReceiverSession,
    id: u64,
    name: &str,
    size: u64,
) -> Result<ReceiverEvent, WireError> {
    let json = serde_json::json!({"ftx":"entry","entry":id,"type":"file","filename":name,"size":size});
    session.handle(json.to_string().as_bytes())
}

fn part(
    session: &mut ReceiverSession,
    kind: &str,
    id: u64,
    part: u64,
    size: u64,
) -> Result<ReceiverEvent, WireError> {
    let md5 = Md5::of(b"x").to_string();
    let json = serde_json::json!({"ftx":kind,"entry":id,"part":part,"size":size,"md5":md5});
    session.handle(json.to_string().as_bytes())
}

fn body(event: ReceiverEvent) -> PartHeader {
    match event {
        ReceiverEvent::Body(header) | ReceiverEvent::Offer(header) => header,
        other => panic!("no body: {other:?}"),
    }
}

#[test]
fn a_file_goes_from_entry_to_receipt() {
    let mut session = open();
    let ReceiverEvent::File(file) = announce(&mut session, 0, "a/b", 1).unwrap() else { panic!() };
    assert_eq!(file.path.as_bytes(), b"a/b");
    session.want_all(0);
    assert_eq!(
        take_messages(&mut session),
        [Message::Want { entries: IdRanges::one(0), parts: WantedParts::All }]
    );
    session.handle(br#"{"ftx":"end","entries":1}"#).unwrap();
    assert!(!session.is_drained());
    let header = body(part(&mut session, "part", 0, 0, 1).unwrap());
    assert!(part(&mut session, "part", 0, 0, 1).is_err(), "twice, before it is judged");
    assert!(session.is_drained() && !session.is_all_received());
    assert!(matches!(session.part_verified(&header), PartOutcome::Complete(_)));
    assert!(session.is_all_received() && session.is_committing());
    assert_eq!(session.finish(), None, "no receipt before it is stored");
    session.stored(0);
    let receipt = Receipt { entries: 1, stored: 1, bytes: 1, ..Receipt::default() };
    assert_eq!(session.finish(), Some(receipt));
    assert_eq!(
        take_messages(&mut session),
        [Message::Stored { entries: IdRanges::one(0), etags: None }, Message::Receipt(receipt)]
    );
}

/// A session with a sender that compares etags.
fn comparing() -> ReceiverSession {
    let mut session = ReceiverSession::new(NamePolicy::Strict);
    session.handle(br#"{"ftx":"hello","version":1,"features":["etags"]}"#).unwrap();
    assert_eq!(take_messages(&mut session), [Message::Welcome(Hello::ours(&[FEATURE_ETAGS], None))]);
    session
}

#[test]
fn a_sender_that_compares_is_told_the_etag_of_each_file_that_is_stored() {
    let mut session = comparing();
    for id in 0..3 {
        announce(&mut session, id, "a", if id == 2 { PART_BYTES + 1 } else { 1 }).unwrap();
        session.want_all(id);
    }
    session.handle(br#"{"ftx":"entry","entry":3,"type":"dir","filename":"d"}"#).unwrap();
    take_messages(&mut session);
    for (id, index, size) in [(0, 0, 1), (2, 0, PART_BYTES), (2, 1, 1), (1, 0, 1)] {
        let header = body(part(&mut session, "part", id, index, size).unwrap());
        session.part_verified(&header);
    }
    assert!(session.next_ready().is_some());
    // In any order of commits.
    [3, 2, 0].iter().for_each(|&id| session.stored(id));
    let one: Etag = Md5::of(b"x").to_string().parse().unwrap();
    let two = Md5::of([*Md5::of(b"x").as_bytes(); 2].as_flattened());
    let two: Etag = format!("{two}-2").parse().unwrap();
    let entries: IdRanges = vec![(0, 0), (2, 3)].try_into().unwrap();
    let stored = Message::Stored { entries, etags: Some(vec![Some(one), Some(two), None]) };
    assert_eq!(take_messages(&mut session), [stored]);
}

#[test]
fn stored_fits_its_frame_however_many_entries_there_are() {
    let mut session = comparing();
    for id in 0..2 * MAX_ETAGS_A_FRAME as u64 + 2 {
        announce(&mut session, id, "a", 1).unwrap();
        session.want_all(id);
        let header = body(part(&mut session, "part", id, 0, 1).unwrap());
        session.part_verified(&header);
    }
    take_messages(&mut session);
    // No two beside each other.
    (0..=MAX_ETAGS_A_FRAME as u64).for_each(|id| session.stored(2 * id));
    let counts: Vec<(u64, usize)> = take_messages(&mut session)
        .into_iter()
        .map(|message| match message {
            Message::Stored { entries, etags: Some(etags) } => (entries.count(), etags.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(counts, [(MAX_ETAGS_A_FRAME as u64, MAX_ETAGS_A_FRAME), (1, 1)]);
}

#[test]
fn a_sender_that_compares_is_told_what_is_kept_before_the_want() {
    let mut session = comparing();
    let size = (MAX_DIGESTS_A_FRAME as u64 + 9) * PART_BYTES;
    announce(&mut session, 0, "a", size).unwrap();
    let digests: Vec<Md5> = (0..MAX_DIGESTS_A_FRAME + 3).map(|part| Md5::of(&part.to_le_bytes())).collect();
    let mut verified = PartDigests::new();
    (0..).zip(&digests).for_each(|(part, md5)| verified.insert(part, *md5));
    verified.insert_holes(MAX_DIGESTS_A_FRAME as u64 + 4, 2);
    verified.insert(MAX_DIGESTS_A_FRAME as u64 + 7, digests[0]);
    session.want_missing(0, verified.clone());
    let kept = |part: usize, parts| {
        Message::Kept(crate::wire::message::KeptRun { entry: 0, part: part as u64, parts })
    };
    let messages = take_messages(&mut session);
    assert_eq!(
        messages[..4],
        [
            kept(0, KeptParts::Digests(digests[..MAX_DIGESTS_A_FRAME].to_vec())),
            kept(MAX_DIGESTS_A_FRAME, KeptParts::Digests(digests[MAX_DIGESTS_A_FRAME..].to_vec())),
            kept(MAX_DIGESTS_A_FRAME + 7, KeptParts::Digests(vec![digests[0]])),
            kept(MAX_DIGESTS_A_FRAME + 4, KeptParts::Zeros(2)),
        ]
    );
    assert!(matches!(&messages[4..], [Message::Want { parts: WantedParts::Parts(_), .. }]));
    // No digests of kept parts are sent to a sender without the feature `etags`.
    let mut session = open();
    announce(&mut session, 0, "a", size).unwrap();
    session.want_missing(0, verified);
    assert!(matches!(&take_messages(&mut session)[..], [Message::Want { .. }]));
}

#[test]
fn a_session_that_is_kept_to_one_connection_names_nothing_to_join() {
    let hello =
        br#"{"ftx":"hello","version":1,"features":["streams"],"session":"000102030405060708090a0b0c0d0e0f"}"#;
    for (keep, features) in [(false, &["streams"][..]), (true, &[])] {
        let mut session = ReceiverSession::new(NamePolicy::Strict);
        if keep {
            session.disable_streams();
        }
        session.handle(hello).unwrap();
        assert_eq!((session.id().is_some(), session.takes_streams()), (true, !keep));
        assert_eq!(take_messages(&mut session), [Message::Welcome(Hello::ours(features, None))]);
    }
}

#[test]
fn a_damaged_part_is_asked_for_again_and_then_given_up() {
    let mut session = open();
    announce(&mut session, 0, "a", 1).unwrap();
    session.want_all(0);
    take_messages(&mut session);
    for _ in 1..MAX_TRIES_A_PART {
        let header = body(part(&mut session, "part", 0, 0, 1).unwrap());
        assert_eq!(session.part_damaged(&header), RetryDecision::Again);
        assert!(!session.is_drained());
        assert_eq!(take_messages(&mut session), [Message::Again { entry: 0, part: 0 }]);
    }
    let header = body(part(&mut session, "part", 0, 0, 1).unwrap());
    assert_eq!(session.part_damaged(&header), RetryDecision::GaveUp { remaining_bytes: 1 });
    assert!(matches!(
        &take_messages(&mut session)[..],
        [Message::Error(ErrorReport { entry: Some(0), code: ErrorCode::Digest, .. })]
    ));
    assert_eq!(
        part(&mut session, "part", 0, 0, 1),
        Ok(ReceiverEvent::Discard { bytes: 1 }),
        "one more was on its way"
    );
}

#[test]
fn existing_file_is_recognised_by_its_digests() {
    let mut session = open();
    announce(&mut session, 0, "a", 1).unwrap();
    session.want_offers(0);
    let header = body(part(&mut session, "offer", 0, 0, 1).unwrap());
    assert!(matches!(session.part_verified(&header), PartOutcome::Complete(_)));
    let none = Message::Want { entries: IdRanges::one(0), parts: WantedParts::None };
    assert_eq!(take_messages(&mut session).last(), Some(&none));
    session.stored(0);
    session.handle(br#"{"ftx":"end","entries":1}"#).unwrap();
    let receipt = session.finish().unwrap();
    assert_eq!((receipt.stored, receipt.skipped, receipt.bytes), (1, 1, 0));
}

#[test]
fn a_small_file_that_was_sent_unasked_is_compared_with_what_is_there() {
    let mut session = open();
    announce(&mut session, 0, "a", SMALL_FILE_BYTES).unwrap();
    assert!(part(&mut session, "part", 0, 0, SMALL_FILE_BYTES).is_err(), "before the decision");
    session.want_offers(0);
    let Ok(ReceiverEvent::OfferAndBody(header)) = part(&mut session, "part", 0, 0, SMALL_FILE_BYTES) else {
        panic!()
    };
    assert!(header.is_offer);
    assert!(part(&mut session, "part", 0, 0, SMALL_FILE_BYTES).is_err(), "twice");
    assert!(matches!(session.part_verified(&header), PartOutcome::Complete(_)));
    assert_eq!(session.finish(), None, "not stored yet");
    // A larger file is requested first.
    announce(&mut session, 1, "b", SMALL_FILE_BYTES + 1).unwrap();
    session.want_offers(1);
    assert!(part(&mut session, "part", 1, 0, SMALL_FILE_BYTES + 1).is_err());
}

#[test]
fn holes_replace_full_size_parts_of_sparse_files_only() {
    let mut session = open();
    announce(&mut session, 0, "dense", 4 * PART_BYTES + 1).unwrap();
    announce(&mut session, 1, "offered", 4 * PART_BYTES + 1).unwrap();
    session.want_all(0);
    session.want_offers(1);
    for json in [
        &br#"{"ftx":"hole","entry":0,"part":0,"parts":1}"#[..],
        br#"{"ftx":"hole","entry":0,"part":0,"parts":1,"offer":true}"#,
        br#"{"ftx":"hole","entry":1,"part":0,"parts":1,"offer":true}"#,
    ] {
        let refused = session.handle(json).unwrap_err().to_string();
        assert!(refused.ends_with("the file was not announced as sparse"), "{refused}");
    }
    let mut session = open();
    let sparse = serde_json::json!({"ftx":"entry","entry":0,"type":"file","filename":"a",
        "size":4 * PART_BYTES + 1,"sparse":true});
    session.handle(sparse.to_string().as_bytes()).unwrap();
    let hole = |session: &mut ReceiverSession, part: u64, parts: u64| {
        let json = serde_json::json!({"ftx":"hole","entry":0,"part":part,"parts":parts});
        session.handle(json.to_string().as_bytes())
    };
    assert!(hole(&mut session, 0, 1).is_err(), "before the decision");
    session.want_all(0);
    session.handle(br#"{"ftx":"end","entries":1}"#).unwrap();
    for (part, parts) in [(0, 0), (0, 5), (4, 1), (5, 1), (0, u64::MAX), (u64::MAX, 2)] {
        assert!(matches!(hole(&mut session, part, parts), Err(WireError::Protocol(_))), "{part} {parts}");
    }
    let first = body(part(&mut session, "part", 0, 1, PART_BYTES).unwrap());
    assert!(hole(&mut session, 0, 2).is_err(), "a part that has arrived and is not verified");
    session.part_verified(&first);
    assert!(hole(&mut session, 1, 2).is_err(), "a part that is verified");
    let ReceiverEvent::Hole(header) = hole(&mut session, 2, 2).unwrap() else { panic!() };
    assert_eq!(header.range, PartRange { offset: 2 * PART_BYTES, len: 2 * PART_BYTES });
    assert_eq!(session.holes_verified(&header), PartOutcome::Partly);
    assert!(hole(&mut session, 3, 1).is_err(), "twice");
    let last = body(part(&mut session, "part", 0, 4, 1).unwrap());
    session.part_verified(&last);
    assert!(!session.is_drained());
    let ReceiverEvent::Hole(header) = hole(&mut session, 0, 1).unwrap() else { panic!() };
    assert!(matches!(session.holes_verified(&header), PartOutcome::Complete(_)));
    assert!(session.is_drained() && session.is_all_received());
}

#[test]
fn an_offered_hole_is_not_a_body() {
    let mut session = open();
    let entry = serde_json::json!({"ftx":"entry","entry":0,"type":"file","filename":"a",
        "size":2 * PART_BYTES,"sparse":true});
    session.handle(entry.to_string().as_bytes()).unwrap();
    session.want_offers(0);
    let offered = br#"{"ftx":"hole","entry":0,"part":1,"parts":1,"offer":true}"#;
    let sent = br#"{"ftx":"hole","entry":0,"part":1,"parts":1}"#;
    for json in [&offered[..], sent] {
        // Without `offer`, a hole is the reply to the last request.
        assert!(matches!(session.handle(json), Ok(ReceiverEvent::Hole(HoleHeader { is_offer: true, .. }))));
    }
    session.want_all(0);
    assert_eq!(
        session.handle(offered),
        Ok(ReceiverEvent::Nothing),
        "it was in transit when the bodies were requested"
    );
    let Ok(ReceiverEvent::Hole(header)) = session.handle(sent) else { panic!() };
    assert!(!header.is_offer);
    assert_eq!(session.holes_verified(&header), PartOutcome::Partly);
}

#[test]
fn a_hole_for_a_part_that_arrived_damaged_must_be_cleared() {
    let mut session = open();
    let entry = serde_json::json!({"ftx":"entry","entry":0,"type":"file","filename":"a",
        "size":4 * PART_BYTES,"sparse":true});
    session.handle(entry.to_string().as_bytes()).unwrap();
    session.want_all(0);
    let hole = |session: &mut ReceiverSession, part: u64, parts: u64| {
        let json = serde_json::json!({"ftx":"hole","entry":0,"part":part,"parts":parts});
        let Ok(ReceiverEvent::Hole(header)) = session.handle(json.to_string().as_bytes()) else { panic!() };
        header
    };
    let untouched = hole(&mut session, 0, 1);
    assert!(!untouched.must_clear);
    session.holes_verified(&untouched);
    // Handled before the damaged body arrived on another connection, verified after it: it does not count.
    let early = hole(&mut session, 1, 2);
    let damaged = body(part(&mut session, "part", 0, 2, PART_BYTES).unwrap());
    assert_eq!(session.part_damaged(&damaged), RetryDecision::Again);
    assert_eq!(session.holes_verified(&early), PartOutcome::Unchanged);
    let late = hole(&mut session, 1, 3);
    assert!(late.must_clear, "a part of it arrived damaged");
    assert!(matches!(session.holes_verified(&late), PartOutcome::Complete(_)));
}

#[test]
fn separate_holes_are_bounded_and_a_hole_counts_once() {
    let sparse = |size: u64| {
        let mut session = open();
        let entry = serde_json::json!({"ftx":"entry","entry":0,"type":"file","filename":"a","size":size,"sparse":true});
        session.handle(entry.to_string().as_bytes()).unwrap();
        session.want_all(0);
        session
    };
    let hole = |session: &mut ReceiverSession, part: u64| {
        let json = serde_json::json!({"ftx":"hole","entry":0,"part":part,"parts":1});
        session.handle(json.to_string().as_bytes())
    };
    // Every second part of a huge file, and nothing in between.
    let mut session = sparse(1 << 62);
    let separate = (0..).map(|number| 2 * number).take_while(|&part| match hole(&mut session, part) {
        Ok(ReceiverEvent::Hole(header)) => session.holes_verified(&header) == PartOutcome::Partly,
        _ => false,
    });
    assert_eq!(separate.count(), MAX_HOLES_AHEAD);
    // One part per frame, without gaps: that is one run.
    let mut session = sparse(1 << 62);
    for part in 0..10 * MAX_HOLES_AHEAD as u64 {
        let Ok(ReceiverEvent::Hole(header)) = hole(&mut session, part) else { panic!("{part}") };
        session.holes_verified(&header);
    }
    // Two connections deliver one hole before either is verified: it counts once.
    let mut session = sparse(2 * PART_BYTES);
    let Ok(ReceiverEvent::Hole(first)) = hole(&mut session, 0) else { panic!() };
    let Ok(ReceiverEvent::Hole(second)) = hole(&mut session, 0) else { panic!() };
    assert_eq!(session.holes_verified(&first), PartOutcome::Partly);
    assert_eq!(session.holes_verified(&second), PartOutcome::Unchanged, "a part is missing");
}

#[test]
fn folders_and_links_wait_for_the_files_before_them() {
    let mut session = open();
    announce(&mut session, 0, "d/a", 0).unwrap();
    session.want_all(0);
    session.handle(br#"{"ftx":"entry","entry":1,"type":"link","filename":"d/l","target":"a"}"#).unwrap();
    session.handle(br#"{"ftx":"entry","entry":2,"type":"dir","filename":"d"}"#).unwrap();
    assert_eq!(session.next_ready(), None);
    let header = body(part(&mut session, "part", 0, 0, 0).unwrap());
    session.part_verified(&header);
    assert!(matches!(session.next_ready().unwrap().kind, OtherKind::Link(_)));
    assert_eq!(session.next_ready().unwrap().kind, OtherKind::Dir);
    assert_eq!(session.next_ready(), None);
}

#[test]
fn bad_names_are_refused_and_the_rest_goes_on() {
    let mut session = open();
    for (id, name) in
        ["", "..", "a/../b", "/abs", "a\0b", "a\nb", "a\u{1b}b", "a\u{9b}b", "a\u{202e}b", ".ftx-x"]
            .iter()
            .enumerate()
    {
        assert!(
            matches!(
                announce(&mut session, id as u64, name, 1),
                Ok(ReceiverEvent::Refused { code: ErrorCode::Name, .. })
            ),
            "{name:?}"
        );
        assert!(matches!(
            &take_messages(&mut session)[..],
            [Message::Error(ErrorReport { entry: Some(_), code: ErrorCode::Name, .. })]
        ));
    }
    assert!(matches!(
        announce(&mut session, 10, "fine", 1 << 63),
        Ok(ReceiverEvent::Refused { code: ErrorCode::NoSpace, .. })
    ));
    assert!(matches!(announce(&mut session, 11, "fine", 1), Ok(ReceiverEvent::File(_))));
    let link = br#"{"ftx":"entry","entry":12,"type":"link","filename":"l","target":"../x"}"#;
    assert!(matches!(session.handle(link), Ok(ReceiverEvent::Refused { code: ErrorCode::Name, .. })));
}

#[test]
fn a_peer_that_breaks_the_rules_ends_its_session() {
    type Step = fn(&mut ReceiverSession) -> Result<ReceiverEvent, WireError>;
    let steps: [(&str, Step); 14] = [
        ("hello twice", |s| s.handle(br#"{"ftx":"hello","version":1}"#)),
        ("a receiver's word", |s| {
            s.handle(br#"{"ftx":"busy"}"#).and(s.handle(br#"{"ftx":"welcome","version":1}"#))
        }),
        ("a number skipped", |s| announce(s, 2, "b", 1)),
        ("a number again", |s| announce(s, 0, "b", 1)),
        ("an end that lies", |s| s.handle(br#"{"ftx":"end","entries":7}"#)),
        ("an unknown entry's part", |s| part(s, "part", 1, 0, 1)),
        ("an unknown entry withdrawn", |s| s.handle(br#"{"ftx":"error","entry":1,"code":"io"}"#)),
        ("a part that does not exist", |s| part(s, "part", 0, 1, 1)),
        ("a huge index", |s| part(s, "part", 0, u64::MAX, 1)),
        ("a short part", |s| part(s, "part", 0, 0, 0)),
        ("a long part", |s| part(s, "part", 0, 0, 2)),
        ("an offer unasked", |s| {
            announce(s, 1, "b", 1)?;
            part(s, "offer", 1, 0, 1)
        }),
        ("a body before the decision", |s| {
            announce(s, 1, "b", 1)?;
            part(s, "part", 1, 0, 1)
        }),
        ("an entry after the end", |s| {
            s.handle(br#"{"ftx":"end","entries":1}"#)?;
            announce(s, 1, "b", 1)
        }),
    ];
    for (what, step) in steps {
        let mut session = open();
        announce(&mut session, 0, "a", 1).unwrap();
        session.want_all(0);
        assert!(matches!(step(&mut session), Err(WireError::Protocol(_))), "{what}");
    }
    let mut session = ReceiverSession::new(NamePolicy::Strict);
    assert!(matches!(announce(&mut session, 0, "a", 1), Err(WireError::Protocol(_))), "no hello");
    let mut session = ReceiverSession::new(NamePolicy::Strict);
    assert_eq!(session.handle(br#"{"ftx":"hello","version":0}"#), Err(WireError::Version { theirs: 0 }));
}

/// A session whose two ends named the feature.
fn measuring() -> ReceiverSession {
    let mut session = ReceiverSession::new(NamePolicy::Strict);
    session.handle(br#"{"ftx":"hello","version":1,"features":["x","measure"]}"#).unwrap();
    session
}

const MEASURE: &[u8] = br#"{"ftx":"measure","what":"wire","size":1073741824}"#;

#[test]
fn stages_are_measured_and_a_receipt_of_nothing_ends_it() {
    let mut session = measuring();
    let welcome = Message::Welcome(Hello::ours(&["measure"], None));
    assert_eq!(take_messages(&mut session), [welcome], "of the features asked for, those that are known");
    assert!(matches!(session.handle(MEASURE), Ok(ReceiverEvent::Measure(_))));
    let measured = Measured { bytes: 1, elapsed_ns: 1, memory: false };
    session.measured(measured);
    assert_eq!(take_messages(&mut session), [Message::Measured(measured)]);
    session.handle(br#"{"ftx":"end","entries":0}"#).unwrap();
    assert_eq!(session.finish(), Some(Receipt::default()));
}

#[test]
fn measuring_is_bounded_and_no_part_of_a_transfer() {
    assert!(matches!(open().handle(MEASURE), Err(WireError::Protocol(_))), "without the feature");
    let too_large = br#"{"ftx":"measure","what":"write","size":1073741825}"#;
    assert!(matches!(measuring().handle(too_large), Err(WireError::Protocol(_))));
    let mut session = measuring();
    announce(&mut session, 0, "a", 1).unwrap();
    assert!(matches!(session.handle(MEASURE), Err(WireError::Protocol(_))), "after an entry");
    let mut session = measuring();
    session.handle(MEASURE).unwrap();
    assert!(matches!(announce(&mut session, 0, "a", 1), Err(WireError::Protocol(_))), "before an entry");
    let mut session = measuring();
    for _ in 0..MAX_MEASURES {
        session.handle(MEASURE).unwrap();
    }
    assert!(matches!(session.handle(MEASURE), Err(WireError::Protocol(_))), "without end");
    let mut session = measuring();
    session.handle(br#"{"ftx":"end","entries":0}"#).unwrap();
    assert!(matches!(session.handle(MEASURE), Err(WireError::Protocol(_))), "after the end");
}

#[test]
fn entries_in_flight_are_bounded() {
    let mut session = open();
    for id in 0..MAX_ENTRIES_IN_FLIGHT as u64 {
        announce(&mut session, id, "a", 1).unwrap();
    }
    assert!(announce(&mut session, MAX_ENTRIES_IN_FLIGHT as u64, "a", 1).is_err());
    // Long names are fewer.
    let mut session = open();
    let long = vec!["n".repeat(200); 20].join("/");
    let count = MAX_NAME_BYTES_IN_FLIGHT.div_ceil(long.len()) as u64;
    for id in 0..count {
        announce(&mut session, id, &long, 1).unwrap();
        session.want_all(id);
    }
    assert!(announce(&mut session, count, "a", 1).is_err());
    session.fail(0, ErrorCode::FileIo, "gone");
    session.handle(br#"{"ftx":"error","entry":1,"code":"source-changed","message":""}"#).unwrap();
    announce(&mut session, count, &long, 1).unwrap();
    announce(&mut session, count + 1, &long, 1).unwrap();
    assert!(announce(&mut session, count + 2, "a", 1).is_err(), "no more than was given back");
}
