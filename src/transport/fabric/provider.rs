//! Which of libfabric's providers to use.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// Providers that drive hardware made for this, best first: what `auto` uses between hosts.
pub const HARDWARE: [&str; 2] = ["efa", "verbs;ofi_rxm"];

/// Those that stand on sockets: for trying things out, and slower than our own TCP. Only when asked for. `net` is what `tcp`
/// is from version 2 on. `tcp;ofi_rxm` comes last: where a connection ends in the middle of a write, because its writer has
/// died or this side closes, it follows the null pointer that such a write has for a context, and takes the process with it.
pub const SOFTWARE: [&str; 3] = ["net", "tcp", "tcp;ofi_rxm"];

/// Memory of one host. Only when asked for by name.
pub const SHARED_MEMORY: &str = "shm";

/// Where the kernel lists RDMA devices, those of EFA included.
const DEVICES: &str = "/sys/class/infiniband";

/// The providers to try, in order, for who wants libfabric by all means.
pub fn preference(wish: Option<&str>) -> Result<Vec<String>> {
    match wish {
        None => Ok(HARDWARE.iter().chain(&SOFTWARE).map(|name| name.to_string()).collect()),
        Some(name) => check(name).map(|()| vec![name.to_string()]),
    }
}

/// The providers to try for who wants libfabric only where it drives hardware; none where there is no such device, so
/// that other machines do not even load the library.
pub fn hardware(wish: Option<&str>) -> Result<Vec<String>> {
    if let Some(name) = wish {
        check(name)?;
    }
    let has_device = std::fs::read_dir(DEVICES).is_ok_and(|mut devices| devices.next().is_some());
    let wanted = HARDWARE.iter().filter(|name| has_device && wish.is_none_or(|wish| wish == **name));
    Ok(wanted.map(|name| name.to_string()).collect())
}

/// Names go to libfabric as they are; what cannot be one is refused here.
fn check(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_;-".contains(c);
    if !name.is_empty() && name.len() <= 64 && name.chars().all(fits) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "ROUNDEL_FABRIC_PROVIDER={name:?}: it is the name of a provider of libfabric, such as efa, verbs;ofi_rxm, \
         tcp;ofi_rxm, net or shm"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_comes_first_and_memory_only_by_name() {
        let all = preference(None).unwrap();
        assert_eq!(all, ["efa", "verbs;ofi_rxm", "net", "tcp", "tcp;ofi_rxm"]);
        assert_eq!(preference(Some(SHARED_MEMORY)).unwrap(), ["shm"]);
    }

    #[test]
    fn auto_never_takes_what_stands_on_sockets() {
        assert!(hardware(Some("tcp;ofi_rxm")).unwrap().is_empty());
        assert!(hardware(None).unwrap().iter().all(|name| HARDWARE.contains(&name.as_str())));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", "tcp ofi", "net\0", &"x".repeat(65)] {
            assert!(preference(Some(name)).unwrap_err().to_string().contains("ROUNDEL_FABRIC_PROVIDER"));
            assert!(hardware(Some(name)).is_err());
        }
    }
}
