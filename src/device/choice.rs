//! Devices by name: what `ROUNDEL_DEVICE` and `--device` say.
#![forbid(unsafe_code)]

use super::contract::Device;
use super::emulated::Emulated;
use crate::error::{Error, Result};
use std::sync::Arc;

/// The device of this name; none for `cpu`.
///
/// | name | device |
/// |---|---|
/// | `cpu` | host memory only |
/// | `emulated` | [`Emulated`]: memory that the host cannot touch, for tests on any machine |
///
/// ```
/// assert!(roundel::device::open("cpu")?.is_none());
/// assert!(roundel::device::open("emulated")?.is_some());
/// assert!(roundel::device::open("abacus").unwrap_err().to_string().contains("emulated"));
/// # Ok::<(), roundel::Error>(())
/// ```
pub fn open(name: &str) -> Result<Option<Arc<dyn Device>>> {
    match name {
        "cpu" => Ok(None),
        "emulated" => Ok(Some(Emulated::open())),
        other => Err(Error::invalid(format!("device {other:?}; there are cpu and emulated"))),
    }
}
