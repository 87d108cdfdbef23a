//! One adapter, opened: what all queues of the process share.
#![forbid(unsafe_code)]

use super::kernels::Programs;
use super::place::Place;
use super::proof::Proofs;
use crate::device::Memory;
use crate::device::names::Names;
use crate::error::{Error, Result};
use crate::memory::Span;
use std::sync::{Arc, OnceLock};

/// What a storage binding is a multiple of: the kernels work on quads.
pub(super) const QUAD: u64 = 16;

/// An open adapter.
pub(super) struct Gpu {
    pub name: String,
    pub domain: u8,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    /// Which address ranges stand for which buffers.
    names: Arc<Names<wgpu::Buffer>>,
    pub programs: Programs,
    pub proofs: Proofs,
    pub limits: Limits,
    /// Why nothing works any more.
    fault: Arc<OnceLock<String>>,
}

/// What decides how work is cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Operands of one dispatch: a power of two, so that groups of them are parts of the canonical tree.
    pub operands: usize,
    /// Operands and outputs of one dispatch.
    pub bindings: usize,
    /// Bytes of a span that one dispatch works on.
    pub piece_bytes: usize,
    /// What a binding begins at a multiple of.
    pub alignment: u64,
    /// Bytes of a queue's own memory on the device.
    pub arena_bytes: u64,
    /// Bytes of one buffer that results come back in.
    pub readback_bytes: u64,
}

impl Limits {
    fn of(device: &wgpu::Device) -> Limits {
        let limits = device.limits();
        let bindings = (limits.max_storage_buffers_per_shader_stage as usize).min(12);
        let operands = [8, 4, 2].into_iter().find(|&n| n < bindings).unwrap_or(2);
        let alignment = u64::from(limits.min_storage_buffer_offset_alignment).max(QUAD);
        // A window begins up to one alignment before its first byte, and ends with a whole quad.
        let binding_bytes = limits.max_storage_buffer_binding_size.min(256 << 20) - alignment - QUAD;
        let threads = u64::from(limits.max_compute_workgroups_per_dimension) * u64::from(super::kernels::WORKGROUP);
        // One invocation more than quads, where the span begins inside of one.
        let piece_bytes = binding_bytes.min((threads - 1) * QUAD) as usize & !4095;
        Limits { operands, bindings, piece_bytes, alignment, arena_bytes: 16 << 20, readback_bytes: 4 << 20 }
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("name", &self.name).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Gpu {
    pub(super) fn new(name: String, domain: u8, device: wgpu::Device, queue: wgpu::Queue) -> Gpu {
        let fault = Arc::new(OnceLock::new());
        let lost = Arc::clone(&fault);
        device.set_device_lost_callback(move |reason, words| {
            // Also called when the last handle is dropped: then nobody asks any more.
            let _ = lost.set(format!("the device was lost ({reason:?}): {words}"));
        });
        let uncaptured = Arc::clone(&fault);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let _ = uncaptured.set(format!("the device reported an error outside of any call: {error}"));
        }));
        Gpu {
            name,
            domain,
            names: Arc::default(),
            programs: Programs::default(),
            proofs: Proofs::default(),
            limits: Limits::of(&device),
            device,
            queue,
            fault,
        }
    }

    /// Gives the first bytes of a buffer a name.
    pub(super) fn named(&self, buffer: wgpu::Buffer, len_bytes: usize) -> Result<Memory> {
        if len_bytes == 0 {
            return Ok(Memory::new(Span::EMPTY, Box::new(())));
        }
        let name = self.names.give(len_bytes, buffer)?;
        Ok(Memory::new(name.span(), Box::new(name)))
    }

    /// What these bytes are the name of; `None` for all that is not on the device.
    pub(super) fn find(&self, span: Span) -> Option<Place> {
        self.names.find(span).map(|(buffer, at)| Place { buffer, at: at as u64 })
    }

    /// An error, where the device is of no use any more.
    pub(super) fn check(&self) -> Result<()> {
        self.fault.get().map_or(Ok(()), |why| Err(self.failed("working", why.clone())))
    }

    /// Calls the device; what it has against the calls becomes an error, whatever they returned.
    pub(super) fn checked<T>(&self, doing: &str, calls: impl FnOnce() -> T) -> Result<T> {
        self.check()?;
        let [memory, validation, internal] =
            [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal]
                .map(|filter| self.device.push_error_scope(filter));
        let result = calls();
        // Natively these futures are ready at once. The inner ones end first.
        let errors = [internal, validation, memory].map(|scope| pollster::block_on(scope.pop()));
        match errors.into_iter().flatten().next() {
            Some(error) => Err(self.failed(doing, error.to_string())),
            None => self.check().map(|()| result),
        }
    }

    fn failed(&self, doing: &str, words: String) -> Error {
        Error::refused_by_system(format!("{doing} on {}", self.name), words, 0)
    }

    /// Takes notice of what has ended, and calls whoever waits for it. Never waits: in wgpu-core 30.0.1 a wait that ends early
    /// panics when another thread has polled meanwhile.
    pub(super) fn poll(&self) -> Result<()> {
        if let Err(error) = self.device.poll(wgpu::PollType::Poll) {
            let _ = self.fault.set(error.to_string());
        }
        self.check()
    }
}
