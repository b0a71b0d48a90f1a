//! The receiver's driver: an open port, a thread for each session, everything below one folder.

mod arrivals;
mod classic;
mod committer;
mod decider;
mod desk;
mod failed;
mod input;
mod line;
mod measure;
mod native;
mod reader;
mod sessions;
mod verifier;
mod whole;

use std::cell::Cell;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::digest::Md5;
use crate::escape::Shown;
use crate::fault::{Fault, in_words};
use crate::md5sum::Lister;
use crate::net::{self, Bell, Listener, NetError};
use crate::progress::{Progress, Summary};
use crate::relpath::NamePolicy;
use crate::store::{NewDirs, OnConflict, Root, RootError, StoreError, Unfinished};
use crate::wire::classic::ClassicError;
use crate::wire::dialect::DialectError;
use crate::wire::{Dialect, Form, ReceiverSession, SessionId, WireError, receiver};

use desk::{Desk, FREE_FOR_SESSIONS, Kind, Limits};
use input::Input;
use line::Line;
use native::{EndOnDrop, Host, every};
use sessions::{MAX_JOINED, Sessions};

/// What `ftx recv` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on; `None` for all of both families.
    pub bind: Option<IpAddr>,
    /// The port; 0 for any that is free.
    pub port: u16,
    /// Where things land.
    pub out: PathBuf,
    /// What to do about names that are taken.
    pub on_conflict: OnConflict,
    /// Which names to take.
    pub names: NamePolicy,
    /// End after so many sessions.
    pub sessions: Option<u64>,
    /// How long a peer may be silent.
    pub timeout: Duration,
    /// How long files that were cut are kept for their sender to come back.
    pub keep_unfinished: Duration,
    /// Take the MD5 of all of each file, as `md5sum` prints it, and tell it with
    /// [`Event::FileDone`](crate::progress::Event::FileDone).
    pub whole_digests: bool,
    /// Rung, it ends everything, sessions in work too: each as after a failure, after last words to its sender.
    pub interrupt: Bell,
}

/// How soon to look again for room where nobody may tell that there is some.
const RETRY: Duration = Duration::from_millis(20);

/// How often to look for what nobody came back for.
const SWEEP: Duration = Duration::from_secs(60 * 60);

/// A session that has kept what it has gives up its place at once; certainly after so long.
const HANDED_OVER: Duration = Duration::from_secs(3);

/// A sender whose connection was lost gets so long to come back, where a receiver is to end after its session.
const COME_BACK: Duration = Duration::from_secs(30);

/// Why a session failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// The first bytes are no dialect of ours.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// A dialect that is known, but not spoken here.
    #[error("the peer speaks {0}, which this receiver does not take")]
    NotSpoken(&'static str),
    /// The peer broke the native dialect, or gave up.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A classic header that is refused.
    #[error(transparent)]
    Classic(#[from] ClassicError),
    /// The connection ended in the middle of something.
    #[error("the connection was lost in the middle of {0}")]
    Truncated(String),
    /// The connection broke.
    #[error("the connection broke: {}", in_words(.0))]
    Connection(#[source] io::Error),
    /// The peer was silent for too long.
    #[error("nothing was heard from the sender for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The peer began a header and did not finish it.
    #[error("a header from the sender was still not complete after {} seconds", .0.as_secs())]
    Unfinished(Duration),
    /// Bytes of a body trickle in, more slowly than any link is.
    #[error(
        "a body came at less than {} bytes a second, for {} seconds",
        crate::net::MIN_RATE_BYTES_PER_S,
        .0.as_secs()
    )]
    TooSlow(Duration),
    /// The connection was lost, and its sender did not open another one.
    #[error("did not come back within {} s", wait.as_secs())]
    NotBack {
        /// How it was lost.
        lost: Box<RecvError>,
        /// For so long it was waited for.
        wait: Duration,
    },
    /// No place for one more connection.
    #[error("the receiver has as many connections as it takes")]
    Busy,
    /// The session delivered nothing when others needed its place, or what it held.
    #[error("the receiver has too many connections, and this one delivered nothing")]
    GaveWay,
    /// Somebody wants this program to end.
    #[error("the receiver was interrupted")]
    Interrupted,
    /// A body is not what its header says; classic has no way to repair it.
    #[error("{name}: the digest does not match: the header says {expected}, the body gives {actual}")]
    Digest {
        /// The file's name, escaped.
        name: String,
        /// From the header.
        expected: Md5,
        /// From the body.
        actual: Md5,
    },
    /// The folder cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A file of a classic sender could not land; closing is the only way to tell it.
    #[error("{name}: {error}")]
    Store {
        /// The file's name, escaped.
        name: String,
        /// What happened.
        error: StoreError,
    },
}

