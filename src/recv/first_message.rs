//! The first frame of a connection, which tells what the connection is for.

use crate::recv::connection_reader::ConnectionReader;
use crate::recv::error::RecvError;
use crate::recv::native;
use crate::relpath::NamePolicy;
use crate::wire::classic::{ClassicError, ClassicHeader, parse_header};
use crate::wire::{Dialect, Framing, SessionId, receiver};

/// What a connection is for.
pub enum FirstMessage {
    Session(SessionStart),
    /// One more connection of a native session.
    Join(SessionId),
}

/// The first frame of a session.
pub enum SessionStart {
    Native {
        /// The JSON of the first frame.
        hello: Vec<u8>,
        /// The id by which the sender reconnects.
        session: Option<SessionId>,
        /// The session whose connection the sender has lost.
        continues: Option<SessionId>,
    },
    Classic {
        /// The header of the first file, or why that is refused.
        header: Result<ClassicHeader, ClassicError>,
    },
}

impl SessionStart {
    /// Refuses the session: with an error where its dialect has one.
    pub fn reject(&self, reader: &ConnectionReader, error: &RecvError) {
        match self {
            SessionStart::Native { .. } => native::reject(reader, error),
            SessionStart::Classic { .. } => reader.reset(),
        }
    }
}

const HTTP_RESPONSE: &[u8] =
    b"HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\
Connection: close\r\n\r\nThis is ftx, a file receiver. It takes files from: ftx send PATH\n";

/// Reads the first frame; `None` if the peer sends nothing at all. A refused connection is closed, after an error in its
/// dialect.
pub fn read_first_message(
    reader: &mut ConnectionReader,
    names: NamePolicy,
) -> Result<Option<FirstMessage>, RecvError> {
    let message = match reader.detect_dialect() {
        Ok(None) => return Ok(None),
        Ok(Some(Dialect::Classic)) => read_header(reader, names)?,
        Ok(Some(Dialect::Native)) => read_hello(reader).inspect_err(|error| native::reject(reader, error))?,
        Ok(Some(Dialect::Tls)) => {
            reader.close();
            return Err(RecvError::UnsupportedDialect("TLS"));
        }
        Ok(Some(Dialect::Http)) => {
            // The client is no sender, so the outcome does not matter.
            let _ = reader.connection().write_all(HTTP_RESPONSE);
            reader.close();
            return Err(RecvError::UnsupportedDialect("HTTP"));
        }
        // Its dialect is not known.
        Err(RecvError::Evicted) => return Err(RecvError::Evicted),
        Err(error) => {
            reader.close();
            return Err(error);
        }
    };
    reader.handshake_done();
    Ok(Some(message))
}

fn read_hello(reader: &mut ConnectionReader) -> Result<FirstMessage, RecvError> {
    let first = reader.frame(Framing::Native)?.ok_or_else(|| RecvError::Truncated("a header".into()))?;
    Ok(match receiver::parse_first_frame(first)? {
        receiver::FirstFrame::Joins(session) => FirstMessage::Join(session),
        receiver::FirstFrame::Begins { session, continues } => {
            FirstMessage::Session(SessionStart::Native { hello: first.to_vec(), session, continues })
        }
    })
}

fn read_header(reader: &mut ConnectionReader, names: NamePolicy) -> Result<FirstMessage, RecvError> {
    let first = reader.frame(Framing::Classic)?.ok_or_else(|| RecvError::Truncated("a header".into()))?;
    let header = match parse_header(first, names) {
        // It is a sender, even if its file is refused.
        header @ (Ok(_) | Err(ClassicError::Name { .. })) => header,
        Err(error) => {
            reader.reset();
            return Err(error.into());
        }
    };
    if reader.has_buffered() || header.as_ref().is_ok_and(|header| header.size_bytes == 0) {
        // The beginning of the body, or all of it: its sender may be gone already, so the session keeps its slot.
        reader.handle().record_bytes(0);
    }
    Ok(FirstMessage::Session(SessionStart::Classic { header }))
}
