//! From chunks to bytes: where every chunk of a call lies in every rank's buffers, and how rounds cut it.
//!
//! ```text
//! vector, 3 chunks      |---- 0 ----|---- 1 ----|-- 2 --|        equal, full cache lines, the last takes the rest
//! blocks, 2 pieces each |- 0 -|- 1 -||- 2 -|- 3 -||- 4 -|- 5 -|   block r holds chunks r*2 and r*2+1
//! ```
//!
//! When chunks are larger than a slot, round k takes bytes `[k * piece, (k + 1) * piece)` of every chunk.
#![forbid(unsafe_code)]

use super::call::{Call, Counts};
use crate::schedule::{Loc, Space};
use crate::types::Collective;

/// Chunks begin on multiples of this, so that two ranks never write one cache line.
const LINE_BYTES: usize = 64;

/// A barrier moves no data, only tokens of this size.
const TOKEN_BYTES: usize = 1;

/// Offset and length of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Piece {
    pub(crate) offset_bytes: usize,
    pub(crate) len_bytes: usize,
}

/// The geometry of one call.
#[derive(Debug)]
pub(crate) struct Layout {
    collective: Collective,
    /// Chunk -> bytes of the vector, or of the blocks laid end to end. For `all_to_all_v`, of the send side.
    chunks: Vec<Piece>,
    /// The receive side of `all_to_all_v`; elsewhere it is the same as `chunks`.
    arriving: Option<Vec<Piece>>,
    /// First byte of every block, where a buffer may hold one block only.
    block_starts: Vec<usize>,
    /// Chunks per block.
    per_block: usize,
    max_chunk_bytes: usize,
}

impl Layout {
    /// Cuts `call`'s buffers into `chunks` chunks for a world of `world` ranks.
    pub(crate) fn new(call: &Call, world: usize, chunks: u32) -> Layout {
        let elem = call.dtype.size_bytes();
        let chunks = chunks as usize;
        let collective = call.collective;
        let (cut, arriving, block_starts, per_block) = match (&call.counts, has_blocks(collective)) {
            (Counts::Even(count), false) => {
                let mut cut = Vec::with_capacity(chunks);
                split(0, count * elem, chunks, &mut cut);
                (cut, None, Vec::new(), chunks.max(1))
            }
            (Counts::Even(count), true) => {
                let lens = vec![count * elem; world];
                let (cut, starts) = blocks(&lens, chunks / world);
                (cut, None, starts, chunks / world)
            }
            (Counts::Blocks(counts), _) => {
                let lens: Vec<usize> = counts.iter().map(|count| count * elem).collect();
                let (cut, starts) = blocks(&lens, chunks / world);
                (cut, None, starts, chunks / world)
            }
            (Counts::Exchange { send, recv }, _) => {
                let lens = |counts: &[usize]| counts.iter().map(|count| count * elem).collect::<Vec<_>>();
                let (cut, starts) = blocks(&lens(send), chunks / world);
                let (arriving, _) = blocks(&lens(recv), chunks / world);
                (cut, Some(arriving), starts, chunks / world)
            }
        };
        let max = |pieces: &[Piece]| pieces.iter().map(|piece| piece.len_bytes).max().unwrap_or(0);
        let max_chunk_bytes = max(&cut).max(arriving.as_deref().map_or(0, max));
        let max_chunk_bytes = if collective == Collective::Barrier { TOKEN_BYTES } else { max_chunk_bytes };
        Layout { collective, chunks: cut, arriving, block_starts, per_block, max_chunk_bytes }
    }

    /// The longest chunk.
    pub(crate) fn max_chunk_bytes(&self) -> usize {
        self.max_chunk_bytes
    }

    /// Where `loc`'s data lies in its buffer (for slots: only the length means something).
    #[inline]
    pub(crate) fn chunk(&self, loc: Loc) -> Piece {
        let (table, one_block) = match (loc.space, self.collective) {
            (Space::Input, Collective::AllGather | Collective::Gather) => (&self.chunks, true),
            (Space::Output, Collective::ReduceScatter | Collective::Scatter) => (&self.chunks, true),
            (Space::Output, Collective::AllToAll) => (self.arriving.as_ref().unwrap_or(&self.chunks), false),
            _ => (&self.chunks, false),
        };
        if self.collective == Collective::Barrier {
            return Piece { offset_bytes: 0, len_bytes: TOKEN_BYTES };
        }
        let piece = table[loc.chunk as usize];
        if one_block {
            let start = self.block_starts[loc.chunk as usize / self.per_block];
            return Piece { offset_bytes: piece.offset_bytes - start, len_bytes: piece.len_bytes };
        }
        piece
    }
}

/// Which round, and how many bytes of a chunk a round moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) index: u32,
    pub(crate) piece_bytes: usize,
}

impl Round {
    /// One round that moves everything.
    pub(crate) const WHOLE: Round = Round { index: 0, piece_bytes: usize::MAX };

