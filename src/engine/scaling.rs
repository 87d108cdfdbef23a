//! A pre-multiplied sum is a multiplication and then a sum: [`Scaling`] is the first part.
#![forbid(unsafe_code)]

use super::call::Call;
use crate::device::host;
use crate::memory::{Block, Span};
use crate::types::{Collective, ReduceOp, Scalar};

/// The multiplication that a pre-multiplied sum starts with.
pub(super) struct Scaling {
    factor: Scalar,
    from: Span,
    into: Span,
    /// Where `into` is memory of the task's own.
    block: Option<Block>,
}

impl Scaling {
    /// Makes a pre-multiplied sum a sum of what is yet to be multiplied: in the output where that holds the whole vector
    /// (the rest is then in place), else in memory of the task's own. Touches nothing yet.
    pub(super) fn take_from(call: &mut Call, in_place: &mut bool) -> Option<Scaling> {
        let Some(ReduceOp::PreMulSum(factor)) = call.op else { return None };
        let from = call.input;
        if call.collective == Collective::AllReduce {
            (call.input, *in_place) = (call.output, true);
            return Some(Scaling { factor, from, into: call.output, block: None });
        }
        let block = Block::new(from.len().next_multiple_of(8));
        (call.input, *in_place) = (block.span().cut(0, from.len()), false);
        Some(Scaling { factor, from, into: call.input, block: Some(block) })
    }

    /// Multiplies; what the task must keep alive is left.
    pub(super) fn run(self) -> Option<Block> {
        host::scale(self.factor.dtype, self.factor.bits, self.from, self.into);
        self.block
    }
}
