//! The threads that write, one for each connection.

use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, never, select};
use rustix::rand::{GetRandomFlags, getrandom};

use super::super::SendError;
use super::receive_loop::report_undone;
use super::state::{InFlightEntry, SessionShared, SessionState};
use crate::digest::{Md5, PART_BYTES};
use crate::event::Event;
use crate::net::{self, TimedWriter};
use crate::source::{OpenSource, ReadError, Source};
use crate::wire::EntryId;
use crate::wire::sender::Job;

/// Small frames and bodies go out together, in writes of this size.
const BUFFER_BYTES: usize = 256 << 10;

/// Bytes of small parts that are written together at most.
const GROUP_BYTES: u64 = 64 << 10;

/// The last bytes of a body that comes out of a file wait for a last look at the file.
const TAIL_BYTES: u64 = 64 << 10;
/// So many random bytes in place of a changed file's last ones give the part another digest than it was announced with.
const POISON_BYTES: u64 = 16;

/// Parts that were loaded together.
pub struct PartBatch {
    pub parts: Vec<LoadedPart>,
    /// Where the bodies are that are in memory.
    pub bytes: Vec<u8>,
}

/// A part that was read and hashed.
pub struct LoadedPart {
    pub job: Job,
    pub md5: Md5,
    pub body: PartBody,
    pub source: Arc<Source>,
}

/// Where the bytes of a part are.
pub enum PartBody {
    /// Only the digest is wanted.
    Nothing,
    /// In memory, at this place of its batch.
    Bytes(Range<usize>),
    /// In the file: the kernel sends them from there.
    File(Arc<OpenSource>),
    /// So many parts from this one on are nothing but zeros, in this file.
    Holes(u64, Arc<OpenSource>),
}

/// What the first connection carries beside the parts that any may take.
pub struct PrimaryInputs {
    /// The session has something to say.
    pub control_rx: Receiver<()>,
    /// Parts that nobody asked for yet: they come behind their entries.
    pub unasked: Receiver<PartBatch>,
}

/// Writes to one connection until the session is over: parts that were loaded, and on the first one all the rest. Buffers
/// that are written go back by way of `spare`.
pub fn write(
    shared: &SessionShared<'_>,
    stream: TimedWriter,
    first: Option<PrimaryInputs>,
    parts: Receiver<PartBatch>,
    spare: &Sender<Vec<u8>>,
) {
    match write_all(shared, stream, first, parts, spare) {
        Ok(()) => {}
        // The receiver is gone. Whether it said why, the ear knows better.
        Err(error) if net::is_disconnect(&error) => {}
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            shared.end(Err(SendError::Silent(shared.timeout)))
        }
        Err(error) => shared.end(Err(SendError::Connection(error))),
    }
}

fn write_all(
    shared: &SessionShared<'_>,
    stream: TimedWriter,
    first: Option<PrimaryInputs>,
    mut parts: Receiver<PartBatch>,
    spare: &Sender<Vec<u8>>,
) -> io::Result<()> {
    let mut stream = BufWriter::with_capacity(BUFFER_BYTES, stream);
    let is_first = first.is_some();
    let (control_tx, mut unasked) =
        first.map_or_else(|| (never(), never()), |first| (first.control_rx, first.unasked));
    if is_first {
        stream.write_all(&shared.take_output().0)?;
    }
    loop {
        let at_hand = || unasked.try_recv().or_else(|_| parts.try_recv()).ok();
        let loaded = match control_tx.try_recv() {
            Ok(()) => None,
            Err(_) => match at_hand() {
                Some(loaded) => Some(loaded),
                None => {
                    stream.flush()?;
                    select! {
                        recv(control_tx) -> _ => None,
                        recv(unasked) -> loaded => {
                            if loaded.is_err() {
                                unasked = never();
                            }
                            loaded.ok()
                        },
                        recv(parts) -> loaded => match loaded {
                            Ok(loaded) => Some(loaded),
                            // Nothing more is loaded; there may still be something to say.
                            Err(_) if is_first => {
                                parts = never();
                                continue;
                            }
                            Err(_) => return Ok(()),
                        },
                    }
                }
            },
        };
        if is_first {
            // First of all, because it may announce what was loaded.
            let (output, is_last) = shared.take_output();
            stream.write_all(&output)?;
            if is_last {
                return stream.flush();
            }
        }
        if let Some(batch) = loaded {
            for group in groups(&batch.parts) {
                shared.writing.time(|| write_group(shared, &mut stream, group, &batch.bytes))?;
            }
            if !batch.bytes.is_empty() {
                // Where there are enough of them, it is let go.
                let _ = spare.try_send(batch.bytes);
            }
        }
    }
}

/// Parts to be written together: so few bytes that what is counted of them has as good as gone.
fn groups(mut parts: &[LoadedPart]) -> impl Iterator<Item = &[LoadedPart]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let is_in = |part: &&LoadedPart| {
            let begins = bytes == 0;
            bytes += part.job.range.len.max(1);
            begins || bytes <= GROUP_BYTES
        };
        let (group, rest) = parts.split_at(parts.iter().take_while(is_in).count());
        parts = rest;
        (!group.is_empty()).then_some(group)
    })
}

