//! Classic senders: a header and a body for each file. The dialect has no replies; a refused file resets the connection.

use std::time::{Duration, Instant};

use crate::dest::local::{Content, Digests, Item, LocalSession, Placed, StoreError};
use crate::digest::Hasher;
use crate::event::{Event, Reporter, Summary};
use crate::net;
use crate::recv::admission::{PROCESS_FD_FRACTION, fd_headroom_below};
use crate::recv::connection_reader::ConnectionReader;
use crate::recv::error::{RecvError, escaped};
use crate::relpath::NamePolicy;
use crate::units::Metadata;
use crate::wire::Framing;
use crate::wire::classic::{ClassicError, ClassicHeader, parse_header};

/// Limits of the files that wait to be made durable together.
const BATCH_FILES: usize = 256;
const BATCH_BYTES: u64 = 64 << 20;
/// The longest time that a complete file waits for its batch.
const BATCH_AGE: Duration = Duration::from_millis(250);

/// Receives files until the sender closes the connection; the header of the first one was read already.
pub fn receive(
    reader: ConnectionReader,
    first: Result<ClassicHeader, ClassicError>,
    store: LocalSession,
    names: NamePolicy,
    progress: &dyn Reporter,
) -> Result<Summary, RecvError> {
    let summary = Summary { confirmed: true, ..Summary::default() };
    let batch = Batch { store, progress, summary, files: Vec::new(), bytes: 0, since: Instant::now() };
    let mut session = ClassicSession { reader, batch, last: None };
    let received = session.receive(first, names);
    // Files that were complete before an error are committed.
    let committed = session.batch.commit();
    match received.and(committed) {
        Ok(()) => session.reader.close(),
        Err(error) => {
            session.reader.reset();
            return Err(error);
        }
    }
    Ok(session.batch.summary)
}

struct ClassicSession<'a> {
    reader: ConnectionReader,
    batch: Batch<'a>,
    /// The last file, as long as it is not known that its body has ended.
    last: Option<(ClassicHeader, Item)>,
}

impl ClassicSession<'_> {
    fn receive(
        &mut self,
        first: Result<ClassicHeader, ClassicError>,
        names: NamePolicy,
    ) -> Result<(), RecvError> {
        self.file(first?)?;
        loop {
            self.wait_for_header()?;
            let batch = &mut self.batch;
            let Some(json) = self.reader.frame_or_end(Framing::Classic, &mut || batch.commit_if_due())?
            else {
                return self.confirm_last();
            };
            let header = parse_header(json, names)?;
            self.confirm_last()?;
            self.file(header)?;
        }
    }

    /// Waits for the header after a file. After a moment of silence the file is committed: its sender may keep the connection
    /// open until this end closes it.
    fn wait_for_header(&mut self) -> Result<(), RecvError> {
        let start = Instant::now();
        while self.last.is_some() {
            let limit = self.batch.commit_if_due()?.min(net::POLL_INTERVAL.saturating_sub(start.elapsed()));
            if self.reader.poll_activity(limit) {
                break;
            }
            if start.elapsed() >= net::POLL_INTERVAL {
                self.confirm_last()?;
                self.batch.commit()?;
            }
        }
        Ok(())
    }

    /// Accepts a file once a valid header, silence or the end of the connection follows it. A longer body is not the announced
    /// file, even if its first bytes have the digest.
    fn confirm_last(&mut self) -> Result<(), RecvError> {
        self.last.take().map_or(Ok(()), |file| self.batch.add(file))
    }

    fn file(&mut self, header: ClassicHeader) -> Result<(), RecvError> {
        let name = header.path.to_string();
        let (path, size_bytes) = (header.path.as_bytes(), header.size_bytes);
        let progress = self.batch.progress;
        progress.report(Event::Planned { files: 1, bytes: size_bytes });
        progress.report(Event::FileStarted { path, size_bytes });
        let store = &mut self.batch.store;
        let reservation =
            store.reserve(&header.path, size_bytes, None).map_err(|error| store_error(&name, error))?;
        if fd_headroom_below(PROCESS_FD_FRACTION) {
            // Files in the batch hold descriptors.
            self.batch.commit()?;
        }
        let staged = self.batch.store.stage(&header.path, size_bytes);
        let mut staged = staged.map_err(|error| store_error(&name, error))?;
        if let Some(reservation) = &reservation {
            reservation.attach(staged.written());
        }
        let mut hasher = Hasher::new();
        let mut offset = 0;
        let mut written = Ok(());
        let take = |chunk: &[u8]| {
            hasher.update(chunk);
            if written.is_ok() {
                written = staged.write_at(chunk, offset);
            }
            offset += chunk.len() as u64;
            progress.report(Event::Transferred { bytes: chunk.len() as u64 });
        };
        // A session in the middle of a body may be evicted for its descriptors.
        self.reader.handle().set_in_flight(1);
        let batch = &mut self.batch;
        let received = self.reader.whole_body(size_bytes, &name, take, &mut || batch.commit_if_due());
        self.reader.handle().set_in_flight(0);
        self.batch.summary.moved_bytes += offset;
        received?;
        written.map_err(|error| store_error(&name, error))?;
        let actual = hasher.finish();
        if actual != header.md5 {
            return Err(RecvError::Digest { name, expected: header.md5, actual });
        }
        // A file without bytes counts as delivered too, so that the session keeps its slot.
        self.reader.handle().record_bytes(0);
        staged.seal(Metadata::default(), size_bytes).map_err(|error| store_error(&name, error))?;
        let content = Content { size_bytes, digests: Digests::Whole(actual) };
        self.last = Some((header, Item::File { staged, content, metadata: Metadata::default() }));
        Ok(())
    }
}