    /// How much of a chunk the rounds before this one have moved, and how much this one moves.
    #[inline]
    pub(crate) fn extent(self, chunk_bytes: usize) -> (usize, usize) {
        let past_bytes = (self.index as usize).saturating_mul(self.piece_bytes).min(chunk_bytes);
        (past_bytes, (chunk_bytes - past_bytes).min(self.piece_bytes))
    }

    /// Rounds of a call whose longest chunk is `max_chunk_bytes`: at least one.
    pub(crate) fn count(self, max_chunk_bytes: usize) -> u32 {
        (max_chunk_bytes.div_ceil(self.piece_bytes) as u32).max(1)
    }
}

/// True where chunks belong to blocks of ranks.
fn has_blocks(collective: Collective) -> bool {
    use Collective::*;
    matches!(collective, ReduceScatter | AllGather | Gather | Scatter | AllToAll)
}

/// `len_bytes` from `start` on in `parts` parts: equal, rounded up to full lines; the last ones may be short or empty.
fn split(start: usize, len_bytes: usize, parts: usize, into: &mut Vec<Piece>) {
    if parts == 0 {
        return;
    }
    let part = len_bytes.div_ceil(parts).next_multiple_of(LINE_BYTES);
    for index in 0..parts {
        let skipped = (index * part).min(len_bytes);
        into.push(Piece { offset_bytes: start + skipped, len_bytes: (len_bytes - skipped).min(part) });
    }
}

/// Blocks of the given lengths end to end, each in `per_block` pieces; and where each block starts.
fn blocks(lens_bytes: &[usize], per_block: usize) -> (Vec<Piece>, Vec<usize>) {
    let mut cut = Vec::with_capacity(lens_bytes.len() * per_block);
    let mut starts = Vec::with_capacity(lens_bytes.len());
    let mut start = 0;
    for &len in lens_bytes {
        starts.push(start);
        split(start, len, per_block, &mut cut);
        start += len;
    }
    (cut, starts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Span;
    use crate::types::{DType, ReduceOp};

    fn call(collective: Collective, counts: Counts) -> Call {
        Call {
            collective,
            dtype: DType::F32,
            op: Some(ReduceOp::Sum),
            root: 0,
            peer: 0,
            counts,
            input: Span::EMPTY,
            output: Span::EMPTY,
        }
    }

    #[test]
    fn chunks_cover_the_vector_in_order_without_overlap() {
        for count in [0, 1, 5, 16, 17, 100, 1000, 4099] {
            for chunks in [1, 2, 3, 7, 16, 130] {
                let layout = Layout::new(&call(Collective::AllReduce, Counts::Even(count)), 4, chunks);
                let mut end = 0;
                for chunk in 0..chunks {
                    let piece = layout.chunk(Loc::output(0, chunk));
                    assert_eq!(piece.offset_bytes, end);
                    end += piece.len_bytes;
                }
                assert_eq!(end, count * 4);
            }
        }
    }

    #[test]
    fn a_buffer_of_one_block_starts_at_its_own_block() {
        let layout = Layout::new(&call(Collective::AllGather, Counts::Blocks(vec![3, 0, 40])), 3, 6);
        assert_eq!(layout.chunk(Loc::output(0, 4)), Piece { offset_bytes: 12, len_bytes: 128 });
        assert_eq!(layout.chunk(Loc::input(2, 5)), Piece { offset_bytes: 128, len_bytes: 32 });
        assert_eq!(layout.block_starts, [0, 12, 12]);
    }

    #[test]
    fn rounds_cut_every_chunk() {
        let layout = Layout::new(&call(Collective::AllReduce, Counts::Even(100)), 2, 2);
        let round = |index| Round { index, piece_bytes: 128 };
        assert_eq!(round(0).count(layout.max_chunk_bytes()), 2);
        let chunk_bytes = [0, 1].map(|chunk| layout.chunk(Loc::input(0, chunk)).len_bytes);
        assert_eq!(chunk_bytes, [256, 144]);
        assert_eq!(round(1).extent(chunk_bytes[0]), (128, 128));
        assert_eq!(round(1).extent(chunk_bytes[1]), (128, 16));
        assert_eq!(round(2).extent(chunk_bytes[1]), (144, 0));
        assert_eq!(Round::WHOLE.count(layout.max_chunk_bytes()), 1);
    }

    #[test]
    fn an_exchange_has_its_own_sizes_both_ways() {
        let counts = Counts::Exchange { send: vec![1, 2], recv: vec![1, 7] };
        let layout = Layout::new(&call(Collective::AllToAll, counts), 2, 2);
        assert_eq!(layout.chunk(Loc::input(0, 1)), Piece { offset_bytes: 4, len_bytes: 8 });
        assert_eq!(layout.chunk(Loc::output(0, 1)), Piece { offset_bytes: 4, len_bytes: 28 });
    }
}
