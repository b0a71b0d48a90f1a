//! The stages of this machine, and a transfer from this machine to itself.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use super::error::BenchError;
use super::loopback;
use super::options::Options;
use super::peer::MeasuringPeer;
use super::remote::{measure_wire, write_note};
use super::report::StageResult;
use super::stage_observer::StageObserver;
use crate::dest::local::Unfinished;
use crate::digest::{kernel_name, lane_count};
use crate::event::{Event, NullReporter, Reporter, Summary};
use crate::measure::{self, Rate, WorkLimit};
use crate::net::{self, HostPort, Target};
use crate::recv::{self, RecvError};
use crate::send;
use crate::temp_dirs::TempDirGuard;

/// Time limit of a stage; the current step is completed.
const MAX_TIME: Duration = Duration::from_secs(2);

/// This machine's stages, with a sample file in a temporary folder.
pub struct Local<'a> {
    options: &'a Options,
    observer: &'a dyn StageObserver,
    folder: TempDirGuard,
    path: PathBuf,
    file: File,
}

impl<'a> Local<'a> {
    /// Creates the folder and the file.
    pub fn new(options: &'a Options, observer: &'a dyn StageObserver) -> Result<Self, BenchError> {
        let create = || {
            let folder = TempDirGuard::new(".ftx-bench-", Some(&options.dir))?;
            let path = folder.path().join("sample");
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            Ok((folder, path, file))
        };
        let (folder, path, file) = create().map_err(|source| disk_error(options, "create a file", source))?;
        Ok(Local { options, observer, folder, path, file })
    }

    fn limit(&self) -> WorkLimit {
        WorkLimit { bytes: self.options.size_bytes, time: MAX_TIME }
    }

    /// Runs a stage and reports its progress. The stage calls its argument after each step and stops if that is false.
    fn run<T>(&self, title: &str, stage: impl FnOnce(&dyn Fn(u64) -> bool) -> T) -> Result<T, BenchError> {
        let reporter = self.observer.stage(title);
        reporter.report(Event::Planned { files: 0, bytes: self.options.size_bytes });
        let done = stage(&|bytes| {
            reporter.report(Event::Transferred { bytes });
            !self.options.cancel.is_cancelled()
        });
        if self.options.cancel.is_cancelled() { Err(BenchError::Interrupted) } else { Ok(done) }
    }

    /// Writes the sample file, which the other stages read.
    pub fn write(&self) -> Result<StageResult, BenchError> {
        let rate = self.run("disk write", |on_step| measure::write(&self.file, self.limit(), on_step))?;
        let rate = rate.map_err(|source| disk_error(self.options, "write a file", source))?;
        let in_memory = measure::is_in_memory(&self.file);
        let limits_as = Some(if in_memory { "writing to memory" } else { "writing to the disk" });
        Ok(StageResult { label: "disk write", rate, note: write_note(in_memory).into(), limits_as })
    }

    /// Reads the file, first from the disk, then from the page cache.
    pub fn read(&self) -> Result<Vec<StageResult>, BenchError> {
        let read = || {
            let rate = self.run("disk read", |on_step| measure::read(&self.file, self.limit(), on_step))?;
            rate.map_err(|source| disk_error(self.options, "read a file", source))
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
            Some(true) => ("from memory: the page cache could not be dropped", "reading from memory"),
            None => ("unknown whether from disk", "reading"),
        };
        let first = row(read()?, note, Some(limits_as));
        Ok(vec![first, row(read()?, "again, from memory", None)])
    }

    /// Asks the system to drop the file from the page cache; returns whether it is still there.
    fn drop_page_cache(&self) -> Option<bool> {
        measure::drop_page_cache(&self.file);
        measure::is_cached(&self.file, 0)
    }

    /// MD5 of one stream, and of parts in parallel.
    pub fn md5(&self) -> Result<[StageResult; 2], BenchError> {
        let stream = self.run("MD5", |on_step| measure::md5_stream(self.limit(), on_step))?;
        let lanes = self.run("MD5 in lanes", |on_step| measure::md5_lanes(self.limit(), on_step))?;
        let note = format!("{} parts in parallel ({})", lane_count(), kernel_name());
        Ok([
            StageResult {
                label: "MD5",
                rate: stream,
                note: "one stream, like md5sum".into(),
                limits_as: None,
            },
            StageResult { label: "MD5", rate: lanes, note, limits_as: Some("MD5") },
        ])
    }

    /// The wire of a loopback connection, and the rate of a transfer of the file over it.
    pub fn wire_and_transfer(&self) -> Result<(StageResult, Rate), BenchError> {
        let Options { timeout, size_bytes, ref cancel, .. } = *self.options;
        let server = loopback::receiver(self.folder.path().join("received"), None, timeout, cancel)?;
        let port = server.bound().address().map_or(0, |address| address.port());
        let target = HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port: Some(port) }.into();
        let both = loopback::run_with_receiver(&server, &NullObserver, || {
            let mut peer = MeasuringPeer::connect(&target, port, timeout, cancel)?;
            let wire = measure_wire(&mut peer, size_bytes, self.observer)?;
            peer.finish()?;
            Ok::<_, BenchError>((wire, self.transfer(&target, port)?))
        });
        let (wire, transfer) = both.map_err(BenchError::Connection)??;
        Ok((StageResult { note: "TCP on this machine, one connection".into(), ..wire }, transfer))
    }

    /// Transfers the file, from the disk, to the receiver in this process.
    fn transfer(&self, target: &Target, port: u16) -> Result<Rate, BenchError> {
        self.drop_page_cache();
        let options = send::Options {
            paths: vec![self.path.clone()],
            target: target.clone(),
            port,
            classic: None,
            streams: send::Streams::Auto,
            timeout: self.options.timeout,
            retries: Some(0),
            whole_digests: false,
            cancel: self.options.cancel.clone(),
        };
        let sent = send::send(&options, &*self.observer.stage("together"))?;
        if sent.failed() > 0 {
            return Err(BenchError::Incomplete(Box::new(sent)));
        }
        Ok(Rate { bytes: sent.moved_bytes, elapsed: sent.elapsed })
    }
}

fn disk_error(options: &Options, doing: &'static str, source: io::Error) -> BenchError {
    BenchError::Disk { doing, dir: options.dir.clone(), source }
}

/// Ignores the receiver in this process: its sender reports the same events.
struct NullObserver;

impl recv::Observer for NullObserver {
    fn unfinished(&self, _: &Unfinished) {}

    fn started(&self, _: &net::Peer) -> Box<dyn Reporter + '_> {
        Box::new(NullReporter)
    }

    fn lost(&self, _: &net::Peer, _: &RecvError, _: Duration) {}

    fn ended(&self, _: &net::Peer, _: &Result<Summary, RecvError>) {}
}
