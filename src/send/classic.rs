//! The classic dialect: for each file a header and its body. The receiver sends nothing back.

use std::io::{self, BufWriter, Write};
use std::thread;
use std::time::{Duration, Instant};

use super::error::SendError;
use super::options::Classic;
use crate::digest::{Hasher, Md5, PartLayout};
use crate::error_code::ErrorCode;
use crate::event::{Event, Reporter, Summary};
use crate::net::{self, Connection, IdleTimer, NetError, Peer, REFUSED, Shutdown, TimedWriter};
use crate::source::{self, OpenSource, ReadError, Root, Source, WalkItem};
use crate::sync::{CancelToken, Wake};
use crate::wire::classic::encode_header;

const CLASSIC_BUFFER_BYTES: usize = 256 << 10;

/// How long a reset may trail the end of the connection.
const LATE_RESET: Duration = Duration::from_millis(20);

/// Sends every file. The dialect has no folders and no links: a link is reported as failed.
pub fn send(
    roots: &[Root],
    connect: impl Fn() -> Result<Connection, NetError>,
    how: Classic,
    timeout: Duration,
    cancel: &CancelToken,
    progress: &dyn Reporter,
) -> Result<Summary, SendError> {
    let mut sender = Sender { connection: None, timeout, cancel, progress, summary: Summary::default() };
    // A wrong host is reported before the first file is hashed.
    sender.connection = Some(sender.establish(connect()?)?);
    let mut outcome = Ok(());
    let go_on = || !cancel.is_cancelled();
    let reported = source::walk_files(roots, go_on, |found| {
        let source = match found {
            WalkItem::File(source) => source,
            WalkItem::Skipped { path, code, reason } => {
                sender.fail(path.as_os_str().as_encoded_bytes(), code, &reason);
                return true;
            }
            WalkItem::Dir { .. } | WalkItem::Link { .. } => return true,
        };
        outcome = sender.send_file(&source, &connect).and_then(|sent| {
            if how == Classic::ConnectionPerFile {
                sender.finish(&source.name.to_string())?;
            }
            sent.into_iter().for_each(|md5| sender.report_sent(&source, md5));
            Ok(())
        });
        outcome.is_ok()
    });
    outcome?;
    source::walk_dirs_and_links(roots, &reported, go_on, |found| {
        if let WalkItem::Link { name, .. } = found {
            sender.fail(name.as_bytes(), ErrorCode::LeftOut, "the classic dialect has no links");
        }
        true
    });
    if !go_on() {
        return Err(SendError::Interrupted);
    }
    progress.report(Event::PlanComplete);
    sender.finish("the last file")?;
    Ok(sender.summary)
}

struct Sender<'a> {
    /// `None` after a connection was finished or has failed.
    connection: Option<ClassicConnection>,
    timeout: Duration,
    cancel: &'a CancelToken,
    progress: &'a dyn Reporter,
    summary: Summary,
}

struct ClassicConnection {
    connection: Connection,
    writer: BufWriter<TimedWriter>,
}

