//! Why an entry or a session failed: the stable codes that travel in `error` frames and become exit codes.

use std::fmt::{self, Display};
use std::io;

/// A stable reason. The spelling of [`Fault::as_str`] is part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// Something else than the entry is there already, or the same and the policy is `error`.
    Exists,
    /// The name, or the target of a link, is not acceptable to the receiver.
    Name,
    /// A device, FIFO, socket, or a link that leads outside: never sent.
    LeftOut,
    /// The source changed, shrank or vanished while it was sent.
    SourceChanged,
    /// The digest did not match, again and again.
    Digest,
    /// No space, or a quota.
    NoSpace,
    /// The file system takes no changes.
    ReadOnly,
    /// Whoever runs the program there may not write there.
    Permission,
    /// Any other failure to read or write a file.
    FileIo,
    /// The peer broke the protocol.
    Protocol,
    /// No version of the protocol in common.
    Version,
    /// Nothing was heard for too long.
    Timeout,
    /// The connection failed.
    Connection,
    /// The peer does not want this transfer.
    Refused,
    /// Somebody ended the program there: Ctrl-C, or a machine that shuts down.
    Interrupted,
    /// The receiver has too many connections; later it may have fewer.
    Busy,
    /// A reason this version does not know.
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
        Self::SPELLINGS.iter().find(|(fault, _)| *fault == self).map_or("other", |(_, text)| text)
    }

    /// Reads the spelling on the wire; a code from a later version is [`Fault::Other`].
    pub fn from_wire(text: &str) -> Self {
        Self::SPELLINGS
            .iter()
            .find(|(_, spelling)| *spelling == text)
            .map_or(ErrorCode::Other, |(fault, _)| *fault)
    }
}

impl Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the system says, without the number that it has for it: `connection refused`.
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
    fn the_system_speaks_in_words() {
        let refused = io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
        assert_eq!(in_words(&refused), "connection refused");
        assert_eq!(in_words(&io::ErrorKind::TimedOut.into()), "timed out");
    }

    #[test]
    fn spellings_go_both_ways() {
        for (fault, text) in ErrorCode::SPELLINGS {
            assert_eq!(fault.as_str(), text);
            assert_eq!(ErrorCode::from_wire(text), fault);
        }
        assert_eq!(ErrorCode::from_wire("from-the-future"), ErrorCode::Other);
    }
}
