//! **Promised: what is `stored` survives power loss.**
//!
//! - Order of system calls: `ftx recv` runs under `strace`. For each entry, everything written to it is synced before it
//!   is renamed, and its directory and every directory above it, new or existing, are synced before `stored` reports it.
//!   A sync that is missing, or that follows the rename, fails this.
//! - Disk images: the output directory is a file system on an image file. At `stored`, and again when the sender has
//!   ended, the image is copied without unmounting it: data that the file system has not written back is missing from the
//!   copy, as after power loss. In the copy every `stored` entry is complete and under its name, and no other name holds
//!   an incomplete file. As a control, files that are copied without a sync must be lost in such an image.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::common::proofs::{Random, can_trace, contents, is_staged, not_run, report_figures, rounds};
use crate::common::proxy::{Action, Proxy, Way};
use crate::common::{FTX, Receiver, listing, send, until};
use ftx::digest::PART_BYTES;
use serde_json::Value;

/// Small files in directories, a file of one part, one of several parts, a sparse one, links, an empty directory.
fn make_tree(root: &Path, random: &mut Random) {
    fs::create_dir_all(root.join("deep/er/still")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    for number in 0..60 {
        let size = random.below(5000) as usize;
        let folder = ["", "deep/", "deep/er/", "deep/er/still/"][number % 4];
        fs::write(root.join(format!("{folder}{number}")), random.bytes(size)).unwrap();
    }
    fs::write(root.join("nothing"), "").unwrap();
    fs::write(root.join("middle"), random.bytes(400_000)).unwrap();
    fs::write(root.join("large"), random.bytes(PART_BYTES as usize + 300_000)).unwrap();
    fs::File::create(root.join("holes")).unwrap().set_len(3 * PART_BYTES + 17).unwrap();
    symlink("deep/1", root.join("link")).unwrap();
    symlink("er", root.join("deep/to a folder")).unwrap();
}

/// The entries that a session announced and stored, as seen by a proxy.
#[derive(Default)]
struct ObservedEntries {
    names: HashMap<u64, String>,
    stored: Vec<String>,
}

impl ObservedEntries {
    /// `true` if the frame was `stored`.
    fn record(&mut self, frame: &Value) -> bool {
        match frame["ftx"].as_str() {
            Some("entry") => {
                let name = frame["filename"].as_str().unwrap().to_owned();
                self.names.insert(frame["entry"].as_u64().unwrap(), name);
                false
            }
            Some("stored") => {
                self.stored.extend(numbers(frame).map(|number| self.names[&number].clone()));
                true
            }
            _ => false,
        }
    }
}

/// The entry ids in a frame's ranges.
fn numbers(frame: &Value) -> impl Iterator<Item = u64> {
    let runs = frame["entries"].as_array().unwrap().clone();
    runs.into_iter().flat_map(|run| run[0].as_u64().unwrap()..=run[1].as_u64().unwrap())
}

/// One system call of a trace. `begun` and `ended` are line numbers.
#[derive(Debug)]
struct Call {
    begun: usize,
    ended: usize,
    name: String,
    args: String,
    result: i64,
}

/// Parses the output of `strace -f -y -xx`; calls that strace splits into two lines are joined.
fn parse_trace(text: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished: HashMap<&str, (usize, String, String)> = HashMap::new();
    for (line_number, line) in text.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let (name, more) = resumed.split_once(" resumed>").expect(line);
            let (begun, first_name, args) = unfinished.remove(thread).expect(line);
            assert_eq!(name, first_name, "{line}");
            let (more, result) = more.rsplit_once(" = ").expect(line);
            let args = args + more.trim_end();
            calls.push(Call {
                begun,
                ended: line_number,
                name: first_name,
                args,
                result: parse_result(result),
            });
            continue;
        }
        let (name, args) = rest.split_once('(').expect(line);
        if let Some(args) = args.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, (line_number, name.to_owned(), args.trim_end().to_owned()));
            continue;
        }
        let (args, result) = args.rsplit_once(" = ").expect(line);
        calls.push(Call {
            begun: line_number,
            ended: line_number,
            name: name.to_owned(),
            args: args.trim_end().to_owned(),
            result: parse_result(result),
        });
    }
    calls
}

fn parse_result(text: &str) -> i64 {
    let number = text.split([' ', '<']).next().unwrap();
    number.parse().unwrap_or(i64::MIN)
}

