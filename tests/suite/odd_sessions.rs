//! Native sessions with conflicting or unusual entries: each entry is settled on its own, failures are reported, stored
//! files are complete, and the receiver serves the next sender.
//!
//! These tests fail if an entry replaces another one of the same session, if a receipt counts an entry that is not there,
//! or if forbidden permissions or names of a sender take effect.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::proofs::Random;
use crate::common::proxy::{Action, Proxy};
use crate::common::raw::{Entry, Settled, transfer};
use crate::common::{Ended, Receiver, names, send};
use ftx::dest::local::SourceVersion;
use ftx::digest::PART_BYTES;
use ftx::units::MtimeNs;
use ftx::wire::frame::{Framing, encode};

const PARTIAL: i32 = 23;

/// IdRanges one session against a new receiver.
fn settle(out: &Path, policy: &str, entries: &[Entry]) -> (Settled, Ended) {
    let receiver = Receiver::start(out, &["--once", "--on-conflict", policy]);
    let settled = transfer(&receiver, entries);
    let ended = receiver.wait();
    let stored = settled.entries.values().filter(|entry| entry.is_ok()).count() as u64;
    assert_eq!(settled.entries.len(), entries.len(), "each entry is settled: {settled:?}");
    let receipt = settled.receipt;
    let counts = (receipt.entries, receipt.stored, receipt.failed);
    let all = entries.len() as u64;
    assert_eq!(counts, (all, stored, all - stored), "{settled:?} {ended:?}");
    assert_eq!(ended.code, if stored == all { 0 } else { PARTIAL }, "{settled:?} {ended:?}");
    assert_eq!(
        ended.stderr.lines().filter(|line| line.starts_with("not transferred: ")).count() as u64,
        all - stored,
        "a line for each that failed: {ended:?}"
    );
    (settled, ended)
}

fn is(settled: &Settled, id: u64, expected: Result<(), &str>) -> bool {
    settled.entries[&id].as_ref().map_err(String::as_str).copied() == expected
}

/// Files below `out`, with their content.
fn files(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let is_file = |name: &String| out.join(name).is_file();
    names(out)
        .into_iter()
        .filter(is_file)
        .map(|name| (name.clone(), fs::read(out.join(name)).unwrap()))
        .collect()
}

#[test]
fn file_and_entry_below_it_conflict() {
    let large = Random::new(1).bytes(PART_BYTES as usize + 5);
    for policy in ["skip-same", "overwrite", "error"] {
        for content in [&b"abc"[..], &large] {
            for turned in [false, true] {
                let mut entries = vec![Entry::file("p", content), Entry::file("p/c", b"below")];
                if turned {
                    entries.reverse();
                }
                let out = tempfile::tempdir().unwrap();
                let (settled, ended) = settle(out.path(), policy, &entries);
                // The first one wins.
                let winner = u64::from(settled.entries[&1].is_ok());
                assert!(
                    is(&settled, winner, Ok(())) && is(&settled, 1 - winner, Err("exists")),
                    "{settled:?}"
                );
                let entry = &entries[winner as usize];
                let name = entry.json["filename"].as_str().unwrap().to_owned();
                assert_eq!(files(out.path()), [(name, entry.content.clone())].into(), "{policy}: {ended:?}");
            }
        }
    }
}

#[test]
fn rename_policy_stores_the_file_beside_the_directory() {
    let out = tempfile::tempdir().unwrap();
    let entries = [Entry::file("p/c", b"below"), Entry::file("p", b"abc")];
    let (settled, ended) = settle(out.path(), "rename", &entries);
    if settled.receipt.stored == 2 {
        assert_eq!(names(out.path()), ["p", "p (1)", "p/c"], "{ended:?}");
    } else {
        assert_eq!(names(out.path()), ["p"], "the file had its name first: {ended:?}");
    }
}

