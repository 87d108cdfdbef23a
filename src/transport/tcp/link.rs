//! The two ends of a link over one or more TCP connections, which carry bytes both ways.
//!
//! Large pieces go straight from the caller's memory into the socket and from the socket into the caller's memory. Small
//! ones wait in a queue until `flush`, or until a large one takes them along, so that a header and its payload cost one
//! system call; a small `recv` in turn takes along a little of what follows it.
//!
//! One TCP connection moves as much as its window and one core allow; several move more. Then the stream of bytes is cut
//! into stripes that go round the sockets. Both ends count the same stripes, so nothing needs a header:
//!
//! ```text
//!   bytes     0        128 K      256 K      384 K      512 K
//!   stream    |  stripe 0 |  stripe 1 |  stripe 2 |  stripe 3 | ...
//!   socket         0           1           2           0            (three sockets)
//! ```
//!
//! Where the link is protected, what is striped is not the bytes themselves but records of them ([`record`]), in each
//! direction under the keys of the first connection: everything is copied once more on both ends, nothing else differs.
#![forbid(unsafe_code)]

use super::endpoint::Connection;
use super::fifo::Fifo;
use super::phase;
use super::record::{self, Opener, Sealer, Tampered};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transport::{Interest, Rx, Tx};
use crate::types::Rank;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::SockRef;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, LazyLock};

/// Bytes that go over one socket before it is the next one's turn.
const STRIPE_BYTES: usize = 128 * 1024;
/// What an end gathers, or receives for `arrived`.
const FIFO_BYTES: usize = 256 * 1024;
/// Pieces below this are gathered; a small `recv` looks this much ahead. Copying so little is cheaper than a system call.
const SMALL_BYTES: usize = 4 * 1024;
/// The most that one call moves, so that whoever polls several links gets round to the others: sending and receiving by
/// turns keeps what is on its way short, and so in the cache.
const BURST_BYTES: usize = 256 * 1024;
/// What an end that opens records reads at once: a few, so that most of a large one's bytes are not moved again.
const OPENER_BYTES: usize = 4 * record::MAX_PAYLOAD_BYTES;
/// What the kernel may hold of one socket's stream in each direction.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Makes the two ends of this rank's side of a link to `peer`. The other side lists the same connections in the same
/// order.
pub(super) fn link(peer: Rank, connections: Vec<Connection>) -> Result<(TcpTx, TcpRx)> {
    let (streams, sessions): (Vec<TcpStream>, Vec<_>) = connections.into_iter().unzip();
    let session = sessions.into_iter().next().expect("a link has a socket");
    let (sealer, opener) = session.split(OPENER_BYTES);
    for stream in &streams {
        // What is worth gathering has been gathered here; the kernel must not wait for more.
        stream.set_nodelay(true).map_err(|error| Error::system("setting TCP_NODELAY", error))?;
        avoid_pacing(stream);
        enlarge_buffers(stream).map_err(|error| Error::system("setting the socket's buffers", error))?;
    }
    let streams: Arc<[TcpStream]> = streams.into();
    let tx = TcpTx { stripes: Stripes::new(peer, streams.clone()), gathered: Fifo::new(FIFO_BYTES), sealer };
    let stripes = Stripes::new(peer, streams);
    let rx = TcpRx { stripes, early: Fifo::new(FIFO_BYTES), lent_bytes: 0, opener, ended: None };
    Ok((tx, rx))
}

/// Within a host there is nothing to congest, but a congestion control that paces (BBR) holds bytes back on timers there
/// too, which costs half of the throughput. Reno never does. Between hosts the administrator's choice stands.
fn avoid_pacing(stream: &TcpStream) {
    let (Ok(here), Ok(there)) = (stream.local_addr(), stream.peer_addr()) else { return };
    if here.ip() == there.ip() {
        // Not permitted everywhere, and only a matter of speed.
        let _ = SockRef::from(stream).set_tcp_congestion(b"reno");
    }
}

