use super::*;
use crate::digest::{PART_BYTES, PartRange};
use crate::relpath::NamePolicy;
use crate::wire::limits::*;

fn open() -> SenderSession {
    let mut session = SenderSession::new(SessionId::new([7; 16]), None);
    session.handle(br#"{"ftx":"welcome","version":1}"#).unwrap();
    session.take_output();
    session
}

fn path() -> RelPath {
    RelPath::new(b"a", NamePolicy::Strict).unwrap()
}

fn with_file(size: u64) -> SenderSession {
    let mut session = open();
    session.announce_file(&path(), size, false, None, Metadata::default());
    session
}

fn send_all(session: &mut SenderSession) -> Vec<u64> {
    let mut parts = Vec::new();
    while let Some(job) = session.next_job() {
        assert!(session.part_frame(&job, Md5::of(b""), &mut Vec::new()));
        parts.push(job.part);
    }
    parts
}

#[test]
fn a_file_is_sent_as_it_is_wanted() {
    let mut session = with_file(2 * PART_BYTES + 1);
    assert_eq!(session.next_job(), None, "nothing is sent unasked");
    assert_eq!(
        session.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":[[0,0],[2,2]]}"#),
        Ok(SenderEvent::Resumed(vec![(0, PART_BYTES)]))
    );
    assert_eq!(send_all(&mut session), [0, 2]);
    session.end();
    assert_eq!(session.handle(br#"{"ftx":"stored","entries":[[0,0]]}"#), Ok(SenderEvent::Stored(vec![0])));
    let receipt = br#"{"ftx":"receipt","entries":1,"stored":1,"skipped":0,"failed":0,"bytes":9}"#;
    assert!(matches!(session.handle(receipt), Ok(SenderEvent::Receipt(_))));
}

/// A session whose receiver sends etags.
fn comparing(size: u64) -> SenderSession {
    let mut session = SenderSession::new(SessionId::new([7; 16]), None);
    session.handle(br#"{"ftx":"welcome","version":1,"features":["etags"]}"#).unwrap();
    session.announce_file(&path(), size, true, None, Metadata::default());
    session
}

fn kept(session: &mut SenderSession, part: u64, what: serde_json::Value) -> Result<SenderEvent, WireError> {
    let mut json = serde_json::json!({"ftx":"kept","entry":0,"part":part});
    json.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
    session.handle(json.to_string().as_bytes())
}

fn stored(session: &mut SenderSession, etag: serde_json::Value) -> Result<SenderEvent, WireError> {
    session
        .handle(serde_json::json!({"ftx":"stored","entries":[[0,0]],"etags":[etag]}).to_string().as_bytes())
}

fn etag(parts: &[Md5]) -> String {
    let bytes: Vec<u8> = parts.iter().flat_map(|md5| *md5.as_bytes()).collect();
    format!("{}-{}", Md5::of(&bytes), parts.len())
}

#[test]
fn etags_of_stored_files_are_compared_with_the_sent_parts() {
    let sent = || {
        let mut session = comparing(PART_BYTES + 1);
        session.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#).unwrap();
        assert_eq!(send_all(&mut session), [0, 1]);
        session
    };
    let (ours, theirs) = (etag(&[Md5::of(b""); 2]), etag(&[Md5::of(b""), Md5::of(b"x")]));
    assert_eq!(stored(&mut sent(), ours.as_str().into()), Ok(SenderEvent::Stored(vec![0])));
    let mut wrong = sent();
    assert_eq!(
        stored(&mut wrong, theirs.as_str().into()),
        Err(WireError::Etag { entry: 0, theirs: theirs.parse().unwrap(), ours: ours.parse().unwrap() })
    );
    for bad in [serde_json::Value::Null, Md5::of(b"").to_string().into(), "x".into()] {
        assert!(stored(&mut sent(), bad.clone()).is_err(), "{bad}");
    }
    for bad in ["", r#","etags":[]"#, r#","etags":[null,null]"#] {
        let json = format!(r#"{{"ftx":"stored","entries":[[0,0]]{bad}}}"#);
        assert!(sent().handle(json.as_bytes()).is_err(), "{bad}");
    }
    // A part that was read again because it was damaged counts as it was read last.
    let mut again = sent();
    again.handle(br#"{"ftx":"again","entry":0,"part":1}"#).unwrap();
    let job = again.next_job().unwrap();
    assert!(again.part_frame(&job, Md5::of(b"x"), &mut Vec::new()));
    assert_eq!(stored(&mut again, theirs.into()), Ok(SenderEvent::Stored(vec![0])));
}

#[test]
fn kept_digests_are_compared_with_earlier_digests() {
    let size = 4 * PART_BYTES;
    let digest = |byte: &[u8]| Md5::of(byte).to_string();
    let known = |session: &mut SenderSession| {
        let mut digests = PartDigests::new();
        digests.insert(0, Md5::of(b"a"));
        digests.insert_holes(1, 1);
        session.set_digests(0, digests);
    };
    let mut session = comparing(size);
    known(&mut session);
    let zeros = Md5::of(&vec![0; PART_BYTES as usize]);
    // The first two digests are known. The third is not, and is accepted.
    let body = serde_json::json!({"md5": [digest(b"a"), zeros.to_string(), digest(b"c")]});
    assert_eq!(kept(&mut session, 0, body), Ok(SenderEvent::Nothing));
    let want = br#"{"ftx":"want","entries":[[0,0]],"parts":[[3,3]]}"#;
    assert_eq!(session.handle(want), Ok(SenderEvent::Resumed(vec![(0, 3 * PART_BYTES)])));
    assert_eq!(send_all(&mut session), [3]);
    let ours = etag(&[Md5::of(b"a"), zeros, Md5::of(b"c"), Md5::of(b"")]);
    assert_eq!(stored(&mut session, ours.into()), Ok(SenderEvent::Stored(vec![0])));
    for (part, body) in [
        (0, serde_json::json!({"md5": [digest(b"x")]})),
        (0, serde_json::json!({"zeros": 1})),
        (1, serde_json::json!({"md5": [digest(b"x")]})),
    ] {
        let mut session = comparing(size);
        known(&mut session);
        assert_eq!(kept(&mut session, part, body.clone()), Ok(SenderEvent::KeptOther(0)), "{body}");
        assert!(session.withdraw(0, ErrorCode::Digest, ""));
        assert_eq!(kept(&mut session, part, body), Ok(SenderEvent::Nothing), "withdrawn");
    }
    // One that is not known, and behind it one that differs: nothing of the frame counts, and nothing is uncounted.
    let mut session = comparing(size);
    let mut digests = PartDigests::new();
    digests.insert(1, Md5::of(b"b"));
    session.set_digests(0, digests);
    let body = serde_json::json!({"md5": [digest(b"a"), digest(b"x")]});
    assert_eq!(kept(&mut session, 0, body), Ok(SenderEvent::KeptOther(0)));
    assert!(session.withdraw(0, ErrorCode::Digest, ""));
    assert_eq!(session.entries.kept(), 0);
    // Parts that were not compared leave the file without an etag here, and any etag is accepted.
    let mut session = comparing(size);
    session.handle(want).unwrap();
    assert_eq!(send_all(&mut session), [3]);
    assert_eq!(stored(&mut session, etag(&[Md5::of(b""); 4]).into()), Ok(SenderEvent::Stored(vec![0])));
}

#[test]
fn kept_digests_are_bounded() {
    let digest = Md5::of(b"").to_string();
    for (part, body) in [
        (0, serde_json::json!({"md5": []})),
        (0, serde_json::json!({"zeros": 0})),
        (0, serde_json::json!({"zeros": 3})),
        (1, serde_json::json!({"zeros": 1})),
        (1, serde_json::json!({"md5": [digest, digest]})),
        (2, serde_json::json!({"md5": [digest]})),
        (u64::MAX, serde_json::json!({"zeros": u64::MAX})),
        (0, serde_json::json!({})),
        (0, serde_json::json!({"md5": [digest], "zeros": 1})),
    ] {
        assert!(kept(&mut comparing(PART_BYTES + 1), part, body.clone()).is_err(), "{part} {body}");
    }
    let first = |digest: &String| serde_json::json!({"md5": [digest]});
    let mut decided = comparing(PART_BYTES + 1);
    decided.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#).unwrap();
    assert!(kept(&mut decided, 0, first(&digest)).is_err(), "after the decision");
    let mut plain = with_file(PART_BYTES + 1);
    assert!(kept(&mut plain, 0, first(&digest)).is_err(), "without the feature");
    // A file that a receiver could talk about for ever: what is held of it has an end, and goes with it.
    let mut endless = comparing(u64::MAX >> 1);
    let many: Vec<&str> = std::iter::repeat_n(digest.as_str(), 1000).collect();
    for part in 0..MAX_KEPT_IN_FLIGHT as u64 / 1000 + 2 {
        assert_eq!(
            kept(&mut endless, part * 1000, serde_json::json!({"md5": many})),
            Ok(SenderEvent::Nothing)
        );
    }
    assert_eq!(endless.entries.kept(), MAX_KEPT_IN_FLIGHT);
    assert!(endless.withdraw(0, ErrorCode::Other, ""));
    assert_eq!(endless.entries.kept(), 0);
}

#[test]
fn a_damaged_part_is_sent_again_but_not_for_ever() {
    let mut session = with_file(2 * PART_BYTES);
    session.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#).unwrap();
    assert_eq!(send_all(&mut session), [0, 1]);
    for _ in 1..MAX_TRIES_A_PART {
        let again = session.handle(br#"{"ftx":"again","entry":0,"part":1}"#);
        assert_eq!(again, Ok(SenderEvent::Again { entry: 0, part: 1 }));
        assert!(session.handle(br#"{"ftx":"stored","entries":[[0,0]]}"#).is_err(), "not whole now");
        assert_eq!(send_all(&mut session), [1]);
    }
    assert!(matches!(session.handle(br#"{"ftx":"again","entry":0,"part":1}"#), Err(WireError::Protocol(_))));
}

#[test]
fn holes_are_taken_as_far_as_they_are_wanted() {
    let mut session = with_file(10 * PART_BYTES);
    session.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":[[0,4],[6,9]]}"#).unwrap();
    let job = session.next_job().unwrap();
    assert_eq!(session.take_holes(&job, 100), 5, "the run ends there");
    assert!(session.hole_frame(&job, 5, &mut Vec::new()));
    let job = session.next_job().unwrap();
    assert_eq!((job.part, session.take_holes(&job, 2)), (6, 2));
    assert!(session.hole_frame(&job, 2, &mut Vec::new()));
    assert_eq!(send_all(&mut session), [8, 9]);
    session.end();
    assert!(session.handle(br#"{"ftx":"stored","entries":[[0,0]]}"#).is_ok(), "all nine parts count as sent");
}

#[test]
fn a_hole_that_was_offered_takes_nothing_of_what_is_wanted_since() {
    let mut session = with_file(4 * PART_BYTES);
    session.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":"offers"}"#).unwrap();
    let offered = session.next_job().unwrap();
    session.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":[[1,3]]}"#).unwrap();
    assert_eq!(session.take_holes(&offered, 9), 1);
    assert!(!session.hole_frame(&offered, 1, &mut Vec::new()));
    assert_eq!(send_all(&mut session), [1, 2, 3]);
}

#[test]
fn offers_are_digests_without_bodies() {
    let mut session = with_file(1);
    session.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":"offers"}"#).unwrap();
    assert!(
        session.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":"none"}"#).is_err(),
        "nothing compared yet"
    );
    let job = session.next_job().unwrap();
    assert!(!job.wants_body);
    session.part_frame(&job, Md5::of(b""), &mut Vec::new());
    let event = session.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":"none"}"#);
    assert_eq!(event, Ok(SenderEvent::AlreadyThere(vec![0])));
    assert_eq!(session.handle(br#"{"ftx":"stored","entries":[[0,0]]}"#), Ok(SenderEvent::Stored(vec![0])));
}

#[test]
fn entries_are_announced_before_the_welcome_and_within_their_limits() {
    let announce = |session: &mut SenderSession, path: &RelPath| {
        let mut count = 0;
        while session.has_room() {
            session.announce_file(path, 1, false, None, Metadata::default());
            count += 1;
        }
        count
    };
    let mut session = SenderSession::new(SessionId::new([7; 16]), None);
    assert_eq!(announce(&mut session, &path()), MAX_ENTRIES_IN_FLIGHT);
    let want = br#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#;
    assert!(session.handle(want).is_err(), "the receiver has to introduce itself first");
    let mut session = SenderSession::new(SessionId::new([7; 16]), None);
    let long = RelPath::new(vec!["n".repeat(200); 20].join("/").as_bytes(), NamePolicy::Strict).unwrap();
    let in_flight = MAX_NAME_BYTES_IN_FLIGHT.div_ceil(long.as_bytes().len());
    assert_eq!(announce(&mut session, &long), in_flight);
    assert!(session.withdraw(3, ErrorCode::SourceChanged, "gone"));
    assert_eq!(announce(&mut session, &long), 1);
    session.handle(br#"{"ftx":"welcome","version":1}"#).unwrap();
    assert!(matches!(session.handle(want), Ok(SenderEvent::Wanted)));
}

/// A small file, announced and sent before the receiver sent anything but its `welcome`.
fn pushed() -> SenderSession {
    let mut session = SenderSession::new(SessionId::new([7; 16]), None);
    session.announce_file(&path(), SMALL_FILE_BYTES, false, None, Metadata::default());
    assert!(session.next_job().is_some_and(|job| job.is_unasked && job.wants_body));
    session.announce_file(&path(), SMALL_FILE_BYTES + 1, false, None, Metadata::default());
    assert_eq!(session.next_job(), None, "only small ones");
    session.handle(br#"{"ftx":"welcome","version":1}"#).unwrap();
    session.announce_file(&path(), 1, false, None, Metadata::default());
    assert_eq!(session.next_job(), None, "nor after the welcome");
    let again = SenderSession::new(SessionId::new([8; 16]), Some(SessionId::new([7; 16])));
    assert!(again.waits_for_want, "nor what may be there from a session that was lost");
    session
}

const PUSHED: Job = Job {
    entry: 0,
    part: 0,
    range: PartRange { offset: 0, len: SMALL_FILE_BYTES },
    wants_body: true,
    is_unasked: true,
};

#[test]
fn a_small_file_is_sent_before_it_is_asked_for() {
    let mut session = pushed();
    assert!(session.part_frame(&PUSHED, Md5::of(b""), &mut Vec::new()));
    let want = br#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#;
    assert_eq!(session.handle(want), Ok(SenderEvent::Wanted));
    assert_eq!(session.next_job(), None, "it is on its way");
    assert!(session.handle(want).is_err(), "twice");
    assert_eq!(session.handle(br#"{"ftx":"stored","entries":[[0,0]]}"#), Ok(SenderEvent::Stored(vec![0])));
}

#[test]
fn a_small_file_that_is_there_is_offered_by_what_was_sent_of_it() {
    let (offers, none, all) = (
        br#"{"ftx":"want","entries":[[0,0]],"parts":"offers"}"#,
        br#"{"ftx":"want","entries":[[0,0]],"parts":"none"}"#,
        br#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#,
    );
    let mut session = pushed();
    assert!(session.handle(none).is_err(), "nothing compared yet");
    let mut session = pushed();
    session.part_frame(&PUSHED, Md5::of(b""), &mut Vec::new());
    assert_eq!(session.handle(offers), Ok(SenderEvent::Unneeded(vec![0])));
    assert_eq!(session.next_job(), None);
    assert_eq!(session.handle(none), Ok(SenderEvent::AlreadyThere(vec![0])));
    // It differs, and is replaced.
    let mut session = pushed();
    session.part_frame(&PUSHED, Md5::of(b""), &mut Vec::new());
    session.handle(offers).unwrap();
    assert_eq!(session.handle(all), Ok(SenderEvent::Wanted));
    assert!(session.next_job().is_some_and(|job| job.wants_body && !job.is_unasked));
    // The answer came before the body was sent.
    let mut session = pushed();
    assert_eq!(session.handle(offers), Ok(SenderEvent::Wanted));
    assert!(!session.part_frame(&PUSHED, Md5::of(b""), &mut Vec::new()), "no body any more");
    let job = session.next_job().unwrap();
    assert!(!job.wants_body && !job.is_unasked);
    session.part_frame(&job, Md5::of(b""), &mut Vec::new());
    session.handle(all).unwrap();
    assert!(
        !session.part_frame(&PUSHED, Md5::of(b""), &mut Vec::new()),
        "nor twice, with the one that is wanted"
    );
    assert!(session.next_job().is_some_and(|job| session.part_frame(&job, Md5::of(b""), &mut Vec::new())));
    // And before it was even loaded.
    let mut session = SenderSession::new(SessionId::new([7; 16]), None);
    session.announce_file(&path(), 1, false, None, Metadata::default());
    session.handle(br#"{"ftx":"welcome","version":1}"#).unwrap();
    session.handle(offers).unwrap();
    assert!(session.next_job().is_some_and(|job| !job.wants_body));
    assert_eq!(session.next_job(), None, "once");
}

/// Otherwise a receiver that repeats itself would never be found to be stuck.
#[test]
fn a_want_for_entries_that_are_settled_is_no_event() {
    let mut session = with_file(PART_BYTES);
    let want = br#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#;
    assert_eq!(session.handle(want), Ok(SenderEvent::Wanted));
    send_all(&mut session);
    session.handle(br#"{"ftx":"stored","entries":[[0,0]]}"#).unwrap();
    assert_eq!(session.handle(want), Ok(SenderEvent::Nothing));
    assert_eq!(session.handle(want), Ok(SenderEvent::Nothing));
    session.announce_file(&path(), PART_BYTES, false, None, Metadata::default());
    let both = br#"{"ftx":"want","entries":[[0,1]],"parts":"all"}"#;
    assert_eq!(session.handle(both), Ok(SenderEvent::Wanted), "one of them is in flight");
}

#[test]
fn an_entry_that_failed_is_not_sent_any_more() {
    let mut session = with_file(1);
    session.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#).unwrap();
    let job = session.next_job().unwrap();
    let failed = session.handle(br#"{"ftx":"error","entry":0,"code":"no-space","message":"full"}"#);
    let message = "full".into();
    assert_eq!(
        failed,
        Ok(SenderEvent::Failed { entry: 0, code: ErrorCode::NoSpace, message, was_wanted: true })
    );
    assert!(!session.part_frame(&job, Md5::of(b""), &mut Vec::new()));
    assert!(!session.withdraw(0, ErrorCode::SourceChanged, "late"), "settled once only");
    session.end();
    let receipt = br#"{"ftx":"receipt","entries":1,"stored":0,"skipped":0,"failed":1,"bytes":0}"#;
    assert!(session.handle(receipt).is_ok());
}

#[test]
fn invalid_frames_of_a_receiver_end_the_session() {
    for bad in [
        r#"{"ftx":"welcome","version":1}"#,
        r#"{"ftx":"hello","version":1}"#,
        r#"{"ftx":"end","entries":1}"#,
        r#"{"ftx":"want","entries":[[1,1]],"parts":"all"}"#,
        r#"{"ftx":"want","entries":[[0,18446744073709551615]],"parts":"all"}"#,
        r#"{"ftx":"want","entries":[[0,0]],"parts":[[0,2]]}"#,
        r#"{"ftx":"want","entries":[[0,0]],"parts":[]}"#,
        r#"{"ftx":"want","entries":[[0,0]],"parts":"none"}"#,
        r#"{"ftx":"again","entry":0,"part":0}"#,
        r#"{"ftx":"again","entry":9,"part":0}"#,
        r#"{"ftx":"stored","entries":[[0,0]]}"#,
        r#"{"ftx":"stored","entries":[[0,1]]}"#,
        r#"{"ftx":"receipt","entries":1,"stored":1,"skipped":0,"failed":0,"bytes":9}"#,
        r#"{"ftx":"error","entry":5,"code":"io"}"#,
        r#"{"ftx":"error","code":"space","message":"no"}"#,
    ] {
        let mut session = with_file(2 * PART_BYTES);
        assert!(session.handle(bad.as_bytes()).is_err(), "{bad}");
    }
    let mut session = with_file(1);
    session.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#).unwrap();
    assert!(session.handle(br#"{"ftx":"stored","entries":[[0,0]]}"#).is_err(), "forged before it was sent");
    assert!(session.handle(br#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#).is_err(), "twice");
    send_all(&mut session);
    session.end();
    let receipt = br#"{"ftx":"receipt","entries":1,"stored":1,"skipped":0,"failed":0,"bytes":9}"#;
    assert!(session.handle(receipt).is_err(), "a receipt while an entry is in flight");
    let mut session = SenderSession::new(SessionId::new([7; 16]), None);
    assert!(matches!(
        session.handle(br#"{"ftx":"welcome","version":2}"#),
        Err(WireError::Version { theirs: 2 })
    ));
}
