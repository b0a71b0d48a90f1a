//! A Unix socket carries everything that TCP carries: trees over several connections, resumed files, lost connections, the
//! classic dialect, measurements.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::common::proofs::not_run;
use crate::common::{FTX, Receiver, end, ftx, listing, names, send, start_send_with, until};

const FILE_IO_OR_CONNECTION: [i32; 2] = [10, 11];

fn socket_in(dir: &Path) -> String {
    format!("unix:{}", dir.join("socket").display())
}

/// A folder with small files, an empty folder, a link, and a file of several parts.
fn make_tree(dir: &Path) -> std::path::PathBuf {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    fs::create_dir(tree.join("empty")).unwrap();
    for number in 0..200u32 {
        let content = number.to_le_bytes().repeat(number as usize * 5);
        fs::write(tree.join(format!("deep/er/{number}")), content).unwrap();
    }
    std::os::unix::fs::symlink("deep/er/7", tree.join("link")).unwrap();
    let large: Vec<u8> = (0..30_000_000u32).map(|i| (i / 3) as u8).collect();
    fs::write(tree.join("large"), large).unwrap();
    tree
}

/// Staged files that a killed receiver left are not compared.
fn assert_same(received: &Path, sent: &Path) {
    let (mut received, sent) = (listing(received), listing(sent));
    received.retain(|line| !line.contains(".ftx-"));
    let differ = |from: &[String], in_other: &[String]| -> Vec<String> {
        from.iter().filter(|line| !in_other.contains(line)).cloned().collect()
    };
    assert_eq!(differ(&received, &sent), differ(&sent, &received));
}

#[test]
fn tree_arrives_over_any_number_of_connections() {
    let dir = tempfile::tempdir().unwrap();
    let tree = make_tree(dir.path());
    for streams in ["1", "4"] {
        let out = tempfile::tempdir().unwrap();
        let receiver = Receiver::start_on(&socket_in(dir.path()), out.path(), &["--once"]);
        let sent = send(&["-j", streams], &[&tree], &receiver.host());
        assert_eq!(sent.code, 0, "{}", sent.stderr);
        let received = receiver.wait();
        assert_eq!(received.code, 0, "{}", received.stderr);
        assert!(received.stdout.contains("from local user"), "{}", received.stdout);
        assert_same(&out.path().join("tree"), &tree);
        assert!(!dir.path().join("socket").exists(), "the socket file is removed at the end");
    }
}

#[test]
fn socket_of_a_killed_receiver_is_replaced_and_the_transfer_continues() {
    let dir = tempfile::tempdir().unwrap();
    let tree = make_tree(dir.path());
    let out = tempfile::tempdir().unwrap();
    let at = socket_in(dir.path());
    let receiver = Receiver::start_on(&at, out.path(), &[]);
    let sender = start_send_with(&["--retries", "20"], &[&tree], &at);
    until("a first file", || !names(out.path()).is_empty());
    receiver.kill();
    assert!(dir.path().join("socket").exists(), "a killed receiver leaves its socket file");
    let receiver = Receiver::start_on(&at, out.path(), &["--once"]);
    let sent = end(sender);
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    receiver.wait();
    assert_same(&out.path().join("tree"), &tree);
}

#[test]
fn sender_waits_for_a_socket_that_is_not_there_yet() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "content").unwrap();
    let at = socket_in(dir.path());
    let sender = start_send_with(&["--retries", "20"], &[&file], &at);
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start_on(&at, out.path(), &["--once"]);
    assert_eq!(end(sender).code, 0);
    receiver.wait();
    assert_eq!(fs::read(out.path().join("a")).unwrap(), b"content");
    let refused = send(&[], &[&file], &at);
    assert_eq!(refused.code, 35, "{}", refused.stderr);
    assert!(refused.stderr.contains(&at), "{}", refused.stderr);
}

