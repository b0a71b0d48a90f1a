//! What the threads of a native sender share.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rustix::rand::{GetRandomFlags, getrandom};

use super::super::SendError;
use super::CarryOver;
use super::byte_ledger::ByteLedger;
use super::receive_loop::report_failed;
use super::source_file::SourceFile;
use crate::busy_time::{Bottleneck, BusyTime, Stopwatch};
use crate::digest::{Md5, PART_BYTES, PartDigests};
use crate::error_code::ErrorCode;
use crate::event::{Event, Reporter, Summary};
use crate::md5sum::FileHasher;
use crate::net::{Connection, Shutdown};
use crate::relpath::{LinkTarget, RelPath};
use crate::source::{ReadError, Source, StateKey};
use crate::sync::CancelToken;
use crate::units::Metadata;
use crate::wire::message::Receipt;
use crate::wire::sender::SenderSession;
use crate::wire::{EntryId, SessionId, WireError};

/// Output of the session that may wait before the writer is told, and for how long: a frame each would cost more system
/// calls than all the rest.
const FLUSH_BYTES: usize = 32 << 10;
const FLUSH_AGE: Duration = Duration::from_millis(2);

/// The session and everything that goes with it, and a bell that rings when any of it changed.
pub struct SessionShared<'a> {
    state: Mutex<SessionState>,
    changed: Condvar,
    /// Tells the first connection's writer that the session has something to say.
    control_tx: Sender<()>,
    pub progress: &'a dyn Reporter,
    /// Tells of the files that are stored.
    hasher: &'a FileHasher<'a, SourceFile>,
    /// Entries of earlier sessions, whose numbers the lister may still know.
    listed_before: u64,
    pub timeout: Duration,
    /// Rung when the program is to end.
    pub cancel: &'a CancelToken,
    /// The loader: reading, and digests.
    pub reading: Stopwatch,
    pub md5: Stopwatch,
    /// Writers with their connections.
    pub writing: Stopwatch,
}

pub struct SessionState {
    pub session: SenderSession,
    /// Entries in flight.
    pub announced: HashMap<EntryId, InFlightEntry>,
    pub summary: Summary,
    /// See [`Remainder::kept_bytes`].
    pub kept_bytes: u64,
    pub outcome: Option<Result<(), SendError>>,
    /// How long the receiver's first answer took, and whether it takes further connections.
    pub welcome: Option<(Duration, bool)>,
    /// Nothing more will be said: the writer may end.
    pub is_closing: bool,
    pub receipt: Option<Receipt>,
    /// Connections that joined.
    joined: Vec<Connection>,
    began: Instant,
    /// When anything was last given to the writer.
    last_output: Instant,
}

impl SessionState {
    /// Announces an entry, for the first time or again.
    pub fn announce(&mut self, mut announced: InFlightEntry, key: &StateKey, progress: &dyn Reporter) {
        let id = match &mut announced {
            InFlightEntry::File { source, digests, .. } => {
                // Only files of several parts can be taken up again.
                let tell = |reason: &str| progress.report(Event::NoStateKey { reason });
                let state = (source.size_bytes > PART_BYTES).then(|| source.state_digest(key, tell));
                let Source { name, size_bytes, is_sparse, metadata, .. } = &**source;
                let id = self.session.announce_file(name, *size_bytes, *is_sparse, state, *metadata);
                self.session.set_digests(id, std::mem::take(digests));
                id
            }
            InFlightEntry::Dir(name, metadata) => self.session.announce_dir(name, *metadata),
            InFlightEntry::Link { name, target, metadata } => {
                self.session.announce_link(name, target.as_bytes(), *metadata)
            }
        };
        self.announced.insert(id, announced);
    }

    /// How long until the receiver needs a sign of life; says it when the time has come.
    fn keepalive(&mut self, pulse: Duration) -> Duration {
        if self.last_output.elapsed() >= pulse {
            self.session.keepalive();
            self.last_output = Instant::now();
        }
        pulse.saturating_sub(self.last_output.elapsed())
    }
}

/// What went out so far.
pub struct SentBytes {
    pub bytes: u64,
    /// The time that writers spent with connections, all writers together.
    pub writing: Duration,
}

/// An entry in flight, as this side knows it.
pub enum InFlightEntry {
    /// The MD5 is that of a file of one part, once this was hashed; the digests are those of parts that an earlier session
    /// of this transfer hashed.
    File {
        source: Arc<Source>,
        transferred: ByteLedger,
        already_there: bool,
        md5: Option<Md5>,
        digests: PartDigests,
    },
    Dir(RelPath, Metadata),
    Link {
        name: RelPath,
        target: LinkTarget,
        metadata: Metadata,
    },
}

impl InFlightEntry {
    pub fn file(source: Arc<Source>) -> Self {
        InFlightEntry::File {
            source,
            transferred: ByteLedger::default(),
            already_there: false,
            md5: None,
            digests: PartDigests::new(),
        }
    }

