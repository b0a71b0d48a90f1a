//! Jobs that the threads of a session hand to each other, and their queues.

use std::io;
use std::sync::Mutex;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::dest::local::{Item, SyncedFile};
use crate::digest::{Md5, PartDigests, PartLayout, PartRange};
use crate::recv::error::RecvError;
use crate::relpath::RelPath;
use crate::sync::lock;
use crate::wire::EntryId;
use crate::wire::receiver::PartHeader;

/// Jobs that may wait for the verifier.
pub const MAX_VERIFY_JOBS: usize = 32;
/// A batch of small files is verified when it has this many bytes or files.
const SMALL_BATCH_BYTES: usize = 1 << 20;
const SMALL_BATCH_FILES: usize = 256;
/// Buffers kept for reuse: fresh memory costs the system more than copying small files into it.
const SPARE_BUFFERS: usize = 4;

/// Work for the verifier.
pub enum VerifyJob {
    /// Whole small files.
    Small(SmallBatch),
    /// A part whose bytes were written to its staged file.
    Part(PartHeader, SyncedFile),
    /// A staged file of an earlier session.
    Resume(ResumeCheck),
    /// A part of an existing file, to be compared with the sender's.
    Offer(PartHeader, SyncedFile),
}

/// Parts of an earlier session, which are read again before they count.
pub struct ResumeCheck {
    pub id: EntryId,
    pub layout: PartLayout,
    pub written: SyncedFile,
    pub digests: PartDigests,
}

/// Whole small files in memory, one behind the other.
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

/// The queue to the verifier. Senders wait while it is full.
#[derive(Clone)]
pub struct VerifyQueue {
    jobs: Sender<VerifyJob>,
    /// Buffers that the verifier has emptied.
    pub spare: Receiver<SmallBatch>,
}

impl VerifyQueue {
    pub fn push(&self, job: VerifyJob) -> Result<(), RecvError> {
        let ended_early = |_| RecvError::Connection(io::Error::other("the verifier ended early"));
        self.jobs.send(job).map_err(ended_early)
    }
}

/// The verifier's ends of its queue.
pub struct VerifyJobs {
    pub jobs: Receiver<VerifyJob>,
    pub spare: Sender<SmallBatch>,
}

/// A queue to the verifier.
pub fn verify_queue() -> (VerifyQueue, VerifyJobs) {
    let (send, jobs) = bounded(MAX_VERIFY_JOBS);
    let (used, spare) = bounded(SPARE_BUFFERS);
    (VerifyQueue { jobs: send, spare }, VerifyJobs { jobs, spare: used })
}

/// An entry that needs nothing more from the sender.
pub struct CommitJob {
    pub id: EntryId,
    pub path: RelPath,
    pub size_bytes: u64,
    /// Bytes of it that an earlier session had received.
    pub resumed_bytes: u64,
    /// The MD5 of a file of one part.
    pub md5: Option<Md5>,
    /// The range of a file that was verified last. It is hashed once mode and time of the file are set, so that the hasher
    /// can tell whether the file changed while it was read.
    pub last: Option<PartRange>,
    pub item: Item,
}

/// The queue to the committer. It has no bound of its own; it holds no more than the entries in flight.
pub struct CommitQueue(Mutex<Option<Sender<Vec<CommitJob>>>>);

impl CommitQueue {
    /// A queue, and the committer's end.
    pub fn new() -> (Self, Receiver<Vec<CommitJob>>) {
        let (jobs, commits) = unbounded();
        (CommitQueue(Mutex::new(Some(jobs))), commits)
    }

    /// Jobs after [`CommitQueue::close`] are dropped.
    pub fn push(&self, jobs: Vec<CommitJob>) {
        if let Some(queue) = &*lock(&self.0) {
            // The committer runs until the queue is closed.
            let _ = queue.send(jobs);
        }
    }

    /// The committer ends once it has done all jobs.
    pub fn close(&self) {
        *lock(&self.0) = None;
    }
}
