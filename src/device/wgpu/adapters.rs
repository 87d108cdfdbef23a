//! Which adapters there are, and which one a selector means.
#![forbid(unsafe_code)]

use super::WgpuDevice;
use super::gpu::Gpu;
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// An adapter of this machine.
///
/// ```no_run
/// for adapter in roundel::device::wgpu::adapters() {
///     println!("{adapter}");
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Its number, as [`WgpuDevice::open`] takes it.
    pub index: usize,
    /// What its driver calls it.
    pub name: String,
    /// The interface it is reached by, as in `vulkan`.
    pub backend: String,
    /// Whether it is the processor in disguise.
    pub is_software: bool,
}

impl std::fmt::Display for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let software = if self.is_software { ", software" } else { "" };
        write!(f, "{}: {} ({}{software})", self.index, self.name, self.backend)
    }
}

/// All adapters that the installed drivers show; none where there is no driver. The numbers stay the same while the process
/// runs. Asks the drivers when first called, which takes milliseconds.
///
/// ```no_run
/// use roundel::device::wgpu::{WgpuDevice, adapters};
/// let hardware = adapters().iter().find(|adapter| !adapter.is_software).map(|adapter| adapter.index.to_string());
/// let device = WgpuDevice::open(&hardware.unwrap_or("llvmpipe".into()))?;
/// # Ok::<(), roundel::Error>(())
/// ```
pub fn adapters() -> Vec<Adapter> {
    found().iter().map(|(adapter, _)| adapter.clone()).collect()
}

/// The adapters with their handles, looked for once.
fn found() -> &'static [(Adapter, wgpu::Adapter)] {
    static FOUND: OnceLock<Vec<(Adapter, wgpu::Adapter)>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::all();
        let instance = wgpu::Instance::new(descriptor);
        let handles = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
        let describe = |(index, handle): (usize, wgpu::Adapter)| {
            let info = handle.get_info();
            let is_software = info.device_type == wgpu::DeviceType::Cpu;
            (Adapter { index, name: info.name, backend: info.backend.to_string(), is_software }, handle)
        };
        handles.into_iter().enumerate().map(describe).collect()
    })
}

/// Those that are open, so that all ranks of a process share them.
static OPEN: Mutex<Vec<(usize, Weak<Gpu>)>> = Mutex::new(Vec::new());

/// See [`WgpuDevice::open`].
pub(super) fn open(selector: &str) -> Result<Arc<WgpuDevice>> {
    let chosen = select(selector, &adapters())?;
    let mut open = OPEN.lock().unwrap_or_else(|e| e.into_inner());
    open.retain(|(_, gpu)| gpu.strong_count() > 0);
    let known = open.iter().find(|(index, _)| *index == chosen).and_then(|(_, gpu)| gpu.upgrade());
    let gpu = match known {
        Some(gpu) => gpu,
        None => {
            let gpu = Arc::new(start(chosen)?);
            open.push((chosen, Arc::downgrade(&gpu)));
            gpu
        }
    };
    Ok(Arc::new(WgpuDevice { gpu }))
}

/// The number of the adapter that is meant.
fn select(selector: &str, adapters: &[Adapter]) -> Result<usize> {
    let wanted = selector.trim().to_lowercase();
    let found = match wanted.parse::<usize>() {
        _ if wanted.is_empty() => adapters.iter().find(|adapter| !adapter.is_software),
        Ok(index) => adapters.iter().find(|adapter| adapter.index == index),
        Err(_) => adapters.iter().find(|adapter| adapter.name.to_lowercase().contains(&wanted)),
    };
    found.map(|adapter| adapter.index).ok_or_else(|| {
        let all: Vec<String> = adapters.iter().map(Adapter::to_string).collect();
        let all =
            if all.is_empty() { "no adapter at all: is a Vulkan driver installed?".into() } else { all.join("; ") };
        let wanted = if wanted.is_empty() { "hardware adapter".into() } else { format!("adapter '{selector}'") };
        Error::unsupported(format!("no {wanted} for wgpu; there is {all}; software adapters are used when named"))
    })
}

/// Domains of wgpu devices are counted down from here; the last number is that of `emulated`.
const LAST_DOMAIN: usize = 30;
/// How many of them there are.
const DOMAINS: usize = 16;

/// Opens an adapter, whether or not somebody else has.
pub(super) fn start(index: usize) -> Result<Gpu> {
    let (adapter, handle) = &found()[index];
    let unsupported =
        |why: String| Error::unsupported(format!("wgpu adapter {adapter}: {why}; use the CPU, or another one"));
    if index >= DOMAINS {
        return Err(unsupported(format!("only the first {DOMAINS} can be used")));
    }
    if !handle.features().contains(wgpu::Features::IMMEDIATES) {
        return Err(unsupported("it takes no immediate data".into()));
    }
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("roundel"),
        required_features: wgpu::Features::IMMEDIATES,
        required_limits: handle.limits(),
        ..Default::default()
    };
    let (device, queue) =
        pollster::block_on(handle.request_device(&descriptor)).map_err(|error| unsupported(error.to_string()))?;
    let gpu = Gpu::new(format!("wgpu:{index} ({})", adapter.name), (LAST_DOMAIN - index) as u8, device, queue);
    tracing::info!(device = gpu.name, backend = adapter.backend, limits = ?gpu.limits, "opened");
    Ok(gpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, name: &str, is_software: bool) -> Adapter {
        Adapter { index, name: name.into(), backend: "vulkan".into(), is_software }
    }

    #[test]
    fn software_only_when_named() {
        let adapters =
            [adapter(0, "llvmpipe (LLVM 15)", true), adapter(1, "Radeon 780M", false), adapter(2, "Arc", false)];
        assert_eq!(select("", &adapters), Ok(1));
        assert_eq!(select(" 2 ", &adapters), Ok(2));
        assert_eq!(select("radeon", &adapters), Ok(1));
        assert_eq!(select("LLVMpipe", &adapters), Ok(0));
        for (selector, adapters) in [("", &adapters[..1]), ("geforce", &adapters[..]), ("3", &adapters[..])] {
            let error = select(selector, adapters).unwrap_err().to_string();
            assert!(error.contains("llvmpipe (LLVM 15)"), "{error}");
        }
        assert!(select("", &[]).unwrap_err().to_string().contains("driver"));
    }
}
