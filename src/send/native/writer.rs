//! The threads that write, one for each connection.

use std::io::{self, BufWriter, Write};

use crossbeam_channel::{Receiver, Sender, never, select};

use super::super::error::SendError;
use super::body::write_body;
use super::entry::InFlightEntry;
use super::part_batch::{LoadedPart, PartBatch, PartBody};
use super::settle;
use super::state::{SessionShared, SessionState};
use crate::digest::PART_BYTES;
use crate::event::Event;
use crate::net::{self, TimedWriter};

/// The size of a write of small frames and bodies.
const WRITE_BUFFER_BYTES: usize = 256 << 10;

/// The greatest number of bytes of small parts whose frames the session makes at once.
const GROUP_BYTES: u64 = 64 << 10;

/// What only the primary connection carries.
pub struct PrimaryInputs {
    /// The session has output.
    pub control_rx: Receiver<()>,
    /// Parts that are sent before the receiver requests them: they must follow their entries on the same connection.
    pub unasked: Receiver<PartBatch>,
}

/// Writes `parts` to one connection, and `primary` to the first one, until the session is over. Buffers of written
/// parts are returned to `written`.
pub fn write(
    shared: &SessionShared<'_>,
    stream: TimedWriter,
    primary: Option<PrimaryInputs>,
    parts: Receiver<PartBatch>,
    written: &Sender<Vec<u8>>,
) {
    match write_all(shared, stream, Inputs::new(primary, parts), written) {
        Ok(()) => {}
        // The receive loop reads the reason, if the receiver sent one.
        Err(error) if net::is_disconnect(&error) => {}
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            shared.end(Err(SendError::IdleTimeout(shared.timeout)))
        }
        Err(error) => shared.end(Err(SendError::Connection(error))),
    }
}

/// The queues of one writer.
struct Inputs {
    is_primary: bool,
    control: Receiver<()>,
    unasked: Receiver<PartBatch>,
    parts: Receiver<PartBatch>,
}

enum Input {
    /// The session may have output.
    Control,
    Parts(PartBatch),
    /// The loader has ended, and this connection has nothing else to carry.
    Closed,
}

impl Inputs {
    fn new(primary: Option<PrimaryInputs>, parts: Receiver<PartBatch>) -> Self {
        let is_primary = primary.is_some();
        let (control, unasked) =
            primary.map_or_else(|| (never(), never()), |primary| (primary.control_rx, primary.unasked));
        Inputs { is_primary, control, unasked, parts }
    }

    /// The next input that is there already: control first, then unasked parts.
    fn try_next(&self) -> Option<Input> {
        if self.control.try_recv().is_ok() {
            return Some(Input::Control);
        }
        self.unasked.try_recv().or_else(|_| self.parts.try_recv()).ok().map(Input::Parts)
    }

    /// Waits for the next input.
    fn next(&mut self) -> Input {
        loop {
            select! {
                recv(self.control) -> _ => return Input::Control,
                recv(self.unasked) -> batch => match batch {
                    Ok(batch) => return Input::Parts(batch),
                    Err(_) => self.unasked = never(),
                },
                recv(self.parts) -> batch => match batch {
                    Ok(batch) => return Input::Parts(batch),
                    // The session may still have output.
                    Err(_) if self.is_primary => self.parts = never(),
                    Err(_) => return Input::Closed,
                },
            }
        }
    }
}

fn write_all(
    shared: &SessionShared<'_>,
    stream: TimedWriter,
    mut inputs: Inputs,
    written: &Sender<Vec<u8>>,
) -> io::Result<()> {
    let mut stream = BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream);
    if inputs.is_primary {
        stream.write_all(&shared.take_output().0)?;
    }
    loop {
        let input = match inputs.try_next() {
            Some(input) => input,
            None => {
                stream.flush()?;
                inputs.next()
            }
        };
        if inputs.is_primary {
            // Before the parts, because it may announce their entries.
            let (output, is_last) = shared.take_output();
            stream.write_all(&output)?;
            if is_last {
                return stream.flush();
            }
        }
        match input {
            Input::Control => {}
            Input::Parts(batch) => write_batch(shared, &mut stream, batch, written)?,
            Input::Closed => return Ok(()),
        }
    }
}

