//! [`super::neighbours`] between ranks of this process.

use super::neighbours::*;
use super::*;
use crate::transport::shm::{Arena, Block, Door, Doorbell, attach};
use crate::transport::{Address, MESSAGE_BYTES};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
                    neighbours.message(neighbours.me(), parity).write(bytemuck::bytes_of(&message));
                    assert_eq!(neighbours.signal(parity), call + 1);
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