impl RecvError {
    /// Did the receiver have no place for it? Then it was no session, whatever it would have been.
    pub fn is_for_want_of_room(&self) -> bool {
        matches!(self, RecvError::Busy | RecvError::GaveWay)
    }

    /// May the sender be about to come back on another connection?
    fn is_lost_connection(&self) -> bool {
        matches!(
            self,
            RecvError::Truncated(_)
                | RecvError::Connection(_)
                | RecvError::Silent(_)
                | RecvError::Unfinished(_)
                | RecvError::TooSlow(_)
                | RecvError::Wire(WireError::PeerGaveUp { fault: Fault::Connection | Fault::Timeout, .. })
        )
    }
}

/// Listens to a receiver as a whole.
pub trait Observer: Sync {
    /// An earlier session left this behind.
    fn unfinished(&self, unfinished: &Unfinished);
    /// A peer connected and said something.
    fn started(&self, peer: SocketAddr) -> Box<dyn Progress + '_>;
    /// The connection of its session was lost, and the session counts: its sender has so long to come back.
    fn lost(&self, peer: SocketAddr, error: &RecvError, wait: Duration);
    /// Its session ended.
    fn ended(&self, peer: SocketAddr, outcome: &Result<Summary, RecvError>);
}

/// An open port and the folder behind it.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    root: Root,
    sessions: Sessions,
    options: Options,
    sweep: Duration,
}

/// Why a receiver does not serve any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The wanted number of sessions has ended, or [`Server::stop`] was rung.
    Served,
    /// It was interrupted before that.
    Interrupted,
}

/// The receiver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The folder.
    #[error(transparent)]
    Root(#[from] RootError),
}

/// What a connection is for, told from its first bytes.
enum Opening {
    /// A native session.
    Native {
        /// The JSON of its first frame.
        hello: Vec<u8>,
        /// By which its sender would come back.
        session: Option<SessionId>,
        /// The session whose connection its sender lost.
        continues: Option<SessionId>,
    },
    /// One more connection of a native session.
    Join(SessionId),
    Classic,
    Tls,
    Http,
}

