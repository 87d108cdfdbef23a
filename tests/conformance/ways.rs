//! A call can go several ways: straight through on its caller's thread, on a task that an equal call has used before; or
//! among the calls in flight, on a new one; with buffers that peers can map, or without, or with some of each. The result is
//! the same bits, whichever way each rank takes.

use crate::numbers::{Data, contributions};
use crate::room::{Home, Room, same};
use roundel::{Communicator, ReduceOp};

/// Elements: around what fits a signal's line, a single round, and several.
const COUNTS: [usize; 11] = [0, 1, 2, 19, 20, 21, 100, 1024, 1025, 8192, 40_000];

/// Enough for each rank to go every way, beside others that go every other.
const TURNS: usize = 6;

/// All-reduces and the three collectives that small worlds do in a single round.
pub fn ways(comm: &Communicator) {
    for count in COUNTS {
        all_reduces(comm, count);
        gathers(comm, count);
    }
}

/// How a rank goes this turn: started or blocking, and where its buffers are.
fn way(comm: &Communicator, turn: usize) -> (bool, Home) {
    let home = if (comm.rank() + turn / 2).is_multiple_of(2) { Home::Heap } else { Home::Mapped };
    ((comm.rank() + turn).is_multiple_of(3), if turn < 2 { Home::Heap } else { home })
}

fn all_reduces(comm: &Communicator, count: usize) {
    // The second operation has the first one's plan, and must not have its arithmetic.
    for turn in 0..TURNS {
        for op in [ReduceOp::Sum, ReduceOp::Max] {
            let input: Vec<f32> = contributions(Data::Rough, op, comm.rank(), 0..count);
            let mut expected = input.clone();
            comm.group(|group| group.all_reduce_in_place(&mut expected, op)).unwrap();
            let what = format!("{op} of {count} on rank {}, turn {turn}", comm.rank());
            match way(comm, turn) {
                (true, _) => same(&comm.start_all_reduce(input, op).unwrap().wait().unwrap(), &expected, &what),
                (false, home) => {
                    let mut room = Room::new(comm, home, turn % 2, &input);
                    for _ in 0..2 {
                        room.copy_from_slice(&input);
                        comm.all_reduce_in_place(&mut room, op).unwrap();
                        room.expect(&expected, &what);
                    }
                    continue;
                }
            }
            // As many calls as the others make.
            let mut again: Vec<f32> = contributions(Data::Rough, op, comm.rank(), 0..count);
            comm.all_reduce_in_place(&mut again, op).unwrap();
            same(&again, &expected, &what);
        }
    }
}

fn gathers(comm: &Communicator, count: usize) {
    let (rank, world) = (comm.rank(), comm.world());
    let number = |rank: usize, index: usize| (rank * 100_000 + index) as u32;
    let block: Vec<u32> = (0..count).map(|index| number(rank, index)).collect();
    let all: Vec<u32> = (0..count * world).map(|at| number(at / count.max(1), at % count.max(1))).collect();
    for turn in 0..TURNS {
        let (is_started, home) = way(comm, turn);
        let what = format!("{count} on rank {rank}, turn {turn}");
        let root = turn % world;
        let wanted = &all[root * count..(root + 1) * count];
        if is_started {
            let (_, gathered) = comm.start_all_gather(block.clone(), vec![0; count * world]).unwrap().wait().unwrap();
            same(&gathered, &all, &what);
            let data = comm.start_broadcast(block.clone(), root).unwrap().wait().unwrap();
            same(&data, wanted, &what);
            continue;
        }
        let mut gathered = Room::stale(comm, home, turn % 2, count * world);
        let mut mine = Room::new(comm, home, 0, &block);
        comm.all_gather(&mine, &mut gathered).unwrap();
        gathered.expect(&all, &what);
        comm.broadcast(&mut mine, root).unwrap();
        mine.expect(wanted, &what);
    }
}
