//! The ranks of one host, as one communicator sees them: flags, staging, links, and one another's buffers.
//!
//! Ranks are named by their *position* among the ranks of the host; the engine knows which rank that is.
//!
//! **Signals and messages.** A rank's signals are counted from 1 over the life of the communicator. A call publishes a
//! message (its signature, a small payload) and then signals; both lie on the same flag line, so whoever sees the
//! signal has fetched the message with it. Two lines alternate from call to call: a rank may enter call k + 1 and
//! write its message while a slower one still reads that of call k. It must not enter call k + 2 before everybody has left
//! call k, which is so whenever each call waits for a signal of every rank.
//!
//! **Failure.** The abort word in a rank's own area ends its waits; whoever fails sets it in all areas. A rank that
//! accesses memory which another rank's caller owns does so between [`Neighbours::enter`] and [`Neighbours::leave`]:
//!
//! ```text
//!   who fails                          a neighbour
//!   abort[neighbour] = 1               inside = 1
//!   fence                              fence
//!   wait until inside == 0             abort? then inside = 0, and out
//! ```
//!
//! As with the doorbell one of the two sees the other, so after [`Neighbours::quiesce`] nobody touches the buffers any
//! more and the failing call may return them.
#![allow(unsafe_code)]

use super::area::{Area, AreaCard, AreaMemory, AreaShape, AreaView};
use super::arena::PeerArena;
use super::doorbell::{Ringer, Waker};
use super::ring::{Ring, RingRx, RingTx};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transport::{Address, Rx, Tx};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

/// A rank of this host: its arena, from [`attach`](fn@super::attach), and its area of this communicator.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its arena as seen from this process.
    pub arena: Arc<PeerArena>,
    /// What its [`Area::create`] returned.
    pub card: AreaCard,
}

/// One rank's side of the memory that the ranks of a host share for one communicator.
///
/// All of it may be used from several threads, but signals and messages belong to the thread that drives the
/// communicator's calls.
pub struct Neighbours {
    shared: Arc<Shared>,
    waker: Waker,
    /// Signals given so far.
    given: AtomicU64,
    /// Which links were handed out, by position and channel.
    linked: Vec<AtomicBool>,
}

impl std::fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Neighbours").field("me", &self.me()).field("len", &self.len()).finish_non_exhaustive()
    }
}

/// What links keep alive too: everybody's areas.
struct Shared {
    own: Arc<AreaMemory>,
    /// By position, this rank included.
    ranks: Vec<Local>,
}

struct Local {
    area: AreaView,
    arena: Arc<PeerArena>,
    ringer: Ringer,
}

impl Shared {
    /// The others.
    fn peers(&self) -> impl Iterator<Item = (usize, &Local)> {
        let me = self.own.me();
        self.ranks.iter().enumerate().filter(move |(position, _)| *position != me)
    }

    fn ring_all(&self) {
        // SeqCst: pairs with the fence in `Doorbell::lie_down`.
        fence(Ordering::SeqCst);
        for (_, peer) in self.peers() {
            peer.ringer.ring_if_asleep_after_fence();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for (_, peer) in self.peers() {
            // Release: pairs with the Acquire in `AreaMemory`'s `Drop`; every access of ours came before.
            peer.area.detached(self.own.me()).store(1, Ordering::Release);
        }
    }
}

impl Neighbours {
    /// Joins this rank's area with those of the others. `members` are all ranks of the host in the order that all of them
    /// agreed on, this one included. The caller sees to it that nobody signals or sends before everybody's card is there.
    pub fn new(area: Area, members: &[Member]) -> Result<Neighbours> {
        let Area { memory: own, waker } = area;
        let shape = own.view().shape();
        if members.len() != shape.ranks {
            return Err(Error::bootstrap(format!("{} local ranks, but areas for {}", members.len(), shape.ranks)));
        }
        let ranks: Vec<Local> = members
            .iter()
            .enumerate()
            .map(|(position, Member { arena, card })| {
                let area = AreaView::of_peer(arena, card, shape, position)?;
                let ringer = waker.ringer(&card.doorbell, area.asleep(), arena.clone());
                Ok(Local { area, arena: arena.clone(), ringer })
            })
            .collect::<Result<_>>()?;
        let linked = std::iter::repeat_with(AtomicBool::default).take(shape.ranks * shape.channels).collect();
        let shared = Arc::new(Shared { own, ranks });
        Ok(Neighbours { shared, waker, given: AtomicU64::new(0), linked })
    }

