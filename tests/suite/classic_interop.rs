//! The classic dialect against independent programs in plain Python: `tests/textbook/client.py` sends and
//! `tests/textbook/server.py` receives.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The spellings of the header's size key; each program is run with one of them.
const VARIANTS: [&str; 3] = ["total_size", "file_size", "size"];
/// A program that runs longer is killed, and its test fails.
const WATCHDOG: Duration = Duration::from_secs(60);
const LARGE_BYTES: usize = 100 << 20;

// ---------------------------------------------------------------------------------------- to `ftx recv`

#[test]
fn an_empty_file_and_one_of_a_single_byte_arrive() {
    for variant in VARIANTS {
        let place = Place::with(&[("empty", 0), ("single", 1)]);
        let receiver = place.ftx_recv(&["--count", "2"]);
        place.client(&receiver, &["--variant", variant]).succeeds();
        receiver.finish().succeeds();
        place.assert_all_arrived();
    }
}

#[test]
fn an_empty_file_and_one_of_a_single_byte_arrive_in_a_row() {
    for variant in VARIANTS {
        let place = Place::with(&[("1 empty", 0), ("2 single", 1), ("3 empty", 0)]);
        let receiver = place.ftx_recv(&["--once"]);
        place.client(&receiver, &["--row", "--variant", variant]).succeeds();
        receiver.finish().succeeds();
        place.assert_all_arrived();
    }
}

#[test]
fn two_hundred_files_arrive_on_a_connection_each() {
    for variant in VARIANTS {
        let place = Place::with_200_files();
        let receiver = place.ftx_recv(&["--count", "200"]);
        place.client(&receiver, &["--variant", variant]).succeeds();
        receiver.finish().succeeds();
        place.assert_all_arrived();
    }
}

#[test]
fn two_hundred_files_arrive_in_a_row_on_one_connection() {
    for variant in VARIANTS {
        let place = Place::with_200_files();
        let receiver = place.ftx_recv(&["--once"]);
        place.client(&receiver, &["--row", "--variant", variant]).succeeds();
        assert!(receiver.finish().succeeds().stdout.contains("Received 200 files"));
        place.assert_all_arrived();
    }
}

#[test]
fn a_file_of_100_mib_arrives() {
    for variant in &VARIANTS[..2] {
        let place = Place::with(&[("large", LARGE_BYTES)]);
        let receiver = place.ftx_recv(&["--once"]);
        place.client(&receiver, &["--variant", variant]).succeeds();
        receiver.finish().succeeds();
        place.assert_all_arrived();
    }
}

#[test]
fn a_header_sent_byte_by_byte_is_understood() {
    for variant in VARIANTS {
        let place = Place::with(&[("a.txt", 1000), ("b.txt", 0), ("c.txt", 1)]);
        let receiver = place.ftx_recv(&["--once"]);
        place.client(&receiver, &["--row", "--trickle", "--variant", variant]).succeeds();
        receiver.finish().succeeds();
        place.assert_all_arrived();
    }
}

#[test]
fn headers_and_bodies_in_one_segment_are_separated() {
    for variant in VARIANTS {
        let place = Place::with(&[("a.txt", 1000), ("b.txt", 0), ("c.txt", 1), ("d.txt", 20_000)]);
        let receiver = place.ftx_recv(&["--once"]);
        place.client(&receiver, &["--row", "--glue", "--variant", variant]).succeeds();
        receiver.finish().succeeds();
        place.assert_all_arrived();
    }
}

#[test]
fn two_hundred_glued_files_with_large_ones_are_separated() {
    let place = Place::with_200_files();
    place.make("file 020 large", 3 << 20);
    place.make("file 120 large", 5 << 20);
    let receiver = place.ftx_recv(&["--once"]);
    place.client(&receiver, &["--row", "--glue"]).succeeds();
    receiver.finish().succeeds();
    place.assert_all_arrived();
}

