//! Groups of groups, and several communicators at work at the same time.

use crate::calls::{self, Case};
use crate::numbers::parcel;
use crate::room::same;
use roundel::{Communicator, ReduceOp};

/// A little of everything.
fn exercise(comm: &Communicator) {
    let case = Case { root: comm.world() - 1, ..Case::new(comm, 333) };
    calls::all::<f32>(&case, ReduceOp::Sum);
    calls::all::<u8>(&Case { in_place: true, ..case }, ReduceOp::Max);
    calls::all_reduce::<i32>(&Case { count: 9000, ..case }, ReduceOp::Sum);
}

/// Colors, keys, nobody's ranks, splits of splits, parent and children at once.
pub fn splits(comm: &Communicator) {
    let (me, world) = (comm.rank(), comm.world());
    // Two halves, the second in reverse order.
    let color = (me % 2) as u32;
    let half = comm.split(Some(color), if color == 1 { -(me as i64) } else { 0 }).unwrap().unwrap();
    let members: Vec<usize> = match color {
        0 => (0..world).step_by(2).collect(),
        _ => (1..world).step_by(2).rev().collect(),
    };
    assert_eq!((members[half.rank()], half.world()), (me, members.len()));
    assert_eq!(half.hosts().iter().map(Vec::len).sum::<usize>(), half.world());
    exercise(&half);

    // The same color for all, turned around; and the even ones alone, while the others go on.
    let turned = comm.split(Some(u32::MAX), ((me + 1) % world) as i64).unwrap().unwrap();
    assert_eq!((turned.rank(), turned.world()), ((me + 1) % world, world));
    let even = comm.split((me % 2 == 0).then_some(7), i64::MIN + me as i64).unwrap();
    assert_eq!(
        even.as_ref().map(|even| (even.rank(), even.world())),
        (me % 2 == 0).then_some((me / 2, world.div_ceil(2)))
    );
    even.iter().for_each(exercise);

    // Alone: a color of one's own. Nobody: no color at all.
    let alone = turned.split(Some(me as u32), 0).unwrap().unwrap();
    assert_eq!((alone.rank(), alone.world()), (0, 1));
    exercise(&alone);
    assert!(comm.split(None, 0).unwrap().is_none());

    // A split of a split outlives what it was split from.
    let quarter = half.split(Some((half.rank() / 2) as u32), 0).unwrap().unwrap();
    assert_eq!(quarter.rank(), half.rank() % 2);
    drop((alone, even));

    // Some ranks by themselves, in another order, twice; the others know nothing of it.
    let some: Vec<usize> = (0..world).rev().step_by(2).collect();
    for _ in 0..2 {
        if some.contains(&me) {
            let subset = comm.subset(&some).unwrap();
            assert_eq!((some[subset.rank()], subset.world()), (me, some.len()));
            exercise(&subset);
        }
    }
    for wrong in [vec![], vec![me, me], vec![me, world], vec![(me + 1) % world]] {
        if wrong != [me] {
            let error = comm.subset(&wrong).unwrap_err();
            assert!(error.is_recoverable() && error.to_string().contains("distinct"), "{error}");
        }
    }

    // Calls in flight on parent and children together, begun in another order here and there.
    let ones = || vec![1u64; 20_000];
    let start = |of: &Communicator| of.start_all_reduce(ones(), ReduceOp::Sum).unwrap();
    let works = match me % 2 {
        0 => [start(comm), start(&half), start(&turned), start(&quarter)],
        _ => {
            let mut works = [start(&quarter), start(&turned), start(&half), start(comm)];
            works.reverse();
            works
        }
    };
    let sizes = [comm, &half, &turned, &quarter].map(|of| of.world() as u64);
    exercise(&half);
    drop(half);
    for (work, size) in works.into_iter().zip(sizes) {
        same(&work.wait().unwrap(), &vec![size; 20_000], &format_args!("all_reduce of {size} ranks, on rank {me}"));
    }
    exercise(&quarter);
    exercise(comm);
}

/// Several communicators, each with a thread of its own; and one communicator with two threads, one for collectives and
/// one for messages.
pub fn threads(comm: &Communicator) {
    let (me, world) = (comm.rank(), comm.world());
    let comms: Vec<Communicator> = (0..3).map(|key| comm.split(Some(0), key * me as i64).unwrap().unwrap()).collect();
    std::thread::scope(|scope| {
        for comm in &comms {
            scope.spawn(move || (0..3).for_each(|_| exercise(comm)));
        }
        exercise(comm);
    });
    let (next, previous) = ((me + 1) % world, (me + world - 1) % world);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..5).for_each(|_| exercise(comm)));
        scope.spawn(|| {
            for index in 0..20 {
                let (sent, mut got) = (parcel::<u32>(me, index, 2500), vec![0u32; 2500]);
                comm.group(|group| group.send(&sent, next).and_then(|()| group.recv(&mut got, previous))).unwrap();
                same(&got, &parcel(previous, index, 2500), &format_args!("message {index} to rank {me}"));
            }
        });
    });
}
