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
/// | `wgpu`, `wgpu:1`, `wgpu:radeon` | with feature `wgpu`: the first hardware adapter that wgpu shows, or one by number or by a part of its name |
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
        other => match other.strip_prefix("wgpu").map(|rest| rest.strip_prefix(':').unwrap_or(rest)) {
            Some(selector) => open_wgpu(selector).map(Some),
            None => Err(Error::invalid(format!("device {other:?}; there are cpu, emulated, wgpu and wgpu:ADAPTER"))),
        },
    }
}

#[cfg(feature = "wgpu")]
fn open_wgpu(selector: &str) -> Result<Arc<dyn Device>> {
    Ok(super::wgpu::WgpuDevice::open(selector)?)
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu(selector: &str) -> Result<Arc<dyn Device>> {
    Err(Error::unsupported(format!("device wgpu:{selector}: this build has no wgpu; build with feature `wgpu`")))
}
