//! Reading frames, each wait bounded.

use std::io;
use std::time::Duration;

use crate::net::{self, Connection, FrameDeadline, IdleTimer};
use crate::sync::{CancelToken, Wake};
use crate::sys::wake::Interest;
use crate::wire::{FrameBuffer, FrameError, Framing};

/// Why no more bytes come.
#[derive(Debug)]
pub enum FrameReadError {
    /// A frame has begun and is not complete within the limit.
    HeaderTimeout,
    /// The peer was silent for longer than the limit.
    IdleTimeout,
    /// The peer reset the connection, or it broke.
    Disconnected,
    /// Another failure of the connection.
    Connection(io::Error),
}

/// The result of [`FrameReader::fill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// More bytes are in the buffer.
    Bytes,
    /// The peer closed its half.
    End,
    /// Nothing came within the time.
    Nothing,
    /// A token was cancelled.
    Cancelled,
}

/// Reads the frames of one connection.
#[derive(Debug)]
pub struct FrameReader {
    connection: Connection,
    framing: Framing,
    buffer: FrameBuffer,
    idle_timer: IdleTimer,
    deadline: FrameDeadline,
}

impl FrameReader {
    /// For an established connection. `idle_timer` is touched by each byte that arrives.
    pub fn new(connection: Connection, framing: Framing, idle_timer: IdleTimer) -> Self {
        let deadline = idle_timer.frame_deadline();
        FrameReader { connection, framing, buffer: FrameBuffer::new(), idle_timer, deadline }
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Bytes that have arrived and belong to no frame yet.
    pub fn buffer(&self) -> &FrameBuffer {
        &self.buffer
    }

    /// The JSON of the next frame, if all of it has arrived.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        if self.buffer.has_frame(self.framing)? {
            self.deadline = self.idle_timer.frame_deadline();
        }
        self.buffer.next_frame(self.framing)
    }

    /// Waits for more bytes and reads them. Returns early when one of `tokens` is cancelled.
    ///
    /// # Errors
    ///
    /// A limit of time, or a failure of the connection.
    pub fn fill(&mut self, tokens: &[&CancelToken], limit: Duration) -> Result<Fill, FrameReadError> {
        if self.deadline.is_expired(!self.buffer.is_empty()) {
            return Err(FrameReadError::HeaderTimeout);
        }
        match self.connection.wait(Interest::Readable, tokens, Some(limit)) {
            Ok(Wake::Cancelled) => return Ok(Fill::Cancelled),
            Ok(Wake::TimedOut) => return self.nothing(),
            Ok(Wake::Ready) => {}
            Err(error) => return Err(FrameReadError::Connection(error)),
        }
        match self.connection.read(self.buffer.space()) {
            Ok(0) => Ok(Fill::End),
            Ok(count) => {
                self.buffer.filled(count);
                self.idle_timer.touch();
                Ok(Fill::Bytes)
            }
            // A signal that stopped the process and continued it.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Fill::Nothing),
            Err(error) if net::is_timeout(&error) => self.nothing(),
            Err(error) if net::is_disconnect(&error) => Err(FrameReadError::Disconnected),
            Err(error) => Err(FrameReadError::Connection(error)),
        }
    }

    fn nothing(&self) -> Result<Fill, FrameReadError> {
        if self.idle_timer.is_expired() { Err(FrameReadError::IdleTimeout) } else { Ok(Fill::Nothing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use socket2::Socket;

    use crate::net::tests::{tcp_pair, unix_pair};
    use crate::wire::frame::encode;

    const SOON: Duration = Duration::from_secs(5);

    fn reader(pair: (Socket, Connection), limit: Duration) -> (Socket, FrameReader) {
        let (peer, connection) = pair;
        connection.establish().unwrap();
        (peer, FrameReader::new(connection, Framing::Native, IdleTimer::new(limit)))
    }

    fn filled(reader: &mut FrameReader) -> Fill {
        let token = CancelToken::new().unwrap();
        reader.fill(&[&token], SOON).unwrap()
    }

    #[test]
    fn frames_arrive_whole_whatever_the_pieces() {
        for pair in [tcp_pair(), unix_pair()] {
            let (mut peer, mut reader) = reader(pair, SOON);
            let mut frame = Vec::new();
            encode(Framing::Native, br#"{"ftx":"busy"}"#, &mut frame);
            for byte in frame.iter().chain(&frame) {
                assert!(reader.next_frame().unwrap().is_none());
                peer.write_all(&[*byte]).unwrap();
                assert_eq!(filled(&mut reader), Fill::Bytes);
                if reader.buffer().bytes().len() == frame.len() {
                    assert_eq!(reader.next_frame().unwrap(), Some(&br#"{"ftx":"busy"}"#[..]));
                }
            }
            drop(peer);
            assert_eq!(filled(&mut reader), Fill::End);
        }
    }

    #[test]
    fn silence_and_a_frame_that_never_ends_are_told_apart() {
        let (_peer, mut silent) = reader(tcp_pair(), Duration::ZERO);
        let error = loop {
            match silent.fill(&[], Duration::ZERO) {
                Ok(fill) => assert_eq!(fill, Fill::Nothing),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, FrameReadError::IdleTimeout));
        let (mut peer, mut trickled) = reader(tcp_pair(), Duration::ZERO);
        peer.write_all(b"x").unwrap();
        assert_eq!(trickled.fill(&[], SOON).unwrap(), Fill::Bytes);
        // Its time begins when the next bytes are needed; until then silence is what counts.
        while !matches!(trickled.fill(&[], Duration::ZERO), Err(FrameReadError::HeaderTimeout)) {}
    }

    #[test]
    fn a_cancelled_token_ends_the_wait() {
        let (_peer, mut reader) = reader(unix_pair(), SOON);
        let token = CancelToken::new().unwrap();
        token.cancel();
        assert_eq!(reader.fill(&[&token], SOON).unwrap(), Fill::Cancelled);
    }
}