#[test]
fn an_absolute_name_is_stored_as_its_last_component() {
    let place = Place::with(&[("a.txt", 1000)]);
    let receiver = place.ftx_recv(&["--once"]);
    place.client(&receiver, &["--name", "/a/b/c/a.txt"]).succeeds();
    receiver.finish().succeeds();
    place.assert_all_arrived();
}

#[test]
fn names_beyond_ascii_arrive_as_they_are() {
    for variant in VARIANTS {
        let place = Place::with(&[("größe \"1\".txt", 10), ("日本語 🦀.txt", 20), ("back\\slash", 30)]);
        let receiver = place.ftx_recv(&["--once"]);
        place.client(&receiver, &["--row", "--variant", variant]).succeeds();
        receiver.finish().succeeds();
        place.assert_all_arrived();
    }
}

#[test]
fn an_uppercase_digest_is_understood() {
    let place = Place::with(&[("a.txt", 1000), ("b.txt", 2000)]);
    let receiver = place.ftx_recv(&["--once"]);
    place.client(&receiver, &["--row", "--upper"]).succeeds();
    receiver.finish().succeeds();
    place.assert_all_arrived();
}

/// 790 is `16 03 00 00` on the wire; TLS begins with `16 03`.
#[test]
fn a_header_whose_length_looks_like_tls_is_understood() {
    let place = Place::with(&[("a.txt", 1000)]);
    let receiver = place.ftx_recv(&["--once"]);
    place.client(&receiver, &["--pad", "790", "--trickle"]).succeeds();
    receiver.finish().succeeds();
    place.assert_all_arrived();
}

#[test]
fn two_senders_at_the_same_time_do_not_disturb_each_other() {
    let place = Place::with(&[("slow", 1 << 20), ("fast", 1 << 20)]);
    let receiver = place.ftx_recv(&["--count", "2"]);
    let mut slow = place.start_client(&receiver, &[place.source("slow")], &["--halfway"]);
    assert_eq!(slow.line_of_stdout(), "halfway");
    place.start_client(&receiver, &[place.source("fast")], &[]).finish().succeeds();
    assert!(receiver.line_of_stdout().starts_with("Received 1 file"));
    assert!(place.arrived("fast") && !place.arrived("slow"), "one has landed while the other is on its way");
    slow.answer("go on");
    slow.finish().succeeds();
    receiver.finish().succeeds();
    place.assert_all_arrived();
}

#[test]
fn a_complete_file_is_committed_before_the_next_body_arrives() {
    let place = Place::with(&[("1 whole", 3 << 20), ("2 small", 10), ("3 slow", 1 << 20)]);
    let receiver = place.ftx_recv(&["--once"]);
    let mut client = place.start_client(&receiver, &place.sources(), &["--row", "--halfway"]);
    assert_eq!(client.line_of_stdout(), "halfway");
    let start = Instant::now();
    while !(place.arrived("1 whole") && place.arrived("2 small")) {
        assert!(start.elapsed() < Duration::from_secs(10), "they wait for the third one");
        thread::yield_now();
    }
    assert!(!place.arrived("3 slow"));
    client.answer("go on");
    client.finish().succeeds();
    receiver.finish().succeeds();
    place.assert_all_arrived();
}

#[test]
fn a_body_that_does_not_match_its_digest_leaves_nothing_behind() {
    for variant in VARIANTS {
        let place = Place::with(&[("bad", 100_000)]);
        let receiver = place.ftx_recv(&["--once"]);
        place.client(&receiver, &["--variant", variant, "--md5", "d41d8cd98f00b204e9800998ecf8427e"]);
        let ended = receiver.finish().fails_with(40);
        assert!(ended.stderr.contains("bad: MD5 mismatch"), "{}", ended.stderr);
        place.assert_only_arrived(&[]);
    }
}

#[test]
fn a_truncated_body_leaves_nothing_behind() {
    for variant in VARIANTS {
        for missing in ["1", "99999", "100000"] {
            let place = Place::with(&[("bad", 100_000)]);
            let receiver = place.ftx_recv(&["--once"]);
            place.client(&receiver, &["--variant", variant, "--cut", missing]);
            receiver.finish().fails_with(10);
            place.assert_only_arrived(&[]);
        }
    }
}

