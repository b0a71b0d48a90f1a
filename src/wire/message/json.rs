//! JSON objects with the key `ftx`.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

use super::error::MessageError;

/// The key of every frame.
#[derive(Deserialize)]
struct Tag<'a> {
    #[serde(borrow)]
    ftx: Cow<'a, str>,
}

#[derive(Serialize)]
struct Tagged<'a, T> {
    ftx: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

/// A frame without further keys.
#[derive(Serialize, Deserialize)]
pub struct NoKeys {}

/// For `deserialize_with`: an optional key whose value is `null` counts as missing.
pub fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    value: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

/// The value of `ftx`.
pub fn kind_of(json: &[u8]) -> Result<Cow<'_, str>, MessageError> {
    if let Some(kind) = leading_kind(json) {
        return Ok(kind.into());
    }
    let tag: Tag = serde_json::from_slice(json).map_err(|error| MessageError::shape("?", error))?;
    Ok(tag.ftx)
}

/// The kind, if `ftx` is the first key and occurs once. Then the JSON is parsed once, not twice.
fn leading_kind(json: &[u8]) -> Option<&str> {
    let rest = json.strip_prefix(b"{\"ftx\":\"")?;
    // With backslashes, a key or a kind can be spelled in many ways.
    if memchr::memchr(b'\\', rest).is_some() {
        return None;
    }
    let (kind, rest) = rest.split_at(memchr::memchr(b'"', rest)?);
    let is_unique = memchr::memmem::find(rest, b"\"ftx\"").is_none();
    if is_unique { std::str::from_utf8(kind).ok() } else { None }
}

/// Parses a frame of this kind.
pub fn read<'a, T: Deserialize<'a>>(kind: &str, json: &'a [u8]) -> Result<T, MessageError> {
    serde_json::from_slice(json).map_err(|error| MessageError::shape(kind, error))
}

/// Appends `body` with the key `ftx` in front.
pub fn write_tagged(out: &mut Vec<u8>, ftx: &'static str, body: &impl Serialize) {
    write(out, &Tagged { ftx, body });
}

/// Appends `value`.
pub fn write(out: &mut Vec<u8>, value: &impl Serialize) {
    // Serializing plain structs of numbers and strings into memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}
