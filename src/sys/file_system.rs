//! What a file system reports of itself: its kind and its free space.

use rustix::fs::{Access, AtFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::dir::DirHandle;
use super::process::is_root;

/// File systems on which a file of N bytes takes at least N bytes, and on which statfs(2) reports the free space: no
/// compression, no deduplication, no remote server. ext2 to ext4, XFS, tmpfs, FAT, exFAT.
const WITH_EXACT_FREE_SPACE: [u32; 5] = [0xef53, 0x5846_5342, 0x0102_1994, 0x4d44, 0x2011_bab0];

/// File systems that may treat names as equal that differ in case or in Unicode composition: FAT, exFAT, NTFS, SMB, 9p (the
/// drives of Windows in WSL), VirtualBox, ZFS, and FUSE. Not HFS+, which lists names in another spelling than they were
/// created with.
const CASE_INSENSITIVE: [u32; 9] = [
    0x4d44,
    0x2011_bab0,
    0x7366_746e,
    0xff53_4d42,
    0xfe53_4d42,
    0x0102_1997,
    0x786f_4256,
    0x2fc1_2fc1,
    0x6573_5546,
];
/// `FS_CASEFOLD_FL`, which each directory of ext4, f2fs, tmpfs and others has by itself.
const CASEFOLD_FLAG: u32 = 0x4000_0000;

// The types of the fields of statfs(2) differ between machines.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
impl DirHandle {
    /// May a name find an entry whose name differs in case or in Unicode composition?
    pub fn may_be_case_insensitive(&self) -> bool {
        rustix::fs::fstatfs(self).is_ok_and(|fs| CASE_INSENSITIVE.contains(&(fs.f_type as u32)))
            || rustix::fs::ioctl_getflags(self).is_ok_and(|flags| flags.bits() & CASEFOLD_FLAG != 0)
    }

    /// Is the file system mounted read-only?
    pub fn is_on_read_only_fs(&self) -> Result<bool, Errno> {
        Ok(rustix::fs::fstatvfs(self)?.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// Checks that the effective user may create entries.
    pub fn check_writable(&self) -> Result<(), Errno> {
        rustix::fs::accessat(self, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
    }

    /// Bytes that any user may still write on the file system, as it reports them.
    pub fn available_bytes(&self) -> Result<u64, Errno> {
        let fs = rustix::fs::fstatvfs(self)?;
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }

    /// Bytes that this process may still write on the file system; `None` if the report is not exact.
    pub fn exact_available_bytes(&self) -> Option<u64> {
        let fs = rustix::fs::fstatfs(self).ok()?;
        // A tmpfs without a limit reports no blocks at all.
        if !WITH_EXACT_FREE_SPACE.contains(&(fs.f_type as u32)) || u64::from(fs.f_blocks) == 0 {
            return None;
        }
        // Blocks that are reserved for the superuser are free for the superuser.
        let free = if is_root() { fs.f_bfree } else { fs.f_bavail };
        Some(u64::from(free).saturating_mul(fs.f_bsize as u64))
    }
}
