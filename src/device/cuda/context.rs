//! A GPU's primary context, and the driver's functions that need it: they are called on an [`Entered`], while it is current.

use super::driver::{Driver, NOT_READY, SUCCESS, driver};
use crate::error::{Error, Result};
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute_enum as Attribute, CUdeviceptr, CUevent, CUfunction, CUmodule, CUstream,
};
use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;

/// For all contexts, and with an address on the device: `CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP`, which are
/// the same bits when memory is registered.
const PORTABLE_AND_MAPPED: u32 = 1 | 2;
/// In no order with the default stream.
const NON_BLOCKING: u32 = 1;
/// Whoever asks does not sleep, and nobody reads clocks.
const WITHOUT_TIMING: u32 = 2;

/// A retained primary context.
pub(super) struct Context {
    pub(super) driver: &'static Driver,
    /// As in `cuda:0 (NVIDIA H200)`.
    pub(super) name: String,
    pub(super) ordinal: c_int,
    /// As many threads as the GPU works on at once, in blocks of as many as a launch has.
    pub(super) threads_at_once: usize,
    device: CUdevice,
    raw: CUcontext,
}

// SAFETY: a context is a handle that every thread may make current, which is all that is done with it.
unsafe impl Send for Context {}
// SAFETY: as above; the driver's functions may be called from several threads at once.
unsafe impl Sync for Context {}

impl Context {
    /// How many devices there are.
    pub(super) fn count() -> Result<usize> {
        let driver = driver()?;
        let mut count = 0;
        // SAFETY: it writes one number.
        driver.check("CUDA", "cuDeviceGetCount", unsafe { (driver.cuDeviceGetCount)(&mut count) })?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Retains the context of a device.
    pub(super) fn retain(ordinal: usize) -> Result<Context> {
        let count = Context::count()?;
        let found = c_int::try_from(ordinal).ok().filter(|_| ordinal < count);
        let ordinal =
            found.ok_or_else(|| Error::unsupported(format!("cuda:{ordinal}: this machine has {count} GPUs")))?;
        let driver = driver()?;
        let whose = format!("cuda:{ordinal}");
        let mut device = 0;
        // SAFETY: it writes one number.
        driver.check(&whose, "cuDeviceGet", unsafe { (driver.cuDeviceGet)(&mut device, ordinal) })?;
        let mut text = [0; 256];
        // SAFETY: it writes a text of at most that length, with its end.
        let named = unsafe { (driver.cuDeviceGetName)(text.as_mut_ptr(), text.len() as c_int - 1, device) };
        driver.check(&whose, "cuDeviceGetName", named)?;
        // SAFETY: the last byte is zero: the driver was told of one less.
        let model = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
        let name = format!("{whose} ({model})");
        let attribute = |which: Attribute| {
            let mut value = 0;
            // SAFETY: it writes one number.
            let asked = unsafe { (driver.cuDeviceGetAttribute)(&mut value, which as u32, device) };
            driver.check(&name, "cuDeviceGetAttribute", asked).map(|()| usize::try_from(value).unwrap_or(0))
        };
        let (major, minor) = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        if (major, minor) < (7, 5) {
            let why = format!("{name}: compute capability {major}.{minor}; the kernels need 7.5 (Turing) or newer");
            return Err(Error::unsupported(why));
        }
        let threads_at_once = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?
            * attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: it writes one handle, which is given back when this is dropped.
        let retained = unsafe { (driver.cuDevicePrimaryCtxRetain)(&mut raw, device) };
        driver.check(&name, "cuDevicePrimaryCtxRetain", retained)?;
        Ok(Context { driver, name, ordinal, threads_at_once, device, raw })
    }

    /// Makes the context current on this thread until what is returned is dropped.
    pub(super) fn enter(&self) -> Result<Entered<'_>> {
        // SAFETY: the context is retained as long as `self` lives.
        self.check("cuCtxPushCurrent", unsafe { (self.driver.cuCtxPushCurrent_v2)(self.raw) })?;
        Ok(Entered { context: self, _of_this_thread: PhantomData })
    }

    pub(super) fn check(&self, function: &str, result: u32) -> Result<()> {
        self.driver.check(&self.name, function, result)
    }

