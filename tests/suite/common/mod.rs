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

use ftx::wire::frame::{Form, encode};

pub const FTX: &str = env!("CARGO_BIN_EXE_ftx");

/// No test takes this long; whatever does hangs.
const WATCHDOG: Duration = Duration::from_secs(120);

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    /// As it came: names need not be UTF-8.
    pub stdout_bytes: Vec<u8>,
    pub stderr: String,
}

/// A running `ftx recv` on a free port of this machine.
pub struct Receiver {
    child: Child,
    pub port: u16,
    lines: mpsc::Receiver<String>,
    heard: String,
}

impl Receiver {
    /// Starts `ftx recv --bind 127.0.0.1 --port 0 --out OUT ARGS`.
    pub fn start(out: &Path, args: &[&str]) -> Self {
        Self::start_on("127.0.0.1", out, args)
    }

    pub fn start_on(bind: &str, out: &Path, args: &[&str]) -> Self {
        Self::spawn(Command::new(FTX), bind, out, args)
    }

    /// With so many descriptors and no more.
    pub fn start_limited(descriptors: u32, out: &Path, args: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\""), FTX]);
        Self::spawn(shell, "127.0.0.1", out, args)
    }

    /// `command` is what comes before `recv` and its arguments.
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
        let addr = words.split(". ").next().unwrap();
        let port = addr.parse::<std::net::SocketAddr>().unwrap().port();
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let _ = send.send(String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned());
            }
        });
        Receiver { child, port, lines, heard: String::new() }
    }

    /// Waits until it says these words.
    pub fn hear(&mut self, words: &str) {
        while !self.heard.contains(words) {
            match self.lines.recv_timeout(WATCHDOG) {
                Ok(line) => self.heard += &line,
                Err(error) => panic!("waited for \"{words}\" in vain ({error}): {}", self.heard),
            }
        }
    }

    /// Has it said these words by now?
    pub fn has_said(&mut self, words: &str) -> bool {
        self.heard.extend(self.lines.try_iter());
        self.heard.contains(words)
    }

    /// Has [`Receiver::hear`] wait for the next time.
    pub fn forget_heard(&mut self) {
        self.heard.clear();
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
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

    /// `kill -9`, and what it had to say until then.
    pub fn kill_and_hear(mut self) -> Ended {
        self.child.kill().unwrap();
        self.wait()
    }

    /// Waits a moment for a receiver that is to die, and kills it if it does not.
    pub fn wait_or_kill(mut self) -> Ended {
        let start = Instant::now();
        while !self.has_ended() && start.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        self.wait()
    }

    /// Waits for a receiver with `--once`; one that has no connection any more has met no session, and is ended.
    pub fn wait_or_end(mut self) -> Ended {
        until("the end of the connection", || self.has_ended() || self.sockets() <= 1);
        if !self.has_ended() {
            rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
        }
        self.wait()
    }

    /// Its connections, and the socket on which it listens.
    pub fn sockets(&self) -> usize {
        let Ok(fds) = fs::read_dir(format!("/proc/{}/fd", self.pid().as_raw_nonzero())) else { return 0 };
        // One that is closed meanwhile is none.
        let links = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }

    pub fn pid(&self) -> rustix::process::Pid {
        pid(&self.child)
    }

    /// Has it ended?
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for a receiver with `--once` or `--count`.
    pub fn wait(mut self) -> Ended {
        let code = wait(&mut self.child);
        let mut stdout_bytes = Vec::new();
        self.child.stdout.take().unwrap().read_to_end(&mut stdout_bytes).unwrap();
        let stdout = String::from_utf8_lossy(&stdout_bytes).into_owned();
        let stderr = self.lines.iter().fold(std::mem::take(&mut self.heard), |all, line| all + &line);
        Ended { code, stdout, stdout_bytes, stderr }
    }
}

/// A test that fails leaves no program behind.
impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn pid(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(child.id() as i32).unwrap()
}

/// A receiver that says `answer` to whoever connects and then does `after` with the connection.
pub fn fake_receiver(answer: &[&str], after: fn(TcpStream)) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let mut bytes = Vec::new();
    for json in answer {
        encode(Form::Native, json.as_bytes(), &mut bytes);
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

/// Without retries, unless the test asks for them: what becomes of one connection is what most of them look at.
fn send_command(args: &[&str], paths: &[&Path], host: &str) -> Command {
    let mut command = Command::new(FTX);
    // Nothing is left in the home folder of whoever runs the tests.
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

/// One line for everything below `root`: name, type, mode, time, content's length and digest, or link's target.
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

/// Names below `root`, sorted; landings would show as `.ftx-...`.
pub fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = walkdir::WalkDir::new(root)
        .min_depth(1)
        .into_iter()
        .map(|entry| entry.unwrap().path().strip_prefix(root).unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Waits until `condition` holds, looking again and again.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < WATCHDOG, "waited for {what} in vain");
        thread::sleep(Duration::from_millis(1));
    }
}
