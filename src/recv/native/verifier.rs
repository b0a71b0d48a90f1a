//! The thread that compares digests, many messages side by side: small files in memory, which land when they are good,
//! and parts, which are read from their landing or from the file that is there already.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::busy_time::Stopwatch;
use crate::dest::local::{LocalSession, StoreError, SyncedFile};
use crate::digest::{Md5, PartDigests, PartLayout, digest_many, digest_ranges, lane_count};
use crate::recv::RecvError;
use crate::recv::native::files::{InboundFiles, MAX_STAGED};
use crate::recv::registry::MAX_JOINED;
use crate::wire::EntryId;
use crate::wire::receiver::PartHeader;

/// A window that is not full is verified after this long all the same.
const WINDOW_AGE: Duration = Duration::from_millis(200);
/// Parts in a window at most: as many as the widest kernel has lanes.
const MAX_WINDOW: usize = 16;
/// What may wait for the verifier.
const QUEUED: usize = 32;
// Each of them, the window, and the parts that are coming in may hold a landing.
const _: () = assert!(QUEUED + MAX_WINDOW + 1 + MAX_JOINED < MAX_STAGED);

/// Small bodies that are verified together at most: bytes and files.
const SMALL_BATCH_BYTES: usize = 1 << 20;
const SMALL_BATCH_FILES: usize = 256;

/// Buffers that are kept to be used again: fresh memory costs the system more than copying small files into it.
const SPARE: usize = 4;

/// The verifier, as those who read have it.
#[derive(Clone)]
pub struct VerifyQueue {
    work: Sender<VerifyJob>,
    /// Buffers that it is done with.
    pub spare: Receiver<SmallBatch>,
}

impl VerifyQueue {
    pub fn verify(&self, work: VerifyJob) -> Result<(), RecvError> {
        let ended_early = |_| RecvError::Connection(io::Error::other("the verifier ended early"));
        self.work.send(work).map_err(ended_early)
    }
}

/// The verifier's own ends.
pub struct Queues {
    work: Receiver<VerifyJob>,
    spare: Sender<SmallBatch>,
}

/// What goes to the verifier and back.
pub fn queues() -> (VerifyQueue, Queues) {
    let (to_verify, work) = bounded(QUEUED);
    let (used, spare) = bounded(SPARE);
    (VerifyQueue { work: to_verify, spare }, Queues { work, spare: used })
}

/// Work for the verifier.
pub enum VerifyJob {
    /// Whole files.
    Small(SmallBatch),
    /// A part whose bytes are written.
    Part(PartHeader, SyncedFile),
    /// Parts of a landing that was left behind.
    Recheck(ResumeCheck),
    /// A part that is there already, perhaps the same.
    Offer(PartHeader, File),
}

/// What an earlier session left of a file, to be read again before it is believed.
pub struct ResumeCheck {
    pub id: EntryId,
    pub layout: PartLayout,
    pub written: SyncedFile,
    pub digests: PartDigests,
}

/// Whole files, one behind the other.
#[derive(Default)]
pub struct SmallBatch {
    pub headers: Vec<PartHeader>,
    pub bytes: Vec<u8>,
}

impl SmallBatch {
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= SMALL_BATCH_BYTES || self.headers.len() >= SMALL_BATCH_FILES
    }
}

/// Verifies until the queue is closed and empty.
pub fn verify(inbound: &InboundFiles<'_>, mut store: LocalSession, Queues { work: queue, spare }: Queues) {
    while let Ok(first) = queue.recv() {
        let start = Instant::now();
        let deadline = start + WINDOW_AGE;
        let mut window = Vec::with_capacity(MAX_WINDOW);
        let mut next = Some(first);
        while let Some(work) = next {
            match work {
                VerifyJob::Small(mut small) => {
                    verify_small(inbound, &mut store, &small);
                    small.headers.clear();
                    small.bytes.clear();
                    // Where there are enough of them, it is let go.
                    let _ = spare.try_send(small);
                }
                VerifyJob::Recheck(kept) => recheck(inbound, kept),
                VerifyJob::Part(header, written) => window.push((header, PartReader::Landing(written))),
                VerifyJob::Offer(header, file) => window.push((header, PartReader::Existing(file))),
            }
            if window.len() >= lane_count().min(MAX_WINDOW) {
                break;
            }
            next = match queue.try_recv() {
                Ok(next) => Some(next),
                // The sender may be waiting for the verdict on what there is.
                Err(_) if window.is_empty() || inbound.is_drained() => None,
                Err(_) => queue.recv_deadline(deadline).ok(),
            };
        }
        if !window.is_empty() {
            verify_window(inbound, &mut store, &window);
        }
        let mut control = inbound.lock_session();
        control.record_busy(start.elapsed());
        // A connection that is broken is noticed by its reader.
        let _ = control.flush();
    }
}

