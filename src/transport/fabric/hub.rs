//! A rank's endpoint and all its links, behind one lock. Whoever polls, for whichever link, reads the completion queue for
//! all: what is another's is noted there, and its driver woken if it sleeps.
#![forbid(unsafe_code)]

use super::control::{Card, Control, Goodbye};
use super::device::{Device, Event, Peer, Region, Target};
use super::flow::{Inflow, Outflow};
use super::immediate::{COUNT_MASK, Immediate, LINKS};
use super::watchman::{Bell, Watchman};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transport::Interest;
use crate::types::Rank;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Wakes a communicator's driver.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Slots of a ring.
const SLOTS: usize = 16;
/// Bytes of a slot, where the provider writes as many at once.
const SLOT_BYTES: usize = 64 * 1024;
const LEAST_SLOT_BYTES: usize = 1024;
/// First bytes of a slot. What follows keeps the alignment of elements.
pub(super) const HEAD_BYTES: usize = size_of::<Head>();
/// What a credit writes, after the slots; nobody reads it.
const CREDIT_BYTES: usize = 8;
/// The most that one `send` takes, so that whoever polls several links gets round to the others.
const BURST_BYTES: usize = 256 * 1024;
/// Looks in vain between two looks at the connection.
const VAIN_LOOKS: u32 = 64;
/// Batches of completions that one look takes in.
const BATCHES: usize = 8;
/// How long closing waits for what is under way.
const FAREWELL: Duration = Duration::from_millis(500);

/// What a slot begins with.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Head {
    /// Bytes that follow.
    len_bytes: u32,
    /// Slots of the other direction that the sender has taken so far, in its last bits.
    credit: u32,
    reserved: u64,
}

/// One endpoint of libfabric, with all links that this rank has made over it.
pub struct Hub {
    shared: Arc<Shared>,
    watchman: Option<Watchman>,
    provider: String,
}

/// What links, watchman and hub share.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// Looks that drivers have taken: tells the watchman that he is not needed.
    looks: AtomicU64,
    bell: Bell,
}

/// What is under way under a ticket.
#[derive(Debug, Clone, Copy)]
enum Write {
    Slot { link: u32, place: usize },
    Credit { link: u32 },
}

pub(super) struct Inner {
    device: Device,
    links: HashMap<u32, Link>,
    peers: HashMap<Vec<u8>, Peer>,
    writes: HashMap<usize, Write>,
    next_link: u32,
    slot_bytes: usize,
    /// Links that owe a credit for which there was no room.
    owing: Vec<u32>,
    events: Vec<Event>,
    /// Drivers that were woken by the present look.
    woken: usize,
    /// Why nothing works any more.
    broken: Option<Error>,
}

/// One link, from the connection to the end.
struct Link {
    peer: Rank,
    control: Control,
    /// Where the peer writes.
    inbox: Arc<Region>,
    /// Where this side's slots are filled, and written from.
    outbox: Arc<Region>,
    far: Option<Far>,
    out: Outflow,
    inflow: Inflow,
    /// Bytes gathered in the next slot.
    gathered_bytes: usize,
    slots_under_way: usize,
    credits_under_way: usize,
    writes_begun: u64,
    writes_arrived: u64,
    owes_credit: bool,
    /// Why the peer cannot be written to.
    severed: Option<Error>,
    wake: Wake,
    /// Its driver wants to be woken.
    asleep: bool,
    /// Looks in vain since the connection was looked at.
    vain_looks: u32,
    /// Ends that are in use: none, and the link is closing.
    ends: u8,
    said_goodbye: bool,
}

/// The peer's side of a link.
struct Far {
    peer: Peer,
    card: Card,
    slot_bytes: usize,
}

impl Hub {
    /// Opens an endpoint of the first of `providers` that this machine has, at the interface with the address `source`.
    /// An error says of each why not.
    pub fn open(providers: &[String], source: Option<IpAddr>) -> Result<Arc<Hub>> {
        let mut reasons = Vec::new();
        for provider in providers {
            match Device::open(provider, source) {
                Ok(device) => return Hub::over(device, provider.clone()),
                Err(error) => {
                    let reason = error.to_string();
                    if !reasons.contains(&reason) {
                        reasons.push(reason);
                    }
                }
            }
        }
        Err(Error::unsupported(reasons.join("; ")))
    }

