//! Partial files of interrupted sessions: which are resumed, and which are removed.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::path;
use crate::dest::local::resume::Resumable;
use crate::dest::local::sweep::{Expiry, sweep};
use crate::dest::local::temp_names::JOURNAL_SUFFIX;
use crate::dest::local::{ImplicitDirs, LocalDestination, LocalSession, Record};
use crate::dest::{OnConflict, SourceVersion, Unfinished};
use crate::digest::{Md5, PART_BYTES};
use crate::units::MtimeNs;

const LATER: Duration = Duration::from_secs(100 * 24 * 60 * 60);

fn version(state: u8) -> SourceVersion {
    SourceVersion { size_bytes: 3 * PART_BYTES, mtime: None, state: [state; 16].into() }
}

fn open(dir: &Path) -> (LocalDestination, LocalSession) {
    let root = LocalDestination::open(dir, OnConflict::SkipSame).unwrap();
    let session = root.session(ImplicitDirs::Private).unwrap();
    (root, session)
}

/// Interrupts a session after the first part of a file; returns the name of the staged file.
fn leave(session: &mut LocalSession, name: &str, version: SourceVersion) -> String {
    let staged = session.stage_resumable(&path(name), version).unwrap();
    let records = [Record::Part(0, Md5::of(b"part"))];
    staged.journal().unwrap().record(&staged.written().unwrap(), &records, true).unwrap();
    staged.name().to_owned()
}

/// The sorted reports of a sweep that begins `later`: path, and whether it was removed.
fn swept(session: &LocalSession, dir: &Path, later: Duration, max_age: Duration) -> Vec<(String, bool)> {
    let mut reports = Vec::new();
    let report = |found: Unfinished| reports.push((String::from_utf8(found.path).unwrap(), found.is_removed));
    let expiry = Expiry { now: SystemTime::now() + later, max_age };
    sweep(&session.tree, &session.names, dir, expiry, || true, report);
    reports.sort();
    reports
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn only_names_that_a_receiver_makes_are_removed_and_each_removal_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let digest = "0123456789abcdef0123456789abcdef";
    let foreign = [
        ".ftx-settings".to_owned(),
        ".ftx-".into(),
        ".ftx-part".into(),
        ".ftx-part-".into(),
        ".ftx-0123456789abcdef".into(),
        ".ftx-0123456789abcdef-".into(),
        ".ftx-0123456789abcdef-1x".into(),
        ".ftx-0123456789abcdef-1.txt".into(),
        ".ftx-0123456789ABCDEF-1".into(),
        ".ftx-0123456789abcde-1".into(),
        ".FTX-0123456789abcdef-1".into(),
        "ftx-0123456789abcdef-1".into(),
        format!(".ftx-part-{}", &digest[1..]),
        format!(".ftx-part-{digest}0"),
        format!(".ftx-part-{digest}.journal.old"),
        format!(".ftx-part-{digest}.journal.new.1"),
        format!(".ftx-part-{digest}.txt"),
        format!(".ftx-part-{}.journal", digest.to_uppercase()),
    ];
    let other_digest = "fedcba9876543210fedcba9876543210";
    let mut own = [
        ".ftx-0123456789abcdef-0".to_owned(),
        ".ftx-fedcba9876543210-12345".into(),
        format!(".ftx-part-{digest}"),
        format!(".ftx-part-{other_digest}.journal"),
        format!(".ftx-part-{other_digest}.journal.new"),
    ];
    for name in foreign.iter().chain(&own) {
        fs::write(dir.path().join(name), "bytes").unwrap();
    }
    let (_root, session) = open(dir.path());
    assert_eq!(swept(&session, dir.path(), Duration::ZERO, Duration::ZERO), [], "they are not old");
    let reports = swept(&session, dir.path(), LATER, Duration::ZERO);
    own.sort();
    assert_eq!(reports, own.map(|name| (name, true)));
    let mut foreign = foreign.to_vec();
    foreign.sort();
    assert_eq!(names(dir.path()), foreign);
}

#[test]
fn files_of_live_sessions_are_kept_whatever_the_clock_shows() {
    let dir = tempfile::tempdir().unwrap();
    // Like another process: it shares only the locks.
    let (_other_root, other) = open(dir.path());
    let (root, mut session) = open(dir.path());
    let (small, large) = (session.stage(&path("a"), 5).unwrap(), session.stage(&path("b"), 2 << 20).unwrap());
    let resumable = session.stage_resumable(&path("c"), version(7)).unwrap();
    // The name is in use: this one is private.
    let same_version = session.stage_resumable(&path("c"), version(7)).unwrap();
    let (small_name, count) = (small.name().to_owned(), names(dir.path()).len());
    let sweeper = root.session(ImplicitDirs::Private).unwrap();
    assert_eq!(swept(&sweeper, dir.path(), LATER, Duration::ZERO), []);
    assert_eq!(names(dir.path()).len(), count);
    assert_eq!(swept(&other, dir.path(), LATER, Duration::ZERO), [(small_name, true)]);
    drop((small, large, resumable, same_version));
    // Files with the name of a session are left over once it has ended.
    let left = session.names.next();
    fs::write(dir.path().join(&*left), "").unwrap();
    assert_eq!(swept(&sweeper, dir.path(), LATER, Duration::ZERO), []);
    drop(session);
    assert_eq!(swept(&sweeper, dir.path(), LATER, Duration::ZERO), [(left.into(), true)]);
}

