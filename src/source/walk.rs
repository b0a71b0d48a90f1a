//! The walk through what is sent. Its memory grows neither with the number of files nor with their depth, but with the number
//! of directories in one directory.
//!
//! There are two passes. [`walk_files`] comes first, so that bytes are sent as soon as the first file is found.
//! [`walk_dirs_and_links`] then finds links, and each directory after its entries, so that mode and time of a directory are set
//! when nothing more is created in it; it does not examine the files again.
//!
//! No link is followed, even if a directory is replaced by one meanwhile: directories are opened by paths without links, and
//! their entries are examined through their handles. One directory is open at a time.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

use super::file::{Source, portable_metadata};
use super::roots::Root;
use crate::error_code::{ErrorCode, in_words};
use crate::relpath::{LinkTarget, NameError, NamePolicy, RelPath};
use crate::sys::dir::{DirHandle, ListingBuffer, stat_without_links};
use crate::sys::stat::{FileStat, FileType};
use crate::sys::{Errno, path};
use crate::units::Metadata;

/// One result of the walk.
#[derive(Debug)]
pub enum WalkItem {
    /// A regular file.
    File(Source),
    /// A directory, after its entries.
    Dir {
        /// Its name in the transfer.
        name: RelPath,
        /// Mode and time of modification.
        metadata: Metadata,
    },
    /// A symbolic link with a target inside the transfer.
    Link {
        /// Its name in the transfer.
        name: RelPath,
        /// Its target.
        target: LinkTarget,
        /// Time of modification; a link has no mode.
        metadata: Metadata,
    },
    /// Something that is not sent.
    Skipped {
        /// Its path.
        path: PathBuf,
        /// The stable code.
        code: ErrorCode,
        /// The reason, as text.
        reason: String,
    },
}

/// Finds every regular file, and reports what is neither file, directory nor link. Ends when `visit` or `go_on`, which is
/// called at every step, returns `false`. Returns the directories that could not be read.
pub fn walk_files(
    roots: &[Root],
    go_on: impl Fn() -> bool,
    mut visit: impl FnMut(WalkItem) -> bool,
) -> BTreeSet<PathBuf> {
    let mut reported = BTreeSet::new();
    for root in roots {
        let is_complete = walk(&root.path, &go_on, |path, visited| match visited {
            Visited::Dir(_) | Visited::Entry { file_type: FileType::Symlink, .. } => true,
            Visited::Entry { dir, name, file_type } => visit(file(root, path, dir, name, file_type)),
            Visited::Unreadable(errno) => {
                reported.insert(path.to_owned());
                visit(unreadable(path, errno))
            }
        });
        if !is_complete {
            break;
        }
    }
    reported
}

/// Finds every link and directory, entries first. Does not report again the directories in `reported`.
pub fn walk_dirs_and_links(
    roots: &[Root],
    reported: &BTreeSet<PathBuf>,
    go_on: impl Fn() -> bool,
    mut visit: impl FnMut(WalkItem) -> bool,
) {
    for root in roots {
        let is_complete = walk(&root.path, &go_on, |path, visited| match visited {
            Visited::Dir(stat) => visit(dir(root, path, stat)),
            Visited::Entry { dir, name, file_type: FileType::Symlink } => {
                visit(link(roots, root, path, dir, name))
            }
            Visited::Entry { .. } => true,
            Visited::Unreadable(_) if reported.contains(path) => true,
            Visited::Unreadable(errno) => visit(unreadable(path, errno)),
        });
        if !is_complete {
            return;
        }
    }
}

/// What is at a path.
enum Visited<'a> {
    /// An entry of `dir` that was not a directory when it was listed. It may have been replaced since.
    Entry { dir: &'a DirHandle, name: &'a CStr, file_type: FileType },
    /// A directory, after its entries.
    Dir(&'a FileStat),
    /// A directory that cannot be read, or not completely.
    Unreadable(Errno),
}

/// A directory whose subdirectories are being walked.
struct Frame {
    path_len: usize,
    /// The names of its subdirectories, each with a NUL behind it.
    names: Vec<u8>,
    /// Where the next name begins.
    next: usize,
    stat: Option<FileStat>,
}

/// Walks through everything at and below `root`: of each directory first the entries that are not directories, then its
/// subdirectories, then itself. `false` if it was ended by `visit` or `go_on`.
fn walk(root: &Path, go_on: impl Fn() -> bool, mut visit: impl FnMut(&Path, Visited<'_>) -> bool) -> bool {
    let mut visit = |path: &[u8], visited: Visited<'_>| go_on() && visit(path::from_bytes(path), visited);
    let mut path = root.as_os_str().as_encoded_bytes().to_vec();
    match stat_without_links(root) {
        Err(errno) => return visit(&path, Visited::Unreadable(errno)),
        Ok(stat) if stat.file_type != FileType::Dir => return walk_file(root, &stat, visit),
        Ok(_) => {}
    }
    let mut buffer = ListingBuffer::default();
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
                && !visit(&path, Visited::Dir(&stat))
            {
                return false;
            }
        }
    }
}