/// Complete files that wait to be made durable together, not longer than [`BATCH_AGE`].
struct Batch<'a> {
    store: LocalSession,
    progress: &'a dyn Reporter,
    summary: Summary,
    files: Vec<(ClassicHeader, Item)>,
    bytes: u64,
    /// When the first of them was added.
    since: Instant,
}

impl Batch<'_> {
    fn add(&mut self, file: (ClassicHeader, Item)) -> Result<(), RecvError> {
        if self.files.is_empty() {
            self.since = Instant::now();
        }
        self.bytes += file.0.size_bytes;
        self.files.push(file);
        if self.files.len() >= BATCH_FILES || self.bytes >= BATCH_BYTES { self.commit() } else { Ok(()) }
    }

    /// Commits files that have waited long enough; returns after how long it is to be called again.
    fn commit_if_due(&mut self) -> Result<Duration, RecvError> {
        if self.files.is_empty() {
            return Ok(net::POLL_INTERVAL);
        }
        let left = BATCH_AGE.saturating_sub(self.since.elapsed());
        if left.is_zero() { self.commit().map(|()| net::POLL_INTERVAL) } else { Ok(left) }
    }

    fn commit(&mut self) -> Result<(), RecvError> {
        self.bytes = 0;
        let (headers, items): (Vec<_>, Vec<_>) = std::mem::take(&mut self.files).into_iter().unzip();
        let mut first_error = Ok(());
        for (header, result) in headers.into_iter().zip(self.store.commit(items)) {
            match result {
                Ok(placed) => {
                    let there_bytes = (placed == Placed::AlreadyThere).then_some(header.size_bytes);
                    match there_bytes {
                        Some(bytes) => {
                            self.summary.count_skipped(bytes);
                            self.progress.report(Event::Undone { bytes });
                        }
                        None => self.summary.count_new(header.size_bytes),
                    }
                    if let Placed::Renamed(to) = &placed {
                        self.progress
                            .report(Event::Renamed { from: header.path.as_bytes(), to: to.as_bytes() });
                    }
                    let name = if let Placed::Renamed(to) = &placed { to } else { &header.path };
                    // The body was checked against it.
                    let (path, md5) = (name.as_bytes(), Some(header.md5));
                    self.progress.report(Event::FileDone { path, md5, there_bytes });
                }
                Err(error) => {
                    let (name, code) = (header.path.as_bytes(), error.code());
                    self.summary.count_failure(code);
                    self.progress.report(Event::Failed { name, code, reason: &error.to_string() });
                    if first_error.is_ok() {
                        first_error = Err(store_error(&header.path.to_string(), error));
                    }
                }
            }
        }
        first_error
    }
}

fn store_error(name: &str, error: StoreError) -> RecvError {
    RecvError::Store { name: escaped(name), error }
}
