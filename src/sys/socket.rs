//! Socket calls that the standard library and `socket2` do not have, and what their errors mean.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::fs::Mode;
use rustix::io::Errno;

/// Bytes that can be read from a socket without waiting.
pub fn unread_bytes(socket: impl AsFd) -> u64 {
    rustix::io::ioctl_fionread(socket).unwrap_or(0)
}

/// The user and the process at the other end of a Unix socket; process 0 if it is in another PID namespace.
///
/// With `nix`: `rustix` has no value for process 0 and returns an error that means nothing.
pub fn peer_credentials(socket: impl AsFd) -> io::Result<(u32, u32)> {
    let credentials = getsockopt(&socket, PeerCredentials)?;
    Ok((credentials.uid(), credentials.pid().unsigned_abs()))
}

/// Gives a Unix socket that is not bound yet the mode of the file that binding makes, so that no other user can connect.
pub fn make_private(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fchmod(socket, Mode::RUSR | Mode::WUSR)?)
}

/// Device and inode of a socket's file; `None` if there is no socket of that name.
pub fn socket_file(path: &Path) -> io::Result<Option<(u64, u64)>> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(Some((metadata.dev(), metadata.ino()))),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether connecting goes on in the background.
pub fn is_connecting(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::INPROGRESS)
}

/// Whether accept(2) reports an error of the connection that was to be accepted, rather than of the listener: the peer is
/// gone already, or cannot be reached.
pub fn is_of_accepted(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | TimedOut | WouldBlock)
        || matches!(
            Errno::from_io_error(error),
            Some(
                Errno::NETDOWN
                    | Errno::PROTO
                    | Errno::NOPROTOOPT
                    | Errno::HOSTDOWN
                    | Errno::NONET
                    | Errno::HOSTUNREACH
                    | Errno::OPNOTSUPP
                    | Errno::NETUNREACH
                    // A firewall refused it.
                    | Errno::PERM
            )
        )
}

/// Whether the system has no descriptors or no memory for another connection.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}
