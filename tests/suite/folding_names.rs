//! Names that differ only in case or Unicode normalisation, on file systems that treat them as equivalent: nothing is
//! merged, nothing is overwritten, and each entry that could not be stored is reported to the sender.
//!
//! These tests fail if the receiver assumes that an entry found under a name has exactly that name: two files would become
//! one with exit code 0.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::mounted::Mounted;
use crate::common::proofs::{contents, not_run};
use crate::common::{Ended, Receiver, names, send};

const PARTIAL: i32 = 23;
const WORDS: &str = "this file system ignores case or normalisation";

fn put(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Pairs of equivalent names, and names without an equivalent.
fn make_tree(t: &Path) {
    put(&t.join("A.txt"), "one");
    put(&t.join("a.txt"), "two");
    put(&t.join("Same"), "the same");
    put(&t.join("same"), "the same");
    put(&t.join("d/LARGE"), &"L".repeat(400_000));
    put(&t.join("d/large"), &"l".repeat(400_000));
    put(&t.join("Folder/in one"), "1");
    put(&t.join("Folder/deeper/in one"), "1");
    put(&t.join("folder/in another"), "2");
    put(&t.join("folder/deeper/in another"), "2");
    put(&t.join("d/alone"), "alone");
    fs::create_dir(t.join("EMPTY")).unwrap();
    fs::create_dir(t.join("empty")).unwrap();
}

fn transfer(out: &Path, policy: &str, from: &Path) -> (Ended, Ended) {
    let receiver = Receiver::start(out, &["--once", "--on-conflict", policy]);
    let sent = send(&[], &[from], &receiver.host());
    (sent, receiver.wait())
}

/// How often each end reported an equivalent name.
fn equivalent_name_reports(ended: &(Ended, Ended)) -> [usize; 2] {
    [&ended.0, &ended.1].map(|end| end.stderr.lines().filter(|line| line.contains(WORDS)).count())
}

/// Every existing name holds what was sent under exactly that name.
fn assert_nothing_merged(out: &Path, from: &Path) {
    let whole = contents(from);
    for (name, what) in contents(out) {
        assert_eq!(Some(&what), whole.get(&name), "{name}");
    }
}

#[test]
fn of_two_equivalent_names_one_is_stored_and_the_other_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (from, at) = (dir.path().join("from"), dir.path().join("disk"));
    make_tree(&from.join("t"));
    let Some(_mounted) = Mounted::case_insensitive(dir.path(), &at) else {
        return not_run("folding_names", "no file system that folds names can be mounted here");
    };
    for policy in ["skip-same", "overwrite", "error"] {
        let out = at.join(policy);
        let ended = transfer(&out, policy, &from.join("t"));
        assert_eq!((ended.0.code, ended.1.code), (PARTIAL, PARTIAL), "{policy}: {ended:?}");
        // Three files; a directory with two files and a directory in it; an empty directory.
        assert_eq!(equivalent_name_reports(&ended), [8, 8], "{policy}: {ended:?}");
        assert_nothing_merged(&out, &from);
        // A, same, d, large, alone, folder and three entries in it, empty, and t.
        assert_eq!(names(&out).len(), 11, "{policy}: {:?}", names(&out));
        let existing = contents(&out);
        // The second run finds the stored entries and reports the others again.
        let again = transfer(&out, policy, &from.join("t"));
        assert_eq!(again.0.code, PARTIAL, "{policy}: {again:?}");
        assert!(equivalent_name_reports(&again)[0] >= 5, "{policy}: {again:?}");
        assert_eq!(contents(&out), existing, "{policy}");
    }
}

#[test]
fn rename_policy_stores_the_other_file_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let (from, at) = (dir.path().join("from"), dir.path().join("disk"));
    put(&from.join("t/A.txt"), "one");
    put(&from.join("t/a.txt"), "two");
    let Some(_mounted) = Mounted::case_insensitive(dir.path(), &at) else {
        return not_run("folding_names, rename", "no file system that folds names can be mounted here");
    };
    let ended = transfer(&at, "rename", &from.join("t"));
    assert_eq!((ended.0.code, ended.1.code), (0, 0), "{ended:?}");
    let mut existing: Vec<String> = names(&at.join("t"))
        .into_iter()
        .map(|name| fs::read_to_string(at.join("t").join(name)).unwrap())
        .collect();
    existing.sort();
    assert_eq!(existing, ["one", "two"]);
    assert!(names(&at.join("t")).iter().any(|name| name.contains(" (1)")), "{:?}", names(&at));
}

