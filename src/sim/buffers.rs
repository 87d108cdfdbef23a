//! The memory of one call of one simulated rank, and the judgement of what is in it afterwards.
#![forbid(unsafe_code)]

use super::data;
use super::dice::Dice;
use super::script::Wish;
use crate::engine::Call;
use crate::memory::{Block, Span};
use crate::transport::sim::HostMemory;
use crate::types::Rank;

/// What outputs hold before a call.
const SCRAP: u8 = 0xa5;

/// The buffers of a call. Memory that neighbours may reach is the host's and outlives them; the rest is their own.
pub(super) struct Buffers {
    pub(super) input: Span,
    pub(super) output: Span,
    pub(super) is_in_place: bool,
    given: Vec<u8>,
    _own: Option<Block>,
}

impl Buffers {
    /// For `rank`'s part in a call, sometimes in memory that the neighbours can reach (`shared`: the host, and the rank's
    /// position there).
    pub(super) fn new(
        wish: &Wish,
        rank: Rank,
        world: usize,
        shared: Option<(&HostMemory, usize)>,
        dice: &mut Dice,
    ) -> Buffers {
        let sizes = wish.call(rank).sizes(rank, world).expect("counts that were drawn are possible");
        let (input_bytes, output_bytes) = (sizes.input_bytes, sizes.output_bytes);
        let is_both = input_bytes > 0 && output_bytes > 0;
        let offset = wish.in_place_offset(rank).filter(|_| is_both);
        let offset = offset.filter(|_| wish.is_in_place_everywhere() || dice.permille(400));
        // Odd places, as far as elements allow.
        let skip = dice.below(8) * wish.dtype.size_bytes();
        let (input_at, output_at) = match offset {
            Some(offset) => (skip + (-offset).max(0) as usize, skip + offset.max(0) as usize),
            None => (skip, (skip + input_bytes).next_multiple_of(8) + dice.below(8) * wish.dtype.size_bytes()),
        };
        let total = (input_at + input_bytes).max(output_at + output_bytes).next_multiple_of(8).max(8);
        // In some calls nobody, in some everybody, in some each as it likes.
        let lending = [0, 500, 1000][(wish.seed % 3) as usize];
        let lent = shared.filter(|_| dice.permille(lending)).and_then(|(host, me)| host.alloc(me, total));
        let own = lent.is_none().then(|| Block::new(total));
        let all = lent.or(own.as_ref().map(Block::span)).unwrap_or(Span::EMPTY);
        let given = data::contribution(wish, rank, input_bytes);
        let cut = |at, len| if len == 0 { Span::EMPTY } else { all.cut(at, len) };
        let (input, output) = (cut(input_at, input_bytes), cut(output_at, output_bytes));
        output.write(&vec![SCRAP; output_bytes]);
        input.write(&given);
        Buffers { input, output, is_in_place: offset.is_some(), given, _own: own }
    }

    /// The call on them.
    pub(super) fn call(&self, wish: &Wish, rank: Rank) -> Call {
        Call { input: self.input, output: self.output, ..wish.call(rank) }
    }

    /// The first byte of the output that is not what it must be: where, what it is, and what it should be.
    pub(super) fn wrong_output(&self, wish: &Wish, world: usize, rank: Rank) -> Option<(usize, u8, u8)> {
        let mut output = vec![0; self.output.len()];
        self.output.read(&mut output);
        let expected = if output.is_empty() { Vec::new() } else { data::expected(wish, world, rank) };
        let at = output.iter().zip(&expected).position(|(byte, expected)| byte != expected)?;
        Some((at, output[at], expected[at]))
    }

    /// Whether the input is as it was.
    pub(super) fn is_input_intact(&self) -> bool {
        let mut input = vec![0; self.input.len()];
        self.input.read(&mut input);
        input == self.given
    }
}
