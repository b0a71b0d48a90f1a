//! A proxy between a sender and a receiver that parses frames and bodies and can change or cut them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::Value;

/// The direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToReceiver,
    ToSender,
}

/// Whether bytes belong to a frame, with its length and CRC, or to a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Frame,
    Body,
}

/// Bytes of one frame or one body.
pub struct Piece<'a> {
    pub way: Way,
    pub place: Place,
    /// Their offset in this direction of the connection.
    pub offset: u64,
    /// Their offset in the frame or body.
    pub within: u64,
    /// The number of earlier frames or bodies in this direction.
    pub nth: u64,
    /// The bytes, which may be changed.
    pub bytes: &'a mut [u8],
    /// The frame's JSON, with its last piece; for a body that of its `part`.
    pub frame: Option<&'a Value>,
}

/// What to do with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pass,
    /// Close the connection, both ways, without passing the piece on.
    Cut,
}

type Filter = Arc<Mutex<dyn FnMut(Piece<'_>) -> Action + Send>>;

/// A proxy on a free port of this machine.
pub struct Proxy {
    port: u16,
    closing: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Forwards to the receiver at `port`, after passing every piece to `filter`.
    pub fn start(port: u16, filter: impl FnMut(Piece<'_>) -> Action + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let filter: Filter = Arc::new(Mutex::new(filter));
        let closing = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&closing);
        let accepting = thread::spawn(move || {
            let mut pumps = Vec::new();
            for sender in listener.incoming() {
                if closed.load(Ordering::SeqCst) {
                    break;
                }
                let sender = sender.unwrap();
                // If the receiver is gone, the sender's connection is closed at once.
                let Ok(receiver) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                sender.set_nodelay(true).unwrap();
                receiver.set_nodelay(true).unwrap();
                for (way, from, to) in
                    [(Way::ToReceiver, &sender, &receiver), (Way::ToSender, &receiver, &sender)]
                {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let filter = Arc::clone(&filter);
                    pumps.push(thread::spawn(move || pump(way, from, to, &filter)));
                }
            }
            pumps.into_iter().for_each(|pump| pump.join().unwrap());
        });
        Proxy { port: own_port, closing, accepting: Some(accepting) }
    }

    /// The address that the sender connects to.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Proxy {
    /// Waits for the connections, which both ends must have closed.
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        let joined = self.accepting.take().unwrap().join();
        if !thread::panicking() {
            joined.unwrap();
        }
    }
}

fn pump(way: Way, mut from: TcpStream, mut to: TcpStream, filter: &Filter) {
    let mut buffer = vec![0; 256 << 10];
    let mut tracker = FrameTracker::default();
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(count) => count,
            Err(_) => break,
        };
        let mut bytes = &mut buffer[..count];
        let mut goes_on = true;
        while !bytes.is_empty() && goes_on {
            let (offset, now) = (tracker.offset, tracker.take(bytes));
            let (piece, rest) = bytes.split_at_mut(now.len);
            bytes = rest;
            let frame = now.frame.as_ref();
            let then = (filter.lock().unwrap())(Piece {
                way,
                place: now.place,
                offset,
                within: now.within,
                nth: now.nth,
                bytes: &mut *piece,
                frame,
            });
            // Written at once, as the filter may block on the next piece.
            goes_on = then == Action::Pass && to.write_all(piece).is_ok();
        }
        if !goes_on {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Finds the borders of frames and bodies in a stream of reads.
#[derive(Default)]
struct FrameTracker {
    offset: u64,
    /// The frame so far.
    head: Vec<u8>,
    /// The current body: its `part` frame, its size, the bytes passed.
    body: Option<(Value, u64, u64)>,
    frames: u64,
    bodies: u64,
}

struct Span {
    place: Place,
    within: u64,
    nth: u64,
    len: usize,
    frame: Option<Value>,
}

impl FrameTracker {
    /// Returns the span of one frame or body at the start of `bytes`.
    fn take(&mut self, bytes: &[u8]) -> Span {
        let now = match self.body.take() {
            Some((part, size, passed)) => self.take_body(part, size, passed, bytes.len()),
            None => self.take_head(bytes),
        };
        self.offset += now.len as u64;
        now
    }

    fn take_body(&mut self, part: Value, size: u64, passed: u64, at_hand: usize) -> Span {
        let len = at_hand.min((size - passed) as usize);
        let nth = self.bodies;
        if passed + len as u64 == size {
            self.bodies += 1;
        } else {
            self.body = Some((part.clone(), size, passed + len as u64));
        }
        Span { place: Place::Body, within: passed, nth, len, frame: Some(part) }
    }

    fn take_head(&mut self, bytes: &[u8]) -> Span {
        let within = self.head.len();
        let wanted = match self.head.first_chunk::<4>() {
            Some(length) => 4 + u32::from_le_bytes(*length) as usize + 4,
            None => 4,
        };
        let len = bytes.len().min(wanted - within);
        self.head.extend_from_slice(&bytes[..len]);
        let nth = self.frames;
        let mut frame = None;
        if wanted > 4 && self.head.len() == wanted {
            let json: Value = serde_json::from_slice(&self.head[4..wanted - 4]).unwrap();
            self.head.clear();
            self.frames += 1;
            let size = json["size"].as_u64().filter(|size| json["ftx"] == "part" && *size > 0);
            self.body = size.map(|size| (json.clone(), size, 0));
            frame = Some(json);
        }
        Span { place: Place::Frame, within: within as u64, nth, len, frame }
    }
}
