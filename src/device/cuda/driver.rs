//! The driver's functions. All that are used are looked up when the driver is opened, so that one that is missing is an error
//! then and not a surprise later; and their results are plain numbers, because a newer driver has errors that no list of
//! today has.

use crate::error::{Error, Result};
use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUmodule, CUpointer_attribute, CUstream,
};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// The oldest driver that reads the committed PTX, which is of version 8.2, as `cuDriverGetVersion` tells it.
const OLDEST_VERSION: c_int = 12020;

/// What the driver says when all is well.
pub(super) const SUCCESS: u32 = 0;
/// What it says of an event that has not happened yet.
pub(super) const NOT_READY: u32 = 600;
const NO_DEVICE: u32 = 100;
const UNSUPPORTED_PTX: u32 = 222;

macro_rules! functions {
    ($($name:ident($($argument:ty),*);)*) => {
        /// The functions, by their own names.
        #[allow(non_snake_case)]
        pub(super) struct Driver {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> u32,)*
        }

        impl Driver {
            /// All of them, or the name of one that is missing.
            fn find() -> std::result::Result<Driver, &'static str> {
                // SAFETY: `culib` panics where there is no library; `load` has made sure that there is one.
                let library = unsafe { sys::culib() };
                Ok(Driver {
                    // SAFETY: the functions have these types in `cuda.h`, whose numbered names keep them; results, an enum
                    // there, are 32 bits.
                    $($name: unsafe { *library.get(concat!(stringify!($name), "\0").as_bytes()).map_err(|_| stringify!($name))? },)*
                })
            }
        }
    };
}

functions! {
    cuInit(c_uint);
    cuDriverGetVersion(*mut c_int);
    cuGetErrorName(u32, *mut *const c_char);
    cuGetErrorString(u32, *mut *const c_char);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut CUdevice, c_int);
    cuDeviceGetName(*mut c_char, c_int, CUdevice);
    cuDeviceGetAttribute(*mut c_int, c_uint, CUdevice);
    cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    cuDevicePrimaryCtxRelease_v2(CUdevice);
    cuCtxPushCurrent_v2(CUcontext);
    cuCtxPopCurrent_v2(*mut CUcontext);
    cuMemAlloc_v2(*mut CUdeviceptr, usize);
    cuMemFree_v2(CUdeviceptr);
    cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
    cuMemFreeHost(*mut c_void);
    cuMemHostRegister_v2(*mut c_void, usize, c_uint);
    cuMemHostUnregister(*mut c_void);
    cuPointerGetAttributes(c_uint, *const CUpointer_attribute, *const *mut c_void, CUdeviceptr);
    cuMemcpyAsync(CUdeviceptr, CUdeviceptr, usize, CUstream);
    cuMemsetD8Async(CUdeviceptr, u8, usize, CUstream);
    cuStreamCreate(*mut CUstream, c_uint);
    cuStreamDestroy_v2(CUstream);
    cuStreamSynchronize(CUstream);
    cuEventCreate(*mut CUevent, c_uint);
    cuEventDestroy_v2(CUevent);
    cuEventRecord(CUevent, CUstream);
    cuEventQuery(CUevent);
    cuModuleLoadData(*mut CUmodule, *const c_void);
    cuModuleUnload(CUmodule);
    cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
    cuLaunchKernel(CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void, *mut *mut c_void);
}

/// The driver of this process, opened by whoever asks first.
pub(super) fn driver() -> Result<&'static Driver> {
    static DRIVER: OnceLock<Result<Driver>> = OnceLock::new();
    DRIVER.get_or_init(load).as_ref().map_err(Error::clone)
}

fn load() -> Result<Driver> {
    // SAFETY: opening the driver's library runs its initialisers, as every program that uses CUDA does.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::unsupported("CUDA: this machine has no driver of NVIDIA (libcuda.so.1)"));
    }
    let driver = Driver::find().map_err(|name| {
        Error::unsupported(format!("CUDA: the driver is too old, it has no {name}; install one for CUDA 12.2 or newer"))
    })?;
    let mut version = 0;
    // SAFETY: it writes one number, and works before anything else.
    driver.check("CUDA", "cuDriverGetVersion", unsafe { (driver.cuDriverGetVersion)(&mut version) })?;
    if version < OLDEST_VERSION {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        let why = format!("CUDA: the driver is for CUDA {major}.{minor}; install one for 12.2 or newer");
        return Err(Error::unsupported(why));
    }
    // SAFETY: no flags; may be called any number of times.
    match unsafe { (driver.cuInit)(0) } {
        NO_DEVICE => Err(Error::unsupported("CUDA: there is a driver, but no GPU that it may use")),
        result => driver.check("CUDA", "cuInit", result).map(|()| driver),
    }
}

impl Driver {
    /// An error of `function` in words: on which device (`whose`), and what the driver calls it.
    pub(super) fn check(&self, whose: &str, function: &str, result: u32) -> Result<()> {
        match result {
            SUCCESS => Ok(()),
            UNSUPPORTED_PTX => Err(Error::unsupported(format!(
                "{whose}: {function}: {}; install a driver for CUDA 12.2 or newer",
                self.words(result)
            ))),
            result => Err(Error::refused_by_system(format!("{whose}: {function}"), self.words(result), 0)),
        }
    }

    /// As in `CUDA_ERROR_OUT_OF_MEMORY (out of memory)`.
    fn words(&self, result: u32) -> String {
        let text = |function: unsafe extern "C" fn(u32, *mut *const c_char) -> u32| {
            let mut text = std::ptr::null();
            // SAFETY: it writes one pointer: to a text that lives as long as the driver, or null.
            unsafe {
                let is_known = function(result, &mut text) == SUCCESS && !text.is_null();
                is_known.then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        let name = text(self.cuGetErrorName).unwrap_or_else(|| format!("CUDA error {result}"));
        text(self.cuGetErrorString).map_or(name.clone(), |meaning| format!("{name} ({meaning})"))
    }
}
