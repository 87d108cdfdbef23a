//! The sending end of a link over several rails.
#![forbid(unsafe_code)]

use super::keeper::{Charge, Keeper};
use super::manifest::Manifest;
use super::parcel::{HEADER_BYTES, Parcel, RECEIPT_BYTES, decode_receipt};
use super::vitals::ailment;
use super::watch::{For, Watch};
use super::{Rail, WINDOW_BYTES, lost, words};
use crate::error::{Error, Result};
use crate::memory::{Block, Span};
use crate::transport::Interest;
use crate::types::Rank;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the caller holds of it. The keeper sees the same sender.
pub(in super::super) struct RailsOut {
    sender: Arc<Shared>,
}

struct Shared(Mutex<Sender>);

struct Sender {
    peer: Rank,
    rails: Arc<[Rail]>,
    /// One for each of `rails`.
    roads: Vec<Road>,
    ring: Block,
    manifest: Manifest,
    watch: Watch,
    keeper: Arc<Keeper>,
    /// The keeper will look at this without being called.
    is_kept: bool,
    /// Of rails that were lost: since the keeper's last look, and before it.
    news: (Vec<String>, Vec<String>),
    ended: Option<Error>,
}

/// How far a rail's connections have come.
struct Road {
    is_alive: bool,
    loads: Vec<Load>,
    receipt: [u8; RECEIPT_BYTES],
    receipt_bytes: usize,
}

/// What a connection is busy with.
struct Load {
    parcel: Option<Parcel>,
    header: Block,
    /// Header included.
    sent_bytes: usize,
}

impl RailsOut {
    pub(super) fn new(peer: Rank, rails: Arc<[Rail]>, keeper: &Arc<Keeper>) -> Result<RailsOut> {
        let load = || Load { parcel: None, header: Block::new(HEADER_BYTES), sent_bytes: 0 };
        let road = |rail: &Rail| Road {
            is_alive: true,
            loads: rail.data.iter().map(|_| load()).collect(),
            receipt: [0; RECEIPT_BYTES],
            receipt_bytes: 0,
        };
        let sockets = rails.iter().map(|rail| rail.data.len() + 1).sum();
        let sender = Arc::new(Shared(Mutex::new(Sender {
            peer,
            roads: rails.iter().map(road).collect(),
            rails,
            ring: Block::new(WINDOW_BYTES),
            manifest: Manifest::new(),
            watch: Watch::new(sockets)?,
            keeper: keeper.clone(),
            is_kept: false,
            news: Default::default(),
            ended: None,
        })));
        let charge: Arc<dyn Charge> = sender.clone();
        keeper.adopt(Arc::downgrade(&charge));
        Ok(RailsOut { sender })
    }

    /// Takes what there is room for of `first` and then of `second`.
    pub(in super::super) fn write(&mut self, first: Span, second: Span) -> Result<usize> {
        self.sender.lock().write(first.len() + second.len(), |room, at| {
            let (early, late) = (first.from(at.min(first.len())), second.from(at.saturating_sub(first.len())));
            let of_early = early.len().min(room.len());
            room.cut(0, of_early).copy_from(early.cut(0, of_early));
            room.from(of_early).copy_from(late.cut(0, room.len() - of_early));
        })
    }

    /// [`RailsOut::write`] of plain bytes.
    pub(in super::super) fn write_bytes(&mut self, bytes: &[u8]) -> Result<usize> {
        self.sender.lock().write(bytes.len(), |room, at| room.write(&bytes[at..at + room.len()]))
    }

    /// Moves on what was taken. True when the kernel has all of it.
    pub(in super::super) fn flush(&mut self) -> Result<bool> {
        let mut sender = self.sender.lock();
        sender.pump()?;
        Ok(sender.is_sent())
    }

    pub(in super::super) fn interest(&self) -> Interest {
        let mut sender = self.sender.lock();
        sender.arm();
        sender.watch.interest()
    }

