//! Handles on directories, and what is done with their entries.
//!
//! A name is a single component, and no method follows a symbolic link under a name.

use std::ffi::{CStr, CString};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir as DirStream, Mode, OFlags, RawDir, RawDirEntry, RenameFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use super::file::timestamps;
use super::no_links;
use super::stat::{FileStat, FileType};
use crate::units::MtimeNs;

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Bytes of a directory that are listed with one call: some hundred names.
const LISTING_BYTES: usize = 32 << 10;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// An open directory.
#[derive(Debug)]
pub struct DirHandle(OwnedFd);

impl AsFd for DirHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens a file for reading by an absolute path that leads over no symbolic link, without waiting for a FIFO's writer.
pub fn open_file_without_links(path: &Path) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    no_links::open(None, path.as_os_str().as_encoded_bytes(), flags).map(File::from)
}

/// What stat(2) reports of what is at an absolute path that leads over no symbolic link.
pub fn stat_without_links(path: &Path) -> Result<FileStat, Errno> {
    let handle = no_links::open(None, path.as_os_str().as_encoded_bytes(), OFlags::PATH | OFlags::CLOEXEC)?;
    FileStat::of(handle)
}

/// Creates a directory and those above it that are missing, accessible for this user alone.
pub fn create_private_all(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl DirHandle {
    /// Opens the directory at a path.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        rustix::fs::open(path, DIR_FLAGS, Mode::empty()).map(DirHandle)
    }

    /// Opens the directory at an absolute path that leads over no symbolic link.
    pub fn open_without_links(path: &Path) -> Result<Self, Errno> {
        no_links::open(None, path.as_os_str().as_encoded_bytes(), DIR_FLAGS).map(DirHandle)
    }

    /// The same without a right to list the directory, and without listing it.
    pub fn locate_without_links(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        no_links::open(None, path.as_os_str().as_encoded_bytes(), flags).map(DirHandle)
    }

    /// Opens a directory by its path below this one, over no symbolic link.
    pub fn open_beneath(&self, path: &[u8]) -> Result<Self, Errno> {
        no_links::open(Some(self.as_fd()), path, DIR_FLAGS).map(DirHandle)
    }

    /// Opens a directory in this one.
    pub fn open_dir(&self, name: impl Arg) -> Result<Self, Errno> {
        rustix::fs::openat(self, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()).map(DirHandle)
    }

    /// Creates a directory in this one.
    pub fn create_dir(&self, name: impl Arg, mode: u32) -> Result<(), Errno> {
        rustix::fs::mkdirat(self, name, Mode::from_raw_mode(mode))
    }

    /// Opens a file, without waiting for a FIFO's writer.
    pub fn open_file(&self, name: impl Arg, access: Access) -> Result<File, Errno> {
        let access = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(self, name, flags, Mode::empty()).map(File::from)
    }

    /// Creates a file for reading and writing; [`Errno::EXIST`] if the name is taken.
    pub fn create_file(&self, name: impl Arg, mode: u32) -> Result<File, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self, name, flags, Mode::from_raw_mode(mode)).map(File::from)
    }

    /// Creates a file without a name for this user alone, on the file system of this directory. `None` if that file system
    /// cannot.
    pub fn create_unnamed_file(&self) -> Result<Option<File>, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
        match rustix::fs::openat(self, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// What stat(2) reports of an entry.
    pub fn stat_entry(&self, name: impl Arg) -> Result<FileStat, Errno> {
        FileStat::of_entry(self, name)
    }

    /// Removes an entry that is not a directory.
    pub fn remove_file(&self, name: impl Arg) -> Result<(), Errno> {
        rustix::fs::unlinkat(self, name, AtFlags::empty())
    }

    /// Renames an entry, and replaces a file that has the new name.
    pub fn rename(&self, from: impl Arg, to: impl Arg) -> Result<(), Errno> {
        rustix::fs::renameat(self, from, self, to)
    }

    /// Renames an entry; [`Errno::EXIST`] if the new name is taken. `INVAL` or `NOSYS` if the file system or the kernel
    /// cannot do that.
    pub fn rename_without_replacing(&self, from: impl Arg, to: impl Arg) -> Result<(), Errno> {
        rustix::fs::renameat_with(self, from, self, to, RenameFlags::NOREPLACE)
    }

    /// Gives an entry a second name; [`Errno::EXIST`] if that is taken.
    pub fn hard_link(&self, from: impl Arg, to: impl Arg) -> Result<(), Errno> {
        rustix::fs::linkat(self, from, self, to, AtFlags::empty())
    }

    /// Creates a symbolic link.
    pub fn create_symlink(&self, target: &Path, name: impl Arg) -> Result<(), Errno> {
        rustix::fs::symlinkat(target, self, name)
    }

    /// The target of a symbolic link.
    pub fn read_symlink(&self, name: impl Arg) -> Result<CString, Errno> {
        rustix::fs::readlinkat(self, name, Vec::new())
    }

    /// Sets the time of modification of an entry.
    pub fn set_entry_mtime(&self, name: impl Arg, mtime: MtimeNs) -> Result<(), Errno> {
        rustix::fs::utimensat(self, name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Calls `visit` with the name of every entry.
    pub fn for_each_name(&self, mut visit: impl FnMut(&[u8])) -> Result<(), Errno> {
        for entry in DirStream::read_from(self)? {
            visit(entry?.file_name().to_bytes());
        }
        Ok(())
    }

    /// Lists the entries once, in the file system's order.
    pub fn entries<'a>(&'a self, buffer: &'a mut ListingBuffer) -> Entries<'a> {
        Entries(RawDir::new(self.as_fd(), buffer.0.spare_capacity_mut()))
    }

    /// Syncs the names of the entries.
    pub fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fsync(self)
    }

    /// Syncs the whole file system that the directory is on.
    pub fn sync_file_system(&self) -> Result<(), Errno> {
        rustix::fs::syncfs(self)
    }

    /// Do new entries get the permissions of a default access control list, and not those they are created with?
    pub fn has_default_acl(&self) -> bool {
        let mut no_bytes: [u8; 0] = [];
        rustix::fs::fgetxattr(self, "system.posix_acl_default", &mut no_bytes).is_ok()
    }
}

/// Memory for one listing at a time.
#[derive(Debug)]
pub struct ListingBuffer(Vec<u8>);

impl Default for ListingBuffer {
    fn default() -> Self {
        ListingBuffer(Vec::with_capacity(LISTING_BYTES))
    }
}

/// The entries of a directory, read in blocks.
pub struct Entries<'a>(RawDir<'a, BorrowedFd<'a>>);

/// One entry of a directory.
pub struct DirEntry<'a>(RawDirEntry<'a>);

impl DirEntry<'_> {
    /// Its name.
    pub fn name(&self) -> &CStr {
        self.0.file_name()
    }

    /// Its type; `None` if the listing does not contain it.
    pub fn file_type(&self) -> Option<FileType> {
        FileType::from_raw(self.0.file_type())
    }
}

impl Entries<'_> {
    /// The next entry, `.` and `..` among them; `None` at the end. After an error the listing is incomplete.
    pub fn next_entry(&mut self) -> Option<Result<DirEntry<'_>, Errno>> {
        Some(self.0.next()?.map(DirEntry))
    }
}
