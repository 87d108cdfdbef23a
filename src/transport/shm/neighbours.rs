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
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
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
    /// Which flag line is in use.
    parity: AtomicUsize,
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
        Ok(Neighbours { shared, waker, given: AtomicU64::new(0), parity: AtomicUsize::new(0), linked })
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

    /// Writes the message of a call; `parity` is the call's number modulo 2. It is visible to whoever sees a signal given
    /// afterwards. At most [`MESSAGE_BYTES`] bytes; what an earlier message had beyond them stays.
    pub fn publish(&self, parity: usize, message: &[u8]) {
        self.own().message(parity & 1).write(message);
        self.parity.store(parity & 1, Ordering::Relaxed);
    }

    /// Tells all neighbours that everything before it is done, and wakes those who sleep. Returns how many signals this
    /// rank has given, this one included.
    pub fn signal(&self) -> u64 {
        let count = self.given.fetch_add(1, Ordering::Relaxed) + 1;
        // Release: pairs with the Acquire in `signalled`; the message and all data come before the count.
        self.own().signal(self.parity.load(Ordering::Relaxed)).store(count, Ordering::Release);
        self.shared.ring_all();
        count
    }

    /// How many signals the rank at this position had given at the latest in a call of this parity. The count goes on
    /// across both lines. What the rank wrote before that signal is visible.
    #[inline]
    pub fn signalled(&self, peer: usize, parity: usize) -> u64 {
        // Acquire: pairs with the Release in `signal`.
        self.rank(peer).area.signal(parity & 1).load(Ordering::Acquire)
    }

    /// The message of that rank's call of this parity, [`MESSAGE_BYTES`] long. Look after a signal of that call was seen.
    /// This rank may write into its own, beyond what it will [`publish`](Neighbours::publish), before it signals.
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
            Address::Process(_) if !arena.is_same_process() => None,
            Address::Process(address) => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::shm::{Arena, Block, Door, Doorbell, MESSAGE_BYTES, attach};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(20);
    const SHAPE: AreaShape = AreaShape { ranks: 3, channels: 2, ring_bytes: 4096, stage_bytes: 10_000 };

    #[derive(Debug)]
    struct Rank {
        neighbours: Neighbours,
        bell: Doorbell,
        arena: Arc<Arena>,
    }

    /// The ranks of a host in one process. Ranks `0..threads` see one another as threads; all others as processes would,
    /// through doors and mappings of their own.
    fn host(shape: AreaShape, threads: usize) -> Vec<Rank> {
        let arenas: Vec<Arc<Arena>> = (0..shape.ranks).map(|_| Arena::create(4 << 20).unwrap()).collect();
        let doors: Vec<_> = arenas.iter().map(|arena| Door::open(arena).unwrap()).collect();
        let areas: Vec<_> = arenas.iter().enumerate().map(|(me, a)| Area::create(a, shape, me).unwrap()).collect();
        let cards: Vec<AreaCard> = areas.iter().map(|area| area.2.clone()).collect();
        let join = |(me, (area, bell, _)): (usize, (Area, Doorbell, AreaCard))| {
            let member = |(peer, card): (usize, &AreaCard)| {
                let mut door = doors[peer].1.clone();
                if peer != me && (peer >= threads || me >= threads) {
                    door.pid ^= 1;
                }
                Member { arena: attach(&door, Instant::now() + LONG).unwrap(), card: card.clone() }
            };
            let members: Vec<Member> = cards.iter().enumerate().map(member).collect();
            Rank { neighbours: Neighbours::new(area, &members).unwrap(), bell, arena: arenas[me].clone() }
        };
        areas.into_iter().enumerate().map(join).collect()
    }

    #[test]
    fn a_message_is_there_when_its_signal_is() {
        let mut ranks = host(SHAPE, 2);
        std::thread::scope(|scope| {
            for Rank { neighbours, bell, .. } in &mut ranks {
                scope.spawn(move || {
                    for call in 0..2000u64 {
                        let parity = (call % 2) as usize;
                        let message = [call * 8 + neighbours.me() as u64; MESSAGE_BYTES / 8];
                        neighbours.publish(parity, bytemuck::bytes_of(&message));
                        assert_eq!(neighbours.signal(), call + 1);
                        for peer in 0..3 {
                            while neighbours.signalled(peer, parity) <= call {
                                let nap = bell.lie_down();
                                if neighbours.signalled(peer, parity) <= call {
                                    let start = Instant::now();
                                    nap.sleep(&[], Some(LONG)).unwrap();
                                    assert!(start.elapsed() < LONG, "a wake-up was lost");
                                }
                            }
                            let mut seen = [0; MESSAGE_BYTES];
                            neighbours.message(peer, parity).read(&mut seen);
                            let expected = [call * 8 + peer as u64; MESSAGE_BYTES / 8];
                            assert_eq!(seen[..], *bytemuck::bytes_of(&expected));
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn every_link_and_stage_is_its_own() {
        let mut ranks = host(SHAPE, 2);
        let mut links: Vec<_> = (0..3 * 3 * 2)
            .filter(|i| i / 6 != i / 2 % 3)
            .map(|i| (i / 6, i / 2 % 3, i % 2, ranks[i / 6].neighbours.link(i / 2 % 3, i % 2)))
            .collect();
        let scratch = ranks[0].arena.alloc(3, 1).unwrap().span();
        for (me, peer, channel, (tx, _)) in &mut links {
            scratch.write(&[*me as u8, *peer as u8, *channel as u8]);
            assert_eq!(tx.send(scratch).unwrap(), 3);
        }
        for (me, peer, channel, (_, rx)) in &mut links {
            assert_eq!(rx.recv(scratch).unwrap(), 3);
            let mut seen = [0; 3];
            scratch.read(&mut seen);
            assert_eq!(seen, [*peer as u8, *me as u8, *channel as u8]);
        }
        for (i, rank) in ranks.iter_mut().enumerate() {
            for half in 0..2 {
                rank.neighbours.stage(i, half).write(&[(i * 2 + half) as u8; 10_000]);
            }
        }
        for rank in &ranks {
            for (peer, half) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
                let mut seen = [99; 10_000];
                rank.neighbours.stage(peer, half).read(&mut seen);
                assert_eq!(seen, [(peer * 2 + half) as u8; 10_000]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "taken before")]
    fn a_link_has_one_pair_of_ends() {
        let ranks = host(AreaShape { ranks: 2, ..SHAPE }, 2);
        let _first = ranks[0].neighbours.link(1, 0);
        ranks[0].neighbours.link(1, 0);
    }

    #[test]
    fn buffers_are_reached_where_they_can_be_and_nowhere_else() {
        let ranks = host(SHAPE, 2);
        let shared: Block = ranks[0].arena.alloc(1000, 64).unwrap();
        shared.span().cut(500, 1).write(&[7]);
        let address = ranks[0].neighbours.address_of(shared.span().cut(500, 100)).unwrap();
        assert!(matches!(address, Address::Arena(_)));
        for rank in &ranks {
            let mut byte = [0];
            rank.neighbours.resolve(0, address, 100).unwrap().read(&mut byte);
            assert_eq!(byte, [7]);
            assert_eq!(rank.neighbours.resolve(0, address, 4 << 20), None, "past the end of the arena");
            assert_eq!(rank.neighbours.resolve(0, Address::Arena(u64::MAX), 1), None);
            assert_eq!(rank.neighbours.resolve(0, address, usize::MAX), None);
        }
        // A rank's own arena is not what another rank's buffer lies in, even if it was allocated there.
        let private = ranks[0].neighbours.address_of(shared.span()).unwrap();
        let lent = ranks[1].neighbours.address_of(shared.span()).unwrap();
        assert_eq!(lent, Address::Process(shared.span().addr() as u64));
        assert_ne!(lent, private);
        assert_eq!(ranks[0].neighbours.resolve(1, lent, 1000), Some(shared.span()));
        assert_eq!(ranks[2].neighbours.resolve(1, lent, 1000), None, "of another process");
        assert_eq!(ranks[2].neighbours.address_of(shared.span()), None, "nobody could reach it");
        assert_eq!(ranks[0].neighbours.resolve(1, Address::Process(0), 1), None);
        assert_eq!(ranks[0].neighbours.resolve(1, lent, usize::MAX), None);
    }

    #[test]
    fn a_failure_wakes_everybody_and_waits_for_those_inside() {
        let [failing, inside, mut sleeper] = <[Rank; 3]>::try_from(host(SHAPE, 3)).unwrap();
        let (failing, inside) = (failing.neighbours, inside.neighbours);
        assert!(inside.enter());
        let nap = sleeper.bell.lie_down();
        failing.fail_neighbours();
        nap.sleep(&[], None).unwrap();
        assert!(sleeper.neighbours.aborted() && inside.aborted() && !failing.aborted());
        assert!(!sleeper.neighbours.enter());
        let soon = Instant::now() + Duration::from_millis(20);
        assert_eq!(failing.quiesce(soon, &|_| false), [1]);
        assert!(failing.quiesce(Instant::now() + LONG, &|peer| peer == 1).is_empty());
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(failing.quiesce(Instant::now() + LONG, &|_| false).is_empty()));
            inside.leave();
        });
        assert!(!inside.enter());
        failing.set_abort();
        assert!(failing.aborted());
    }

    #[test]
    fn an_area_is_free_again_when_all_have_detached_or_are_forgotten() {
        let mut ranks = host(SHAPE, 2);
        let Rank { neighbours: first, bell, arena } = ranks.remove(0);
        let link = first.link(1, 0);
        first.forget(2);
        drop((first, bell));
        let all = |arena: &Arc<Arena>| arena.alloc(4 << 20, 64).is_ok();
        assert!(!all(&arena), "a link still uses it");
        drop(link);
        assert!(!all(&arena), "rank 1 has not detached");
        let link = ranks[0].neighbours.link(0, 0);
        let arena_of_1 = ranks[0].arena.clone();
        drop(ranks.remove(0));
        assert!(!all(&arena), "rank 1 still has a link to it");
        drop(link);
        assert!(all(&arena), "rank 1 is gone and rank 2 was forgotten");
        assert!(!all(&arena_of_1), "rank 2 has neither detached nor been forgotten");
        drop(ranks);
        assert!(all(&arena_of_1));
    }

    #[test]
    fn threads_may_share_it() {
        fn shareable<T: Send + Sync>(_: &T) {}
        fn movable<T: Send>(_: &T) {}
        let ranks = host(AreaShape { ranks: 1, ..SHAPE }, 1);
        shareable(&ranks[0].neighbours);
        shareable(&ranks[0].bell.waker());
        movable(&ranks[0].bell);
    }

    #[test]
    fn the_wrong_number_of_members_is_refused() {
        let arena = Arena::create(4 << 20).unwrap();
        let (area, ..) = Area::create(&arena, SHAPE, 0).unwrap();
        assert!(matches!(Neighbours::new(area, &[]), Err(Error::Bootstrap { .. })));
    }
}
