//! One call of one rank, without types: what to do with which memory. And the checks that turn a bad one into an
//! [`Error::Invalid`] before a byte is sent.
#![forbid(unsafe_code)]

use crate::error::{Error, Meeting, Result};
use crate::memory::Span;
use crate::types::{Collective, DType, Rank, ReduceOp};

/// How many elements a call moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counts {
    /// So many in the vector (all-reduce, reduce, broadcast, send and receive), or in every block (the others).
    Even(usize),
    /// So many in block r, for every rank r: `all_gather_v`, `reduce_scatter_v`. The same list on all ranks.
    Blocks(Vec<usize>),
    /// So many to and from every rank: `all_to_all_v`. What one rank sends the other must expect.
    Exchange {
        /// Elements for each rank.
        send: Vec<usize>,
        /// Elements from each rank.
        recv: Vec<usize>,
    },
}

/// A collective, described without element types: what bindings and tools hand in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The pattern.
    pub collective: Collective,
    /// The element type.
    pub dtype: DType,
    /// How contributions combine, where the pattern reduces.
    pub op: Option<ReduceOp>,
    /// The root; the sender of a [`Collective::SendRecv`]; anything where there is neither.
    pub root: Rank,
    /// The receiver of a [`Collective::SendRecv`].
    pub peer: Rank,
    /// Elements.
    pub counts: Counts,
    /// What this rank contributes; empty where it contributes nothing.
    pub input: Span,
    /// Where this rank's result goes; empty where it gets none.
    pub output: Span,
}

/// Bytes that a call needs at each end, after its counts were found possible.
pub(crate) struct Sizes {
    pub(crate) input_bytes: usize,
    pub(crate) output_bytes: usize,
}

impl Call {
    /// Checks everything that one rank can check alone, and says whether the call is in place.
    pub(crate) fn validate(&self, me: Rank, world: usize) -> Result<bool> {
        let name = self.collective.name();
        match (self.collective.reduces(), self.op) {
            (true, None) => return Err(Error::invalid(format!("{name} needs a reduction"))),
            (true, Some(op)) if !op.accepts(self.dtype) => {
                let why = match op {
                    ReduceOp::PreMulSum(scalar) => format!("its factor is of type {}", scalar.dtype),
                    _ => "bitwise reductions are for integers".to_string(),
                };
                return Err(Error::invalid(format!("{name}: {op} of {}: {why}", self.dtype)));
            }
            _ => {}
        }
        if (self.collective.has_root() || self.collective == Collective::SendRecv) && self.root >= world {
            return Err(Error::invalid(format!("{name}: root {} in a world of {world}", self.root)));
        }
        if self.collective == Collective::SendRecv && self.peer >= world {
            return Err(Error::invalid(format!("{name}: peer {} in a world of {world}", self.peer)));
        }
        let sizes = self.sizes(me, world)?;
        for (which, span, need) in
            [("input", self.input, sizes.input_bytes), ("output", self.output, sizes.output_bytes)]
        {
            if span.len() != need {
                return Err(Error::invalid(format!(
                    "{name} on rank {me}: the {which} has {} bytes, the call needs {need} ({:?} of {})",
                    span.len(),
                    self.counts,
                    self.dtype
                )));
            }
            if span.addr() % self.dtype.size_bytes() != 0 && need > 0 {
                return Err(Error::invalid(format!(
                    "{name} on rank {me}: the {which} at {:#x} is not aligned for {}",
                    span.addr(),
                    self.dtype
                )));
            }
        }
        self.in_place(me)
    }

