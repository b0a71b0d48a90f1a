//! Staging and committing as a whole, with what is on the disk after each failing case.

mod partial_files;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::dir_tree::IMPLICIT_DIR_MODE;
use super::*;
use crate::digest::{Md5, PartDigests, PartLayout};
use crate::error_code::ErrorCode;
use crate::relpath::RelPath;
use crate::relpath::{LinkTarget, NamePolicy};
use crate::units::{Metadata, Mode, MtimeNs};
use rustix::fs::Mode as FsMode;

fn path(name: &str) -> RelPath {
    RelPath::new(name.as_bytes(), NamePolicy::Strict).unwrap()
}

fn open_session(root: &Path, on_conflict: OnConflict) -> LocalSession {
    LocalDestination::open(root, on_conflict).unwrap().session(ImplicitDirs::Private).unwrap()
}

fn file(session: &mut LocalSession, name: &str, content: &str) -> Item {
    let staged = session.stage(&path(name), content.len() as u64).unwrap();
    staged.write_at(content.as_bytes(), 0).unwrap();
    let mut digests = PartDigests::new();
    digests.insert(0, Md5::of(content.as_bytes()));
    let metadata = Metadata { mode: Some(Mode::new(0o640)), mtime: Some(MtimeNs(1_700_000_000_123_456_789)) };
    let content = Content { size_bytes: content.len() as u64, digests: Digests::Parts(digests) };
    Item::File { staged, content, metadata }
}

fn store(session: &mut LocalSession, name: &str, content: &str) -> Result<Placed, StoreError> {
    let item = file(session, name, content);
    session.commit(vec![item]).remove(0)
}

/// Every path below `root` with a file's content, sorted.
fn listing(root: &Path) -> Vec<(String, String)> {
    let mut all: Vec<_> = walkdir::WalkDir::new(root)
        .min_depth(1)
        .into_iter()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let content = match entry.file_type() {
                kind if kind.is_file() => fs::read_to_string(entry.path()).unwrap(),
                kind if kind.is_symlink() => {
                    fs::read_link(entry.path()).unwrap().to_string_lossy().into_owned()
                }
                _ => "/".into(),
            };
            (name, content)
        })
        .collect();
    all.sort();
    all
}

fn expect(root: &Path, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(listing(root), expected);
}

#[test]
fn writes_of_another_process_are_detected() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = open_session(dir.path(), OnConflict::SkipSame);
    // Large enough to stay open.
    let Item::File { mut staged, content, metadata } = file(&mut session, "a", &"a".repeat(2 << 20)) else {
        panic!("a file");
    };
    let written = staged.written().unwrap();
    written.check_unchanged().unwrap();
    staged.seal(metadata, content.size_bytes).unwrap();
    assert!(matches!(session.commit(vec![Item::File { staged, content, metadata }])[..], [Ok(_)]));
    written.check_unchanged().unwrap();
    let Ok(Existing::File(existing)) = session.lookup(&path("a")) else { panic!("it is there") };
    existing.bytes().unwrap().check_unchanged().unwrap();
    let opened = existing.bytes().unwrap();
    fs::OpenOptions::new().write(true).open(dir.path().join("a")).unwrap().write_all(b"b").unwrap();
    assert!(written.check_unchanged().is_err());
    assert!(opened.check_unchanged().is_err());
    assert!(matches!(existing.bytes(), Err(StoreError::Changed)));
}

#[test]
fn a_file_is_stored_with_mode_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = open_session(dir.path(), OnConflict::SkipSame);
    let item = file(&mut session, "a/b", "bytes");
    let staged = listing(dir.path());
    assert!(staged[1].0.starts_with("a/.ftx-"), "hidden until it is committed: {staged:?}");
    assert!(matches!(session.commit(vec![item])[..], [Ok(Placed::Named)]));
    expect(dir.path(), &[("a", "/"), ("a/b", "bytes")]);
    let metadata = fs::metadata(dir.path().join("a/b")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_700_000_000, 123_456_789));
}

#[test]
fn a_staged_file_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = open_session(dir.path(), OnConflict::SkipSame);
    drop(file(&mut session, "a", "bytes"));
    expect(dir.path(), &[]);
}

#[test]
fn many_files_are_committed_in_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = open_session(dir.path(), OnConflict::SkipSame);
    let items: Vec<_> =
        (0..100).map(|n| file(&mut session, &format!("d{}/f{n}", n % 10), &n.to_string())).collect();
    assert!(session.commit(items).iter().all(|result| matches!(result, Ok(Placed::Named))));
    let files = listing(dir.path()).into_iter().filter(|(_, content)| content != "/").count();
    assert_eq!(files, 100);
}

