//! What a peer sends first, for [`crate::fuzz`].
#![forbid(unsafe_code)]

use super::port::{HEADER_BYTES, Header};
use crate::error::Signature;

/// A header, compared with this rank's own; what it says must be printable whatever it is.
pub(crate) fn call_headers(bytes: &[u8]) {
    let Some(theirs) = bytes.first_chunk::<HEADER_BYTES>() else { return };
    let outcome = Header::new(bytemuck::Zeroable::zeroed(), 8).accept(&bytemuck::pod_read_unaligned(theirs), 0, 1);
    if let Err(error) = outcome {
        let _ = error.to_string();
    }
}

pub(crate) fn some_call_headers() -> Vec<Vec<u8>> {
    let zero: Signature = bytemuck::Zeroable::zeroed();
    let other = Signature { sequence: 7, count: 1000, collective: 3, dtype: 9, op: 1, root: 2, flags: 1, ..zero };
    [zero, other].map(|signature| bytemuck::bytes_of(&Header::new(signature, 8)).to_vec()).into()
}