    #[cfg(test)]
    pub(in super::super) fn fd(&self) -> std::os::fd::OwnedFd {
        self.sender.lock().watch.fd()
    }

    /// For tests: the rails, and which of them are alive.
    #[cfg(test)]
    pub(super) fn rails(&self) -> (Arc<[Rail]>, Vec<bool>) {
        let sender = self.sender.lock();
        (sender.rails.clone(), sender.roads.iter().map(|road| road.is_alive).collect())
    }

    /// For tests: bytes without a receipt.
    #[cfg(test)]
    pub(super) fn open_bytes(&self) -> usize {
        self.sender.lock().manifest.open_bytes()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Sender> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Charge for Shared {
    fn tend(&self) -> bool {
        self.lock().tend()
    }
}

impl Sender {
    /// Takes as many of `len_bytes` as there is room for; `fill` puts those from `at` on in place.
    fn write(&mut self, len_bytes: usize, fill: impl Fn(Span, usize)) -> Result<usize> {
        self.watch.answer();
        let mut taken_bytes = 0;
        loop {
            let room = self.manifest.room();
            let more_bytes = room.len().min(len_bytes - taken_bytes);
            if more_bytes > 0 {
                fill(self.ring.span().cut(room.start, more_bytes), taken_bytes);
                self.manifest.accept(more_bytes);
                taken_bytes += more_bytes;
            }
            self.pump()?;
            if taken_bytes == len_bytes || self.manifest.room().is_empty() {
                return Ok(taken_bytes);
            }
        }
    }

    fn is_sent(&self) -> bool {
        let is_idle = |road: &Road| !road.is_alive || road.loads.iter().all(|load| load.parcel.is_none());
        self.manifest.is_sent() && self.roads.iter().all(is_idle)
    }

    /// Sends what the sockets take, a parcel over each in turn.
    fn pump(&mut self) -> Result<()> {
        if self.manifest.is_half_full() {
            self.read_receipts();
        }
        let mut has_moved = true;
        while has_moved && self.ended.is_none() {
            has_moved = false;
            for rail in 0..self.roads.len() {
                for socket in 0..self.roads[rail].loads.len() {
                    has_moved |= self.advance(rail, socket);
                }
            }
        }
        if self.manifest.open_bytes() > 0 && !self.is_kept && self.ended.is_none() {
            self.is_kept = true;
            self.keeper.call();
        }
        self.ended.clone().map_or(Ok(()), Err)
    }

    /// Sends a parcel over this connection, or some of it; false when nothing could be done.
    fn advance(&mut self, rail: usize, socket: usize) -> bool {
        let road = &mut self.roads[rail];
        if !road.is_alive {
            return false;
        }
        let load = &mut road.loads[socket];
        let parcel = match load.parcel {
            Some(parcel) => parcel,
            None => {
                let Some(parcel) = self.manifest.load(rail) else { return false };
                load.header.span().write(&parcel.encode());
                (load.parcel, load.sent_bytes) = (Some(parcel), 0);
                parcel
            }
        };
        let bytes = self.ring.span().cut((parcel.offset % WINDOW_BYTES as u64) as usize, parcel.len());
        let fd = self.rails[rail].data[socket].as_fd();
        let sent = match load.sent_bytes.checked_sub(HEADER_BYTES) {
            None => load.header.span().from(load.sent_bytes).write_two_to_fd(bytes, fd),
            Some(of_bytes) => bytes.from(of_bytes).write_to_fd(fd),
        };
        match sent {
            Ok(sent_bytes) => {
                load.sent_bytes += sent_bytes;
                if load.sent_bytes == HEADER_BYTES + bytes.len() {
                    load.parcel = None;
                }
                true
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {
                if load.sent_bytes == 0 {
                    // Another rail may have room for it.
                    load.parcel = None;
                    self.manifest.give_back(parcel);
                }
                false
            }
            Err(errno) => {
                self.lose(rail, words(errno));
                true
            }
        }
    }

    fn read_receipts(&mut self) {
        for rail in 0..self.roads.len() {
            while self.roads[rail].is_alive && self.read_receipt(rail) {}
        }
    }

    /// Reads a receipt, or some of it; false when there is no more.
    fn read_receipt(&mut self, rail: usize) -> bool {
        let road = &mut self.roads[rail];
        let room = &mut road.receipt[road.receipt_bytes..];
        let got = recv(self.rails[rail].receipts.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT);
        match got {
            Ok(0) => self.lose(rail, words(Errno::ECONNRESET)),
            Ok(got_bytes) => {
                road.receipt_bytes += got_bytes;
                if road.receipt_bytes == RECEIPT_BYTES {
                    road.receipt_bytes = 0;
                    if !decode_receipt(&road.receipt).is_some_and(|taken_bytes| self.manifest.receipt(taken_bytes)) {
                        self.lose(rail, "sent a receipt that makes no sense".into());
                    }
                }
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return false,
            Err(errno) => self.lose(rail, words(errno)),
        }
        true
    }

    /// Nothing goes over this rail any more; what is on its way goes over the others.
    fn lose(&mut self, rail: usize, what: String) {
        let road = &mut self.roads[rail];
        if !std::mem::take(&mut road.is_alive) {
            return;
        }
        road.loads.iter_mut().for_each(|load| load.parcel = None);
        let again_bytes = self.manifest.lose(rail);
        for stream in &self.rails[rail].data {
            // Only this way: the other end may still be sending.
            let _ = stream.shutdown(Shutdown::Write);
        }
        if self.roads.iter().any(|road| road.is_alive) {
            self.news.0.push(format!(
                "{} to rank {} is lost: it {what}; {again_bytes} bytes go again over the others",
                self.rails[rail].name(),
                self.peer
            ));
        } else {
            self.ended = Some(lost(self.peer, what));
        }
    }

    /// What the caller sleeps on is up to date.
    fn arm(&mut self) {
        let Sender { rails, roads, manifest, watch, ended, .. } = self;
        let mut number = 0;
        let mut outcome = Ok(());
        for (rail, road) in rails.iter().zip(roads) {
            for (stream, load) in rail.data.iter().zip(&road.loads) {
                let has_more = load.parcel.is_some() || !manifest.is_sent();
                let what = if road.is_alive && has_more { For::Room } else { For::Nothing };
                outcome = outcome.and(watch.arm(number, stream, what));
                number += 1;
            }
            let what = if road.is_alive && manifest.is_half_full() { For::Bytes } else { For::Nothing };
            outcome = outcome.and(watch.arm(number, &rail.receipts, what));
            number += 1;
        }
        if let Err(error) = outcome {
            *ended = Some(error);
        }
        if ended.is_some() {
            watch.ring();
        }
    }

    /// The keeper's look.
    fn tend(&mut self) -> bool {
        let before = (self.manifest.open_bytes(), self.roads.iter().filter(|road| road.is_alive).count());
        self.read_receipts();
        // The last rail is not given up on a suspicion: that is for the control plane, which knows more.
        for rail in 0..self.roads.len() {
            let is_alive = |road: &&Road| road.is_alive;
            let ill = || self.rails[rail].data.iter().chain([&self.rails[rail].receipts]).find_map(|s| ailment(s));
            if self.roads[rail].is_alive
                && self.roads.iter().filter(is_alive).count() > 1
                && let Some(what) = ill()
            {
                self.lose(rail, what);
            }
        }
        let _ = self.pump();
        let after = (self.manifest.open_bytes(), self.roads.iter().filter(|road| road.is_alive).count());
        if before != after || self.ended.is_some() {
            self.watch.ring();
        }
        // A process that ends takes all its rails along, one after the other: that is no news of rails.
        if self.ended.is_none() {
            self.news.1.drain(..).for_each(|news| tracing::warn!("{news}"));
            self.news.1.append(&mut self.news.0);
        }
        self.is_kept = self.ended.is_none() && (self.manifest.open_bytes() > 0 || !self.news.1.is_empty());
        self.is_kept
    }
}
