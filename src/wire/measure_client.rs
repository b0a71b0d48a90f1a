//! The asking end of a session that measures, as a state machine: frames in, [`Event`]s and frames out.
//!
//! ```text
//! hello  -> welcome          both name the feature
//! measure (+ body) -> measured
//! end 0  -> receipt
//! ```

use super::message::{ErrorReport, FEATURE_MEASURE, Hello, Measurable, Measure, Measured, Message, Receipt};
use super::{VERSION, WireError};
use crate::error_code::ErrorCode;

/// What a frame tells the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeasureEvent {
    /// Nothing.
    Nothing,
    /// The receiver is there and can measure.
    Ready,
    /// How the stage went that was asked for: at most the bytes that were asked for, in at least a nanosecond.
    Measured(Measured),
    /// The last word.
    Receipt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Hello,
    Ready,
    Asked(Measure),
    Ended,
    Done,
}

/// See the module's page.
#[derive(Debug)]
pub struct MeasureClient {
    stage: Stage,
    out: Vec<u8>,
}

impl Default for MeasureClient {
    fn default() -> Self {
        let mut out = Vec::new();
        Message::Hello(Hello::ours(&[FEATURE_MEASURE], None)).encode(&mut out);
        MeasureClient { stage: Stage::Hello, out }
    }
}

impl MeasureClient {
    /// A session with its `hello` ready to be sent.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a stage, when the one before is measured. Of the wire, the body must follow at once.
    pub fn ask(&mut self, measure: Measure) {
        debug_assert_eq!(self.stage, Stage::Ready);
        self.stage = Stage::Asked(measure);
        Message::Measure(measure).encode(&mut self.out);
    }

    /// Says that nothing more will be asked.
    pub fn end(&mut self) {
        self.stage = Stage::Ended;
        Message::End { entries: 0 }.encode(&mut self.out);
    }

    /// Tells the receiver that the silence means patience.
    pub fn keepalive(&mut self) {
        // Before the welcome a receiver expects nothing else.
        if self.stage != Stage::Hello {
            Message::Busy.encode(&mut self.out);
        }
    }

    /// Tells the receiver why the session ends here.
    pub fn give_up(&mut self, fault: ErrorCode, reason: &str) {
        Message::Error(ErrorReport { entry: None, fault, message: reason.to_owned() }).encode(&mut self.out);
    }

    /// Takes the JSON of one frame.
    pub fn handle(&mut self, json: &[u8]) -> Result<MeasureEvent, WireError> {
        let message = Message::parse(json)?;
        match (self.stage, message) {
            (_, Message::Error(ErrorReport { entry: None, fault, message })) => {
                Err(WireError::PeerGaveUp { fault, message })
            }
            (Stage::Hello, Message::Welcome(welcome)) => self.welcomed(welcome),
            (Stage::Hello | Stage::Done, other) => Err(WireError::out_of_place(&other)),
            (_, Message::Busy) => Ok(MeasureEvent::Nothing),
            (Stage::Asked(asked), Message::Measured(measured)) => self.measured(asked, measured),
            (Stage::Ended, Message::Receipt(receipt)) => {
                if (Receipt { spent: None, ..receipt }) != Receipt::default() {
                    return Err(WireError::protocol("a receipt for entries that were never announced"));
                }
                self.stage = Stage::Done;
                Ok(MeasureEvent::Receipt)
            }
            (_, other) => Err(WireError::out_of_place(&other)),
        }
    }

    fn welcomed(&mut self, welcome: Hello) -> Result<MeasureEvent, WireError> {
        if welcome.version != VERSION {
            return Err(WireError::Version { theirs: welcome.version });
        }
        if !welcome.has(FEATURE_MEASURE) {
            return Err(WireError::NoFeature { feature: FEATURE_MEASURE, agent: welcome.agent });
        }
        self.stage = Stage::Ready;
        Ok(MeasureEvent::Ready)
    }

    fn measured(&mut self, asked: Measure, measured: Measured) -> Result<MeasureEvent, WireError> {
        let whole = asked.what == Measurable::Wire;
        let fits = measured.bytes <= asked.size_bytes && (!whole || measured.bytes == asked.size_bytes);
        if !fits || measured.elapsed_ns == 0 {
            return Err(WireError::protocol(format!(
                "{} bytes measured in {} ns, where {} bytes were asked for",
                measured.bytes, measured.elapsed_ns, asked.size_bytes
            )));
        }
        self.stage = Stage::Ready;
        Ok(MeasureEvent::Measured(measured))
    }

