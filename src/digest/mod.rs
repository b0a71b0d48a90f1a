//! MD5 digests, and the parts of a file, which have one each.
//!
//! MD5 (RFC 1321) detects accidental damage: a flipped bit, a short write, a changed file. It does not detect attackers.

mod lanes;
mod many;
mod parts;

use std::fmt::{self, Display};
use std::str::FromStr;

use md5::Digest as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use lanes::{Md5Context, update_many};
pub use many::{digest_many, digest_ranges, kernel_name, lane_count};
pub use parts::{Etag, EtagError, MAX_ETAG_PARTS, PART_BYTES, PartDigests, PartLayout, PartRange};

/// An MD5 digest: 16 bytes, written as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Md5([u8; 16]);

/// Text that is not 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an MD5 digest is 32 hex digits")]
pub struct DigestError;

impl Md5 {
    /// The digest of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The 16 bytes of the digest.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for Md5 {
    fn from(bytes: [u8; 16]) -> Self {
        Md5(bytes)
    }
}

impl From<Md5Context> for Md5 {
    /// The digest of a message that is complete.
    fn from(message: Md5Context) -> Self {
        lanes::finish_many([(message, &[][..])])[0].into()
    }
}

impl FromStr for Md5 {
    type Err = DigestError;

    /// Parses 32 hex digits of either case.
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| DigestError)?;
        Ok(Md5(bytes))
    }
}

impl Md5 {
    fn with_digits<T>(&self, use_digits: impl FnOnce(&str) -> T) -> T {
        let mut digits = [0; 32];
        // Cannot fail: two ASCII digits for each byte.
        let _ = hex::encode_to_slice(self.0, &mut digits);
        use_digits(std::str::from_utf8(&digits).unwrap_or_default())
    }
}

impl Display for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_digits(|digits| f.write_str(digits))
    }
}

impl Serialize for Md5 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_digits(|digits| serializer.serialize_str(digits))
    }
}

impl<'de> Deserialize<'de> for Md5 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl de::Visitor<'_> for Digits {
            type Value = Md5;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an MD5 digest of 32 hex digits")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Md5, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Digits)
    }
}

impl fmt::Debug for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Md5({self})")
    }
}

/// Hashes one message, piece by piece.
#[derive(Clone, Default)]
pub struct Hasher(md5::Md5);

impl Hasher {
    /// A hasher without input.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a piece of the message.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Md5 {
        Md5(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test suite of RFC 1321, appendix A.5.
    #[test]
    fn rfc_1321_vectors() {
        for (message, digest) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("a", "0cc175b9c0f1b6a831c399e269772661"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        ] {
            assert_eq!(Md5::of(message.as_bytes()).to_string(), digest);
        }
    }

    #[test]
    fn hex_is_read_in_either_case_and_in_no_other_length() {
        let digest = Md5::of(b"abc");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_string().to_uppercase().parse(), Ok(digest));
        for bad in [
            "",
            "900150983cd24fb0d6963f7d28e17f7",
            "900150983cd24fb0d6963f7d28e17f720",
            "g00150983cd24fb0d6963f7d28e17f72",
        ] {
            assert_eq!(bad.parse::<Md5>(), Err(DigestError), "{bad}");
        }
    }
}
