//! A session without a receiver, for tests of single threads.

use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::announcer;
use super::carry_over::CarryOver;
use super::entry::InFlightEntry;
use super::part_batch::{LoadedPart, PartBody};
use super::state::SessionShared;
use crate::digest::{Md5, PartRange};
use crate::event::NullReporter;
use crate::md5sum::FileHasher;
use crate::net::{IdleTimer, TimedWriter};
use crate::relpath::{NamePolicy, RelPath};
use crate::source::{Source, StateKey};
use crate::sync::CancelToken;
use crate::wire::sender::Job;

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs `test` with the state of a session that has no connection.
pub fn with_shared(test: impl FnOnce(&SessionShared<'_>)) {
    let (control_tx, _control_rx) = bounded(1);
    let (hasher, cancel) = (FileHasher::new(false, &NullReporter), CancelToken::new().unwrap());
    let mut carry_over = CarryOver::default();
    let shared =
        SessionShared::new(control_tx, &mut carry_over, &NullReporter, &hasher, TEST_TIMEOUT, &cancel);
    test(&shared.unwrap());
}

/// Announces a file as the only entry, and handles a `want` frame for its `parts`.
pub fn announce(shared: &SessionShared<'_>, path: &Path, parts: &str) -> Arc<Source> {
    let name = RelPath::new(b"a", NamePolicy::Strict).unwrap();
    let source =
        Arc::new(Source::new(path.to_owned(), name, &crate::sys::stat::FileStat::of_path(path).unwrap()));
    let mut state = shared.lock();
    state.session.handle(br#"{"ftx":"welcome","version":1}"#).unwrap();
    let entry = InFlightEntry::file(Arc::clone(&source));
    announcer::announce(&mut state, entry, &StateKey::of_this_process(), &NullReporter);
    let want = format!(r#"{{"ftx":"want","entries":[[0,0]],"parts":"{parts}"}}"#);
    state.session.handle(want.as_bytes()).unwrap();
    source
}

/// Writes the first byte of a file again: its content is the same, and its modification time is not.
pub fn rewrite(source: &Source, path: &Path) {
    if let Some(time) = source.unsettled_for() {
        thread::sleep(time);
    }
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut first = [0];
    file.read_exact_at(&mut first, 0).unwrap();
    file.write_all_at(&first, 0).unwrap();
}

/// The first `len` bytes of a file, as its first part.
pub fn part(source: &Arc<Source>, len: u64, md5: Md5, body: PartBody) -> LoadedPart {
    let range = PartRange { offset: 0, len };
    let job = Job { entry: 0, part: 0, range, wants_body: true, is_unasked: false };
    LoadedPart { job, md5, body, source: Arc::clone(source) }
}

/// The bytes that `write` writes to a connection.
pub fn written(
    shared: &SessionShared<'_>,
    write: impl FnOnce(&mut BufWriter<TimedWriter>) -> io::Result<()>,
) -> Vec<u8> {
    let (mut peer, connection) = crate::net::tests::tcp_pair();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).map(|_| bytes)
    });
    let writer = TimedWriter::new(connection, IdleTimer::new(TEST_TIMEOUT), shared.cancel.clone());
    let mut writer = BufWriter::new(writer);
    write(&mut writer).and_then(|()| writer.flush()).unwrap();
    drop(writer);
    reader.join().unwrap().unwrap()
}