#[test]
fn each_policy_does_what_it_promises() {
    use OnConflict::{Error, Overwrite, Rename, SkipSame};
    type Left = &'static [(&'static str, &'static str)];
    let cases: [(OnConflict, &str, Option<Placed>, Left); 8] = [
        (SkipSame, "old", Some(Placed::AlreadyThere), &[("a.txt", "old")]),
        (SkipSame, "new", None, &[("a.txt", "old")]),
        (Overwrite, "old", Some(Placed::AlreadyThere), &[("a.txt", "old")]),
        (Overwrite, "new", Some(Placed::Named), &[("a.txt", "new")]),
        (Rename, "old", Some(Placed::AlreadyThere), &[("a.txt", "old")]),
        (Rename, "new", Some(Placed::Renamed(path("a (1).txt"))), &[("a (1).txt", "new"), ("a.txt", "old")]),
        (Error, "old", None, &[("a.txt", "old")]),
        (Error, "new", None, &[("a.txt", "old")]),
    ];
    for (policy, content, placed, left) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.txt"), "old").unwrap();
        let result = store(&mut open_session(dir.path(), policy), "a.txt", content);
        assert_eq!(result.ok(), placed, "{policy:?} {content}");
        expect(dir.path(), left);
    }
}

#[test]
fn an_existing_file_that_changes_is_refused() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 7] = [
        ("written to in place", |path| {
            fs::OpenOptions::new().write(true).open(path).unwrap().write_all(b"B").unwrap();
        }),
        ("written to, with its time set back", |path| {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.write_all(b"B").unwrap();
            file.set_modified(modified).unwrap();
        }),
        ("replaced by one of its size", |path| {
            fs::write(path.with_extension("new"), "bytes").unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }),
        ("grown", |path| fs::write(path, "bytes and more").unwrap()),
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("a link now", |path| {
            fs::rename(path, path.with_extension("old")).unwrap();
            symlink(path.with_extension("old"), path).unwrap();
        }),
        ("a directory now", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    for (what, change) in changes {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, "bytes").unwrap();
        let mut session = open_session(dir.path(), OnConflict::SkipSame);
        let Ok(Existing::File(existing)) = session.lookup(&path("a")) else { panic!("it is there") };
        let all = PartLayout::new(5).range(0).unwrap();
        assert_eq!(existing.digest(all).unwrap(), Md5::of(b"bytes"));
        change(&file);
        assert!(matches!(existing.open(), Err(StoreError::Changed)), "{what}");
        let placed =
            session.commit(vec![Item::AlreadyThere { file: existing.into(), origin: None }]).remove(0);
        assert!(matches!(placed, Err(StoreError::Changed)), "{what}: {placed:?}");
    }
}

