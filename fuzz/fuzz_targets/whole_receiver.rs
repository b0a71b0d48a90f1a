//! The real receiver with real files: whatever comes, nothing appears outside its folder, and under a final name there is
//! what was announced or nothing.
#![no_main]

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use ftx::digest::Md5;
use ftx::net::Bell;
use ftx::progress::{Progress, Silent, Summary};
use ftx::recv::{Observer, Options, RecvError, Server};
use ftx::relpath::NamePolicy;
use ftx::store::{OnConflict, Unfinished};
use ftx::wire::frame::{Form, encode};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    File {
        name: u8,
        content: u8,
        sparse: bool,
    },
    /// A file under a name that nobody thought of.
    OddFile {
        name: &'a str,
        content: u8,
    },
    Dir(u8),
    Link {
        name: u8,
        target: u8,
    },
    Body {
        entry: u8,
        honest: bool,
    },
    Offer {
        entry: u8,
        honest: bool,
    },
    Hole {
        entry: u8,
        parts: u8,
    },
    Withdraw(u8),
    Classic {
        name: u8,
        content: u8,
        honest: bool,
    },
    End,
    Busy,
    Raw(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    is_classic: bool,
    /// What is there already.
    before: Vec<(u8, u8)>,
    steps: Vec<Step<'a>>,
}

const NAMES: [&str; 12] =
    ["a", "b", "d/a", "d/e/f", "d", "../out", "/etc/x", "l/a", "l", "d/../../x", ".ftx-0", "\u{e9}"];
const TARGETS: [&str; 6] = ["a", "d", "..", "../..", "/etc", "d/e/../../.."];
const CONTENTS: [&[u8]; 4] = [b"", b"abc", &[0; 5000], &[7; 200_000]];

/// Sessions that began and have not ended.
static IN_WORK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

impl Observer for Counting {
    fn unfinished(&self, _: &Unfinished) {}

    fn started(&self, _: SocketAddr) -> Box<dyn Progress + '_> {
        IN_WORK.fetch_add(1, Ordering::SeqCst);
        Box::new(Silent)
    }

    fn ended(&self, _: SocketAddr, _: &Result<Summary, RecvError>) {
        IN_WORK.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One receiver for all inputs; its folder is emptied between them.
struct World {
    address: SocketAddr,
    outside: PathBuf,
    inside: PathBuf,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let outside = tempfile::Builder::new().prefix("ftx-fuzz-").tempdir_in(parent).unwrap().keep();
        let inside = outside.join("one/two/in");
        fs::create_dir_all(&inside).unwrap();
        let server = Server::start(Options {
            bind: Some([127, 0, 0, 1].into()),
            port: 0,
            out: inside.clone(),
            on_conflict: OnConflict::SkipSame,
            names: NamePolicy::Strict,
            sessions: None,
            timeout: Duration::from_secs(5),
            keep_unfinished: Duration::from_secs(3600),
            whole_digests: false,
            interrupt: Bell::new().unwrap(),
        })
        .unwrap();
        let address = server.local_addr().unwrap();
        std::thread::spawn(move || server.run(&Counting));
        World { address, outside, inside }
    })
}

fn content(index: u8) -> &'static [u8] {
    CONTENTS[usize::from(index) % CONTENTS.len()]
}

/// Everything below `root`, links not followed.
fn files(root: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(root).into_iter().flatten();
    entries.filter(|entry| !entry.file_type().is_dir()).map(|entry| entry.into_path()).collect()
}

