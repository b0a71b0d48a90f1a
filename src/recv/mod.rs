//! The receiver's driver: an open port, a thread for each session, everything below one folder.

mod arrivals;
mod classic;
mod committer;
mod input;
mod measure;
mod native;
mod reader;
mod sessions;
mod verifier;
mod whole;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::digest::Md5;
use crate::escape::Shown;
use crate::md5sum::Lister;
use crate::net::{Bell, Listener, NetError};
use crate::progress::{Progress, Summary};
use crate::relpath::NamePolicy;
use crate::store::{NewDirs, OnConflict, Root, RootError, StoreError, Unfinished};
use crate::wire::classic::ClassicError;
use crate::wire::dialect::DialectError;
use crate::wire::{Dialect, Form, SessionId, WireError, receiver};

use input::Input;
use sessions::Sessions;
use whole::Whole;

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

/// Connections at the same time; more wait in the system's queue until one ends.
const MAX_CONNECTIONS: u64 = 256;

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
    #[error("the connection ended in the middle of {0}")]
    Truncated(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Connection(#[source] io::Error),
    /// The peer was silent for too long.
    #[error("nothing was heard from the sender for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The peer began a header and did not finish it.
    #[error("a header from the sender was still not complete after {} seconds", .0.as_secs())]
    Unfinished(Duration),
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

/// Listens to a receiver as a whole.
pub trait Observer: Sync {
    /// An earlier session left this behind.
    fn unfinished(&self, unfinished: &Unfinished);
    /// A peer connected and said something.
    fn started(&self, peer: SocketAddr) -> Box<dyn Progress + '_>;
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

/// Who is connected, and how many sessions there were.
#[derive(Default)]
struct Desk {
    /// Connections that have not said anything yet, by number: a door that opens is no session.
    silent: BTreeMap<u64, TcpStream>,
    active: u64,
    /// Connections that joined a session.
    joined: u64,
    finished: u64,
    /// Was any of them cut because this program is to end?
    interrupted: bool,
}

/// What a connection is for, told from its first bytes.
enum Opening {
    /// A native session; the JSON of its first frame.
    Native(Vec<u8>),
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
        Ok(Server { listener, root, sessions: Sessions::default(), options })
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
        let desk = Mutex::new(Desk::default());
        self.options.interrupt.beside(|| self.stop().ring(), || self.serve_all(&desk, observer))??;
        let now = lock(&desk);
        let cut = now.interrupted || self.options.sessions.is_none_or(|wanted| now.finished < wanted);
        Ok(if self.options.interrupt.is_rung() && cut { Ending::Interrupted } else { Ending::Served })
    }

    fn serve_all(&self, desk: &Mutex<Desk>, observer: &dyn Observer) -> io::Result<()> {
        let changed = Condvar::new();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            // Senders need not wait for it.
            scope.spawn(|| {
                let goes_on = || !is_over.load(Ordering::Relaxed);
                // A folder that cannot be opened is for the first session to complain about.
                let _ =
                    self.root.sweep(self.options.keep_unfinished, goes_on, |left| observer.unfinished(&left));
            });
            let mut number = 0;
            let accepted = loop {
                let (stream, peer) = match self.listener.accept() {
                    Ok(Some(accepted)) => accepted,
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                };
                number += 1;
                let mut now = lock(desk);
                if let Ok(clone) = stream.try_clone() {
                    now.silent.insert(number, clone);
                }
                while now.silent.len() as u64 + now.active + now.joined >= MAX_CONNECTIONS {
                    now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
                }
                drop(now);
                let changed = &changed;
                scope.spawn(move || {
                    self.serve(stream, number, peer, (desk, changed), observer);
                    changed.notify_all();
                });
            };
            is_over.store(true, Ordering::Relaxed);
            // Whoever has not said anything by now is not waited for.
            for stream in lock(desk).silent.values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            accepted
        })
    }

    /// One connection, to its end. One that says nothing at all, like a look whether the port is open, is no session.
    fn serve(
        &self,
        stream: TcpStream,
        number: u64,
        peer: SocketAddr,
        (desk, changed): (&Mutex<Desk>, &Condvar),
        observer: &dyn Observer,
    ) {
        let start = Instant::now();
        let input = Input::new(stream, self.options.timeout, &self.options.interrupt);
        let first = input.and_then(|mut input| Ok((open(&mut input)?, input)));
        let mut now = lock(desk);
        now.silent.remove(&number);
        let first = match first {
            Ok((None, _)) => return,
            Ok((Some(Opening::Join(session)), input)) => {
                now.joined += 1;
                drop(now);
                let _leave = OnDrop(|| lock(desk).joined -= 1);
                if let Err(refused) = self.sessions.join(session, input) {
                    let (mut input, error) = *refused;
                    native::refuse(&mut input, &error);
                }
                return;
            }
            Ok((Some(opening), input)) => Ok((opening, input)),
            Err(error) => Err(error),
        };
        // With a limit, no more sessions begin than may still be needed.
        while self.needed(&now) > 0 && now.active >= self.needed(&now) {
            now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        if self.needed(&now) == 0 {
            return;
        }
        now.active += 1;
        drop(now);
        let _leave = OnDrop(|| {
            let mut now = lock(desk);
            now.active -= 1;
            now.finished += 1;
            if self.needed(&now) == 0 {
                self.stop().ring();
            }
        });
        let progress = observer.started(peer);
        let lister = Lister::new(self.options.whole_digests, &*progress);
        let session = || {
            let summary =
                first.and_then(|(opening, input)| self.speak(opening, input, &*progress, &lister))?;
            Ok(Summary { elapsed: start.elapsed(), ..summary })
        };
        let interrupt = &self.options.interrupt;
        let outcome = interrupt.beside(|| lister.hurry(), || lister.beside(session));
        let outcome = outcome.unwrap_or_else(|error| Err(RecvError::Connection(error)));
        if matches!(outcome, Err(RecvError::Interrupted)) {
            lock(desk).interrupted = true;
        }
        let outcome = outcome.map(|summary| Summary { undigested: lister.undigested(), ..summary });
        drop(lister);
        drop(progress);
        observer.ended(peer, &outcome);
    }

    /// How many more sessions have to end.
    fn needed(&self, now: &Desk) -> u64 {
        self.options.sessions.map_or(u64::MAX, |wanted| wanted.saturating_sub(now.finished))
    }

    fn speak(
        &self,
        opening: Opening,
        mut input: Input,
        progress: &dyn Progress,
        lister: &Lister<'_, Whole>,
    ) -> Result<Summary, RecvError> {
        match opening {
            Opening::Native(hello) => {
                let store = self.root.session(NewDirs::PrivateUntilAnnounced)?;
                native::receive(input, &hello, store, self.options.names, &self.sessions, progress, lister)
            }
            // Handed over before it came to this.
            Opening::Join(_) => Ok(Summary::default()),
            Opening::Classic => {
                let store = self.root.session(NewDirs::AsTheSystemMakesThem)?;
                classic::receive(input, store, self.options.names, progress)
            }
            Opening::Tls => {
                input.close();
                Err(RecvError::NotSpoken("TLS"))
            }
            Opening::Http => {
                // Whoever asked is not a sender; what becomes of the answer does not matter.
                let _ = input.stream().write_all(HTTP_ANSWER);
                input.close();
                Err(RecvError::NotSpoken("HTTP"))
            }
        }
    }
}

/// What a connection is for; `None` if it said nothing. One that is refused is closed, with last words in its dialect.
fn open(input: &mut Input) -> Result<Option<Opening>, RecvError> {
    match input.first().inspect_err(|_| input.close())? {
        None => Ok(None),
        Some(Dialect::Classic) => Ok(Some(Opening::Classic)),
        Some(Dialect::Tls) => Ok(Some(Opening::Tls)),
        Some(Dialect::Http) => Ok(Some(Opening::Http)),
        Some(Dialect::Native) => {
            open_native(input).map(Some).inspect_err(|error| native::refuse(input, error))
        }
    }
}

fn open_native(input: &mut Input) -> Result<Opening, RecvError> {
    let first = input.frame(Form::Native)?.ok_or_else(|| RecvError::Truncated("a header".into()))?;
    Ok(match receiver::joins(first)? {
        Some(session) => Opening::Join(session),
        None => Opening::Native(first.to_vec()),
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