    /// Ranks of this host, this one included.
    #[expect(clippy::len_without_is_empty, reason = "never empty: this rank is among them")]
    pub fn len(&self) -> usize {
        self.shared.ranks.len()
    }

    /// This rank's position.
    pub fn me(&self) -> usize {
        self.shared.own.me()
    }

    /// The shape that all areas have.
    pub fn shape(&self) -> AreaShape {
        self.own().shape()
    }

    /// True when that rank is a thread of this process.
    pub fn is_same_process(&self, peer: usize) -> bool {
        self.rank(peer).arena.is_same_process()
    }

    /// Rings this rank's own doorbell, from any thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn own(&self) -> &AreaView {
        self.shared.own.view()
    }

    fn rank(&self, position: usize) -> &Local {
        &self.shared.ranks[position]
    }

    // Signals and messages.

    /// Tells all neighbours that everything before it is done, and wakes those who sleep; `parity` is the call's number
    /// modulo 2. Returns how many signals this rank has given, this one included.
    #[inline]
    pub fn signal(&self, parity: usize) -> u64 {
        // Relaxed: only the thread that drives the communicator counts, and the lane's lock orders one after the other.
        let count = self.given.load(Ordering::Relaxed) + 1;
        self.given.store(count, Ordering::Relaxed);
        // Release: pairs with the Acquire in `signalled`; the message and all data come before the count. SeqCst, as a
        // swap because that is the cheapest store with a fence behind it: pairs with the fence in `Doorbell::lie_down`.
        self.own().signal(parity & 1).swap(count, Ordering::SeqCst);
        for (_, peer) in self.shared.peers() {
            peer.ringer.ring_if_asleep_after_fence();
        }
        count
    }

    /// How many signals the rank at this position had given at the latest in a call of this parity. The count goes on
    /// across both lines. What the rank wrote before that signal is visible.
    #[inline]
    pub fn signalled(&self, peer: usize, parity: usize) -> u64 {
        // Acquire: pairs with the Release in `signal`.
        self.rank(peer).area.signal(parity & 1).load(Ordering::Acquire)
    }

    /// The message of that rank's call of this parity, [`MESSAGE_BYTES`](crate::transport::MESSAGE_BYTES) long. A rank writes its own before the call's first signal, and
    /// the others read it when they have seen that signal.
    #[inline]
    pub fn message(&self, peer: usize, parity: usize) -> Span {
        self.rank(peer).area.message(parity & 1)
    }

    // Data.

    /// One half (0 or 1) of a rank's staging memory, [`AreaShape::stage_bytes`] long.
    pub fn stage(&self, peer: usize, half: usize) -> Span {
        self.rank(peer).area.stage(half)
    }

    /// Both ends, on this side, of the link to and from a neighbour. Each can be had once.
    pub fn link(&self, peer: usize, channel: usize) -> (Box<dyn Tx>, Box<dyn Rx>) {
        assert_ne!(peer, self.me(), "no rank has a link to itself");
        let channels = self.shape().channels;
        assert!(channel < channels, "channel {channel} of {channels}");
        let again = self.linked[peer * channels + channel].swap(true, Ordering::Relaxed);
        assert!(!again, "link {peer}.{channel} was taken before");
        let Local { area, ringer, .. } = self.rank(peer);
        let ring = |(header, data)| Ring::new(header, data, ringer.clone(), peer, self.shared.clone());
        let tx = RingTx::new(ring(area.ring(self.me(), channel)));
        let rx = RingRx::new(ring(self.own().ring(peer, channel)));
        (Box::new(tx), Box::new(rx))
    }

    /// How a neighbour can reach this buffer; `None` where none can. An address in the process is for those neighbours of
    /// which [`Neighbours::is_same_process`] is true; others [`resolve`](Neighbours::resolve) it to `None`.
    pub fn address_of(&self, buffer: Span) -> Option<Address> {
        if let Some(offset) = self.shared.own.arena().contains(buffer) {
            return Some(Address::Arena(offset as u64));
        }
        let reachable = self.shared.peers().any(|(_, peer)| peer.arena.is_same_process());
        reachable.then_some(Address::Process(buffer.addr() as u64))
    }

