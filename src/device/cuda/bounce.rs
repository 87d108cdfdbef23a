//! Room on the device for what it does not reach: pieces of operands are copied there, worked on, and copied out. Work of one
//! stream is in order, so the same room serves it again and again without waiting.

use super::context::Context;
use crate::error::Result;
use cudarc::driver::sys::CUdeviceptr;
use std::sync::Arc;

/// Device memory; not zeroed.
pub(super) struct Room {
    context: Arc<Context>,
    address: CUdeviceptr,
    len_bytes: usize,
}

impl Room {
    pub(super) fn new(context: &Arc<Context>, len_bytes: usize) -> Result<Room> {
        let address = context.enter()?.alloc(len_bytes)?;
        Ok(Room { context: context.clone(), address, len_bytes })
    }

    pub(super) fn address(&self) -> CUdeviceptr {
        self.address
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: from `alloc`, once; whoever used it in a stream has waited, and the driver waits all the same.
        self.context.give_back(|entered| unsafe { entered.free(self.address) });
    }
}

/// What all operands of a piece take together, where they are not very many.
const USUAL_BYTES: usize = 8 << 20;
/// Pieces begin at multiples of this, which whole elements and vectors fill.
const STEP_BYTES: usize = 4096;
/// Between the operands: an operand may begin up to a vector later, to lie as the others do.
const GAP_BYTES: usize = 256;

/// How spans of `len_bytes` are cut for `operand_count` operands in the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pieces {
    /// The most that is worked on at once.
    pub(super) piece_bytes: usize,
    /// From one operand in the room to the next.
    pub(super) stride_bytes: usize,
    /// All operands.
    pub(super) room_bytes: usize,
}

impl Pieces {
    pub(super) fn new(len_bytes: usize, operand_count: usize) -> Pieces {
        let most = (USUAL_BYTES / operand_count / STEP_BYTES * STEP_BYTES).max(STEP_BYTES);
        let piece_bytes = most.min(len_bytes);
        let stride_bytes = piece_bytes.next_multiple_of(GAP_BYTES) + GAP_BYTES;
        Pieces { piece_bytes, stride_bytes, room_bytes: stride_bytes * operand_count }
    }
}

/// The room of one stream, which grows as it is needed.
#[derive(Default)]
pub(super) struct Bounce {
    room: Option<Room>,
}

impl Bounce {
    /// Room for so many bytes, and the one that it takes the place of: work that is under way may still use that.
    pub(super) fn room(&mut self, context: &Arc<Context>, len_bytes: usize) -> Result<(CUdeviceptr, Option<Room>)> {
        if let Some(room) = self.room.as_ref().filter(|room| room.len_bytes >= len_bytes) {
            return Ok((room.address, None));
        }
        let larger = Room::new(context, len_bytes.next_power_of_two().max(STEP_BYTES))?;
        let address = larger.address;
        Ok((address, self.room.replace(larger)))
    }
}

#[test]
fn pieces_fill_the_room_and_no_more() {
    for len_bytes in [1, 17, 4096, 5000, 1 << 20, 100 << 20] {
        for operands in [1, 2, 3, 17, 300, 5000] {
            let pieces = Pieces::new(len_bytes, operands);
            assert!(pieces.piece_bytes == len_bytes || pieces.piece_bytes.is_multiple_of(STEP_BYTES), "{pieces:?}");
            assert!(
                pieces.stride_bytes >= pieces.piece_bytes + 16 && pieces.stride_bytes.is_multiple_of(GAP_BYTES),
                "{pieces:?}"
            );
            assert!(
                pieces.room_bytes <= USUAL_BYTES.max(operands * STEP_BYTES) + operands * 2 * GAP_BYTES,
                "{pieces:?}"
            );
        }
    }
}
