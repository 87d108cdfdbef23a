//! The two ends of a link over one or more TCP connections, which carry bytes both ways.
//!
//! Large pieces go straight from the caller's memory into the socket and from the socket into the caller's memory. Small
//! ones wait in a queue until `flush`, or until a large one takes them along, so that a header and its payload cost one
//! system call; a small `recv` in turn takes along a little of what follows it.
//!
//! How they get across is told in `stripes` and, where there are several rails, in `rails`.
//!
//! Where the link is protected, what gets across is not the bytes themselves but records of them ([`record`]), in each
//! direction under the keys of the first connection: everything is copied once more on both ends, nothing else differs.
#![forbid(unsafe_code)]

use super::fifo::Fifo;
use super::lobby::Connection;
use super::phase;
use super::rails::{self, Keeper, Rail};
use super::record::{self, Opener, Sealer, Tampered};
use super::stripes::Stripes;
use super::way::{In, Out};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transport::{Interest, Rx, Tx};
use crate::types::Rank;
use socket2::SockRef;
use std::net::TcpStream;
use std::sync::{Arc, LazyLock};

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

/// The connections of a link, in the order in which the other side has them too.
pub(super) enum Strung {
    /// Over one rail.
    Stripes(Vec<Connection>),
    /// Over those rails of several that stand, by their numbers; the last connection of each is for receipts.
    Rails(Vec<(usize, Vec<Connection>)>, Arc<Keeper>),
}

/// Makes the two ends of this rank's side of a link to `peer`.
pub(super) fn link(peer: Rank, strung: Strung) -> Result<(TcpTx, TcpRx)> {
    let mut first = None;
    // Both sides take the keys of the first connection.
    let mut prepare = |(stream, session): Connection| {
        first.get_or_insert(session);
        prepare(&stream).map(|()| stream)
    };
    let (way_out, way_in) = match strung {
        Strung::Stripes(connections) => {
            let streams: Arc<[TcpStream]> = connections.into_iter().map(prepare).collect::<Result<_>>()?;
            (Out::Stripes(Stripes::new(peer, streams.clone())), In::Stripes(Stripes::new(peer, streams)))
        }
        Strung::Rails(rails, keeper) => {
            let rail = |(number, connections): (usize, Vec<Connection>)| {
                let streams = connections.into_iter().map(&mut prepare);
                let mut data = streams.map(|stream| stream.map(Arc::new)).collect::<Result<Vec<_>>>()?;
                let receipts = data.pop().expect("a rail has a connection for receipts");
                Ok(Rail { number, data, receipts })
            };
            let rails = rails.into_iter().map(rail).collect::<Result<_>>()?;
            let (rails_out, rails_in) = rails::link(peer, rails, &keeper)?;
            (Out::Rails(rails_out), In::Rails(rails_in))
        }
    };
    let (sealer, opener) = first.expect("a link has a socket").split(OPENER_BYTES);
    let tx = TcpTx { way: way_out, gathered: Fifo::new(FIFO_BYTES), sealer };
    let rx = TcpRx { peer, way: way_in, early: Fifo::new(FIFO_BYTES), lent_bytes: 0, opener, ended: None };
    Ok((tx, rx))
}

fn prepare(stream: &TcpStream) -> Result<()> {
    // What is worth gathering has been gathered here; the kernel must not wait for more.
    stream.set_nodelay(true).map_err(|error| Error::system("setting TCP_NODELAY", error))?;
    avoid_pacing(stream);
    enlarge_buffers(stream).map_err(|error| Error::system("setting the socket's buffers", error))
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

/// The sending end of a link over TCP.
pub struct TcpTx {
    way: Out,
    gathered: Fifo,
    /// Where the link is protected: the record on its way.
    sealer: Option<Sealer>,
}

impl TcpTx {
    /// What [`Tx::interest`] names, for tests: they may not make one from a number.
    #[cfg(test)]
    pub(super) fn fd(&self) -> std::os::fd::OwnedFd {
        match &self.way {
            Out::Stripes(stripes) => stripes.fd().try_clone_to_owned().unwrap(),
            Out::Rails(rails) => rails.fd(),
        }
    }

    /// Its rails, for tests.
    #[cfg(test)]
    pub(super) fn rails(&self) -> &rails::RailsOut {
        match &self.way {
            Out::Rails(rails) => rails,
            Out::Stripes(_) => panic!("a link over one rail"),
        }
    }

    /// Writes what was gathered and then `from`, as far as the socket takes it: how much of `from` went.
    fn write(&mut self, from: Span) -> Result<usize> {
        if self.sealer.is_some() {
            return self.write_records(from);
        }
        let mut taken_bytes = 0;
        loop {
            let pending = self.gathered.pending();
            let first = self.way.here(pending, 0);
            let rest = from.from(taken_bytes);
            let second = if first == pending { self.way.here(rest, first.len()) } else { Span::EMPTY };
            let offered_bytes = first.len() + second.len();
            if offered_bytes == 0 {
                return Ok(taken_bytes);
            }
            let sent_bytes = self.way.write(first, second)?;
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
        let TcpTx { way, gathered, sealer: Some(sealer) } = self else { return Ok(0) };
        let mut taken_bytes = 0;
        loop {
            let sent_bytes = way.write_bytes(sealer.pending())?;
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
        Ok(self.way.flush()? && self.gathered.pending().is_empty() && !self.has_sealed())
    }

    fn interest(&self) -> Option<Interest> {
        Some(self.way.interest())
    }
}

fn tampered(peer: Rank, ends: &str, how: Tampered) -> Error {
    let what = format!("sent bytes that arrived changed: {how} on {ends}");
    Error::Corrupted { suspects: vec![peer], what, during: None }
}

/// The receiving end of a link over TCP.
pub struct TcpRx {
    peer: Rank,
    way: In,
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
    /// What [`Rx::interest`] names, for tests.
    #[cfg(test)]
    pub(super) fn fd(&self) -> std::os::fd::OwnedFd {
        match &self.way {
            In::Stripes(stripes) => stripes.fd().try_clone_to_owned().unwrap(),
            In::Rails(rails) => rails.fd(),
        }
    }

    /// Reads into `first` and then into `second`, both of this stripe. An end of the stream is remembered for when all
    /// before it is delivered.
    fn read(&mut self, first: Span, second: Span) -> usize {
        if self.ended.is_some() {
            return 0;
        }
        self.way.read(first, second).unwrap_or_else(|error| {
            self.ended = Some(error);
            0
        })
    }

    /// Fills `into` from opened records as far as they come. An end of the stream, or a record that was changed, is
    /// remembered for when all before it is delivered.
    fn read_records(&mut self, into: Span) -> usize {
        let TcpRx { peer, way, opener: Some(opener), ended, .. } = self else { return 0 };
        let mut taken_bytes = 0;
        while taken_bytes < into.len() && ended.is_none() {
            let rest = into.from(taken_bytes);
            let step = match opener.opened() {
                Ok([]) => way.read_bytes(opener.room()).map(|got_bytes| {
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
                Err(how) => Err(tampered(*peer, &way.ends(), how)),
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
            let room = self.way.here(room.cut(0, room.len().min(missing_bytes)), 0);
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
            let rest = self.way.here(into.cut(taken_bytes, end - taken_bytes), 0);
            let ahead = if rest.len() < SMALL_BYTES { self.early.room().cut(0, SMALL_BYTES) } else { Span::EMPTY };
            let got_bytes = self.read(rest, self.way.here(ahead, rest.len()));
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
        Some(self.way.interest())
    }
}
