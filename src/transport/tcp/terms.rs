//! What both ends of a connection must have in common before either believes a word of the other.
#![forbid(unsafe_code)]

use super::digest::digest;
use super::secret::Secret;
use std::fmt;

/// How the bytes of a connection are protected once its two ends know each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Guard {
    /// Not at all: TCP's own checksum, and nobody is kept from reading.
    Plain = 0,
    /// By a checksum, against accidents.
    Checksum = 1,
    /// By authenticated encryption, against accidents and people.
    Encryption = 2,
}

impl Guard {
    /// What the two settings come to. Encryption notices every change, so a checksum beside it would add nothing.
    pub fn new(encrypt: bool, checksum: bool) -> Guard {
        match (encrypt, checksum) {
            (true, _) => Guard::Encryption,
            (false, true) => Guard::Checksum,
            (false, false) => Guard::Plain,
        }
    }

    /// The guard that this byte stands for on the wire.
    pub fn from_code(code: u8) -> Option<Guard> {
        [Guard::Plain, Guard::Checksum, Guard::Encryption].into_iter().find(|guard| *guard as u8 == code)
    }
}

/// As the settings that make it.
impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Guard::Plain => "ROUNDEL_ENCRYPT=0 and ROUNDEL_CHECKSUM=0",
            Guard::Checksum => "ROUNDEL_ENCRYPT=0 and ROUNDEL_CHECKSUM=1",
            Guard::Encryption => "ROUNDEL_ENCRYPT=1",
        })
    }
}

/// The terms of a connection. Both ends state them, each from what it knows itself; where they differ in anything the
/// handshake fails, so that nothing of it can be changed on the way.
#[derive(Debug, Clone)]
pub struct Terms {
    /// What only ranks of the job know.
    pub(super) secret: Secret,
    /// What the connection is for: a digest of everything that names it.
    pub(super) purpose: [u8; 32],
    /// How it is protected. `None`: as the caller wishes, for a root that is there before its ranks and their settings.
    pub(super) guard: Option<Guard>,
}

impl Terms {
    /// For connections of the kind `label`, to what `parts` name together.
    pub fn new(secret: Secret, guard: Option<Guard>, label: &str, parts: &[&[u8]]) -> Terms {
        Terms { secret, purpose: digest(label, parts), guard }
    }
}
