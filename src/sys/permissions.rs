//! Permission bits of new files.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

/// The permissions that `open(2)` usually gets for a new file: read and write for all, reduced by the umask.
pub fn new_file() -> Permissions {
    Permissions::from_mode(0o666)
}