#[test]
fn a_copy_beside_a_taken_name_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::write(root.join("a.txt"), "taken").unwrap();
    symlink("taken", root.join("l")).unwrap();
    let mut session = open_session(root, OnConflict::Rename);
    let link = |session: &mut LocalSession, target: &str| {
        let target = LinkTarget::new(target.as_bytes(), &path("l"), NamePolicy::Strict).unwrap();
        session
            .commit(vec![Item::Link { path: path("l"), target, metadata: Metadata::default() }])
            .remove(0)
            .unwrap()
    };
    assert_eq!(store(&mut session, "a.txt", "one").unwrap(), Placed::Renamed(path("a (1).txt")));
    assert_eq!(store(&mut session, "a.txt", "two").unwrap(), Placed::Renamed(path("a (2).txt")));
    assert_eq!(store(&mut session, "a.txt", "two").unwrap(), Placed::CopyThere(path("a (2).txt")));
    assert_eq!(store(&mut session, "a.txt", "one").unwrap(), Placed::CopyThere(path("a (1).txt")));
    assert_eq!(link(&mut session, "x"), Placed::Renamed(path("l (1)")));
    assert_eq!(link(&mut session, "x"), Placed::CopyThere(path("l (1)")));
    assert_eq!(link(&mut session, "taken"), Placed::AlreadyThere);
    let left =
        [("a (1).txt", "one"), ("a (2).txt", "two"), ("a.txt", "taken"), ("l", "taken"), ("l (1)", "x")];
    expect(root, &left);
    // It is found before any byte is received; time and size count more than the size alone.
    let time = MtimeNs(1_700_000_000_123_456_789);
    let copy = |session: &mut LocalSession, size, mtime| {
        session.find_copy(&path("a.txt"), size, mtime).unwrap().map(|file| file.copy_path().unwrap().clone())
    };
    assert_eq!(copy(&mut session, 3, Some(time)), Some(path("a (1).txt")));
    fs::File::options()
        .write(true)
        .open(root.join("a (1).txt"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    assert_eq!(copy(&mut session, 3, Some(time)), Some(path("a (2).txt")));
    assert_eq!(copy(&mut session, 3, None), Some(path("a (1).txt")));
    assert_eq!(copy(&mut session, 4, Some(time)), None);
}

#[test]
fn a_directory_is_never_replaced_and_a_link_never_followed() {
    for policy in [OnConflict::SkipSame, OnConflict::Overwrite, OnConflict::Error] {
        let dir = tempfile::tempdir().unwrap();
        let canary = tempfile::NamedTempFile::new().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        symlink(canary.path(), dir.path().join("l")).unwrap();
        let mut session = open_session(dir.path(), policy);
        let error = store(&mut session, "d", "new").unwrap_err();
        assert_eq!(error.code(), ErrorCode::Exists);
        let over_link = store(&mut session, "l", "new");
        assert_eq!(over_link.is_ok(), policy == OnConflict::Overwrite, "the link itself may be replaced");
        assert_eq!(fs::read_to_string(canary.path()).unwrap(), "", "never what it leads to");
        assert!(dir.path().join("d").is_dir());
    }
}

#[test]
fn nothing_is_stored_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), dir.path().join("out")).unwrap();
    let mut session = open_session(dir.path(), OnConflict::Overwrite);
    assert_eq!(session.stage(&path("out/a"), 1).unwrap_err().code(), ErrorCode::Exists);
    assert!(matches!(session.lookup(&path("out/a")), Err(StoreError::Blocked { .. })));
    let link = LinkTarget::new(b"x", &path("out/l"), NamePolicy::Strict).unwrap();
    let items = vec![
        Item::Link { path: path("out/l"), target: link, metadata: Metadata::default() },
        Item::Dir { path: path("out"), metadata: Metadata::default() },
        Item::Dir { path: path("out/d"), metadata: Metadata::default() },
    ];
    assert!(session.commit(items).iter().all(Result::is_err));
    assert!(listing(outside.path()).is_empty());
}

#[test]
fn directories_and_links_get_their_times_and_modes() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = open_session(dir.path(), OnConflict::SkipSame);
    let metadata = Metadata { mode: Some(Mode::new(0o550)), mtime: Some(MtimeNs(-1)) };
    let target = LinkTarget::new(b"a", &path("d/l"), NamePolicy::Strict).unwrap();
    let items = vec![
        file(&mut session, "d/a", "bytes"),
        Item::Link { path: path("d/l"), target, metadata: Metadata { mode: None, mtime: Some(MtimeNs(5)) } },
        Item::Dir { path: path("d"), metadata },
        Item::Dir { path: path("empty"), metadata: Metadata::default() },
    ];
    assert!(session.commit(items).iter().all(Result::is_ok));
    let metadata = fs::metadata(dir.path().join("d")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime(), metadata.mtime_nsec()), (0o550, -1, 999_999_999));
    let link = fs::symlink_metadata(dir.path().join("d/l")).unwrap();
    assert_eq!((link.mtime(), link.mtime_nsec()), (0, 5));
    fs::set_permissions(dir.path().join("d"), fs::Permissions::from_mode(0o700)).unwrap();
    expect(dir.path(), &[("d", "/"), ("d/a", "bytes"), ("d/l", "a"), ("empty", "/")]);
}

#[test]
fn a_link_replaces_only_under_overwrite() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("l"), "a file").unwrap();
    let link = || Item::Link {
        path: path("l"),
        target: LinkTarget::new(b"x", &path("l"), NamePolicy::Strict).unwrap(),
        metadata: Metadata::default(),
    };
    assert!(open_session(dir.path(), OnConflict::SkipSame).commit(vec![link()])[0].is_err());
    expect(dir.path(), &[("l", "a file")]);
    assert!(open_session(dir.path(), OnConflict::Overwrite).commit(vec![link()])[0].is_ok());
    expect(dir.path(), &[("l", "x")]);
    assert!(matches!(
        open_session(dir.path(), OnConflict::SkipSame).commit(vec![link()])[..],
        [Ok(Placed::AlreadyThere)]
    ));
}

#[test]
fn a_directory_removed_while_it_is_cached_is_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = open_session(dir.path(), OnConflict::SkipSame);
    store(&mut session, "d/a", "one").unwrap();
    fs::remove_dir_all(dir.path().join("d")).unwrap();
    store(&mut session, "d/b", "two").unwrap();
    expect(dir.path(), &[("d", "/"), ("d/b", "two")]);
}

