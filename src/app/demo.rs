//! `ftx demo`: a sender and a receiver in one process, over a loopback connection.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app::args::DemoArgs;
use crate::app::observer::SessionObserver;
use crate::app::signals::Signals;
use crate::bench::loopback;
use crate::exit_code::ExitCode;
use crate::measure::PseudoRandom;
use crate::net::HostPort;
use crate::report::{Diagnostic, Ui};
use crate::send;
use crate::sync::CancelToken;
use crate::temp_dirs::TempDirGuard;

const SMALL_FILES: u64 = 300;
const LARGE_BYTES: u64 = 256 << 20;

/// Runs the command.
pub fn run(args: &DemoArgs, ui: &Ui, signals: &Signals) -> ExitCode {
    let cancel = signals.cancel_token();
    match transfer(args, &cancel, ui) {
        Ok(exit) => exit,
        Err(_) if cancel.is_cancelled() => ui.interrupted(signals.exit()),
        Err(diagnostic) => ui.error(&diagnostic),
    }
}

/// Sends the path, or a sample, from this machine to itself.
fn transfer(args: &DemoArgs, cancel: &CancelToken, ui: &Ui) -> Result<ExitCode, Diagnostic> {
    let explain = |error: io::Error| Diagnostic::from(&error);
    let timeout = Duration::from_secs(args.common.timeout);
    let folder = TempDirGuard::new("ftx-demo-", None).map_err(explain)?;
    let path = match &args.path {
        Some(path) => path.clone(),
        None => {
            let _spinner = ui.spinner("Creating a sample: 300 small files and one of 256 MiB");
            create_sample(&folder.path().join("sample"), cancel).map_err(explain)?
        }
    };
    let server = loopback::receiver(folder.path().join("received"), Some(1), timeout, cancel);
    let server = server.map_err(|error| Diagnostic::from(&error))?;
    let port = server.bound().address().map_or(0, |address| address.port());
    ui.note(&format!(
        "Receiver: ftx recv --port {port}    Sender: ftx send {} 127.0.0.1:{port}",
        path.display()
    ));
    let options = send::Options {
        paths: vec![path],
        target: HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port: Some(port) }.into(),
        port,
        classic: None,
        streams: send::Streams::Auto,
        timeout,
        retries: Some(0),
        whole_digests: false,
        cancel: cancel.clone(),
    };
    let observer = SessionObserver::with_title(ui, "receiving");
    let sent =
        loopback::run_with_receiver(&server, &observer, || send::send(&options, &ui.session("sending")));
    let sent = sent.map_err(explain)?.map_err(|error| Diagnostic::from(&error))?;
    let exit = ui.sent(&sent, "the receiver");
    Ok(match ui.first_failure() {
        ExitCode::Ok => {
            let files = sent.files;
            ui.note(&format!(
                "The receipt confirms {files} files: verified, on disk, under their names. The copy is removed again."
            ));
            exit
        }
        failure => failure,
    })
}

fn create_sample(root: &Path, cancel: &CancelToken) -> io::Result<PathBuf> {
    let mut random = PseudoRandom::default();
    for number in 0..SMALL_FILES {
        let dir = root.join(format!("small/{:02}", number % 12));
        fs::create_dir_all(&dir)?;
        let bytes = random.next_u64() % (64 << 10);
        create_file(&mut random, &dir.join(format!("file-{number:03}.bin")), bytes, cancel)?;
    }
    create_file(&mut random, &root.join("large.img"), LARGE_BYTES, cancel)?;
    Ok(root.to_owned())
}

fn create_file(random: &mut PseudoRandom, path: &Path, bytes: u64, cancel: &CancelToken) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for _ in 0..bytes / 8 {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        file.write_all(&random.next_u64().to_le_bytes())?;
    }
    file.flush()
}
