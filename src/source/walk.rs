//! The walk through what is to be sent, streamed: what it holds grows neither with the number of files nor with their
//! depth, but with the number of folders beside each other.
//!
//! It goes twice. First [`find_files`], so that bytes move as soon as the first file is found. Then [`find_others`],
//! which needs no look at the files again: links, and each folder after everything in it, so that a folder's time of
//! modification and rights are set when nothing will be made in it any more.
//!
//! No link is followed, even where a folder is exchanged for one meanwhile: folders are opened by [`no_links::open`], and
//! what is in them is looked at by their handles. One folder is open at a time.

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, FileType, OFlags, RawDir, Stat};
use rustix::io::Errno;

use super::Root;
use super::Source;
use super::file::portable_metadata;
use super::no_links;
use crate::error_code::{ErrorCode, in_words};
use crate::relpath::{LinkTarget, NamePolicy, RelPath};
use crate::units::Metadata;

/// One thing the walk came across.
#[derive(Debug)]
pub enum WalkItem {
    /// A regular file.
    File(Source),
    /// A folder, after everything in it.
    Dir {
        /// Its name in the transfer.
        name: RelPath,
        /// What travels with it.
        metadata: Metadata,
    },
    /// A symbolic link that stays inside what is sent.
    Link {
        /// Its name in the transfer.
        name: RelPath,
        /// Where it leads.
        target: LinkTarget,
        /// What travels with it: a link has no mode of its own.
        metadata: Metadata,
    },
    /// Something that is not sent.
    Skipped {
        /// Where it is.
        path: PathBuf,
        /// The stable reason.
        fault: ErrorCode,
        /// A sentence.
        reason: String,
    },
}

/// Finds every regular file, and says what is neither file, folder nor link. `visit` returns `false` to stop, and so does
/// `go_on`, which is asked at every step, whatever it finds. Returns the folders that could not be read.
pub fn walk_files(
    roots: &[Root],
    go_on: impl Fn() -> bool,
    mut visit: impl FnMut(WalkItem) -> bool,
) -> BTreeSet<PathBuf> {
    let mut told = BTreeSet::new();
    for root in roots {
        let goes_on = walk(&root.path, &go_on, |path, seen| match seen {
            Seen::Folder(_) | Seen::Entry { file_type: FileType::Symlink, .. } => true,
            Seen::Entry { folder, name, file_type } => visit(file(root, path, folder, name, file_type)),
            Seen::Unreadable(errno) => {
                told.insert(path.to_owned());
                visit(unreadable(path, errno))
            }
        });
        if !goes_on {
            break;
        }
    }
    told
}

/// Finds every link and folder, contents first. What could not be read is not told again if it is among `told`.
pub fn walk_dirs_and_links(
    roots: &[Root],
    told: &BTreeSet<PathBuf>,
    go_on: impl Fn() -> bool,
    mut visit: impl FnMut(WalkItem) -> bool,
) {
    for root in roots {
        let goes_on = walk(&root.path, &go_on, |path, seen| match seen {
            Seen::Folder(stat) => visit(dir(root, path, stat)),
            Seen::Entry { folder, name, file_type: FileType::Symlink } => {
                visit(link(roots, root, path, folder, name))
            }
            Seen::Entry { .. } => true,
            Seen::Unreadable(_) if told.contains(path) => true,
            Seen::Unreadable(errno) => visit(unreadable(path, errno)),
        });
        if !goes_on {
            return;
        }
    }
}

/// What a walk comes to.
enum Seen<'a> {
    /// Something in a folder that is no folder itself. It may be something else by now.
    Entry { folder: BorrowedFd<'a>, name: &'a CStr, file_type: FileType },
    /// A folder, after everything in it.
    Folder(&'a Stat),
    /// A folder, or the rest of one, that cannot be read.
    Unreadable(Errno),
}

/// A folder whose own folders are being walked through.
struct Frame {
    path_len: usize,
    /// Its folders, each name with a NUL behind it, and where the next one begins.
    names: Vec<u8>,
    next: usize,
    stat: Option<Stat>,
}

/// Bytes of a folder that are read at once: some hundred names.
const LISTING_BYTES: usize = 32 << 10;