impl Call {
    /// Paths of the descriptors among the arguments: `7</out/t>`.
    fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut rest = self.args.as_str();
        while let Some((before, after)) = rest.split_once('<') {
            let Some((path, after)) = after.split_once('>') else { break };
            if before.ends_with(|c: char| c.is_ascii_digit() || c == 'D') {
                paths.push(String::from_utf8(unescape(path)).unwrap());
            }
            rest = after;
        }
        paths
    }

    /// The strings among the arguments.
    fn strings(&self) -> Vec<Vec<u8>> {
        self.args.split('"').skip(1).step_by(2).map(unescape).collect()
    }
}

/// Decodes `\x61`; other characters stay.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        match after {
            [b'x', high, low, ..] if *first == b'\\' => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// System calls by the names they concern, with line numbers of the trace as times.
#[derive(Default)]
struct Timeline {
    /// End of the last write to each file, by its name at that time.
    written: BTreeMap<String, usize>,
    /// Staged name, final name, begin and end of the rename.
    renamed: Vec<(String, String, usize, usize)>,
    /// Directories and links that were created: name and end of the call.
    made: Vec<(String, usize)>,
    /// Syncs of one file or directory: begin and end.
    synced: Vec<(String, usize, usize)>,
    /// Syncs of the file system: begin and end.
    synced_all: Vec<(usize, usize)>,
    /// `stored` frames: begin of the write, and the entry ids.
    stored: Vec<(usize, Vec<u64>)>,
    /// Entries that existed before the receiver started.
    before: BTreeMap<String, String>,
}

const WRITES: [&str; 14] = [
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "ftruncate",
    "fallocate",
    "copy_file_range",
    "splice",
    "sendfile",
    "fchmod",
    "fchown",
    "utimensat",
    "fsetxattr",
];

impl Timeline {
    fn new(calls: &[Call]) -> Self {
        let mut timeline = Timeline::default();
        for call in calls.iter().filter(|call| call.result >= 0) {
            timeline.add(call);
        }
        timeline
    }

    fn add(&mut self, call: &Call) {
        let (paths, span) = (call.paths(), (call.begun, call.ended));
        let at = |index: usize, name: &[u8]| format!("{}/{}", paths[index], String::from_utf8_lossy(name));
        match call.name.as_str() {
            "fsync" | "fdatasync" => self.synced.push((paths[0].clone(), span.0, span.1)),
            "syncfs" | "sync" => self.synced_all.push(span),
            "renameat" | "renameat2" => {
                let names = call.strings();
                self.renamed.push((at(0, &names[0]), at(1, &names[1]), span.0, span.1));
            }
            "linkat" => panic!("this file system supports RENAME_NOREPLACE: {call:?}"),
            "mkdirat" => self.made.push((at(0, &call.strings()[0]), span.1)),
            "symlinkat" => self.made.push((at(0, &call.strings()[1]), span.1)),
            "sendto" | "write" | "writev" | "sendmsg"
                if paths[0].contains("socket:") || paths[0].contains("TCP") =>
            {
                let sent: Vec<u8> = call.strings().concat();
                let text = String::from_utf8_lossy(&sent);
                for (start, _) in text.match_indices(r#"{"ftx":"stored""#) {
                    let json = text[start..].split_inclusive('}').next().unwrap();
                    let frame: Value =
                        serde_json::from_str(json).expect("a whole frame; strace cuts long ones");
                    self.stored.push((span.0, numbers(&frame).collect()));
                }
            }
            // A link's time is set by name; calls on a descriptor have no string.
            "utimensat" if !call.strings().is_empty() => {
                self.made.push((at(0, &call.strings()[0]), span.1));
            }
            name if WRITES.contains(&name) => {
                // `copy_file_range` and `splice` write to their last descriptor, all others to their first.
                let target =
                    if matches!(name, "copy_file_range" | "splice") { paths.last() } else { paths.first() };
                if let Some(target) = target.filter(|path| path.starts_with('/')) {
                    self.written.insert(target.clone(), span.1);
                }
            }
            _ => {}
        }
    }

    /// Whether the path or its file system was synced after `after` and before `before`.
    fn is_synced(&self, path: &str, after: usize, before: usize) -> bool {
        self.synced.iter().any(|(synced, begun, ended)| synced == path && *begun > after && *ended < before)
            || self.synced_all.iter().any(|(begun, ended)| *begun > after && *ended < before)
    }