fuzz_target!(|input: Input| {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    let world = world();
    for entry in fs::read_dir(&world.inside).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
            .unwrap();
    }
    let mut before: HashMap<PathBuf, &[u8]> = HashMap::new();
    for (name, index) in input.before.iter().take(3) {
        let path = world.inside.join(["a", "b", "d/a"][usize::from(*name) % 3]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content(*index)).unwrap();
        before.insert(path, content(*index));
    }
    // A file may only have a content that was announced for its name.
    let mut announced: HashMap<PathBuf, Vec<&[u8]>> = HashMap::new();
    let mut bytes = Vec::new();
    let mut entries: Vec<&[u8]> = Vec::new();
    if !input.is_classic {
        encode(Form::Native, br#"{"ftx":"hello","version":1}"#, &mut bytes);
    }
    let mut said_raw = false;
    for step in input.steps.iter().take(60) {
        let mut native = |json: String| encode(Form::Native, json.as_bytes(), &mut bytes);
        let number = entries.len();
        match step {
            Step::File { name, content: index, sparse } => {
                let name = NAMES[usize::from(*name) % NAMES.len()];
                let content = content(*index);
                entries.push(content);
                announced.entry(world.inside.join(name)).or_default().push(content);
                let size = content.len();
                native(format!(
                    r#"{{"ftx":"entry","entry":{number},"type":"file","filename":"{name}","size":{size},"sparse":{sparse}}}"#
                ));
            }
            Step::OddFile { name, content: index } if name.len() < 5000 => {
                let content = content(*index);
                entries.push(content);
                announced.entry(world.inside.join(name)).or_default().push(content);
                let (name, size) = (serde_json::Value::from(*name), content.len());
                native(format!(
                    r#"{{"ftx":"entry","entry":{number},"type":"file","filename":{name},"size":{size}}}"#
                ));
            }
            Step::Dir(name) => {
                let name = NAMES[usize::from(*name) % NAMES.len()];
                entries.push(b"");
                native(format!(r#"{{"ftx":"entry","entry":{number},"type":"dir","filename":"{name}"}}"#));
            }
            Step::Link { name, target } => {
                let name = NAMES[usize::from(*name) % NAMES.len()];
                let target = TARGETS[usize::from(*target) % TARGETS.len()];
                entries.push(b"");
                native(format!(
                    r#"{{"ftx":"entry","entry":{number},"type":"link","filename":"{name}","target":"{target}"}}"#
                ));
            }
            Step::Body { entry, honest } | Step::Offer { entry, honest } => {
                let Some(content) = entries.get(usize::from(*entry)) else { continue };
                let (size, md5) = (content.len(), Md5::of(content));
                let kind = if matches!(step, Step::Body { .. }) { "part" } else { "offer" };
                let md5 = if *honest { md5 } else { Md5::of(b"something else") };
                native(format!(r#"{{"ftx":"{kind}","entry":{entry},"part":0,"size":{size},"md5":"{md5}"}}"#));
                if kind == "part" {
                    bytes.extend_from_slice(content);
                }
            }
            Step::Hole { entry, parts } => {
                native(format!(r#"{{"ftx":"hole","entry":{entry},"part":0,"parts":{parts}}}"#));
            }
            Step::Withdraw(entry) => {
                native(format!(r#"{{"ftx":"error","entry":{entry},"code":"source-changed"}}"#));
            }
            Step::Classic { name, content: index, honest } => {
                let name = NAMES[usize::from(*name) % NAMES.len()];
                let content = content(*index);
                let last = name.rsplit('/').next().unwrap();
                let landing = if name.starts_with('/') { last } else { name };
                announced.entry(world.inside.join(landing)).or_default().push(content);
                let md5 = if *honest { Md5::of(content) } else { Md5::of(b"something else") };
                let json = format!(r#"{{"filename":"{name}","size":{},"md5":"{md5}"}}"#, content.len());
                encode(Form::Classic, json.as_bytes(), &mut bytes);
                bytes.extend_from_slice(content);
            }
            Step::End => native(format!(r#"{{"ftx":"end","entries":{number}}}"#)),
            Step::Busy => native(r#"{"ftx":"busy"}"#.into()),
            Step::Raw(raw) => {
                said_raw = true;
                bytes.extend_from_slice(raw);
            }
            _ => {}
        }
    }
    let mut stream = TcpStream::connect(world.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Whoever refuses it closes before the end.
    let _ = stream.write_all(&bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the receiver hangs"),
        _ => {}
    }
    // Where the connection was reset, it ends here before it does there.
    let start = Instant::now();
    while IN_WORK.load(Ordering::SeqCst) > 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "a session does not end");
        std::thread::yield_now();
    }
    for path in files(&world.outside) {
        let Ok(below) = path.strip_prefix(&world.inside) else { panic!("{} is outside", path.display()) };
        let is_link = fs::symlink_metadata(&path).unwrap().is_symlink();
        if is_link || below.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b".ftx-"))
        {
            continue;
        }
        let there = fs::read(&path).unwrap();
        let known = before.get(&path).is_some_and(|content| *content == there)
            || announced.get(&path).is_some_and(|contents| contents.contains(&&there[..]));
        assert!(known || said_raw, "{} holds {} bytes that nobody announced", path.display(), there.len());
    }
    // What was there is never overwritten unasked.
    for (path, content) in before {
        assert_eq!(fs::read(&path).unwrap(), content, "{}", path.display());
    }
});