    fn over(device: Device, provider: String) -> Result<Arc<Hub>> {
        let slot_bytes = SLOT_BYTES.min(device.max_write_bytes()) / 8 * 8;
        if slot_bytes < LEAST_SLOT_BYTES {
            return Err(Error::unsupported(format!("provider {provider} writes only {slot_bytes} bytes at once")));
        }
        let wait = device.wait_fd();
        let inner = Inner {
            device,
            links: HashMap::new(),
            peers: HashMap::new(),
            writes: HashMap::new(),
            next_link: getrandom::u32().unwrap_or(0) % LINKS,
            slot_bytes,
            owing: Vec::new(),
            events: Vec::new(),
            woken: 0,
            broken: None,
        };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), looks: AtomicU64::new(0), bell: Bell::new()? });
        let watchman = Some(Watchman::start(shared.clone(), wait)?);
        Ok(Arc::new(Hub { shared, watchman, provider }))
    }

    /// Which provider it is.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// What the ends of links work on.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.watchman = None;
        let deadline = Instant::now() + FAREWELL;
        // What is under way is seen off, except where the peer is gone. The device goes with the last of `shared`, which
        // is here: the watchman has ended, and every end of a link holds the hub.
        while !self.shared.lock().see_off() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // After a panic in between, at worst a link has lost count, and its peer notices.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`Shared::lock`] by somebody who drives.
    pub(super) fn driven(&self) -> MutexGuard<'_, Inner> {
        // Relaxed: a hint to the watchman.
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.lock()
    }

    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// The driver of this link is about to sleep: the watchman takes over, and wakes it. Returns what else to sleep on.
    pub(super) fn stand_by(&self, id: u32) -> Option<Interest> {
        let mut inner = self.lock();
        let link = inner.link(id);
        link.asleep = true;
        link.vain_looks = VAIN_LOOKS;
        let interest = link.control.interest();
        drop(inner);
        self.bell.ring();
        interest
    }
}

impl Inner {
    fn link(&mut self, id: u32) -> &mut Link {
        self.links.get_mut(&id).expect("a link lives as long as its ends")
    }

    /// Makes this side of a link, over a connection on which nothing was exchanged so far. Whoever makes it counts as an
    /// end of it, besides the two that [`Inner::connect`] adds.
    pub(super) fn open(&mut self, peer: Rank, mut control: Control, wake: Wake) -> Result<u32> {
        self.tend_closing();
        let ring_bytes = SLOTS * self.slot_bytes;
        let inbox = Arc::new(self.device.register(ring_bytes + CREDIT_BYTES, true)?);
        let outbox = Arc::new(self.device.register(ring_bytes + CREDIT_BYTES, false)?);
        while self.links.contains_key(&self.next_link) {
            self.next_link = (self.next_link + 1) % LINKS;
        }
        let id = self.next_link;
        // Not used again soon: what is late for a link that is gone must not be taken for another's.
        self.next_link = (id + 1) % LINKS;
        let (base, key) = inbox.handle();
        let address = self.device.address().to_vec();
        control.introduce(&Card {
            address,
            link: id,
            base,
            key,
            slots: SLOTS as u32,
            slot_bytes: self.slot_bytes as u32,
        });
        let link = Link {
            peer,
            control,
            inbox,
            outbox,
            far: None,
            out: Outflow::new(SLOTS),
            inflow: Inflow::new(SLOTS),
            gathered_bytes: 0,
            slots_under_way: 0,
            credits_under_way: 0,
            writes_begun: 0,
            writes_arrived: 0,
            owes_credit: false,
            severed: None,
            wake,
            asleep: false,
            vain_looks: 0,
            ends: 1,
            said_goodbye: false,
        };
        self.links.insert(id, link);
        Ok(id)
    }

    /// Goes on exchanging cards. True when the link stands; it then has two more ends.
    pub(super) fn connect(&mut self, id: u32) -> Result<bool> {
        let own_slot_bytes = self.slot_bytes;
        let link = self.link(id);
        let flushed = link.control.flush()?;
        let Some(card) = link.control.card()?.filter(|_| flushed) else { return Ok(false) };
        let slot_bytes = own_slot_bytes.min(card.slot_bytes as usize);
        if card.slots as usize != SLOTS || slot_bytes < LEAST_SLOT_BYTES || card.link >= LINKS {
            let peer = link.peer;
            return Err(Error::bootstrap(format!(
                "rank {peer} has a ring of another shape; use one version of roundel"
            )));
        }
        let peer = match self.peers.get(&card.address) {
            Some(&peer) => peer,
            None => {
                let peer = self.device.insert(&card.address)?;
                self.peers.insert(card.address.clone(), peer);
                peer
            }
        };
        let link = self.link(id);
        link.far = Some(Far { peer, card, slot_bytes: slot_bytes / 8 * 8 });
        link.ends += 2;
        Ok(true)
    }

