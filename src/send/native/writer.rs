//! The thread that writes to the connection.

use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::super::SendError;
use super::state::{Announced, Shared};
use crate::digest::{Md5, PART_BYTES};
use crate::net::{self, PatientWriter};
use crate::plan::{OpenSource, Source};
use crate::progress::Event;
use crate::wire::sender::Job;

/// Small frames and bodies go out together, in writes of this size.
const BUFFER_BYTES: usize = 256 << 10;

/// What there is to write.
pub enum Outgoing {
    /// What the session has to say.
    Words,
    /// Parts, read and hashed.
    Parts(Vec<Loaded>),
}

/// A part that was read and hashed.
pub struct Loaded {
    pub job: Job,
    pub md5: Md5,
    pub body: Body,
    pub source: Arc<Source>,
}

/// Where the bytes of a part are.
pub enum Body {
    /// Only the digest is wanted.
    Nothing,
    /// In memory.
    Bytes(Vec<u8>),
    /// In the file: the kernel sends them from there.
    File(Arc<OpenSource>),
    /// So many parts from this one on are nothing but zeros.
    Holes(u64),
}

/// Writes until nobody has anything to say any more.
pub fn write(shared: &Shared<'_>, stream: PatientWriter, to_write: Receiver<Outgoing>) {
    match write_all(shared, stream, &to_write) {
        Ok(()) => {}
        // The receiver is gone. Whether it said why, the ear knows better.
        Err(error) if net::is_disconnect(&error) => {}
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            shared.end(Err(SendError::Silent(shared.timeout)))
        }
        Err(error) => shared.end(Err(SendError::Connection(error))),
    }
}

fn write_all(shared: &Shared<'_>, stream: PatientWriter, to_write: &Receiver<Outgoing>) -> io::Result<()> {
    let mut stream = BufWriter::with_capacity(BUFFER_BYTES, stream);
    stream.write_all(&shared.take_output())?;
    loop {
        let next = match to_write.try_recv() {
            Ok(next) => next,
            Err(_) => {
                stream.flush()?;
                match to_write.recv() {
                    Ok(next) => next,
                    Err(_) => return Ok(()),
                }
            }
        };
        if let Outgoing::Parts(parts) = next {
            for part in parts {
                write_part(shared, &mut stream, &part)?;
            }
        }
        stream.write_all(&shared.take_output())?;
    }
}

fn write_part(shared: &Shared<'_>, stream: &mut BufWriter<PatientWriter>, part: &Loaded) -> io::Result<()> {
    if let Body::Holes(parts) = part.body {
        return write_holes(shared, stream, part, parts);
    }
    let body_bytes = if matches!(part.body, Body::Nothing) { 0 } else { part.job.range.len };
    let mut frame = Vec::new();
    {
        let mut state = shared.lock();
        if !state.session.part_frame(&part.job, part.md5, &mut frame) {
            return Ok(());
        }
        if let Some(Announced::File { moved_bytes, md5, .. }) = state.announced.get_mut(&part.job.entry) {
            *moved_bytes += body_bytes;
            *md5 = (part.source.size_bytes <= PART_BYTES).then_some(part.md5);
        }
        state.summary.moved_bytes += body_bytes;
    }
    if part.job.part == 0 {
        let size_bytes = part.source.size_bytes;
        shared.progress.event(Event::FileStarted { path: part.source.name.as_bytes(), size_bytes });
    }
    stream.write_all(&frame)?;
    match &part.body {
        Body::Nothing | Body::Holes(_) => Ok(()),
        Body::Bytes(bytes) => {
            stream.write_all(bytes)?;
            shared.progress.event(Event::Moved { bytes: body_bytes });
            Ok(())
        }
        Body::File(file) => {
            stream.flush()?;
            let range = part.job.range;
            let moved = |bytes| shared.progress.event(Event::Moved { bytes });
            let sent = stream.get_mut().send_file(file.file(), range.offset, range.len, moved)?;
            // The file was cut while it was sent. The receiver was promised so many bytes: it gets them, finds that
            // the digest does not match and asks again, and then the loader sees what happened.
            io::copy(&mut io::repeat(0).take(range.len - sent), stream)?;
            Ok(())
        }
    }
}

fn write_holes(shared: &Shared<'_>, stream: &mut impl Write, first: &Loaded, parts: u64) -> io::Result<()> {
    let mut frame = Vec::new();
    let mut state = shared.lock();
    if !state.session.hole_frame(&first.job, parts, &mut frame) {
        return Ok(());
    }
    if first.job.wants_body {
        let bytes = parts * first.job.range.len;
        if let Some(Announced::File { moved_bytes, .. }) = state.announced.get_mut(&first.job.entry) {
            *moved_bytes += bytes;
        }
        state.summary.hole_bytes += bytes;
        shared.progress.event(Event::Moved { bytes });
    }
    drop(state);
    stream.write_all(&frame)
}
