//! Whose memory an address is, by the driver's own account.

use super::context::Entered;
use crate::error::Result;
use crate::memory::Span;
use cudarc::driver::sys::{CUdeviceptr, CUpointer_attribute};
use std::ffi::{c_int, c_void};

/// What the device can do with a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Memory of this device, at this address.
    Own(CUdeviceptr),
    /// Host memory that is mapped for the device, at this address there.
    Mapped(CUdeviceptr),
    /// Nothing but copy: pageable host memory, or memory of another device.
    Copies,
}

impl Reach {
    /// Where a kernel finds it, if one can.
    pub(super) fn address(self) -> Option<CUdeviceptr> {
        match self {
            Reach::Own(address) | Reach::Mapped(address) => Some(address),
            Reach::Copies => None,
        }
    }
}

/// `CU_MEMORYTYPE_HOST` and `CU_MEMORYTYPE_DEVICE`.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// What the driver knows of an address. All zero of one that it does not know.
#[derive(Debug, Default)]
struct Facts {
    memory_type: u32,
    ordinal: c_int,
    address: CUdeviceptr,
    piece_start: CUdeviceptr,
    piece_len_bytes: usize,
}

/// What the device can do with a span that is not empty.
pub(super) fn reach(entered: &Entered, span: Span) -> Result<Reach> {
    let facts = facts(entered, span.addr())?;
    // Of a piece that the driver says nothing of, nothing is taken for granted.
    let offset_bytes = facts.address.checked_sub(facts.piece_start).map(|offset| offset as usize);
    let is_whole =
        offset_bytes.and_then(|offset| offset.checked_add(span.len())).is_some_and(|end| end <= facts.piece_len_bytes);
    Ok(match facts.memory_type {
        // A span may go over several pieces that were put side by side (expandable segments): all are the device's, unless
        // the caller is mad.
        DEVICE if facts.ordinal == entered.context.ordinal => Reach::Own(facts.address),
        HOST if is_whole => Reach::Mapped(facts.address),
        _ => Reach::Copies,
    })
}

fn facts(entered: &Entered, address: usize) -> Result<Facts> {
    let mut facts = Facts::default();
    let attributes = [
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_POINTER,
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
        CUpointer_attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
    ];
    let places: [*mut c_void; 5] = [
        (&raw mut facts.memory_type).cast(),
        (&raw mut facts.ordinal).cast(),
        (&raw mut facts.address).cast(),
        (&raw mut facts.piece_start).cast(),
        (&raw mut facts.piece_len_bytes).cast(),
    ];
    // SAFETY: as many places as attributes, each of its attribute's type; the address itself is not touched.
    let result = unsafe {
        let count = attributes.len() as u32;
        (entered.context.driver.cuPointerGetAttributes)(
            count,
            attributes.as_ptr(),
            places.as_ptr(),
            address as CUdeviceptr,
        )
    };
    entered.context.check("cuPointerGetAttributes", result).map(|()| facts)
}
