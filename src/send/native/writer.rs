//! The threads that write, one for each connection.

use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use crossbeam_channel::{Receiver, never, select};

use super::super::SendError;
use super::state::{Announced, Shared};
use crate::digest::{Md5, PART_BYTES};
use crate::net::{self, PatientWriter};
use crate::plan::{OpenSource, Source};
use crate::progress::Event;
use crate::wire::sender::Job;

/// Small frames and bodies go out together, in writes of this size.
const BUFFER_BYTES: usize = 256 << 10;

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

/// What the first connection carries beside the parts that any may take.
pub struct First {
    /// The session has something to say.
    pub words: Receiver<()>,
    /// Parts that nobody asked for yet: they come behind their entries.
    pub unasked: Receiver<Vec<Loaded>>,
}

/// Writes to one connection until the session is over: parts that were loaded, and on the first one all the rest.
pub fn write(shared: &Shared<'_>, stream: PatientWriter, first: Option<First>, parts: Receiver<Vec<Loaded>>) {
    match write_all(shared, stream, first, parts) {
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
    shared: &Shared<'_>,
    stream: PatientWriter,
    first: Option<First>,
    mut parts: Receiver<Vec<Loaded>>,
) -> io::Result<()> {
    let mut stream = BufWriter::with_capacity(BUFFER_BYTES, stream);
    let is_first = first.is_some();
    let (words, mut unasked) = first.map_or_else(|| (never(), never()), |first| (first.words, first.unasked));
    if is_first {
        stream.write_all(&shared.take_output().0)?;
    }
    loop {
        let at_hand = || unasked.try_recv().or_else(|_| parts.try_recv()).ok();
        let loaded = match words.try_recv() {
            Ok(()) => Vec::new(),
            Err(_) => match at_hand() {
                Some(loaded) => loaded,
                None => {
                    stream.flush()?;
                    select! {
                        recv(words) -> _ => Vec::new(),
                        recv(unasked) -> loaded => loaded.unwrap_or_else(|_| {
                            unasked = never();
                            Vec::new()
                        }),
                        recv(parts) -> loaded => match loaded {
                            Ok(loaded) => loaded,
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
        for part in loaded {
            shared.writing.time(|| write_part(shared, &mut stream, &part))?;
        }
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