#[test]
fn a_truncated_body_is_reported_with_the_number_of_missing_bytes() {
    for missing in ["100000", "99999", "1"] {
        let place = Place::with(&[("bad", 100_000)]);
        let receiver = place.ftx_recv(&["--once"]);
        place.client(&receiver, &["--cut", missing]);
        let ended = receiver.finish().fails_with(10);
        assert!(ended.stderr.contains(&format!("bad, {missing} bytes before its end")), "{}", ended.stderr);
    }
}

#[test]
fn files_before_a_bad_file_are_kept() {
    for (fault, code) in [(["--md5", "d41d8cd98f00b204e9800998ecf8427e"], 40), (["--cut", "1"], 10)] {
        let place = Place::with(&[("1 good", 1000), ("2 good", 0), ("3 bad", 1000)]);
        let receiver = place.ftx_recv(&["--once"]);
        place.client(&receiver, &["--row", fault[0], fault[1]]);
        receiver.finish().fails_with(code);
        place.assert_only_arrived(&["1 good", "2 good"]);
    }
}

#[test]
fn a_different_file_of_the_same_name_is_left_alone() {
    let place = Place::with(&[("a.txt", 1000)]);
    for old in [&b"old"[..], b"", &[0; 1000]] {
        fs::write(place.to().join("a.txt"), old).unwrap();
        let receiver = place.ftx_recv(&["--once"]);
        place.client(&receiver, &[]);
        receiver.finish().fails_with(23);
        assert_eq!(names(&place.to()), ["a.txt"]);
        assert_eq!(fs::read(place.to().join("a.txt")).unwrap(), old);
    }
}

#[test]
fn an_identical_file_of_the_same_name_is_no_failure() {
    let place = Place::with(&[("a.txt", 1000)]);
    fs::copy(place.source("a.txt"), place.to().join("a.txt")).unwrap();
    let receiver = place.ftx_recv(&["--once"]);
    place.client(&receiver, &[]).succeeds();
    receiver.finish().succeeds();
    place.assert_all_arrived();
}

// ---------------------------------------------------------------------------------------- from `ftx send`

#[test]
fn a_textbook_receiver_takes_an_empty_file_and_one_of_a_single_byte() {
    for variant in VARIANTS {
        for how in ["--classic", "--classic=each"] {
            let place = Place::with(&[("1 empty", 0), ("2 single", 1), ("3 empty", 0)]);
            let receiver = place.server(how, &["--variant", variant]);
            place.ftx_send(&receiver, how).succeeds();
            receiver.finish().succeeds();
            place.assert_all_arrived();
        }
    }
}

#[test]
fn a_textbook_receiver_takes_two_hundred_files_on_a_connection_each() {
    for variant in VARIANTS {
        let place = Place::with_200_files();
        let receiver = place.server("--classic=each", &["--variant", variant]);
        assert!(place.ftx_send(&receiver, "--classic=each").succeeds().stdout.contains("Sent 200 files"));
        receiver.finish().succeeds();
        place.assert_all_arrived();
    }
}

#[test]
fn a_textbook_receiver_takes_two_hundred_files_in_a_row() {
    for variant in VARIANTS {
        let place = Place::with_200_files();
        let receiver = place.server("--classic", &["--variant", variant]);
        assert!(place.ftx_send(&receiver, "--classic").succeeds().stdout.contains("Sent 200 files"));
        receiver.finish().succeeds();
        place.assert_all_arrived();
    }
}

#[test]
fn a_textbook_receiver_takes_a_file_of_100_mib() {
    for (variant, how) in [("total_size", "--classic"), ("file_size", "--classic=each")] {
        let place = Place::with(&[("large", LARGE_BYTES)]);
        let receiver = place.server(how, &["--variant", variant]);
        place.ftx_send(&receiver, how).succeeds();
        receiver.finish().succeeds();
        place.assert_all_arrived();
    }
}

