//! **Promised: nothing is written outside the output directory, and nothing is overwritten unless asked**, under
//! concurrent changes.
//!
//! - A racer exchanges the directories that files arrive in for links that lead outside, in a loop. Files outside keep
//!   their bytes, names and times. If the receiver followed a link in a directory's path, or checked before it opened, it
//!   would write outside within a few rounds.
//! - Two senders send different content under the same names, to one receiver and to two with the same directory. For each
//!   name one of them stores its complete file and the other one gets 23; an observer sees only one of the two files under
//!   the final name. If files were committed by a rename that replaces, both would end with 0.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::proofs::{Random, contents, is_staged, report_figures, rounds};
use crate::common::{Ended, Receiver, end, listing, send, start_send};
use ftx::digest::PART_BYTES;
use rustix::fs::{CWD, RenameFlags, renameat_with};

const FOLDERS: usize = 6;
const FILES: usize = 40;

/// Exchanges each directory with the link beside it, back and forth, until `stop`; then all directories are in place
/// again. Returns the number of exchanges.
fn swap_until(stop: &AtomicBool, pairs: &[(PathBuf, PathBuf)]) -> usize {
    let mut swaps = vec![0; pairs.len()];
    let swap = |(folder, link): &(PathBuf, PathBuf)| {
        renameat_with(CWD, folder, CWD, link, RenameFlags::EXCHANGE).is_ok()
    };
    while !stop.load(Ordering::Relaxed) {
        for (pair, count) in pairs.iter().zip(&mut swaps) {
            *count += usize::from(swap(pair));
        }
    }
    for (pair, count) in pairs.iter().zip(&swaps) {
        if count % 2 == 1 {
            assert!(swap(pair), "{pair:?}");
        }
    }
    swaps.iter().sum()
}

/// Which directories are exchanged.
#[derive(Clone, Copy, Debug)]
enum Level {
    Top,
    Below,
    Deepest,
}

/// One transfer of many small files with a racer. Returns the sender's code and the number of exchanges.
fn race_for_the_outside(level: Level, policy: &str, folders_are_there: bool) -> (i32, usize) {
    let dir = tempfile::tempdir().unwrap();
    let (from, out, outside) = (dir.path().join("from"), dir.path().join("out"), dir.path().join("outside"));
    // A copy of the tree outside, which a misled transfer would overwrite.
    for (root, content) in [(from.join("t"), "sent"), (outside.clone(), "canary")] {
        for folder in 0..FOLDERS {
            fs::create_dir_all(root.join(format!("d{folder}/deeper"))).unwrap();
            for file in 0..FILES {
                fs::write(root.join(format!("d{folder}/{file}")), content).unwrap();
            }
            fs::write(root.join(format!("d{folder}/deeper/file")), content).unwrap();
            symlink("deeper/file", root.join(format!("d{folder}/link"))).unwrap();
        }
    }
    // The links are inside the root, so that exchanged directories stay inside.
    let mut pairs = Vec::new();
    fs::create_dir_all(out.join("aside")).unwrap();
    // One level at a time, so that the racer does not reach a directory over one of its own links.
    let swapped: Vec<_> = match level {
        Level::Top => vec![("t".to_owned(), outside.clone())],
        Level::Below => (0..FOLDERS).map(|n| (format!("t/d{n}"), outside.join(format!("d{n}")))).collect(),
        Level::Deepest => {
            (0..FOLDERS).map(|n| (format!("t/d{n}/deeper"), outside.join(format!("d{n}/deeper")))).collect()
        }
    };
    for (number, (name, leads_to)) in swapped.into_iter().enumerate() {
        let link = out.join("aside").join(number.to_string());
        symlink(leads_to, &link).unwrap();
        if folders_are_there {
            fs::create_dir_all(out.join(&name)).unwrap();
        }
        pairs.push((out.join(name), link));
    }
    let canaries = listing(&outside);
    let receiver = Receiver::start(&out, &["--once", "--on-conflict", policy]);
    let stop = AtomicBool::new(false);
    let (sent, received, swaps) = thread::scope(|scope| {
        let racer = scope.spawn(|| swap_until(&stop, &pairs));
        let sent = send(&[], &[&from.join("t")], &receiver.host());
        let received = receiver.wait();
        stop.store(true, Ordering::Relaxed);
        (sent, received, racer.join().unwrap())
    });
    let outside_now = listing(&outside);
    let changed: Vec<_> = outside_now.iter().filter(|line| !canaries.contains(line)).collect();
    assert!(
        changed.is_empty() && outside_now.len() == canaries.len(),
        "something was done outside: {changed:?}"
    );
    assert!(!received.stderr.contains("panicked"), "{received:?}");
    if sent.code == 0 {
        // Existing directories keep their mode and time.
        let files_of = |root: &Path| -> Vec<String> {
            listing(&root.join("t")).into_iter().filter(|line| !line.ends_with("folder")).collect()
        };
        assert!(files_of(&out) == files_of(&from), "exit code 0 with missing entries");
    }
    (sent.code, swaps)
}

