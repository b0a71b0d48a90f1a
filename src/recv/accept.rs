//! Accepts connections, each with a thread of its own, and runs the periodic work of a receiver.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::dest::local::Unfinished;
use crate::net::{Connection, Listener};
use crate::recv::admission::Permit;
use crate::recv::connection::{ADMISSION_POLL, Service};
use crate::recv::handle::ConnectionHandle;
use crate::sync::{CancelToken, DropGuard, Wake};

/// Accepts connections until the listener is stopped, and returns when all of them have ended.
pub fn serve_all(service: &Service<'_>, listener: &Listener, sweep_interval: Duration) -> io::Result<()> {
    let ended = CancelToken::new()?;
    let named = |name: &str| thread::Builder::new().name(name.into());
    thread::scope(|scope| {
        let _ended = DropGuard::new(|| ended.cancel());
        let _stop = DropGuard::new(|| {
            service.admission.update(|now| now.stop_accepting(Instant::now()));
            service.admission.notify();
        });
        named("deadlines").spawn_scoped(scope, || enforce_deadlines(service))?;
        // Senders need not wait for it.
        named("sweep").spawn_scoped(scope, || sweep_partial_files(service, sweep_interval, &ended))?;
        while let Some(connection) = listener.accept(|| release_for_accept(service))? {
            let peer = connection.peer().clone();
            let permit = admit_pending(service, connection);
            let served = named("session").spawn_scoped(scope, move || service.serve(permit, &peer));
            if served.is_err() {
                // The connection is closed. An eviction may free a thread for the next one.
                service.admission.update(|now| now.evict_unidentified(Instant::now()));
            }
        }
        Ok(())
    })
}

/// The accept loop found no descriptor for a connection.
fn release_for_accept(service: &Service<'_>) {
    service.admission.update(|now| {
        now.evict_unidentified(Instant::now());
        now.release_descriptors(Instant::now());
    });
}

/// Adds a connection to the table, and waits until there are few enough of them.
fn admit_pending(service: &Service<'_>, connection: Connection) -> Permit {
    let admission = &service.admission;
    let permit = Permit::new(admission, ConnectionHandle::new(connection));
    let mut now = admission.lock();
    while now.is_at_capacity() || now.has_too_many_pending() {
        if !now.has_too_many_pending() || !now.evict_unidentified(Instant::now()) {
            now = admission.wait(now, Some(ADMISSION_POLL));
        }
    }
    drop(now);
    // The evicted connection may wait in another thread.
    admission.notify();
    permit
}

/// Ends lost sessions whose sender does not reconnect in time, and closes evicted connections that have not ended in time;
/// until the last connection has ended.
fn enforce_deadlines(service: &Service<'_>) {
    let admission = &service.admission;
    let mut now = admission.lock();
    loop {
        let at = Instant::now();
        now.close_overdue(at);
        let expired = now.take_expired(at);
        if expired.is_empty() {
            if now.is_drained() {
                return;
            }
            let limit = now.next_deadline().map(|deadline| deadline.saturating_duration_since(at));
            now = admission.wait(now, limit);
            continue;
        }
        if now.sessions_left() == 0 {
            service.stop.cancel();
        }
        drop(now);
        let policy = service.reconnect_policy();
        for lost in expired {
            let peer = lost.peer.clone();
            service.observer.ended(&peer, &Err(policy.expired(lost, admission)));
        }
        // Another session may begin.
        admission.notify();
        now = admission.lock();
    }
}

/// Reports the partial files of earlier sessions, and removes those that are too old; again after each interval.
fn sweep_partial_files(service: &Service<'_>, interval: Duration, ended: &CancelToken) {
    let sweep = |is_first: bool| {
        let report = |partial: Unfinished| {
            if is_first || partial.is_removed {
                service.observer.unfinished(&partial);
            }
        };
        // The first session reports a folder that cannot be opened.
        let keep = service.options.keep_unfinished;
        let _ = service.destination.sweep(keep, || !ended.is_cancelled(), report);
    };
    sweep(true);
    while matches!(ended.wait(Some(interval)), Ok(Wake::TimedOut)) {
        sweep(false);
    }
}
