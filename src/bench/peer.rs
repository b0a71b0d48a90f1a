//! The connection to a receiver that measures its stages.

use std::io::{self, Write};
use std::time::Duration;

use super::error::BenchError;
use crate::error_code::ErrorCode;
use crate::link::{Fill, FrameReadError, FrameReader};
use crate::measure::{Rate, pseudo_random};
use crate::net::{self, IdleTimer, Target, TimedWriter};
use crate::sync::CancelToken;
use crate::wire::measure_client::MeasureEvent;
use crate::wire::message::{Measurable, Measure, Measured};
use crate::wire::{Framing, MeasureClient, WireError};

/// Size of the first round over the wire; the next ones aim at [`WIRE_TIME`].
const FIRST_WIRE_BYTES: u64 = 256 << 10;
/// The time that a round over the wire aims at.
const WIRE_TIME: Duration = Duration::from_secs(1);
/// The first round that takes this long gives the rate.
const MIN_ROUND_TIME: Duration = Duration::from_millis(500);
/// Growth of a round relative to the one before. Congestion control slows the first rounds down.
const GROWTH: std::ops::RangeInclusive<u64> = 4..=16;
/// Bytes per write.
const BLOCK_BYTES: usize = 1 << 20;

/// A connected receiver that can measure.
pub struct MeasuringPeer {
    session: MeasureClient,
    reader: FrameReader,
    writer: TimedWriter,
    timeout: Duration,
    cancel: CancelToken,
}

impl MeasuringPeer {
    /// Connects and checks that the receiver can measure.
    pub fn connect(
        target: &Target,
        port: u16,
        timeout: Duration,
        cancel: &CancelToken,
    ) -> Result<Self, BenchError> {
        let connection = net::connect(target, port, timeout, 0, cancel, |_| {})?;
        let cancel = cancel.clone();
        connection.establish().map_err(BenchError::Connection)?;
        let idle_timer = IdleTimer::new(timeout);
        let writer = TimedWriter::new(connection.clone(), idle_timer.clone(), cancel.clone());
        let reader = FrameReader::new(connection, Framing::Native, idle_timer);
        let mut peer = MeasuringPeer { session: MeasureClient::new(), reader, writer, timeout, cancel };
        peer.flush()?;
        peer.receive()?;
        Ok(peer)
    }

    /// Lets the receiver measure one of its own stages.
    pub fn stage(&mut self, what: Measurable, size_bytes: u64) -> Result<Measured, BenchError> {
        self.session.request(Measure { what, size_bytes });
        self.flush()?;
        self.answer()
    }

    /// Sends rounds of growing size, at most `max_bytes`, until one takes [`MIN_ROUND_TIME`]. `on_round` gets the size of
    /// each round, `on_sent` the bytes of each write.
    pub fn wire(
        &mut self,
        max_bytes: u64,
        on_round: impl Fn(u64),
        on_sent: impl Fn(u64),
    ) -> Result<Rate, BenchError> {
        let block = pseudo_random(BLOCK_BYTES);
        let mut size_bytes = FIRST_WIRE_BYTES.min(max_bytes);
        loop {
            on_round(size_bytes);
            self.session.request(Measure { what: Measurable::Wire, size_bytes });
            self.flush()?;
            let mut left = size_bytes;
            while left > 0 {
                if self.cancel.is_cancelled() {
                    // No frame can be sent inside a body.
                    return Err(BenchError::Interrupted);
                }
                let count = left.min(BLOCK_BYTES as u64);
                let sent = self.writer.write_all(&block[..count as usize]);
                sent.map_err(|error| self.broken(error))?;
                left -= count;
                on_sent(count);
            }
            let rate = rate(self.answer()?);
            if rate.elapsed >= MIN_ROUND_TIME || size_bytes >= max_bytes {
                return Ok(rate);
            }
            let target_bytes = (rate.bytes_per_s() as f64 * WIRE_TIME.as_secs_f64()) as u64;
            size_bytes =
                target_bytes.clamp(size_bytes * GROWTH.start(), size_bytes * GROWTH.end()).min(max_bytes);
        }
    }

    /// Ends the session regularly.
    pub fn finish(mut self) -> Result<(), BenchError> {
        self.session.end();
        self.flush()?;
        self.receive().map(|_| ())
    }

    fn answer(&mut self) -> Result<Measured, BenchError> {
        match self.receive()? {
            MeasureEvent::Measured(measured) => Ok(measured),
            // The session accepts no other event here.
            _ => Err(WireError::protocol("no answer").into()),
        }
    }

    fn flush(&mut self) -> Result<(), BenchError> {
        let sent = self.writer.write_all(&self.session.take_output());
        sent.map_err(|error| self.broken(error))
    }

    /// Waits for the next event other than a keepalive.
    fn receive(&mut self) -> Result<MeasureEvent, BenchError> {
        loop {
            while let Some(json) = self.reader.next_frame().map_err(WireError::from)? {
                match self.session.handle(json)? {
                    MeasureEvent::Nothing => {}
                    event => return Ok(event),
                }
            }
            match self.reader.fill(&[&self.cancel], net::POLL_INTERVAL) {
                Ok(Fill::Bytes) => {}
                Ok(Fill::Nothing) => {
                    self.session.keepalive();
                    self.flush()?;
                }
                Ok(Fill::End) => return Err(BenchError::Closed),
                Ok(Fill::Cancelled) => {
                    let error = BenchError::Interrupted;
                    self.session.abort(ErrorCode::Interrupted, &error.to_string());
                    self.flush()?;
                    return Err(error);
                }
                Err(error) => return Err(self.read_error(error)),
            }
        }
    }

    fn read_error(&self, error: FrameReadError) -> BenchError {
        match error {
            FrameReadError::IdleTimeout | FrameReadError::HeaderTimeout => {
                BenchError::IdleTimeout(self.timeout)
            }
            FrameReadError::Disconnected => BenchError::Closed,
            FrameReadError::Connection(error) => BenchError::Connection(error),
        }
    }

    /// The reason for a failed write: an error frame that the receiver sent before, if there is one.
    fn broken(&mut self, error: io::Error) -> BenchError {
        if error.kind() == io::ErrorKind::TimedOut {
            return BenchError::IdleTimeout(self.timeout);
        }
        while let Ok(Fill::Bytes) = self.reader.fill(&[], net::POLL_INTERVAL) {
            while let Ok(Some(json)) = self.reader.next_frame() {
                if let Err(reason @ WireError::PeerAborted { .. }) = self.session.handle(json) {
                    return reason.into();
                }
            }
        }
        if net::is_disconnect(&error) { BenchError::Closed } else { BenchError::Connection(error) }
    }
}

/// The rate by the receiver's clock.
pub fn rate(measured: Measured) -> Rate {
    Rate { bytes: measured.bytes, elapsed: Duration::from_nanos(measured.elapsed_ns) }
}