/// Another user who may write to the directory sees one temporary name and can guess the next ones.
#[test]
fn taken_temporary_names_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let canary = dir.path().join("canary");
    fs::write(&canary, "tweet").unwrap();
    let mut session = open_session(dir.path(), OnConflict::Overwrite);
    let first = session.names.next();
    let (prefix, _) = first.rsplit_once('-').unwrap();
    let planted = |number: usize| dir.path().join(format!("{prefix}-{number}"));
    let plant = |from: usize| {
        symlink(&canary, planted(from)).unwrap();
        fs::hard_link(&canary, planted(from + 1)).unwrap();
        fs::create_dir(planted(from + 2)).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, planted(from + 3), fifo, FsMode::RUSR, 0).unwrap();
    };
    plant(1);
    assert_eq!(store(&mut session, "a", "bytes").unwrap(), Placed::Named);
    assert_eq!(&*session.names.next(), format!("{prefix}-6"), "each of the four was tried");
    plant(7);
    let target = LinkTarget::new(b"a", &path("l"), NamePolicy::Strict).unwrap();
    let link = Item::Link { path: path("l"), target, metadata: Metadata::default() };
    assert_eq!(session.commit(vec![link]).remove(0).unwrap(), Placed::Named);
    assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "bytes");
    assert_eq!(fs::read_link(dir.path().join("l")).unwrap(), Path::new("a"));
    assert_eq!(fs::read_to_string(&canary).unwrap(), "tweet");
    assert!((1..=4).chain(7..=10).all(|number| fs::symlink_metadata(planted(number)).is_ok()));
}

#[test]
fn a_root_that_is_not_a_directory_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = LocalDestination::open(file.path(), OnConflict::SkipSame).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is a file, not a folder", file.path().display()));
    // The user who runs this test may be allowed to write anywhere.
    let below = file.path().with_file_name("not yet there");
    let error = RootError::new(&below, io::ErrorKind::PermissionDenied.into());
    assert_eq!(error.to_string(), format!("no permission to write in {}", below.parent().unwrap().display()));
    assert_eq!(error.code(), ErrorCode::Permission);
}

#[test]
fn a_directory_of_an_interrupted_session_gets_its_mode_from_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o7777;
    fs::create_dir(dir.path().join("existing")).unwrap();
    fs::set_permissions(dir.path().join("existing"), fs::Permissions::from_mode(0o711)).unwrap();
    let mut interrupted = open_session(dir.path(), OnConflict::SkipSame);
    store(&mut interrupted, "implicit/f", "f").unwrap();
    store(&mut interrupted, "existing/f", "f").unwrap();
    drop(interrupted);
    assert_eq!(mode("implicit"), IMPLICIT_DIR_MODE);
    let mut next = open_session(dir.path(), OnConflict::SkipSame);
    for (name, announced, expected) in
        [("implicit", Some(0o751), 0o751), ("existing", Some(0o751), 0o711), ("implicit", Some(0o700), 0o751)]
    {
        let metadata = Metadata { mode: announced.map(Mode::new), mtime: None };
        let placed = next.commit(vec![Item::Dir { path: path(name), metadata }]).remove(0);
        assert_eq!(placed.unwrap(), Placed::Named);
        assert_eq!(mode(name), expected, "{name}");
    }
    store(&mut next, "no mode/f", "f").unwrap();
    next.commit(vec![Item::Dir { path: path("no mode"), metadata: Metadata::default() }]).remove(0).unwrap();
    assert_eq!(mode("no mode") & 0o7700, 0o700, "the mark does not stay");
    assert_ne!(mode("no mode"), IMPLICIT_DIR_MODE);
}

#[test]
fn new_directories_inherit_setgid_and_get_their_mode_and_time() {
    for policy in [OnConflict::SkipSame, OnConflict::Overwrite] {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o2775)).unwrap();
        let mut interrupted = open_session(dir.path(), policy);
        store(&mut interrupted, "of an interrupted session/f", "f").unwrap();
        drop(interrupted);
        let mut session = open_session(dir.path(), policy);
        store(&mut session, "d/deeper/f", "f").unwrap();
        for name in ["d/deeper", "d", "of an interrupted session"] {
            let metadata = Metadata { mode: Some(Mode::new(0o751)), mtime: Some(MtimeNs(7_000_000_000)) };
            session.commit(vec![Item::Dir { path: path(name), metadata }]).remove(0).unwrap();
            let stat = fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o2751, 7), "{name}, {policy:?}");
        }
        let unset = Metadata::default();
        session.commit(vec![Item::Dir { path: path("no mode"), metadata: unset }]).remove(0).unwrap();
        assert_eq!(fs::metadata(dir.path().join("no mode")).unwrap().mode() & 0o7700, 0o2700);
    }
}
