//! The receiving end of a link over several rails.
#![forbid(unsafe_code)]

use super::keeper::{Charge, Keeper};
use super::parcel::{HEADER_BYTES, Parcel, encode_receipt};
use super::reassembly::Reassembly;
use super::watch::{For, Watch};
use super::{PARCEL_BYTES, Rail, WINDOW_BYTES, lost, words};
use crate::error::{Error, Result};
use crate::memory::{Block, Span};
use crate::transport::Interest;
use crate::types::Rank;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the caller holds of it. The keeper sees the same receiver.
pub(in super::super) struct RailsIn {
    receiver: Arc<Shared>,
}

struct Shared(Mutex<Receiver>);

struct Receiver {
    peer: Rank,
    rails: Arc<[Rail]>,
    /// The data connections of all rails, in order.
    roads: Vec<Road>,
    /// By rail: whether receipts can be sent.
    hears: Vec<bool>,
    ring: Block,
    book: Reassembly,
    /// For bytes that came twice.
    scrap: Block,
    watch: Watch,
    keeper: Arc<Keeper>,
    is_kept: bool,
    ended: Option<Error>,
}

/// How far a connection has come.
struct Road {
    rail: usize,
    socket: usize,
    is_alive: bool,
    header: Block,
    header_bytes: usize,
    /// The parcel behind the header, and how much of it has come.
    parcel: Option<Parcel>,
    got_bytes: usize,
}

impl RailsIn {
    pub(super) fn new(peer: Rank, rails: Arc<[Rail]>, keeper: &Arc<Keeper>) -> Result<RailsIn> {
        let numbers =
            rails.iter().enumerate().flat_map(|(rail, of)| (0..of.data.len()).map(move |socket| (rail, socket)));
        let road = |(rail, socket)| Road {
            rail,
            socket,
            is_alive: true,
            header: Block::new(HEADER_BYTES),
            header_bytes: 0,
            parcel: None,
            got_bytes: 0,
        };
        let roads: Vec<Road> = numbers.map(road).collect();
        let receiver = Arc::new(Shared(Mutex::new(Receiver {
            peer,
            hears: vec![true; rails.len()],
            watch: Watch::new(roads.len())?,
            roads,
            rails,
            ring: Block::new(WINDOW_BYTES),
            book: Reassembly::new(),
            scrap: Block::new(PARCEL_BYTES),
            keeper: keeper.clone(),
            is_kept: false,
            ended: None,
        })));
        let charge: Arc<dyn Charge> = receiver.clone();
        keeper.adopt(Arc::downgrade(&charge));
        Ok(RailsIn { receiver })
    }

    /// Fills what has come of `first` and then, if `first` is full, of `second`; 0 when nothing has. Bytes that came before
    /// the end are delivered before the error.
    pub(in super::super) fn read(&mut self, first: Span, second: Span) -> Result<usize> {
        self.receiver.lock().read(first.len(), first.len() + second.len(), |bytes, at| {
            let of_first = first.from(at.min(first.len()));
            let of_first = of_first.cut(0, of_first.len().min(bytes.len()));
            of_first.copy_from(bytes.cut(0, of_first.len()));
            let rest = bytes.from(of_first.len());
            second.cut((at + of_first.len()).saturating_sub(first.len()), rest.len()).copy_from(rest);
        })
    }

    /// [`RailsIn::read`] into plain bytes.
    pub(in super::super) fn read_bytes(&mut self, room: &mut [u8]) -> Result<usize> {
        let len_bytes = room.len();
        self.receiver.lock().read(len_bytes, len_bytes, |bytes, at| bytes.read(&mut room[at..at + bytes.len()]))
    }

    pub(in super::super) fn interest(&self) -> Interest {
        let mut receiver = self.receiver.lock();
        receiver.arm();
        receiver.watch.interest()
    }

    #[cfg(test)]
    pub(in super::super) fn fd(&self) -> std::os::fd::OwnedFd {
        self.receiver.lock().watch.fd()
    }

    /// Both ends of the way that bytes have come, for people.
    pub(in super::super) fn ends(&self) -> String {
        let receiver = self.receiver.lock();
        receiver.rails.iter().map(Rail::name).collect::<Vec<_>>().join(", ")
    }
}