impl Sender<'_> {
    fn establish(&self, connection: Connection) -> Result<ClassicConnection, SendError> {
        connection.establish().map_err(SendError::Connection)?;
        let writer = TimedWriter::new(connection.clone(), IdleTimer::new(self.timeout), self.cancel.clone());
        Ok(ClassicConnection { connection, writer: BufWriter::with_capacity(CLASSIC_BUFFER_BYTES, writer) })
    }

    /// The dialect has no message for a cancellation: the receiver sees a connection that ends within a file.
    fn check_cancelled(&self) -> Result<(), SendError> {
        if self.cancel.is_cancelled() { Err(SendError::Interrupted) } else { Ok(()) }
    }

    fn fail(&mut self, name: &[u8], code: ErrorCode, reason: &str) {
        self.summary.count_failure(code);
        self.progress.report(Event::Failed { name, code, reason });
    }

    /// A file fails before its header is sent: its bytes leave the plan.
    fn drop_file(&mut self, source: &Source, code: ErrorCode, reason: &str) {
        self.progress.report(Event::FileDropped { remaining_bytes: source.size_bytes });
        self.fail(source.name.as_bytes(), code, reason);
    }

    /// A file was sent. The receiver does not confirm it.
    fn report_sent(&mut self, source: &Source, md5: Md5) {
        self.summary.count_new(source.size_bytes);
        let path = source.name.as_bytes();
        self.progress.report(Event::FileDone { path, md5: Some(md5), there_bytes: None });
    }

    /// Sends one file and returns its MD5; `None` if it failed before its header was sent. A later failure costs the
    /// connection, and is an error.
    fn send_file(
        &mut self,
        source: &Source,
        connect: impl Fn() -> Result<Connection, NetError>,
    ) -> Result<Option<Md5>, SendError> {
        let name = source.name.as_bytes();
        self.progress.report(Event::Planned { files: 1, bytes: source.size_bytes });
        self.progress.report(Event::FileStarted { path: name, size_bytes: source.size_bytes });
        while let Some(time) = source.unsettled_for() {
            self.cancel.wait(Some(time)).map_err(SendError::Connection)?;
            self.check_cancelled()?;
        }
        let (md5, open) = match self.open_and_digest(source) {
            Ok((Some(md5), open)) => (md5, open),
            Ok((None, _)) => return Err(SendError::Interrupted),
            Err(error) => {
                self.drop_file(source, error.code(), &error.to_string());
                return Ok(None);
            }
        };
        let Ok(text) = std::str::from_utf8(name) else {
            self.drop_file(source, ErrorCode::Name, "the classic dialect carries UTF-8 names only");
            return Ok(None);
        };
        let mut header = Vec::new();
        encode_header(text, source.size_bytes, md5, &mut header)
            .map_err(|error| SendError::Connection(error.into()))?;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.establish(connect()?)?,
        };
        connection.writer.write_all(&header).map_err(|error| self.write_error(error, source))?;
        self.send_body(source, &open, &mut connection)?;
        connection.writer.flush().map_err(|error| self.write_error(error, source))?;
        self.connection = Some(connection);
        Ok(Some(md5))
    }

    /// Opens a file and computes its MD5, which the header carries; `None` if it was cancelled.
    fn open_and_digest(&self, source: &Source) -> Result<(Option<Md5>, OpenSource), ReadError> {
        let open = source.open()?;
        let mut hasher = Hasher::new();
        let mut buffer = Vec::new();
        let layout = PartLayout::new(source.size_bytes);
        for range in (0..layout.count()).filter_map(|index| layout.range(index)) {
            if self.cancel.is_cancelled() {
                return Ok((None, open));
            }
            open.read(range, &mut buffer)?;
            hasher.update(&buffer);
        }
        open.check_end().and_then(|()| open.check_unchanged())?;
        Ok((Some(hasher.finish()), open))
    }

    fn send_body(
        &mut self,
        source: &Source,
        open: &OpenSource,
        connection: &mut ClassicConnection,
    ) -> Result<(), SendError> {
        let read_error = |error| SendError::ClassicSource { name: source.name.to_string(), error };
        let layout = PartLayout::new(source.size_bytes);
        let mut buffer = Vec::new();
        for range in (0..layout.count()).filter_map(|index| layout.range(index)) {
            open.read(range, &mut buffer).map_err(read_error)?;
            for chunk in buffer.chunks(CLASSIC_BUFFER_BYTES) {
                self.check_cancelled()?;
                connection.writer.write_all(chunk).map_err(|error| self.write_error(error, source))?;
                self.summary.moved_bytes += chunk.len() as u64;
                self.progress.report(Event::Transferred { bytes: chunk.len() as u64 });
            }
        }
        open.check_unchanged().map_err(read_error)
    }

    fn write_error(&self, error: io::Error, source: &Source) -> SendError {
        match error {
            error if error.kind() == io::ErrorKind::TimedOut => SendError::IdleTimeout(self.timeout),
            error => connection_error(error, &source.name.to_string()),
        }
    }

    /// Ends this side of the connection, and waits for the receiver to end its side: a reset shows that it refused
    /// something. Some receivers never close; after the timeout the files count as sent. `name` is that of the last
    /// file.
    fn finish(&mut self, name: &str) -> Result<(), SendError> {
        let Some(ClassicConnection { connection, mut writer }) = self.connection.take() else {
            return Ok(());
        };
        let failed = |error| connection_error(error, name);
        writer.flush().and_then(|()| connection.shutdown(Shutdown::Write)).map_err(failed)?;
        let idle_timer = IdleTimer::new(self.timeout);
        let mut reply = [0; 512];
        while !idle_timer.is_expired() {
            match connection.wait_readable(self.cancel, net::POLL_INTERVAL) {
                Ok(Wake::Cancelled) => return Err(SendError::Interrupted),
                Ok(Wake::TimedOut) => continue,
                Ok(Wake::Ready) => {}
                Err(error) => return Err(SendError::Connection(error)),
            }
            match connection.read(&mut reply) {
                Ok(0) => return late_reset(&connection).map_or(Ok(()), |error| Err(failed(error))),
                // Over a Unix socket, which has no reset.
                Ok(_) if matches!(connection.peer(), Peer::Unix { .. }) && reply[0] == REFUSED => {
                    return Err(failed(io::ErrorKind::ConnectionReset.into()));
                }
                Ok(_) => {}
                Err(error) if net::is_timeout(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

fn connection_error(error: io::Error, name: &str) -> SendError {
    if net::is_disconnect(&error) {
        SendError::ClassicClosed { name: name.to_owned() }
    } else {
        SendError::Connection(error)
    }
}

/// Waits a moment for a reset. A receiver that closes before it has read everything ends the connection first, and
/// resets it one round trip later, when it receives the bytes that it did not read. A longer round trip hides the
/// reset: one more reason why a classic transfer is never confirmed.
fn late_reset(connection: &Connection) -> Option<io::Error> {
    let start = Instant::now();
    while start.elapsed() < LATE_RESET {
        if let Some(error) = connection.take_error() {
            return Some(error);
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}