/// Large buffers from the start, where the system grants them. Left alone the kernel lets them grow while it learns what
/// the path can take, which a collective of a few megabytes does not live to see; but a size that was asked for stops
/// that growth, so less than all of it is worse than nothing.
fn enlarge_buffers(stream: &TcpStream) -> std::io::Result<()> {
    static IS_GRANTED: LazyLock<bool> = LazyLock::new(|| {
        ["/proc/sys/net/core/wmem_max", "/proc/sys/net/core/rmem_max"].iter().all(|path| {
            let limit = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<usize>().ok());
            limit.is_some_and(|limit_bytes| limit_bytes >= SOCKET_BUFFER_BYTES)
        })
    });
    if *IS_GRANTED {
        let socket = SockRef::from(stream);
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    }
    Ok(())
}

/// Which socket the stream of bytes has come to, in one direction.
struct Stripes {
    peer: Rank,
    streams: Arc<[TcpStream]>,
    at: usize,
    left_bytes: usize,
    stripe_bytes: usize,
}

impl Stripes {
    fn new(peer: Rank, streams: Arc<[TcpStream]>) -> Stripes {
        // A single socket never takes turns.
        let stripe_bytes = if streams.len() == 1 { usize::MAX } else { STRIPE_BYTES };
        Stripes { peer, streams, at: 0, left_bytes: stripe_bytes, stripe_bytes }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.streams[self.at].as_fd()
    }

