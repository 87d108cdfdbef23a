//! The device on the software adapter, which any machine can have.

use super::*;
use crate::device::conformance;

/// The software adapter; `None`, with a line that says so, where there is none.
fn software() -> Option<Arc<WgpuDevice>> {
    let error = match WgpuDevice::open("llvmpipe") {
        Ok(device) => return Some(device),
        Err(error) => error,
    };
    let required = std::env::var("ROUNDEL_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split([',', ' ']).any(|word| word == "vulkan"), "ROUNDEL_TEST_REQUIRE has vulkan, but {error}");
    eprintln!("skipped: {error}");
    None
}

#[test]
fn conforms() {
    let Some(device) = software() else { return };
    conformance::conform(&*device);
    println!("{:?}", device.gpu.proofs);
}
