//! Bytes between a file and a connection, inside the kernel where the transport permits it.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use super::connection::Connection;
use crate::sys::kernel_copy::{self as sys, SplicePipe};

/// Bytes that a copy through this process moves at a time.
const BUFFER_BYTES: u64 = 256 << 10;

/// Sends up to `count` bytes of a file from `offset`, once. Returns how many went out; 0 at the end of the file.
///
/// # Errors
///
/// What the connection reports, timeouts included, and failures to read the file.
pub fn send_file(to: &Connection, file: &File, offset: u64, count: usize) -> io::Result<usize> {
    if let Some(socket) = to.kernel_socket()
        && let Some(sent) = sys::send_file(socket, file, offset, count)?
    {
        return Ok(sent);
    }
    let mut buffer = vec![0; count.min(BUFFER_BYTES as usize)];
    let read = sys::read_at(file, &mut buffer, offset)?;
    if read == 0 { Ok(0) } else { to.write(&buffer[..read]) }
}

/// The result of one step from a connection into a file.
#[derive(Debug)]
pub struct CopyStep {
    /// Bytes taken from the connection; 0 at its end.
    pub taken: usize,
    /// As many arrived as were requested: more may be available at once.
    pub is_full: bool,
    /// Whether they are in the file. The connection is in step also after an error.
    pub written: io::Result<()>,
    /// Time until the connection delivered them.
    pub waited: Duration,
    /// Time until the file had them.
    pub wrote: Duration,
}

/// Receives bytes of one connection into files.
#[derive(Debug)]
pub enum FileReceiver {
    /// Through a pipe inside the kernel.
    Splice(SplicePipe),
    /// Through a buffer of this process.
    Buffer(Box<[u8]>),
}

impl FileReceiver {
    /// For bodies that come on `from`.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub fn new(from: &Connection) -> io::Result<Self> {
        Ok(match from.kernel_socket() {
            Some(_) => FileReceiver::Splice(SplicePipe::new()?),
            None => FileReceiver::Buffer(vec![0; BUFFER_BYTES as usize].into()),
        })
    }

    /// Takes up to `limit` bytes from the connection, waiting for the first as a read does, and puts them into the file at
    /// `offset`.
    ///
    /// # Errors
    ///
    /// Those of the connection; those of the file are in [`CopyStep::written`].
    pub fn step(&mut self, from: &Connection, file: &File, offset: u64, limit: u64) -> io::Result<CopyStep> {
        let start = Instant::now();
        match (self, from.kernel_socket()) {
            (FileReceiver::Splice(pipe), Some(socket)) => {
                let (taken, is_full) = pipe.fill(socket, limit)?;
                let waited = start.elapsed();
                let written = pipe.write_to_file(file, offset, taken);
                Ok(CopyStep { taken, is_full, written, waited, wrote: start.elapsed() - waited })
            }
            (FileReceiver::Buffer(buffer), _) => {
                let count = limit.min(BUFFER_BYTES) as usize;
                let taken = from.read(&mut buffer[..count])?;
                let waited = start.elapsed();
                let written = sys::write_all_at(file, &buffer[..taken], offset);
                let is_full = taken == count;
                Ok(CopyStep { taken, is_full, written, waited, wrote: start.elapsed() - waited })
            }
            (FileReceiver::Splice(_), None) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use crate::net::tests::{Opaque, tcp_pair, unix_pair};

    /// A TCP and a Unix connection, and one whose bytes the kernel cannot copy; with the sockets at their other ends.
    fn pairs() -> [(socket2::Socket, Connection); 3] {
        let (tcp, unix, opaque) = (tcp_pair(), unix_pair(), tcp_pair());
        [(tcp.0, tcp.1), (unix.0, unix.1), (opaque.0, Connection::new(Opaque(opaque.1)))]
    }

    #[test]
    fn received_bytes_are_written_at_their_offset() {
        for (mut sender, connection) in pairs() {
            let file = tempfile::tempfile().unwrap();
            let content: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
            sender.write_all(&content).unwrap();
            drop(sender);
            let mut receiver = FileReceiver::new(&connection).unwrap();
            let mut done = 0;
            loop {
                let step = receiver.step(&connection, &file, 7 + done, 1000).unwrap();
                step.written.unwrap();
                if step.taken == 0 {
                    break;
                }
                assert!(step.taken <= 1000);
                done += step.taken as u64;
            }
            let mut received = vec![0; content.len()];
            file.read_exact_at(&mut received, 7).unwrap();
            assert!(received == content && file.metadata().unwrap().len() == 7 + content.len() as u64);
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_the_connection_in_step() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let appending = tempfile::NamedTempFile::new().unwrap();
        let appending = OpenOptions::new().append(true).open(appending.path()).unwrap();
        for (mut sender, connection) in pairs() {
            let mut receiver = FileReceiver::new(&connection).unwrap();
            for (file, works) in [(&full, false), (&appending, true), (&full, false)] {
                sender.write_all(b"body").unwrap();
                let step = receiver.step(&connection, file, 0, 4).unwrap();
                assert_eq!((step.taken, step.written.is_ok()), (4, works), "{:?}", step.written);
            }
            sender.write_all(b"next").unwrap();
            let mut next = [0; 4];
            assert_eq!((connection.read(&mut next).unwrap(), &next), (4, b"next"));
        }
    }

    #[test]
    fn a_file_is_sent_from_its_offset_and_not_beyond_its_end() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        for pair in [tcp_pair(), unix_pair()] {
            let (peer, connection) = pair;
            for connection in [connection.clone(), Connection::new(Opaque(connection))] {
                assert_eq!(send_file(&connection, &file, 7, 100).unwrap(), 3);
                assert_eq!(send_file(&connection, &file, 10, 100).unwrap(), 0);
                let mut sent = [0; 3];
                std::io::Read::read_exact(&mut &peer, &mut sent).unwrap();
                assert_eq!(&sent, b"789");
            }
        }
    }
}