    /// Bytes that rank `me` of `world` needs at each end.
    pub(crate) fn sizes(&self, me: Rank, world: usize) -> Result<Sizes> {
        let too_big = || Error::invalid(format!("{}: {:?} of {} overflows", self.collective, self.counts, self.dtype));
        let bytes = |count: usize| count.checked_mul(self.dtype.size_bytes()).filter(|&b| b <= isize::MAX as usize);
        let sum = |counts: &[usize]| counts.iter().try_fold(0usize, |total, &count| total.checked_add(count));
        let (block, whole) = match &self.counts {
            Counts::Even(count) => (*count, count.checked_mul(world).ok_or_else(too_big)?),
            Counts::Blocks(counts) => {
                if !matches!(self.collective, Collective::AllGather | Collective::ReduceScatter) {
                    return Err(Error::invalid(format!("{} takes no per-rank counts", self.collective)));
                }
                self.expect_len("counts", counts.len(), world)?;
                (counts[me], sum(counts).ok_or_else(too_big)?)
            }
            Counts::Exchange { send, recv } => {
                if self.collective != Collective::AllToAll {
                    return Err(Error::invalid(format!("{} takes no exchange counts", self.collective)));
                }
                self.expect_len("send counts", send.len(), world)?;
                self.expect_len("receive counts", recv.len(), world)?;
                if send[me] != recv[me] {
                    return Err(Error::invalid(format!(
                        "all_to_all_v on rank {me}: sends itself {} elements but expects {}",
                        send[me], recv[me]
                    )));
                }
                let (input, output) = (sum(send).ok_or_else(too_big)?, sum(recv).ok_or_else(too_big)?);
                return Ok(Sizes {
                    input_bytes: bytes(input).ok_or_else(too_big)?,
                    output_bytes: bytes(output).ok_or_else(too_big)?,
                });
            }
        };
        let (block, whole) = (bytes(block).ok_or_else(too_big)?, bytes(whole).ok_or_else(too_big)?);
        let root = self.root == me;
        let at_root = |len| if root { len } else { 0 };
        let (input_bytes, output_bytes) = match self.collective {
            Collective::AllReduce => (block, block),
            Collective::Reduce => (block, at_root(block)),
            Collective::Broadcast => (at_root(block), block),
            Collective::ReduceScatter => (whole, block),
            Collective::AllGather => (block, whole),
            Collective::Gather => (block, at_root(whole)),
            Collective::Scatter => (at_root(whole), block),
            Collective::AllToAll => (whole, whole),
            Collective::Barrier => (0, 0),
            Collective::SendRecv => (at_root(block), if self.peer == me { block } else { 0 }),
        };
        Ok(Sizes { input_bytes, output_bytes })
    }

    /// Bytes of the vector, or of all blocks together; 0 where only pairs of ranks know. The same on every rank.
    pub(crate) fn vector_bytes(&self, world: usize) -> usize {
        use Collective::*;
        let count = match &self.counts {
            Counts::Even(count) => match self.collective {
                ReduceScatter | AllGather | Gather | Scatter | AllToAll => count * world,
                _ => *count,
            },
            Counts::Blocks(counts) => counts.iter().sum(),
            Counts::Exchange { .. } => 0,
        };
        count * self.dtype.size_bytes()
    }

    /// [`Call::vector_bytes`], were all blocks as long as the longest.
    pub(crate) fn padded_bytes(&self, world: usize) -> usize {
        match &self.counts {
            Counts::Blocks(counts) => {
                let longest = counts.iter().copied().max().unwrap_or(0);
                longest.saturating_mul(world).saturating_mul(self.dtype.size_bytes())
            }
            _ => self.vector_bytes(world),
        }
    }

    /// A meeting with which all ranks begin something that goes through the control plane: a barrier that counts what.
    pub(crate) fn meeting(purpose: Meeting) -> Call {
        Call {
            collective: Collective::Barrier,
            dtype: DType::U8,
            op: None,
            root: 0,
            peer: 0,
            counts: Counts::Even(purpose as usize),
            input: Span::EMPTY,
            output: Span::EMPTY,
        }
    }

    pub(crate) fn is_meeting(&self) -> bool {
        self.collective == Collective::Barrier && self.counts != Counts::Even(0)
    }

    /// Every pair of ranks has its own count.
    pub(crate) fn is_exchange(&self) -> bool {
        matches!(self.counts, Counts::Exchange { .. })
    }

    fn expect_len(&self, what: &str, len: usize, world: usize) -> Result<()> {
        if len == world {
            return Ok(());
        }
        Err(Error::invalid(format!("{}: {len} {what} for {world} ranks", self.collective)))
    }

