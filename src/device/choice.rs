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
/// | `cuda:1`, or `cuda` for the first | a GPU of NVIDIA (`device::cuda`, feature `cuda`) |
/// | `wgpu`, `wgpu:1`, `wgpu:radeon` | the first hardware adapter that wgpu shows, or one by number or by a part of its name (`device::wgpu`, feature `wgpu`) |
/// | `emulated` | [`Emulated`]: memory that the host cannot touch, for tests on any machine |
///
/// ```
/// assert!(roundel::device::open("cpu")?.is_none());
/// assert!(roundel::device::open("emulated")?.is_some());
/// assert!(roundel::device::open("abacus").unwrap_err().to_string().contains("emulated"));
/// # Ok::<(), roundel::Error>(())
/// ```
pub fn open(name: &str) -> Result<Option<Arc<dyn Device>>> {
    let (kind, which) = match name.split_once(':') {
        Some((kind, which)) if !which.is_empty() => (kind, Some(which)),
        _ => (name, None),
    };
    let unknown =
        || Error::invalid(format!("device {name:?}; there are cpu, cuda, cuda:1, wgpu, wgpu:ADAPTER, emulated"));
    match (kind, which) {
        ("cpu", None) => Ok(None),
        ("emulated", None) => Ok(Some(Emulated::open())),
        ("cuda", which) => {
            let ordinal = which.map_or(Ok(0), str::parse).map_err(|_| unknown())?;
            open_cuda(ordinal).map(Some)
        }
        ("wgpu", which) => open_wgpu(which.unwrap_or_default()).map(Some),
        _ => Err(unknown()),
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize) -> Result<Arc<dyn Device>> {
    super::cuda::open(ordinal)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(ordinal: usize) -> Result<Arc<dyn Device>> {
    Err(Error::unsupported(format!("cuda:{ordinal}: this build has no CUDA (feature `cuda`)")))
}

#[cfg(feature = "wgpu")]
fn open_wgpu(adapter: &str) -> Result<Arc<dyn Device>> {
    Ok(super::wgpu::WgpuDevice::open(adapter)?)
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu(adapter: &str) -> Result<Arc<dyn Device>> {
    Err(Error::unsupported(format!("wgpu:{adapter}: this build has no wgpu (feature `wgpu`)")))
}

#[test]
fn nonsense_is_refused_and_names_what_there_is() {
    for name in ["", ":", "cuda:", "cuda:x", "cuda1", "cpu:0", "emulated:3", "gpu"] {
        let error = open(name).unwrap_err();
        assert!(error.is_recoverable() && error.to_string().contains("wgpu:ADAPTER"), "{name}: {error}");
    }
}