#[test]
fn a_version_neither_uses_nor_removes_the_partial_file_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let (_root, mut session) = open(dir.path());
    let first = leave(&mut session, "a", version(1));
    let others = [
        version(2),
        SourceVersion { size_bytes: 3 * PART_BYTES - 1, ..version(1) },
        SourceVersion { mtime: Some(MtimeNs(0)), ..version(1) },
        SourceVersion { mtime: Some(MtimeNs(-1)), ..version(1) },
    ];
    for other in others {
        assert!(matches!(session.resume(&path("a"), other), Ok(Resumable::Nothing)), "{other:?}");
        leave(&mut session, "a", other);
    }
    let resume = |session: &mut LocalSession, version| match session.resume(&path("a"), version) {
        Ok(Resumable::Partial(partial)) => partial,
        other => panic!("{other:?}"),
    };
    let partial = resume(&mut session, version(1));
    assert_eq!((partial.staged.name(), partial.digests.count(), partial.is_trusted), (&*first, 1, true));
    assert!(matches!(session.resume(&path("a"), version(1)), Ok(Resumable::InUse)));
    assert!(matches!(session.resume(&path("b"), version(1)), Ok(Resumable::Nothing)));
    // The end of one version has no effect on the others.
    partial.staged.discard();
    for other in others {
        resume(&mut session, other);
    }
    let reports = swept(&session, dir.path(), LATER, 2 * LATER);
    assert_eq!(reports, vec![("a".to_owned(), false); 4], "each is reported");
    swept(&session, dir.path(), LATER, Duration::ZERO);
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn a_staged_file_is_in_use_for_its_own_version_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (_root, mut session) = open(dir.path());
    let _staged = session.stage_resumable(&path("a"), version(1)).unwrap();
    assert!(matches!(session.resume(&path("a"), version(1)), Ok(Resumable::InUse)));
    assert!(matches!(session.resume(&path("a"), version(2)), Ok(Resumable::Nothing)));
}

/// A file of another user, or one with a name elsewhere, must be neither written to nor believed.
#[test]
fn files_of_other_users_and_files_with_two_names_are_not_resumed() {
    type Change = fn(&Path);
    let give_away: Change = |path| std::os::unix::fs::chown(path, Some(65534), None).unwrap();
    let link: Change = |path| fs::hard_link(path, path.with_file_name("second name")).unwrap();
    for (what, suffix, change, needs_root) in [
        ("a staged file with two names", "", link, false),
        ("a journal with two names", JOURNAL_SUFFIX, link, false),
        ("a staged file of another user", "", give_away, true),
        ("a journal of another user", JOURNAL_SUFFIX, give_away, true),
    ] {
        if needs_root && !rustix::process::geteuid().is_root() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let (_root, mut session) = open(dir.path());
        let left = leave(&mut session, "a", version(1));
        change(&dir.path().join(format!("{left}{suffix}")));
        let resumed = session.resume(&path("a"), version(1)).unwrap();
        assert!(matches!(resumed, Resumable::Nothing), "{what}: {resumed:?}");
        // The file is received again, into another file.
        let staged = session.stage_resumable(&path("a"), version(1)).unwrap();
        staged.write_at(b"new", 0).unwrap();
        for name in names(dir.path()) {
            let stat = fs::metadata(dir.path().join(&name)).unwrap();
            assert!(name == staged.name() || stat.len() != 3, "{what}: {name}");
        }
    }
}

#[test]
fn partial_files_of_a_receiver_below_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let inner_dir = dir.path().join("inner");
    let ((_outer_root, mut outer), (_inner_root, mut inner)) = (open(dir.path()), open(&inner_dir));
    leave(&mut outer, "inner/of_outer", version(7));
    leave(&mut inner, "of_inner", version(7));
    let reports = swept(&outer, dir.path(), LATER, Duration::ZERO);
    assert_eq!(reports, [("inner/of_outer".to_owned(), true)]);
    assert_eq!(names(&inner_dir).len(), 2, "a staged file and its journal");
    assert_eq!(swept(&inner, &inner_dir, LATER, 2 * LATER), [("of_inner".to_owned(), false)]);
    assert_eq!(swept(&inner, &inner_dir, LATER, Duration::ZERO), [("of_inner".to_owned(), true)]);
    assert_eq!(names(&inner_dir), Vec::<String>::new());
}