    /// Checks every rule for every entry; returns the number of entries.
    fn check(&self, out: &str, names: &HashMap<u64, String>) -> usize {
        let mut checked = 0;
        for (stored_at, numbers) in &self.stored {
            for number in numbers {
                let name = format!("{out}/{}", names[number]);
                self.check_entry(out, &name, *stored_at);
                checked += 1;
            }
        }
        checked
    }

    fn check_entry(&self, out: &str, name: &str, stored_at: usize) {
        let folder = |path: &str| path.rsplit_once('/').unwrap().0.to_owned();
        let renamed = self.renamed.iter().find(|(_, to, _, _)| to == name);
        if let Some((staged, _, begun, ended)) = renamed {
            let is_link = self.made.iter().any(|(made, _)| made == staged);
            if !is_link {
                let written = self.written.get(staged).copied();
                // An empty file gets at least its mode and time.
                let written = written.unwrap_or_else(|| panic!("{name} was never written"));
                assert!(written < *begun, "{name} was written to after it had its name");
                assert!(
                    self.is_synced(staged, written, *begun),
                    "{name} was not synced before it was renamed"
                );
            }
            assert!(
                self.is_synced(&folder(name), *ended, stored_at),
                "the folder of {name} was not synced after the rename and before `stored`"
            );
        } else if self.before.get(name).is_some_and(|what| what != "folder") {
            // Skipped as identical: its writer may not have synced it.
            assert!(
                self.is_synced(name, 0, stored_at) || self.before[name].starts_with("->"),
                "{name} was not synced"
            );
            assert!(self.is_synced(&folder(name), 0, stored_at), "the folder of {name} was not synced");
        } else {
            // Only directories are created under their final name.
            let made = self.made.iter().any(|(made, _)| made == name);
            assert!(made || self.before.contains_key(name), "{name} is stored, but was never made");
            let set = self.written.get(name).copied().unwrap_or(0);
            assert!(
                self.is_synced(name, set, stored_at),
                "the folder {name} was not synced with its mode and time"
            );
        }
        // The directories above it are entries of directories as well.
        let mut above = name.to_owned();
        while above != out {
            let made =
                self.made.iter().find(|(made, _)| *made == above && renamed.is_none_or(|r| r.0 != above));
            // An existing directory may have been created by a session that has not synced it yet.
            let before = self.before.contains_key(&above).then_some(0);
            if let Some(since) = made.map(|(_, made)| *made).or(before) {
                assert!(
                    self.is_synced(&folder(&above), since, stored_at),
                    "the folder that {above} is in was not synced before `stored` of {name}"
                );
            }
            above = folder(&above);
        }
    }
}

/// Sends `from/t` to a receiver under strace; returns the number of checked entries.
fn trace_transfer(from: &Path, policy: &str, prepare: impl FnOnce(&Path)) -> usize {
    trace_faulty_transfer(from, policy, None, prepare)
}

/// The same with a fault injected by strace.
fn trace_faulty_transfer(
    from: &Path,
    policy: &str,
    fault: Option<&str>,
    prepare: impl FnOnce(&Path),
) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let (out, trace) = (dir.path().join("out"), dir.path().join("trace"));
    fs::create_dir(&out).unwrap();
    prepare(&out);
    let out = out.canonicalize().unwrap();
    let before = contents(&out).into_iter().map(|(name, what)| (format!("{}/{name}", out.display()), what));
    let before = before.collect();
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-xx", "-s", "4096", "-o"]).arg(&trace);
    command.args(["-e", "trace=!recvfrom,read,pread64,futex,mmap,munmap,ppoll,poll,getrandom"]);
    command.args(fault.iter().flat_map(|fault| ["-e", fault])).arg(FTX);
    let receiver = Receiver::spawn(command, "127.0.0.1", &out, &["--once", "--on-conflict", policy]);
    let observed = Arc::new(Mutex::new(ObservedEntries::default()));
    let observing = Arc::clone(&observed);
    let proxy = Proxy::start(receiver.port, move |piece| {
        if let Some(frame) = piece.frame {
            observing.lock().unwrap().record(frame);
        }
        Action::Pass
    });
    let sent = send(&[], &[&from.join("t")], &proxy.host());
    let received = receiver.wait();
    drop(proxy);
    assert_eq!((sent.code, received.code), (0, 0), "{sent:?} {received:?}");
    let observed = observed.lock().unwrap();
    let calls = parse_trace(&fs::read_to_string(&trace).unwrap());
    let timeline = Timeline { before, ..Timeline::new(&calls) };
    let checked = timeline.check(out.to_str().unwrap(), &observed.names);
    assert_eq!(checked, observed.names.len(), "every entry was announced, stored, and is in the trace");
    checked
}

