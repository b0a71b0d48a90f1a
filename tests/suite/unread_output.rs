//! Output that is not read (a stopped pager or log) blocks neither its session nor later ones.
//!
//! This test fails if a line is printed by a thread that other work waits for.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use crate::common::{FTX, send, until, wait};

/// Refused files; the lines about them fill the pipe and the queue before it at both ends.
const REFUSED: usize = 5000;

fn start(args: &[&str]) -> Child {
    Command::new(FTX)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads the remaining output and waits for the end.
fn end(mut child: Child, mut stderr: impl Read + Send + 'static) -> (i32, String, String) {
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let code = wait(&mut child);
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    (code, stdout, reading.join().unwrap().unwrap())
}

#[test]
fn sessions_continue_while_no_log_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out) = (dir.path().join("t"), dir.path().join("out"));
    for (root, content) in [(&tree, "new"), (&out.join("t"), "old one")] {
        fs::create_dir_all(root).unwrap();
        for number in 0..REFUSED {
            fs::write(root.join(format!("{number:0240}")), content).unwrap();
        }
    }
    fs::write(tree.join("good"), "good").unwrap();
    let receiver_args = ["recv", "--bind", "127.0.0.1", "--port", "0", "--count", "2", "--out"];
    let mut receiver = start(&[&receiver_args[..], &[out.to_str().unwrap()]].concat());
    let mut log = BufReader::new(receiver.stderr.take().unwrap());
    let mut first = String::new();
    log.read_line(&mut first).unwrap();
    let host = first.strip_prefix("Listening on ").unwrap().split(". ").next().unwrap();
    // From here on neither log is read.
    let mut sender = start(&["send", "--retries", "0", "--timeout", "20", tree.to_str().unwrap(), host]);
    let sender_log = sender.stderr.take().unwrap();
    until("the file that is not refused", || out.join("t/good").exists());
    let other = dir.path().join("other");
    fs::write(&other, "other").unwrap();
    let sent = send(&["--timeout", "20"], &[&other], host);
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    // The receiver ends after two sessions, so the session of the unread sender has ended as well.
    let (code, stdout, stderr) = end(receiver, log);
    assert_eq!(code, 23);
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    assert!(
        stderr.contains(" lines were dropped, because the output was not read\n"),
        "{} bytes",
        stderr.len()
    );
    let (code, stdout, stderr) = end(sender, sender_log);
    assert_eq!(code, 23);
    // The last line is never dropped.
    assert!(stdout.contains("5,000 entries were NOT transferred"), "{stdout}");
    assert!(
        stderr.contains(" lines were dropped, because the output was not read\n"),
        "{} bytes",
        stderr.len()
    );
}
