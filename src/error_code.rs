//! Why an entry or a session failed: the stable codes of `error` frames, which also select exit codes.

use std::fmt::{self, Display};
use std::io;

/// A stable reason. The spelling of [`ErrorCode::as_str`] is part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// The name is taken by something else, or by an identical file and the policy is `error`.
    Exists,
    /// The receiver refuses the name, or the target of a link.
    Name,
    /// A device, FIFO or socket, or a link that points outside the transfer: never sent.
    LeftOut,
    /// The source changed, shrank or vanished during the transfer.
    SourceChanged,
    /// The digest did not match in several attempts.
    Digest,
    /// No space, or a quota.
    NoSpace,
    /// The file system is read-only.
    ReadOnly,
    /// No permission to write.
    Permission,
    /// Any other failure to read or write a file.
    FileIo,
    /// The peer violated the protocol.
    Protocol,
    /// No version of the protocol in common.
    Version,
    /// No data arrived within the timeout.
    Timeout,
    /// The connection failed.
    Connection,
    /// The peer refused the transfer.
    Refused,
    /// The program was ended by a signal: Ctrl-C, or a shutdown of the machine.
    Interrupted,
    /// The receiver has too many connections; a later attempt may succeed.
    Busy,
    /// A reason that this version does not support.
    Other,
}

impl ErrorCode {
    const SPELLINGS: [(ErrorCode, &'static str); 17] = [
        (ErrorCode::Exists, "exists"),
        (ErrorCode::Name, "name"),
        (ErrorCode::LeftOut, "left-out"),
        (ErrorCode::SourceChanged, "source-changed"),
        (ErrorCode::Digest, "digest"),
        (ErrorCode::NoSpace, "no-space"),
        (ErrorCode::ReadOnly, "read-only"),
        (ErrorCode::Permission, "permission"),
        (ErrorCode::FileIo, "file-io"),
        (ErrorCode::Protocol, "protocol"),
        (ErrorCode::Version, "version"),
        (ErrorCode::Timeout, "timeout"),
        (ErrorCode::Connection, "connection"),
        (ErrorCode::Refused, "refused"),
        (ErrorCode::Interrupted, "interrupted"),
        (ErrorCode::Busy, "busy"),
        (ErrorCode::Other, "other"),
    ];

    /// The spelling on the wire.
    pub fn as_str(self) -> &'static str {
        Self::SPELLINGS.iter().find(|(code, _)| *code == self).map_or("other", |(_, text)| text)
    }

    /// Parses the spelling on the wire; an unknown code is [`ErrorCode::Other`].
    pub fn from_wire(text: &str) -> Self {
        Self::SPELLINGS
            .iter()
            .find(|(_, spelling)| *spelling == text)
            .map_or(ErrorCode::Other, |(code, _)| *code)
    }
}

impl Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The message of a system error in lower case, without its number: `connection refused`.
pub fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = words.chars();
    letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_are_shown_without_numbers() {
        let refused = io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
        assert_eq!(in_words(&refused), "connection refused");
        assert_eq!(in_words(&io::ErrorKind::TimedOut.into()), "timed out");
    }

    #[test]
    fn spellings_are_parsed_again() {
        for (code, text) in ErrorCode::SPELLINGS {
            assert_eq!(code.as_str(), text);
            assert_eq!(ErrorCode::from_wire(text), code);
        }
        assert_eq!(ErrorCode::from_wire("from-the-future"), ErrorCode::Other);
    }
}
