//! A connection: one byte stream to a peer, whatever carries it.

use std::fmt::Debug;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use super::peer::Peer;
use crate::sync::{CancelToken, Wake};
use crate::sys::BorrowedHandle;
use crate::sys::wake::Interest;

/// What a transport provides. All methods may be called from several threads at once: one reads while another writes.
pub trait Stream: Send + Sync + Debug {
    /// Does what the transport needs before the first byte: options of a socket, a handshake. Not done by the accept
    /// loop, because a peer can delay it.
    fn establish(&self) -> io::Result<()>;
    /// Reads; 0 at the end. An error for which [`is_timeout`](super::is_timeout) holds after
    /// [`POLL_INTERVAL`](super::POLL_INTERVAL) without a byte.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes some of the bytes; a timeout as for `read`, after a tenth of that time.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Waits until the stream is ready or one of `tokens` is cancelled, at most for `limit`.
    fn wait(&self, interest: Interest, tokens: &[&CancelToken], limit: Option<Duration>) -> io::Result<Wake>;
    /// Bytes that can be read without waiting.
    fn unread_bytes(&self) -> u64;
    /// Ends one or both directions, and with that the reads and writes of other threads.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
    /// Makes closing the connection a reset, where the transport has one: the peer cannot take it for a clean end.
    fn reset_on_close(&self);
    /// The other end.
    fn peer(&self) -> &Peer;
    /// An error that arrived after the last call, as a late reset.
    fn take_error(&self) -> Option<io::Error>;
    /// One more connection to the same peer; only at the end that dialled.
    fn open_another(&self, timeout: Duration, cancel: &CancelToken) -> io::Result<Connection>;
    /// The socket whose raw bytes are the stream's bytes, for copies inside the kernel. `None` where the bytes are
    /// transformed on the way, as by TLS in user space.
    fn kernel_socket(&self) -> Option<BorrowedHandle<'_>> {
        None
    }
}

/// One byte stream to a peer. Clones share the stream; it closes with the last of them.
#[derive(Clone, Debug)]
pub struct Connection(Arc<dyn Stream>);

impl Connection {
    /// A connection over `stream`.
    pub fn new(stream: impl Stream + 'static) -> Self {
        Connection(Arc::new(stream))
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// What [`Stream::write`] returns, timeouts included; an interrupted call is repeated.
    pub fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.0.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until there is something to read, or the end; or until `cancel` is cancelled; at most for `limit`.
    pub fn wait_readable(&self, cancel: &CancelToken, limit: Duration) -> io::Result<Wake> {
        self.0.wait(Interest::Readable, &[cancel], Some(limit))
    }
}

impl std::ops::Deref for Connection {
    type Target = dyn Stream;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}