#[test]
fn lost_connection_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let tree = make_tree(dir.path());
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start_on(&socket_in(dir.path()), out.path(), &["--once"]);
    // A relay that cuts the first connection after some megabytes.
    let relay = format!("unix:{}", dir.path().join("relay").display());
    let listener = UnixListener::bind(dir.path().join("relay")).unwrap();
    let target = dir.path().join("socket");
    thread::spawn(move || {
        for (number, connection) in listener.incoming().enumerate() {
            let from = connection.unwrap();
            let to = UnixStream::connect(&target).unwrap();
            let limit = if number == 0 { 12 << 20 } else { u64::MAX };
            for (mut read, mut write) in [(from.try_clone().unwrap(), to.try_clone().unwrap()), (to, from)] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut std::io::Read::take(&mut read, limit), &mut write);
                    let how = if limit == u64::MAX { Shutdown::Write } else { Shutdown::Both };
                    let _ = (write.shutdown(how), read.shutdown(Shutdown::Read));
                });
            }
        }
    });
    let sent = send(&["--retries", "5", "-j", "1"], &[&tree], &relay);
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    receiver.wait();
    assert_same(&out.path().join("tree"), &tree);
}

#[test]
fn classic_dialect_works() {
    let dir = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start_on(&socket_in(dir.path()), out.path(), &["--count", "2"]);
    let file = dir.path().join("a");
    fs::write(&file, "by ftx").unwrap();
    let sent = send(&["--classic"], &[&file], &receiver.host());
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    let header = format!(r#"{{"filename":"b","size":7,"md5":"{}"}}"#, ftx::digest::Md5::of(b"by hand"));
    let mut peer = UnixStream::connect(dir.path().join("socket")).unwrap();
    peer.write_all(&(header.len() as u32).to_le_bytes()).unwrap();
    peer.write_all(header.as_bytes()).unwrap();
    peer.write_all(b"by hand").unwrap();
    drop(peer);
    let received = receiver.wait();
    assert_eq!(received.code, 0, "{}", received.stderr);
    assert_eq!(names(out.path()), ["a", "b"]);
    assert_eq!(fs::read(out.path().join("b")).unwrap(), b"by hand");
}

#[test]
fn refused_classic_file_is_an_error_over_every_transport() {
    let dir = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "new").unwrap();
    fs::write(out.path().join("a"), "other").unwrap();
    for bind in [socket_in(dir.path()), "127.0.0.1".into()] {
        let receiver = Receiver::start_on(&bind, out.path(), &["--once"]);
        let sent = send(&["--classic"], &[&dir.path().join("a")], &receiver.host());
        assert_eq!(sent.code, 10, "{bind}: {sent:?}");
        receiver.wait();
    }
}

#[test]
fn peer_in_another_pid_namespace_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "content").unwrap();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", FTX]);
    let is_permitted = Command::new("unshare").args(["--pid", "--fork", "true"]).output();
    if !is_permitted.is_ok_and(|output| output.status.success()) {
        return not_run("a receiver in a PID namespace", "unshare --pid is not permitted");
    }
    let receiver = Receiver::spawn(command, &socket_in(dir.path()), out.path(), &["--once"]);
    let sent = send(&[], &[&file], &receiver.host());
    assert_eq!(sent.code, 0, "{sent:?}");
    let received = receiver.wait();
    assert_eq!(received.code, 0, "{received:?}");
}

#[test]
fn measurements_work() {
    let dir = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start_on(&socket_in(dir.path()), out.path(), &[]);
    let measured = ftx(&["bench", &receiver.host(), "--size", "4M", "--dir", dir.path().to_str().unwrap()]);
    assert_eq!(measured.code, 0, "{}", measured.stderr);
    receiver.kill();
}

#[test]
fn socket_in_use_and_other_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let at = socket_in(dir.path());
    let receiver = Receiver::start_on(&at, out.path(), &["--once"]);
    let out_dir = out.path().to_str().unwrap();
    let second = ftx(&["recv", "--bind", &at, "--out", out_dir]);
    assert!(FILE_IO_OR_CONNECTION.contains(&second.code) && second.stderr.contains(&at), "{second:?}");
    let file = dir.path().join("a");
    fs::write(&file, "content").unwrap();
    let at_file = format!("unix:{}", file.display());
    let third = ftx(&["recv", "--bind", &at_file, "--out", out_dir]);
    assert!(third.code != 0 && third.stderr.contains(&at_file), "{third:?}");
    assert_eq!(send(&[], &[&file], &receiver.host()).code, 0, "the first receiver still serves");
    receiver.wait();
    assert_eq!(fs::read(&file).unwrap(), b"content");
}
