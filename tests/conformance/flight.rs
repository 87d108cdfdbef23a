//! Calls beside each other: groups, messages, started calls, and who moves them.

use crate::ledger::{Ledger, wait_until};
use crate::numbers::{noise, parcel};
use crate::room::same;
use half::f16;
use roundel::memory::Span;
use roundel::{Call, Collective, Communicator, Counts, DType, Error, ReduceOp, Work};
use std::time::Duration;

/// A barrier really separates: whoever is behind it sees that everybody came.
pub fn barriers(comm: &Communicator) {
    let ledger = Ledger::open(comm);
    let world = comm.world() as u64;
    for round in 1..=40 {
        ledger.add();
        match round % 3 {
            0 => comm.start_barrier().unwrap().wait().unwrap(),
            _ => comm.barrier().unwrap(),
        }
        let seen = ledger.count();
        // One round ahead is possible, two are not.
        assert!((world * round..=world * (round + 1)).contains(&seen), "{seen} of {world} ranks, round {round}");
    }
    comm.barrier().unwrap();
}

/// Messages around the ring both ways and to oneself; everybody to everybody in a different order; several collectives.
pub fn groups(comm: &Communicator) {
    let (me, world) = (comm.rank(), comm.world());
    let (next, previous) = ((me + 1) % world, (me + world - 1) % world);
    for count in [0, 1, 1000, 100_000] {
        let (onward, back, own) =
            (parcel::<u32>(me, 1, count), parcel::<f16>(me, 2, count), parcel::<u8>(me, 3, count));
        let (mut left, mut right, mut mirror) = (vec![0u32; count], vec![f16::ONE; count], vec![0u8; count]);
        comm.group(|group| {
            group.recv(&mut left, previous)?;
            group.send(&onward, next)?;
            // Alone all are messages to oneself: then the order of the receives is that of the sends.
            group.send(&back, previous)?;
            group.send(&own, me)?;
            group.recv(&mut right, next)?;
            group.recv(&mut mirror, me)
        })
        .unwrap();
        same(&left, &parcel(previous, 1, count), &format_args!("from the left, rank {me}"));
        same(&right, &parcel(next, 2, count), &format_args!("from the right, rank {me}"));
        same(&mirror, &own, &format_args!("from itself, rank {me}"));
    }
    everybody_to_everybody(comm);
    collectives_in_a_group(comm);
    bad_groups(comm);
}

fn everybody_to_everybody(comm: &Communicator) {
    let (me, world) = (comm.rank(), comm.world());
    let sent: Vec<Vec<i64>> = (0..world).map(|to| parcel(me, to, 3000 + to)).collect();
    let mut got: Vec<Vec<i64>> = vec![vec![0; 3000 + me]; world];
    comm.group(|group| {
        let mut order: Vec<usize> = (0..world).collect();
        order.sort_by_key(|&peer| noise(me as u64, peer as u64));
        for &to in &order {
            group.send(&sent[to], to)?;
        }
        for (from, got) in got.iter_mut().enumerate().rev() {
            group.recv(got, from)?;
        }
        Ok(())
    })
    .unwrap();
    for (from, got) in got.iter().enumerate() {
        same(got, &parcel(from, me, 3000 + me), &format_args!("rank {from} to rank {me}"));
    }
}

fn collectives_in_a_group(comm: &Communicator) {
    let (me, world) = (comm.rank(), comm.world());
    let input = vec![me as i32; 2000];
    let (mut sums, mut most, mut from_last) = (vec![0; 2000], [me as u8; 3], vec![me as u64; 500]);
    let (message, mut received) = ([me as i8; 2], [0; 2]);
    comm.group(|group| {
        group.send(&message, (me + 1) % world)?;
        group.all_reduce(&input, &mut sums, ReduceOp::Sum)?;
        group.broadcast(&mut from_last, world - 1)?;
        group.all_reduce_in_place(&mut most, ReduceOp::Max)?;
        group.recv(&mut received, (me + world - 1) % world)
    })
    .unwrap();
    assert_eq!(sums, vec![(world * (world - 1) / 2) as i32; 2000]);
    assert_eq!((from_last, most), (vec![world as u64 - 1; 500], [world as u8 - 1; 3]));
    assert_eq!(received, [((me + world - 1) % world) as i8; 2]);
}