    /// What to sleep on while cards are exchanged.
    pub(super) fn greeting_interests(&mut self, id: u32) -> impl Iterator<Item = Interest> {
        let control = &self.link(id).control;
        [control.interest(), control.sending_interest()].into_iter().flatten()
    }

    /// An end of the link is not used any more.
    pub(super) fn release_end(&mut self, id: u32) {
        self.link(id).ends -= 1;
        self.tend_closing();
    }

    /// Says goodbye on links that are closing, and forgets those that nobody writes to any more.
    fn tend_closing(&mut self) {
        self.links.retain(|_, link| link.ends > 0 || !link.is_over());
    }

    /// True when nothing is left to do for any link.
    fn see_off(&mut self) -> bool {
        let _ = self.look();
        self.tend_closing();
        self.links.values_mut().all(|link| link.has_said_goodbye() || link.control.ended().is_some())
    }

    /// Fills what is free of the next slot with the front of `from`, and of those after it; how many bytes were taken.
    pub(super) fn send(&mut self, id: u32, from: Span) -> Result<usize> {
        let mut taken_bytes = 0;
        let end = from.len().min(BURST_BYTES);
        while taken_bytes < end {
            let room = self.room(id)?;
            if room.is_empty() {
                break;
            }
            let len_bytes = room.len().min(end - taken_bytes);
            room.cut(0, len_bytes).copy_from(from.cut(taken_bytes, len_bytes));
            self.gather(id, len_bytes)?;
            taken_bytes += len_bytes;
        }
        Ok(taken_bytes)
    }

    /// What is free of the next slot; empty when there is none now.
    pub(super) fn room(&mut self, id: u32) -> Result<Span> {
        self.check(id)?;
        for attempt in 0..2 {
            let link = self.link(id);
            let slot = link.next_slot();
            if !slot.is_empty() && slot.len() > link.gathered_bytes {
                return Ok(slot.from(link.gathered_bytes));
            }
            // Full and not yet on its way, or the receiver still has it.
            if !slot.is_empty() && self.post(id)? {
                continue;
            }
            if attempt == 0 {
                self.look()?;
            }
        }
        self.link(id).look_for_end();
        Ok(Span::EMPTY)
    }

    /// So many bytes of the room were filled.
    pub(super) fn gather(&mut self, id: u32, len_bytes: usize) -> Result<()> {
        let link = self.link(id);
        link.gathered_bytes += len_bytes;
        if link.gathered_bytes == link.next_slot().len() {
            self.post(id)?;
        }
        Ok(())
    }

    /// Whatever the next slot holds is to travel without more; true when it does.
    pub(super) fn close_slot(&mut self, id: u32) -> Result<bool> {
        Ok(self.link(id).gathered_bytes == 0 || self.post(id)?)
    }

    /// True when all that was gathered has left: nothing of it depends on this side any more.
    pub(super) fn flush(&mut self, id: u32) -> Result<bool> {
        if self.close_slot(id)? && self.link(id).is_delivered() {
            return Ok(true);
        }
        self.look()?;
        // A peer that has all it needs may leave before the provider has told this side that it has.
        if self.close_slot(id)? && self.link(id).is_delivered() {
            return Ok(true);
        }
        self.check(id)?;
        self.link(id).look_for_end();
        Ok(false)
    }

