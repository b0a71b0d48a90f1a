//! One connection, as those see it who decide whether it may stay.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A connection and what became of it; whoever serves it and the desk have one each, and the connection is closed with
/// the last of them.
#[derive(Clone, Debug)]
pub struct Line {
    stream: Arc<TcpStream>,
    works: Arc<AtomicBool>,
    gave_way: Arc<AtomicBool>,
}

impl Line {
    pub fn new(stream: TcpStream) -> Self {
        Line { stream: Arc::new(stream), works: Arc::default(), gave_way: Arc::default() }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn shared_stream(&self) -> Arc<TcpStream> {
        Arc::clone(&self.stream)
    }

    /// The peer delivers something: its session does not give way any more.
    pub fn works(&self) {
        self.works.store(true, Ordering::Relaxed);
    }

    /// What is delivered here counts for the session's first connection.
    pub fn works_for(&mut self, first: &Line) {
        self.works = Arc::clone(&first.works);
    }

    pub fn is_working(&self) -> bool {
        self.works.load(Ordering::Relaxed)
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

    pub fn has_given_way(&self) -> bool {
        self.gave_way.load(Ordering::Acquire)
    }
}
