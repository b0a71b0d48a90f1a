//! The thread that reads back what was written and compares its digests, a window of parts side by side.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::arrivals::Arrivals;
use crate::digest::{digest_ranges, lane_count};
use crate::store::Written;
use crate::wire::receiver::PartHeader;

/// A window that is not full is verified after this long all the same.
const WINDOW_AGE: Duration = Duration::from_millis(200);

/// Parts in a window at most: as many as the widest kernel has lanes.
pub const MAX_WINDOW: usize = 16;

/// Work for the verifier.
pub enum ToVerify {
    /// A part whose bytes are written.
    Part(PartHeader, Written),
    /// Verify all that came before, then say so.
    Drain(Sender<()>),
}

/// Verifies until the queue is closed and empty.
pub fn verify(arrivals: &Arrivals<'_>, queue: Receiver<ToVerify>) {
    while let Ok(first) = queue.recv() {
        let deadline = Instant::now() + WINDOW_AGE;
        let mut window = Vec::with_capacity(lane_count());
        let mut next = Some(first);
        let drained = loop {
            match next {
                Some(ToVerify::Part(header, written)) => window.push((header, written)),
                Some(ToVerify::Drain(done)) => break Some(done),
                None => break None,
            }
            if window.len() >= lane_count().min(MAX_WINDOW) {
                break None;
            }
            next = queue.recv_deadline(deadline).ok();
        };
        verify_window(arrivals, &window);
        if let Some(done) = drained {
            // Whoever asked has gone if this fails.
            let _ = done.send(());
        }
    }
}

fn verify_window(arrivals: &Arrivals<'_>, window: &[(PartHeader, Written)]) {
    let ranges: Vec<_> = window.iter().map(|(header, _)| header.range).collect();
    let together = digest_ranges(&ranges, |index, buffer, offset| window[index].1.read_at(buffer, offset));
    match together {
        Ok(digests) => {
            for ((header, _), md5) in window.iter().zip(digests) {
                arrivals.judge(header, md5);
            }
        }
        // One file that cannot be read back must not cost the others.
        Err(_) => {
            for (header, written) in window {
                match digest_ranges(&[header.range], |_, buffer, offset| written.read_at(buffer, offset)) {
                    Ok(digests) => digests.into_iter().for_each(|md5| arrivals.judge(header, md5)),
                    Err(error) => arrivals.fail_arrival(header.id, &error),
                }
            }
        }
    }
}
