//! The first frame of a connection.

use crate::wire::error::WireError;
use crate::wire::message::{Hello, Join, Message, SessionId};

/// What the first frame of a connection asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstFrame {
    /// To join this session.
    Joins(SessionId),
    /// To begin a session.
    Begins {
        /// Its id.
        session: Option<SessionId>,
        /// The session that it replaces, because the sender lost that connection.
        continues: Option<SessionId>,
    },
}

/// Parses the first frame of a connection.
pub fn parse_first_frame(json: &[u8]) -> Result<FirstFrame, WireError> {
    match Message::parse(json)? {
        Message::Join(Join { session }) => Ok(FirstFrame::Joins(session)),
        Message::Hello(Hello { session, continues, .. }) => Ok(FirstFrame::Begins { session, continues }),
        _ => Err(WireError::protocol("the first frame is not a hello")),
    }
}
