//! Classic senders: header dictionary and body, again and again. Nothing can be said back; a refused file closes the
//! connection, which is the only thing such a sender can notice.

use super::input::Input;
use super::{RecvError, shown};
use crate::digest::Hasher;
use crate::progress::{Event, Progress, Summary};
use crate::relpath::NamePolicy;
use crate::store::{Content, Digests, Item, Placed, Store, StoreError};
use crate::units::Metadata;
use crate::wire::Form;
use crate::wire::classic::{ClassicError, Header, parse_header};

/// Files that may wait to be made durable together.
const BATCH_FILES: usize = 256;
const BATCH_BYTES: u64 = 64 << 20;

/// Takes files until the sender closes the connection; the header of the first one was read already.
pub fn receive(
    input: Input,
    first: Result<Header, ClassicError>,
    store: Store,
    names: NamePolicy,
    progress: &dyn Progress,
) -> Result<Summary, RecvError> {
    let summary = Summary { confirmed: true, ..Summary::default() };
    let mut session =
        Session { input, store, progress, summary, last: None, batch: Vec::new(), batch_bytes: 0 };
    let received = session.receive(first, names);
    // What came whole before something broke is whole: it gets its name in any case.
    let committed = session.commit();
    match received.and(committed) {
        Ok(()) => session.input.close(),
        Err(error) => {
            session.input.reset();
            return Err(error);
        }
    }
    Ok(session.summary)
}

struct Session<'a> {
    input: Input,
    store: Store,
    progress: &'a dyn Progress,
    summary: Summary,
    last: Option<(Header, Item)>,
    batch: Vec<(Header, Item)>,
    batch_bytes: u64,
}

impl Session<'_> {
    fn receive(&mut self, first: Result<Header, ClassicError>, names: NamePolicy) -> Result<(), RecvError> {
        self.file(first?)?;
        loop {
            // A sender that keeps the connection open and waits for us shall not wait in vain.
            if self.last.is_some() && !self.input.stirs() {
                self.believe_last();
                self.commit()?;
            }
            let Some(json) = self.input.frame_or_end(Form::Classic)? else {
                self.believe_last();
                return Ok(());
            };
            let header = parse_header(json, names)?;
            self.believe_last();
            self.file(header)?;
            if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
                self.commit()?;
            }
        }
    }

    /// A file is believed once the frame boundary behind it holds: a valid header, silence, or the end. A body that goes on
    /// is not the file that its header announced, even if the first bytes of it have the right digest.
    fn believe_last(&mut self) {
        self.batch.extend(self.last.take());
    }

    fn file(&mut self, header: Header) -> Result<(), RecvError> {
        let name = header.path.to_string();
        let path = header.path.as_bytes();
        self.progress.event(Event::Planned { files: 1, bytes: header.size_bytes });
        self.progress.event(Event::FileStarted { path, size_bytes: header.size_bytes });
        let room = self
            .store
            .room(&header.path, header.size_bytes, None)
            .map_err(|error| store_error(&name, error))?;
        let mut landing = self.store.land(&header.path).map_err(|error| store_error(&name, error))?;
        if let Some(room) = &room {
            room.lands(landing.written());
        }
        let mut hasher = Hasher::new();
        let mut offset = 0;
        let mut written = Ok(());
        self.input.whole_body(header.size_bytes, &name, |chunk| {
            hasher.update(chunk);
            if written.is_ok() {
                written = landing.write_at(chunk, offset);
            }
            offset += chunk.len() as u64;
            self.summary.moved_bytes += chunk.len() as u64;
            self.progress.event(Event::Moved { bytes: chunk.len() as u64 });
        })?;
        written.map_err(|error| store_error(&name, error))?;
        let actual = hasher.finish();
        if actual != header.md5 {
            return Err(RecvError::Digest { name, expected: header.md5, actual });
        }
        landing.seal(Metadata::default(), header.size_bytes).map_err(|error| store_error(&name, error))?;
        let content = Content { size_bytes: header.size_bytes, digests: Digests::Whole(actual) };
        self.batch_bytes += header.size_bytes;
        self.last = Some((header, Item::File { landing, content, metadata: Metadata::default() }));
        Ok(())
    }

    fn commit(&mut self) -> Result<(), RecvError> {
        self.batch_bytes = 0;
        let (headers, items): (Vec<_>, Vec<_>) = std::mem::take(&mut self.batch).into_iter().unzip();
        let mut first_error = Ok(());
        for (header, result) in headers.into_iter().zip(self.store.commit(items)) {
            match result {
                Ok(placed) => {
                    let there_bytes = (placed == Placed::AlreadyThere).then_some(header.size_bytes);
                    match there_bytes {
                        Some(bytes) => {
                            self.summary.count_skipped(bytes);
                            self.progress.event(Event::Returned { bytes });
                        }
                        None => self.summary.count_new(header.size_bytes),
                    }
                    if let Placed::Renamed(to) = &placed {
                        self.progress
                            .event(Event::Renamed { from: header.path.as_bytes(), to: to.as_bytes() });
                    }
                    let name = if let Placed::Renamed(to) = &placed { to } else { &header.path };
                    // What came had this digest, or it would not have got here.
                    let (path, md5) = (name.as_bytes(), Some(header.md5));
                    self.progress.event(Event::FileDone { path, md5, there_bytes });
                }
                Err(error) => {
                    let (name, fault) = (header.path.as_bytes(), error.fault());
                    self.summary.count_failure(fault);
                    self.progress.event(Event::Failed { name, fault, reason: &error.to_string() });
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
    RecvError::Store { name: shown(name), error }
}