    /// In place means that the two buffers coincide where they hold the same chunks; any other overlap is refused.
    fn in_place(&self, me: Rank) -> Result<bool> {
        if !self.input.overlaps(self.output) {
            return Ok(false);
        }
        let elem = self.dtype.size_bytes();
        let before_me = |counts: &Counts| match counts {
            Counts::Even(count) => me * count * elem,
            Counts::Blocks(counts) => counts[..me].iter().sum::<usize>() * elem,
            Counts::Exchange { .. } => 0,
        };
        let (input, output) = (self.input.addr(), self.output.addr());
        let (coincide, rule) = match self.collective {
            Collective::ReduceScatter | Collective::Scatter => {
                (output == input + before_me(&self.counts), "output == input + this rank's block")
            }
            Collective::AllGather | Collective::Gather => {
                (input == output + before_me(&self.counts), "input == output + this rank's block")
            }
            Collective::AllToAll => {
                let same_blocks = match &self.counts {
                    Counts::Exchange { send, recv } => send == recv,
                    _ => true,
                };
                (input == output && same_blocks, "input == output and equal counts both ways")
            }
            _ => (input == output, "input == output"),
        };
        if coincide {
            return Ok(true);
        }
        Err(Error::invalid(format!(
            "{} on rank {me}: input {:?} and output {:?} overlap; in place means {rule}",
            self.collective, self.input, self.output
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(collective: Collective, count: usize, data: &mut [f32], split: (usize, usize)) -> Call {
        let whole = crate::memory::test_span(bytemuck::cast_slice_mut(data));
        Call {
            collective,
            dtype: DType::F32,
            op: collective.reduces().then_some(ReduceOp::Sum),
            root: 0,
            peer: 0,
            counts: Counts::Even(count),
            input: whole.cut(split.0 * 4, 0),
            output: whole.cut(split.1 * 4, 0),
        }
    }

    fn with(mut call: Call, whole: Span, input: (usize, usize), output: (usize, usize)) -> Call {
        call.input = whole.cut(input.0 * 4, input.1 * 4);
        call.output = whole.cut(output.0 * 4, output.1 * 4);
        call
    }

    #[test]
    fn in_place_is_recognised_and_other_overlap_refused() {
        let mut data = vec![0f32; 64];
        let whole = crate::memory::test_span(bytemuck::cast_slice_mut(&mut data));
        let base = |collective| {
            let mut copy = vec![0f32; 64];
            call(collective, 8, &mut copy, (0, 0))
        };
        let in_place = |collective, input, output| with(base(collective), whole, input, output).validate(1, 4);
        assert_eq!(in_place(Collective::AllReduce, (0, 8), (0, 8)), Ok(true));
        assert_eq!(in_place(Collective::AllReduce, (0, 8), (8, 8)), Ok(false));
        assert!(in_place(Collective::AllReduce, (0, 8), (4, 8)).unwrap_err().to_string().contains("overlap"));
        assert_eq!(in_place(Collective::AllGather, (8, 8), (0, 32)), Ok(true));
        assert!(in_place(Collective::AllGather, (0, 8), (0, 32)).is_err());
        assert_eq!(in_place(Collective::ReduceScatter, (0, 32), (8, 8)), Ok(true));
        assert_eq!(in_place(Collective::AllToAll, (0, 32), (0, 32)), Ok(true));
    }

    #[test]
    fn impossible_counts_roots_and_ops_are_refused() {
        let mut data = vec![0f32; 8];
        let mut bad = call(Collective::AllReduce, usize::MAX / 2, &mut data, (0, 0));
        assert!(bad.validate(0, 4).unwrap_err().to_string().contains("overflows"));
        bad.counts = Counts::Even(0);
        assert_eq!(bad.validate(0, 4), Ok(false));
        bad.op = Some(ReduceOp::BitXor);
        assert!(bad.validate(0, 4).unwrap_err().to_string().contains("integers"));
        let mut rootless = call(Collective::Broadcast, 0, &mut data, (0, 0));
        rootless.root = 4;
        assert!(rootless.validate(0, 4).unwrap_err().to_string().contains("root 4 in a world of 4"));
        let mut short = call(Collective::AllReduce, 3, &mut data, (0, 0));
        short.op = Some(ReduceOp::Sum);
        assert!(short.validate(0, 4).unwrap_err().to_string().contains("the call needs 12"));
    }
}