impl Drop for RailsIn {
    /// Whoever sent it should not think that it was lost.
    fn drop(&mut self) {
        self.receiver.lock().tell();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Receiver> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Charge for Shared {
    fn tend(&self) -> bool {
        let mut receiver = self.lock();
        receiver.tell();
        receiver.is_kept = false;
        false
    }
}

impl Receiver {
    /// Gives at most `most_bytes` in order, waiting for nothing; looks at the sockets while it has fewer than
    /// `wanted_bytes`. `take` gets contiguous pieces, and where each belongs.
    fn read(&mut self, wanted_bytes: usize, most_bytes: usize, mut take: impl FnMut(Span, usize)) -> Result<usize> {
        while self.book.ready_bytes() < wanted_bytes && self.look() {}
        let mut taken_bytes = 0;
        while taken_bytes < most_bytes && self.book.ready_bytes() > 0 {
            let ready = self.book.ready();
            let len_bytes = ready.len().min(most_bytes - taken_bytes);
            take(self.ring.span().cut(ready.start, len_bytes), taken_bytes);
            self.book.take(len_bytes);
            taken_bytes += len_bytes;
        }
        if self.book.is_due() {
            self.tell();
        } else if taken_bytes > 0 && !self.is_kept {
            self.is_kept = true;
            self.keeper.call();
        }
        match &self.ended {
            Some(error) if taken_bytes == 0 && wanted_bytes > 0 => Err(error.clone()),
            _ => Ok(taken_bytes),
        }
    }

    /// Reads at most a parcel from each connection; false when nothing has come.
    fn look(&mut self) -> bool {
        let mut has_moved = false;
        for index in 0..self.roads.len() {
            if self.roads[index].is_alive {
                has_moved |= self.advance(index);
            }
        }
        has_moved
    }

    fn advance(&mut self, index: usize) -> bool {
        let mut has_moved = false;
        loop {
            let before = self.roads[index].parcel;
            match self.step(index) {
                Ok(0) => return has_moved,
                Ok(_) => has_moved = true,
                Err(what) => {
                    self.close(index, what);
                    return true;
                }
            }
            if before.is_some() && self.roads[index].parcel != before {
                return true;
            }
        }
    }

    /// Reads once: into the header, or into the parcel's place and the header of the next. An error is the connection's end.
    fn step(&mut self, index: usize) -> std::result::Result<usize, String> {
        let Receiver { rails, roads, ring, book, scrap, .. } = self;
        let road = &mut roads[index];
        let fd = rails[road.rail].data[road.socket].as_fd();
        let header = road.header.span();
        let got = match road.parcel {
            None => header.from(road.header_bytes).read_from_fd(fd),
            Some(parcel) => {
                // What came by another way in the meantime must not be written over: its place may be in use again.
                let place = if book.has(parcel) { scrap.span() } else { ring.span().from(book.place(parcel).start) };
                place.cut(road.got_bytes, parcel.len() - road.got_bytes).read_two_from_fd(header, fd)
            }
        };
        let got_bytes = match got {
            Ok(0) => return Err(words(Errno::ECONNRESET)),
            Ok(got_bytes) => got_bytes,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
            Err(errno) => return Err(words(errno)),
        };
        match road.parcel {
            None => road.header_bytes += got_bytes,
            Some(parcel) => {
                road.got_bytes += got_bytes;
                if let Some(of_header) = road.got_bytes.checked_sub(parcel.len()) {
                    book.complete(parcel);
                    (road.parcel, road.header_bytes) = (None, of_header);
                }
            }
        }
        if road.parcel.is_none() && road.header_bytes == HEADER_BYTES {
            let mut bytes = [0; HEADER_BYTES];
            header.read(&mut bytes);
            let parcel = Parcel::decode(&bytes).ok_or("sent a header that arrived changed")?;
            book.check(parcel).map_err(|what| format!("sent {what}"))?;
            (road.parcel, road.got_bytes) = (Some(parcel), 0);
        }
        Ok(got_bytes)
    }

    /// Nothing comes over this connection any more.
    fn close(&mut self, index: usize, what: String) {
        let road = &mut self.roads[index];
        road.is_alive = false;
        let rail = &self.rails[road.rail];
        // Whatever has come, whether or not the sender can still send: it hears of no receipts, and takes another rail.
        if what.starts_with("sent ") {
            tracing::warn!("{} to rank {} is given up: it {what}", rail.name(), self.peer);
            self.hears[road.rail] = false;
            let _ = rail.receipts.shutdown(Shutdown::Write);
        }
        if self.roads.iter().all(|road| !road.is_alive) {
            self.ended = Some(lost(self.peer, what));
        }
    }

    /// Sends a receipt over every rail: one of them may be dead without anybody knowing.
    fn tell(&mut self) {
        if !self.book.is_untold() {
            return;
        }
        let receipt = encode_receipt(self.book.taken());
        for (rail, hears) in self.rails.iter().zip(&mut self.hears).filter(|(_, hears)| **hears) {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(rail.receipts.as_raw_fd(), &receipt, flags) {
                Ok(sent_bytes) if sent_bytes == receipt.len() => {}
                // Nobody has read receipts for a long time; the next one says more.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // Cut in the middle there is no going on.
                _ => {
                    *hears = false;
                    let _ = rail.receipts.shutdown(Shutdown::Write);
                }
            }
        }
        self.book.told();
    }

    fn arm(&mut self) {
        let Receiver { rails, roads, watch, ended, .. } = self;
        let mut outcome = Ok(());
        for (number, road) in roads.iter().enumerate() {
            let what = if road.is_alive { For::Bytes } else { For::Nothing };
            outcome = outcome.and(watch.arm(number, &rails[road.rail].data[road.socket], what));
        }
        if let Err(error) = outcome {
            *ended = Some(error);
        }
        if ended.is_some() {
            watch.ring();
        }
    }
}
