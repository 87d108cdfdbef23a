//! GPUs of NVIDIA: kernels and copies in streams of CUDA, through the driver that is there when the program runs.
//!
//! Nothing of CUDA is needed to build. The driver is opened when the first device is; where there is none, or no GPU, or one
//! too old, [`open`] says so and nothing else changes. The device's context is its primary one, which frameworks use too, so
//! their pointers are good here; the calling thread's current context is left as it was.
//!
//! ```text
//!   driver       the driver's functions, found by name, none missing; its errors in words
//!   context      a GPU's primary context: what is called while it is current
//!   pointers     whose memory an address is
//!   modules      the kernels: PTX for each element type, compiled by the driver at the type's first use
//!   reduction    the parameter of a launch, and its shape
//!   bounce       room on the device for operands that the device does not reach
//!   marks        events behind the work
//!   queue        all of it in a stream
//!   device       memory, and queues
//! ```
//!
//! # Where operands may lie
//!
//! Kernels work on memory of the GPU and on host memory that is pinned, in place. Pageable host memory goes through room on the
//! device, a piece at a time: right, but slow, and the driver makes the calling thread wait for some of these copies.
//! An operand at no multiple of its element's size is read byte by byte; more than eight operands, an element at a time.
//!
//! # What was run
//!
//! No GPU has run any of this yet. The kernels' sources, compiled for CPUs, and this module over a stand-in for the driver pass
//! the conformance suite (`tests`); the PTX is assembled for every architecture from Turing to Blackwell (`kernels/build
//! --check`).

mod bounce;
mod context;
mod device;
mod driver;
mod marks;
mod modules;
mod pointers;
mod queue;
mod reduction;
#[cfg(test)]
mod tests;

use super::contract::Device;
use crate::error::Result;
use std::sync::Arc;

/// How many GPUs there are. An error says why there is none to be had.
///
/// ```
/// match roundel::device::cuda::count() {
///     Ok(count) => println!("{count} GPUs"),
///     Err(error) => println!("{error}"),
/// }
/// ```
pub fn count() -> Result<usize> {
    device::count()
}

/// The GPU with this number, counted from 0 as `CUDA_VISIBLE_DEVICES` leaves them. [`Error::Unsupported`](crate::Error) where
/// there is no driver, no such device, or one too old.
///
/// ```
/// use roundel::device::{copy_now, cuda};
///
/// if let Ok(gpu) = cuda::open(0) {
///     let (there, here) = (gpu.alloc(1024)?, gpu.alloc_host(1024)?);
///     copy_now(&*gpu, here.span(), there.span())?;
///     println!("{}: {:?}", gpu.name(), there.span());
/// }
/// # Ok::<(), roundel::Error>(())
/// ```
pub fn open(ordinal: usize) -> Result<Arc<dyn Device>> {
    device::open(ordinal)
}