#[test]
fn files_are_synced_renamed_and_their_directories_synced_before_stored() {
    if !can_trace("durability_order, system calls") {
        return;
    }
    let mut random = Random::new(7);
    let mut checked = 0;
    let all = rounds(1);
    for _ in 0..all {
        let from = tempfile::tempdir().unwrap();
        // A tree in one batch; then a few files, which are synced one by one.
        make_tree(&from.path().join("t"), &mut random);
        checked += trace_transfer(from.path(), "skip-same", |_| {});
        let few = tempfile::tempdir().unwrap();
        fs::create_dir_all(few.path().join("t/d")).unwrap();
        fs::write(few.path().join("t/d/small"), random.bytes(100)).unwrap();
        fs::write(few.path().join("t/large"), random.bytes(2 * PART_BYTES as usize)).unwrap();
        checked += trace_transfer(few.path(), "skip-same", |_| {});
        // Replacing existing files.
        checked += trace_transfer(few.path(), "overwrite", |out| {
            fs::create_dir_all(out.join("t/d")).unwrap();
            fs::write(out.join("t/large"), "something else").unwrap();
        });
        // Identical files exist already.
        checked += trace_transfer(few.path(), "skip-same", |out| {
            let copied = Command::new("cp").arg("-a").arg(few.path().join("t")).arg(out).status();
            assert!(copied.unwrap().success());
        });
    }
    // Another session creates the directories between lookup and creation.
    let folders = tempfile::tempdir().unwrap();
    fs::create_dir_all(folders.path().join("t/d")).unwrap();
    fs::write(folders.path().join("t/d/small"), "small").unwrap();
    let not_yet_there = Some("inject=openat2:error=ENOENT");
    checked += trace_faulty_transfer(folders.path(), "skip-same", not_yet_there, |out| {
        fs::create_dir_all(out.join("t/d")).unwrap();
    });
    report_figures(&format!("order of system calls: {all} rounds, {checked} entries in order"));
}

/// A file system on an image file, unmounted when dropped.
struct Disk {
    image: PathBuf,
    folder: PathBuf,
}

impl Disk {
    fn new(dir: &Path) -> Option<Self> {
        let disk = Disk { image: dir.join("image"), folder: dir.join("disk") };
        fs::File::create(&disk.image).ok()?.set_len(96 << 20).ok()?;
        fs::create_dir(&disk.folder).ok()?;
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image).status();
        let made = made.is_ok_and(|status| status.success());
        // Write-back starts only after minutes, so that data in the image was synced explicitly.
        (made && mount(&disk.image, &disk.folder, "loop,commit=600")).then_some(disk)
    }
}

/// Copies an image without what has not been written back.
fn lose_what_is_not_in(image: &Path, to: &Path) {
    fs::copy(image, to).unwrap();
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.folder);
    }
}

fn mount(image: &Path, folder: &Path, options: &str) -> bool {
    let mounted = Command::new("mount").args(["-t", "ext4", "-o", options]).args([image, folder]).output();
    mounted.is_ok_and(|output| output.status.success())
}

fn unmount(folder: &Path) {
    let _ = Command::new("umount").arg(folder).output();
}

/// Mounts a copied image, which replays its journal, and runs `look` on it.
fn recovered<T>(image: &Path, look: impl FnOnce(&Path) -> T) -> T {
    struct Mounted(tempfile::TempDir);
    impl Drop for Mounted {
        fn drop(&mut self) {
            unmount(self.0.path());
        }
    }
    let folder = Mounted(tempfile::tempdir().unwrap());
    assert!(mount(image, folder.0.path(), "loop"), "the file system itself did not survive");
    look(folder.0.path())
}

