//! What the system grants this process.

use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Mode};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use rustix::rand::{GetRandomFlags, getrandom};

/// The mode bits that new files and directories do not get. To be called before threads start: the umask can only be
/// read by setting it.
pub fn umask() -> u32 {
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask);
    umask.bits()
}

/// Is this the superuser?
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Checks that the effective user may create entries in a directory.
pub fn check_writable(dir: &Path) -> Result<(), Errno> {
    rustix::fs::accessat(CWD, dir, Access::WRITE_OK, AtFlags::EACCESS)
}

/// The limit on the size of a file (`RLIMIT_FSIZE`); `None` if there is none.
pub fn max_file_bytes() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}

/// Unpredictable bytes.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}
