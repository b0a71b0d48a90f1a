//! Bytes between files and sockets inside the kernel.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// The requested capacity of the pipe. Above the user's limit for pipes the request fails, and the pipe keeps its 64 KiB.
const PIPE_BYTES: usize = 1 << 20;

/// Sends up to `count` bytes of a file from `offset` into a socket. `None` if the kernel cannot do it for this file.
pub fn send_file(to: impl AsFd, file: &File, offset: u64, count: usize) -> io::Result<Option<usize>> {
    let mut from = offset;
    match rustix::fs::sendfile(to, file, Some(&mut from), count) {
        Ok(sent) => Ok(Some(sent)),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The pipe through which splice(2) moves bytes from a socket to a file.
#[derive(Debug)]
pub struct SplicePipe {
    out: File,
    into: OwnedFd,
}

impl SplicePipe {
    /// An empty pipe.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub fn new() -> io::Result<Self> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC)?;
        let _ = fcntl_setpipe_size(&into, PIPE_BYTES);
        Ok(SplicePipe { out: out.into(), into })
    }

    /// Takes up to `limit` bytes from a socket into the pipe, waiting for the first as the socket is set to.
    /// Returns how many came (0 at the end), and whether more may be there at once.
    pub fn fill(&self, from: impl AsFd, limit: u64) -> io::Result<(usize, bool)> {
        let limit = limit.min(PIPE_BYTES as u64) as usize;
        let taken = splice(from, None, &self.into, None, limit, SpliceFlags::MOVE)?;
        Ok((taken, taken == limit))
    }

    /// Moves the `left` bytes in the pipe into the file at `offset`. The pipe is empty afterwards, also after an error.
    pub fn write_to_file(&self, file: &File, mut offset: u64, mut left: usize) -> io::Result<()> {
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

/// Writes all of `bytes` into a file at `offset`.
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Reads from a file at `offset`; 0 at its end.
pub fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buffer, offset)
}
