//! Files that another session still receives. They are planned again by a thread of their own, which the first of them
//! starts, so that they delay nothing else of their session.

use std::thread::Scope;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::recv::error::RecvError;
use crate::recv::native::planner::Planner;
use crate::recv::native::threads::spawn;
use crate::wire::receiver::FileEntry;

/// How long a file waits for another session. That session may have lost its sender and still be writing what the page
/// cache took from a fast network to a slow disk.
const MAX_WAIT: Duration = Duration::from_secs(120);
/// How often deferred files are planned again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// The interval is at least this many times the duration of the last look-ups.
const LOOKUP_FRACTION: u32 = 20;

/// The deferred files of a session.
pub struct DeferredFiles<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    /// Moved to the thread when it starts.
    planner: Option<Planner<'scope>>,
    queue: Option<Sender<FileEntry>>,
}

impl<'scope, 'env> DeferredFiles<'scope, 'env> {
    pub fn new(scope: &'scope Scope<'scope, 'env>, planner: Planner<'scope>) -> Self {
        DeferredFiles { scope, planner: Some(planner), queue: None }
    }

    /// Plans a file again until no other session receives it.
    pub fn push(&mut self, entry: FileEntry) -> Result<(), RecvError> {
        if let Some(planner) = self.planner.take() {
            let (send, queue) = unbounded();
            spawn(self.scope, "deferred", move || {
                let _guard = planner.files.session.outcome.end_on_panic();
                run(planner, queue);
            })?;
            self.queue = Some(send);
        }
        if let Some(queue) = &self.queue {
            // The thread ends before the queue only if the session is over.
            let _ = queue.send(entry);
        }
        Ok(())
    }
}

/// Plans files until the queue is closed.
fn run(mut planner: Planner<'_>, queue: Receiver<FileEntry>) {
    let mut waiting: Vec<(FileEntry, Instant)> = Vec::new();
    let mut interval = RETRY_INTERVAL;
    loop {
        let next = match waiting.is_empty() {
            true => queue.recv().map_err(RecvTimeoutError::from),
            false => queue.recv_timeout(interval),
        };
        match next {
            Ok(entry) => {
                waiting.push((entry, Instant::now() + MAX_WAIT));
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let start = Instant::now();
        for (entry, deadline) in std::mem::take(&mut waiting) {
            let id = entry.id;
            if planner.files.session.is_settled(id) {
                continue;
            }
            match planner.plan(entry, start < deadline) {
                Ok(Some(entry)) => waiting.push((entry, deadline)),
                Ok(None) => planner.files.discard_if_settled(id),
                // The session is over.
                Err(_) => return,
            }
        }
        planner.files.session.flush_or_ignore();
        interval = RETRY_INTERVAL.max(start.elapsed() * LOOKUP_FRACTION);
    }
}