#[test]
fn file_directory_and_link_of_one_name_conflict() {
    let link = || Entry::link("p", "elsewhere");
    for entries in [
        [Entry::file("p", b"abc"), Entry::dir("p")],
        [Entry::file("p", b"abc"), link()],
        [Entry::dir("p"), link()],
        [link(), Entry::dir("p")],
    ] {
        for policy in ["skip-same", "error"] {
            let out = tempfile::tempdir().unwrap();
            let (settled, _) = settle(out.path(), policy, &entries);
            assert!(is(&settled, 0, Ok(())) && is(&settled, 1, Err("exists")), "{settled:?}");
            assert_eq!(names(out.path()), ["p"]);
            let kind = fs::symlink_metadata(out.path().join("p")).unwrap().file_type();
            let announced = entries[0].json["type"].as_str().unwrap();
            assert_eq!(
                [kind.is_file(), kind.is_dir(), kind.is_symlink()],
                ["file", "dir", "link"].map(|k| k == announced)
            );
        }
    }
    // Files are committed before directories, and still conflict with a directory announced first.
    let out = tempfile::tempdir().unwrap();
    let (settled, _) = settle(out.path(), "overwrite", &[Entry::dir("p"), Entry::file("p", b"abc")]);
    assert_eq!(settled.receipt.stored, 1, "{settled:?}");
    // Links are committed after all files, so no file replaces one.
    let out = tempfile::tempdir().unwrap();
    fs::create_dir(out.path().join("elsewhere")).unwrap();
    let entries = [Entry::link("p", "elsewhere"), Entry::file("p/c", b"abc")];
    let (settled, _) = settle(out.path(), "overwrite", &entries);
    assert_eq!(settled.receipt.stored, 1, "{settled:?}");
    assert_eq!(fs::read_dir(out.path().join("elsewhere")).unwrap().count(), 0);
}

#[test]
fn second_entry_of_one_name_fails() {
    let (one, other) = (
        Random::new(2).bytes(2 * PART_BYTES as usize + 7),
        Random::new(3).bytes(2 * PART_BYTES as usize + 7),
    );
    // Also with the same state key: the second file must not resume the first one's staged file.
    let state = "0".repeat(32);
    for (first, second) in
        [(&b"abc"[..], &b"xyz"[..]), (b"abc", b"longer"), (&one, &other), (b"abc", b"abc"), (&one, &one)]
    {
        let entries = [first, second]
            .map(|content| Entry::file("a", content).with("state", state.clone()).with("mtime_ns", 5));
        for policy in ["skip-same", "overwrite", "rename", "error"] {
            let out = tempfile::tempdir().unwrap();
            let (settled, ended) = settle(out.path(), policy, &entries);
            let result = files(out.path());
            let is_same = first == second;
            match policy {
                "rename" if !is_same => {
                    assert_eq!(settled.receipt.stored, 2, "{settled:?}");
                    let mut contents: Vec<_> = result.values().cloned().collect();
                    contents.sort();
                    let mut expected = vec![first.to_vec(), second.to_vec()];
                    expected.sort();
                    assert!(contents == expected, "{ended:?}");
                }
                "overwrite" | "rename" | "skip-same" if is_same || policy == "overwrite" => {
                    assert_eq!(settled.receipt.stored, 2, "{settled:?}");
                    assert_eq!(result.keys().collect::<Vec<_>>(), ["a"]);
                    assert!(result["a"] == first || result["a"] == second);
                }
                _ => {
                    assert_eq!(
                        (settled.receipt.stored, settled.receipt.failed),
                        (1, 1),
                        "{policy}: {settled:?}"
                    );
                    let winner = u64::from(settled.entries[&1].is_ok());
                    assert!(is(&settled, 1 - winner, Err("exists")), "{settled:?}");
                    assert_eq!(result.keys().collect::<Vec<_>>(), ["a"]);
                    assert!(result["a"] == entries[winner as usize].content, "{policy}");
                }
            }
        }
    }
    // Directories and links: the same entry again is no conflict, a link with another target is.
    let out = tempfile::tempdir().unwrap();
    let entries = [
        Entry::dir("d"),
        Entry::dir("d"),
        Entry::link("l", "d"),
        Entry::link("l", "d"),
        Entry::link("l", "x"),
    ];
    let (settled, _) = settle(out.path(), "skip-same", &entries);
    assert!((0..4).all(|id| is(&settled, id, Ok(()))) && is(&settled, 4, Err("exists")), "{settled:?}");
    assert_eq!(fs::read_link(out.path().join("l")).unwrap(), Path::new("d"));
}

#[test]
fn modes_are_limited_to_the_nine_permission_bits() {
    let out = tempfile::tempdir().unwrap();
    let mut entries = Vec::new();
    for mode in [0o7777u32, 0o6755, 0o1700, 0o4000, u32::MAX] {
        entries.push(Entry::file(&format!("d{mode}/file"), b"abc").with("mode", mode));
    }
    let large = vec![7; PART_BYTES as usize + 1];
    entries.push(Entry::file("large", &large).with("mode", 0o7755));
    for mode in [0o7777u32, 0o6755, 0o1700, 0o4000, u32::MAX] {
        entries.push(Entry::link(&format!("d{mode}/link"), "file").with("mode", mode));
        entries.push(Entry::dir(&format!("d{mode}")).with("mode", mode));
    }
    let (settled, ended) = settle(out.path(), "skip-same", &entries);
    assert_eq!(settled.receipt.failed, 0, "{settled:?} {ended:?}");
    for entry in entries.iter().filter(|entry| entry.json["type"] != "link") {
        let mode = fs::metadata(out.path().join(entry.json["filename"].as_str().unwrap())).unwrap().mode();
        assert_eq!(mode & 0o7777, entry.json["mode"].as_u64().unwrap() as u32 & 0o777, "{}", entry.json);
    }
}