    fn raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }

    /// The leading part of `span` that belongs to this stripe, of which `before_bytes` are already spoken for.
    fn here(&self, span: Span, before_bytes: usize) -> Span {
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
    fn write(&mut self, first: Span, second: Span) -> Result<usize> {
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
    fn read(&mut self, first: Span, second: Span) -> Result<usize> {
        let fd = self.fd();
        let got = if second.is_empty() { first.read_from_fd(fd) } else { first.read_two_from_fd(second, fd) };
        // No byte where some could come: the peer has finished.
        self.moved(if got == Ok(0) { Err(Errno::ECONNRESET) } else { got })
    }

    /// Sends what the socket takes of `bytes`: all that it takes is less than `bytes` only when it is full.
    fn write_bytes(&mut self, bytes: &[u8]) -> Result<usize> {
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
    fn read_bytes(&mut self, room: &mut [u8]) -> Result<usize> {
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

    fn tampered(&self, how: Tampered) -> Error {
        let [from, to] = [self.streams[0].peer_addr(), self.streams[0].local_addr()]
            .map(|addr| addr.map_or_else(|_| "?".to_string(), |addr| addr.to_string()));
        let what = format!("sent bytes that arrived changed: {how} on the link from {from} to {to}");
        Error::Corrupted { suspects: vec![self.peer], what, during: None }
    }
}

/// The sending end of a link over TCP.
pub struct TcpTx {
    stripes: Stripes,
    gathered: Fifo,
    /// Where the link is protected: the record on its way.
    sealer: Option<Sealer>,
}

impl TcpTx {
    /// The socket that [`Tx::interest`] names, for tests: they may not make one from a number.
    #[cfg(test)]
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stripes.fd()
    }

    /// Writes what was gathered and then `from`, as far as the socket takes it: how much of `from` went.
    fn write(&mut self, from: Span) -> Result<usize> {
        if self.sealer.is_some() {
            return self.write_records(from);
        }
        let mut taken_bytes = 0;
        loop {
            let pending = self.gathered.pending();
            let first = self.stripes.here(pending, 0);
            let rest = from.from(taken_bytes);
            let second = if first == pending { self.stripes.here(rest, first.len()) } else { Span::EMPTY };
            let offered_bytes = first.len() + second.len();
            if offered_bytes == 0 {
                return Ok(taken_bytes);
            }
            let sent_bytes = self.stripes.write(first, second)?;
            let of_first = sent_bytes.min(first.len());
            self.gathered.pop(of_first);
            taken_bytes += sent_bytes - of_first;
            if sent_bytes < offered_bytes {
                return Ok(taken_bytes);
            }
        }
    }
}

impl TcpTx {
    /// [`TcpTx::write`] where the link is protected: what is in a record on its way counts as gone.
    fn write_records(&mut self, from: Span) -> Result<usize> {
        let TcpTx { stripes, gathered, sealer: Some(sealer) } = self else { return Ok(0) };
        let mut taken_bytes = 0;
        loop {
            let sent_bytes = stripes.write_bytes(sealer.pending())?;
            sealer.sent(sent_bytes);
            let (early, late) = (gathered.pending(), from.from(taken_bytes));
            let of_early = early.len().min(record::MAX_PAYLOAD_BYTES);
            let of_late = late.len().min(record::MAX_PAYLOAD_BYTES - of_early);
            if !sealer.pending().is_empty() || of_early + of_late == 0 {
                return Ok(taken_bytes);
            }
            sealer.seal(of_early + of_late, |record| {
                let (first, second) = record.split_at_mut(of_early);
                early.read(first);
                late.read(second);
            });
            gathered.pop(of_early);
            taken_bytes += of_late;
        }
    }

    /// A record is on its way that the socket has not taken whole.
    fn has_sealed(&self) -> bool {
        self.sealer.as_ref().is_some_and(|sealer| !sealer.pending().is_empty())
    }
}

impl Tx for TcpTx {
    fn send(&mut self, from: Span) -> Result<usize> {
        if from.len() >= SMALL_BYTES {
            return self.write(phase::burst(from, BURST_BYTES));
        }
        if self.gathered.room().len() < from.len() {
            self.flush()?;
        }
        let room = self.gathered.room();
        let taken_bytes = from.len().min(room.len());
        room.cut(0, taken_bytes).copy_from(from.cut(0, taken_bytes));
        self.gathered.push(taken_bytes);
        Ok(taken_bytes)
    }

    fn reserve(&mut self, max_bytes: usize) -> Result<Span> {
        let wanted_bytes = max_bytes.min(FIFO_BYTES / 2);
        if self.gathered.room().len() < wanted_bytes {
            self.flush()?;
        }
        let room = self.gathered.room();
        if room.len() < wanted_bytes || !room.addr().is_multiple_of(8) {
            self.gathered.align_tail();
        }
        let room = self.gathered.room();
        if room.len() >= max_bytes {
            return Ok(room.cut(0, max_bytes));
        }
        // Less than was asked for, but still whole elements.
        Ok(room.cut(0, room.len() - room.len() % 8))
    }

    fn commit(&mut self, len_bytes: usize) -> Result<()> {
        self.gathered.push(len_bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<bool> {
        self.write(Span::EMPTY)?;
        Ok(self.gathered.pending().is_empty() && !self.has_sealed())
    }

    fn interest(&self) -> Option<Interest> {
        Some(Interest { fd: self.stripes.raw_fd(), readable: false, writable: true })
    }
}

/// The receiving end of a link over TCP.
pub struct TcpRx {
    stripes: Stripes,
    /// Received, and not yet where it belongs.
    early: Fifo,
    /// Given out by `arrived` and not released: must stay where it is.
    lent_bytes: usize,
    /// Where the link is protected: what has come of it and is not yet opened, or opened and not taken.
    opener: Option<Opener>,
    /// Why nothing more will come.
    ended: Option<Error>,
}

impl TcpRx {
    /// The socket that [`Rx::interest`] names, for tests.
    #[cfg(test)]
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stripes.fd()
    }

    /// Reads into `first` and then into `second`, both of this stripe. An end of the stream is remembered for when all
    /// before it is delivered.
    fn read(&mut self, first: Span, second: Span) -> usize {
        if self.ended.is_some() {
            return 0;
        }
        self.stripes.read(first, second).unwrap_or_else(|error| {
            self.ended = Some(error);
            0
        })
    }

    /// Fills `into` from opened records as far as they come. An end of the stream, or a record that was changed, is
    /// remembered for when all before it is delivered.
    fn read_records(&mut self, into: Span) -> usize {
        let TcpRx { stripes, opener: Some(opener), ended, .. } = self else { return 0 };
        let mut taken_bytes = 0;
        while taken_bytes < into.len() && ended.is_none() {
            let rest = into.from(taken_bytes);
            let step = match opener.opened() {
                Ok([]) => stripes.read_bytes(opener.room()).map(|got_bytes| {
                    opener.received(got_bytes);
                    got_bytes > 0
                }),
                Ok(opened) => {
                    let len_bytes = opened.len().min(rest.len());
                    rest.write(&opened[..len_bytes]);
                    opener.take(len_bytes);
                    taken_bytes += len_bytes;
                    Ok(true)
                }
                Err(how) => Err(stripes.tampered(how)),
            };
            match step {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => *ended = Some(error),
            }
        }
        taken_bytes
    }

    /// Reads into the queue until it holds `wanted_bytes`, or the socket has no more; and a little further.
    fn read_early(&mut self, wanted_bytes: usize) {
        if self.opener.is_some() {
            let room = self.early.room();
            let missing_bytes = wanted_bytes.saturating_sub(self.early.pending().len());
            let got_bytes = self.read_records(room.cut(0, missing_bytes.min(room.len())));
            return self.early.push(got_bytes);
        }
        while self.early.pending().len() < wanted_bytes {
            let missing_bytes = (wanted_bytes - self.early.pending().len()).max(SMALL_BYTES);
            let room = self.early.room();
            let room = self.stripes.here(room.cut(0, room.len().min(missing_bytes)), 0);
            let got_bytes = self.read(room, Span::EMPTY);
            self.early.push(got_bytes);
            if got_bytes < room.len() {
                return;
            }
        }
    }

    fn nothing<T>(&self, value: T) -> Result<T> {
        self.ended.clone().map_or(Ok(value), Err)
    }
}

impl Rx for TcpRx {
    fn arrived(&mut self, unit_bytes: usize, max_bytes: usize) -> Result<Span> {
        let pending = self.early.pending();
        let is_short = pending.len() < unit_bytes;
        if self.lent_bytes == 0 && (is_short || !pending.addr().is_multiple_of(unit_bytes)) {
            self.early.align_head();
        }
        if self.lent_bytes == 0 && is_short {
            self.read_early(max_bytes.min(FIFO_BYTES));
        }
        let ready_bytes = self.early.pending().len().min(max_bytes);
        let whole_bytes = ready_bytes - ready_bytes % unit_bytes;
        if whole_bytes == 0 {
            return self.nothing(Span::EMPTY);
        }
        self.lent_bytes = self.lent_bytes.max(whole_bytes);
        Ok(self.early.pending().cut(0, whole_bytes))
    }

    fn release(&mut self, len_bytes: usize) -> Result<()> {
        assert!(len_bytes <= self.lent_bytes, "released {len_bytes} of {} bytes", self.lent_bytes);
        self.lent_bytes -= len_bytes;
        self.early.pop(len_bytes);
        Ok(())
    }

    fn recv(&mut self, into: Span) -> Result<usize> {
        self.lent_bytes = 0;
        let early = self.early.pending();
        let mut taken_bytes = early.len().min(into.len());
        into.cut(0, taken_bytes).copy_from(early.cut(0, taken_bytes));
        self.early.pop(taken_bytes);
        let end = into.len().min(BURST_BYTES);
        if self.opener.is_some() && taken_bytes < end {
            taken_bytes += self.read_records(into.cut(taken_bytes, end - taken_bytes));
            return if taken_bytes == 0 && !into.is_empty() { self.nothing(0) } else { Ok(taken_bytes) };
        }
        // From here on nothing is early, unless the last read of the loop makes it so.
        while taken_bytes < end {
            let rest = self.stripes.here(into.cut(taken_bytes, end - taken_bytes), 0);
            let ahead = if rest.len() < SMALL_BYTES { self.early.room().cut(0, SMALL_BYTES) } else { Span::EMPTY };
            let got_bytes = self.read(rest, self.stripes.here(ahead, rest.len()));
            let of_rest = got_bytes.min(rest.len());
            self.early.push(got_bytes - of_rest);
            taken_bytes += of_rest;
            if of_rest < rest.len() {
                break;
            }
        }
        if taken_bytes == 0 && !into.is_empty() { self.nothing(0) } else { Ok(taken_bytes) }
    }

    fn interest(&self) -> Option<Interest> {
        Some(Interest { fd: self.stripes.raw_fd(), readable: true, writable: false })
    }
}