#[test]
fn nothing_is_written_outside_while_directories_become_links() {
    let (mut swaps, mut stopped) = (0, 0);
    let all = rounds(12);
    for round in 0..all {
        let policy = ["skip-same", "overwrite", "rename"][round % 3];
        let level = [Level::Below, Level::Below, Level::Top, Level::Deepest][round % 4];
        let (code, count) = race_for_the_outside(level, policy, round % 8 < 4);
        swaps += count;
        stopped += usize::from(code != 0);
    }
    assert!(swaps > all * 10, "the racer did not race: {swaps} exchanges");
    assert!(stopped > 0, "no transfer ever met a link: the race was not close");
    report_figures(&format!(
        "links against folders: {all} rounds, {swaps} exchanges, {stopped} transfers were in their way"
    ));
}

/// Two senders and the receivers they send to.
struct Duel<'a> {
    sources: [&'a Path; 2],
    hosts: [String; 2],
    out: &'a Path,
}

impl Duel<'_> {
    /// Runs both while an observer reads the files under the names in a loop.
    fn run(&self) -> [Ended; 2] {
        let possible: Vec<_> = self.sources.map(contents).into();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let observer = scope.spawn(|| {
                let mut looks = 0;
                while !over.load(Ordering::Relaxed) || looks == 0 {
                    for (name, what) in contents(self.out).iter().filter(|(name, _)| !is_staged(name)) {
                        assert!(
                            possible.iter().any(|source| source.get(name) == Some(what)),
                            "{name:?} was seen as {what}"
                        );
                    }
                    looks += 1;
                }
            });
            let started: Vec<_> =
                (0..2).map(|n| start_send(&[&self.sources[n].join("t")], &self.hosts[n])).collect();
            let ended: Vec<Ended> = started.into_iter().map(end).collect();
            over.store(true, Ordering::Relaxed);
            observer.join().unwrap();
            ended.try_into().unwrap()
        })
    }
}

/// One round: two senders with these files each, one receiver or two. Returns how many names each of them won.
fn duel(sizes: &[usize], receivers: usize, random: &mut Random) -> [usize; 2] {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let sources = ["a", "b"].map(|name| dir.path().join(name));
    for source in &sources {
        fs::create_dir_all(source.join("t")).unwrap();
        for (number, size) in sizes.iter().enumerate() {
            fs::write(source.join(format!("t/{number}")), random.bytes(*size)).unwrap();
        }
    }
    let receivers: Vec<Receiver> = (0..receivers).map(|_| Receiver::start(&out, &[])).collect();
    let hosts = [receivers[0].host(), receivers[receivers.len() - 1].host()];
    let ended = Duel { sources: [&sources[0], &sources[1]], hosts, out: &out }.run();
    for receiver in receivers {
        let received = receiver.kill_and_wait();
        assert!(!received.stderr.contains("panicked"), "{received:?}");
    }
    let (result, whole) = (contents(&out), sources.each_ref().map(|source| contents(source)));
    assert_eq!(result.len(), sizes.len() + 1, "all files and no staged one: {result:?}");
    let mut won = [0; 2];
    for number in 0..sizes.len() {
        let name = format!("t/{number}");
        let winners: Vec<usize> = (0..2).filter(|n| result[&name] == whole[*n][&name]).collect();
        assert_eq!(winners.len(), 1, "{name} is neither of the two: {}", result[&name]);
        won[winners[0]] += 1;
    }
    for (ended, won) in ended.iter().zip(won) {
        let expected = if won == sizes.len() { 0 } else { 23 };
        assert_eq!(ended.code, expected, "won {won} of {}: {ended:?}", sizes.len());
        assert_eq!(
            ended.stderr.lines().filter(|line| line.starts_with("not transferred: ")).count(),
            sizes.len() - won,
            "a line for each that was lost: {ended:?}"
        );
    }
    won
}

#[test]
fn one_of_two_senders_of_a_name_wins_and_the_other_gets_23() {
    let mut random = Random::new(5);
    let mut won = [0; 2];
    let mut close = 0;
    let all = rounds(24);
    let many = [200; 60];
    for round in 0..all {
        let sizes: &[usize] = match round % 8 {
            0..3 => &[10],
            3..7 => &many,
            _ => &[PART_BYTES as usize + 100_000, 300_000, 10],
        };
        let wins = duel(sizes, 1 + round % 2, &mut random);
        close += usize::from(wins[0] > 0 && wins[1] > 0);
        won[0] += wins[0];
        won[1] += wins[1];
    }
    report_figures(&format!(
        "two under one name: {all} rounds, names won {won:?}, both won some in {close} rounds"
    ));
}

#[test]
fn same_content_under_one_name_is_no_conflict() {
    let mut random = Random::new(6);
    for round in 0..rounds(4) {
        let dir = tempfile::tempdir().unwrap();
        let (from, out) = (dir.path().join("a"), dir.path().join("out"));
        fs::create_dir_all(from.join("t")).unwrap();
        for number in 0..30 {
            fs::write(from.join(format!("t/{number}")), random.bytes(400)).unwrap();
        }
        let receivers: Vec<Receiver> = (0..1 + round % 2).map(|_| Receiver::start(&out, &[])).collect();
        let hosts = [receivers[0].host(), receivers[receivers.len() - 1].host()];
        let ended = Duel { sources: [&from, &from], hosts, out: &out }.run();
        assert_eq!(ended.each_ref().map(|ended| ended.code), [0, 0], "{ended:?}");
        receivers.into_iter().for_each(Receiver::kill);
        assert_eq!(contents(&out), contents(&from));
    }
}