fn write_group(
    shared: &SessionShared<'_>,
    stream: &mut BufWriter<TimedWriter>,
    parts: &[LoadedPart],
    bytes: &[u8],
) -> io::Result<()> {
    // The session is asked once for all of them.
    let (mut frames, mut ends) = (Vec::new(), Vec::with_capacity(parts.len()));
    let mut moved_bytes = 0;
    let mut state = shared.lock();
    for part in parts {
        // Before a body begins that would be of no use, and before holes go, which have no last bytes of their own.
        if let PartBody::File(file) | PartBody::Holes(_, file) = &part.body
            && let Err(error) = file.check_unchanged()
        {
            shared.withdraw(&mut state, part.job.entry, &error);
        }
        moved_bytes += frame(shared, &mut state, part, &mut frames);
        ends.push(frames.len());
    }
    drop(state);
    let mut start = 0;
    for (part, end) in parts.iter().zip(ends) {
        let frame = &frames[start..end];
        start = end;
        if !frame.is_empty() {
            stream.write_all(frame)?;
            write_body(shared, stream, part, bytes)?;
        }
    }
    if moved_bytes > 0 {
        shared.progress.report(Event::Transferred { bytes: moved_bytes });
    }
    Ok(())
}

/// Appends the dictionary of a part to `frames`, unless nobody wants it any more. Returns how many bytes count as moved
/// with it; those that come out of a file are counted while they go.
fn frame(
    shared: &SessionShared<'_>,
    state: &mut SessionState,
    part: &LoadedPart,
    frames: &mut Vec<u8>,
) -> u64 {
    let LoadedPart { job, md5, body, source } = part;
    let goes = match body {
        PartBody::Holes(parts, _) => state.session.hole_frame(job, *parts, frames),
        _ => state.session.part_frame(job, *md5, frames),
    };
    if !goes {
        return 0;
    }
    let (body_bytes, hole_bytes) = match body {
        PartBody::Nothing => (0, 0),
        PartBody::Bytes(_) | PartBody::File(_) => (job.range.len, 0),
        PartBody::Holes(parts, _) => (0, if job.wants_body { parts * job.range.len } else { 0 }),
    };
    if let Some(InFlightEntry::File { transferred, md5: of_file, .. }) = state.announced.get_mut(&job.entry) {
        if job.wants_body {
            report_undone(shared, transferred.take_uncertain());
        }
        transferred.sent(body_bytes, hole_bytes);
        // That of a hole is a constant that nobody computed.
        if !matches!(body, PartBody::Holes(..)) {
            *of_file = (source.size_bytes <= PART_BYTES).then_some(*md5);
        }
    }
    state.summary.moved_bytes += body_bytes;
    if matches!(body, PartBody::File(_)) { 0 } else { body_bytes + hole_bytes }
}

/// So much of a body that was counted with its dictionary does not go: the connection has ended.
fn undo_sent(state: &mut SessionState, entry: EntryId, bytes: u64) {
    if let Some(InFlightEntry::File { transferred, .. }) = state.announced.get_mut(&entry) {
        transferred.unsent(bytes);
        state.summary.moved_bytes -= bytes;
    }
}

fn write_body(
    shared: &SessionShared<'_>,
    stream: &mut BufWriter<TimedWriter>,
    part: &LoadedPart,
    bytes: &[u8],
) -> io::Result<()> {
    if part.job.part == 0 && !matches!(part.body, PartBody::Holes(..)) {
        let size_bytes = part.source.size_bytes;
        shared.progress.report(Event::FileStarted { path: part.source.name.as_bytes(), size_bytes });
    }
    match &part.body {
        PartBody::Nothing | PartBody::Holes(..) => Ok(()),
        PartBody::Bytes(range) => stream.write_all(&bytes[range.clone()]),
        PartBody::File(file) => {
            let mut moved_bytes = 0;
            let moved = |bytes| {
                moved_bytes += bytes;
                shared.progress.report(Event::Transferred { bytes });
            };
            write_from_file(shared, stream, part, file, moved).inspect_err(|_| {
                undo_sent(&mut shared.lock(), part.job.entry, part.job.range.len - moved_bytes);
            })
        }
    }
}

