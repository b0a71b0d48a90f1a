//! One connection, as those see it who decide whether it may stay.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Whoever brings less than this may be taken for idle where others need what it holds. A session that gives way for that
/// goes on later where it was.
const LEAST_BYTES_PER_S: u64 = 2000;

/// A connection and what became of it; whoever serves it and the desk have one each, and the connection is closed with
/// the last of them.
#[derive(Clone, Debug)]
pub struct Line {
    stream: Arc<TcpStream>,
    came: Instant,
    /// Until when its session was at work, in milliseconds since it came; 0 if it never was.
    worked_ms: Arc<AtomicU64>,
    /// Entries that its session has in flight.
    entries: Arc<AtomicUsize>,
    gave_way: Arc<AtomicBool>,
}

impl Line {
    pub fn new(stream: TcpStream) -> Self {
        Line {
            stream: Arc::new(stream),
            came: Instant::now(),
            worked_ms: Arc::default(),
            entries: Arc::default(),
            gave_way: Arc::default(),
        }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn shared_stream(&self) -> Arc<TcpStream> {
        Arc::clone(&self.stream)
    }

    /// The peer delivers so many bytes: each counts as work for some time, so that whoever trickles falls behind.
    pub fn delivers(&self, bytes: u64) {
        let _ = self.worked_ms.compare_exchange(0, self.now_ms(), Ordering::Relaxed, Ordering::Relaxed);
        self.worked_for(Duration::from_millis(bytes.saturating_mul(1000) / LEAST_BYTES_PER_S));
    }

    /// So long this side was at work with what was delivered, and the peer is not to blame.
    pub fn worked_for(&self, time: Duration) {
        let (now, time) = (self.now_ms(), time.as_millis() as u64);
        let _ = self.worked_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |worked| {
            (worked > 0).then(|| now.min(worked.saturating_add(time)))
        });
    }

    /// Has the peer ever delivered anything?
    pub fn has_worked(&self) -> bool {
        self.worked_ms.load(Ordering::Relaxed) > 0
    }

    /// How long there was no work, or has never been any.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.worked_ms.load(Ordering::Relaxed)))
    }

    fn now_ms(&self) -> u64 {
        1 + self.came.elapsed().as_millis() as u64
    }

    /// The session has so many entries in flight.
    pub fn holds(&self, entries: usize) {
        self.entries.store(entries, Ordering::Relaxed);
    }

    pub fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// It belongs to the session of this connection: what is delivered here counts there, and both give way together.
    pub fn belongs_to(&mut self, first: &Line) {
        *self = Line { stream: Arc::clone(&self.stream), ..first.clone() };
    }

    /// Has anything come that nobody has read yet? Whoever sends it may be gone already and believe that it arrived.
    pub fn has_unread(&self) -> bool {
        rustix::io::ioctl_fionread(&*self.stream).is_ok_and(|bytes| bytes > 0)
    }

    /// Ends it in favour of another one. Whoever reads it finds its end and may still say why.
    pub fn give_way(&self) {
        self.gave_way.store(true, Ordering::Release);
        // If it is gone already, so much the better.
        let _ = self.stream.shutdown(Shutdown::Read);
    }

    /// Ends it where even the way back is blocked.
    pub fn cut(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    pub fn has_given_way(&self) -> bool {
        self.gave_way.load(Ordering::Acquire)
    }
}
