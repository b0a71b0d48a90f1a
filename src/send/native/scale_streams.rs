//! The thread that opens secondary connections, and how many of them.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::super::options::{MAX_STREAMS, Streams};
use super::state::SessionShared;
use crate::net::{Connection, IdleTimer, TimedWriter};
use crate::sync::CancelToken;

/// The time between two decisions.
const INTERVAL: Duration = Duration::from_millis(500);
/// With a shorter round trip one connection can fill the link.
const HIGH_RTT: Duration = Duration::from_millis(5);
/// With fewer cores, one connection of short round trip keeps both ends busy.
const MANY_CORES: usize = 4;
/// The network limits the transfer if writers spend this share of their time with their connections.
const BUSY_SHARE: f64 = 0.7;
/// A connection that was added has helped if the rate grew by this factor.
const MIN_GAIN: f64 = 1.1;

/// A connection that joined the session.
pub struct SecondaryConnection(Connection, CancelToken);

impl SecondaryConnection {
    fn open(shared: &SessionShared<'_>, primary: &Connection) -> io::Result<Self> {
        let connection = primary.open_another(shared.timeout, shared.cancel)?;
        connection.establish()?;
        let join = shared.lock().session.join_frame();
        connection.write_all(&join)?;
        Ok(SecondaryConnection(connection, shared.cancel.clone()))
    }

    /// One half to read and one to write.
    pub fn split(self, idle_timer: &IdleTimer) -> (Connection, TimedWriter) {
        (self.0.clone(), TimedWriter::new(self.0, idle_timer.clone(), self.1))
    }
}

/// Opens connections, and has `start` start their threads, until there are enough or the session is over. A failure to
/// open one ends it: the transfer continues with those that are open.
pub fn scale_streams(
    shared: &SessionShared<'_>,
    primary: &Connection,
    streams: Streams,
    mut start: impl FnMut(SecondaryConnection) -> io::Result<()>,
) {
    let Some(round_trip) = wait_for_welcome(shared) else { return };
    let mut try_open = || -> io::Result<bool> {
        let secondary = SecondaryConnection::open(shared, primary)?;
        let is_running = shared.add_secondary(secondary.0.clone());
        if is_running {
            start(secondary)?;
        }
        Ok(is_running)
    };
    let open = || matches!(try_open(), Ok(true));
    match streams {
        Streams::Fixed(count) => open_fixed(count, open),
        Streams::Auto => {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            if round_trip >= HIGH_RTT || cores >= MANY_CORES {
                open_while_faster(shared, open);
            }
        }
    }
}

fn open_fixed(count: u32, mut open: impl FnMut() -> bool) {
    for _ in 1..count.min(MAX_STREAMS) {
        if !open() {
            return;
        }
    }
}

fn open_while_faster(shared: &SessionShared<'_>, mut open: impl FnMut() -> bool) {
    let mut scaler = StreamScaler::default();
    let mut count = 1;
    let mut before = Sample::take(shared);
    while wait_interval(shared) {
        let now = Sample::take(shared);
        let (rate, busy) = now.since(&before, count);
        before = now;
        match scaler.decide(rate, busy) {
            Decision::Wait => {}
            Decision::Grow if count < MAX_STREAMS && open() => count += 1,
            Decision::Grow | Decision::Stop => return,
        }
    }
}

/// What all writers together have done so far.
struct Sample {
    at: Instant,
    bytes: u64,
    /// The time that they spent with their connections.
    writing: Duration,
}

impl Sample {
    fn take(shared: &SessionShared<'_>) -> Self {
        let (at, bytes) = (Instant::now(), shared.lock().summary.moved_bytes);
        Sample { at, bytes, writing: shared.writing.spent() }
    }

    /// The rate in bytes per second since `before`, and the share of time that `count` writers were busy.
    fn since(&self, before: &Sample, count: u32) -> (f64, f64) {
        let seconds = (self.at - before.at).as_secs_f64();
        // The count of bytes falls when bodies are revoked.
        let rate = self.bytes.saturating_sub(before.bytes) as f64 / seconds;
        let busy = (self.writing - before.writing).as_secs_f64() / seconds / f64::from(count);
        (rate, busy)
    }
}

/// How long the receiver took to answer; `None` if it accepts no further connections, or the session is over.
fn wait_for_welcome(shared: &SessionShared<'_>) -> Option<Duration> {
    let mut state = shared.lock();
    loop {
        match state.welcome {
            _ if state.outcome.is_some() => return None,
            Some((round_trip, takes_streams)) => return takes_streams.then_some(round_trip),
            None => state = shared.wait(state, INTERVAL),
        }
    }
}

/// Waits for the next decision; `false` when the session is over.
fn wait_interval(shared: &SessionShared<'_>) -> bool {
    shared.wait_for_outcome(INTERVAL);
    shared.lock().outcome.is_none()
}

/// What to do about the number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Wait,
    Grow,
    Stop,
}

/// Adds one connection at a time, as long as the last one made the transfer faster.
#[derive(Debug, Default)]
struct StreamScaler {
    /// The rate before the last connection was added.
    before: Option<f64>,
    /// A connection was added, and its first interval is not over: its rate still grows.
    is_settling: bool,
}

impl StreamScaler {
    /// Decides after an interval, from its rate in bytes per second and the share of time that the writers were busy.
    fn decide(&mut self, rate: f64, busy: f64) -> Decision {
        if std::mem::take(&mut self.is_settling) {
            return Decision::Wait;
        }
        if self.before.is_some_and(|before| rate < before * MIN_GAIN) {
            return Decision::Stop;
        }
        if busy < BUSY_SHARE {
            // The disk, hashing or the receiver's requests limit the transfer.
            return Decision::Wait;
        }
        self.before = Some(rate);
        self.is_settling = true;
        Decision::Grow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of connections that results if `rate` is the rate for each number of them.
    fn settled(rate: impl Fn(u32) -> f64, busy: f64) -> u32 {
        let (mut scaler, mut count) = (StreamScaler::default(), 1);
        for _ in 0..100 {
            match scaler.decide(rate(count), busy) {
                Decision::Grow if count < MAX_STREAMS => count += 1,
                Decision::Wait => {}
                Decision::Grow | Decision::Stop => break,
            }
        }
        count
    }

    #[test]
    fn connections_are_added_while_they_make_the_transfer_faster() {
        assert_eq!(settled(f64::from, 1.0), MAX_STREAMS, "each adds the same rate");
        assert_eq!(settled(|count| f64::from(count.min(3)), 1.0), 4, "three fill the link");
        assert_eq!(settled(|_| 1.0, 1.0), 2, "one fills the link");
        assert_eq!(settled(f64::from, 0.3), 1, "the sender's disk limits the transfer");
    }
}
