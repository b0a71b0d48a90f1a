//! Opening paths on which no symbolic link is followed.
//!
//! A path that was checked may lead elsewhere when it is opened: another user may have replaced a directory on it by a
//! link. `O_NOFOLLOW` guards the last component only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// The kernel has no `openat2` (before 5.6), or a sandbox forbids it: each component is opened by itself instead.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Opens a path below `root`, or an absolute one without it; [`Errno::LOOP`] if any of its components is a link.
pub(super) fn open(root: Option<BorrowedFd<'_>>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    if !NO_OPENAT2.load(Ordering::Relaxed) {
        match openat2(root, path, flags) {
            Err(Errno::NOSYS | Errno::PERM) => NO_OPENAT2.store(true, Ordering::Relaxed),
            done => return done,
        }
    }
    open_by_component(root, path, flags)
}

fn openat2(root: Option<BorrowedFd<'_>>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let resolve = if root.is_some() { no_links | ResolveFlags::BENEATH } else { no_links };
    loop {
        match rustix::fs::openat2(root.unwrap_or(CWD), path, flags, Mode::empty(), resolve) {
            Err(Errno::INTR) => {}
            // A rename raced with the lookup, and the kernel cannot guarantee that the path stays below the root. Without
            // a root, this is a lease that another process holds on the file.
            Err(Errno::AGAIN) if root.is_some() => {}
            done => return done,
        }
    }
}

fn open_by_component(root: Option<BorrowedFd<'_>>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let dir_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut handle = match root {
        Some(_) => None,
        None => Some(rustix::fs::open("/", dir_flags, Mode::empty())?),
    };
    let mut components = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
    while let Some(component) = components.next() {
        let flags = if components.peek().is_some() { dir_flags } else { flags | OFlags::NOFOLLOW };
        let parent = handle.as_ref().map(OwnedFd::as_fd).or(root).ok_or(Errno::NOENT)?;
        let opened = rustix::fs::openat(parent, component, flags, Mode::empty());
        // With `O_DIRECTORY` a link is "not a directory"; with `O_PATH` alone the link itself is opened.
        let met_link = match &opened {
            Ok(opened) => flags.contains(OFlags::PATH) && is_link(opened.as_fd(), ""),
            Err(errno) => *errno == Errno::NOTDIR && is_link(parent, component),
        };
        handle = Some(if met_link { return Err(Errno::LOOP) } else { opened? });
    }
    handle.ok_or(Errno::NOENT)
}

fn is_link(dir: BorrowedFd<'_>, name: impl Arg) -> bool {
    rustix::fs::readlinkat(dir, name, Vec::new()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    type Open = fn(Option<BorrowedFd<'_>>, &[u8], OFlags) -> Result<OwnedFd, Errno>;

    const BOTH: [Open; 2] = [openat2, open_by_component];
    const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

    #[test]
    fn absolute_paths_follow_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/file"), "bytes").unwrap();
        symlink("a", dir.join("to_dir")).unwrap();
        symlink("file", dir.join("a/b/to_file")).unwrap();
        for open in BOTH {
            let open = |path: &str, flags| open(None, dir.join(path).as_os_str().as_bytes(), flags).map(drop);
            assert_eq!(open("a/b/file", OFlags::empty()), Ok(()));
            assert_eq!(open("a/b", OFlags::DIRECTORY), Ok(()));
            assert_eq!(open("a/b/file/deeper", OFlags::empty()), Err(Errno::NOTDIR));
            assert_eq!(open("a/gone", OFlags::DIRECTORY), Err(Errno::NOENT));
            for (link, flags) in [
                ("to_dir", OFlags::DIRECTORY),
                ("to_dir", OFlags::PATH),
                ("to_dir", OFlags::PATH | OFlags::DIRECTORY),
                ("to_dir/b", OFlags::DIRECTORY),
                ("to_dir/b/file", OFlags::empty()),
                ("a/b/to_file", OFlags::empty()),
            ] {
                assert_eq!(open(link, flags), Err(Errno::LOOP), "{link}");
            }
        }
    }

    #[test]
    fn paths_below_a_root_follow_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(dir.path().join("outside")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        symlink("../outside", root.join("out")).unwrap();
        symlink("b", root.join("a/inside")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let root = rustix::fs::open(&root, DIR, Mode::empty()).unwrap();
        let root = Some(root.as_fd());
        for open in BOTH {
            assert!(open(root, b"a/b", DIR).is_ok());
            assert_eq!(open(root, b"gone", DIR).unwrap_err(), Errno::NOENT);
            assert_eq!(open(root, b"file", DIR).unwrap_err(), Errno::NOTDIR);
            for link in [&b"out"[..], b"a/inside", b"magic", b"out/deeper", b"a/inside/deeper"] {
                assert_eq!(open(root, link, DIR).unwrap_err(), Errno::LOOP, "{link:?}");
            }
        }
        assert!(
            openat2(root, b"a/../../outside", DIR).is_err(),
            "the kernel guards even what RelPath refuses"
        );
    }
}