/// The walk of a root that is not a directory.
fn walk_file(root: &Path, stat: &FileStat, mut visit: impl FnMut(&[u8], Visited<'_>) -> bool) -> bool {
    let path = root.as_os_str().as_encoded_bytes();
    let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else { return true };
    let dir = DirHandle::locate_without_links(parent);
    let name = CString::new(name.as_encoded_bytes()).map_err(|_| Errno::INVAL);
    match dir.and_then(|dir| Ok((dir, name?))) {
        Ok((dir, name)) => visit(path, Visited::Entry { dir: &dir, name: &name, file_type: stat.file_type }),
        Err(errno) => visit(path, Visited::Unreadable(errno)),
    }
}

/// Visits the entries of the directory at `path`, and notes its subdirectories in `frame`; `false` if it was ended.
fn list(
    path: &mut Vec<u8>,
    buffer: &mut ListingBuffer,
    frame: &mut Frame,
    go_on: impl Fn() -> bool,
    mut visit: impl FnMut(&[u8], Visited<'_>) -> bool,
) -> bool {
    let dir = match DirHandle::open_without_links(path::from_bytes(path)) {
        Ok(dir) => dir,
        Err(errno) => {
            // Its metadata can perhaps be sent, although its entries cannot.
            let dir = DirHandle::locate_without_links(path::from_bytes(path));
            frame.stat = dir.and_then(FileStat::of).ok();
            return visit(path, Visited::Unreadable(errno));
        }
    };
    match FileStat::of(&dir) {
        Ok(stat) => frame.stat = Some(stat),
        // Its entries can be sent, although its metadata cannot.
        Err(errno) if !visit(path, Visited::Unreadable(errno)) => return false,
        Err(_) => {}
    }
    let mut entries = dir.entries(buffer);
    while let Some(entry) = entries.next_entry() {
        if !go_on() {
            return false;
        }
        path.truncate(frame.path_len);
        let entry = match entry {
            Ok(entry) => entry,
            Err(errno) => return visit(path, Visited::Unreadable(errno)),
        };
        let name = entry.name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // If an entry of unknown type cannot be examined, its visit fails with the reason.
        let examine = || dir.stat_entry(name).map_or(FileType::File, |stat| stat.file_type);
        let file_type = entry.file_type().unwrap_or_else(examine);
        if file_type == FileType::Dir {
            frame.names.extend_from_slice(name.to_bytes_with_nul());
        } else {
            path.push(b'/');
            path.extend_from_slice(name.to_bytes());
            if !visit(path, Visited::Entry { dir: &dir, name, file_type }) {
                return false;
            }
        }
    }
    true
}

fn file(root: &Root, path: &Path, dir: &DirHandle, name: &CStr, file_type: FileType) -> WalkItem {
    let special = || skipped(path, ErrorCode::LeftOut, "devices, FIFOs and sockets are not sent");
    if file_type != FileType::File {
        return special();
    }
    let stat = match dir.stat_entry(name) {
        Ok(stat) => stat,
        Err(errno) => return unreadable(path, errno),
    };
    match stat.file_type {
        FileType::File => {}
        FileType::Symlink | FileType::Dir => return unreadable(path, Errno::LOOP),
        FileType::Other => return special(),
    }
    match name_of(root, path) {
        Ok(name) => WalkItem::File(Source::new(path.to_owned(), name, &stat)),
        Err(error) => skipped(path, ErrorCode::Name, error.to_string()),
    }
}

fn dir(root: &Root, path: &Path, stat: &FileStat) -> WalkItem {
    match name_of(root, path) {
        Ok(name) => WalkItem::Dir { name, metadata: portable_metadata(stat) },
        Err(error) => skipped(path, ErrorCode::Name, error.to_string()),
    }
}

fn link(roots: &[Root], root: &Root, path: &Path, dir: &DirHandle, name: &CStr) -> WalkItem {
    let (target, stat) = match (dir.read_symlink(name), dir.stat_entry(name)) {
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
        return skipped(path, ErrorCode::LeftOut, "the link points outside the transfer");
    }
    let mtime = portable_metadata(&stat).mtime;
    WalkItem::Link { name, target, metadata: Metadata { mode: None, mtime } }
}

/// The name in the transfer of the file at `path` below `root`.
fn name_of(root: &Root, path: &Path) -> Result<RelPath, NameError> {
    let below = path.strip_prefix(&root.path).unwrap_or(Path::new("")).as_os_str();
    let mut name = root.name.as_bytes().to_vec();
    if !below.is_empty() {
        name.push(b'/');
        name.extend_from_slice(below.as_encoded_bytes());
    }
    RelPath::new(&name, NamePolicy::AllowOdd)
}

fn unreadable(path: &Path, errno: Errno) -> WalkItem {
    match errno {
        Errno::LOOP | Errno::NOTDIR => {
            skipped(path, ErrorCode::SourceChanged, "it was replaced during the walk")
        }
        errno => {
            let code = if errno == Errno::NOENT { ErrorCode::SourceChanged } else { ErrorCode::FileIo };
            skipped(path, code, format!("cannot read it: {}", in_words(&errno.into())))
        }
    }
}

fn skipped(path: &Path, code: ErrorCode, reason: impl Into<String>) -> WalkItem {
    WalkItem::Skipped { path: path.to_owned(), code, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::roots;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn everything(path: &Path) -> (Vec<String>, Vec<String>, Vec<String>) {
        let roots = roots(&[path.to_owned()]).unwrap();
        let (mut files, mut others, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        let mut sort = |found| {
            match found {
                WalkItem::File(source) => files.push(source.name.to_string()),
                WalkItem::Dir { name, .. } => others.push(format!("{name}/")),
                WalkItem::Link { name, target, .. } => others.push(format!("{name} -> {target}")),
                WalkItem::Skipped { path, .. } => {
                    skipped.push(path.file_name().unwrap().to_string_lossy().into_owned())
                }
            }
            true
        };
        let reported = walk_files(&roots, || true, &mut sort);
        walk_dirs_and_links(&roots, &reported, || true, &mut sort);
        files.sort();
        skipped.sort();
        (files, others, skipped)
    }

    #[test]
    fn the_walk_finds_everything_and_reports_what_it_skips() {
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
        fs::write(tree.join(".ftx-0123"), "a staged file").unwrap();
        let (files, others, skipped) = everything(&tree);
        assert_eq!(files, ["t/a", "t/d/b"]);
        assert_eq!(skipped, [".ftx-0123", "absolute", "fifo", "outside"]);
        assert_eq!(others.last().unwrap(), "t/", "a directory comes after its entries");
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
        let (files, others, skipped) = everything(&dir.path().join("latest"));
        assert_eq!((files, others, skipped), (vec!["latest/a".into()], vec!["latest/".into()], vec![]));
    }

    /// Nothing is found through a link that replaces a directory.
    #[test]
    fn a_directory_that_becomes_a_link_during_the_walk_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, secret) = (dir.path().join("t"), dir.path().join("secret"));
        fs::create_dir_all(tree.join("d/e")).unwrap();
        fs::create_dir_all(secret.join("e")).unwrap();
        fs::write(tree.join("first"), "").unwrap();
        for subdir in ["", "e"] {
            fs::write(secret.join(subdir).join("key"), "").unwrap();
        }
        let roots = roots(std::slice::from_ref(&tree)).unwrap();
        // The files of a directory are found before its subdirectories are opened: `first` is found while the root is read,
        // `second` while `d` is.
        for (replaced, moment) in [("d", "t/first"), ("d/e", "t/d/second")] {
            fs::write(tree.join("d/second"), "").unwrap();
            let mut found = Vec::new();
            walk_files(
                &roots,
                || true,
                |item| {
                    if matches!(&item, WalkItem::File(source) if source.name.as_bytes() == moment.as_bytes())
                    {
                        fs::rename(tree.join(replaced), dir.path().join("moved")).unwrap();
                        symlink(&secret, tree.join(replaced)).unwrap();
                    }
                    found.push(item);
                    true
                },
            );
            let is_reported = |item: &WalkItem| {
                matches!(item, WalkItem::Skipped { path, code: ErrorCode::SourceChanged, .. }
                if path.ends_with(replaced))
            };
            assert_eq!(found.iter().filter(|item| is_reported(item)).count(), 1, "{found:?}");
            assert!(!format!("{found:?}").contains("key"), "{found:?}");
            fs::remove_file(tree.join(replaced)).unwrap();
            fs::rename(dir.path().join("moved"), tree.join(replaced)).unwrap();
        }
    }

    /// Neither a listing of several blocks nor the depth of a tree needs more descriptors.
    #[test]
    fn wide_and_deep_trees_are_walked_with_one_directory_open() {
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
        let reported = walk_files(
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
            &reported,
            || true,
            |found| {
                others.push(found);
                true
            },
        );
        assert_eq!((files, others.len(), reported.len()), (1000, 201, 0));
        // Other tests of this process open some as well.
        assert!(most < before + 50, "{before} descriptors, {most} in the walk");
    }

    #[test]
    fn an_unreadable_directory_is_reported_once_and_still_sent() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("t");
        fs::create_dir_all(tree.join("gone")).unwrap();
        fs::write(tree.join("a"), "a").unwrap();
        let roots = roots(std::slice::from_ref(&tree)).unwrap();
        let mut found = Vec::new();
        let reported = walk_files(
            &roots,
            || true,
            |item| {
                let _ = fs::remove_dir(tree.join("gone"));
                found.push(item);
                true
            },
        );
        assert!(reported.contains(&tree.join("gone")), "{reported:?}");
        let mut again = |item| {
            found.push(item);
            true
        };
        walk_dirs_and_links(&roots, &reported, || true, &mut again);
        assert!(
            matches!(
                &found[..],
                [
                    WalkItem::File(_),
                    WalkItem::Skipped { code: ErrorCode::SourceChanged, .. },
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
        walk_files(&roots, || false, |_| panic!("it continues"));
        walk_dirs_and_links(&roots, &BTreeSet::new(), || false, |_| panic!("it continues"));
    }
}
