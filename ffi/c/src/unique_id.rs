//! The name of a job that is being made.

use crate::arguments;
use crate::boundary::{Outcome, boundary};
use crate::last_error::Failure;
use crate::names::roundel_result_t;
use library::UniqueId;
use std::ffi::c_char;

/// Bytes of a `roundel_unique_id_t`.
pub const ROUNDEL_UNIQUE_ID_BYTES: usize = 128;

/// Bytes of a unique id as text, with the NUL at its end.
pub const ROUNDEL_UNIQUE_ID_TEXT_BYTES: usize = 257;

const _: () = assert!(UniqueId::LEN_BYTES == ROUNDEL_UNIQUE_ID_BYTES);
const _: () = assert!(2 * UniqueId::LEN_BYTES + 1 == ROUNDEL_UNIQUE_ID_TEXT_BYTES);

/// What all ranks of a job must know to find one another: made once by `roundel_unique_id_create` and handed to all by
/// whatever way there is. Whoever reads it can join the job, so pass it like a password.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roundel_unique_id_t {
    /// Opaque, but plain bytes: copy it, send it.
    pub bytes: [u8; ROUNDEL_UNIQUE_ID_BYTES],
}

impl roundel_unique_id_t {
    pub fn read(&self) -> Outcome<UniqueId> {
        Ok(UniqueId::from_bytes(&self.bytes)?)
    }
}

/// Opens a job: the service at which its ranks meet starts in this process, which should live as long as the job; usually
/// it is rank 0's. `ROUNDEL_IFACE` and `ROUNDEL_PORT_RANGE` say where it listens. An id serves one job.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_unique_id_create(id: *mut roundel_unique_id_t) -> roundel_result_t {
    boundary("roundel_unique_id_create", || {
        // SAFETY: the caller promises room for an id, or NULL.
        let id = unsafe { arguments::out(id, "id") }?;
        id.bytes = UniqueId::new()?.to_bytes();
        Ok(())
    })
}

/// Writes an id as 256 hexadecimal digits, as `ROUNDEL_UNIQUE_ID` wants it. `text` has `text_bytes` bytes, at least
/// `ROUNDEL_UNIQUE_ID_TEXT_BYTES`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_unique_id_format(
    id: roundel_unique_id_t,
    text: *mut c_char,
    text_bytes: usize,
) -> roundel_result_t {
    boundary("roundel_unique_id_format", || {
        let digits = id.read()?.to_string();
        if text_bytes <= digits.len() {
            let need = digits.len() + 1;
            return Err(Failure::argument(format!("text has {text_bytes} bytes, an id needs {need}")));
        }
        // SAFETY: the caller promises room for `text_bytes` bytes, which is enough (above), or NULL.
        unsafe { arguments::write_text(&digits, text, "text") }
    })
}

/// Reads what `roundel_unique_id_format` wrote.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_unique_id_parse(
    text: *const c_char,
    id: *mut roundel_unique_id_t,
) -> roundel_result_t {
    boundary("roundel_unique_id_parse", || {
        // SAFETY: the caller promises a text with a NUL at its end, or NULL.
        let text = unsafe { arguments::text(text, "text") }?;
        // SAFETY: the caller promises room for an id, or NULL.
        let id = unsafe { arguments::out(id, "id") }?;
        id.bytes = text.parse::<UniqueId>()?.to_bytes();
        Ok(())
    })
}