fn write_batch(
    shared: &SessionShared<'_>,
    stream: &mut BufWriter<TimedWriter>,
    batch: PartBatch,
    written: &Sender<Vec<u8>>,
) -> io::Result<()> {
    for group in groups(&batch.parts) {
        shared.writing.time(|| write_group(shared, stream, group, &batch.bytes))?;
    }
    if !batch.bytes.is_empty() {
        // If there are enough spare buffers, it is freed.
        let _ = written.try_send(batch.bytes);
    }
    Ok(())
}

/// Splits a batch into parts to be written together: few bytes, because they are counted as sent before they are
/// written.
fn groups(mut parts: &[LoadedPart]) -> impl Iterator<Item = &[LoadedPart]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let is_in = |part: &&LoadedPart| {
            let is_first = bytes == 0;
            bytes += part.job.range.len.max(1);
            is_first || bytes <= GROUP_BYTES
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
    // The session is locked once for all frames.
    let (mut frames, mut ends) = (Vec::new(), Vec::with_capacity(parts.len()));
    let mut sent_bytes = 0;
    let mut state = shared.lock();
    for part in parts {
        // A body of a changed file would be of no use, and holes have no tail before which it is checked again.
        if let PartBody::File(file) | PartBody::Holes(_, file) = &part.body
            && let Err(error) = file.check_unchanged()
        {
            settle::withdraw(shared, &mut state, part.job.entry, &error);
        }
        sent_bytes += append_frame(shared, &mut state, part, &mut frames);
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
    if sent_bytes > 0 {
        shared.progress.report(Event::Transferred { bytes: sent_bytes });
    }
    Ok(())
}

/// Appends the frame of a part to `frames`, unless the part is not wanted any more, and counts its bytes. Returns those
/// to report as transferred with the group; a body from a file is reported while it is sent.
fn append_frame(
    shared: &SessionShared<'_>,
    state: &mut SessionState,
    part: &LoadedPart,
    frames: &mut Vec<u8>,
) -> u64 {
    let LoadedPart { job, md5, body, source } = part;
    let is_wanted = match body {
        PartBody::Holes(parts, _) => state.session.hole_frame(job, *parts, frames),
        _ => state.session.part_frame(job, *md5, frames),
    };
    if !is_wanted {
        return 0;
    }
    let (body_bytes, hole_bytes) = match body {
        PartBody::Nothing => (0, 0),
        PartBody::Bytes(_) | PartBody::File(_) => (job.range.len, 0),
        PartBody::Holes(parts, _) => (0, if job.wants_body { parts * job.range.len } else { 0 }),
    };
    if let Some(InFlightEntry::File { ledger, md5: file_md5, .. }) = state.in_flight.get_mut(&job.entry) {
        if job.wants_body {
            settle::report_undone(shared, ledger.take_uncertain());
        }
        ledger.add_sent(body_bytes, hole_bytes);
        // The MD5 of a loaded hole is a placeholder.
        if !matches!(body, PartBody::Holes(..)) {
            *file_md5 = (source.size_bytes <= PART_BYTES).then_some(*md5);
        }
    }
    state.summary.moved_bytes += body_bytes;
    if matches!(body, PartBody::File(_)) { 0 } else { body_bytes + hole_bytes }
}

#[cfg(test)]
mod tests {
    use super::super::test_session::{announce, part, rewrite, with_shared, written};
    use super::*;
    use crate::digest::Md5;
    use std::fs;
    use std::sync::Arc;

    /// The check before the body. A file that changes later is found by the check before its tail.
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
                let body = match holes {
                    0 => PartBody::File(open),
                    parts => PartBody::Holes(parts, open),
                };
                let parts = [part(&source, PART_BYTES, Md5::of(b""), body)];
                rewrite(&source, &path);
                let bytes = written(shared, |stream| write_group(shared, stream, &parts, &[]));
                assert!(bytes.is_empty(), "{} bytes, {holes} holes", bytes.len());
                assert!(shared.lock().in_flight.is_empty(), "{holes} holes");
            });
        }
    }
}
