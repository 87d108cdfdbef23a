//! Any graphics adapter as a device, through [wgpu](https://wgpu.rs): those that have Vulkan.
//!
//! ```
//! use roundel::device::wgpu::{WgpuDevice, adapters};
//! let Some(adapter) = adapters().into_iter().next() else { return Ok(()) };
//! let device = WgpuDevice::open(&adapter.index.to_string())?;
//! println!("{}", roundel::device::Device::name(&*device));
//! # Ok::<(), roundel::Error>(())
//! ```
//!
//! # How it works
//!
//! Buffers are handles, so spans of them are names (`names`): address space without memory behind it. A queue (`line`) turns
//! spans back into places in buffers, cuts work to the adapter's limits, and records it (`dispatch`, `batch`); it is submitted
//! at a mark, when much has gathered, or when something needs its results. The kernels are WGSL, in `kernels/` at the top of the
//! repository, and written out for each element type, operation and number of operands (`kernels`).
//!
//! # What is promised, and what it costs
//!
//! - All bits are the host's. Each adapter is tried at the first use of each element type and operation (`proof`); float
//!   arithmetic that is not exact there is done in integers, which costs some dozens of instructions an element.
//! - Sums and products of f64 are computed on the host, through copies: an order of magnitude slower than what the adapter does
//!   by itself. Minimum and maximum of f64 are computed on the device.
//! - Kernels write 16 bytes at a time and keep the bytes around a span as they are. That is safe against every other user of
//!   the same adapter in this process, however close by: what is given to one wgpu device is done in order.
//! - Spans that begin at a multiple of 16 bytes are the fast ones. Others cost a second look at the operands.
//! - A kernel is compiled when it is first needed, which takes from some milliseconds to some tenths of a second.
//! - Memory of other processes and hosts is reached through host memory.
#![forbid(unsafe_code)]

mod adapters;
mod batch;
mod dispatch;
mod gpu;
mod host_block;
mod kernels;
mod line;
mod place;
mod proof;
#[cfg(test)]
mod tests;

/// The crate that [`WgpuDevice::handles`] and [`WgpuDevice::name_buffer`] speak of, in the right version.
pub use ::wgpu;
pub use adapters::{Adapter, adapters};

use super::{Device, Memory, Queue};
use crate::error::{Error, Result};
use crate::memory::Span;
use gpu::{Gpu, QUAD};
use host_block::HostBlock;
use std::any::Any;
use std::sync::Arc;

/// An adapter as a device.
#[derive(Debug)]
pub struct WgpuDevice {
    gpu: Arc<Gpu>,
}

impl WgpuDevice {
    /// Opens an adapter: by its number among [`adapters`], by a part of its name, or, with an empty selector, the first one
    /// that is hardware. Software adapters are used when named only.
    ///
    /// All who open the same one share it, and can work on each other's memory. Without such an adapter the error is
    /// [`Error::Unsupported`], and lists what there is.
    ///
    /// ```no_run
    /// let first_hardware = roundel::device::wgpu::WgpuDevice::open("")?;
    /// let by_name = roundel::device::wgpu::WgpuDevice::open("radeon")?;
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn open(selector: &str) -> Result<Arc<WgpuDevice>> {
        adapters::open(selector)
    }

    /// What the device is to wgpu: to make buffers for [`WgpuDevice::name_buffer`], and to fill and read them.
    pub fn handles(&self) -> (&wgpu::Device, &wgpu::Queue) {
        (&self.gpu.device, &self.gpu.queue)
    }

    /// Makes a buffer of the caller's usable: what is returned holds the name, a range of addresses, under which all calls
    /// take it. The buffer must come from this device's [`handles`](WgpuDevice::handles), have the usages `STORAGE`,
    /// `COPY_SRC` and `COPY_DST`, and be a multiple of 16 bytes long; it lives on until the name is dropped and all work on it
    /// has ended.
    ///
    /// ```no_run
    /// let device = roundel::device::wgpu::WgpuDevice::open("")?;
    /// use roundel::device::wgpu::wgpu::{BufferDescriptor, BufferUsages};
    /// let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    /// let (wgpu_device, _) = device.handles();
    /// let gradients =
    ///     wgpu_device.create_buffer(&BufferDescriptor { label: None, size: 4096, usage, mapped_at_creation: false });
    /// let named = device.name_buffer(gradients)?;
    /// println!("known as {:?}", named.span());
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn name_buffer(&self, buffer: wgpu::Buffer) -> Result<Memory> {
        if !buffer.usage().contains(batch::DEVICE_USAGES) {
            return Err(Error::invalid(format!(
                "a buffer with usages {:?}; it needs {:?}",
                buffer.usage(),
                batch::DEVICE_USAGES
            )));
        }
        if !buffer.size().is_multiple_of(QUAD) {
            return Err(Error::invalid(format!("a buffer of {} bytes; make it a multiple of {QUAD}", buffer.size())));
        }
        let len_bytes = buffer.size() as usize;
        self.gpu.named(buffer, len_bytes)
    }
}

impl Device for WgpuDevice {
    fn name(&self) -> &str {
        &self.gpu.name
    }

    fn domain(&self) -> u8 {
        self.gpu.domain
    }

    fn alloc(&self, len_bytes: usize) -> Result<Memory> {
        let size = (len_bytes.max(1) as u64).next_multiple_of(256);
        let most = self.gpu.device.limits().max_buffer_size;
        if size > most {
            let name = self.name();
            return Err(Error::unsupported(format!(
                "a buffer of {len_bytes} bytes on {name}, which takes {most} at most"
            )));
        }
        let buffer = self.gpu.checked("allocating a buffer", || {
            self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage: batch::DEVICE_USAGES,
                mapped_at_creation: false,
            })
        })?;
        self.gpu.named(buffer, len_bytes)
    }

    fn alloc_host(&self, len_bytes: usize) -> Result<Memory> {
        let block = HostBlock::new(len_bytes);
        Ok(Memory::new(block.span(), Box::new(block)))
    }

    fn adopt(&self, _: Span) -> Option<Box<dyn Any + Send + Sync>> {
        None
    }

    fn holds(&self, span: Span) -> bool {
        self.gpu.find(span).is_some()
    }

    fn queue(&self) -> Result<Box<dyn Queue>> {
        self.gpu.check()?;
        Ok(Box::new(line::Line::new(Arc::clone(&self.gpu), line::Trust::Proved)))
    }
}
