//! A GPU as a [`Device`]: its memory, and pinned memory of the host.

use super::context::Context;
use super::modules::Modules;
use super::pointers::{Reach, reach};
use super::queue::Stream;
use crate::device::contract::{Device, Memory, Queue};
use crate::error::{Error, Result};
use crate::memory::Span;
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The lowest domain of this kind; each GPU is one of its own.
const FIRST_DOMAIN: u8 = 1;
/// Domains 17 and up are for other kinds of devices.
const MOST_DEVICES: usize = 16;

pub(super) fn count() -> Result<usize> {
    Context::count()
}

pub(super) fn open(ordinal: usize) -> Result<Arc<dyn Device>> {
    if ordinal >= MOST_DEVICES {
        return Err(Error::unsupported(format!("cuda:{ordinal}: GPUs have numbers below {MOST_DEVICES} here")));
    }
    let context = Arc::new(Context::retain(ordinal)?);
    let setup = Setup { stream: context.enter()?.stream()?, context: context.clone() };
    let modules = Arc::new(Modules::new(context.clone()));
    Ok(Arc::new(Gpu { context, modules, setup, own: Arc::default() }))
}

struct Gpu {
    context: Arc<Context>,
    modules: Arc<Modules>,
    setup: Setup,
    own: Arc<Own>,
}

/// The stream in which new memory is zeroed: the default one would make other work in it wait.
struct Setup {
    context: Arc<Context>,
    stream: CUstream,
}

// SAFETY: a stream is a handle that every thread may use while its context is current.
unsafe impl Send for Setup {}
// SAFETY: as above, from several threads at once.
unsafe impl Sync for Setup {}

impl Drop for Setup {
    fn drop(&mut self) {
        // SAFETY: from `stream`, once.
        self.context.give_back(|entered| unsafe { entered.destroy_stream(self.stream) });
    }
}

/// Device memory that was taken here, by its first address: known without asking the driver, even when that has failed.
#[derive(Default)]
struct Own(Mutex<BTreeMap<usize, usize>>);

impl Own {
    /// Each change is one step, whoever panicked.
    fn list(&self) -> MutexGuard<'_, BTreeMap<usize, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, start: usize, len_bytes: usize) {
        self.list().insert(start, len_bytes);
    }

    fn forget(&self, start: usize) {
        self.list().remove(&start);
    }

    fn holds(&self, span: Span) -> bool {
        let own = self.list();
        let below = own.range(..=span.addr()).next_back();
        below.is_some_and(|(start, len_bytes)| span.addr() - start < *len_bytes)
    }
}

/// Gives device memory back.
struct OnDevice {
    context: Arc<Context>,
    own: Arc<Own>,
    address: CUdeviceptr,
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        self.own.forget(self.address as usize);
        // SAFETY: from `alloc`, once; work on it has ended, says `Memory`.
        self.context.give_back(|entered| unsafe { entered.free(self.address) });
    }
}

/// Gives pinned memory back.
struct Pinned {
    context: Arc<Context>,
    start: *mut u8,
}

// SAFETY: it owns the memory, and does nothing with it but give it back.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: from `alloc_host`, once; work on it has ended, says `Memory`.
        self.context.give_back(|entered| unsafe { entered.free_host(self.start) });
    }
}

/// Unpins memory of others.
struct Adopted {
    context: Arc<Context>,
    span: Span,
}

impl Drop for Adopted {
    fn drop(&mut self) {
        self.context.give_back(|entered| entered.unregister(self.span.as_ptr()));
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context.name)
    }
}

impl Device for Gpu {
    fn name(&self) -> &str {
        &self.context.name
    }

    fn domain(&self) -> u8 {
        FIRST_DOMAIN + self.context.ordinal as u8
    }

    fn alloc(&self, len_bytes: usize) -> Result<Memory> {
        if len_bytes == 0 {
            return Ok(Memory::new(Span::EMPTY, Box::new(())));
        }
        let entered = self.context.enter()?;
        let address = entered.alloc(len_bytes)?;
        let keeper = OnDevice { context: self.context.clone(), own: self.own.clone(), address };
        // SAFETY: the memory was just taken, and the stream lives as long as `self`.
        unsafe {
            entered.zero(address, len_bytes, self.setup.stream)?;
            entered.synchronize(self.setup.stream)?;
        }
        self.own.remember(address as usize, len_bytes);
        // SAFETY: mapped as long as the keeper lives, for devices: nobody touches a span from the host without having asked
        // `Device::holds` (`contract`).
        let span = unsafe { Span::new(address as *mut u8, len_bytes) };
        Ok(Memory::new(span, Box::new(keeper)))
    }

    fn alloc_host(&self, len_bytes: usize) -> Result<Memory> {
        if len_bytes == 0 {
            return Ok(Memory::new(Span::EMPTY, Box::new(())));
        }
        let start = self.context.enter()?.alloc_host(len_bytes)?;
        let keeper = Pinned { context: self.context.clone(), start };
        // SAFETY: the memory was just taken: it is as long as that, and nobody else's.
        unsafe { start.write_bytes(0, len_bytes) };
        // SAFETY: mapped as long as the keeper lives.
        let span = unsafe { Span::new(start, len_bytes) };
        Ok(Memory::new(span, Box::new(keeper)))
    }

    fn adopt(&self, host: Span) -> Option<Box<dyn Any + Send + Sync>> {
        let registered = || self.context.enter()?.register(host.as_ptr(), host.len());
        if host.is_empty() || registered().is_err() {
            return None;
        }
        Some(Box::new(Adopted { context: self.context.clone(), span: host }))
    }

    fn holds(&self, span: Span) -> bool {
        if span.is_empty() {
            return false;
        }
        // A driver that does not answer has failed. Then the host had better keep away, and the device's refusal says why.
        let is_own = || Ok::<_, Error>(matches!(reach(&self.context.enter()?, span)?, Reach::Own(_)));
        self.own.holds(span) || is_own().unwrap_or(true)
    }

    fn queue(&self) -> Result<Box<dyn Queue>> {
        Ok(Box::new(Stream::new(self.context.clone(), self.modules.clone())?))
    }
}