    /// What is to be sent, and forgets it.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELCOME: &[u8] = br#"{"ftx":"welcome","version":1,"features":["measure"]}"#;

    fn asked(what: Measurable) -> MeasureClient {
        let mut session = MeasureClient::new();
        assert_eq!(session.handle(WELCOME), Ok(MeasureEvent::Ready));
        session.ask(Measure { what, size_bytes: 5 });
        session
    }

    #[test]
    fn a_question_gets_one_answer_and_the_end_a_receipt() {
        let mut session = asked(Measurable::Write);
        assert_eq!(session.handle(br#"{"ftx":"busy"}"#), Ok(MeasureEvent::Nothing));
        let answer = br#"{"ftx":"measured","bytes":4,"ns":7,"memory":true}"#;
        let measured = Measured { bytes: 4, elapsed_ns: 7, memory: true };
        assert_eq!(session.handle(answer), Ok(MeasureEvent::Measured(measured)));
        assert!(session.handle(answer).is_err(), "once");
        session.end();
        let receipt = br#"{"ftx":"receipt","entries":0,"stored":0,"skipped":0,"failed":0,"bytes":0}"#;
        assert_eq!(session.handle(receipt), Ok(MeasureEvent::Receipt));
    }

    #[test]
    fn each_step_is_said_once_and_a_keepalive_only_after_the_welcome() {
        let said = |session: &mut MeasureClient| -> Vec<Message> {
            let mut inbox = crate::wire::FrameBuffer::new();
            inbox.push(&session.take_output());
            let mut said = Vec::new();
            while let Some(json) = inbox.next_frame(crate::wire::Framing::Native).unwrap() {
                said.push(Message::parse(json).unwrap());
            }
            said
        };
        let mut session = MeasureClient::new();
        session.keepalive();
        assert_eq!(said(&mut session), [Message::Hello(Hello::ours(&[FEATURE_MEASURE], None))]);
        session.handle(WELCOME).unwrap();
        session.keepalive();
        let measure = Measure { what: Measurable::Md5, size_bytes: 5 };
        session.ask(measure);
        assert_eq!(said(&mut session), [Message::Busy, Message::Measure(measure)]);
        session.handle(br#"{"ftx":"measured","bytes":5,"ns":1}"#).unwrap();
        session.end();
        session.give_up(ErrorCode::Timeout, "late");
        let failure = ErrorReport { entry: None, fault: ErrorCode::Timeout, message: "late".into() };
        assert_eq!(said(&mut session), [Message::End { entries: 0 }, Message::Error(failure)]);
        // What the receiver was busy with is told in the receipt, and is nothing that was announced.
        let receipt = br#"{"ftx":"receipt","entries":0,"stored":0,"skipped":0,"failed":0,"bytes":0,
            "spent":{"disk_ms":1,"md5_ms":2,"network_ms":3}}"#;
        assert_eq!(session.handle(receipt), Ok(MeasureEvent::Receipt));
        assert_eq!(said(&mut session), []);
    }

    #[test]
    fn a_receiver_that_cannot_measure_is_told_from_one_that_is_broken() {
        let mut session = MeasureClient::new();
        let old = session.handle(br#"{"ftx":"welcome","version":1,"features":[],"agent":"ftx 0.0.9"}"#);
        assert_eq!(old, Err(WireError::NoFeature { feature: "measure", agent: "ftx 0.0.9".into() }));
        let mut session = MeasureClient::new();
        let newer = session.handle(br#"{"ftx":"welcome","version":2}"#);
        assert_eq!(newer, Err(WireError::Version { theirs: 2 }));
    }

    #[test]
    fn what_a_hostile_receiver_says_ends_the_session() {
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
            assert!(matches!(asked(what).handle(bad.as_bytes()), Err(WireError::Protocol(_))), "{bad}");
        }
        let mut session = asked(Measurable::Md5);
        let refused = session.handle(br#"{"ftx":"error","code":"refused","message":"no"}"#);
        assert!(matches!(refused, Err(WireError::PeerGaveUp { .. })));
        let mut session = MeasureClient::new();
        assert!(matches!(session.handle(br#"{"ftx":"busy"}"#), Err(WireError::Protocol(_))));
        session.handle(WELCOME).unwrap();
        session.end();
        let forged = br#"{"ftx":"receipt","entries":1,"stored":1,"skipped":0,"failed":0,"bytes":0}"#;
        assert!(matches!(session.handle(forged), Err(WireError::Protocol(_))));
    }
}
