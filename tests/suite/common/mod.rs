//! Running the real program in tests.

pub mod mounted;
pub mod proofs;
pub mod proxy;
pub mod raw;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ftx::wire::frame::{Framing, encode};

pub const FTX: &str = env!("CARGO_BIN_EXE_ftx");

/// A program that runs longer hangs.
const WATCHDOG: Duration = Duration::from_secs(120);

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    /// Unconverted, as names need not be UTF-8.
    pub stdout_bytes: Vec<u8>,
    pub stderr: String,
}

/// A running `ftx recv` on a free port of this machine.
pub struct Receiver {
    child: Child,
    /// 0 at a Unix socket.
    pub port: u16,
    /// `127.0.0.1:PORT` or `unix:PATH`.
    address: String,
    lines: mpsc::Receiver<String>,
    printed: String,
}

impl Receiver {
    /// Starts `ftx recv --bind 127.0.0.1 --port 0 --out OUT ARGS`.
    pub fn start(out: &Path, args: &[&str]) -> Self {
        Self::start_on("127.0.0.1", out, args)
    }

    pub fn start_on(bind: &str, out: &Path, args: &[&str]) -> Self {
        Self::spawn(Command::new(FTX), bind, out, args)
    }

    /// With a limit of open descriptors.
    pub fn start_limited(descriptors: u32, out: &Path, args: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\""), FTX]);
        Self::spawn(shell, "127.0.0.1", out, args)
    }

    /// Appends `recv` and its arguments to `command`.
    pub fn spawn(mut command: Command, bind: &str, out: &Path, args: &[&str]) -> Self {
        let port: &[&str] = if args.contains(&"--port") { &[] } else { &["--port", "0"] };
        let mut child = command
            .args(["recv", "--bind", bind])
            .args(port)
            .arg("--out")
            .arg(out)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        stderr.read_line(&mut first).unwrap();
        let words =
            first.strip_prefix("Listening on ").unwrap_or_else(|| panic!("no listening line: {first:?}"));
        let bound = words.split(". ").next().unwrap();
        let (port, address) = match bound.parse::<std::net::SocketAddr>() {
            Ok(bound) => (bound.port(), format!("127.0.0.1:{}", bound.port())),
            Err(_) => (0, bound.to_owned()),
        };
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let _ = send.send(String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned());
            }
        });
        Receiver { child, port, address, lines, printed: String::new() }
    }

    /// Waits until standard error contains these words.
    pub fn wait_for(&mut self, words: &str) {
        while !self.printed.contains(words) {
            match self.lines.recv_timeout(WATCHDOG) {
                Ok(line) => self.printed += &line,
                Err(error) => panic!("no \"{words}\" ({error}): {}", self.printed),
            }
        }
    }

    /// Whether standard error contains these words by now.
    pub fn has_printed(&mut self, words: &str) -> bool {
        self.printed.extend(self.lines.try_iter());
        self.printed.contains(words)
    }

    /// Drops the output so far, so that [`Receiver::wait_for`] waits for new output.
    pub fn clear_output(&mut self) {
        self.printed.clear();
    }

    /// `127.0.0.1:PORT` or `unix:PATH`
    pub fn host(&self) -> String {
        self.address.clone()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        stream
    }

    /// `kill -9`
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// `kill -9`; returns its output.
    pub fn kill_and_wait(mut self) -> Ended {
        self.child.kill().unwrap();
        self.wait()
    }

    /// Waits up to two seconds for its end, then kills it.
    pub fn wait_or_kill(mut self) -> Ended {
        let start = Instant::now();
        while !self.has_ended() && start.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        self.wait()
    }

    /// Waits for a receiver with `--once`. If its connections have closed without a session, terminates it.
    pub fn wait_or_end(mut self) -> Ended {
        until("the end of the connection", || self.has_ended() || self.sockets() <= 1);
        if !self.has_ended() {
            rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
        }
        self.wait()
    }

    /// The number of its sockets: its connections and the listening one.
    pub fn sockets(&self) -> usize {
        let Ok(fds) = fs::read_dir(format!("/proc/{}/fd", self.pid().as_raw_nonzero())) else { return 0 };
        // A descriptor may be closed meanwhile.
        let links = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }

    pub fn pid(&self) -> rustix::process::Pid {
        pid(&self.child)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for a receiver with `--once` or `--count`.
    pub fn wait(mut self) -> Ended {
        let code = wait(&mut self.child);
        let mut stdout_bytes = Vec::new();
        self.child.stdout.take().unwrap().read_to_end(&mut stdout_bytes).unwrap();
        let stdout = String::from_utf8_lossy(&stdout_bytes).into_owned();
        let stderr = self.lines.iter().fold(std::mem::take(&mut self.printed), |all, line| all + &line);
        Ended { code, stdout, stdout_bytes, stderr }
    }
}