#[test]
fn any_mtime_is_set_as_far_as_the_file_system_can_store_it() {
    let out = tempfile::tempdir().unwrap();
    let times = [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX];
    let mut entries: Vec<Entry> =
        times.iter().map(|time| Entry::file(&format!("d{time}/f"), b"abc").with("mtime_ns", *time)).collect();
    // With several parts and a state key, the time is in the journal as well.
    let large = vec![7; PART_BYTES as usize + 1];
    for time in times {
        entries.push(
            Entry::file(&format!("large{time}"), &large).with("mtime_ns", time).with("state", "0".repeat(32)),
        );
    }
    for time in times {
        entries.push(Entry::link(&format!("d{time}/l"), "f").with("mtime_ns", time));
        entries.push(Entry::dir(&format!("d{time}")).with("mtime_ns", time));
    }
    let (settled, ended) = settle(out.path(), "skip-same", &entries);
    assert_eq!(settled.receipt.failed, 0, "{settled:?} {ended:?}");
    // File systems clamp times outside their range without an error; a control file, set by the standard library, shows
    // the expected result.
    let control = fs::File::create(out.path().join("control")).unwrap();
    for entry in &entries {
        let time = entry.json["mtime_ns"].as_i64().unwrap();
        let (seconds, nanoseconds) = MtimeNs(time).to_parts();
        let second = Duration::from_secs(seconds.unsigned_abs());
        let whole = if seconds < 0 { UNIX_EPOCH - second } else { UNIX_EPOCH + second };
        let expected: SystemTime = whole + Duration::from_nanos(nanoseconds as u64);
        control.set_modified(expected).unwrap();
        let stat = fs::symlink_metadata(out.path().join(entry.json["filename"].as_str().unwrap())).unwrap();
        assert_eq!(
            stat.modified().unwrap(),
            control.metadata().unwrap().modified().unwrap(),
            "{}",
            entry.json
        );
    }
    let wrong = ["9223372036854775808", "-9223372036854775809", "1.5", "\"0\"", "true"];
    for time in wrong {
        let out = tempfile::tempdir().unwrap();
        let receiver = Receiver::start(out.path(), &["--once"]);
        let mut raw = crate::common::raw::Raw::connect(&receiver, r#"{"ftx":"hello","version":1}"#);
        raw.send_json(&format!(
            r#"{{"ftx":"entry","entry":0,"type":"file","filename":"a","size":3,"mtime_ns":{time}}}"#
        ));
        assert!(
            std::iter::from_fn(|| raw.next_message())
                .any(|message| matches!(message, ftx::wire::Message::Error(f) if f.entry.is_none()))
        );
        assert_eq!(receiver.wait().code, 12, "{time}");
        assert_eq!(names(out.path()), Vec::<String>::new());
    }
}

/// The staged name of a file of several parts.
fn staged_name(source: &Path) -> String {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &["--once"]);
    let (announced, entry) = std::sync::mpsc::channel();
    let proxy = Proxy::start(receiver.port, move |piece| {
        if let Some(frame) = piece.frame.filter(|frame| frame["ftx"] == "entry") {
            announced.send(frame.clone()).unwrap();
        }
        Action::Pass
    });
    assert_eq!(send(&[], &[source], &proxy.host()).code, 0);
    let entry = entry.recv().unwrap();
    let origin = SourceVersion {
        size_bytes: entry["size"].as_u64().unwrap(),
        mtime: Some(MtimeNs(entry["mtime_ns"].as_i64().unwrap())),
        state: entry["state"].as_str().unwrap().parse().unwrap(),
    };
    origin.staged_name(source.file_name().unwrap().as_encoded_bytes())
}

