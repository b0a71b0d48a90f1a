//! `ftx demo`: both ends in one process, over a real connection.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::app::explain::{Exit, Explained};
use crate::dest::local::{OnConflict, Unfinished};
use crate::event::{Reporter, Summary};
use crate::measure::PseudoRandom;
use crate::net::{BindTo, HostPort, Peer};
use crate::recv::{Observer, RecvError, Server, StartError};
use crate::relpath::NamePolicy;
use crate::report::Ui;
use crate::sync::CancelToken;
use crate::temp_dirs::TempDirGuard;
use crate::{recv, send};

const SMALL_FILES: u64 = 300;
const LARGE_BYTES: u64 = 256 << 20;

/// Sends `path`, or a sample, from this machine to itself; `None` if it was interrupted before it came to its end.
pub fn run(path: Option<&Path>, timeout: Duration, cancel: &CancelToken, ui: &Ui) -> Option<Exit> {
    match try_run(path, timeout, cancel, ui) {
        Ok(exit) => Some(exit),
        Err(_) if cancel.is_cancelled() => None,
        Err(explained) => Some(ui.error(&explained)),
    }
}

fn try_run(path: Option<&Path>, timeout: Duration, cancel: &CancelToken, ui: &Ui) -> Result<Exit, Explained> {
    let explain = |error: io::Error| Explained::from(&error);
    let folder = TempDirGuard::new("ftx-demo-", None).map_err(explain)?;
    let path = match path {
        Some(path) => path.to_owned(),
        None => {
            let spinner = ui.spinner("Making a sample: 300 small files and one of 256 MiB");
            let made = make_sample(&folder.path().join("sample"), cancel);
            spinner.finish_and_clear();
            made.map_err(explain)?
        }
    };
    let server = receiver(folder.path().join("received"), Some(1), timeout, cancel);
    let server = server.map_err(|error| Explained::from(&error))?;
    let port = server.local_addr().map_err(explain)?.port();
    ui.note(&format!(
        "One end: ftx recv --port {port}    The other: ftx send {} 127.0.0.1:{port}",
        path.display()
    ));
    let target = HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port: Some(port) };
    let options = send::Options {
        paths: vec![path],
        target: target.into(),
        port,
        classic: None,
        streams: send::Streams::Auto,
        timeout,
        retries: Some(0),
        whole_digests: false,
        cancel: cancel.clone(),
    };
    let sent = run_with_receiver(&server, &Receiver(ui), || send::send(&options, &ui.session("sending")));
    let sent = sent.map_err(explain)?.map_err(|error| Explained::from(&error))?;
    let exit = ui.sent(&sent, "the other end");
    match ui.first_failure() {
        Exit::Ok => {
            let files = sent.files;
            ui.note(&format!("That was the receipt: {files} files verified, on disk, under their names. The copy is removed again."));
            Ok(exit)
        }
        failure => Ok(failure),
    }
}

/// A receiver that only this machine can reach.
pub fn receiver(
    out: PathBuf,
    sessions: Option<u64>,
    timeout: Duration,
    cancel: &CancelToken,
) -> Result<Server, StartError> {
    Server::start(recv::Options {
        bind: Some(BindTo::Ip(Ipv4Addr::LOCALHOST.into())),
        port: 0,
        out,
        on_conflict: OnConflict::SkipSame,
        names: NamePolicy::AllowOdd,
        sessions,
        timeout,
        keep_unfinished: Duration::MAX,
        whole_digests: false,
        cancel: cancel.clone(),
    })
}

/// Runs `other_end` while `server` serves, and then waits for the sessions that are in work.
///
/// # Errors
///
/// What made the server stop serving.
pub fn run_with_receiver<T>(
    server: &Server,
    observer: &dyn Observer,
    other_end: impl FnOnce() -> T,
) -> io::Result<T> {
    thread::scope(|scope| {
        let serving = scope.spawn(|| server.run(observer));
        let done = {
            let _stop = StopOnDrop(server.stop());
            other_end()
        };
        match serving.join() {
            Ok(Err(error)) => Err(error),
            _ => Ok(done),
        }
    })
}

/// Whatever becomes of the other end, the server must not wait for ever.
struct StopOnDrop(CancelToken);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The receiving end, with its own title.
struct Receiver<'a>(&'a Ui);

impl Observer for Receiver<'_> {
    fn unfinished(&self, _: &Unfinished) {}

    fn started(&self, _: &Peer) -> Box<dyn Reporter + '_> {
        Box::new(self.0.session("receiving"))
    }

    fn lost(&self, peer: &Peer, error: &RecvError, wait: Duration) {
        self.0.lost(peer, error, wait);
    }

    fn ended(&self, peer: &Peer, outcome: &Result<Summary, RecvError>) {
        self.0.ended(peer, outcome);
    }
}

fn make_sample(root: &Path, cancel: &CancelToken) -> io::Result<PathBuf> {
    let mut random = PseudoRandom::default();
    for number in 0..SMALL_FILES {
        let dir = root.join(format!("small/{:02}", number % 12));
        fs::create_dir_all(&dir)?;
        let bytes = random.next_u64() % (64 << 10);
        write(&mut random, &dir.join(format!("file-{number:03}.bin")), bytes, cancel)?;
    }
    write(&mut random, &root.join("large.img"), LARGE_BYTES, cancel)?;
    Ok(root.to_owned())
}

fn write(random: &mut PseudoRandom, path: &Path, bytes: u64, cancel: &CancelToken) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for _ in 0..bytes / 8 {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        file.write_all(&random.next_u64().to_le_bytes())?;
    }
    file.flush()
}
