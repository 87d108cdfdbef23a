//! The grids: types by operations, counts, roots, homes and places. Products are small where one factor is large.

use crate::bits;
use crate::calls::{self, Case};
use crate::numbers::{Data, for_every_type, operations};
use crate::room::Home;
use roundel::{Communicator, Element, ReduceOp};

/// Types by operations, on counts below and above a vector register.
pub fn every_type_and_operation(comm: &Communicator) {
    for_every_type!(one_type(comm));
}

fn one_type<T: Element>(comm: &Communicator) {
    for (index, op) in operations::<T>().into_iter().enumerate() {
        let in_place = (index + comm.rank()).is_multiple_of(2);
        let root = index % comm.world();
        calls::reducing::<T>(&Case { root, in_place, ..Case::new(comm, 5) }, op);
        calls::all_reduce::<T>(&Case { shift: 1, in_place: !in_place, ..Case::new(comm, 77) }, op);
    }
    calls::moving::<T>(&Case { root: comm.world() - 1, ..Case::new(comm, 19) });
}

/// Counts: none, one, fewer than ranks, around the number of ranks, no multiple of anything.
pub fn counts(comm: &Communicator) {
    let world = comm.world();
    for count in [0, 1, 2, 3, 7, world - 1, world, world + 1, 1000] {
        calls::all::<i32>(
            &Case { root: count % world, in_place: count % 2 == 1, ..Case::new(comm, count) },
            ReduceOp::Sum,
        );
        calls::all::<half::bf16>(&Case { root: count % world, shift: 1, ..Case::new(comm, count) }, ReduceOp::Avg);
    }
    for (root, in_place) in [(0, false), (world - 1, true)] {
        let case = Case { root, in_place, ..Case::new(comm, 65537) };
        calls::all_reduce::<u8>(&case, ReduceOp::BitXor);
        calls::reduce::<i32>(&case, ReduceOp::Max);
        calls::broadcast::<i64>(&case);
        calls::all::<u8>(&Case { count: 65537 / world, ..case }, ReduceOp::Sum);
    }
}

/// Every root; heap, mapped, and mapped on some ranks only; in place on all, on none, on some; misaligned.
pub fn roots_homes_and_places(comm: &Communicator) {
    let (world, me) = (comm.world(), comm.rank());
    let odd = if me % 2 == 1 { Home::Mapped } else { Home::Heap };
    let homes = [
        (Home::Heap, Home::Heap),
        (Home::Mapped, Home::Mapped),
        (odd, odd),
        (Home::Heap, Home::Mapped),
        (if me == 0 { Home::Heap } else { Home::Mapped }, Home::Mapped),
    ];
    for root in 0..world {
        for (index, (input, output)) in homes.into_iter().enumerate() {
            for place in 0..3 {
                let in_place = place == 1 || place == 2 && me % 2 == 0;
                let shift = (root + index + place) % 2;
                // Small ones take another way than large ones.
                for count in [3, 1500] {
                    let case = Case { comm, count, root, data: Data::Exact, input, output, shift, in_place };
                    // The long ones with every root only where roots matter.
                    if root < 2 {
                        calls::all::<half::f16>(&case, ReduceOp::Sum);
                        calls::all_reduce::<f32>(&case, operations::<f32>()[5]);
                    } else {
                        calls::reduce::<f32>(&case, operations::<f32>()[5]);
                        calls::broadcast::<u64>(&case);
                        calls::gather::<u8>(&case);
                        calls::scatter::<u32>(&case);
                    }
                }
            }
        }
    }
}

/// Vectors of many times the staging memory.
pub fn rounds(comm: &Communicator) {
    let world = comm.world();
    let odd = if comm.rank() % 2 == 1 { Home::Mapped } else { Home::Heap };
    for (input, in_place) in [(Home::Heap, false), (Home::Heap, true), (odd, comm.rank() == 0)] {
        let case = Case { input, in_place, root: world - 1, shift: 1, ..Case::new(comm, 300_000) };
        calls::all_reduce::<f32>(&case, ReduceOp::Sum);
        calls::reduce::<half::f16>(&case, operations::<half::f16>()[5]);
        calls::broadcast::<u32>(&case);
        calls::all::<u32>(&Case { count: 100_000 / world, ..case }, ReduceOp::Max);
        // Few bytes, but in one block: were all blocks so long, they would not fit the stage.
        calls::reduce_scatter_v::<f32>(&Case { count: 8192, ..case }, ReduceOp::Sum);
        calls::all_gather_v::<f32>(&Case { count: 8192, ..case });
    }
}

/// With a wish for an algorithm: small, middling, and long enough for several slices.
pub fn forced(comm: &Communicator) {
    for (count, shift) in [(0, 0), (1, 0), (10, 1), (1000, 0), (20_000, 1)] {
        let in_place = (count + comm.rank()).is_multiple_of(3);
        let case = Case { shift, in_place, root: (count / 10) % comm.world(), ..Case::new(comm, count) };
        calls::all::<f32>(&case, ReduceOp::Sum);
        calls::all_reduce::<u8>(&case, ReduceOp::Avg);
        let mapped = Case { input: Home::Mapped, output: Home::Mapped, ..case };
        calls::all::<i32>(&mapped, operations::<i32>()[5]);
    }
    bits::same_bits(comm);
}
