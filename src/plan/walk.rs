//! The walk through what is to be sent, streamed: nothing here grows with the tree.
//!
//! It goes twice. First [`find_files`], so that bytes move as soon as the first file is found. Then [`find_others`],
//! which needs no look at the files again: links, and each folder after everything in it, so that a folder's time of
//! modification and rights are set when nothing will be made in it any more.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::Root;
use super::Source;
use super::source::travelling;
use crate::fault::Fault;
use crate::relpath::{LinkTarget, NamePolicy, RelPath};
use crate::units::Metadata;

/// One thing the walk came across.
#[derive(Debug)]
pub enum Found {
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
    LeftOut {
        /// Where it is.
        path: PathBuf,
        /// The stable reason.
        fault: Fault,
        /// A sentence.
        reason: String,
    },
}

/// Finds every regular file, and says what is neither file, folder nor link. `visit` returns `false` to stop, and so does
/// `go_on`, which is asked at every step, whatever it finds. Returns the paths that could not be read.
pub fn find_files(
    roots: &[Root],
    go_on: impl Fn() -> bool,
    mut visit: impl FnMut(Found) -> bool,
) -> BTreeSet<PathBuf> {
    let mut told = BTreeSet::new();
    for root in roots {
        for entry in WalkDir::new(&root.path) {
            if !go_on() {
                return told;
            }
            let found = match entry {
                Ok(entry) if entry.file_type().is_dir() || entry.file_type().is_symlink() => continue,
                Ok(entry) => file(root, &entry),
                Err(error) => {
                    told.extend(error.path().map(Path::to_owned));
                    unreadable(error)
                }
            };
            if !visit(found) {
                return told;
            }
        }
    }
    told
}

/// Finds every link and folder, contents first. What could not be read is not told again if it is among `told`.
pub fn find_others(
    roots: &[Root],
    told: &BTreeSet<PathBuf>,
    go_on: impl Fn() -> bool,
    mut visit: impl FnMut(Found) -> bool,
) {
    for root in roots {
        for entry in WalkDir::new(&root.path).contents_first(true) {
            if !go_on() {
                return;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if error.path().is_some_and(|path| told.contains(path)) => continue,
                Err(error) => {
                    if !visit(unreadable(error)) {
                        return;
                    }
                    continue;
                }
            };
            let found = if entry.file_type().is_symlink() {
                link(roots, root, &entry)
            } else if entry.file_type().is_dir() {
                dir(root, &entry)
            } else {
                continue;
            };
            if !visit(found) {
                return;
            }
        }
    }
}

fn file(root: &Root, entry: &DirEntry) -> Found {
    if !entry.file_type().is_file() {
        return left_out(entry.path(), Fault::LeftOut, "devices, FIFOs and sockets are not sent");
    }
    let metadata = match entry.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return unreadable(error),
    };
    match name(root, entry.path()) {
        Ok(name) => Found::File(Source::new(entry.path().to_owned(), name, &metadata)),
        Err(error) => left_out(entry.path(), Fault::Name, error.to_string()),
    }
}

fn dir(root: &Root, entry: &DirEntry) -> Found {
    match (name(root, entry.path()), entry.metadata()) {
        (Ok(name), Ok(metadata)) => Found::Dir { name, metadata: travelling(&metadata) },
        (Err(error), _) => left_out(entry.path(), Fault::Name, error.to_string()),
        (_, Err(error)) => unreadable(error),
    }
}

fn link(roots: &[Root], root: &Root, entry: &DirEntry) -> Found {
    let path = entry.path();
    let name = match name(root, path) {
        Ok(name) => name,
        Err(error) => return left_out(path, Fault::Name, error.to_string()),
    };
    let (target, metadata) = match (fs::read_link(path), entry.metadata()) {
        (Ok(target), Ok(metadata)) => (target, metadata),
        (Err(error), _) => return io_failure(path, &error),
        (_, Err(error)) => return unreadable(error),
    };
    let target = match LinkTarget::new(target.as_os_str().as_bytes(), &name, NamePolicy::AllowOdd) {
        Ok(target) => target,
        Err(error) => return left_out(path, Fault::LeftOut, error.to_string()),
    };
    if !target.top(&name).is_some_and(|top| roots.iter().any(|root| root.name.as_bytes() == top)) {
        return left_out(path, Fault::LeftOut, "the link leads out of what is sent");
    }
    let mtime = travelling(&metadata).mtime;
    Found::Link { name, target, metadata: Metadata { mode: None, mtime } }
}

/// The name in the transfer of what lies at `path` below `root`.
fn name(root: &Root, path: &Path) -> Result<RelPath, crate::relpath::NameError> {
    let below = path.strip_prefix(&root.path).unwrap_or(Path::new(""));
    let mut name = root.name.as_bytes().to_vec();
    if !below.as_os_str().is_empty() {
        name.push(b'/');
        name.extend_from_slice(below.as_os_str().as_bytes());
    }
    RelPath::new(&name, NamePolicy::AllowOdd)
}

fn unreadable(error: walkdir::Error) -> Found {
    let path = error.path().unwrap_or(Path::new("?")).to_owned();
    let error = error.into_io_error().unwrap_or_else(|| io::ErrorKind::Other.into());
    io_failure(&path, &error)
}

fn io_failure(path: &Path, error: &io::Error) -> Found {
    let fault = if error.kind() == io::ErrorKind::NotFound { Fault::SourceChanged } else { Fault::FileIo };
    left_out(path, fault, format!("cannot read it: {error}"))
}

fn left_out(path: &Path, fault: Fault, reason: impl Into<String>) -> Found {
    Found::LeftOut { path: path.to_owned(), fault, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::roots;
    use std::os::unix::fs::symlink;

    fn everything(path: &Path) -> (Vec<String>, Vec<String>, Vec<String>) {
        let roots = roots(&[path.to_owned()]).unwrap();
        let (mut files, mut others, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        let mut sort = |found| {
            match found {
                Found::File(source) => files.push(source.name.to_string()),
                Found::Dir { name, .. } => others.push(format!("{name}/")),
                Found::Link { name, target, .. } => others.push(format!("{name} -> {target}")),
                Found::LeftOut { path, .. } => {
                    left_out.push(path.file_name().unwrap().to_string_lossy().into_owned())
                }
            }
            true
        };
        let told = find_files(&roots, || true, &mut sort);
        find_others(&roots, &told, || true, &mut sort);
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

    #[test]
    fn the_walk_can_be_stopped() {
        let dir = tempfile::tempdir().unwrap();
        for name in 0..10 {
            fs::write(dir.path().join(name.to_string()), "").unwrap();
        }
        let mut seen = 0;
        let roots = roots(&[dir.path().to_owned()]).unwrap();
        find_files(
            &roots,
            || true,
            |_| {
                seen += 1;
                seen < 3
            },
        );
        assert_eq!(seen, 3);
        find_files(&roots, || false, |_| panic!("it goes on"));
        find_others(&roots, &BTreeSet::new(), || false, |_| panic!("it goes on"));
    }
}