fn verify_small(inbound: &InboundFiles<'_>, store: &mut LocalSession, small: &SmallBatch) {
    let mut rest = &small.bytes[..];
    let mut bodies = Vec::with_capacity(small.headers.len());
    for header in &small.headers {
        let (body, behind) = rest.split_at(header.range.len as usize);
        bodies.push(body);
        rest = behind;
    }
    let mut whole = Vec::with_capacity(bodies.len());
    let digests = inbound.timers.md5.time(|| digest_many(&bodies));
    for ((header, body), md5) in small.headers.iter().zip(&bodies).zip(digests) {
        if md5 == header.md5 {
            whole.push((header, *body));
        } else {
            // Damaged bytes never reach the disk.
            inbound.on_digest(header, md5);
        }
    }
    inbound.timers.checking_disk.time(|| inbound.stage_small(store, whole.into_iter()));
}

/// Keeps of what is recorded what is really there.
fn recheck(inbound: &InboundFiles<'_>, kept: ResumeCheck) {
    let ResumeCheck { id, layout, written, mut digests } = kept;
    let recorded = digests.count();
    // A hole is one question, however many parts it has.
    let holes: Vec<_> = digests.holes().collect();
    for (first, parts) in holes {
        if !written.is_zero(layout.run(first, parts)) {
            digests.remove(first..=first + parts - 1);
        }
    }
    let parts: Vec<u64> = digests.parts().map(|(part, _)| part).collect();
    for window in parts.chunks(MAX_WINDOW) {
        for (&part, actual) in window.iter().zip(digests_in(&written, layout, window)) {
            if actual.is_none() || actual != digests.get(part) {
                digests.remove(part..=part);
            }
        }
    }
    inbound.request_missing(id, layout, digests, recorded);
}

/// The digests of parts of a landing; `None` for those that cannot be read, as when it is shorter than it was.
fn digests_in(written: &SyncedFile, layout: PartLayout, parts: &[u64]) -> Vec<Option<Md5>> {
    let ranges: Vec<_> = parts.iter().filter_map(|&part| layout.range(part)).collect();
    match digest_ranges(&ranges, |_, buffer, offset| written.read_at(buffer, offset)) {
        Ok(digests) => digests.into_iter().map(Some).collect(),
        Err(_) if parts.len() == 1 => vec![None],
        Err(_) => parts.iter().flat_map(|part| digests_in(written, layout, &[*part])).collect(),
    }
}

enum PartReader {
    Landing(SyncedFile),
    Existing(File),
}

impl PartReader {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        match self {
            PartReader::Landing(written) => written.read_at(buffer, offset),
            PartReader::Existing(file) => file
                .read_exact_at(buffer, offset)
                .map_err(|source| StoreError::Io { doing: "read the existing file", source }),
        }
    }
}

fn verify_window(inbound: &InboundFiles<'_>, store: &mut LocalSession, window: &[(PartHeader, PartReader)]) {
    let ranges: Vec<_> = window.iter().map(|(header, _)| header.range).collect();
    let (start, reading) = (Instant::now(), Stopwatch::default());
    let together = digest_ranges(&ranges, |index, buffer, offset| {
        reading.time(|| window[index].1.read_at(buffer, offset))
    });
    inbound.timers.checking_disk.add(reading.spent());
    inbound.timers.md5.add(start.elapsed() - reading.spent());
    match together {
        Ok(digests) => {
            for ((header, _), md5) in window.iter().zip(digests) {
                report_digests(inbound, store, header, md5);
            }
        }
        // One file that cannot be read must not cost the others.
        Err(_) => {
            for (header, file) in window {
                match digest_ranges(&[header.range], |_, buffer, offset| file.read_at(buffer, offset)) {
                    Ok(digests) => {
                        digests.into_iter().for_each(|md5| report_digests(inbound, store, header, md5))
                    }
                    Err(_) if header.is_offer => inbound.offer_differs(store, header.id),
                    Err(error) => inbound.fail_file(header.id, &error),
                }
            }
        }
    }
}

fn report_digests(inbound: &InboundFiles<'_>, store: &mut LocalSession, header: &PartHeader, actual: Md5) {
    if !header.is_offer {
        inbound.on_digest(header, actual);
    } else if actual == header.md5 {
        inbound.offer_matches(header);
    } else {
        inbound.offer_differs(store, header.id);
    }
}
