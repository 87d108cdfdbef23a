//! What a newcomer needs to find a job that runs: its name, its secret, and where its ranks are. Any rank that lives can
//! show the way to the root; should none of these live any more, so can the job's store, if it has one.
//!
//! Whoever reads it can join the job: pass it as you would pass a password.
#![forbid(unsafe_code)]

use super::digest::digest;
use super::unique_id::from_hex;
use crate::error::{Error, Result};
use crate::transport::tcp::Secret;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::str::FromStr;

const VERSION: u8 = 2;
const CHECKSUM_BYTES: usize = 8;
/// Doors that are named: enough that some of them live on.
const MAX_DOORS: usize = super::store::MAX_DOORS;

/// The way into a job. Made by [`Communicator::invitation`](crate::Communicator::invitation), written and read as text.
///
/// ```
/// # use roundel::{Communicator, Options};
/// use roundel::bootstrap::Invitation;
/// let ranks = Communicator::threads(2, Options::default())?;
/// let text = ranks[0].invitation()?.to_string();
/// assert!(text.parse::<Invitation>().is_ok() && "something".parse::<Invitation>().is_err());
/// # Ok::<(), roundel::Error>(())
/// ```
#[derive(Clone)]
pub struct Invitation {
    pub(super) secret: Secret,
    pub(super) job: [u8; 16],
    /// Tells this run of the job from others of its name.
    pub(super) run: u64,
    pub(super) doors: Vec<SocketAddr>,
}

impl Invitation {
    /// No invitation is longer as text.
    pub const MAX_TEXT_BYTES: usize = 4000;
}

/// As it travels.
#[derive(Serialize, Deserialize)]
struct Letter {
    version: u8,
    secret: [u8; 32],
    job: [u8; 16],
    run: u64,
    doors: Vec<SocketAddr>,
}

/// Hexadecimal digits, the secret among them.
impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doors = self.doors.iter().take(MAX_DOORS).copied().collect();
        let letter = Letter { version: VERSION, secret: *self.secret.as_bytes(), job: self.job, run: self.run, doors };
        let mut bytes = postcard::to_stdvec(&letter).map_err(|_| fmt::Error)?;
        bytes.extend(checksum(&bytes));
        let mut digits = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            write!(digits, "{byte:02x}")?;
        }
        f.pad(&digits)
    }
}

impl FromStr for Invitation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Invitation> {
        let refused = |why: &str| Error::invalid(format!("not an invitation to a Roundel job: {why}"));
        let bytes = from_hex(text.trim()).ok_or_else(|| refused("it is written in hexadecimal digits"))?;
        let (letter, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(|| refused("it is too short"))?;
        if checksum(letter) != *sum {
            return Err(refused("damaged on its way (the checksum differs)"));
        }
        let letter: Letter = postcard::from_bytes(letter).map_err(|_| refused("it makes no sense"))?;
        if letter.version != VERSION || letter.doors.is_empty() || letter.doors.len() > MAX_DOORS {
            return Err(refused("it was made by another version, or names no rank"));
        }
        let Letter { secret, job, run, doors, .. } = letter;
        Ok(Invitation { secret: Secret::from_bytes(secret), job, run, doors })
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invitation({:?}, secret ..)", self.doors)
    }
}

fn checksum(letter: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&digest("roundel invitation", &[letter])[..CHECKSUM_BYTES]);
    checksum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn invitation(doors: usize) -> Invitation {
        let door = |index: usize| SocketAddr::from(([10, 0, 0, index as u8], 2000));
        let doors = (0..doors).map(door).collect();
        Invitation { secret: Secret::from_bytes([7; 32]), job: [9; 16], run: 5, doors }
    }

    #[test]
    fn it_survives_its_journey_and_keeps_its_secret_out_of_logs() {
        let read: Invitation = format!(" {}\n", invitation(3)).parse().unwrap();
        assert_eq!((read.doors, read.job, read.run), (invitation(3).doors, [9; 16], 5));
        assert!(!format!("{:?}", invitation(1)).contains("07"));
        assert_eq!(invitation(1000).to_string().parse::<Invitation>().unwrap().doors.len(), MAX_DOORS);
        assert!(invitation(0).to_string().parse::<Invitation>().is_err());
        let farthest = Invitation { doors: vec![SocketAddr::from(([0xffff; 8], u16::MAX)); 1000], ..invitation(1) };
        assert!((1000..=Invitation::MAX_TEXT_BYTES).contains(&farthest.to_string().len()));
    }

    proptest! {
        #[test]
        fn damage_is_noticed(at in 0usize..100, digit in 0u8..16) {
            let text = invitation(2).to_string();
            let digit = format!("{digit:x}");
            let at = at % text.len();
            let damaged = format!("{}{digit}{}", &text[..at], &text[at + 1..]);
            prop_assert_eq!(damaged.parse::<Invitation>().is_ok(), damaged == text);
            let _ = text[..at].parse::<Invitation>();
        }
    }
}
