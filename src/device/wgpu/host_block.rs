//! Host memory of this device's queues and callers.
#![forbid(unsafe_code)]

use crate::memory::{Block, Span};

/// Zeroed host memory, aligned to a line.
pub(super) struct HostBlock {
    /// Gives the memory back.
    _block: Block,
    span: Span,
}

const LINE: usize = 64;

impl HostBlock {
    pub(super) fn new(len_bytes: usize) -> HostBlock {
        let block = Block::new(len_bytes.next_multiple_of(8) + LINE);
        let all = block.span();
        let span = all.cut(all.addr().next_multiple_of(LINE) - all.addr(), len_bytes);
        HostBlock { _block: block, span }
    }

    pub(super) fn holding(bytes: &[u8]) -> HostBlock {
        let block = HostBlock::new(bytes.len());
        block.span.write(bytes);
        block
    }

    pub(super) fn span(&self) -> Span {
        self.span
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.span.len()];
        self.span.read(&mut bytes);
        bytes
    }
}
