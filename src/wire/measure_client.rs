//! The requesting end of a measuring session, as a state machine: frames in, [`MeasureEvent`]s and frames out.
//!
//! ```text
//! hello  -> welcome          both name the feature
//! measure (+ body) -> measured
//! end 0  -> receipt
//! ```

use super::error::WireError;
use super::limits::VERSION;
use super::message::{ErrorReport, FEATURE_MEASURE, Hello, Measurable, Measure, Measured, Message, Receipt};
use crate::error_code::ErrorCode;

/// What a frame means for the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeasureEvent {
    /// Nothing.
    Nothing,
    /// The receiver supports measuring.
    Ready,
    /// The result of the requested stage: at most the requested bytes, in at least one nanosecond.
    Measured(Measured),
    /// The session is complete.
    Receipt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MeasurePhase {
    Hello,
    Ready,
    Measuring(Measure),
    Ended,
    Done,
}

/// The state machine; see the module's documentation.
#[derive(Debug)]
pub struct MeasureClient {
    phase: MeasurePhase,
    out: Vec<u8>,
}

impl Default for MeasureClient {
    fn default() -> Self {
        let mut out = Vec::new();
        Message::Hello(Hello::ours(&[FEATURE_MEASURE], None)).encode(&mut out);
        MeasureClient { phase: MeasurePhase::Hello, out }
    }
}

impl MeasureClient {
    /// A session with its `hello` ready to be sent.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests a stage; the previous one must be measured. If it is the wire, the body must follow at once.
    pub fn request(&mut self, measure: Measure) {
        debug_assert_eq!(self.phase, MeasurePhase::Ready);
        self.phase = MeasurePhase::Measuring(measure);
        Message::Measure(measure).encode(&mut self.out);
    }

    /// Ends the session after the last stage.
    pub fn end(&mut self) {
        self.phase = MeasurePhase::Ended;
        Message::End { entries: 0 }.encode(&mut self.out);
    }

    /// Sends a keepalive.
    pub fn keepalive(&mut self) {
        // The protocol allows no keepalive before the welcome.
        if self.phase != MeasurePhase::Hello {
            Message::Busy.encode(&mut self.out);
        }
    }

    /// Ends the session with an error.
    pub fn abort(&mut self, code: ErrorCode, reason: &str) {
        Message::Error(ErrorReport { entry: None, code, message: reason.to_owned() }).encode(&mut self.out);
    }

    /// Handles the JSON of one frame.
    pub fn handle(&mut self, json: &[u8]) -> Result<MeasureEvent, WireError> {
        let message = Message::parse(json)?;
        match (self.phase, message) {
            (_, Message::Error(ErrorReport { entry: None, code, message })) => {
                Err(WireError::PeerAborted { code, message })
            }
            (MeasurePhase::Hello, Message::Welcome(welcome)) => self.welcomed(welcome),
            (MeasurePhase::Hello | MeasurePhase::Done, other) => Err(WireError::unexpected(&other)),
            (_, Message::Busy) => Ok(MeasureEvent::Nothing),
            (MeasurePhase::Measuring(requested), Message::Measured(measured)) => {
                self.measured(requested, measured)
            }
            (MeasurePhase::Ended, Message::Receipt(receipt)) => {
                if (Receipt { spent: None, ..receipt }) != Receipt::default() {
                    return Err(WireError::protocol("a receipt for entries that were never announced"));
                }
                self.phase = MeasurePhase::Done;
                Ok(MeasureEvent::Receipt)
            }
            (_, other) => Err(WireError::unexpected(&other)),
        }
    }

    fn welcomed(&mut self, welcome: Hello) -> Result<MeasureEvent, WireError> {
        if welcome.version != VERSION {
            return Err(WireError::Version { theirs: welcome.version });
        }
        if !welcome.has(FEATURE_MEASURE) {
            return Err(WireError::NoFeature { feature: FEATURE_MEASURE, agent: welcome.agent });
        }
        self.phase = MeasurePhase::Ready;
        Ok(MeasureEvent::Ready)
    }

    fn measured(&mut self, requested: Measure, measured: Measured) -> Result<MeasureEvent, WireError> {
        // A stage may stop early, except for the wire, whose body is received to its end.
        let is_valid = match requested.what {
            Measurable::Wire => measured.bytes == requested.size_bytes,
            _ => measured.bytes <= requested.size_bytes,
        };
        if !is_valid || measured.elapsed_ns == 0 {
            return Err(WireError::protocol(format!(
                "{} bytes measured in {} ns, {} bytes requested",
                measured.bytes, measured.elapsed_ns, requested.size_bytes
            )));
        }
        self.phase = MeasurePhase::Ready;
        Ok(MeasureEvent::Measured(measured))
    }

    /// Takes the bytes to be sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELCOME: &[u8] = br#"{"ftx":"welcome","version":1,"features":["measure"]}"#;