/// Walks through everything at and below `root`: of each folder first what is no folder, then its folders, then itself.
/// `visit` returns `false` to stop, and so does `go_on`; `false` if the walk was stopped.
fn walk(root: &Path, go_on: impl Fn() -> bool, mut visit: impl FnMut(&Path, Seen<'_>) -> bool) -> bool {
    let mut visit = |path: &[u8], seen: Seen<'_>| go_on() && visit(Path::new(OsStr::from_bytes(path)), seen);
    let mut path = root.as_os_str().as_bytes().to_vec();
    match no_links::open(root, OFlags::PATH).and_then(rustix::fs::fstat) {
        Err(errno) => return visit(&path, Seen::Unreadable(errno)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
            return walk_file(root, &stat, visit);
        }
        Ok(_) => {}
    }
    let mut buffer = Vec::with_capacity(LISTING_BYTES);
    let mut frames: Vec<Frame> = Vec::new();
    let mut enters = true;
    loop {
        if enters {
            let mut frame = Frame { path_len: path.len(), names: Vec::new(), next: 0, stat: None };
            if !list(&mut path, &mut buffer, &mut frame, &go_on, &mut visit) {
                return false;
            }
            frames.push(frame);
        }
        let Some(frame) = frames.last_mut() else { return true };
        path.truncate(frame.path_len);
        let rest = &frame.names[frame.next..];
        enters = !rest.is_empty();
        if let Some(len) = memchr::memchr(0, rest) {
            path.push(b'/');
            path.extend_from_slice(&rest[..len]);
            frame.next += len + 1;
        } else {
            let frame = frames.pop();
            if let Some(stat) = frame.and_then(|frame| frame.stat)
                && !visit(&path, Seen::Folder(&stat))
            {
                return false;
            }
        }
    }
}

/// A root that is no folder.
fn walk_file(root: &Path, stat: &Stat, mut visit: impl FnMut(&[u8], Seen<'_>) -> bool) -> bool {
    let path = root.as_os_str().as_bytes();
    let (Some(above), Some(name)) = (root.parent(), root.file_name()) else { return true };
    let folder = no_links::open(above, OFlags::PATH | OFlags::DIRECTORY);
    let name = std::ffi::CString::new(name.as_bytes()).map_err(|_| Errno::INVAL);
    match folder.and_then(|folder| Ok((folder, name?))) {
        Ok((folder, name)) => {
            let file_type = FileType::from_raw_mode(stat.st_mode);
            visit(path, Seen::Entry { folder: folder.as_fd(), name: &name, file_type })
        }
        Err(errno) => visit(path, Seen::Unreadable(errno)),
    }
}

/// Visits what is in the folder at `path` but its folders, which are noted in `frame`; `false` to stop.
fn list(
    path: &mut Vec<u8>,
    buffer: &mut Vec<u8>,
    frame: &mut Frame,
    go_on: impl Fn() -> bool,
    mut visit: impl FnMut(&[u8], Seen<'_>) -> bool,
) -> bool {
    let at =
        |path: &[u8], flags| no_links::open(Path::new(OsStr::from_bytes(path)), flags | OFlags::DIRECTORY);
    let folder = match at(path, OFlags::RDONLY) {
        Ok(folder) => folder,
        Err(errno) => {
            // It may be one whose rights and time can be sent, although not what is in it.
            frame.stat = at(path, OFlags::PATH).and_then(rustix::fs::fstat).ok();
            return visit(path, Seen::Unreadable(errno));
        }
    };
    match rustix::fs::fstat(&folder) {
        Ok(stat) => frame.stat = Some(stat),
        // What is in it can be sent all the same, but not its own rights and time.
        Err(errno) if !visit(path, Seen::Unreadable(errno)) => return false,
        Err(_) => {}
    }
    let mut entries = RawDir::new(&folder, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        if !go_on() {
            return false;
        }
        path.truncate(frame.path_len);
        let entry = match entry {
            Ok(entry) => entry,
            Err(errno) => return visit(path, Seen::Unreadable(errno)),
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let file_type = match entry.file_type() {
            FileType::Unknown => match look(folder.as_fd(), name) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                // The look at the file fails, too, and tells why.
                Err(_) => FileType::RegularFile,
            },
            file_type => file_type,
        };
        if file_type == FileType::Directory {
            frame.names.extend_from_slice(name.to_bytes_with_nul());
        } else {
            path.push(b'/');
            path.extend_from_slice(name.to_bytes());
            if !visit(path, Seen::Entry { folder: folder.as_fd(), name, file_type }) {
                return false;
            }
        }
    }
    true
}

fn look(folder: BorrowedFd<'_>, name: &CStr) -> Result<Stat, Errno> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn file(root: &Root, path: &Path, folder: BorrowedFd<'_>, name: &CStr, file_type: FileType) -> WalkItem {
    let devices = || skipped(path, ErrorCode::LeftOut, "devices, FIFOs and sockets are not sent");
    if file_type != FileType::RegularFile {
        return devices();
    }
    let stat = match look(folder, name) {
        Ok(stat) => stat,
        Err(errno) => return unreadable(path, errno),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink | FileType::Directory => return unreadable(path, Errno::LOOP),
        _ => return devices(),
    }
    match name_of(root, path) {
        Ok(name) => WalkItem::File(Source::new(path.to_owned(), name, &stat)),
        Err(error) => skipped(path, ErrorCode::Name, error.to_string()),
    }
}

fn dir(root: &Root, path: &Path, stat: &Stat) -> WalkItem {
    match name_of(root, path) {
        Ok(name) => WalkItem::Dir { name, metadata: portable_metadata(stat) },
        Err(error) => skipped(path, ErrorCode::Name, error.to_string()),
    }
}

fn link(roots: &[Root], root: &Root, path: &Path, folder: BorrowedFd<'_>, name: &CStr) -> WalkItem {
    let (target, stat) = match (rustix::fs::readlinkat(folder, name, Vec::new()), look(folder, name)) {
        (Ok(target), Ok(stat)) => (target, stat),
        (Err(errno), _) | (_, Err(errno)) => return unreadable(path, errno),
    };
    let name = match name_of(root, path) {
        Ok(name) => name,
        Err(error) => return skipped(path, ErrorCode::Name, error.to_string()),
    };
    let target = match LinkTarget::new(target.as_bytes(), &name, NamePolicy::AllowOdd) {
        Ok(target) => target,
        Err(error) => return skipped(path, ErrorCode::LeftOut, error.to_string()),
    };
    if !target.top(&name).is_some_and(|top| roots.iter().any(|root| root.name.as_bytes() == top)) {
        return skipped(path, ErrorCode::LeftOut, "the link leads out of what is sent");
    }
    let mtime = portable_metadata(&stat).mtime;
    WalkItem::Link { name, target, metadata: Metadata { mode: None, mtime } }
}

/// The name in the transfer of what lies at `path` below `root`.
fn name_of(root: &Root, path: &Path) -> Result<RelPath, crate::relpath::NameError> {
    let below = path.strip_prefix(&root.path).unwrap_or(Path::new(""));
    let mut name = root.name.as_bytes().to_vec();
    if !below.as_os_str().is_empty() {
        name.push(b'/');
        name.extend_from_slice(below.as_os_str().as_bytes());
    }
    RelPath::new(&name, NamePolicy::AllowOdd)
}

fn unreadable(path: &Path, errno: Errno) -> WalkItem {
    match errno {
        Errno::LOOP | Errno::NOTDIR => {
            skipped(path, ErrorCode::SourceChanged, "it was exchanged for something else meanwhile")
        }
        errno => {
            let fault = if errno == Errno::NOENT { ErrorCode::SourceChanged } else { ErrorCode::FileIo };
            skipped(path, fault, format!("cannot read it: {}", in_words(&errno.into())))
        }
    }
}

fn skipped(path: &Path, fault: ErrorCode, reason: impl Into<String>) -> WalkItem {
    WalkItem::Skipped { path: path.to_owned(), fault, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::roots;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn everything(path: &Path) -> (Vec<String>, Vec<String>, Vec<String>) {
        let roots = roots(&[path.to_owned()]).unwrap();
        let (mut files, mut others, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        let mut sort = |found| {
            match found {
                WalkItem::File(source) => files.push(source.name.to_string()),
                WalkItem::Dir { name, .. } => others.push(format!("{name}/")),
                WalkItem::Link { name, target, .. } => others.push(format!("{name} -> {target}")),
                WalkItem::Skipped { path, .. } => {
                    left_out.push(path.file_name().unwrap().to_string_lossy().into_owned())
                }
            }
            true
        };
        let told = walk_files(&roots, || true, &mut sort);
        walk_dirs_and_links(&roots, &told, || true, &mut sort);
        files.sort();
        left_out.sort();
        (files, others, left_out)
    }

    #[test]
    fn the_walk_finds_everything_and_says_what_it_leaves_out() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("t");
        fs::create_dir_all(tree.join("d/empty")).unwrap();
        fs::write(tree.join("a"), "a").unwrap();
        fs::write(tree.join("d/b"), "b").unwrap();
        symlink("../a", tree.join("d/inside")).unwrap();
        symlink("dangling", tree.join("d/dangling")).unwrap();
        symlink("/etc/passwd", tree.join("absolute")).unwrap();
        symlink("../outside", tree.join("outside")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, tree.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        fs::write(tree.join(".ftx-0123"), "an earlier arrival").unwrap();
        let (files, others, left_out) = everything(&tree);
        assert_eq!(files, ["t/a", "t/d/b"]);
        assert_eq!(left_out, [".ftx-0123", "absolute", "fifo", "outside"]);
        assert_eq!(others.last().unwrap(), "t/", "a folder comes after what is in it");
        for expected in ["t/d/empty/", "t/d/inside -> ../a", "t/d/dangling -> dangling"] {
            let at = others.iter().position(|other| other == expected).expect(expected);
            assert!(at < others.iter().position(|other| other == "t/d/").unwrap());
        }
    }

    #[test]
    fn a_link_on_the_command_line_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        fs::write(dir.path().join("real/a"), "a").unwrap();
        symlink("real", dir.path().join("latest")).unwrap();
        let (files, others, left_out) = everything(&dir.path().join("latest"));
        assert_eq!((files, others, left_out), (vec!["latest/a".into()], vec!["latest/".into()], vec![]));
    }

    /// However often a folder is exchanged for a link, nothing is found through that.
    #[test]
    fn a_folder_that_becomes_a_link_during_the_walk_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, secret) = (dir.path().join("t"), dir.path().join("secret"));
        fs::create_dir_all(tree.join("d/e")).unwrap();
        fs::create_dir_all(secret.join("e")).unwrap();
        fs::write(tree.join("first"), "").unwrap();
        for folder in ["", "e"] {
            fs::write(secret.join(folder).join("key"), "").unwrap();
        }
        let roots = roots(std::slice::from_ref(&tree)).unwrap();
        // Of a folder, files are found before its folders are opened: `first` tells that the root is being read, `second`
        // that `d` is.
        for (exchanged, moment) in [("d", "t/first"), ("d/e", "t/d/second")] {
            fs::write(tree.join("d/second"), "").unwrap();
            let mut found = Vec::new();
            walk_files(
                &roots,
                || true,
                |item| {
                    if matches!(&item, WalkItem::File(source) if source.name.as_bytes() == moment.as_bytes())
                    {
                        fs::rename(tree.join(exchanged), dir.path().join("moved")).unwrap();
                        symlink(&secret, tree.join(exchanged)).unwrap();
                    }
                    found.push(item);
                    true
                },
            );
            let is_told = |item: &WalkItem| {
                matches!(item, WalkItem::Skipped { path, fault: ErrorCode::SourceChanged, .. }
                if path.ends_with(exchanged))
            };
            assert_eq!(found.iter().filter(|item| is_told(item)).count(), 1, "{found:?}");
            assert!(!format!("{found:?}").contains("key"), "{found:?}");
            fs::remove_file(tree.join(exchanged)).unwrap();
            fs::rename(dir.path().join("moved"), tree.join(exchanged)).unwrap();
        }
    }

    /// Neither names that are longer together than what is read at once, nor the depth of a tree need more descriptors.
    #[test]
    fn wide_and_deep_trees_are_walked_with_one_folder_open() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().join("t");
        for _ in 0..100 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        for number in 0..1000 {
            fs::write(deep.join(format!("{number:040}")), "").unwrap();
        }
        for number in 0..100 {
            fs::create_dir(deep.join(format!("{number:040}d"))).unwrap();
        }
        let open = || fs::read_dir("/proc/self/fd").unwrap().count();
        let (before, mut most, mut files) = (open(), 0, 0);
        let roots = roots(&[dir.path().join("t")]).unwrap();
        let told = walk_files(
            &roots,
            || true,
            |_| {
                files += 1;
                if files % 500 == 0 {
                    most = most.max(open());
                }
                true
            },
        );
        let mut others = Vec::new();
        walk_dirs_and_links(
            &roots,
            &told,
            || true,
            |found| {
                others.push(found);
                true
            },
        );
        assert_eq!((files, others.len(), told.len()), (1000, 201, 0));
        // Other tests of this process open some, too.
        assert!(most < before + 50, "{before} descriptors, {most} in the walk");
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_told_once_and_still_sent() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("t");
        fs::create_dir_all(tree.join("gone")).unwrap();
        fs::write(tree.join("a"), "a").unwrap();
        let roots = roots(std::slice::from_ref(&tree)).unwrap();
        let mut found = Vec::new();
        let told = walk_files(
            &roots,
            || true,
            |item| {
                let _ = fs::remove_dir(tree.join("gone"));
                found.push(item);
                true
            },
        );
        assert!(told.contains(&tree.join("gone")), "{told:?}");
        let mut again = |item| {
            found.push(item);
            true
        };
        walk_dirs_and_links(&roots, &told, || true, &mut again);
        assert!(
            matches!(
                &found[..],
                [
                    WalkItem::File(_),
                    WalkItem::Skipped { fault: ErrorCode::SourceChanged, .. },
                    WalkItem::Dir { .. }
                ]
            ),
            "{found:?}"
        );
    }

    #[test]
    fn the_walk_can_be_stopped() {
        let dir = tempfile::tempdir().unwrap();
        for name in 0..10 {
            fs::write(dir.path().join(name.to_string()), "").unwrap();
        }
        let mut seen = 0;
        let roots = roots(&[dir.path().to_owned()]).unwrap();
        walk_files(
            &roots,
            || true,
            |_| {
                seen += 1;
                seen < 3
            },
        );
        assert_eq!(seen, 3);
        walk_files(&roots, || false, |_| panic!("it goes on"));
        walk_dirs_and_links(&roots, &BTreeSet::new(), || false, |_| panic!("it goes on"));
    }
}
