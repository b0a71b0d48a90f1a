//! Opening by absolute paths on which no symbolic link is followed.
//!
//! A path that the walk has seen may lead elsewhere when it is opened: another user may have exchanged a folder on the way
//! for a link. `O_NOFOLLOW` guards the last component only.

use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// The kernel has no `openat2` (before 5.6), or a sandbox forbids it: each component is opened by itself instead.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Opens an absolute path; [`Errno::LOOP`] if any of its components is a link.
pub fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    if !NO_OPENAT2.load(Ordering::Relaxed) {
        match openat2(path, flags) {
            Err(Errno::NOSYS | Errno::PERM) => NO_OPENAT2.store(true, Ordering::Relaxed),
            done => return done,
        }
    }
    open_by_component(path, flags)
}

fn openat2(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    loop {
        match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

fn open_by_component(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut handle = rustix::fs::open("/", folder, Mode::empty())?;
    let mut components = path.components().filter(|component| *component != Component::RootDir).peekable();
    while let Some(component) = components.next() {
        let flags = if components.peek().is_some() { folder } else { flags | OFlags::NOFOLLOW };
        let opened = rustix::fs::openat(&handle, component.as_os_str(), flags, Mode::empty());
        // A link is not a folder, but with `O_PATH` it can be opened itself.
        let met_link = match &opened {
            Ok(opened) => flags.contains(OFlags::PATH) && is_link(opened.as_fd(), ""),
            Err(errno) => *errno == Errno::NOTDIR && is_link(handle.as_fd(), component.as_os_str()),
        };
        handle = if met_link { return Err(Errno::LOOP) } else { opened? };
    }
    Ok(handle)
}

fn is_link(folder: BorrowedFd<'_>, name: impl Arg) -> bool {
    rustix::fs::readlinkat(folder, name, Vec::new()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn neither_way_follows_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/file"), "bytes").unwrap();
        symlink("a", dir.join("to_folder")).unwrap();
        symlink("file", dir.join("a/b/to_file")).unwrap();
        for open in [openat2, open_by_component] {
            let open = |path: &str, flags| open(&dir.join(path), flags).map(drop);
            assert_eq!(open("a/b/file", OFlags::empty()), Ok(()));
            assert_eq!(open("a/b", OFlags::DIRECTORY), Ok(()));
            assert_eq!(open("a/b/file/deeper", OFlags::empty()), Err(Errno::NOTDIR));
            assert_eq!(open("a/gone", OFlags::DIRECTORY), Err(Errno::NOENT));
            for (link, flags) in [
                ("to_folder", OFlags::DIRECTORY),
                ("to_folder", OFlags::PATH),
                ("to_folder", OFlags::PATH | OFlags::DIRECTORY),
                ("to_folder/b", OFlags::DIRECTORY),
                ("to_folder/b/file", OFlags::empty()),
                ("a/b/to_file", OFlags::empty()),
            ] {
                assert_eq!(open(link, flags), Err(Errno::LOOP), "{link}");
            }
        }
    }
}