/// A body that comes out of its file. It counts only if the file is still the same when its last bytes go out: the others
/// were hashed when they were read, long before on a slow link.
fn write_from_file(
    shared: &SessionShared<'_>,
    stream: &mut BufWriter<TimedWriter>,
    part: &LoadedPart,
    file: &OpenSource,
    mut moved: impl FnMut(u64),
) -> io::Result<()> {
    stream.flush()?;
    let range = part.job.range;
    let before_tail = range.len.saturating_sub(TAIL_BYTES);
    let mut sent = stream.get_mut().send_file(file.file(), range.offset, before_tail, &mut moved)?;
    let unchanged = file.check_unchanged();
    if sent == before_tail && unchanged.is_ok() {
        let tail = range.len - before_tail;
        sent += stream.get_mut().send_file(file.file(), range.offset + sent, tail, &mut moved)?;
    }
    // The receiver was promised so many bytes. It gets some that cannot have the digest, so that it does not take the
    // file for whole before it is told that there is none.
    let mut left = range.len - sent;
    if left >= POISON_BYTES || unchanged.is_err() {
        let poison = poison(left, part.md5)?;
        stream.write_all(&poison)?;
        left -= poison.len() as u64;
        let error = unchanged.err().unwrap_or(ReadError::Changed);
        shared.withdraw(&mut shared.lock(), part.job.entry, &error);
        shared.wake_writer();
    }
    // A file that shrank by so few bytes since the last look: the part is asked for again, unless they were zeros, and then
    // the loader finds the change.
    io::copy(&mut io::repeat(0).take(left), stream)?;
    Ok(())
}

/// The first of `left` bytes, all that are missing of a part that was announced with `md5`. If they are so few that chance
/// could meet the digest, they are the whole part: a tail is longer.
fn poison(left: u64, md5: Md5) -> io::Result<Vec<u8>> {
    if left >= POISON_BYTES {
        let mut random = vec![0; POISON_BYTES as usize];
        getrandom(&mut random, GetRandomFlags::empty())?;
        return Ok(random);
    }
    let zeros = vec![0; left as usize];
    Ok(if Md5::of(&zeros) == md5 { vec![1; left as usize] } else { zeros })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{announce, rewrite, with_shared};
    use super::*;
    use crate::digest::PartRange;
    use crate::net::IdleTimer;
    use std::fs;
    use std::time::Duration;

    /// What goes over a connection.
    fn written(
        shared: &SessionShared<'_>,
        write: impl FnOnce(&mut BufWriter<TimedWriter>) -> io::Result<()>,
    ) -> Vec<u8> {
        let (mut peer, connection) = crate::net::tests::tcp_pair();
        let reading = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).map(|_| bytes)
        });
        let idle_timer = IdleTimer::new(Duration::from_secs(60));
        let writer = TimedWriter::new(connection, idle_timer, shared.cancel.clone());
        let mut writer = BufWriter::new(writer);
        write(&mut writer).and_then(|()| writer.flush()).unwrap();
        drop(writer);
        reading.join().unwrap().unwrap()
    }

    fn part(source: &Arc<Source>, len: u64, md5: Md5, body: PartBody) -> LoadedPart {
        let range = PartRange { offset: 0, len };
        let job = Job { entry: 0, part: 0, range, wants_body: true, is_unasked: false };
        LoadedPart { job, md5, body, source: Arc::clone(source) }
    }

    /// The look before the body. A file that changes later is found by the next one.
    #[test]
    fn nothing_is_sent_of_a_file_that_has_changed_since_it_was_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for holes in [0, 2] {
            fs::write(&path, "bytes").unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_len(2 * PART_BYTES).unwrap();
            with_shared(|shared| {
                let source = announce(shared, &path, "all");
                let open = Arc::new(source.open().unwrap());
                let body = || match holes {
                    0 => PartBody::File(Arc::clone(&open)),
                    parts => PartBody::Holes(parts, Arc::clone(&open)),
                };
                let parts = [part(&source, PART_BYTES, Md5::of(b""), body())];
                rewrite(&source, &path);
                let bytes = written(shared, |stream| write_group(shared, stream, &parts, &[]));
                assert!(bytes.is_empty(), "{} bytes, {holes} holes", bytes.len());
                assert!(shared.lock().announced.is_empty(), "{holes} holes");
            });
        }
    }

    /// The look before the last bytes of a body: whatever their number, the part does not have its digest.
    #[test]
    fn a_body_whose_file_has_changed_is_not_sent_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for (len, filler) in [(1, 0), (1, 7), (POISON_BYTES - 1, 0), (POISON_BYTES, 7), (2 * TAIL_BYTES, 7)] {
            let content = vec![filler; len as usize];
            fs::write(&path, &content).unwrap();
            with_shared(|shared| {
                let source = announce(shared, &path, "all");
                let open = Arc::new(source.open().unwrap());
                let part = part(&source, len, Md5::of(&content), PartBody::File(open));
                let whole = written(shared, |stream| write_body(shared, stream, &part, &[]));
                assert!(whole == content && !shared.lock().announced.is_empty(), "{len} bytes");
                // With what it holds already: only its dates change.
                rewrite(&source, &path);
                let bytes = written(shared, |stream| write_body(shared, stream, &part, &[]));
                assert_eq!(bytes.len() as u64, len);
                assert_ne!(Md5::of(&bytes), part.md5, "{len} bytes");
                assert!(shared.lock().announced.is_empty(), "{len} bytes");
            });
        }
    }
}
