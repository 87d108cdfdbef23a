//! What a message size means for each collective: how many elements go in and come out on each rank, where they lie in
//! place, what must be in them afterwards, and how busy the wires were.
//!
//! A size is nccl-tests' size: the bytes of the whole vector, which is the larger of a rank's two buffers. Collectives
//! with one block per rank divide it by the number of ranks, rounding down, but never to less than one element.
#![forbid(unsafe_code)]

use crate::types::{Collective, DType, Rank};
use std::ops::Range;

/// One collective at one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// The pattern.
    pub collective: Collective,
    /// The element type.
    pub dtype: DType,
    /// How many ranks take part.
    pub world: usize,
    /// Elements of the vector, or of one block where the collective has blocks: the count that the call is given.
    pub count: usize,
}

/// Where a part of an output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The reduction of all vectors.
    Reduced,
    /// The vector of one rank.
    Rank(Rank),
}

/// A run of output elements and what they must be: the elements of `source` from `first` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where in the output, in elements.
    pub output: Range<usize>,
    /// Whose elements.
    pub source: Source,
    /// Which of them comes first.
    pub first: usize,
}

impl Geometry {
    /// The geometry closest to `size_bytes`.
    pub fn new(collective: Collective, dtype: DType, world: usize, size_bytes: usize) -> Geometry {
        let elements = size_bytes / dtype.size_bytes();
        let count = if has_blocks(collective) { (elements / world).max(1) } else { elements.max(1) };
        Geometry { collective, dtype, world, count }
    }

    /// Elements of the whole vector.
    pub fn elements(&self) -> usize {
        if has_blocks(self.collective) { self.count * self.world } else { self.count }
    }

    /// Bytes of the whole vector: the size column.
    pub fn size_bytes(&self) -> usize {
        self.elements() * self.dtype.size_bytes()
    }

    /// Elements that `me` contributes. In a send and receive every rank sends one vector and receives one.
    pub fn input_count(&self, me: Rank, root: Rank) -> usize {
        match self.collective {
            Collective::Broadcast | Collective::Scatter if me != root => 0,
            Collective::ReduceScatter | Collective::AllToAll | Collective::Scatter => self.elements(),
            _ => self.count,
        }
    }

    /// Elements that `me` ends with.
    pub fn output_count(&self, me: Rank, root: Rank) -> usize {
        match self.collective {
            Collective::Reduce | Collective::Gather if me != root => 0,
            Collective::AllGather | Collective::AllToAll | Collective::Gather => self.elements(),
            _ => self.count,
        }
    }

    /// Whether the collective can be called with input and output in the same memory.
    pub fn can_be_in_place(&self) -> bool {
        self.collective != Collective::SendRecv
    }

    /// The first element of input and output within one buffer of [`Geometry::elements`], in place.
    pub fn in_place_offsets(&self, me: Rank) -> (usize, usize) {
        match self.collective {
            Collective::AllGather | Collective::Gather => (me * self.count, 0),
            Collective::ReduceScatter | Collective::Scatter => (0, me * self.count),
            _ => (0, 0),
        }
    }

    /// What `me` must find in its output.
    pub fn expected(&self, me: Rank, root: Rank) -> Vec<Piece> {
        let whole = |source, first| vec![Piece { output: 0..self.count, source, first }];
        let block_of_every_rank = |first| {
            let piece = |rank: Rank| Piece {
                output: rank * self.count..(rank + 1) * self.count,
                source: Source::Rank(rank),
                first,
            };
            (0..self.world).map(piece).collect()
        };
        match self.collective {
            Collective::Reduce | Collective::Gather if me != root => Vec::new(),
            Collective::AllReduce | Collective::Reduce => whole(Source::Reduced, 0),
            Collective::ReduceScatter => whole(Source::Reduced, me * self.count),
            Collective::Broadcast => whole(Source::Rank(root), 0),
            Collective::Scatter => whole(Source::Rank(root), me * self.count),
            Collective::AllGather | Collective::Gather => block_of_every_rank(0),
            Collective::AllToAll => block_of_every_rank(me * self.count),
            Collective::SendRecv => whole(Source::Rank(previous(me, self.world)), 0),
            Collective::Barrier => Vec::new(),
        }
    }

