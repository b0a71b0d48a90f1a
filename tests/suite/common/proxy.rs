//! Stands between a sender and a receiver, knows what passes by, and meddles with it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::Value;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToReceiver,
    ToSender,
}

/// What bytes are part of: a frame with its length and CRC, or a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Frame,
    Body,
}

/// Bytes that pass by, all of one frame or one body.
pub struct Piece<'a> {
    pub way: Way,
    pub place: Place,
    /// Where they begin, in what came this way on this connection.
    pub offset: u64,
    /// Where they begin in their frame or body.
    pub within: u64,
    /// How many frames or bodies came this way before.
    pub nth: u64,
    /// The bytes, to be read or changed.
    pub bytes: &'a mut [u8],
    /// Of a frame's last piece: its dictionary. Of a body's: that of its `part`.
    pub frame: Option<&'a Value>,
}

/// What to do with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Pass,
    /// Close the connection, both ways, without passing the piece on.
    Cut,
}

type Meddle = Arc<Mutex<dyn FnMut(Piece<'_>) -> Then + Send>>;

/// A proxy on a free port of this machine.
pub struct Proxy {
    port: u16,
    closing: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Leads to the receiver at `port` and shows `meddle` every piece before it is passed on.
    pub fn start(port: u16, meddle: impl FnMut(Piece<'_>) -> Then + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let meddle: Meddle = Arc::new(Mutex::new(meddle));
        let closing = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&closing);
        let accepting = thread::spawn(move || {
            let mut pumps = Vec::new();
            for sender in listener.incoming() {
                if closed.load(Ordering::SeqCst) {
                    break;
                }
                let sender = sender.unwrap();
                // A receiver that is gone shows as a connection that is closed at once.
                let Ok(receiver) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                sender.set_nodelay(true).unwrap();
                receiver.set_nodelay(true).unwrap();
                for (way, from, to) in
                    [(Way::ToReceiver, &sender, &receiver), (Way::ToSender, &receiver, &sender)]
                {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let meddle = Arc::clone(&meddle);
                    pumps.push(thread::spawn(move || pump(way, from, to, &meddle)));
                }
            }
            pumps.into_iter().for_each(|pump| pump.join().unwrap());
        });
        Proxy { port: own_port, closing, accepting: Some(accepting) }
    }

    /// Where the sender connects to.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Proxy {
    /// Waits for the connections: both ends have to be gone by then.
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        let joined = self.accepting.take().unwrap().join();
        if !thread::panicking() {
            joined.unwrap();
        }
    }
}

fn pump(way: Way, mut from: TcpStream, mut to: TcpStream, meddle: &Meddle) {
    let mut buffer = vec![0; 256 << 10];
    let mut anatomy = Anatomy::default();
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
            let (offset, now) = (anatomy.offset, anatomy.take(bytes));
            let (piece, rest) = bytes.split_at_mut(now.len);
            bytes = rest;
            let frame = now.frame.as_ref();
            let then = (meddle.lock().unwrap())(Piece {
                way,
                place: now.place,
                offset,
                within: now.within,
                nth: now.nth,
                bytes: &mut *piece,
                frame,
            });
            // At once: what comes next may be held back.
            goes_on = then == Then::Pass && to.write_all(piece).is_ok();
        }
        if !goes_on {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Follows frames and bodies as they were sent, however they are cut into reads.
#[derive(Default)]
struct Anatomy {
    offset: u64,
    /// The frame so far.
    head: Vec<u8>,
    /// The body that is passing by: its part, its size, what has passed.
    body: Option<(Value, u64, u64)>,
    frames: u64,
    bodies: u64,
}

struct Now {
    place: Place,
    within: u64,
    nth: u64,
    len: usize,
    frame: Option<Value>,
}

impl Anatomy {
    /// Takes what belongs together from the beginning of `bytes`.
    fn take(&mut self, bytes: &[u8]) -> Now {
        let now = match self.body.take() {
            Some((part, size, passed)) => self.take_body(part, size, passed, bytes.len()),
            None => self.take_head(bytes),
        };
        self.offset += now.len as u64;
        now
    }

    fn take_body(&mut self, part: Value, size: u64, passed: u64, at_hand: usize) -> Now {
        let len = at_hand.min((size - passed) as usize);
        let nth = self.bodies;
        if passed + len as u64 == size {
            self.bodies += 1;
        } else {
            self.body = Some((part.clone(), size, passed + len as u64));
        }
        Now { place: Place::Body, within: passed, nth, len, frame: Some(part) }
    }

    fn take_head(&mut self, bytes: &[u8]) -> Now {
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
        Now { place: Place::Frame, within: within as u64, nth, len, frame }
    }
}