    pub fn name(&self) -> &RelPath {
        match self {
            InFlightEntry::File { source, .. } => &source.name,
            InFlightEntry::Dir(name, _) | InFlightEntry::Link { name, .. } => name,
        }
    }
}

impl<'a> SessionShared<'a> {
    pub fn new(
        control_tx: Sender<()>,
        left: &mut CarryOver,
        progress: &'a dyn Reporter,
        hasher: &'a FileHasher<'a, SourceFile>,
        timeout: Duration,
        cancel: &'a CancelToken,
    ) -> Result<Self, SendError> {
        let mut random = [0; 16];
        getrandom(&mut random, GetRandomFlags::empty())
            .map_err(|errno| SendError::Connection(errno.into()))?;
        let now = Instant::now();
        let state = SessionState {
            session: SenderSession::new(SessionId::new(random), left.last_session),
            announced: HashMap::new(),
            summary: Summary { confirmed: true, ..std::mem::take(&mut left.summary) },
            kept_bytes: 0,
            outcome: None,
            welcome: None,
            is_closing: false,
            receipt: None,
            joined: Vec::new(),
            began: now,
            last_output: now,
        };
        Ok(SessionShared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            control_tx,
            progress,
            hasher,
            listed_before: left.announced_before,
            timeout,
            cancel,
            reading: Stopwatch::default(),
            md5: Stopwatch::default(),
            writing: Stopwatch::default(),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed that others wait for.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Ends the session; the first outcome counts.
    pub fn end(&self, outcome: Result<(), SendError>) {
        self.lock().outcome.get_or_insert(outcome);
        self.notify();
    }

    /// Waits until the bell rings or the time is up.
    pub fn wait<'s>(
        &self,
        state: MutexGuard<'s, SessionState>,
        limit: Duration,
    ) -> MutexGuard<'s, SessionState> {
        self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// What the session has to say, to be sent, and whether that is the last of it; rings, because there is room for
    /// more now.
    pub fn take_output(&self) -> (Vec<u8>, bool) {
        let mut state = self.lock();
        let output = state.session.take_output();
        if !output.is_empty() {
            state.last_output = Instant::now();
            self.notify();
        }
        (output, state.is_closing)
    }

    /// Has the writer send what the session has to say.
    pub fn wake_writer(&self) {
        // If the queue is full, the writer knows already. If it is gone, the ear finds out why.
        let _ = self.control_tx.try_send(());
    }

    /// Waits until another entry may be announced; `None` when the session is over. The receiver gets a sign of life
    /// meanwhile, whatever rings the bell in between.
    pub fn wait_for_room(&self, pulse: Duration) -> Option<MutexGuard<'_, SessionState>> {
        let mut state = self.lock();
        loop {
            if state.outcome.is_some() {
                return None;
            }
            if state.session.has_room() && state.session.output_len() < FLUSH_BYTES {
                if state.session.output_len() > 0 && state.last_output.elapsed() >= FLUSH_AGE {
                    self.wake_writer();
                }
                return Some(state);
            }
            state = self.wait_with_keepalive(state, pulse);
        }
    }

    /// Gives the receiver a sign of life if it is time for one; `false` when the session is over.
    pub fn keepalive(&self, pulse: Duration) -> bool {
        let mut state = self.lock();
        state.keepalive(pulse);
        let (goes_on, speaks) = (state.outcome.is_none(), state.session.output_len() > 0);
        drop(state);
        if speaks {
            self.wake_writer();
        }
        goes_on
    }

    /// Waits for the receipt or a failure, with signs of life.
    pub fn wait_for_the_end(&self, pulse: Duration) {
        let mut state = self.lock();
        while state.outcome.is_none() {
            state = self.wait_with_keepalive(state, pulse);
        }
    }

    /// Waits until the session is over, and not longer than `limit`.
    pub fn wait_for_outcome(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while state.outcome.is_none() && Instant::now() < end {
            state = self.wait(state, end.saturating_duration_since(Instant::now()));
        }
    }

