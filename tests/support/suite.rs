//! Every collective once, against sums on paper, on whatever communicator it is given.

use roundel::{Communicator, ReduceOp};

/// Runs every collective with vectors of about `count` elements; panics at the first wrong element.
pub fn all_collectives(comm: &Communicator, count: usize) {
    let (me, n) = (comm.rank(), comm.world());
    // What rank `rank` has at `index`, and the sum of that over the ranks.
    let value = |rank: usize, index: usize| (rank * 1000 + index % 997) as i64;
    let sum = |index: usize| (0..n).map(|rank| value(rank, index)).sum::<i64>();
    let mine = |len: usize| (0..len).map(|index| value(me, index)).collect::<Vec<_>>();
    let sums = |len: usize| (0..len).map(sum).collect::<Vec<_>>();

    let input = mine(count);
    let mut output = vec![0; count];
    comm.all_reduce(&input, &mut output, ReduceOp::Sum).unwrap();
    assert!(output == sums(count), "all_reduce of {count}");
    let mut data = mine(count);
    comm.all_reduce_in_place(&mut data, ReduceOp::Max).unwrap();
    assert!(data == (0..count).map(|index| value(n - 1, index)).collect::<Vec<_>>(), "all_reduce max of {count}");

    for root in 0..n {
        let mut output = vec![0; if me == root { count } else { 0 }];
        comm.reduce(&input, &mut output, ReduceOp::Sum, root).unwrap();
        assert!(me != root || output == sums(count), "reduce of {count} to {root}");

        let mut data = if me == root { mine(count) } else { vec![-1; count] };
        comm.broadcast(&mut data, root).unwrap();
        assert!((0..count).all(|index| data[index] == value(root, index)), "broadcast of {count} from {root}");

        let mut blocks = vec![0; if me == root { n * count } else { 0 }];
        comm.gather(&input, &mut blocks, root).unwrap();
        let expected = |at: usize| value(at / count, at % count);
        assert!((0..blocks.len()).all(|at| blocks[at] == expected(at)), "gather of {count} to {root}");

        let blocks = if me == root { mine(n * count) } else { vec![] };
        let mut block = vec![-1; count];
        comm.scatter(&blocks, &mut block, root).unwrap();
        let expected = |at: usize| value(root, me * count + at);
        assert!((0..count).all(|at| block[at] == expected(at)), "scatter of {count} from {root}");
    }

    let blocks = mine(n * count);
    let mut block = vec![0; count];
    comm.reduce_scatter(&blocks, &mut block, ReduceOp::Sum).unwrap();
    assert!((0..count).all(|at| block[at] == sum(me * count + at)), "reduce_scatter of {count}");

    let mut all = vec![0; n * count];
    comm.all_gather(&input, &mut all).unwrap();
    assert!((0..n * count).all(|at| all[at] == value(at / count, at % count)), "all_gather of {count}");

    let mut exchanged = vec![0; n * count];
    comm.all_to_all(&blocks, &mut exchanged).unwrap();
    let expected = |at: usize| value(at / count, me * count + at % count);
    assert!((0..n * count).all(|at| exchanged[at] == expected(at)), "all_to_all of {count}");

    uneven(comm, count, &value, &sum);

    if n > 1 {
        let (right, left) = ((me + 1) % n, (me + n - 1) % n);
        let mut from_left = vec![0; count];
        comm.group(|group| {
            group.send(&input, right)?;
            group.recv(&mut from_left, left)
        })
        .unwrap();
        assert!((0..count).all(|index| from_left[index] == value(left, index)), "messages of {count}");
    }
    comm.barrier().unwrap();
}

/// Blocks of different sizes, some empty.
fn uneven(comm: &Communicator, count: usize, value: &dyn Fn(usize, usize) -> i64, sum: &dyn Fn(usize) -> i64) {
    let (me, n) = (comm.rank(), comm.world());
    let counts: Vec<usize> = (0..n).map(|rank| count * rank / 2).collect();
    let before = |rank: usize| counts[..rank].iter().sum::<usize>();
    let total: usize = counts.iter().sum();

    let input: Vec<i64> = (0..counts[me]).map(|index| value(me, index)).collect();
    let mut all = vec![0; total];
    comm.all_gather_v(&input, &mut all, &counts).unwrap();
    let right = |rank: usize| (0..counts[rank]).all(|index| all[before(rank) + index] == value(rank, index));
    assert!((0..n).all(right), "all_gather_v of {counts:?}");

    let input: Vec<i64> = (0..total).map(|index| value(me, index)).collect();
    let mut block = vec![0; counts[me]];
    comm.reduce_scatter_v(&input, &mut block, &counts, ReduceOp::Sum).unwrap();
    assert!((0..counts[me]).all(|at| block[at] == sum(before(me) + at)), "reduce_scatter_v of {counts:?}");

    // Rank a sends rank b a number of elements that only the two know.
    let between = |from: usize, to: usize| (from * 3 + to * 5) % 7 * count / 7;
    let send: Vec<usize> = (0..n).map(|peer| between(me, peer)).collect();
    let recv: Vec<usize> = (0..n).map(|peer| between(peer, me)).collect();
    let input: Vec<i64> = (0..n)
        .flat_map(|peer| (0..send[peer]).map(move |at| (peer, at)))
        .map(|(peer, at)| value(me, peer + at))
        .collect();
    let mut output = vec![0; recv.iter().sum()];
    comm.all_to_all_v(&input, &send, &mut output, &recv).unwrap();
    let expected =
        (0..n).flat_map(|peer| (0..recv[peer]).map(move |at| (peer, at))).map(|(peer, at)| value(peer, me + at));
    assert!(output.iter().copied().eq(expected), "all_to_all_v of {send:?}");
}

/// A fingerprint of the bits of floating-point sums whose value depends on the order of adding.
pub fn fingerprint(comm: &Communicator, counts: &[usize]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |value: f32| hash = (hash ^ u64::from(value.to_bits())).wrapping_mul(0x100_0000_01b3);
    for &count in counts {
        let draw = |index: usize| {
            let bits = (comm.rank() * count + index).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            (bits as f32 - 8_000_000.0) * 1.1_f32.powi((index % 60) as i32 - 30)
        };
        let mut data: Vec<f32> = (0..count).map(draw).collect();
        comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
        data.into_iter().for_each(&mut mix);
    }
    hash
}
