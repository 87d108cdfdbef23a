//! A pre-multiplied sum is a multiplication and then a sum: [`Scaling`] is the first part.
#![forbid(unsafe_code)]

use super::call::Call;
use super::offload::Offload;
use crate::device::{Memory, host};
use crate::error::Result;
use crate::memory::{Block, Span};
use crate::types::{Collective, ReduceOp, Scalar};

/// The multiplication that a pre-multiplied sum starts with.
pub(super) struct Scaling {
    factor: Scalar,
    from: Span,
    into: Span,
    /// Where `into` is memory of the task's own.
    kept: Kept,
}

/// Memory that the task keeps alive.
pub(super) enum Kept {
    Nothing,
    Host(Block),
    Device(Memory),
}

impl Scaling {
    /// Makes a pre-multiplied sum a sum of what is yet to be multiplied: in the output where that holds the whole vector
    /// (the rest is then in place), else in memory of the task's own. Touches nothing yet.
    pub(super) fn take_from(call: &mut Call, in_place: &mut bool, device: Option<&Offload>) -> Result<Option<Scaling>> {
        let Some(ReduceOp::PreMulSum(factor)) = call.op else { return Ok(None) };
        let from = call.input;
        if call.collective == Collective::AllReduce {
            (call.input, *in_place) = (call.output, true);
            return Ok(Some(Scaling { factor, from, into: call.output, kept: Kept::Nothing }));
        }
        let (room, kept) = match device {
            Some(device) => {
                let memory = device.alloc(from.len())?;
                (memory.span(), Kept::Device(memory))
            }
            None => {
                let block = Block::new(from.len().next_multiple_of(8));
                (block.span().cut(0, from.len()), Kept::Host(block))
            }
        };
        (call.input, *in_place) = (room, false);
        Ok(Some(Scaling { factor, from, into: room, kept }))
    }

    /// Multiplies, or has the device multiply before all else; what the task must keep alive is left.
    pub(super) fn run(self, device: Option<&mut Offload>) -> Result<Kept> {
        let Scaling { factor, from, into, kept } = self;
        match device {
            Some(device) => device.queue()?.scale(factor.dtype, factor.bits, from, into)?,
            None => host::scale(factor.dtype, factor.bits, from, into),
        }
        Ok(kept)
    }
}
