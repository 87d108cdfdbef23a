//! Looks at the machine: which host this process is on, in the sense that matters, and how many CPUs it may use.
//!
//! Two processes are on one host when they can pass file descriptors to each other over an abstract Unix socket and may
//! map what they get. That takes one kernel (the boot id), one network namespace (abstract sockets do not cross it)
//! and one user. `ROUNDEL_HOST_ID` overrides it all: the same text means the same host.
#![forbid(unsafe_code)]

use super::{HostId, Place};
use crate::error::{Error, Result};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

/// Where this process is.
pub fn place() -> Result<Place> {
    Ok(Place {
        host: host_id(&|name| std::env::var(name).ok())?,
        pid: std::process::id(),
        process: process_id()?,
        cpu_count: cpu_count(),
    })
}

/// The host of this process.
pub fn host_id(env: &dyn Fn(&str) -> Option<String>) -> Result<HostId> {
    if let Some(id) = env("ROUNDEL_HOST_ID") {
        return match id.trim() {
            "" => Err(Error::invalid("ROUNDEL_HOST_ID is empty; unset it or give each host its own name")),
            id if id.len() > 256 => Err(Error::invalid("ROUNDEL_HOST_ID is longer than 256 bytes")),
            id => Ok(HostId(id.to_string())),
        };
    }
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    const NETWORK: &str = "/proc/self/ns/net";
    let unreadable = |path: &str, error| Error::system(format!("reading {path}; set ROUNDEL_HOST_ID instead"), error);
    let boot_id = fs::read_to_string(BOOT_ID).map_err(|error| unreadable(BOOT_ID, error))?;
    let network = fs::metadata(NETWORK).map_err(|error| unreadable(NETWORK, error))?.ino();
    Ok(HostId(format!("{}/net:{network}/uid:{}", boot_id.trim(), nix::unistd::geteuid())))
}

/// A random number that this process drew, and that its forks do not keep: process ids repeat between containers.
pub fn process_id() -> Result<u64> {
    static DRAWN: Mutex<Option<(u32, u64)>> = Mutex::new(None);
    let pid = std::process::id();
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    match *drawn {
        Some((owner, id)) if owner == pid => Ok(id),
        _ => {
            let id = getrandom::u64()
                .map_err(|error| Error::system("drawing a process id", std::io::Error::other(error.to_string())))?;
            *drawn = Some((pid, id));
            Ok(id)
        }
    }
}

/// Logical CPUs that this process may use: its affinity mask and its control group's quota are respected.
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_is_at_one_place() {
        let here = place().unwrap();
        assert_eq!(here, std::thread::spawn(|| place().unwrap()).join().unwrap());
        assert!(here.cpu_count >= 1 && !here.host.0.is_empty());
    }

    #[test]
    fn the_override_is_taken_as_it_is_and_nonsense_refused() {
        let of = |value: &str| host_id(&|name| (name == "ROUNDEL_HOST_ID").then(|| value.to_string()));
        assert_eq!(of(" rack7 ").unwrap(), HostId("rack7".into()));
        assert!(of("  ").unwrap_err().to_string().contains("ROUNDEL_HOST_ID"));
        assert!(of(&"x".repeat(300)).is_err());
        assert!(host_id(&|_| None).unwrap().0.contains("/net:"));
    }
}
