//! The messages of a handshake on the wire: a magic, the protocol version, the guard, a length, then that many bytes.
//!
//! ```text
//!   'R' 'N' 'D' 'L' | version: u16 | guard: u8 | len_bytes: u16 | len_bytes bytes        (numbers big-endian)
//! ```
//!
//! Whoever connects may send anything, so the header is judged byte by byte as it arrives, the length is compared with
//! what this step of the handshake can need before room for it exists, and not one byte past the frame is read: what
//! follows on the stream belongs to whoever uses the connection next.
//!
//! Version and guard stand here in the clear so that two ends which differ can say so. They are part of what the handshake
//! proves too: changing them on the way only makes it fail.
#![forbid(unsafe_code)]

use super::terms::Guard;
use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// The version of everything that two ranks say to each other. Both must be the same.
pub const PROTOCOL_VERSION: u16 = 3;

const MAGIC: [u8; 4] = *b"RNDL";
const VERSION_AT: usize = 4;
const GUARD_AT: usize = 6;
const LENGTH_AT: usize = 7;
pub(super) const HEADER_BYTES: usize = 9;

fn header(guard: Guard, len_bytes: u16) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..VERSION_AT].copy_from_slice(&MAGIC);
    header[VERSION_AT..GUARD_AT].copy_from_slice(&PROTOCOL_VERSION.to_be_bytes());
    header[GUARD_AT] = guard as u8;
    header[LENGTH_AT..].copy_from_slice(&len_bytes.to_be_bytes());
    header
}

/// Collects one frame after the other, however they are cut up on their way.
pub struct Inbox {
    /// Of all frames; `None` until the first says it, where anything goes.
    guard: Option<Guard>,
    header: [u8; HEADER_BYTES],
    filled_bytes: usize,
    body: Vec<u8>,
}

impl Inbox {
    /// An empty one, for frames of this guard or of any.
    pub fn new(guard: Option<Guard>) -> Inbox {
        Inbox { guard, header: [0; HEADER_BYTES], filled_bytes: 0, body: Vec::new() }
    }

    /// The guard of the frames, if it is known.
    pub fn guard(&self) -> Option<Guard> {
        self.guard
    }

    /// The peer has begun like one of us.
    pub fn speaks_roundel(&self) -> bool {
        self.filled_bytes >= MAGIC.len() && self.header[..MAGIC.len()] == MAGIC
    }

    /// Where the next bytes of the stream go; empty when the frame is complete. An error when what came so far cannot
    /// become a frame of at most `limit_bytes`.
    pub fn room(&mut self, limit_bytes: usize) -> Result<&mut [u8]> {
        let seen = self.filled_bytes.min(HEADER_BYTES);
        let known = seen.min(MAGIC.len());
        if self.header[..known] != MAGIC[..known] {
            return Err(Error::bootstrap("it does not speak Roundel's protocol"));
        }
        if seen >= GUARD_AT {
            let version = u16::from_be_bytes([self.header[VERSION_AT], self.header[VERSION_AT + 1]]);
            if version != PROTOCOL_VERSION {
                return Err(Error::bootstrap(format!(
                    "it speaks protocol version {version}, this rank speaks {PROTOCOL_VERSION}; \
                     use the same Roundel on all ranks"
                )));
            }
        }
        if seen > GUARD_AT {
            let theirs = Guard::from_code(self.header[GUARD_AT])
                .ok_or_else(|| Error::bootstrap("it wants a protection that this Roundel does not know"))?;
            let mine = *self.guard.get_or_insert(theirs);
            if theirs != mine {
                return Err(Error::bootstrap(format!(
                    "it has {theirs}, this rank has {mine}; set both alike on all ranks"
                )));
            }
        }
        if seen < HEADER_BYTES {
            return Ok(&mut self.header[seen..]);
        }
        let len_bytes = usize::from(u16::from_be_bytes([self.header[LENGTH_AT], self.header[LENGTH_AT + 1]]));
        if len_bytes > limit_bytes {
            return Err(Error::bootstrap(format!(
                "it announced {len_bytes} bytes where at most {limit_bytes} make sense"
            )));
        }
        self.body.resize(len_bytes, 0);
        Ok(&mut self.body[self.filled_bytes - HEADER_BYTES..])
    }

    /// So many bytes of `room` were filled.
    pub fn filled(&mut self, len_bytes: usize) {
        self.filled_bytes += len_bytes;
    }