/// Refused before anything is sent, and the communicator goes on.
fn bad_groups(comm: &Communicator) {
    let me = comm.rank();
    let invalid = |outcome: roundel::Result<()>| assert!(matches!(outcome, Err(Error::Invalid { .. })), "{outcome:?}");
    let (data, mut room, mut short, mut floats) = ([1u8; 4], [0u8; 4], [0u8; 3], [1.0f32; 4]);
    invalid(comm.group(|group| group.send(&data, me)));
    invalid(comm.group(|group| group.recv(&mut room, me)));
    invalid(comm.group(|group| group.send(&data, me).and_then(|()| group.recv(&mut short, me))));
    invalid(comm.group(|group| group.send(&data, comm.world())));
    invalid(comm.group(|group| group.all_reduce_in_place(&mut floats, ReduceOp::BitXor)));
    let mut sum = [1u8];
    let given_up = comm.group(|group| {
        group.all_reduce_in_place(&mut sum, ReduceOp::Sum)?;
        Err(Error::Invalid { what: "changed my mind".into() })
    });
    invalid(given_up);
    assert_eq!(sum, [1]);
    invalid(comm.send(&data, me));
    invalid(comm.recv(&mut room, me));
    comm.barrier().unwrap();
}

/// Messages keep their order for each pair; collectives may run between them, on each side at another moment.
pub fn messages(comm: &Communicator) {
    let (me, world) = (comm.rank(), comm.world());
    let total = |comm: &Communicator| {
        let mut sum = [me as u32; 700];
        comm.all_reduce_in_place(&mut sum, ReduceOp::Sum).unwrap();
        assert_eq!(sum, [(world * (world - 1) / 2) as u32; 700]);
    };
    // A chain of messages of all lengths, blocking.
    for (index, count) in [0, 1, 3, 1000, 80_001, 0, 2].into_iter().enumerate() {
        if me > 0 {
            let mut got = vec![f16::ZERO; count];
            comm.recv(&mut got, me - 1).unwrap();
            same(&got, &parcel(me - 1, index, count), &format_args!("message {index} to rank {me}"));
        }
        if me + 1 < world {
            comm.send(&parcel::<f16>(me, index, count), me + 1).unwrap();
        }
    }
    // Pairs: the one starts to send before a collective, the other receives behind it, and the other way round.
    let pair = me ^ 1;
    if pair < world {
        let first = me < pair;
        let (long, short) = (parcel::<u32>(me, 5, 60_000), parcel::<u32>(me, 6, 2));
        let (mut got_long, mut got_short) = (vec![0; 60_000], vec![0; 2]);
        let started = first.then(|| {
            let long = comm.start_send(long.clone(), pair).unwrap();
            (long, comm.start_send(short.clone(), pair).unwrap())
        });
        total(comm);
        match started {
            None => {
                comm.recv(&mut got_long, pair).unwrap();
                comm.recv(&mut got_short, pair).unwrap();
            }
            Some((long, short)) => drop((short.wait().unwrap(), long.wait().unwrap())),
        }
        let started = first.then(|| {
            let long = comm.start_recv(vec![0u32; 60_000], pair).unwrap();
            (long, comm.start_recv(vec![0u32; 2], pair).unwrap())
        });
        total(comm);
        total(comm);
        match started {
            None => {
                comm.send(&long, pair).unwrap();
                comm.send(&short, pair).unwrap();
            }
            Some((long, short)) => (got_short, got_long) = (short.wait().unwrap(), long.wait().unwrap()),
        }
        same(&got_long, &parcel(pair, 5, 60_000), &"the long message");
        same(&got_short, &parcel(pair, 6, 2), &"the short message");
    } else {
        (0..3).for_each(|_| total(comm));
    }
}

/// Started calls of all sizes, waited for by several threads at once, with limits, without, and not at all: whoever waits
/// drives, steps aside or takes over, and all calls end.
pub fn waits_of_several_threads(comm: &Communicator) {
    let (me, world) = (comm.rank(), comm.world());
    for round in 0..20 {
        let start = |index: usize| {
            let count = [1, 300, 9_000, 50_000][(index + round) % 4];
            comm.start_all_reduce(vec![(me + index) as u32; count], ReduceOp::Sum).unwrap()
        };
        let works: Vec<Work<Vec<u32>>> = (0..6).map(start).collect();
        std::thread::scope(|scope| {
            for (index, work) in works.into_iter().enumerate() {
                scope.spawn(move || {
                    match (index + round + me) % 3 {
                        0 => {}
                        1 => wait_until("its end", || work.finish_within(Duration::from_micros(300)).is_some()),
                        _ => wait_until("its end", || work.test()),
                    }
                    let wanted = (world * (world - 1) / 2 + index * world) as u32;
                    let got = work.wait().unwrap();
                    assert!(got.iter().all(|&sum| sum == wanted), "call {index} of rank {me} in round {round}");
                });
            }
        });
        comm.barrier().unwrap();
    }
}