    fn measuring(what: Measurable) -> MeasureClient {
        let mut session = MeasureClient::new();
        assert_eq!(session.handle(WELCOME), Ok(MeasureEvent::Ready));
        session.request(Measure { what, size_bytes: 5 });
        session
    }

    #[test]
    fn each_measure_has_one_result_and_the_end_a_receipt() {
        let mut session = measuring(Measurable::Write);
        assert_eq!(session.handle(br#"{"ftx":"busy"}"#), Ok(MeasureEvent::Nothing));
        let answer = br#"{"ftx":"measured","bytes":4,"ns":7,"memory":true}"#;
        let measured = Measured { bytes: 4, elapsed_ns: 7, memory: true };
        assert_eq!(session.handle(answer), Ok(MeasureEvent::Measured(measured)));
        assert!(session.handle(answer).is_err(), "a second result");
        session.end();
        let receipt = br#"{"ftx":"receipt","entries":0,"stored":0,"skipped":0,"failed":0,"bytes":0}"#;
        assert_eq!(session.handle(receipt), Ok(MeasureEvent::Receipt));
    }

    #[test]
    fn each_call_sends_one_frame_and_a_keepalive_only_after_the_welcome() {
        let sent = |session: &mut MeasureClient| -> Vec<Message> {
            let mut buffer = crate::wire::FrameBuffer::new();
            buffer.push(&session.take_output());
            let mut messages = Vec::new();
            while let Some(json) = buffer.next_frame(crate::wire::Framing::Native).unwrap() {
                messages.push(Message::parse(json).unwrap());
            }
            messages
        };
        let mut session = MeasureClient::new();
        session.keepalive();
        assert_eq!(sent(&mut session), [Message::Hello(Hello::ours(&[FEATURE_MEASURE], None))]);
        session.handle(WELCOME).unwrap();
        session.keepalive();
        let measure = Measure { what: Measurable::Md5, size_bytes: 5 };
        session.request(measure);
        assert_eq!(sent(&mut session), [Message::Busy, Message::Measure(measure)]);
        session.handle(br#"{"ftx":"measured","bytes":5,"ns":1}"#).unwrap();
        session.end();
        session.abort(ErrorCode::Timeout, "late");
        let report = ErrorReport { entry: None, code: ErrorCode::Timeout, message: "late".into() };
        assert_eq!(sent(&mut session), [Message::End { entries: 0 }, Message::Error(report)]);
        // The busy time in a receipt is allowed, although there are no entries.
        let receipt = br#"{"ftx":"receipt","entries":0,"stored":0,"skipped":0,"failed":0,"bytes":0,
            "spent":{"disk_ms":1,"md5_ms":2,"network_ms":3}}"#;
        assert_eq!(session.handle(receipt), Ok(MeasureEvent::Receipt));
        assert_eq!(sent(&mut session), []);
    }

    #[test]
    fn missing_features_and_versions_are_distinct_errors() {
        let mut session = MeasureClient::new();
        let old = session.handle(br#"{"ftx":"welcome","version":1,"features":[],"agent":"ftx 0.0.9"}"#);
        assert_eq!(old, Err(WireError::NoFeature { feature: "measure", agent: "ftx 0.0.9".into() }));
        let mut session = MeasureClient::new();
        let newer = session.handle(br#"{"ftx":"welcome","version":2}"#);
        assert_eq!(newer, Err(WireError::Version { theirs: 2 }));
    }

    #[test]
    fn invalid_frames_of_a_receiver_end_the_session() {
        for (what, bad) in [
            (Measurable::Md5, r#"{"ftx":"measured","bytes":6,"ns":1}"#),
            (Measurable::Md5, r#"{"ftx":"measured","bytes":5,"ns":0}"#),
            (Measurable::Wire, r#"{"ftx":"measured","bytes":4,"ns":1}"#),
            (Measurable::Wire, r#"{"ftx":"welcome","version":1,"features":["measure"]}"#),
            (Measurable::Wire, r#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#),
            (Measurable::Wire, r#"{"ftx":"error","entry":0,"code":"exists"}"#),
            (
                Measurable::Wire,
                r#"{"ftx":"receipt","entries":0,"stored":0,"skipped":0,"failed":0,"bytes":0}"#,
            ),
        ] {
            assert!(matches!(measuring(what).handle(bad.as_bytes()), Err(WireError::Protocol(_))), "{bad}");
        }
        let mut session = measuring(Measurable::Md5);
        let refused = session.handle(br#"{"ftx":"error","code":"refused","message":"no"}"#);
        assert!(matches!(refused, Err(WireError::PeerAborted { .. })));
        let mut session = MeasureClient::new();
        assert!(matches!(session.handle(br#"{"ftx":"busy"}"#), Err(WireError::Protocol(_))));
        session.handle(WELCOME).unwrap();
        session.end();
        let forged = br#"{"ftx":"receipt","entries":1,"stored":1,"skipped":0,"failed":0,"bytes":0}"#;
        assert!(matches!(session.handle(forged), Err(WireError::Protocol(_))));
    }
}