    /// What cannot be given back is lost: the device has failed, or the process is ending. Nobody is there to be told.
    pub(super) fn give_back(&self, how: impl FnOnce(&Entered) -> Result<()>) {
        if let Err(error) = self.enter().and_then(|entered| how(&entered)) {
            tracing::debug!("{error}");
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, in `retain`.
        let result = unsafe { (self.driver.cuDevicePrimaryCtxRelease_v2)(self.device) };
        if let Err(error) = self.check("cuDevicePrimaryCtxRelease", result) {
            tracing::debug!("{error}");
        }
    }
}

/// A context while it is current on this thread.
pub(super) struct Entered<'a> {
    pub(super) context: &'a Context,
    /// Not to be sent: another thread has a current context of its own.
    _of_this_thread: PhantomData<*const ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: it takes away what `enter` put there.
        unsafe { (self.context.driver.cuCtxPopCurrent_v2)(&mut popped) };
    }
}

impl Entered<'_> {
    fn driver(&self) -> &'static Driver {
        self.context.driver
    }

    /// Device memory; not zeroed. At least one byte.
    pub(super) fn alloc(&self, len_bytes: usize) -> Result<CUdeviceptr> {
        let mut address = 0;
        // SAFETY: it writes one address.
        let result = unsafe { (self.driver().cuMemAlloc_v2)(&mut address, len_bytes) };
        self.context.check(&format!("cuMemAlloc of {len_bytes} bytes"), result).map(|()| address)
    }

    /// # Safety
    /// From [`Entered::alloc`], once, and nobody uses it any more but work in streams.
    pub(super) unsafe fn free(&self, address: CUdeviceptr) -> Result<()> {
        // SAFETY: says the caller; the driver waits for work that is under way.
        self.context.check("cuMemFree", unsafe { (self.driver().cuMemFree_v2)(address) })
    }

    /// Pinned host memory; not zeroed. At least one byte.
    pub(super) fn alloc_host(&self, len_bytes: usize) -> Result<*mut u8> {
        let mut start = std::ptr::null_mut();
        // SAFETY: it writes one pointer.
        let result = unsafe { (self.driver().cuMemHostAlloc)(&mut start, len_bytes, PORTABLE_AND_MAPPED) };
        self.context.check(&format!("cuMemHostAlloc of {len_bytes} bytes"), result).map(|()| start.cast())
    }

    /// # Safety
    /// From [`Entered::alloc_host`], once, and nobody uses it any more.
    pub(super) unsafe fn free_host(&self, start: *mut u8) -> Result<()> {
        // SAFETY: says the caller.
        self.context.check("cuMemFreeHost", unsafe { (self.driver().cuMemFreeHost)(start.cast()) })
    }

    /// Pins host memory of others. It stays mapped until [`Entered::unregister`].
    pub(super) fn register(&self, start: *mut u8, len_bytes: usize) -> Result<()> {
        // SAFETY: pinning changes nothing about memory that is mapped, and the driver refuses what is not.
        let result = unsafe { (self.driver().cuMemHostRegister_v2)(start.cast(), len_bytes, PORTABLE_AND_MAPPED) };
        self.context.check(&format!("cuMemHostRegister of {len_bytes} bytes"), result)
    }

    pub(super) fn unregister(&self, start: *mut u8) -> Result<()> {
        // SAFETY: the driver refuses what is not registered.
        self.context.check("cuMemHostUnregister", unsafe { (self.driver().cuMemHostUnregister)(start.cast()) })
    }

    pub(super) fn stream(&self) -> Result<CUstream> {
        let mut stream = std::ptr::null_mut();
        // SAFETY: it writes one handle.
        let result = unsafe { (self.driver().cuStreamCreate)(&mut stream, NON_BLOCKING) };
        self.context.check("cuStreamCreate", result).map(|()| stream)
    }

    /// # Safety
    /// From [`Entered::stream`], once.
    pub(super) unsafe fn destroy_stream(&self, stream: CUstream) -> Result<()> {
        // SAFETY: says the caller.
        self.context.check("cuStreamDestroy", unsafe { (self.driver().cuStreamDestroy_v2)(stream) })
    }

    /// Waits until all work in the stream is done.
    ///
    /// # Safety
    /// The stream is there.
    pub(super) unsafe fn synchronize(&self, stream: CUstream) -> Result<()> {
        // SAFETY: says the caller.
        self.context.check("cuStreamSynchronize", unsafe { (self.driver().cuStreamSynchronize)(stream) })
    }

    pub(super) fn event(&self) -> Result<CUevent> {
        let mut event = std::ptr::null_mut();
        // SAFETY: it writes one handle.
        let result = unsafe { (self.driver().cuEventCreate)(&mut event, WITHOUT_TIMING) };
        self.context.check("cuEventCreate", result).map(|()| event)
    }

    /// # Safety
    /// From [`Entered::event`], once.
    pub(super) unsafe fn destroy_event(&self, event: CUevent) -> Result<()> {
        // SAFETY: says the caller.
        self.context.check("cuEventDestroy", unsafe { (self.driver().cuEventDestroy_v2)(event) })
    }

    /// # Safety
    /// Both are there.
    pub(super) unsafe fn record(&self, event: CUevent, stream: CUstream) -> Result<()> {
        // SAFETY: says the caller.
        self.context.check("cuEventRecord", unsafe { (self.driver().cuEventRecord)(event, stream) })
    }

    /// Whether the event has happened.
    ///
    /// # Safety
    /// It is there.
    pub(super) unsafe fn has_happened(&self, event: CUevent) -> Result<bool> {
        // SAFETY: says the caller.
        match unsafe { (self.driver().cuEventQuery)(event) } {
            SUCCESS => Ok(true),
            NOT_READY => Ok(false),
            error => self.context.check("cuEventQuery", error).map(|()| true),
        }
    }

    /// # Safety
    /// The stream is there; both ranges stay valid, and in nobody else's way, until the copy is done. They may be of any memory.
    pub(super) unsafe fn copy(
        &self,
        into: CUdeviceptr,
        from: CUdeviceptr,
        len_bytes: usize,
        stream: CUstream,
    ) -> Result<()> {
        // SAFETY: says the caller.
        let result = unsafe { (self.driver().cuMemcpyAsync)(into, from, len_bytes, stream) };
        self.context.check("cuMemcpyAsync", result)
    }

    /// # Safety
    /// As [`Entered::copy`]; the range is on the device.
    pub(super) unsafe fn zero(&self, address: CUdeviceptr, len_bytes: usize, stream: CUstream) -> Result<()> {
        // SAFETY: says the caller.
        let result = unsafe { (self.driver().cuMemsetD8Async)(address, 0, len_bytes, stream) };
        self.context.check("cuMemsetD8Async", result)
    }

    /// Compiles PTX for this GPU.
    pub(super) fn load(&self, ptx: &CStr) -> Result<CUmodule> {
        let mut module = std::ptr::null_mut();
        // SAFETY: it reads a text up to its end, and writes one handle.
        let result = unsafe { (self.driver().cuModuleLoadData)(&mut module, ptx.as_ptr().cast()) };
        self.context.check("cuModuleLoadData", result).map(|()| module)
    }

    /// # Safety
    /// From [`Entered::load`], once, and none of its kernels runs any more.
    pub(super) unsafe fn unload(&self, module: CUmodule) -> Result<()> {
        // SAFETY: says the caller.
        self.context.check("cuModuleUnload", unsafe { (self.driver().cuModuleUnload)(module) })
    }

    /// # Safety
    /// The module is there.
    pub(super) unsafe fn function(&self, module: CUmodule, name: &CStr) -> Result<CUfunction> {
        let mut function = std::ptr::null_mut();
        // SAFETY: says the caller; it reads a text up to its end, and writes one handle.
        let result = unsafe { (self.driver().cuModuleGetFunction)(&mut function, module, name.as_ptr()) };
        self.context.check(&format!("cuModuleGetFunction of {}", name.to_string_lossy()), result).map(|()| function)
    }

    /// # Safety
    /// The function is there, and takes one parameter, which `call` is or begins with. What the kernel does with it is in order:
    /// see [`Entered::copy`].
    pub(super) unsafe fn launch<C>(
        &self,
        function: CUfunction,
        blocks: u32,
        threads: u32,
        stream: CUstream,
        call: &C,
    ) -> Result<()> {
        let mut parameters = [std::ptr::from_ref(call).cast_mut().cast::<c_void>()];
        // SAFETY: says the caller; the parameter is copied before the function returns.
        let result = unsafe {
            (self.driver().cuLaunchKernel)(
                function,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                stream,
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        self.context.check("cuLaunchKernel", result)
    }
}