impl Server {
    /// Opens the folder and the port.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let root = Root::open(&options.out, options.on_conflict)?;
        let listener = Listener::bind(options.bind, options.port)?;
        Ok(Server { listener, root, sessions: Sessions::default(), options, sweep: SWEEP })
    }

    /// The address and port really chosen.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The folder's absolute path.
    pub fn out(&self) -> &Path {
        self.root.path()
    }

    /// Rung, it ends [`Server::run`] once the sessions in work are done.
    pub fn stop(&self) -> Bell {
        self.listener.stop()
    }

    /// Serves until the wanted number of sessions has ended, the stop handle is used, or the program is to end.
    pub fn run(&self, observer: &dyn Observer) -> io::Result<Ending> {
        let desk = Mutex::new(Desk::new(Limits::for_descriptors(desk::descriptors()), self.options.timeout));
        self.options.interrupt.beside(|| self.stop().ring(), || self.serve_all(&desk, observer))??;
        let now = lock(&desk);
        let cut = now.interrupted || self.options.sessions.is_none_or(|wanted| now.finished < wanted);
        Ok(if self.options.interrupt.is_rung() && cut { Ending::Interrupted } else { Ending::Served })
    }

    fn serve_all(&self, desk: &Mutex<Desk>, observer: &dyn Observer) -> io::Result<()> {
        let changed = Condvar::new();
        let is_over = (Mutex::new(false), Condvar::new());
        let sweep = |is_first: bool| {
            let goes_on = || !*is_over.0.lock().unwrap_or_else(PoisonError::into_inner);
            let tell = |left: Unfinished| {
                if is_first || left.is_removed {
                    observer.unfinished(&left);
                }
            };
            // A folder that cannot be opened is for the first session to complain about.
            let _ = self.root.sweep(self.options.keep_unfinished, goes_on, tell);
        };
        thread::scope(|scope| {
            let _over = EndOnDrop(&is_over);
            // Senders need not wait for it.
            scope.spawn(|| {
                sweep(true);
                every(self.sweep, &is_over, || sweep(false));
            });
            let accepted = loop {
                let exhausted = || {
                    let mut now = lock(desk);
                    now.make_room(Instant::now());
                    now.spare_descriptors(Instant::now());
                };
                let (stream, peer) = match self.listener.accept(exhausted) {
                    Ok(Some(accepted)) => accepted,
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                };
                let line = Line::new(stream);
                let came = Instant::now();
                let mut now = lock(desk);
                let number = now.enter(line.clone(), peer.ip(), came);
                // Whoever holds all that its session needs is idle by then, or at work and done at some time.
                while came.elapsed() <= now.idle_time
                    && desk::are_few_free(line.stream(), FREE_FOR_SESSIONS)
                    && !self.options.interrupt.is_rung()
                {
                    now.spare_descriptors(Instant::now());
                    now = changed.wait_timeout(now, RETRY).unwrap_or_else(PoisonError::into_inner).0;
                }
                while now.is_full() || now.is_crowded() {
                    if !now.is_crowded() || !now.make_room(Instant::now()) {
                        now = changed.wait_timeout(now, RETRY).unwrap_or_else(PoisonError::into_inner).0;
                    }
                }
                // Whoever had to go may be one that waits for its turn.
                changed.notify_all();
                drop(now);
                let changed = &changed;
                let served = thread::Builder::new().spawn_scoped(scope, move || {
                    let _leave = OnDrop(|| {
                        lock(desk).leave(number);
                        changed.notify_all();
                    });
                    self.serve(line, number, peer, (desk, changed), observer);
                });
                if served.is_err() {
                    // No thread for it: it is closed, and others may make room for the next one.
                    lock(desk).leave(number);
                    lock(desk).make_room(Instant::now());
                }
            };
            lock(desk).close();
            changed.notify_all();
            accepted
        })
    }

    /// One connection, to its end. One that says nothing at all, like a look whether the port is open, is no session.
    fn serve(
        &self,
        line: Line,
        number: u64,
        peer: SocketAddr,
        (desk, changed): (&Mutex<Desk>, &Condvar),
        observer: &dyn Observer,
    ) {
        let start = Instant::now();
        let input = Input::new(line.clone(), self.options.timeout, &self.options.interrupt);
        let first = input.and_then(|mut input| Ok((open(&mut input)?, input)));
        let first = match first {
            Ok((None, _)) | Err(RecvError::GaveWay) => return,
            Ok((Some(Opening::Join(session)), input)) => {
                if let Err(refused) = self.sessions.join(session, input, || lock(desk).join(number)) {
                    let (input, error) = *refused;
                    native::refuse(&input, &error);
                }
                return;
            }
            Ok((Some(opening), input)) => Ok((opening, input)),
            Err(error) => Err(error),
        };
        // Whoever speaks neither dialect gets no place, only an end.
        let (kind, patience) = match &first {
            // Who comes back waits for the place that its lost connection still has.
            Ok((Opening::Native { continues: Some(lost), .. }, _)) if self.sessions.take_over(*lost) => {
                (Some(Kind::Native), HANDED_OVER)
            }
            Ok((Opening::Native { .. }, _)) => (Some(Kind::Native), Duration::ZERO),
            // Who cannot be told that there is no place waits for one.
            Ok((Opening::Classic, input)) => {
                if input.has_unread() {
                    line.delivers(0);
                }
                (Some(Kind::Classic), Duration::MAX)
            }
            _ => (None, Duration::ZERO),
        };
        let asked = Instant::now();
        let mut now = lock(desk);
        let is_full = |now: &mut Desk| kind.is_some_and(|kind| now.serve(number, kind).is_err());
        let mut full = is_full(&mut now);
        while full && asked.elapsed() < patience && !line.has_given_way() {
            now.wait(number, asked);
            now = changed.wait_timeout(now, net::TICK).unwrap_or_else(PoisonError::into_inner).0;
            full = is_full(&mut now);
        }
        changed.notify_all();
        let (session, continues) = match &first {
            Ok((Opening::Native { session, continues, .. }, _)) => (*session, *continues),
            _ => (None, None),
        };
        let continues = continues.filter(|_| !full && !line.has_given_way());
        let taken_over = continues.and_then(|lost| now.come_back(lost));
        // With a limit, no more sessions begin than may still be needed. Who takes one over begins none.
        let may_begin = |now: &Desk| taken_over.is_some() || now.active < self.needed(now);
        while !full && self.needed(&now) > 0 && !may_begin(&now) && !line.has_given_way() {
            now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        if full || line.has_given_way() {
            drop(now);
            let why = if full { RecvError::Busy } else { RecvError::GaveWay };
            if let Ok((opening, input)) = &first {
                turn_away(opening, input, &why);
            }
            return observer.ended(peer, &Err(why));
        }
        if self.needed(&now) == 0 {
            return;
        }
        now.active += u64::from(taken_over.is_none());
        let failed = taken_over.unwrap_or_default();
        // Without a limit nobody waits for the end of any of them.
        let session = session.filter(|_| self.options.sessions.is_some());
        let session = session.filter(|id| now.count(*id, failed.clone()));
        drop(now);
        let counts = Cell::new(true);
        let is_taken_over = Cell::new(false);
        let _leave = OnDrop(|| {
            let mut now = lock(desk);
            if is_taken_over.get() || session.is_some_and(|id| now.is_back(id)) {
                // It goes on elsewhere, and is counted there.
                return;
            }
            now.active -= 1;
            now.finished += u64::from(counts.get());
            if self.needed(&now) == 0 {
                self.stop().ring();
            }
        });
        let progress = failed.beside(observer.started(peer), number);
        let lister = Lister::new(self.options.whole_digests, &progress);
        let may_join = || lock(desk).promise(number, MAX_JOINED);
        let receive = || {
            let limit_entries = || lock(desk).limit_entries(Instant::now());
            let spare_descriptors = || lock(desk).spare_descriptors(Instant::now());
            let host = Host {
                sessions: &self.sessions,
                progress: &progress,
                lister: &lister,
                limit_entries: &limit_entries,
                spare_descriptors: &spare_descriptors,
            };
            let summary = first.and_then(|(opening, input)| self.speak(opening, input, may_join, &host))?;
            Ok(Summary { elapsed: start.elapsed(), ..summary })
        };
        let interrupt = &self.options.interrupt;
        let outcome = interrupt.beside(|| lister.hurry(), || lister.beside(receive));
        let outcome = outcome.unwrap_or_else(|error| Err(RecvError::Connection(error)));
        if matches!(outcome, Err(RecvError::Interrupted)) {
            lock(desk).interrupted = true;
        }
        let mut outcome = outcome.map(|summary| {
            let mut summary = Summary { undigested: lister.undigested(), ..summary };
            failed.add_earlier(number, &mut summary);
            summary
        });
        counts.set(!matches!(&outcome, Err(error) if error.is_for_want_of_room()));
        drop(lister);
        drop(progress);
        if let Some(id) = session {
            let mut now = lock(desk);
            if let Err(error) = &outcome
                && error.is_lost_connection()
                && now.may_come_back(id)
            {
                let wait = self.options.timeout.min(COME_BACK);
                now.leave(number);
                drop(now);
                observer.lost(peer, error, wait);
                changed.notify_all();
                let waits = |now: &mut Desk| now.may_come_back(id);
                let waited = changed.wait_timeout_while(lock(desk), wait, waits);
                now = waited.unwrap_or_else(PoisonError::into_inner).0;
                now.interrupted |= interrupt.is_rung();
                outcome = outcome.map_err(|lost| match interrupt.is_rung() {
                    true => RecvError::Interrupted,
                    false => RecvError::NotBack { lost: Box::new(lost), wait },
                });
            }
            if now.is_back(id) {
                // What becomes of it is told when that session ends.
                return is_taken_over.set(true);
            }
        }
        observer.ended(peer, &outcome);
    }

    /// How many more sessions have to end.
    fn needed(&self, now: &Desk) -> u64 {
        self.options.sessions.map_or(u64::MAX, |wanted| wanted.saturating_sub(now.finished))
    }

    fn speak(
        &self,
        opening: Opening,
        input: Input,
        may_join: impl FnOnce() -> bool,
        host: &Host<'_>,
    ) -> Result<Summary, RecvError> {
        match opening {
            Opening::Native { hello, .. } => {
                let store = self.root.session(NewDirs::PrivateUntilAnnounced).map_err(RecvError::from);
                let store = store.inspect_err(|error| native::refuse(&input, error))?;
                let mut session = ReceiverSession::new(self.options.names);
                if !may_join() {
                    session.keep_to_one_connection();
                }
                native::receive(input, &hello, session, store, host)
            }
            // Handed over before it came to this.
            Opening::Join(_) => Ok(Summary::default()),
            Opening::Classic => {
                let store = self.root.session(NewDirs::AsTheSystemMakesThem)?;
                classic::receive(input, store, self.options.names, host.progress)
            }
            Opening::Tls => {
                input.close();
                Err(RecvError::NotSpoken("TLS"))
            }
            Opening::Http => {
                // Whoever asked is not a sender; what becomes of the answer does not matter.
                let mut stream = input.stream();
                let _ = stream.write_all(HTTP_ANSWER);
                input.close();
                Err(RecvError::NotSpoken("HTTP"))
            }
        }
    }
}