#[test]
fn a_textbook_receiver_takes_names_beyond_ascii() {
    let place = Place::with(&[("größe \"1\".txt", 10), ("日本語 🦀.txt", 20), ("back\\slash", 30)]);
    let receiver = place.server("--classic", &[]);
    place.ftx_send(&receiver, "--classic").succeeds();
    receiver.finish().succeeds();
    place.assert_all_arrived();
}

#[test]
fn ftx_send_reports_that_a_classic_receiver_confirms_nothing() {
    let place = Place::with(&[("a.txt", 1000)]);
    let receiver = place.server("--classic", &[]);
    let ended = place.ftx_send(&receiver, "--classic").succeeds();
    assert!(ended.stdout.contains("Not confirmed"), "{}", ended.stdout);
    receiver.finish().succeeds();
}

#[test]
fn a_receiver_that_closes_after_one_of_several_files_makes_the_sender_fail() {
    let place = Place::with(&[("1 taken", 1000), ("2 refused", 1000), ("3 refused", 20 << 20)]);
    // It accepts one file per connection, and ends after one.
    let receiver = place.start_server(&["--files", "1"]);
    let ended = place.ftx_send(&receiver, "--classic").fails_with(10);
    assert!(ended.stderr.starts_with("ftx: the receiver closed the connection"), "{}", ended.stderr);
    receiver.finish().succeeds();
    place.assert_only_arrived(&["1 taken"]);
}

/// All of it is sent before the refusal can arrive; when it arrives is a race, hence the repetition.
#[test]
fn a_receiver_that_closes_after_one_of_several_small_files_makes_the_sender_fail() {
    let place = Place::with(&[("1 taken", 1000), ("2 refused", 1000)]);
    let receiver = place.start_server(&["--files", "30"]);
    for _ in 0..30 {
        let ended = place.ftx_send(&receiver, "--classic").fails_with(10);
        assert!(ended.stderr.starts_with("ftx: the receiver closed the connection"), "{}", ended.stderr);
    }
    receiver.finish().succeeds();
    place.assert_only_arrived(&["1 taken"]);
}

// ---------------------------------------------------------------------------------------- helpers

/// A directory with the files to send, and the receiver's output directory.
struct Place(TempDir);