    /// What algorithm bandwidth is multiplied by to get bus bandwidth: the share of the vector that must cross the
    /// narrowest wire, so that numbers compare with the hardware's whatever the collective and the number of ranks.
    pub fn bus_factor(&self) -> f64 {
        let world = self.world as f64;
        match self.collective {
            Collective::AllReduce => 2.0 * (world - 1.0) / world,
            Collective::Broadcast | Collective::Reduce | Collective::SendRecv | Collective::Barrier => 1.0,
            _ => (world - 1.0) / world,
        }
    }
}

/// The rank that sends to `me` in the send-and-receive ring.
pub fn previous(me: Rank, world: usize) -> Rank {
    (me + world - 1) % world
}

/// The rank that `me` sends to in the send-and-receive ring.
pub fn next(me: Rank, world: usize) -> Rank {
    (me + 1) % world
}

fn has_blocks(collective: Collective) -> bool {
    matches!(
        collective,
        Collective::ReduceScatter
            | Collective::AllGather
            | Collective::Gather
            | Collective::Scatter
            | Collective::AllToAll
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> impl Iterator<Item = Collective> {
        Collective::ALL.into_iter().filter(|&collective| collective != Collective::Barrier)
    }

    #[test]
    fn sizes_are_those_of_the_whole_vector() {
        let vector = Geometry::new(Collective::AllReduce, DType::F32, 4, 64);
        assert_eq!((vector.count, vector.size_bytes()), (16, 64));
        let blocks = Geometry::new(Collective::AllGather, DType::F32, 3, 64);
        assert_eq!((blocks.count, blocks.elements(), blocks.size_bytes()), (5, 15, 60));
        let least = Geometry::new(Collective::AllToAll, DType::F64, 4, 8);
        assert_eq!((least.count, least.size_bytes()), (1, 32));
    }

    #[test]
    fn expectations_cover_every_output_exactly_once() {
        for collective in measured() {
            for (world, root) in [(1, 0), (3, 1), (4, 3)] {
                let geometry = Geometry::new(collective, DType::U8, world, 120);
                for me in 0..world {
                    let mut next = 0;
                    for piece in geometry.expected(me, root) {
                        assert_eq!(piece.output.start, next, "{collective} rank {me}");
                        next = piece.output.end;
                    }
                    assert_eq!(next, geometry.output_count(me, root), "{collective} rank {me}");
                }
            }
        }
    }

    #[test]
    fn in_place_buffers_fit_the_vector() {
        for collective in measured() {
            let geometry = Geometry::new(collective, DType::F16, 5, 1000);
            for me in 0..5 {
                let (input, output) = geometry.in_place_offsets(me);
                assert!(input + geometry.input_count(me, me) <= geometry.elements(), "{collective}");
                assert!(output + geometry.output_count(me, me) <= geometry.elements(), "{collective}");
            }
        }
    }

    #[test]
    fn bus_factors_are_those_of_nccl_tests() {
        let factor = |collective| Geometry::new(collective, DType::F32, 4, 64).bus_factor();
        assert_eq!(factor(Collective::AllReduce), 1.5);
        assert_eq!(factor(Collective::ReduceScatter), 0.75);
        assert_eq!(factor(Collective::AllToAll), 0.75);
        assert_eq!(factor(Collective::Gather), 0.75);
        assert_eq!(factor(Collective::Broadcast), 1.0);
        assert_eq!(factor(Collective::SendRecv), 1.0);
    }

    #[test]
    fn blocks_come_from_where_the_collective_says() {
        let geometry = Geometry::new(Collective::AllToAll, DType::U8, 3, 30);
        let pieces = geometry.expected(1, 0);
        assert_eq!(pieces[2], Piece { output: 20..30, source: Source::Rank(2), first: 10 });
        let geometry = Geometry::new(Collective::SendRecv, DType::U8, 3, 30);
        assert_eq!(geometry.expected(0, 0), [Piece { output: 0..30, source: Source::Rank(2), first: 0 }]);
        assert_eq!(next(2, 3), 0);
    }
}
