//! The thread that compares digests, several messages in parallel: of small files in memory, which are staged afterwards,
//! and of parts, which are read back from a staged or an existing file.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::busy_time::Stopwatch;
use crate::dest::local::{LocalSession, SyncedFile};
use crate::digest::{Md5, digest_many, digest_ranges, lane_count};
use crate::recv::native::file_table::MAX_STAGED;
use crate::recv::native::files::InboundFiles;
use crate::recv::native::resume_check;
use crate::recv::native::work::{MAX_VERIFY_JOBS, SmallBatch, VerifyJob, VerifyJobs};
use crate::recv::registry::MAX_JOINED;
use crate::wire::receiver::PartHeader;

/// How long a window waits for more parts before it is verified with fewer.
const WINDOW_AGE: Duration = Duration::from_millis(200);
/// Parts in a window at most: the lanes of the widest kernel.
const MAX_WINDOW: usize = 16;
// Each queued part, each part in the window, and each part that is being received may have a staged file open.
const _: () = assert!(MAX_VERIFY_JOBS + MAX_WINDOW + 1 + MAX_JOINED < MAX_STAGED);

/// A part, and the staged or existing file that has it.
type WindowPart = (PartHeader, SyncedFile);

/// Verifies until the queue is closed and empty.
pub fn verify(files: &InboundFiles<'_>, mut store: LocalSession, VerifyJobs { jobs, spare }: VerifyJobs) {
    while let Ok(first) = jobs.recv() {
        let start = Instant::now();
        let mut window = Vec::with_capacity(MAX_WINDOW);
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                VerifyJob::Small(mut small) => {
                    verify_small(files, &mut store, &small);
                    small.headers.clear();
                    small.bytes.clear();
                    // Freed if enough buffers are kept.
                    let _ = spare.try_send(small);
                }
                VerifyJob::Resume(check) => resume_check::check(files, check),
                VerifyJob::Part(header, file) | VerifyJob::Offer(header, file) => {
                    window.push((header, file));
                }
            }
            if window.len() >= lane_count().min(MAX_WINDOW) {
                break;
            }
            next = next_job(files, &jobs, window.is_empty(), start + WINDOW_AGE);
        }
        if !window.is_empty() {
            verify_window(files, &mut store, &window);
        }
        files.session.lock().record_busy(start.elapsed());
        files.session.flush_or_ignore();
    }
}

/// The next job of a window; `None` if it is to be verified now.
fn next_job(
    files: &InboundFiles<'_>,
    jobs: &Receiver<VerifyJob>,
    is_empty: bool,
    deadline: Instant,
) -> Option<VerifyJob> {
    match jobs.try_recv() {
        Ok(next) => Some(next),
        // A sender that has sent everything waits for the result.
        Err(_) if is_empty || files.session.is_drained() => None,
        Err(_) => jobs.recv_deadline(deadline).ok(),
    }
}

fn verify_small(files: &InboundFiles<'_>, store: &mut LocalSession, small: &SmallBatch) {
    let mut rest = &small.bytes[..];
    let mut bodies = Vec::with_capacity(small.headers.len());
    for header in &small.headers {
        let (body, behind) = rest.split_at(header.range.len as usize);
        bodies.push(body);
        rest = behind;
    }
    let timers = &files.session.timers;
    let mut intact = Vec::with_capacity(bodies.len());
    let digests = timers.md5.time(|| digest_many(&bodies));
    for ((header, body), md5) in small.headers.iter().zip(&bodies).zip(digests) {
        if md5 == header.md5 {
            intact.push((header, *body));
        } else {
            // Damaged bytes are not written to the disk.
            files.on_digest(header, md5);
        }
    }
    timers.checking_disk.time(|| files.stage_small(store, intact.into_iter()));
}

fn verify_window(files: &InboundFiles<'_>, store: &mut LocalSession, window: &[WindowPart]) {
    let ranges: Vec<_> = window.iter().map(|(header, _)| header.range).collect();
    let (start, reading) = (Instant::now(), Stopwatch::default());
    let digests = digest_ranges(&ranges, |index, buffer, offset| {
        reading.time(|| window[index].1.read_at(buffer, offset))
    });
    let timers = &files.session.timers;
    timers.checking_disk.add(reading.spent());
    timers.md5.add(start.elapsed() - reading.spent());
    match digests {
        Ok(digests) => {
            for ((header, _), md5) in window.iter().zip(digests) {
                report_digest(files, store, header, md5);
            }
        }
        // One file that cannot be read must not fail the others.
        Err(_) => window.iter().for_each(|part| verify_one(files, store, part)),
    }
}

fn verify_one(files: &InboundFiles<'_>, store: &mut LocalSession, (header, file): &WindowPart) {
    match digest_ranges(&[header.range], |_, buffer, offset| file.read_at(buffer, offset)) {
        Ok(digests) => digests.into_iter().for_each(|md5| report_digest(files, store, header, md5)),
        Err(_) if header.is_offer => files.offer_differs(store, header.id),
        Err(error) => files.fail_file(header.id, &error),
    }
}

fn report_digest(files: &InboundFiles<'_>, store: &mut LocalSession, header: &PartHeader, actual: Md5) {
    if !header.is_offer {
        files.on_digest(header, actual);
    } else if actual == header.md5 {
        files.offer_matches(header);
    } else {
        files.offer_differs(store, header.id);
    }
}