#[test]
fn existing_entries_with_equivalent_names_stay_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let (from, at) = (dir.path().join("from"), dir.path().join("disk"));
    put(&from.join("t/File"), "the same");
    put(&from.join("t/folder/in it"), "1");
    put(&from.join("t/\u{e9}t\u{e9}"), "summer");
    let Some(_mounted) = Mounted::case_insensitive(dir.path(), &at) else {
        return not_run(
            "folding_names, what was there",
            "no file system that folds names can be mounted here",
        );
    };
    put(&at.join("t/FILE"), "the same");
    put(&at.join("t/Folder/hers"), "2");
    put(&at.join("t/\u{c9}T\u{c9}"), "winter");
    let existing = contents(&at);
    for policy in ["skip-same", "overwrite"] {
        let ended = transfer(&at, policy, &from.join("t"));
        assert_eq!((ended.0.code, ended.1.code), (PARTIAL, PARTIAL), "{ended:?}");
        // The file, the directory, the file in it, and the name with accents.
        assert_eq!(equivalent_name_reports(&ended), [4, 4], "{ended:?}");
        assert_eq!(contents(&at), existing);
    }
    // In the classic dialect only the receiver can report it.
    let receiver = Receiver::start(&at.join("t"), &["--once"]);
    assert_eq!(send(&["--classic"], &[&from.join("t/File")], &receiver.host()).code, 10);
    let received = receiver.wait();
    assert_eq!(received.code, PARTIAL, "{received:?}");
    assert!(received.stderr.contains(WORDS), "{received:?}");
    assert_eq!(contents(&at), existing);
}

#[test]
fn composed_and_decomposed_characters_are_equivalent_names() {
    let dir = tempfile::tempdir().unwrap();
    let (from, at) = (dir.path().join("from"), dir.path().join("disk"));
    let (composed, decomposed) = ("\u{e9}", "e\u{301}");
    put(&from.join("t").join(composed), "one");
    put(&from.join("t").join(decomposed), "two");
    let Some(_mounted) = Mounted::case_insensitive(dir.path(), &at) else {
        return not_run("folding_names, composed", "no file system that folds names can be mounted here");
    };
    put(&at.join(composed), "");
    let folds = at.join(decomposed).exists();
    let ended = transfer(&at, "overwrite", &from.join("t"));
    assert_eq!(ended.0.code, if folds { PARTIAL } else { 0 }, "{ended:?}");
    assert_eq!(names(&at.join("t")).len(), if folds { 1 } else { 2 });
    assert_nothing_merged(&at.join("t"), &from.join("t"));
    if !folds {
        not_run("folding_names, composed", "the file system here folds case alone");
    }
}

#[test]
fn links_with_equivalent_names_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let (from, at) = (dir.path().join("from"), dir.path().join("disk"));
    put(&from.join("t/there"), "one");
    symlink("there", from.join("t/Link")).unwrap();
    symlink("there", from.join("t/link")).unwrap();
    let Some(_mounted) = Mounted::case_insensitive(dir.path(), &at) else {
        return not_run("folding_names, links", "no file system that folds names can be mounted here");
    };
    if symlink("there", at.join("probe")).is_err() {
        return not_run("folding_names, links", "the file system here has no links");
    }
    fs::remove_file(at.join("probe")).unwrap();
    let ended = transfer(&at, "overwrite", &from.join("t"));
    assert_eq!((ended.0.code, equivalent_name_reports(&ended)), (PARTIAL, [1, 1]), "{ended:?}");
    assert_eq!(names(&at.join("t")).len(), 2);
}

#[test]
fn case_sensitive_file_system_stores_all_names() {
    let dir = tempfile::tempdir().unwrap();
    let (from, out) = (dir.path().join("from"), dir.path().join("out"));
    make_tree(&from.join("t"));
    for _ in 0..2 {
        let ended = transfer(&out, "skip-same", &from.join("t"));
        assert_eq!((ended.0.code, ended.1.code), (0, 0), "{ended:?}");
        assert_eq!(contents(&out), contents(&from));
    }
}