    /// Whether the peer can be written to.
    fn check(&mut self, id: u32) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let link = self.link(id);
        let error = link.severed.as_ref().or(link.control.ended());
        error.map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Sends the next slot as it is; false when there is no room for a write now.
    fn post(&mut self, id: u32) -> Result<bool> {
        let link = self.links.get_mut(&id).expect("a link lives as long as its ends");
        let (Some(place), Some(far)) = (link.out.next(), &link.far) else { return Ok(false) };
        let offset_bytes = place * far.slot_bytes;
        let len_bytes = HEAD_BYTES + link.gathered_bytes;
        let credit = link.inflow.tell() as u32;
        let head = Head { len_bytes: link.gathered_bytes as u32, credit, reserved: 0 };
        link.outbox.span().from(offset_bytes).write_value(&head);
        let bits = Immediate::Data { link: far.card.link, slot: place as u32 }.encode();
        let target = far.at(offset_bytes);
        match self.device.write(&link.outbox, offset_bytes, len_bytes, target, bits) {
            Ok(Some(ticket)) => {
                link.out.send();
                link.gathered_bytes = 0;
                link.slots_under_way += 1;
                link.writes_begun += 1;
                link.owes_credit = false;
                self.writes.insert(ticket, Write::Slot { link: id, place });
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => Err(link.sever(&format!("cannot be written to ({error})"))),
        }
    }

    /// Tells the peer what was taken; later, if there is no room for a write now.
    fn post_credit(&mut self, id: u32) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(far) = &link.far else { return };
        if link.severed.is_some() {
            return;
        }
        if link.credits_under_way > 0 {
            if !std::mem::replace(&mut link.owes_credit, true) {
                self.owing.push(id);
            }
            return;
        }
        let offset_bytes = SLOTS * far.slot_bytes;
        let bits = Immediate::Credit { link: far.card.link, count: (link.inflow.tell() & COUNT_MASK) as u32 }.encode();
        match self.device.write(&link.outbox, offset_bytes, CREDIT_BYTES, far.at(offset_bytes), bits) {
            Ok(Some(ticket)) => {
                link.credits_under_way += 1;
                link.writes_begun += 1;
                link.owes_credit = false;
                self.writes.insert(ticket, Write::Credit { link: id });
            }
            Ok(None) => {
                if !std::mem::replace(&mut link.owes_credit, true) {
                    self.owing.push(id);
                }
            }
            // The peer is gone, or about to be found so by whoever needs it: the connection tells.
            Err(error) => tracing::debug!("no credit for rank {}: {error}", link.peer),
        }
    }

    /// The next slot of the stream, if it has arrived: its bytes, where they lie. They stay until [`Inner::take`].
    pub(super) fn arrived(&mut self, id: u32) -> Result<Option<Span>> {
        if let Some(span) = self.link(id).arrived()? {
            return Ok(Some(span));
        }
        self.look()?;
        self.link(id).arrived()
    }

    /// The slot that [`Inner::arrived`] gave is done with.
    pub(super) fn take(&mut self, id: u32) {
        let link = self.link(id);
        link.inflow.take();
        if link.inflow.owes_credit() {
            self.post_credit(id);
        }
    }

    /// `Ok` while more may arrive than has.
    pub(super) fn expecting(&mut self, id: u32) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let link = self.link(id);
        link.look_for_end();
        link.control.exhausted(link.inflow.arrived()).map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Makes progress and takes in what has happened. How many events there were; an error means that nothing works any
    /// more.
    pub(super) fn look(&mut self) -> Result<usize> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let mut count = 0;
        for _ in 0..BATCHES {
            let mut events = std::mem::take(&mut self.events);
            let got = self.device.read(&mut events);
            count += events.len();
            for event in events.drain(..) {
                self.note(event);
            }
            self.events = events;
            match got {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    self.broken = Some(error.clone());
                    return Err(error);
                }
            }
        }
        for id in std::mem::take(&mut self.owing) {
            if self.links.get_mut(&id).is_some_and(|link| std::mem::take(&mut link.owes_credit)) {
                self.post_credit(id);
            }
        }
        Ok(count)
    }

    /// [`Inner::look`] by the watchman: also, how many drivers were woken, how many sleep, and whether all is at rest.
    pub(super) fn watch(&mut self) -> Watched {
        self.woken = 0;
        let events = self.look().unwrap_or(0);
        if self.links.values().any(|link| link.ends == 0) {
            self.tend_closing();
        }
        let sleepers = self.links.values().filter(|link| link.asleep).count();
        let is_broken = self.broken.is_some();
        Watched { events, woken: self.woken, sleepers, may_sleep: is_broken || self.device.may_sleep() }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Arrived(bits) => self.note_arrival(Immediate::decode(bits)),
            Event::Done(ticket) => self.note_end(ticket, None),
            Event::Failed(ticket, why) => self.note_end(ticket, Some(why)),
        }
    }

    fn note_arrival(&mut self, immediate: Immediate) {
        let (Immediate::Data { link: id, .. } | Immediate::Credit { link: id, .. }) = immediate;
        // Late, for a link that is gone; its memory was closed to writes before.
        let Some(link) = self.links.get_mut(&id) else { return };
        link.writes_arrived += 1;
        match immediate {
            Immediate::Credit { count, .. } => link.out.credit(count.into(), COUNT_MASK),
            Immediate::Data { slot, .. } if link.inflow.arrive(slot as usize) => link.note_credit(slot as usize),
            Immediate::Data { .. } => {
                link.sever("wrote what makes no sense");
            }
        }
        self.woken += usize::from(link.rouse());
    }

    fn note_end(&mut self, ticket: usize, failure: Option<String>) {
        let Some(write) = self.writes.remove(&ticket) else { return };
        let (Write::Slot { link: id, .. } | Write::Credit { link: id }) = write;
        let Some(link) = self.links.get_mut(&id) else { return };
        match write {
            Write::Slot { place, .. } => {
                link.out.complete(place);
                link.slots_under_way -= 1;
                if let Some(why) = failure {
                    link.sever(&format!("cannot be reached any more ({why})"));
                }
                self.woken += usize::from(link.rouse());
            }
            // A credit that fails finds a peer that needs none any more, or of which the next slot will tell.
            Write::Credit { .. } => link.credits_under_way -= 1,
        }
    }
}