impl Place {
    /// One file per pair of name and size.
    fn with(files: &[(&str, usize)]) -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        fs::create_dir(place.from()).unwrap();
        fs::create_dir(place.to()).unwrap();
        for (name, size) in files {
            place.make(name, *size);
        }
        place
    }

    fn with_200_files() -> Self {
        let place = Place::with(&[]);
        for number in 0..200 {
            place.make(&format!("file {number:03}.txt"), number * 37);
        }
        place
    }

    fn make(&self, name: &str, size: usize) {
        fs::write(self.source(name), content(name, size)).unwrap();
    }

    fn from(&self) -> PathBuf {
        self.0.path().join("from")
    }

    fn to(&self) -> PathBuf {
        self.0.path().join("to")
    }

    fn source(&self, name: &str) -> PathBuf {
        self.from().join(name)
    }

    /// All files to send, in the order of their names.
    fn sources(&self) -> Vec<PathBuf> {
        names(&self.from()).iter().map(|name| self.source(name)).collect()
    }

    fn arrived(&self, name: &str) -> bool {
        self.to().join(name).exists()
    }

    fn ftx_recv(&self, args: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftx"));
        command.args(["recv", "--bind", "127.0.0.1", "--port", "0", "--out"]).arg(self.to()).args(args);
        let mut receiver = Running::start(&mut command);
        let line = receiver.line_of_stderr();
        let address = line.strip_prefix("Listening on 127.0.0.1:").and_then(|rest| rest.split_once('.'));
        receiver.port = address.expect(&line).0.parse().expect(&line);
        receiver
    }

    /// Runs `ftx send` with all files to its end.
    fn ftx_send(&self, receiver: &Running, how: &str) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftx"));
        command.arg("send").arg(how).args(self.sources()).arg(format!("127.0.0.1:{}", receiver.port));
        Running::start(&mut command).finish()
    }

    /// Starts the textbook receiver, for one connection or one per file as `how` sends them.
    fn server(&self, how: &str, args: &[&str]) -> Running {
        let count = self.sources().len().to_string();
        let row = if how == "--classic" { &["--row"][..] } else { &[] };
        self.start_server(&[&["--files", &count], row, args].concat())
    }

    fn start_server(&self, args: &[&str]) -> Running {
        let mut receiver = Running::start(python("server.py").arg(self.to()).args(args));
        let line = receiver.line_of_stdout();
        receiver.port = line.parse().expect(&line);
        receiver
    }

    /// Runs the textbook sender with all files to its end.
    fn client(&self, receiver: &Running, args: &[&str]) -> Ended {
        self.start_client(receiver, &self.sources(), args).finish()
    }

    fn start_client(&self, receiver: &Running, files: &[PathBuf], args: &[&str]) -> Running {
        let port = receiver.port.to_string();
        Running::start(python("client.py").args(args).args(["127.0.0.1", &port]).args(files))
    }

    /// The output directory holds exactly the files that were sent, byte for byte.
    fn assert_all_arrived(&self) {
        let all = names(&self.from());
        self.assert_only_arrived(&all.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// The output directory holds exactly these files, byte for byte, and no staged file.
    fn assert_only_arrived(&self, expected: &[&str]) {
        assert_eq!(names(&self.to()), expected);
        for name in expected {
            let (sent, landed) = (fs::read(self.source(name)), fs::read(self.to().join(name)));
            assert!(sent.unwrap() == landed.unwrap(), "{name} is not what was sent");
        }
    }
}

/// Bytes that differ within a file and between files.
fn content(name: &str, size: usize) -> Vec<u8> {
    let seed = name.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut bytes = vec![0; size];
    for (chunk, number) in bytes.chunks_mut(8).zip(seed..) {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        chunk.copy_from_slice(&(mixed ^ (mixed >> 29)).to_le_bytes()[..chunk.len()]);
    }
    bytes
}

/// The names in a folder, hidden ones too, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

fn python(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/textbook").join(script));
    command
}

/// A running program; killed when dropped.
struct Running {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    /// Its port if it listens.
    port: u16,
}

/// A program's exit code and the output that was not read before.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Running { child, stdout: lines(stdout), stderr: lines(stderr), port: 0 }
    }

    fn line_of_stdout(&self) -> String {
        self.stdout.recv_timeout(WATCHDOG).expect("a line on stdout")
    }

    fn line_of_stderr(&self) -> String {
        self.stderr.recv_timeout(WATCHDOG).expect("a line on stderr")
    }

    /// Writes a line to its standard input.
    fn answer(&mut self, line: &str) {
        writeln!(self.child.stdin.as_ref().unwrap(), "{line}").unwrap();
    }

    /// Waits for its end, which closes both of its outputs.
    fn finish(mut self) -> Ended {
        let deadline = Instant::now() + WATCHDOG;
        let (stdout, stderr) = (rest(&self.stdout, deadline), rest(&self.stderr, deadline));
        Ended { code: self.child.wait().unwrap().code(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It runs only if its test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    #[track_caller]
    fn succeeds(self) -> Self {
        self.ends_with(0)
    }

    #[track_caller]
    fn fails_with(self, code: i32) -> Self {
        assert_ne!(code, 0);
        self.ends_with(code)
    }

    #[track_caller]
    fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// The lines of an output as they arrive.
fn lines(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    receiver
}

/// All lines until the output ends.
fn rest(lines: &Receiver<String>, deadline: Instant) -> String {
    let mut text = String::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => text += &(line + "\n"),
            Err(RecvTimeoutError::Disconnected) => return text,
            Err(RecvTimeoutError::Timeout) => panic!("the program did not end; its output so far:\n{text}"),
        }
    }
}
