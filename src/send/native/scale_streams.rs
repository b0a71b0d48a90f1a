//! How many connections a session has, and the thread that opens them.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::state::SessionShared;
use crate::net::{Connection, IdleTimer, TimedWriter};
use crate::sync::CancelToken;

/// Connections of one session at most.
pub const MAX_STREAMS: u32 = 8;

/// How many connections a session has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// One, and more as long as they help.
    Auto,
    /// So many, at most [`MAX_STREAMS`].
    Fixed(u32),
}

/// How long the transfer is watched before the next decision.
const INTERVAL: Duration = Duration::from_millis(500);
/// A receiver that takes so long to answer is far away: one connection may not fill the way there.
const HIGH_RTT: Duration = Duration::from_millis(5);
/// With fewer cores, one connection keeps both ends of a short way busy.
const MANY_CORES: usize = 4;
/// The network holds the sender up if its writers spend this share of their time with their connections.
const BUSY_SHARE: f64 = 0.7;
/// One connection more has helped if the rate grew by this factor.
const MIN_GAIN: f64 = 1.1;

/// One more connection of a session.
pub struct JoinedConnection(Connection, CancelToken);

impl JoinedConnection {
    fn open(shared: &SessionShared<'_>, first: &Connection) -> io::Result<Self> {
        let connection = first.open_another(shared.timeout, shared.cancel)?;
        connection.establish()?;
        let join = shared.lock().session.join_frame();
        connection.write_all(&join)?;
        Ok(JoinedConnection(connection, shared.cancel.clone()))
    }

    /// A half to listen to and one to write to.
    pub fn split(self, idle_timer: &IdleTimer) -> (Connection, TimedWriter) {
        (self.0.clone(), TimedWriter::new(self.0, idle_timer.clone(), self.1))
    }
}

/// Opens connections until there are enough of them or the session is over. One that cannot be opened is done without.
pub fn scale_streams(
    shared: &SessionShared<'_>,
    first: &Connection,
    streams: Streams,
    mut start: impl FnMut(JoinedConnection) -> io::Result<()>,
) {
    let Some(answered_after) = wait_for_welcome(shared) else { return };
    let mut open = || -> io::Result<bool> {
        let joined = JoinedConnection::open(shared, first)?;
        let goes_on = shared.add_joined(joined.0.clone());
        if goes_on {
            start(joined)?;
        }
        Ok(goes_on)
    };
    match streams {
        Streams::Fixed(count) => {
            for _ in 1..count.min(MAX_STREAMS) {
                if !matches!(open(), Ok(true)) {
                    return;
                }
            }
        }
        Streams::Auto => {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            if answered_after < HIGH_RTT && cores < MANY_CORES {
                return;
            }
            let mut tuner = StreamScaler::default();
            let mut count = 1;
            let mut before = (Instant::now(), shared.record_sent());
            while wait_interval(shared) {
                let now = (Instant::now(), shared.record_sent());
                let seconds = (now.0 - before.0).as_secs_f64();
                // What went out and was not needed is taken back.
                let rate = now.1.bytes.saturating_sub(before.1.bytes) as f64 / seconds;
                let busy = (now.1.writing - before.1.writing).as_secs_f64() / seconds / f64::from(count);
                before = now;
                match tuner.decide(rate, busy) {
                    Decision::Wait => {}
                    Decision::Grow if count < MAX_STREAMS && matches!(open(), Ok(true)) => count += 1,
                    Decision::Grow | Decision::Stop => return,
                }
            }
        }
    }
}

/// How long the receiver took to answer; `None` if it takes no further connections, or the session is over.
fn wait_for_welcome(shared: &SessionShared<'_>) -> Option<Duration> {
    let mut state = shared.lock();
    loop {
        match state.welcome {
            _ if state.outcome.is_some() => return None,
            Some((after, takes_streams)) => return takes_streams.then_some(after),
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
    /// The last interval was the one in which a connection was added and found its speed.
    is_settling: bool,
}

impl StreamScaler {
    /// After an interval with a rate in bytes a second and the share of time that writers spent with connections.
    fn decide(&mut self, rate: f64, busy: f64) -> Decision {
        if std::mem::take(&mut self.is_settling) {
            return Decision::Wait;
        }
        if self.before.is_some_and(|before| rate < before * MIN_GAIN) {
            return Decision::Stop;
        }
        if busy < BUSY_SHARE {
            // The disk, the digests or the receiver's decisions are what it waits for.
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

    /// How many connections a tuner ends up with, if `rate` gives the rate for each number of them.
    fn settled(rate: impl Fn(u32) -> f64, busy: f64) -> u32 {
        let (mut tuner, mut count) = (StreamScaler::default(), 1);
        for _ in 0..100 {
            match tuner.decide(rate(count), busy) {
                Decision::Grow if count < MAX_STREAMS => count += 1,
                Decision::Wait => {}
                Decision::Grow | Decision::Stop => break,
            }
        }
        count
    }

    #[test]
    fn connections_are_added_as_long_as_they_help() {
        assert_eq!(settled(f64::from, 1.0), MAX_STREAMS, "each has a rate of its own");
        assert_eq!(settled(|count| f64::from(count.min(3)), 1.0), 4, "three fill the link");
        assert_eq!(settled(|_| 1.0, 1.0), 2, "one fills it");
        assert_eq!(settled(f64::from, 0.3), 1, "the sender's own disk is what it waits for");
    }
}
