//! `ftx bench`: it reports every stage and leaves no file; a receiver that cannot measure, or refuses to, is an error.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use crate::common::{Ended, Receiver, fake_receiver, ftx, names, send};

/// Exit codes, as documented.
const USAGE: i32 = 2;
const CONNECTION: i32 = 10;
const FILE_IO: i32 = 11;
const PROTOCOL: i32 = 12;
const CANNOT_CONNECT: i32 = 35;
const REFUSED: i32 = 41;

fn bench(dir: &Path, args: &[&str]) -> Ended {
    let dir = dir.to_str().unwrap();
    ftx(&[&["bench", "--size", "1M", "--dir", dir], args].concat())
}

/// The lines of the table that begin with a label and have a rate.
fn rows(ended: &Ended) -> Vec<&str> {
    let labels = ["disk read", "disk write", "MD5", "wire", "together"];
    let is_row = |line: &&str| line.contains("B/s  ") && labels.iter().any(|label| line.starts_with(label));
    ended.stdout.lines().filter(is_row).collect()
}

fn has(rows: &[&str], label: &str, note: &str) -> bool {
    rows.iter().any(|row| row.starts_with(label) && row.contains(note))
}

#[test]
fn local_benchmark_reports_every_stage_and_a_real_transfer() {
    let dir = tempfile::tempdir().unwrap();
    let ended = bench(dir.path(), &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let rows = rows(&ended);
    for (label, note) in [
        ("disk read", ""),
        ("MD5", "one stream"),
        ("MD5", "in parallel"),
        ("wire", "TCP on this machine"),
        ("disk write", ""),
        ("together", "transferred"),
    ] {
        assert!(has(&rows, label, note), "{label} {note}: {ended:?}");
    }
    assert!(ended.stdout.lines().last().unwrap().starts_with("Bottleneck: "), "{ended:?}");
    assert_eq!(ended.stderr, "");
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn remote_benchmark_reports_every_stage_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (here, out, file) = (dir.path().join("here"), dir.path().join("out"), dir.path().join("file"));
    fs::create_dir(&here).unwrap();
    fs::write(&file, "content").unwrap();
    let receiver = Receiver::start(&out, &["--count", "2"]);
    let ended = bench(&here, &[&receiver.host()]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let rows = rows(&ended);
    for (label, note) in [
        ("disk read", ""),
        ("MD5", "one stream"),
        ("MD5", "at the receiver"),
        ("wire", "to 127.0.0.1"),
        ("disk write", "at the receiver"),
        ("together", "calculated"),
    ] {
        assert!(has(&rows, label, note), "{label} {note}: {ended:?}");
    }
    assert!(ended.stdout.lines().last().unwrap().starts_with("Bottleneck: "), "{ended:?}");
    assert_eq!((names(&here), names(&out)), (vec![], vec![]));

    assert_eq!(send(&[], &[&file], &receiver.host()).code, 0);
    assert_eq!(names(&out), ["file"]);
    let received = receiver.wait();
    assert_eq!(received.code, 0, "{received:?}");
    assert!(received.stdout.contains("Measured for 127.0.0.1 in "), "{received:?}");
    assert!(received.stdout.contains("Received 1 file "), "{received:?}");
}

#[test]
fn bad_answers_to_a_benchmark_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let until_closed = |mut stream: TcpStream| drop(stream.read_to_end(&mut Vec::new()));
    const WELCOME: &str = r#"{"ftx":"welcome","version":1,"features":["measure"]}"#;
    for (answer, code, line) in [
        // A receiver of a version without the feature.
        (
            vec![r#"{"ftx":"welcome","version":1,"features":[],"agent":"ftx 0.0.9"}"#],
            REFUSED,
            "the other side (ftx 0.0.9) does not support the feature \"measure\"",
        ),
        (
            vec![r#"{"ftx":"welcome","version":99,"features":["measure"]}"#],
            PROTOCOL,
            "protocol version 99 is not supported",
        ),
        (vec!["[]"], PROTOCOL, "not a JSON object"),
        (
            vec![WELCOME, r#"{"ftx":"measured","bytes":1073741824,"ns":1}"#],
            PROTOCOL,
            "262144 bytes requested",
        ),
        (vec![WELCOME, r#"{"ftx":"measured","bytes":262144,"ns":0}"#], PROTOCOL, "in 0 ns"),
        (
            vec![WELCOME, r#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#],
            PROTOCOL,
            "unexpected frame: want",
        ),
        (
            vec![WELCOME, r#"{"ftx":"error","code":"refused","message":"not \u001b[31mtoday"}"#],
            REFUSED,
            r"not \x1b[31mtoday",
        ),
        (vec![], CONNECTION, "closed the connection"),
        (vec![WELCOME], CONNECTION, "closed the connection"),
    ] {
        // Closes the connection only where the answer does not end the session.
        let (host, thread) = fake_receiver(&answer, if code == CONNECTION { drop } else { until_closed });
        let ended = bench(dir.path(), &[&host]);
        thread.join().unwrap();
        assert_eq!(ended.code, code, "{answer:?}: {ended:?}");
        assert!(ended.stderr.contains(line), "{answer:?}: {ended:?}");
        assert!(ended.stdout.is_empty() && !ended.stderr.contains('\u{1b}'), "{answer:?}: {ended:?}");
        assert_eq!(names(dir.path()), Vec::<String>::new(), "{answer:?}");
    }
}

#[test]
fn benchmark_errors_have_their_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let ended = bench(&dir.path().join("missing"), &[]);
    assert_eq!(ended.code, FILE_IO, "{ended:?}");
    assert!(ended.stderr.contains("cannot create a file in ") && ended.stdout.is_empty(), "{ended:?}");

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let ended = bench(dir.path(), &[&closed]);
    assert_eq!(ended.code, CANNOT_CONNECT, "{ended:?}");
    assert_eq!(names(dir.path()), Vec::<String>::new());

    for args in [&["--size", "1K"][..], &["--size", "2G"], &["bob@nas"], &["nas", "nas"], &["--port", "0"]] {
        let ended = ftx(&[&["bench"], args].concat());
        assert_eq!(ended.code, USAGE, "{args:?}: {ended:?}");
    }
}
