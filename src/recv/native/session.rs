//! State that all threads of a native session share.
//!
//! Lock order: session control, then the table of files, then the hasher, the space ledger or a journal. None of the
//! first two is held while a socket is written, a file is opened or a thread waits for another one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::dest::local::Item;
use crate::event::Reporter;
use crate::md5sum::FileHasher;
use crate::recv::admission::Permit;
use crate::recv::error::RecvError;
use crate::recv::native::control::{SessionControl, lock_session};
use crate::recv::native::outbox::Outbox;
use crate::recv::native::outcome::SessionOutcome;
use crate::recv::native::reporting::SessionReporter;
use crate::recv::native::timers::PhaseTimers;
use crate::recv::native::work::{CommitJob, CommitQueue, VerifyQueue};
use crate::recv::received_file::ReceivedFile;
use crate::recv::registry::SessionRegistry;
use crate::wire::EntryId;
use crate::wire::receiver::{OtherEntry, OtherKind};

use crate::sync::lock;

/// What the receiver provides for a session.
pub struct SessionContext<'a> {
    pub registry: &'a SessionRegistry,
    pub progress: &'a dyn Reporter,
    pub hasher: &'a FileHasher<'a, ReceivedFile>,
    pub permit: &'a Permit,
}

/// See the module documentation.
pub struct Session<'a> {
    pub control: Mutex<SessionControl>,
    pub outbox: Arc<Outbox>,
    pub outcome: SessionOutcome,
    pub commits: CommitQueue,
    /// For readers that are still to be started; `None` once no connection can join.
    verifier: Mutex<Option<VerifyQueue>>,
    pub reporter: SessionReporter<'a>,
    pub timers: PhaseTimers,
    pub permit: &'a Permit,
    /// Parts whose bodies are being received.
    in_transit: AtomicUsize,
}

impl<'a> Session<'a> {
    pub fn new(
        control: SessionControl,
        outbox: Arc<Outbox>,
        outcome: SessionOutcome,
        commits: CommitQueue,
        verifier: VerifyQueue,
        context: &SessionContext<'a>,
    ) -> Self {
        Session {
            control: Mutex::new(control),
            outbox,
            outcome,
            commits,
            verifier: Mutex::new(Some(verifier)),
            reporter: SessionReporter::new(context.progress, context.hasher),
            timers: PhaseTimers::default(),
            permit: context.permit,
            in_transit: AtomicUsize::new(0),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, SessionControl> {
        lock_session(&self.control)
    }

    /// The queue to the verifier; `None` once no connection can join.
    pub fn verifier(&self) -> Option<VerifyQueue> {
        lock(&self.verifier).clone()
    }

    /// Lets the verifier end with the last reader.
    pub fn close_verifier(&self) {
        *lock(&self.verifier) = None;
    }

    /// Ends all threads of the session, whatever they wait for.
    pub fn close(&self) {
        self.outcome.done().cancel();
        self.close_verifier();
        self.commits.close();
        self.outbox.close();
    }

    /// Marks a part as being received until the guard is dropped.
    pub fn in_transit(&self) -> impl Drop + use<'_, 'a> {
        struct InTransit<'b>(&'b AtomicUsize);
        impl Drop for InTransit<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Release);
            }
        }
        self.in_transit.fetch_add(1, Ordering::Relaxed);
        InTransit(&self.in_transit)
    }

    /// Has the sender nothing more to send before the parts received so far are verified?
    pub fn is_drained(&self) -> bool {
        self.in_transit.load(Ordering::Acquire) == 0 && self.lock().session.is_drained()
    }

    /// Is a file that was announced complete, failed or withdrawn by now?
    pub fn is_settled(&self, id: EntryId) -> bool {
        !self.lock().session.is_open(id)
    }

    /// Queues entries for the committer, and after them the folders and links that waited for them. The session is locked
    /// meanwhile so that the queue has the order of the session: a folder comes after everything in it. The last entry
    /// ends the reading.
    pub fn enqueue_commit(&self, control: &mut SessionControl, mut jobs: Vec<CommitJob>) {
        while let Some(OtherEntry { id, path, kind, metadata }) = control.session.next_ready() {
            let item = match kind {
                OtherKind::Dir => Item::Dir { path: path.clone(), metadata },
                OtherKind::Link(target) => Item::Link { path: path.clone(), target, metadata },
            };
            jobs.push(CommitJob { id, path, size_bytes: 0, resumed_bytes: 0, md5: None, last: None, item });
        }
        if !jobs.is_empty() {
            self.commits.push(jobs);
        }
        if control.session.is_all_received() {
            self.outcome.end(Ok(()));
        }
    }

    /// Queues the folders and links that wait for nothing any more.
    pub fn enqueue_dirs_and_links(&self, control: &mut SessionControl) {
        self.enqueue_commit(control, Vec::new());
    }

    /// Hands pending frames to the writer, where a failed write is reported by the readers.
    pub fn flush_or_ignore(&self) {
        let _ = self.lock().flush();
    }

    /// How a write to the sender failed.
    pub fn write_result(&self) -> Result<(), RecvError> {
        self.lock().write_result()
    }
}