/// What a connection is for; `None` if it said nothing. One that is refused is closed, with last words in its dialect.
fn open(input: &mut Input) -> Result<Option<Opening>, RecvError> {
    let opening = match input.first() {
        Ok(None) => return Ok(None),
        Ok(Some(Dialect::Classic)) => Opening::Classic,
        Ok(Some(Dialect::Tls)) => Opening::Tls,
        Ok(Some(Dialect::Http)) => Opening::Http,
        Ok(Some(Dialect::Native)) => open_native(input).inspect_err(|error| native::refuse(input, error))?,
        Err(RecvError::GaveWay) => return Err(RecvError::GaveWay),
        Err(error) => {
            input.close();
            return Err(error);
        }
    };
    input.opened();
    Ok(Some(opening))
}

/// Ends a connection for which there is no place, and says so where its dialect has words for it.
fn turn_away(opening: &Opening, input: &Input, why: &RecvError) {
    match opening {
        Opening::Native { .. } | Opening::Join(_) => native::refuse(input, why),
        Opening::Classic => input.reset(),
        Opening::Tls | Opening::Http => input.close(),
    }
}

fn open_native(input: &mut Input) -> Result<Opening, RecvError> {
    let first = input.frame(Form::Native)?.ok_or_else(|| RecvError::Truncated("a header".into()))?;
    Ok(match receiver::opening(first)? {
        receiver::Opening::Joins(session) => Opening::Join(session),
        receiver::Opening::Begins { session, continues } => {
            Opening::Native { hello: first.to_vec(), session, continues }
        }
    })
}