    /// The complete frame; the next one may come.
    pub(super) fn taken(&mut self) -> Vec<u8> {
        self.filled_bytes = 0;
        std::mem::take(&mut self.body)
    }

    /// Reads what is there, never past the frame: the frame once it is complete, `None` while it is not.
    pub fn read(&mut self, stream: &TcpStream, limit_bytes: usize) -> Result<Option<Vec<u8>>> {
        loop {
            let room = self.room(limit_bytes)?;
            if room.is_empty() {
                return Ok(Some(self.taken()));
            }
            match recv(stream.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => {
                    return Err(Error::refused_by_system(
                        "it closed the connection before the handshake was done",
                        "end of stream",
                        Errno::ECONNRESET as i32,
                    ));
                }
                Ok(len_bytes) => self.filled(len_bytes),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::system("reading a handshake", errno)),
            }
        }
    }
}

/// One frame as it goes over the wire.
pub(super) fn encode(guard: Guard, body: &[u8]) -> Vec<u8> {
    let len_bytes = u16::try_from(body.len()).expect("handshake frames are small");
    [&header(guard, len_bytes), body].concat()
}

/// Sends one frame. It is smaller than the send buffer of any socket, and a handshake has at most one under way, so it
/// goes at once or the connection is not worth keeping.
pub fn write(stream: &TcpStream, guard: Guard, body: &[u8]) -> Result<()> {
    let bytes = encode(guard, body);
    loop {
        match send(stream.as_raw_fd(), &bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(_) | Err(Errno::EAGAIN) => return Err(Error::bootstrap("it does not read what it is sent")),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::system("writing a handshake", errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GUARD: Guard = Guard::Checksum;

    /// Feeds `bytes` in pieces of `piece_bytes`; the frame and what was left over.
    fn decode(bytes: &[u8], piece_bytes: usize, limit_bytes: usize) -> Result<Option<(Vec<u8>, usize)>> {
        let (mut inbox, mut rest) = (Inbox::new(Some(GUARD)), bytes);
        loop {
            let room = inbox.room(limit_bytes)?;
            assert!(room.len() <= limit_bytes.max(HEADER_BYTES), "room is bounded by the limit");
            if room.is_empty() {
                return Ok(Some((inbox.body, rest.len())));
            }
            if rest.is_empty() {
                return Ok(None);
            }
            let len_bytes = room.len().min(piece_bytes).min(rest.len());
            room[..len_bytes].copy_from_slice(&rest[..len_bytes]);
            inbox.filled(len_bytes);
            rest = &rest[len_bytes..];
        }
    }

    proptest! {
        #[test]
        fn a_frame_survives_any_cutting_and_nothing_after_it_is_taken(
            body in proptest::collection::vec(any::<u8>(), 0..300),
            tail in proptest::collection::vec(any::<u8>(), 0..20),
            piece_bytes in 1usize..50,
        ) {
            let bytes = [&header(GUARD, body.len() as u16)[..], &body, &tail].concat();
            prop_assert_eq!(decode(&bytes, piece_bytes, 300).unwrap(), Some((body, tail.len())));
        }

        #[test]
        fn any_bytes_are_judged_without_panic_or_large_room(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..100),
            honest_bytes in 0usize..9,
            piece_bytes in 1usize..20,
        ) {
            let honest_bytes = honest_bytes.min(bytes.len());
            bytes[..honest_bytes].copy_from_slice(&header(GUARD, 0)[..honest_bytes]);
            if let Ok(Some((body, _))) = decode(&bytes, piece_bytes, 64) {
                prop_assert!(body.len() <= 64);
            }
        }
    }

    #[test]
    fn the_first_wrong_byte_is_enough() {
        assert!(decode(b"RX", 1, 64).unwrap_err().to_string().contains("does not speak"));
        assert!(decode(b"RNDL\0\x63", 1, 64).unwrap_err().to_string().contains("version 99"));
        assert!(decode(b"RNDL\0\x03\x07", 1, 64).unwrap_err().to_string().contains("does not know"));
        let guarded = decode(b"RNDL\0\x03\x02", 1, 64).unwrap_err().to_string();
        assert!(guarded.contains("it has ROUNDEL_ENCRYPT=1, this rank has ROUNDEL_ENCRYPT=0"), "{guarded}");
        assert!(decode(b"RNDL\0\x03\x01\xff\xff", 1, 64).unwrap_err().to_string().contains("65535 bytes"));
        assert_eq!(decode(b"RNDL\0\x03\x01\0\x02a", 1, 64).unwrap(), None);
    }
}