/// What the watchman saw.
pub(super) struct Watched {
    pub(super) events: usize,
    pub(super) woken: usize,
    pub(super) sleepers: usize,
    pub(super) may_sleep: bool,
}

impl Far {
    fn at(&self, offset_bytes: usize) -> Target {
        Target { peer: self.peer, addr: self.card.base + offset_bytes as u64, key: self.card.key }
    }
}

impl Link {
    /// The memory of the next slot behind its head; empty when it may not be filled now.
    fn next_slot(&self) -> Span {
        let (Some(place), Some(far)) = (self.out.next(), &self.far) else { return Span::EMPTY };
        self.outbox.span().cut(place * far.slot_bytes, far.slot_bytes).from(HEAD_BYTES)
    }

    fn arrived(&mut self) -> Result<Option<Span>> {
        let (Some(place), Some(far)) = (self.inflow.next(), &self.far) else { return Ok(None) };
        let slot = self.inbox.span().cut(place * far.slot_bytes, far.slot_bytes);
        let len_bytes = slot.read_value::<Head>().len_bytes as usize;
        if len_bytes == 0 || len_bytes > slot.len() - HEAD_BYTES {
            return Err(self.sever("wrote what makes no sense"));
        }
        Ok(Some(slot.cut(HEAD_BYTES, len_bytes)))
    }

    /// Takes the credit out of a slot that has arrived.
    fn note_credit(&mut self, place: usize) {
        // Before the peer's card is here nothing was sent, and there is nothing to be credited.
        let Some(far) = &self.far else { return };
        let head: Head = self.inbox.span().from(place * far.slot_bytes).read_value();
        self.out.credit(head.credit.into(), u32::MAX.into());
    }

    /// All slots that were sent are with the peer, by the provider's word or its own.
    fn is_delivered(&self) -> bool {
        self.slots_under_way == 0 || self.control.goodbye().is_some_and(|goodbye| goodbye.taken == self.out.sent())
    }

    /// After a look in vain: perhaps the peer has closed. To see that is a system call, so it is done now and then, and
    /// whenever the driver has slept.
    fn look_for_end(&mut self) {
        self.vain_looks += 1;
        if self.vain_looks > VAIN_LOOKS {
            self.vain_looks = 0;
            self.control.look();
        }
    }

    /// Nothing can be sent any more, and why. The first reason stays.
    fn sever(&mut self, what: &str) -> Error {
        let lost = Error::PeerLost { suspects: vec![self.peer], what: what.to_string(), during: None };
        self.severed.get_or_insert(lost).clone()
    }

    /// Wakes the driver, if it sleeps.
    fn rouse(&mut self) -> bool {
        let sleeps = std::mem::take(&mut self.asleep);
        if sleeps {
            (self.wake)();
        }
        sleeps
    }

    /// For a link without ends: says goodbye once nothing is under way. True when the peer has too and all that it wrote
    /// has arrived, so that the memory may go. Where the peer just vanished a write of its may have stopped half-way, and
    /// the memory stays until the endpoint is closed.
    fn is_over(&mut self) -> bool {
        if self.slots_under_way + self.credits_under_way == 0 && !self.said_goodbye {
            if self.far.is_some() {
                let taken = self.inflow.arrived();
                self.control.say_goodbye(Goodbye { slots: self.out.sent(), writes: self.writes_begun, taken });
            }
            self.said_goodbye = true;
        }
        self.control.look();
        let is_quiet = self.control.goodbye().is_some_and(|goodbye| goodbye.writes == self.writes_arrived);
        self.has_said_goodbye() && is_quiet
    }

    fn has_said_goodbye(&mut self) -> bool {
        // To a peer that is gone it need not be said.
        self.said_goodbye && self.control.flush().unwrap_or(true)
    }
}