const HTTP_ANSWER: &[u8] =
    b"HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\
Connection: close\r\n\r\nThis is ftx, a file receiver. It takes files from: ftx send PATH\n";

/// Runs a closure at the end of a scope, however it ends.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A peer's text for a sentence.
fn shown(text: &(impl AsRef<[u8]> + ?Sized)) -> String {
    Shown::new(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::PART_BYTES;
    use crate::relpath::RelPath;
    use crate::store::{Origin, Record};

    #[test]
    fn what_a_sender_heals_with_another_connection_is_waited_for() {
        let gave_up = |fault| RecvError::Wire(WireError::PeerGaveUp { fault, message: String::new() });
        let time = Duration::from_secs(30);
        for error in [
            RecvError::Truncated("a header".into()),
            RecvError::Connection(io::ErrorKind::ConnectionReset.into()),
            RecvError::Silent(time),
            RecvError::Unfinished(time),
            RecvError::TooSlow(time),
            gave_up(Fault::Connection),
            gave_up(Fault::Timeout),
        ] {
            assert!(error.is_lost_connection(), "{error}");
        }
        for error in [RecvError::Busy, RecvError::Interrupted, gave_up(Fault::SourceChanged)] {
            assert!(!error.is_lost_connection(), "{error}");
        }
    }

    /// Remembers what it is told of what was left behind.
    struct Watch(Mutex<Vec<bool>>, Condvar);

    impl Observer for Watch {
        fn unfinished(&self, left: &Unfinished) {
            self.0.lock().unwrap().push(left.is_removed);
            self.1.notify_all();
        }

        fn started(&self, _: SocketAddr) -> Box<dyn Progress + '_> {
            unreachable!("nobody comes")
        }

        fn lost(&self, _: SocketAddr, _: &RecvError, _: Duration) {}

        fn ended(&self, _: SocketAddr, _: &Result<Summary, RecvError>) {}
    }

    #[test]
    fn what_becomes_too_old_goes_while_the_receiver_runs() {
        let out = tempfile::tempdir().unwrap();
        let options = Options {
            bind: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            port: 0,
            out: out.path().to_owned(),
            on_conflict: OnConflict::SkipSame,
            names: NamePolicy::Strict,
            sessions: None,
            timeout: Duration::from_secs(1),
            // Ages are those of whole seconds.
            keep_unfinished: Duration::from_secs(3),
            whole_digests: false,
            interrupt: Bell::new().unwrap(),
        };
        let server = Server { sweep: Duration::from_millis(5), ..Server::start(options).unwrap() };
        let mut store = server.root.session(NewDirs::PrivateUntilAnnounced).unwrap();
        let path = RelPath::new(b"disk.img", NamePolicy::Strict).unwrap();
        let origin = Origin { size_bytes: 2 * PART_BYTES, mtime: None, state: Md5::of(b"state") };
        let landing = store.land_parts(&path, origin).unwrap();
        let records = [Record::Part(0, Md5::of(b"part"))];
        landing.journal().unwrap().record(&landing.written().unwrap(), &records, true).unwrap();
        drop(landing);
        let watch = Watch(Mutex::default(), Condvar::new());
        thread::scope(|scope| {
            let running = scope.spawn(|| server.run(&watch).unwrap());
            let is_kept = |told: &mut Vec<bool>| told.last() != Some(&true);
            let most = Duration::from_secs(30);
            drop(watch.1.wait_timeout_while(watch.0.lock().unwrap(), most, is_kept).unwrap());
            server.stop().ring();
            assert_eq!(running.join().unwrap(), Ending::Served);
        });
        // It is young at the first look, and told of again only when it goes.
        assert_eq!(watch.0.into_inner().unwrap(), [false, true]);
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    }
}
