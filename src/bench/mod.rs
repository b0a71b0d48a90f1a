//! `ftx bench`: what disk, MD5 and wire can do, each alone and then together, and which one limits.
//!
//! The wire is measured by a receiver, the one at HOST or, without HOST, one in this process behind a loopback
//! connection. Without HOST, together means a real transfer from this machine to itself. To a HOST nothing is
//! transferred, so that nothing is left there; together is then the slowest stage.

mod peer;

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app::demo;
use crate::app::explain::{Exit, Explained};
use crate::dest::local::Unfinished;
use crate::digest::{kernel_name, lane_count};
use crate::escape::Escaped;
use crate::event::{Event, NullReporter, Reporter, Summary};
use crate::measure::{self, Rate, WorkLimit};
use crate::net::{self, HostPort, NetError, Target};
use crate::recv::{Observer, RecvError, StartError};
use crate::report::Ui;
use crate::send::{self, SendError};
use crate::sync::CancelToken;
use crate::temp_dirs::TempDirGuard;
use crate::wire::WireError;
use crate::wire::message::Measurable;

use peer::{Peer, rate};

/// What `ftx bench` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The receiver; `None` for this machine alone.
    pub host: Option<Target>,
    /// The port where `host` names none.
    pub port: u16,
    /// Where the file goes that is read and written.
    pub dir: PathBuf,
    /// Bytes that go through each stage at most.
    pub size_bytes: u64,
    /// How long the receiver may be silent.
    pub timeout: Duration,
    /// Rung, it ends everything.
    pub cancel: CancelToken,
}

