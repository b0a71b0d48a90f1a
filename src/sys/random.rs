//! Random bytes of the operating system.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// Random bytes, fit for secrets. The system fills so few in one call.
///
/// # Errors
///
/// The system has no source of randomness, or a signal came while it waited for one.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    const { assert!(N <= 256, "getrandom(2) may return fewer than asked above 256 bytes") };
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}