/// Many in flight, waited for in another order on every rank, some never.
pub fn started_calls(comm: &Communicator) {
    let (me, world) = (comm.rank(), comm.world());
    for round in 0..3 {
        let mut pending: Vec<(usize, Work<Vec<u64>>)> = Vec::new();
        for index in 0..32 {
            let count = [1, 40, 900, 12_000][index % 4];
            let work = match index % 5 {
                0..3 => comm.start_all_reduce(vec![(me + index) as u64; count], ReduceOp::Sum),
                _ => comm.start_broadcast(vec![(me + index) as u64; count], index % world),
            };
            pending.push((index, work.unwrap()));
        }
        let halves = comm.start_reduce_scatter(vec![1i8; 6 * world], vec![0i8; 6], ReduceOp::Sum).unwrap();
        let mut mapped = comm.alloc::<f32>(3 * world).unwrap();
        mapped.fill(me as f32);
        let gathered = comm.start_all_gather(vec![me as f32; 3], mapped).unwrap();
        drop(comm.start_all_reduce(vec![1u8; 100], ReduceOp::Max).unwrap());
        comm.barrier().unwrap();

        pending.sort_by_key(|(index, _)| noise(me as u64 + 10 * round, *index as u64));
        for (index, work) in pending {
            if index % 3 == 0 {
                wait_until("a started call", || work.test());
            } else if index % 3 == 1 {
                wait_until("a started call", || work.finish_within(Duration::from_millis(20)).is_some());
                assert_eq!(work.finish_within(Duration::ZERO), Some(Ok(())));
            }
            let got = work.wait().unwrap();
            let wanted = match index % 5 {
                0..3 => world * (world - 1) / 2 + index * world,
                _ => index % world + index,
            };
            same(&got, &vec![wanted as u64; got.len()], &format_args!("call {index} of rank {me}"));
        }
        let barriers = comm.start_group(vec![barrier(); 3]).unwrap();
        assert_eq!(barriers.len(), 3);
        barriers.into_iter().for_each(|barrier| barrier.finish().unwrap());
        let (ones, sums) = halves.wait().unwrap();
        assert_eq!((ones, sums), (vec![1; 6 * world], vec![world as i8; 6]));
        let (_, all) = gathered.wait().unwrap();
        assert!((0..3 * world).all(|index| all[index] == (index / 3) as f32), "{:?}", &all[..]);
    }
}

fn barrier() -> Call {
    Call {
        collective: Collective::Barrier,
        dtype: DType::U8,
        op: None,
        root: 0,
        peer: 0,
        counts: Counts::Even(0),
        input: Span::EMPTY,
        output: Span::EMPTY,
    }
}

/// Calls that were started end on rank 0 while the other ranks are busy elsewhere and never look.
pub fn progress_without_the_caller(comm: &Communicator) {
    let ledger = Ledger::open(comm);
    let (me, world) = (comm.rank(), comm.world());
    for round in 1..=3 {
        let sums: Vec<_> =
            [3, 30_000].map(|count| comm.start_all_reduce(vec![1u32; count], ReduceOp::Sum).unwrap()).into();
        let last = comm.start_broadcast(vec![me as u8; 70_000], world - 1).unwrap();
        let barrier = comm.start_barrier().unwrap();
        if me == 0 {
            wait_until("calls that all ranks have started", || {
                barrier.test() && last.test() && sums.iter().all(Work::test)
            });
            ledger.add();
        } else {
            ledger.wait_for(round);
        }
        barrier.wait().unwrap();
        for sum in sums {
            assert!(sum.wait().unwrap().iter().all(|&sum| sum == world as u32));
        }
        assert_eq!(last.wait().unwrap(), vec![world as u8 - 1; 70_000]);
    }
    comm.barrier().unwrap();
}

/// A little of everything, for settings that change what lies between the ranks.
pub fn protected(comm: &Communicator) {
    super::forms::counts(comm);
    groups(comm);
    messages(comm);
    started_calls(comm);
}
