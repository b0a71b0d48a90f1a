//! Writes the body of a part, from memory or from its file.

use std::io::{self, BufWriter, Read, Write};

use super::entry::InFlightEntry;
use super::part_batch::{LoadedPart, PartBody};
use super::settle;
use super::state::{SessionShared, SessionState};
use crate::digest::Md5;
use crate::event::Event;
use crate::net::TimedWriter;
use crate::source::{OpenSource, ReadError};
use crate::sys::process::random_bytes;
use crate::wire::EntryId;

/// The last bytes of a body from a file, which are sent after a last check that the file is unchanged.
const TAIL_BYTES: u64 = 64 << 10;
/// Random bytes sent in place of a changed file's tail, so that the part cannot match its announced MD5.
const POISON_BYTES: u64 = 16;

/// Writes the body of a part whose frame was written. `bytes` are those of its batch.
pub fn write_body(
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
            let mut sent_bytes = 0;
            let on_sent = |bytes| {
                sent_bytes += bytes;
                shared.progress.report(Event::Transferred { bytes });
            };
            write_from_file(shared, stream, part, file, on_sent).inspect_err(|_| {
                undo_sent(&mut shared.lock(), part.job.entry, part.job.range.len - sent_bytes);
            })
        }
    }
}

/// Uncounts bytes that were counted with their frame and not sent, because the connection ended.
fn undo_sent(state: &mut SessionState, id: EntryId, bytes: u64) {
    if let Some(InFlightEntry::File { ledger, .. }) = state.in_flight.get_mut(&id) {
        ledger.undo_sent(bytes);
        state.summary.moved_bytes -= bytes;
    }
}

/// Sends a body from its file. It was hashed before, long before on a slow link: the last bytes are sent only if the
/// file is unchanged until then.
fn write_from_file(
    shared: &SessionShared<'_>,
    stream: &mut BufWriter<TimedWriter>,
    part: &LoadedPart,
    file: &OpenSource,
    mut on_sent: impl FnMut(u64),
) -> io::Result<()> {
    stream.flush()?;
    let range = part.job.range;
    let before_tail = range.len.saturating_sub(TAIL_BYTES);
    let mut sent = stream.get_mut().send_file(file.file(), range.offset, before_tail, &mut on_sent)?;
    let unchanged = file.check_unchanged();
    if sent == before_tail && unchanged.is_ok() {
        let tail = range.len - before_tail;
        sent += stream.get_mut().send_file(file.file(), range.offset + sent, tail, &mut on_sent)?;
    }
    // The frame announced `range.len` bytes. The missing ones are replaced by bytes that do not have the digest, so
    // that the receiver cannot store the file before it reads that it was withdrawn.
    let mut missing = range.len - sent;
    if missing >= POISON_BYTES || unchanged.is_err() {
        let poison = poison(missing, part.md5)?;
        stream.write_all(&poison)?;
        missing -= poison.len() as u64;
        let error = unchanged.err().unwrap_or(ReadError::Changed);
        settle::withdraw(shared, &mut shared.lock(), part.job.entry, &error);
        shared.wake_writer();
    }
    // If the file became shorter by fewer bytes after the check, the receiver requests the part again, and the loader
    // finds the change; or the bytes were zeros, and the part is correct.
    io::copy(&mut io::repeat(0).take(missing), stream)?;
    Ok(())
}

/// Bytes that give a part with `missing` last bytes another digest than `md5`. Fewer than [`POISON_BYTES`] could have
/// the digest by chance; then they are the whole part, because a tail is longer, and its digest can be compared.
fn poison(missing: u64, md5: Md5) -> io::Result<Vec<u8>> {
    if missing >= POISON_BYTES {
        return Ok(random_bytes::<{ POISON_BYTES as usize }>()?.to_vec());
    }
    let zeros = vec![0; missing as usize];
    Ok(if Md5::of(&zeros) == md5 { vec![1; missing as usize] } else { zeros })
}

#[cfg(test)]
mod tests {
    use super::super::test_session::{announce, part, rewrite, with_shared, written};
    use super::*;
    use std::fs;
    use std::sync::Arc;

    /// The check before the last bytes of a body: a part of any length gets a different digest.
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
                let complete = written(shared, |stream| write_body(shared, stream, &part, &[]));
                assert!(complete == content && !shared.lock().in_flight.is_empty(), "{len} bytes");
                rewrite(&source, &path);
                let bytes = written(shared, |stream| write_body(shared, stream, &part, &[]));
                assert_eq!(bytes.len() as u64, len);
                assert_ne!(Md5::of(&bytes), part.md5, "{len} bytes");
                assert!(shared.lock().in_flight.is_empty(), "{len} bytes");
            });
        }
    }
}
