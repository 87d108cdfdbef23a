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
/// | `cuda:1`, or `cuda` for the first | a GPU of NVIDIA ([`cuda`](super::cuda)) |
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
        other => match gpu_number(other) {
            Some(ordinal) => gpu(ordinal).map(Some),
            None => {
                Err(Error::invalid(format!("device {other:?}; there are cpu, cuda, cuda:1 (and so on) and emulated")))
            }
        },
    }
}

/// The number in `cuda:1`.
fn gpu_number(name: &str) -> Option<usize> {
    match name.strip_prefix("cuda")? {
        "" => Some(0),
        rest => rest.strip_prefix(':')?.parse().ok(),
    }
}

#[cfg(feature = "cuda")]
fn gpu(ordinal: usize) -> Result<Arc<dyn Device>> {
    super::cuda::open(ordinal)
}

#[cfg(not(feature = "cuda"))]
fn gpu(ordinal: usize) -> Result<Arc<dyn Device>> {
    Err(Error::unsupported(format!("cuda:{ordinal}: this build has no CUDA (feature `cuda`)")))
}

#[test]
fn gpus_have_numbers() {
    let rows = [
        ("cuda", Some(0)),
        ("cuda:0", Some(0)),
        ("cuda:12", Some(12)),
        ("cuda:", None),
        ("cuda1", None),
        ("cpu", None),
    ];
    for (name, wanted) in rows {
        assert_eq!(gpu_number(name), wanted, "{name}");
    }
}
