//! What ranks contribute to a call, and what must come out of it: the oracle. Both follow from the call and the rank alone.
#![forbid(unsafe_code)]

use super::dice::Dice;
use super::script::Wish;
use crate::device::host::{Fold, reference};
use crate::engine::Counts;
use crate::types::{Collective, DType, Rank, ReduceOp, Scalar};

/// What a rank gives to a call: the bytes of its input.
pub(super) fn contribution(wish: &Wish, rank: Rank, len_bytes: usize) -> Vec<u8> {
    let mut dice = Dice::new(wish.seed).fork(rank as u64);
    if wish.dtype.is_integer() || wish.is_rough || !wish.collective.reduces() {
        let mut bytes: Vec<u8> = Vec::with_capacity(len_bytes + 8);
        while bytes.len() < len_bytes {
            bytes.extend(dice.next().to_le_bytes());
        }
        bytes.truncate(len_bytes);
        return bytes;
    }
    // Floats that every order of summing and multiplying treats exactly, in every type.
    let values: &[f64] = match wish.op {
        Some(ReduceOp::Prod) => &[1.0, -1.0, 2.0, 0.5],
        _ => &[1.0, -1.0, 0.0, 1.0],
    };
    let size = wish.dtype.size_bytes();
    let bits: Vec<[u8; 8]> = values.iter().map(|value| reference::encode(wish.dtype, *value).to_le_bytes()).collect();
    (0..len_bytes / size).flat_map(|_| dice.pick(&bits).into_iter().take(size)).collect()
}

/// The reduction as `rank` names it: each has a factor of its own.
pub(super) fn op_of(wish: &Wish, rank: Rank) -> Option<ReduceOp> {
    let Some(ReduceOp::PreMulSum(Scalar { dtype, .. })) = wish.op else { return wish.op };
    let bits = match dtype.is_integer() {
        true => Dice::new(wish.seed).fork(1000 + rank as u64).next() & mask(dtype),
        false => reference::encode(dtype, [1.0, -1.0][rank % 2]),
    };
    Some(ReduceOp::PreMulSum(Scalar { bits, dtype }))
}

fn mask(dtype: DType) -> u64 {
    u64::MAX >> (64 - 8 * dtype.size_bytes())
}

/// The ranks whose contributions end up in what `me` gets; nobody where it gets nothing. Of a barrier they are all: it says
/// that everybody has come.
pub(super) fn sources(wish: &Wish, world: usize, me: Rank) -> Vec<Rank> {
    let gives = |rank: &Rank| match wish.collective {
        Collective::Barrier => true,
        Collective::AllGather | Collective::Gather => wish.input_bytes(*rank, world) > 0,
        Collective::AllToAll => match wish.counts_of(me) {
            Counts::Exchange { recv, .. } => recv[*rank] > 0,
            _ => wish.input_bytes(*rank, world) > 0,
        },
        Collective::Broadcast | Collective::Scatter | Collective::SendRecv => *rank == wish.root,
        _ => true,
    };
    let gets = wish.collective == Collective::Barrier || wish.output_bytes(me, world) > 0;
    (0..world).filter(|rank| gets && gives(rank)).collect()
}

/// What `me` must end with.
pub(super) fn expected(wish: &Wish, world: usize, me: Rank) -> Vec<u8> {
    let size = wish.dtype.size_bytes();
    let given = |rank: Rank| contribution(wish, rank, wish.input_bytes(rank, world));
    let counts = |rank: Rank| match wish.counts_of(rank) {
        Counts::Even(count) => vec![count; world],
        Counts::Blocks(counts) => counts,
        Counts::Exchange { send, .. } => send,
    };
    // The bytes of the `which`-th block of what `rank` gives.
    let block = |rank: Rank, which: Rank| {
        let counts = counts(rank);
        let start = counts[..which].iter().sum::<usize>() * size;
        given(rank)[start..start + counts[which] * size].to_vec()
    };
    let reduced = || {
        let mut inputs: Vec<Vec<u8>> = (0..world).map(|rank| scaled(wish, rank, given(rank))).collect();
        // Alone, a rank's contribution is the result as it is.
        if world == 1 {
            return inputs.remove(0);
        }
        let op = match wish.op {
            Some(ReduceOp::PreMulSum(_)) | None => ReduceOp::Sum,
            Some(op) => op,
        };
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        if inputs[0].is_empty() {
            return Vec::new();
        }
        reference::reduce(&Fold::new(wish.dtype, op, world as u32), true, &inputs)
    };
    match wish.collective {
        Collective::AllReduce => reduced(),
        Collective::Reduce if me == wish.root => reduced(),
        Collective::ReduceScatter => {
            let counts = counts(me);
            let start = counts[..me].iter().sum::<usize>() * size;
            reduced()[start..start + counts[me] * size].to_vec()
        }
        Collective::Broadcast => given(wish.root),
        Collective::AllGather => (0..world).flat_map(given).collect(),
        Collective::Gather if me == wish.root => (0..world).flat_map(given).collect(),
        Collective::Scatter => block(wish.root, me),
        Collective::AllToAll => (0..world).flat_map(|rank| block(rank, me)).collect(),
        Collective::SendRecv if me == wish.peer => given(wish.root),
        Collective::Reduce | Collective::Gather | Collective::SendRecv | Collective::Barrier => Vec::new(),
    }
}

fn scaled(wish: &Wish, rank: Rank, input: Vec<u8>) -> Vec<u8> {
    match op_of(wish, rank) {
        Some(ReduceOp::PreMulSum(Scalar { bits, dtype })) => reference::scale(dtype, bits, &input),
        _ => input,
    }
}