/// Stops a program and waits until all of its threads have stopped, so that no write is in progress.
fn freeze(pid: rustix::process::Pid) {
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    until("all threads to stop", || {
        let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
        threads.flatten().all(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat"));
            // A thread that has ended has no stat file.
            stat.map_or(true, |stat| {
                stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['T', 'Z', 'X']))
            })
        })
    });
}

fn thaw(pid: rustix::process::Pid) {
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
}

/// One transfer to a disk image, copied at `stored` frame number `at` and at the end. Returns the number of entries that
/// were stored at the first copy; `None` where no image can be mounted.
fn lose_power(at: u64, random: &mut Random) -> Option<usize> {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    make_tree(&from.join("t"), random);
    // More than one batch of 512 entries.
    fs::create_dir(from.join("t/many")).unwrap();
    for number in 0..1200 {
        let size = random.below(300) as usize;
        fs::write(from.join(format!("t/many/{number}")), random.bytes(size)).unwrap();
    }
    let whole = contents(&from);
    let disk = Disk::new(dir.path())?;
    let (early, late) = (dir.path().join("early"), dir.path().join("late"));
    let receiver = Receiver::start(&disk.folder, &[]);
    let pid = receiver.pid();
    let observed = Arc::new(Mutex::new(ObservedEntries::default()));
    let stored_early = Arc::new(Mutex::new(None));
    let (observing, storing) = (Arc::clone(&observed), Arc::clone(&stored_early));
    let (image, copy) = (disk.image.clone(), early.clone());
    let mut left = at;
    let proxy = Proxy::start(receiver.port, move |piece| {
        let mut observed = observing.lock().unwrap();
        let is_stored = piece.frame.is_some_and(|frame| observed.record(frame));
        if is_stored && piece.way == Way::ToSender {
            left = left.saturating_sub(1);
            if left == 0 && storing.lock().unwrap().is_none() {
                freeze(pid);
                lose_what_is_not_in(&image, &copy);
                *storing.lock().unwrap() = Some(observed.stored.clone());
                thaw(pid);
            }
        }
        Action::Pass
    });
    let sent = send(&[], &[&from.join("t")], &proxy.host());
    lose_what_is_not_in(&disk.image, &late);
    assert_eq!(sent.code, 0, "{sent:?}");
    receiver.kill();
    drop(proxy);
    recovered(&late, |folder| {
        assert!(listing(&folder.join("t")) == listing(&from.join("t")), "lost after 0")
    });
    let stored = stored_early.lock().unwrap().take().unwrap_or_default();
    if early.exists() {
        recovered(&early, |folder| {
            let after = contents(folder);
            for name in &stored {
                assert_eq!(after.get(name), whole.get(name), "{name:?} was stored and is lost");
            }
            for (name, what) in after.iter().filter(|(name, _)| !is_staged(name) && *name != "lost+found") {
                assert_eq!(Some(what), whole.get(name), "{name:?} has its name and is not whole");
            }
        });
    }
    Some(stored.len())
}

#[test]
fn stored_entries_survive_power_loss() {
    let mut random = Random::new(8);
    let (mut lost_powers, mut stored) = (0, 0);
    let all = rounds(3);
    for round in 0..all {
        match lose_power(1 + round as u64 % 5, &mut random) {
            Some(count) => {
                lost_powers += 2;
                stored += count;
            }
            None => {
                return not_run(
                    "durability_order, loss of power",
                    "no ext4 on a loop device can be mounted here",
                );
            }
        }
    }
    report_figures(&format!(
        "loss of power: {lost_powers} images, {stored} entries stored before the early ones, none lost"
    ));
}

#[test]
fn unsynced_files_are_lost_with_power() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path()) else {
        return not_run("durability_order, the control", "no ext4 on a loop device can be mounted here");
    };
    let (from, image) = (dir.path().join("from"), dir.path().join("copy"));
    make_tree(&from, &mut Random::new(9));
    let copied = Command::new("cp").arg("-a").arg(&from).arg(&disk.folder).status().unwrap();
    assert!(copied.success());
    assert_eq!(contents(&disk.folder.join("from")), contents(&from));
    lose_what_is_not_in(&disk.image, &image);
    let survived = recovered(&image, |folder| {
        folder.join("from").exists() && contents(&folder.join("from")) == contents(&from)
    });
    assert!(!survived, "an unsynced copy survived: these images do not lose what a loss of power loses");
}