/// Why nothing, or not everything, could be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No connection.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Connection(#[source] io::Error),
    /// The receiver went away.
    #[error("the receiver closed the connection before everything was measured")]
    Closed,
    /// The receiver was silent for too long.
    #[error("nothing was heard from the receiver for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// Somebody wants this program to end.
    #[error("the sender was interrupted")]
    Interrupted,
    /// The receiver broke the protocol, gave up, or cannot measure.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The folder, or the file in it.
    #[error("cannot {doing} in {}: {source}", Escaped::new(dir.as_os_str().as_encoded_bytes()))]
    Disk {
        /// What was tried.
        doing: &'static str,
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The receiver in this process did not start.
    #[error(transparent)]
    Receiver(#[from] StartError),
    /// The transfer from this machine to itself failed.
    #[error(transparent)]
    Transfer(#[from] SendError),
    /// It came to its end, but the file did not arrive; why was told when it happened.
    #[error("the transfer from this machine to itself did not move the file")]
    Incomplete(Box<Summary>),
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageResult {
    /// The stage, as it stands in the table.
    pub label: &'static str,
    /// How fast it is.
    pub rate: Rate,
    /// Where and how it was measured.
    pub note: String,
    /// The stage as a transfer uses it, in a sentence; `None` for what is only shown beside it.
    pub limits_as: Option<&'static str>,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// In the order in which bytes pass the stages.
    pub rows: Vec<StageResult>,
    /// The real transfer; `None` if there was none.
    pub together: Option<Rate>,
}

/// A transfer of its slowest stage's speed, or nearly so, is limited by that stage: this many hundredths of it.
const SHARED_THRESHOLD_PERCENT: u64 = 75;

impl Report {
    /// The slowest stage, its words and its rate in bytes per second.
    pub fn slowest(&self) -> Option<(&'static str, u64)> {
        let stages = self.rows.iter().filter_map(|row| Some((row.limits_as?, row.rate.bytes_per_s())));
        stages.min_by_key(|(_, rate)| *rate)
    }

    /// Does the transfer as a whole stay behind even its slowest stage, because they share one machine?
    pub fn is_shared(&self) -> bool {
        let (Some(together), Some((_, slowest))) = (self.together, self.slowest()) else { return false };
        together.bytes_per_s() < slowest / 100 * SHARED_THRESHOLD_PERCENT
    }
}

/// The longest that one stage takes here; the step in work is finished.
const MAX_TIME: Duration = Duration::from_secs(2);

/// Measures, and prints what was found.
///
/// # Errors
///
/// [`BenchError::Interrupted`]; every other one is told here.
pub fn run(options: &Options, ui: &Ui) -> Result<Exit, BenchError> {
    Ok(match measure_all(options, ui) {
        Err(_) if options.cancel.is_cancelled() => return Err(BenchError::Interrupted),
        Ok(report) => {
            ui.bench(options, &report);
            Exit::Ok
        }
        Err(error) => ui.error(&Explained::from(&error)),
    })
}

fn measure_all(options: &Options, ui: &Ui) -> Result<Report, BenchError> {
    match &options.host {
        Some(host) => {
            let rows = measure_remote(options, host, ui)?;
            let [wire, md5, write] = rows;
            let bench = Local::new(options, ui)?;
            bench.write()?;
            let mut rows = bench.read()?;
            rows.extend(bench.md5()?);
            rows.extend([wire, md5, write]);
            Ok(Report { rows, together: None })
        }
        None => {
            let bench = Local::new(options, ui)?;
            let write = bench.write()?;
            let mut rows = bench.read()?;
            rows.extend(bench.md5()?);
            let (wire, together) = bench.wire_and_together()?;
            rows.extend([wire, write]);
            Ok(Report { rows, together: Some(together) })
        }
    }
}

const WRITING: &str = "writing to the disk";

/// What the receiver at `host` can do: the wire to it, its MD5, its disk.
fn measure_remote(options: &Options, host: &Target, ui: &Ui) -> Result<[StageResult; 3], BenchError> {
    let mut peer = Peer::connect(host, options.port, options.timeout, &options.cancel)?;
    let wire = wire(&mut peer, options.size_bytes, ui)?;
    let mut stage = |what, words| {
        let spinner = ui.spinner(words);
        let measured = peer.stage(what, options.size_bytes);
        spinner.finish_and_clear();
        measured
    };
    let md5 = stage(Measurable::Md5, "The receiver measures its MD5")?;
    let write = stage(Measurable::Write, "The receiver measures its disk")?;
    peer.finish()?;
    Ok([
        StageResult { note: format!("to {host}, one connection"), ..wire },
        StageResult {
            label: "MD5",
            rate: rate(md5),
            note: "there, parts side by side".into(),
            limits_as: Some("MD5 at the receiver"),
        },
        StageResult {
            label: "disk write",
            rate: rate(write),
            note: format!("there, {}", how_written(write.memory)),
            limits_as: Some(if write.memory { "writing at the receiver" } else { "the receiver's disk" }),
        },
    ])
}

fn how_written(in_memory: bool) -> &'static str {
    if in_memory { "no disk: the folder is in memory (tmpfs)" } else { "synced" }
}

fn wire(peer: &mut Peer, most: u64, ui: &Ui) -> Result<StageResult, BenchError> {
    let bars = ui.session("wire");
    let begins = |bytes| bars.report(Event::Planned { files: 0, bytes });
    let rate = peer.wire(most, begins, |bytes| bars.report(Event::Transferred { bytes }))?;
    Ok(StageResult { label: "wire", rate, note: String::new(), limits_as: Some("the wire") })
}

/// This machine's stages, and the folder that holds what they need, which is removed with it.
struct Local<'a> {
    options: &'a Options,
    ui: &'a Ui,
    folder: TempDirGuard,
    path: PathBuf,
    file: File,
}

impl<'a> Local<'a> {
    fn new(options: &'a Options, ui: &'a Ui) -> Result<Self, BenchError> {
        let make = || {
            let folder = TempDirGuard::new(".ftx-bench-", Some(&options.dir))?;
            let path = folder.path().join("sample");
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            Ok((folder, path, file))
        };
        let (folder, path, file) = make().map_err(|source| disk(options, "make a file", source))?;
        Ok(Local { options, ui, folder, path, file })
    }

    fn limit(&self) -> WorkLimit {
        WorkLimit { bytes: self.options.size_bytes, time: MAX_TIME }
    }

    /// Runs a stage under a bar.
    fn shown<T>(&self, title: &str, stage: impl FnOnce(&dyn Fn(u64) -> bool) -> T) -> Result<T, BenchError> {
        let bars = self.ui.session(title);
        bars.report(Event::Planned { files: 0, bytes: self.options.size_bytes });
        let done = stage(&|bytes| {
            bars.report(Event::Transferred { bytes });
            !self.options.cancel.is_cancelled()
        });
        if self.options.cancel.is_cancelled() { Err(BenchError::Interrupted) } else { Ok(done) }
    }

    /// Writes the file that the other stages read.
    fn write(&self) -> Result<StageResult, BenchError> {
        let rate = self.shown("disk write", |moved| measure::write(&self.file, self.limit(), moved))?;
        let rate = rate.map_err(|source| disk(self.options, "write a file", source))?;
        let in_memory = measure::is_in_memory(&self.file);
        let limits_as = Some(if in_memory { "writing to memory" } else { WRITING });
        Ok(StageResult { label: "disk write", rate, note: how_written(in_memory).into(), limits_as })
    }

    /// Reads the file, first from the disk, then from memory.
    fn read(&self) -> Result<Vec<StageResult>, BenchError> {
        let read = || {
            let rate = self.shown("disk read", |moved| measure::read(&self.file, self.limit(), moved))?;
            rate.map_err(|source| disk(self.options, "read a file", source))
        };
        let row = |rate, note: &str, limits_as| StageResult {
            label: "disk read",
            rate,
            note: note.into(),
            limits_as,
        };
        if measure::is_in_memory(&self.file) {
            let note = "no disk: the folder is in memory (tmpfs)";
            return Ok(vec![row(read()?, note, Some("reading from memory"))]);
        }
        let (note, limits_as) = match self.drop_page_cache() {
            Some(false) => ("from the disk", "reading from the disk"),
            Some(true) => ("from memory: the system would not let go of it", "reading from memory"),
            None => ("perhaps from the disk: this system does not tell", "reading"),
        };
        let first = row(read()?, note, Some(limits_as));
        Ok(vec![first, row(read()?, "again, from memory", None)])
    }

    /// Has the system drop the file from memory, and tells whether it still is there.
    fn drop_page_cache(&self) -> Option<bool> {
        measure::drop_page_cache(&self.file);
        measure::is_cached(&self.file, 0)
    }

    fn md5(&self) -> Result<[StageResult; 2], BenchError> {
        let stream = self.shown("MD5", |moved| measure::md5_stream(self.limit(), moved))?;
        let lanes = self.shown("MD5 in lanes", |moved| measure::md5_lanes(self.limit(), moved))?;
        let note = format!("{} parts side by side ({})", lane_count(), kernel_name());
        Ok([
            StageResult {
                label: "MD5",
                rate: stream,
                note: "one stream, as md5sum does it".into(),
                limits_as: None,
            },
            StageResult { label: "MD5", rate: lanes, note, limits_as: Some("MD5") },
        ])
    }

    /// The loopback connection, and the file from this machine to itself.
    fn wire_and_together(&self) -> Result<(StageResult, Rate), BenchError> {
        let Options { timeout, size_bytes, ref cancel, .. } = *self.options;
        let server = demo::receiver(self.folder.path().join("received"), None, timeout, cancel)?;
        let port = server.local_addr().map_err(BenchError::Connection)?.port();
        let target = HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port: Some(port) };
        let both = demo::run_with_receiver(&server, &NullObserver, || {
            let mut peer = Peer::connect(&target.clone().into(), port, timeout, cancel)?;
            let wire = wire(&mut peer, size_bytes, self.ui)?;
            peer.finish()?;
            // A transfer begins on the disk.
            self.drop_page_cache();
            let paths = vec![self.path.clone()];
            let transfer = send::Options {
                paths,
                target: target.clone().into(),
                port,
                classic: None,
                streams: send::Streams::Auto,
                timeout,
                retries: Some(0),
                whole_digests: false,
                cancel: cancel.clone(),
            };
            let sent = send::send(&transfer, &self.ui.session("together"))?;
            if sent.failed() > 0 {
                return Err(BenchError::Incomplete(Box::new(sent)));
            }
            Ok((wire, Rate { bytes: sent.moved_bytes, elapsed: sent.elapsed }))
        });
        let (wire, together) = both.map_err(BenchError::Connection)??;
        Ok((StageResult { note: "TCP on this machine, one connection".into(), ..wire }, together))
    }
}

fn disk(options: &Options, doing: &'static str, source: io::Error) -> BenchError {
    BenchError::Disk { doing, dir: options.dir.clone(), source }
}

/// The receiver in this process: what it has to say, the sender says as well.
struct NullObserver;

impl Observer for NullObserver {
    fn unfinished(&self, _: &Unfinished) {}

    fn started(&self, _: &net::Peer) -> Box<dyn Reporter + '_> {
        Box::new(NullReporter)
    }

    fn lost(&self, _: &net::Peer, _: &RecvError, _: Duration) {}

    fn ended(&self, _: &net::Peer, _: &Result<Summary, RecvError>) {}
}

/// A folder as it is shown.
pub fn shown_dir(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    Escaped::new(dir.as_os_str().as_encoded_bytes()).to_string()
}