    /// Has said what there is to say, and waits for the bell or the next sign of life.
    fn wait_with_keepalive<'s>(
        &'s self,
        mut state: MutexGuard<'s, SessionState>,
        pulse: Duration,
    ) -> MutexGuard<'s, SessionState> {
        let until_pulse = state.keepalive(pulse);
        if state.session.output_len() > 0 {
            self.wake_writer();
        }
        self.wait(state, until_pulse)
    }

    /// The receiver answered: the session can begin.
    pub fn welcomed(&self, state: &mut SessionState, takes_streams: bool) {
        state.welcome = Some((state.began.elapsed(), takes_streams));
    }

    /// One more connection belongs to the session; `false` when that is over.
    pub fn add_joined(&self, stream: Connection) -> bool {
        let mut state = self.lock();
        let goes_on = state.outcome.is_none();
        if goes_on {
            state.joined.push(stream);
        }
        goes_on
    }

    /// What went out so far, and the time that it took the writers.
    pub fn record_sent(&self) -> SentBytes {
        let bytes = self.lock().summary.moved_bytes;
        SentBytes { bytes, writing: self.writing.spent() }
    }

    /// Ends all waits for a connection.
    pub fn close_all(&self) {
        let mut state = self.lock();
        state.is_closing = true;
        for stream in &state.joined {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.wake_writer();
        self.notify();
    }

    /// Has this side found a reason to end the session that the receiver does not know? Then it is told, once.
    pub fn send_error(&self) -> bool {
        let mut state = self.lock();
        if state.is_closing {
            return true;
        }
        let (fault, reason) = match &state.outcome {
            Some(Err(SendError::Wire(WireError::PeerGaveUp { .. }))) => return false,
            Some(Err(error @ SendError::Wire(WireError::Version { .. }))) => {
                (ErrorCode::Version, error.to_string())
            }
            Some(Err(error @ SendError::Wire(_))) => (ErrorCode::Protocol, error.to_string()),
            Some(Err(error @ SendError::StoredOther { .. })) => (ErrorCode::Digest, error.to_string()),
            Some(Err(
                error @ (SendError::Silent(_) | SendError::HeaderTimeout(_) | SendError::Stalled(_)),
            )) => (ErrorCode::Timeout, error.to_string()),
            Some(Err(error @ SendError::Interrupted)) => (ErrorCode::Interrupted, error.to_string()),
            _ => return false,
        };
        state.session.give_up(fault, &reason);
        state.is_closing = true;
        drop(state);
        self.wake_writer();
        true
    }

    /// How it went; what is not settled stays in `left`.
    pub fn into_outcome(self, left: &mut CarryOver) -> Result<(), SendError> {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ms = |time: Duration| time.as_millis() as u64;
        let writers = 1 + state.joined.len() as u32;
        let spent = BusyTime {
            disk_ms: ms(self.reading.spent()),
            md5_ms: ms(self.md5.spent()),
            network_ms: ms(self.writing.spent() / writers),
        };
        let receiver = state.receipt.and_then(|receipt| receipt.spent);
        let elapsed = state.began.elapsed();
        state.summary.limit = receiver.and_then(|receiver| Bottleneck::of_sender(spent, receiver, elapsed));
        let unconfirmed = state.announced.len() as u64;
        let mut unsettled: Vec<(EntryId, InFlightEntry)> = state.announced.drain().collect();
        unsettled.sort_unstable_by_key(|(id, _)| *id);
        for (id, announced) in &mut unsettled {
            self.hasher.on_dropped(self.listed_before + *id);
            if let InFlightEntry::File { transferred, already_there, digests, .. } = announced {
                transferred.lost();
                *already_there = false;
                *digests = state.session.take_digests(*id);
            }
        }
        left.put_back(unsettled.into_iter().map(|(_, announced)| announced));
        left.announced_before += state.session.announced();
        left.last_session = Some(state.session.id());
        left.summary = state.summary;
        left.kept_bytes += state.kept_bytes;
        state.outcome.unwrap_or(Err(SendError::Closed { unconfirmed }))
    }

    /// A file cannot be sent as it was announced: the receiver keeps nothing of it, and the user hears why.
    pub fn withdraw(&self, state: &mut SessionState, entry: EntryId, error: &ReadError) {
        self.withdraw_for(state, entry, error.fault(), &error.to_string());
    }

    /// The same for any reason.
    pub fn withdraw_for(&self, state: &mut SessionState, entry: EntryId, fault: ErrorCode, reason: &str) {
        if state.session.withdraw(entry, fault, reason)
            && let Some(mut announced) = state.announced.remove(&entry)
        {
            self.list_dropped(entry);
            report_failed(self, state, &mut announced, fault, reason);
        }
    }

    /// An entry will not be listed.
    pub fn list_dropped(&self, id: EntryId) {
        self.hasher.on_dropped(self.listed_before + id);
    }

    /// A file is stored, and may be listed.
    pub fn list_stored(&self, id: EntryId, path: &[u8], md5: Option<Md5>, there_bytes: Option<u64>) {
        self.hasher.on_stored(self.listed_before + id, path, md5, there_bytes);
    }

    /// All of a file is to be hashed.
    pub fn list_begin(&self, id: EntryId, size_bytes: u64, whole: impl FnOnce() -> SourceFile) {
        self.hasher.on_start(self.listed_before + id, size_bytes, size_bytes, whole);
    }

    /// Waits until the list takes more.
    pub fn wait_for_list(&self) {
        self.hasher.wait_for_capacity();
    }
}
