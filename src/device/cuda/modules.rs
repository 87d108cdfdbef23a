//! The kernels: PTX that is part of this library, one module for each element type, compiled by the driver for its GPU when a
//! type is first used (the driver remembers, in `~/.nv`).

use super::context::{Context, Entered};
use super::reduction::Kernel;
use crate::error::{Error, Result};
use cudarc::driver::sys::{CUfunction, CUmodule};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex, PoisonError};

macro_rules! modules {
    ($($name:literal)*) => {
        [$(($name, concat!(include_str!(concat!("../../../kernels/ptx/", $name, ".ptx")), "\0"))),*]
    };
}

/// Names and sources, with the zero that ends a text for the driver.
const MODULES: [(&str, &str); 13] =
    modules!["i8" "u8" "i32" "u32" "i64" "u64" "f16" "bf16" "f32" "f64" "f8e4m3" "f8e5m2" "copy"];

/// The kernels of one context.
pub(super) struct Modules {
    context: Arc<Context>,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, CUmodule>,
    functions: HashMap<Kernel, CUfunction>,
}

// SAFETY: handles that every thread may use while their context is current.
unsafe impl Send for Loaded {}

impl Modules {
    pub(super) fn new(context: Arc<Context>) -> Modules {
        Modules { context, loaded: Mutex::default() }
    }

    /// The kernel, compiled if it is the first of its module. Good as long as `self` lives.
    pub(super) fn function(&self, entered: &Entered, kernel: Kernel) -> Result<CUfunction> {
        // What is in there is whole, whoever panicked.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&function) = loaded.functions.get(&kernel) {
            return Ok(function);
        }
        let name = kernel.module();
        let module = match loaded.modules.get(name) {
            Some(&module) => module,
            None => {
                let module = entered.load(source(name)?)?;
                loaded.modules.insert(name, module);
                module
            }
        };
        let entry = CString::new(kernel.entry()).map_err(|_| Error::invalid("a kernel's name"))?;
        // SAFETY: modules are unloaded when `self` is dropped.
        let function = unsafe { entered.function(module, &entry)? };
        loaded.functions.insert(kernel, function);
        Ok(function)
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        for &module in loaded.modules.values() {
            // SAFETY: from `load`, once. Queues, which hold `self`, have drained.
            self.context.give_back(|entered| unsafe { entered.unload(module) });
        }
    }
}

fn source(name: &str) -> Result<&'static CStr> {
    let found = MODULES.iter().find(|(known, _)| *known == name);
    let text = found.and_then(|(_, text)| CStr::from_bytes_with_nul(text.as_bytes()).ok());
    text.ok_or_else(|| Error::unsupported(format!("CUDA: no kernels for {name}")))
}