    /// The `len_bytes` bytes that a neighbour told the address of, in this process; `None` where this process cannot
    /// reach them. To be touched only between [`Neighbours::enter`] and [`Neighbours::leave`], in a call for which the
    /// neighbour lent them.
    pub fn resolve(&self, peer: usize, address: Address, len_bytes: usize) -> Option<Span> {
        let arena = &self.rank(peer).arena;
        match address {
            Address::Arena(offset) => {
                let (all, offset) = (arena.span(), usize::try_from(offset).ok()?);
                (offset <= all.len() && len_bytes <= all.len() - offset).then(|| all.cut(offset, len_bytes))
            }
            Address::Process(_) | Address::Device { .. } if !arena.is_same_process() => None,
            Address::Process(address) | Address::Device { address, .. } => {
                let start = usize::try_from(address).ok().filter(|start| *start != 0)?;
                start.checked_add(len_bytes).filter(|_| len_bytes <= isize::MAX as usize)?;
                // SAFETY: a rank of this very process (asked above) made the address of a span of its own, whose promise
                // holds for all threads of the process until that rank's call returns; it does not return before
                // `quiesce` has seen us `leave`. `len_bytes` is the length that both ranks' signatures agree on.
                Some(unsafe { Span::new(start as *mut u8, len_bytes) })
            }
        }
    }

    // Failure.

    /// Ends this rank's own waits. It sees [`Neighbours::aborted`] at its next look; a sleeper needs its
    /// [`Waker`] besides.
    pub fn set_abort(&self) {
        self.own().abort().store(1, Ordering::SeqCst);
    }

    /// True once this rank or a neighbour has ended the communicator.
    #[inline]
    pub fn aborted(&self) -> bool {
        // Acquire: pairs with the SeqCst stores in `set_abort` and `fail_neighbours`.
        self.own().abort().load(Ordering::Acquire) != 0
    }

    /// Ends the waits of all neighbours, and wakes those who sleep.
    pub fn fail_neighbours(&self) {
        for (_, peer) in self.shared.peers() {
            // SeqCst: pairs with the load in `enter`, and with the one after `Doorbell::lie_down`.
            peer.area.abort().store(1, Ordering::SeqCst);
        }
        self.shared.ring_all();
    }

    /// Begins to touch buffers of neighbours. False, and nothing began, when the communicator was aborted. Not nested.
    #[inline]
    pub fn enter(&self) -> bool {
        let own = self.own();
        own.inside().store(1, Ordering::SeqCst);
        // SeqCst store, fence and load: pair with the store in `fail_neighbours` and the load in `quiesce`. Of the
        // neighbour's abort and our entering one is first, and the other side sees it.
        fence(Ordering::SeqCst);
        let entered = own.abort().load(Ordering::SeqCst) == 0;
        if !entered {
            self.leave();
        }
        entered
    }

    /// Ends it.
    #[inline]
    pub fn leave(&self) {
        // Release: pairs with the Acquire (SeqCst) load in `quiesce`; our accesses are over before.
        self.own().inside().store(0, Ordering::Release);
    }

    /// After [`Neighbours::fail_neighbours`]: waits until no neighbour touches this rank's buffers any more. Those that
    /// `is_excused` are not waited for (the dead; for buffers that only this process can reach, the ranks of others). Returns
    /// the positions of those who are still inside at the deadline: none, when all is well.
    pub fn quiesce(&self, deadline: Instant, is_excused: &dyn Fn(usize) -> bool) -> Vec<usize> {
        let mut rounds = 0u32;
        loop {
            fence(Ordering::SeqCst);
            let is_inside = |peer: &Local| peer.area.inside().load(Ordering::SeqCst) != 0;
            let inside: Vec<usize> = self
                .shared
                .peers()
                .filter(|(at, peer)| is_inside(peer) && !is_excused(*at))
                .map(|(at, _)| at)
                .collect();
            if inside.is_empty() || Instant::now() >= deadline {
                return inside;
            }
            // They leave at the end of a slice, within microseconds where a core is free for them.
            rounds += 1;
            if rounds < 64 { std::thread::yield_now() } else { std::thread::sleep(Duration::from_micros(100)) }
        }
    }

    /// The process or thread of the rank at this position is gone: it will never detach from this rank's area, whose
    /// memory need not wait for it. Not for one that only is silent: it may wake up and write where it always did.
    pub fn forget(&self, peer: usize) {
        // Release: pairs with the Acquire in `AreaMemory`'s `Drop`.
        self.own().detached(peer).store(1, Ordering::Release);
    }
}
