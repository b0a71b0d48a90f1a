//! `hello`, `welcome` and `join`: which session a connection belongs to, and what the two ends support.

use serde::{Deserialize, Serialize};

use super::json::null_as_default;
use crate::wire::limits::VERSION;

/// The feature of `join`: parts may be sent on several connections.
pub const FEATURE_STREAMS: &str = "streams";

/// The feature of `kept` and of etags in `stored`: the sender compares what the receiver verified with its own digests.
pub const FEATURE_ETAGS: &str = "etags";

/// The feature of `measure` and `measured`.
pub const FEATURE_MEASURE: &str = "measure";

/// The keys of `hello` and `welcome`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// In `hello` the highest version that the sender supports; in `welcome` the version of the session.
    pub version: u32,
    /// Optional abilities. In `hello` those that the sender would use, unknown ones are ignored; in `welcome` those of
    /// them that the session has.
    #[serde(default, deserialize_with = "null_as_default")]
    pub features: Vec<String>,
    /// In `hello`: the id by which further connections join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// In `hello`: the session that this one replaces, because its connection was lost. The receiver may not have
    /// detected the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<SessionId>,
    /// Program and version, for logs.
    #[serde(default, deserialize_with = "null_as_default")]
    pub agent: String,
}

impl Hello {
    /// The hello or welcome of this program.
    pub fn ours(features: &[&str], session: Option<SessionId>) -> Self {
        let agent = concat!("ftx ", env!("CARGO_PKG_VERSION")).to_owned();
        let features = features.iter().map(|&feature| feature.to_owned()).collect();
        Hello { version: VERSION, features, session, continues: None, agent }
    }

    /// Is `feature` in the list?
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|listed| listed == feature)
    }
}

/// The keys of `join`, the first frame of a further connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The session.
    pub session: SessionId,
}

/// Identifies a session: 128 random bits drawn by the sender, 32 hex digits on the wire. A client that has the id can
/// join the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// From random bytes.
    pub fn new(random: [u8; 16]) -> Self {
        SessionId(random)
    }
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The bits are a secret and do not belong in logs.
        f.write_str("SessionId")
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> String {
        hex::encode(id.0)
    }
}

impl TryFrom<String> for SessionId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| "a session is 32 hex digits")?;
        Ok(SessionId(bytes))
    }
}
