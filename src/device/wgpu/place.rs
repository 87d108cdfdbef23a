//! Where bytes lie on the device.
#![forbid(unsafe_code)]

/// A buffer and the first of some bytes in it. Work in line keeps the buffer alive.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub buffer: wgpu::Buffer,
    pub at: u64,
}

impl Place {
    pub(super) fn from(&self, offset_bytes: usize) -> Place {
        Place { buffer: self.buffer.clone(), at: self.at + offset_bytes as u64 }
    }
}
