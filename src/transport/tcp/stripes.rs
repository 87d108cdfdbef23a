//! The stream of bytes over the sockets of one rail, by turns. One TCP connection moves as much as its window and one core
//! allow; several move more. Both ends count the same stripes, so nothing needs a header:
//!
//! ```text
//!   bytes     0        128 K      256 K      384 K      512 K
//!   stream    |  stripe 0 |  stripe 1 |  stripe 2 |  stripe 3 | ...
//!   socket         0           1           2           0            (three sockets)
//! ```
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::memory::Span;
use crate::types::Rank;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

/// Bytes that go over one socket before it is the next one's turn.
const STRIPE_BYTES: usize = 128 * 1024;

/// Which socket the stream of bytes has come to, in one direction.
pub(super) struct Stripes {
    peer: Rank,
    streams: Arc<[TcpStream]>,
    at: usize,
    left_bytes: usize,
    stripe_bytes: usize,
}

impl Stripes {
    pub(super) fn new(peer: Rank, streams: Arc<[TcpStream]>) -> Stripes {
        // A single socket never takes turns.
        let stripe_bytes = if streams.len() == 1 { usize::MAX } else { STRIPE_BYTES };
        Stripes { peer, streams, at: 0, left_bytes: stripe_bytes, stripe_bytes }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.streams[self.at].as_fd()
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }

    /// The leading part of `span` that belongs to this stripe, of which `before_bytes` are already spoken for.
    pub(super) fn here(&self, span: Span, before_bytes: usize) -> Span {
        span.cut(0, span.len().min(self.left_bytes - before_bytes))
    }

    fn advance(&mut self, len_bytes: usize) {
        self.left_bytes -= len_bytes;
        if self.left_bytes == 0 {
            self.at = (self.at + 1) % self.streams.len();
            self.left_bytes = self.stripe_bytes;
        }
    }

    /// Sends what the socket takes of `first` and then of `second`; 0 when it is full.
    pub(super) fn write(&mut self, first: Span, second: Span) -> Result<usize> {
        let fd = self.fd();
        self.moved(if first.is_empty() {
            second.write_to_fd(fd)
        } else if second.is_empty() {
            first.write_to_fd(fd)
        } else {
            first.write_two_to_fd(second, fd)
        })
    }

    /// Fills what the socket has of `first` and then of `second`; 0 when it is empty.
    pub(super) fn read(&mut self, first: Span, second: Span) -> Result<usize> {
        let fd = self.fd();
        let got = if second.is_empty() { first.read_from_fd(fd) } else { first.read_two_from_fd(second, fd) };
        // No byte where some could come: the peer has finished.
        self.moved(if got == Ok(0) { Err(Errno::ECONNRESET) } else { got })
    }

    /// Sends what the socket takes of `bytes`: all that it takes is less than `bytes` only when it is full.
    pub(super) fn write_bytes(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut sent_bytes = 0;
        while sent_bytes < bytes.len() {
            let end = bytes.len().min(sent_bytes + self.left_bytes.min(bytes.len()));
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let sent = send(self.raw_fd(), &bytes[sent_bytes..end], flags);
            match self.moved(sent)? {
                0 => break,
                more => sent_bytes += more,
            }
        }
        Ok(sent_bytes)
    }

    /// Fills what the socket has of `room`; 0 when it is empty.
    pub(super) fn read_bytes(&mut self, room: &mut [u8]) -> Result<usize> {
        let len_bytes = room.len().min(self.left_bytes);
        let got = recv(self.raw_fd(), &mut room[..len_bytes], MsgFlags::MSG_DONTWAIT);
        self.moved(if got == Ok(0) { Err(Errno::ECONNRESET) } else { got })
    }

    fn moved(&mut self, outcome: nix::Result<usize>) -> Result<usize> {
        match outcome {
            Ok(len_bytes) => {
                self.advance(len_bytes);
                Ok(len_bytes)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(Errno::ECONNRESET | Errno::EPIPE) => Err(self.lost("closed its connection".into())),
            Err(errno) => Err(self.lost(format!("cannot be reached any more ({})", errno.desc()))),
        }
    }

    fn lost(&self, what: String) -> Error {
        Error::PeerLost { suspects: vec![self.peer], what, during: None }
    }

    /// Both ends of the way, for people.
    pub(super) fn ends(&self) -> String {
        let [from, to] = [self.streams[0].peer_addr(), self.streams[0].local_addr()]
            .map(|addr| addr.map_or_else(|_| "?".to_string(), |addr| addr.to_string()));
        format!("the link from {from} to {to}")
    }
}
