//! What C hands over becomes what Rust can trust, or an error that says which argument is wrong and what would be right.

use crate::boundary::Outcome;
use crate::last_error::Failure;
use library::memory::Span;
use library::{DType, Rank};
use std::ffi::{CStr, c_char, c_void};

/// A place for a result.
///
/// # Safety
/// `pointer` is NULL or may be written for as long as the reference lives, by this thread alone.
pub unsafe fn out<'a, T>(pointer: *mut T, name: &str) -> Outcome<&'a mut T> {
    present(pointer.cast_const(), name)?;
    aligned(pointer.cast_const(), name)?;
    // SAFETY: neither NULL nor misaligned (above); the rest was promised.
    Ok(unsafe { &mut *pointer })
}

/// An array of `len` values.
///
/// # Safety
/// `pointer` is NULL or has `len` values, which nobody changes while the slice lives.
pub unsafe fn array<'a, T>(pointer: *const T, len: usize, name: &str) -> Outcome<&'a [T]> {
    present(pointer, name)?;
    aligned(pointer, name)?;
    // SAFETY: neither NULL nor misaligned (above); the rest was promised.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// A text.
///
/// # Safety
/// `pointer` is NULL or has a NUL at its end, and nobody changes it while the text lives.
pub unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Outcome<&'a str> {
    present(pointer, name)?;
    // SAFETY: not NULL (above); the rest was promised.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::argument(format!("{name} is not UTF-8")))
}

fn present<T>(pointer: *const T, name: &str) -> Outcome {
    if pointer.is_null() { Err(Failure::argument(format!("{name} is NULL"))) } else { Ok(()) }
}

fn aligned<T>(pointer: *const T, name: &str) -> Outcome {
    if pointer.is_aligned() { Ok(()) } else { Err(Failure::argument(format!("{name} at {pointer:p} is misaligned"))) }
}

/// The element type of this number.
pub fn dtype(code: i32) -> Outcome<DType> {
    let dtype = u8::try_from(code).ok().and_then(DType::from_code);
    dtype.ok_or_else(|| {
        let last = DType::ALL.len() - 1;
        Failure::argument(format!(
            "there is no element type {code}; they are numbered from 0 to {last} (roundel_dtype_t)"
        ))
    })
}

/// A rank, as far as it can be told without knowing the world.
pub fn rank(number: i32, name: &str) -> Outcome<Rank> {
    Rank::try_from(number).map_err(|_| Failure::argument(format!("{name} is {number}; ranks are counted from 0")))
}

/// A buffer of a call. NULL is fine where there is nothing to read or write.
///
/// # Safety
/// `pointer` is NULL or what [`Span::new`] wants until the call has ended.
pub unsafe fn buffer(pointer: *const c_void, len_bytes: usize, name: &str) -> Outcome<Span> {
    if len_bytes == 0 {
        return Ok(Span::EMPTY);
    }
    present(pointer, name)?;
    if (pointer as usize).checked_add(len_bytes).is_none() {
        return Err(Failure::argument(format!(
            "{name} at {pointer:p}: {len_bytes} bytes reach past the end of memory"
        )));
    }
    // SAFETY: promised by the caller.
    Ok(unsafe { Span::new(pointer.cast_mut().cast(), len_bytes) })
}

/// Writes a text and a NUL.
///
/// # Safety
/// `to` is NULL or has room for the text and one byte more.
pub unsafe fn write_text(text: &str, to: *mut c_char, name: &str) -> Outcome {
    present(to.cast_const(), name)?;
    // SAFETY: not NULL (above); the room was promised, and a fresh buffer of the caller's overlaps no text of ours.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), text.len());
        *to.add(text.len()) = 0;
    }
    Ok(())
}
