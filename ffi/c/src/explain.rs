//! What a call would do, for people.

use crate::arguments;
use crate::boundary::boundary;
use crate::comm;
use crate::last_error::Failure;
use crate::names::{raw::*, roundel_comm_t, roundel_result_t};
use crate::reduce_op::reduce_op;
use library::Collective;
use std::ffi::c_char;

/// Explains how a call would run on this rank, without running it: the algorithm, the transport and this rank's program.
/// `count` is what the call takes; `op` and `root` matter where the call has them; `mapped` says that the buffers would
/// come from `roundel_alloc`. Writes as much as fits into the `text_bytes` bytes of `text`, always with a NUL at the end,
/// and the whole length without the NUL to `need_bytes`. `text` may be NULL when `text_bytes` is 0; `need_bytes` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_explain(
    collective: roundel_collective_t,
    count: usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
    root: i32,
    in_place: bool,
    mapped: bool,
    text: *mut c_char,
    text_bytes: usize,
    need_bytes: *mut usize,
    comm: roundel_comm_t,
) -> roundel_result_t {
    boundary("roundel_explain", || {
        let comm = comm::get(comm)?;
        let collective = u8::try_from(collective)
            .ok()
            .and_then(Collective::from_code)
            .ok_or_else(|| Failure::argument(format!("there is no collective {collective} (roundel_collective_t)")))?;
        let dtype = arguments::dtype(dtype)?;
        let op = if collective.reduces() { Some(reduce_op(op)?) } else { None };
        let has_root = collective.has_root() || collective == Collective::SendRecv;
        let root = if has_root { arguments::rank(root, "root")? } else { 0 };
        let plan = comm.explain(collective, dtype, op, count, root, in_place, mapped)?;
        let words = plan.to_string();
        if !need_bytes.is_null() {
            // SAFETY: the caller promises room for a number.
            *unsafe { arguments::out(need_bytes, "need_bytes") }? = words.len();
        }
        let Some(room) = text_bytes.checked_sub(1) else { return Ok(()) };
        let fits = (0..=room.min(words.len())).rev().find(|&at| words.is_char_boundary(at)).unwrap_or(0);
        // SAFETY: the caller promises `text_bytes` bytes, one more than `fits` at least, or NULL.
        unsafe { arguments::write_text(&words[..fits], text, "text") }
    })
}
