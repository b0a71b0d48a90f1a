//! `ftx demo`: both ends in one process, over a real connection.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::{Exit, Explained};
use crate::net::HostPort;
use crate::progress::{Progress, Summary};
use crate::recv::{Observer, RecvError, Server};
use crate::relpath::NamePolicy;
use crate::store::OnConflict;
use crate::ui::Ui;
use crate::{recv, send};

const SMALL_FILES: u64 = 300;
const LARGE_BYTES: u64 = 256 << 20;

/// Sends `path`, or a sample, from this machine to itself.
pub fn run(path: Option<&Path>, timeout: Duration, ui: &Ui) -> Exit {
    match try_run(path, timeout, ui) {
        Ok(exit) => exit,
        Err(explained) => ui.error(&explained),
    }
}

fn try_run(path: Option<&Path>, timeout: Duration, ui: &Ui) -> Result<Exit, Explained> {
    let explain = |error: io::Error| Explained::from(&error);
    let folder = tempfile::Builder::new().prefix("ftx-demo-").tempdir().map_err(explain)?;
    let path = match path {
        Some(path) => path.to_owned(),
        None => {
            let spinner = ui.spinner("Making a sample: 300 small files and one of 256 MiB");
            let made = make_sample(&folder.path().join("sample"));
            spinner.finish_and_clear();
            made.map_err(explain)?
        }
    };
    let server = Server::start(recv::Options {
        bind: Some(Ipv4Addr::LOCALHOST.into()),
        port: 0,
        out: folder.path().join("received"),
        on_conflict: OnConflict::SkipSame,
        names: NamePolicy::AllowOdd,
        sessions: Some(1),
        timeout,
        whole_digests: false,
    });
    let server = server.map_err(|error| Explained::from(&error))?;
    let port = server.local_addr().map_err(explain)?.port();
    ui.note(&format!(
        "One end: ftx recv --port {port}    The other: ftx send {} 127.0.0.1:{port}",
        path.display()
    ));
    let stop = server.stop_handle();
    let target = HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port: Some(port) };
    let options = send::Options {
        paths: vec![path],
        target,
        port,
        classic: None,
        timeout,
        retries: 0,
        whole_digests: false,
    };
    let sent = thread::scope(|scope| {
        let receiver = Receiver(ui);
        let serving = scope.spawn(move || server.run(&receiver));
        let sent = {
            let bars = ui.session("sending");
            send::send(&options, &bars)
        };
        if sent.is_err() {
            // Perhaps nobody ever connected.
            stop.stop();
        }
        match serving.join() {
            Ok(Err(error)) => Err(Explained::from(&error)),
            _ => sent.map_err(|error| Explained::from(&error)),
        }
    })?;
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

/// The receiving end, with its own title.
struct Receiver<'a>(&'a Ui);

impl Observer for Receiver<'_> {
    fn started(&self, _: SocketAddr) -> Box<dyn Progress + '_> {
        Box::new(self.0.session("receiving"))
    }

    fn ended(&self, peer: SocketAddr, outcome: &Result<Summary, RecvError>) {
        self.0.ended(peer, outcome);
    }
}

fn make_sample(root: &Path) -> io::Result<PathBuf> {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for number in 0..SMALL_FILES {
        let dir = root.join(format!("small/{:02}", number % 12));
        fs::create_dir_all(&dir)?;
        let bytes = noise.next() % (64 << 10);
        noise.write(&dir.join(format!("file-{number:03}.bin")), bytes)?;
    }
    noise.write(&root.join("large.img"), LARGE_BYTES)?;
    Ok(root.to_owned())
}

/// Bytes that do not compress and repeat in every run (xorshift64, Marsaglia 2003).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn write(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for _ in 0..bytes / 8 {
            file.write_all(&self.next().to_le_bytes())?;
        }
        file.flush()
    }
}