/// A failing test leaves no program running.
impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn pid(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(child.id() as i32).unwrap()
}

/// A receiver that sends `answer` on its first connection and then passes it to `after`.
pub fn fake_receiver(answer: &[&str], after: fn(TcpStream)) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let mut bytes = Vec::new();
    for json in answer {
        encode(Framing::Native, json.as_bytes(), &mut bytes);
    }
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&bytes).unwrap();
        after(stream);
    });
    (host, thread)
}

/// Waits for a child, and kills it if it hangs.
pub fn wait(child: &mut Child) -> i32 {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if start.elapsed() > WATCHDOG {
            child.kill().unwrap();
            panic!("the program hangs");
        }
        thread::yield_now();
        thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `ftx ARGS` to its end.
pub fn ftx(args: &[&str]) -> Ended {
    ended(Command::new(FTX).args(args).stdin(Stdio::null()).output().unwrap())
}

/// Runs `ftx send ARGS PATH... HOST`.
pub fn send(args: &[&str], paths: &[&Path], host: &str) -> Ended {
    ended(send_command(args, paths, host).output().unwrap())
}

/// Without retries unless the test sets them: most tests are about one connection.
fn send_command(args: &[&str], paths: &[&Path], host: &str) -> Command {
    let mut command = Command::new(FTX);
    // Keeps the tests' state out of the user's home directory.
    command.env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command.arg("send").args(args).args(paths).arg(host).stdin(Stdio::null());
    if !args.contains(&"--retries") {
        command.args(["--retries", "0"]);
    }
    command
}

/// Starts `ftx send PATH... HOST`.
pub fn start_send(paths: &[&Path], host: &str) -> Child {
    start_send_with(&[], paths, host)
}

/// Starts `ftx send ARGS PATH... HOST`.
pub fn start_send_with(args: &[&str], paths: &[&Path], host: &str) -> Child {
    send_command(args, paths, host).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for what [`start_send`] started.
pub fn end(mut child: Child) -> Ended {
    let code = wait(&mut child);
    let output = child.wait_with_output().unwrap();
    Ended { code, ..ended(output) }
}

fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stdout_bytes: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Repeats the calling test, of this full name, in a process of its own; `true` there. For tests that change the state of
/// their process.
pub fn is_own_process(test: &str) -> bool {
    const OWN_PROCESS: &str = "FTX_TEST_OWN_PROCESS";
    if std::env::var_os(OWN_PROCESS).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(OWN_PROCESS, "1");
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// One line per entry below `root`: name, mode, mtime, and content's length and digest or link's target.
pub fn listing(root: &Path) -> Vec<String> {
    let mut lines: Vec<String> = walkdir::WalkDir::new(root)
        .min_depth(1)
        .into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.path().strip_prefix(root).unwrap();
            let meta = entry.metadata().unwrap();
            let kind = if meta.is_file() {
                let content = fs::read(entry.path()).unwrap();
                format!("{} bytes {}", content.len(), ftx::digest::Md5::of(&content))
            } else if meta.is_symlink() {
                format!("-> {:?}", fs::read_link(entry.path()).unwrap())
            } else {
                "folder".to_owned()
            };
            format!("{name:?} {:o} {}.{:09} {kind}", meta.mode(), meta.mtime(), meta.mtime_nsec())
        })
        .collect();
    lines.sort();
    lines
}

/// Names below `root`, sorted, including staged files (`.ftx-...`).
pub fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = walkdir::WalkDir::new(root)
        .min_depth(1)
        .into_iter()
        .map(|entry| entry.unwrap().path().strip_prefix(root).unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Polls until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < WATCHDOG, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
