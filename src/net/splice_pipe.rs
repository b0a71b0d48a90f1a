//! From a connection into a file inside the kernel: no byte passes through this process.

use std::fs::File;
use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// What the pipe is asked to hold. More than a user's share of pipes allows is refused, and it stays at its 64 KiB.
const PIPE_BYTES: usize = 1 << 20;

/// The pipe through which the kernel hands on what it received.
#[derive(Debug)]
pub struct SplicePipe {
    out: File,
    into: OwnedFd,
}

/// What became of the bytes that one step took off the connection.
#[derive(Debug)]
pub struct SpliceStep {
    /// How many they were; 0 at the connection's end.
    pub taken: usize,
    /// Were they as many as were asked for? Then there may be more at once.
    pub is_full: bool,
    /// Are they in the file?
    pub written: io::Result<()>,
    /// How long the connection took to give them.
    pub waited: Duration,
    /// How long the file took to take them.
    pub wrote: Duration,
}

impl SplicePipe {
    /// A pipe of its own.
    pub fn new() -> io::Result<Self> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC)?;
        let _ = fcntl_setpipe_size(&into, PIPE_BYTES);
        Ok(SplicePipe { out: out.into(), into })
    }

    /// Takes up to `limit` bytes off the connection, waiting for the first as the connection does, and puts them into
    /// the file at `offset`. An error is one of the connection.
    pub fn step(&self, from: &TcpStream, file: &File, offset: u64, limit: u64) -> io::Result<SpliceStep> {
        let limit = limit.min(PIPE_BYTES as u64) as usize;
        let start = Instant::now();
        let taken = splice(from, None, &self.into, None, limit, SpliceFlags::MOVE)?;
        let waited = start.elapsed();
        let written = self.write_to_file(file, offset, taken);
        Ok(SpliceStep { taken, is_full: taken == limit, written, waited, wrote: start.elapsed() - waited })
    }

    /// Empties the pipe, into the file as long as that works.
    fn write_to_file(&self, file: &File, mut offset: u64, mut left: usize) -> io::Result<()> {
        while left > 0 {
            match splice(&self.out, None, file, Some(&mut offset), left, SpliceFlags::MOVE) {
                Ok(count) if count > 0 => left -= count,
                Err(Errno::INTR) => {}
                // A file system that cannot take bytes from a pipe.
                Err(Errno::INVAL) => {
                    let rest = self.read_rest(left)?;
                    return file.write_all_at(&rest, offset);
                }
                failed => {
                    self.read_rest(left)?;
                    return Err(failed.err().map_or(io::ErrorKind::WriteZero.into(), io::Error::from));
                }
            }
        }
        Ok(())
    }

    fn read_rest(&self, left: usize) -> io::Result<Vec<u8>> {
        let mut rest = vec![0; left];
        (&self.out).read_exact(&mut rest)?;
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_land_where_they_belong() {
        let (mut sender, receiver) = pair();
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        sender.write_all(&content).unwrap();
        drop(sender);
        let splicer = SplicePipe::new().unwrap();
        let mut done = 0;
        loop {
            let step = splicer.step(&receiver, &file, 7 + done, 1000).unwrap();
            step.written.unwrap();
            if step.taken == 0 {
                break;
            }
            assert!(step.taken <= 1000);
            done += step.taken as u64;
        }
        let mut landed = vec![0; content.len()];
        file.read_exact_at(&mut landed, 7).unwrap();
        assert!(landed == content && file.metadata().unwrap().len() == 7 + content.len() as u64);
    }

    #[test]
    fn a_file_that_takes_nothing_leaves_the_connection_in_step() {
        let (mut sender, mut receiver) = pair();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let appending = tempfile::NamedTempFile::new().unwrap();
        let appending = OpenOptions::new().append(true).open(appending.path()).unwrap();
        let splicer = SplicePipe::new().unwrap();
        for (file, works) in [(&full, false), (&appending, true), (&full, false)] {
            sender.write_all(b"body").unwrap();
            let step = splicer.step(&receiver, file, 0, 4).unwrap();
            assert_eq!((step.taken, step.written.is_ok()), (4, works), "{:?}", step.written);
        }
        sender.write_all(b"next").unwrap();
        let mut next = [0; 4];
        receiver.read_exact(&mut next).unwrap();
        assert_eq!(&next, b"next");
    }
}
