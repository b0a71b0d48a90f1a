//! The classic dialect: header dictionary, body, nothing back.

use std::io::{self, BufWriter, Write};
use std::thread;
use std::time::{Duration, Instant};

use super::{Classic, SendError};
use crate::digest::{Hasher, Md5, PartLayout};
use crate::error_code::ErrorCode;
use crate::event::{Event, Reporter, Summary};
use crate::net::{self, Connection, IdleTimer, NetError, Shutdown, TimedWriter};
use crate::source::{self, OpenSource, ReadError, Root, Source, WalkItem};
use crate::sync::{CancelToken, Wake};
use crate::wire::classic::encode_header;

const BUFFER_BYTES: usize = 256 << 10;

/// Sends every file; folders and links have no place in this dialect.
pub fn send(
    roots: &[Root],
    connect: impl Fn() -> Result<Connection, NetError>,
    how: Classic,
    timeout: Duration,
    cancel: &CancelToken,
    progress: &dyn Reporter,
) -> Result<Summary, SendError> {
    let mut sender = Sender { connection: None, timeout, cancel, progress, summary: Summary::default() };
    // Connecting first tells of a wrong host before anything is hashed.
    sender.connection = Some(sender.connected(connect()?)?);
    let mut outcome = Ok(());
    let go_on = || !cancel.is_cancelled();
    let told = source::walk_files(roots, go_on, |found| {
        let source = match found {
            WalkItem::File(source) => source,
            WalkItem::Skipped { path, fault, reason } => {
                sender.failed(path.as_os_str().as_encoded_bytes(), fault, &reason);
                return true;
            }
            WalkItem::Dir { .. } | WalkItem::Link { .. } => return true,
        };
        outcome = sender.send_file(&source, &connect).and_then(|sent| {
            if how == Classic::ConnectionPerFile {
                sender.finish(&source.name.to_string())?;
            }
            sent.into_iter().for_each(|md5| sender.sent(&source, md5));
            Ok(())
        });
        outcome.is_ok()
    });
    outcome?;
    source::walk_dirs_and_links(roots, &told, go_on, |found| {
        if let WalkItem::Link { name, .. } = found {
            sender.failed(name.as_bytes(), ErrorCode::LeftOut, "the classic dialect has no links");
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
    fn connected(&self, connection: Connection) -> Result<ClassicConnection, SendError> {
        connection.establish().map_err(SendError::Connection)?;
        let writer = TimedWriter::new(connection.clone(), IdleTimer::new(self.timeout), self.cancel.clone());
        Ok(ClassicConnection { connection, writer: BufWriter::with_capacity(BUFFER_BYTES, writer) })
    }

    /// Nothing can be said in this dialect: a connection that ends early says it.
    fn check_cancelled(&self) -> Result<(), SendError> {
        if self.cancel.is_cancelled() { Err(SendError::Interrupted) } else { Ok(()) }
    }

    fn failed(&mut self, name: &[u8], fault: ErrorCode, reason: &str) {
        self.summary.count_failure(fault);
        self.progress.report(Event::Failed { name, fault, reason });
    }

    /// As much as can be said: nobody confirms anything.
    fn sent(&mut self, source: &Source, md5: Md5) {
        self.summary.count_new(source.size_bytes);
        let path = source.name.as_bytes();
        self.progress.report(Event::FileDone { path, md5: Some(md5), there_bytes: None });
    }

    /// One file, and its digest if it was sent. Before its header is out, a failure costs this file; after it, the
    /// connection.
    fn send_file(
        &mut self,
        source: &Source,
        connect: impl Fn() -> Result<Connection, NetError>,
    ) -> Result<Option<Md5>, SendError> {
        let name = source.name.as_bytes();
        self.progress.report(Event::Planned { files: 1, bytes: source.size_bytes });
        self.progress.report(Event::FileStarted { path: name, size_bytes: source.size_bytes });
        while let Some(left) = source.unsettled_for() {
            self.cancel.wait(Some(left)).map_err(SendError::Connection)?;
            self.check_cancelled()?;
        }
        let digested =
            source.open().and_then(|open| Ok((self.whole_digest(&open, source.size_bytes)?, open)));
        let (md5, open) = match digested {
            Ok((Some(md5), open)) => (md5, open),
            Ok((None, _)) => return Err(SendError::Interrupted),
            Err(error) => {
                self.progress.report(Event::FileDropped { remaining_bytes: source.size_bytes });
                self.failed(name, error.fault(), &error.to_string());
                return Ok(None);
            }
        };
        let Ok(text) = std::str::from_utf8(name) else {
            self.progress.report(Event::FileDropped { remaining_bytes: source.size_bytes });
            self.failed(name, ErrorCode::Name, "the classic dialect carries UTF-8 names only");
            return Ok(None);
        };
        let mut header = Vec::new();
        encode_header(text, source.size_bytes, md5, &mut header)
            .map_err(|error| SendError::Connection(error.into()))?;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connected(connect()?)?,
        };
        connection.writer.write_all(&header).map_err(|error| self.broken(error, source))?;
        self.send_body(source, &open, &mut connection)?;
        connection.writer.flush().map_err(|error| self.broken(error, source))?;
        self.connection = Some(connection);
        Ok(Some(md5))
    }

    /// The MD5 of the whole file: the classic header wants it before the first byte. `None` when the program is to end.
    fn whole_digest(&self, open: &OpenSource, size_bytes: u64) -> Result<Option<Md5>, ReadError> {
        let layout = PartLayout::new(size_bytes);
        let mut hasher = Hasher::new();
        let mut buffer = Vec::new();
        for range in (0..layout.count()).filter_map(|index| layout.range(index)) {
            if self.cancel.is_cancelled() {
                return Ok(None);
            }
            open.read(range, &mut buffer)?;
            hasher.update(&buffer);
        }
        open.check_end().and_then(|()| open.check_unchanged())?;
        Ok(Some(hasher.finish()))
    }

    fn send_body(
        &mut self,
        source: &Source,
        open: &OpenSource,
        connection: &mut ClassicConnection,
    ) -> Result<(), SendError> {
        let changed = |error| SendError::ClassicSource { name: source.name.to_string(), error };
        let layout = PartLayout::new(source.size_bytes);
        let mut buffer = Vec::new();
        for range in (0..layout.count()).filter_map(|index| layout.range(index)) {
            open.read(range, &mut buffer).map_err(changed)?;
            for chunk in buffer.chunks(BUFFER_BYTES) {
                self.check_cancelled()?;
                connection.writer.write_all(chunk).map_err(|error| self.broken(error, source))?;
                self.summary.moved_bytes += chunk.len() as u64;
                self.progress.report(Event::Transferred { bytes: chunk.len() as u64 });
            }
        }
        open.check_unchanged().map_err(changed)
    }

    fn broken(&self, error: io::Error, source: &Source) -> SendError {
        match error {
            error if error.kind() == io::ErrorKind::TimedOut => SendError::Silent(self.timeout),
            error if net::is_disconnect(&error) => SendError::ClassicClosed { name: source.name.to_string() },
            error => SendError::Connection(error),
        }
    }

    /// Ends the connection and waits until the receiver has ended its half: if it refused something, this is where
    /// it shows. Some receivers never close; then silence is taken for consent.
    fn finish(&mut self, name: &str) -> Result<(), SendError> {
        let Some(mut connection) = self.connection.take() else {
            return Ok(());
        };
        let closed = |error: io::Error| match net::is_disconnect(&error) {
            true => SendError::ClassicClosed { name: name.to_owned() },
            false => SendError::Connection(error),
        };
        connection
            .writer
            .flush()
            .and_then(|()| connection.connection.shutdown(Shutdown::Write))
            .map_err(closed)?;
        let idle_timer = IdleTimer::new(self.timeout);
        let mut answer = [0; 512];
        while !idle_timer.is_expired() {
            match connection.connection.wait_readable(self.cancel, net::POLL_INTERVAL) {
                Ok(Wake::Cancelled) => return Err(SendError::Interrupted),
                Ok(Wake::TimedOut) => continue,
                Ok(Wake::Ready) => {}
                Err(error) => return Err(SendError::Connection(error)),
            }
            match connection.connection.read(&mut answer) {
                Ok(0) => {
                    return late_reset(&connection.connection).map_or(Ok(()), |error| Err(closed(error)));
                }
                Ok(_) => {}
                Err(error) if net::is_timeout(&error) => {}
                Err(error) => return Err(closed(error)),
            }
        }
        Ok(())
    }
}

/// How long a reset may come after the end of the connection.
const LATE_RESET: Duration = Duration::from_millis(20);

/// A receiver that closes before it has read everything ends the connection first and resets it a round trip later,
/// when the bytes that it did not want arrive. This waits for that a little; a longer way hides it, which is one more
/// reason why a classic transfer is never called confirmed.
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
