//! Some names have one place: the operating system, sockets, locks. And every thread has a name.

use super::allowed::{Offenders, check};
use super::source::{SourceFile, identifiers, sources, tree};

/// (names or paths, the only folders whose production code may name them).
const PLACES: [(&[&str], &[&str]); 4] = [
    (&["rustix", "nix", "libc", "std::os", "target_os", "target_family"], &["src/sys"]),
    (&["TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener", "socket2"], &["src/net"]),
    (&["SocketAddr"], &["src/net", "src/report", "src/ui", "src/app"]),
    (&["PoisonError"], &["src/sync"]),
];

/// What starts a thread without a name.
const STARTS: [&str; 2] = ["thread::spawn(", "scope.spawn("];

pub fn offenders() -> Offenders {
    misplaced(&sources("src"))
}

/// An offender is a file and a name, its number the lines with it.
fn misplaced(files: &[SourceFile]) -> Offenders {
    let mut offenders = Offenders::default();
    for file in files.iter().filter(|file| !file.is_test) {
        let places =
            PLACES.iter().filter(|(_, folders)| !folders.iter().any(|folder| is_in(&file.path, folder)));
        for (name, folders) in
            places.flat_map(|(names, folders)| names.iter().map(move |name| (name, folders)))
        {
            for (number, _) in file.numbered().filter(|(_, line)| mentions(line, name)) {
                let detail = format!("{}:{number}: belongs to {}", file.path, folders.join(", "));
                offenders.add(format!("{} {name}", file.path), 1, detail);
            }
        }
    }
    offenders
}

/// The file is the module or below it: `src/sys.rs`, `src/sys/unix.rs`.
fn is_in(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

/// A line has the name as a whole identifier, or the path.
fn mentions(line: &str, name: &str) -> bool {
    identifiers(line).any(|identifier| identifier == name) || (name.contains("::") && line.contains(name))
}

pub fn unnamed_threads() -> Offenders {
    unnamed(&sources("src"))
}

fn unnamed(files: &[SourceFile]) -> Offenders {
    let mut offenders = Offenders::default();
    for file in files.iter().filter(|file| !file.is_test) {
        for (number, line) in file.numbered() {
            let build = line.split_once("thread::Builder::new()").map(|(_, rest)| rest);
            let is_unnamed = build.is_some_and(|rest| !builds_name(rest, &file.production[number..]));
            if is_unnamed || STARTS.iter().any(|start| line.contains(start)) {
                offenders.add(&file.path, 1, format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    offenders
}

/// The call that follows a thread builder, on its line or the next, names the thread.
fn builds_name(rest: &str, next: &[String]) -> bool {
    let call = if rest.is_empty() { next.first().map_or("", |line| line.trim()) } else { rest };
    call.starts_with(".name(")
}

#[test]
fn names_stay_in_their_places() {
    check("places");
}

#[test]
fn threads_have_names() {
    check("unnamed-threads");
}

#[test]
fn these_fences_can_fail() {
    let text =
        "use rustix::fs;\nuse std::os::fd;\n// libc\nfn f(a: SocketAddr) { let nixie = \"TcpStream\"; }\n";
    let found = |path| misplaced(&tree([(path, text)])).numbers().into_keys().collect::<Vec<_>>();
    assert_eq!(found("src/sys/unix.rs"), ["src/sys/unix.rs SocketAddr"]);
    assert_eq!(found("src/net/a.rs"), ["src/net/a.rs rustix", "src/net/a.rs std::os"]);
    assert_eq!(found("src/network.rs").len(), 3);

    let text = "thread::Builder::new()\n    .name(a)\nthread::Builder::new().spawn(f)\nthread::spawn(f)\ntempfile::Builder::new()\n";
    assert_eq!(unnamed(&tree([("src/a.rs", text)])).numbers()["src/a.rs"], 2);
}
