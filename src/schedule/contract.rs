//! What each collective promises, told without an algorithm: which chunks a rank's buffers have, and what its output
//! holds at the end. Contributions are named (rank, chunk): chunk `c` of the `Input` of rank `r`.
//!
//! | collective | `Input` exists | `Output` exists | `Output[c]` of rank `r` ends as |
//! |---|---|---|---|
//! | all-reduce | everywhere | everywhere | sum over all ranks of (rank, c) |
//! | reduce | everywhere | at the root | the same |
//! | reduce-scatter | everywhere | block r | the same |
//! | broadcast | at the root | everywhere | (root, c) |
//! | all-gather | block r | everywhere | (c / k, c) |
//! | gather | block r | at the root | (c / k, c) |
//! | scatter | at the root | block r | (root, c) |
//! | all-to-all | everywhere | everywhere | (c / k, r k + c % k) |
//! | send-recv | at the sender, `root` | at the receiver, `peer` | (root, c) |
//! | barrier | nowhere | nowhere | |
//!
//! with `k = chunks / world`, the chunks of a block.
#![forbid(unsafe_code)]

use crate::types::{Collective, Rank};

/// What a chunk of output holds at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// One contribution, as it was.
    Copy {
        /// Whose.
        rank: Rank,
        /// Which chunk of that rank's input.
        chunk: u32,
    },
    /// Every rank's contribution to this chunk, each exactly once.
    Sum {
        /// Which chunk.
        chunk: u32,
    },
}

/// A collective, as seen from its buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contract {
    collective: Collective,
    world: usize,
    root: Rank,
    peer: Rank,
    chunks: u32,
    block: u32,
}

impl Contract {
    /// The contract for buffers cut into `chunks`. `root` is the sender and `peer` the receiver of a send-recv; where a
    /// collective has neither they do not matter. `None` if `chunks` cannot be cut into one block per rank where there
    /// are blocks, or if the root or peer is not a rank.
    pub fn new(collective: Collective, world: usize, root: Rank, peer: Rank, chunks: u32) -> Option<Contract> {
        use Collective::{AllGather, AllToAll, Gather, ReduceScatter, Scatter, SendRecv};
        let in_blocks = matches!(collective, ReduceScatter | AllGather | Gather | Scatter | AllToAll);
        let cut = !in_blocks || (chunks > 0 && chunks.is_multiple_of(world as u32));
        let rooted = !collective.has_root() && collective != SendRecv || root < world;
        let peered = collective != SendRecv || peer < world;
        let block = chunks / world.max(1) as u32;
        (world > 0 && cut && rooted && peered).then_some(Contract { collective, world, root, peer, chunks, block })
    }

    /// How many chunks the buffers are cut into.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// How many chunks make a block, where there are blocks.
    pub fn block(&self) -> u32 {
        self.block
    }

    /// True if the rank has this chunk of input.
    pub fn has_input(&self, rank: Rank, chunk: u32) -> bool {
        chunk < self.chunks
            && match self.collective {
                Collective::AllReduce | Collective::Reduce | Collective::ReduceScatter | Collective::AllToAll => true,
                Collective::Broadcast | Collective::Scatter | Collective::SendRecv => rank == self.root,
                Collective::AllGather | Collective::Gather => self.owner(chunk) == rank,
                Collective::Barrier => false,
            }
    }

    /// What the rank's chunk of output holds at the end; `None` if it has no such chunk.
    pub fn output(&self, rank: Rank, chunk: u32) -> Option<Content> {
        let (root, owner) = (self.root, self.owner(chunk));
        let sum = Content::Sum { chunk };
        let from = |rank| Content::Copy { rank, chunk };
        let when = |here: bool, content| here.then_some(content);
        if chunk >= self.chunks {
            return None;
        }
        match self.collective {
            Collective::AllReduce => Some(sum),
            Collective::Reduce => when(rank == root, sum),
            Collective::ReduceScatter => when(rank == owner, sum),
            Collective::Broadcast => Some(from(root)),
            Collective::AllGather => Some(from(owner)),
            Collective::Gather => when(rank == root, from(owner)),
            Collective::Scatter => when(rank == owner, from(root)),
            Collective::AllToAll => {
                Some(Content::Copy { rank: owner, chunk: rank as u32 * self.block + chunk % self.block })
            }
            Collective::SendRecv => when(rank == self.peer, from(root)),
            Collective::Barrier => None,
        }
    }

    /// Which rank's block a chunk is in, where there are blocks.
    fn owner(&self, chunk: u32) -> Rank {
        chunk.checked_div(self.block).map_or(self.world, |block| block as Rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who has input, and what output ends as, told for every (rank, chunk) as a short text.
    fn told(collective: Collective, root: Rank, chunks: u32) -> Vec<String> {
        let contract = Contract::new(collective, 3, root, 2, chunks).unwrap();
        let cell = |rank, chunk| {
            let input = if contract.has_input(rank, chunk) { "i" } else { "-" };
            match contract.output(rank, chunk) {
                None => format!("{input} -"),
                Some(Content::Sum { chunk }) => format!("{input} +{chunk}"),
                Some(Content::Copy { rank, chunk }) => format!("{input} {rank}.{chunk}"),
            }
        };
        (0..3).map(|rank| (0..chunks).map(|chunk| cell(rank, chunk)).collect::<Vec<_>>().join(", ")).collect()
    }

    #[test]
    fn every_collective_as_a_table() {
        assert_eq!(told(Collective::AllReduce, 0, 2), ["i +0, i +1"; 3]);
        assert_eq!(told(Collective::Reduce, 1, 1), ["i -", "i +0", "i -"]);
        assert_eq!(told(Collective::Broadcast, 1, 1), ["- 1.0", "i 1.0", "- 1.0"]);
        assert_eq!(told(Collective::ReduceScatter, 0, 3), ["i +0, i -, i -", "i -, i +1, i -", "i -, i -, i +2"]);
        assert_eq!(
            told(Collective::AllGather, 0, 3),
            ["i 0.0, - 1.1, - 2.2", "- 0.0, i 1.1, - 2.2", "- 0.0, - 1.1, i 2.2"]
        );
        assert_eq!(told(Collective::Gather, 1, 3), ["i -, - -, - -", "- 0.0, i 1.1, - 2.2", "- -, - -, i -"]);
        assert_eq!(told(Collective::Scatter, 1, 3), ["- 1.0, - -, - -", "i -, i 1.1, i -", "- -, - -, - 1.2"]);
        assert_eq!(told(Collective::SendRecv, 0, 1), ["i -", "- -", "- 0.0"]);
        assert_eq!(told(Collective::Barrier, 0, 0), [""; 3]);
        assert_eq!(
            told(Collective::AllToAll, 0, 6)[1],
            "i 0.2, i 0.3, i 1.2, i 1.3, i 2.2, i 2.3",
            "two pieces a block: rank 1 ends with block 1 of everybody"
        );
    }

    #[test]
    fn nonsense_has_no_contract() {
        assert_eq!(Contract::new(Collective::AllGather, 3, 0, 0, 4), None);
        assert_eq!(Contract::new(Collective::Broadcast, 3, 3, 0, 4), None);
        assert_eq!(Contract::new(Collective::SendRecv, 3, 1, 3, 1), None);
        assert_eq!(Contract::new(Collective::AllReduce, 0, 0, 0, 1), None);
    }
}