/// An entry under the staged name exists when the first part of a file arrives, without an earlier session.
#[test]
fn foreign_entry_under_a_staging_name_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (source, canary) = (dir.path().join("disk.img"), dir.path().join("canary"));
    let content = Random::new(4).bytes(PART_BYTES as usize + 1000);
    fs::write(&source, &content).unwrap();
    type Plant = fn(&Path, &Path);
    let plants: [(&str, Plant); 6] = [
        ("a link", |path, canary| symlink(canary, path).unwrap()),
        ("a link to nothing", |path, canary| symlink(canary.with_file_name("nothing"), path).unwrap()),
        ("a second name of another file", |path, canary| fs::hard_link(canary, path).unwrap()),
        ("a FIFO", |path, _| {
            let mode = rustix::fs::Mode::RWXU;
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
        ("a folder", |path, _| fs::create_dir_all(path.join("in it")).unwrap()),
        ("a file of another user", |path, _| {
            fs::write(path, "theirs").unwrap();
            // Without the right to change the owner it is an old staged file, which may be removed.
            let _ = std::os::unix::fs::chown(path, Some(65534), Some(65534));
        }),
    ];
    let staged = staged_name(&source);
    let journal = format!("{staged}.journal");
    let random = ".ftx-0123456789abcdef-0".to_owned();
    for (what, plant) in plants {
        for planted in [vec![&staged], vec![&journal], vec![&staged, &journal, &random]] {
            let out = tempfile::tempdir().unwrap();
            fs::write(&canary, "tweet").unwrap();
            let planted: Vec<PathBuf> = planted.into_iter().map(|name| out.path().join(name)).collect();
            planted.iter().for_each(|path| plant(path, &canary));
            let before = fs::symlink_metadata(&planted[0]).unwrap();
            let receiver = Receiver::start(out.path(), &["--once"]);
            let sent = send(&[], &[&source], &receiver.host());
            let received = receiver.wait();
            assert_eq!((sent.code, received.code), (0, 0), "{what}: {sent:?} {received:?}");
            assert!(fs::read(out.path().join("disk.img")).unwrap() == content, "{what}");
            let arrived = fs::symlink_metadata(out.path().join("disk.img")).unwrap();
            assert_eq!((arrived.nlink(), arrived.is_file()), (1, true), "{what}");
            assert_eq!(fs::read_to_string(&canary).unwrap(), "tweet", "{what}");
            assert!(!canary.with_file_name("nothing").exists(), "{what}");
            if let Ok(after) = fs::symlink_metadata(&planted[0]) {
                assert_eq!(
                    (after.ino(), after.mode(), after.len()),
                    (before.ino(), before.mode(), before.len()),
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn next_sender_is_served_after_all_odd_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("good.txt"), dir.path().join("out"));
    fs::write(&file, "good").unwrap();
    let receiver = Receiver::start(&out, &[]);
    let p = || Entry::file("p", b"abc");
    for entries in [
        vec![p(), Entry::file("p/c", b"abc")],
        vec![Entry::file("q/c", b"abc"), Entry::file("q", b"abc"), Entry::dir("q")],
        vec![p(), Entry::file("p", b"xyz"), p(), Entry::link("p", "q"), Entry::dir("p")],
        vec![p().with("mode", u32::MAX).with("mtime_ns", i64::MIN)],
    ] {
        transfer(&receiver, &entries);
    }
    assert_eq!(send(&[], &[&file], &receiver.host()).code, 0);
    let ended = receiver.kill_and_wait();
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    assert_eq!(fs::read_to_string(out.join("good.txt")).unwrap(), "good");
    assert!(names(&out).iter().all(|name| !name.contains(".ftx-")), "{:?}", names(&out));
}

/// A health check, a port scan or a mistyped address must not end a receiver that waits for its sender.
#[test]
fn probes_do_not_count_for_once() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a"), dir.path().join("out"));
    fs::write(&file, "bytes").unwrap();
    let frame = |form, json: &str| {
        let mut bytes = Vec::new();
        encode(form, json.as_bytes(), &mut bytes);
        bytes
    };
    let join = r#"{"ftx":"join","session":"00000000000000000000000000000000"}"#;
    let probes: [(&str, Vec<u8>); 10] = [
        ("nothing", Vec::new()),
        ("one byte", vec![66]),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("a length of zero", vec![0; 4]),
        ("a part of a hello", frame(Framing::Native, r#"{"ftx":"hello","version":1}"#)[..20].to_vec()),
        ("a frame of another kind", frame(Framing::Native, r#"{"ftx":"end","entries":0}"#)),
        ("a connection of no session", frame(Framing::Native, join)),
        ("a classic header without a digest", frame(Framing::Classic, r#"{"filename":"a","size":3}"#)),
    ];
    let mut receiver = Receiver::start(&out, &["--once"]);
    for (what, bytes) in probes {
        let mut stream = receiver.connect();
        stream.write_all(&bytes).unwrap();
        // The receiver may have reset the connection.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        assert!(!receiver.has_ended(), "{what}");
    }
    assert_eq!(send(&[], &[&file], &receiver.host()).code, 0);
    let ended = receiver.wait();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("HTTP is not supported"), "it is reported: {ended:?}");
    assert_eq!(names(&out), ["a"]);
}
