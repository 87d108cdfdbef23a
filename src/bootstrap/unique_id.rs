//! A job's name, address and secret in 128 bytes: made in one process, handed to all ranks by whatever way there is.
//!
//! ```text
//!   0         8         9        10      12      16     32       64    80         120       128
//!   "ROUNDEL\0" version  family   port    scope   IP     secret   job   zeros      checksum
//!   8           1        1        2       4       16     32       16    40         8           (numbers little-endian)
//! ```
//!
//! Whoever reads it can join the job. Pass it as you would pass a password: a file of mode 0600, an environment variable,
//! a pipe; not a command line.
#![forbid(unsafe_code)]

use super::address;
use super::digest::digest;
use super::root;
use crate::error::{Error, Result};
use crate::transport::tcp::{PortRange, Secret, interface};
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

const MAGIC: &[u8; 8] = b"ROUNDEL\0";
const VERSION: u8 = 1;
const CHECKSUM_AT: usize = UniqueId::LEN_BYTES - 8;

/// What all ranks of a job must know to find one another.
///
/// ```no_run
/// # use roundel::bootstrap::UniqueId;
/// let id = UniqueId::new()?;
/// std::process::Command::new("worker").env("ROUNDEL_UNIQUE_ID", id.to_string()).spawn().unwrap();
/// # Ok::<(), roundel::Error>(())
/// ```
#[derive(Clone)]
pub struct UniqueId {
    address: SocketAddr,
    secret: Secret,
    job: [u8; 16],
}

impl UniqueId {
    /// Bytes of an id, the same as `ncclUniqueId`.
    pub const LEN_BYTES: usize = 128;

    /// Opens a job: the root service starts in this process, on the interface that `ROUNDEL_IFACE` names or on the first
    /// that leads somewhere, at a port of `ROUNDEL_PORT_RANGE` or at any. The process should live as long as the job does;
    /// usually it is rank 0's. An id serves one job.
    pub fn new() -> Result<UniqueId> {
        UniqueId::listen(std::env::var("ROUNDEL_IFACE").ok().as_deref(), UniqueId::ports()?)
    }

    /// The same on the interface (name, address or subnet) given.
    pub fn with_interface(interface: &str) -> Result<UniqueId> {
        UniqueId::listen(Some(interface), UniqueId::ports()?)
    }

    fn ports() -> Result<Option<PortRange>> {
        address::port_range(&|name| std::env::var(name).ok())
    }

    /// The same on this interface, at one of these ports.
    pub(super) fn listen(interface: Option<&str>, ports: Option<PortRange>) -> Result<UniqueId> {
        let listener = interface::listen(interface::resolve(interface)?, ports)?;
        let address = listener.local_addr().map_err(|error| Error::system("asking for the root's address", error))?;
        let secret = Secret::random()?;
        let mut job = [0; 16];
        job.copy_from_slice(&digest("roundel job", &[secret.as_bytes()])[..16]);
        root::start(vec![listener], &secret, job, None)?;
        Ok(UniqueId { address, secret, job })
    }

    /// The id as it travels.
    pub fn to_bytes(&self) -> [u8; UniqueId::LEN_BYTES] {
        let mut bytes = [0; UniqueId::LEN_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = VERSION;
        bytes[10..12].copy_from_slice(&self.address.port().to_le_bytes());
        match self.address {
            SocketAddr::V4(v4) => {
                bytes[9] = 4;
                bytes[16..20].copy_from_slice(&v4.ip().octets());
            }
            SocketAddr::V6(v6) => {
                bytes[9] = 6;
                bytes[12..16].copy_from_slice(&v6.scope_id().to_le_bytes());
                bytes[16..32].copy_from_slice(&v6.ip().octets());
            }
        }
        bytes[32..64].copy_from_slice(self.secret.as_bytes());
        bytes[64..80].copy_from_slice(&self.job);
        let checksum = checksum(&bytes);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum);
        bytes
    }

    /// Reads what [`UniqueId::to_bytes`] wrote; an error when it was damaged on the way or is something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<UniqueId> {
        let refused = |why: &str| Error::invalid(format!("not a Roundel unique id: {why}"));
        let bytes: &[u8; UniqueId::LEN_BYTES] =
            bytes.try_into().map_err(|_| refused(&format!("{} bytes instead of 128", bytes.len())))?;
        if &bytes[..8] != MAGIC {
            return Err(refused("it does not begin like one"));
        }
        if bytes[8] != VERSION {
            return Err(refused(&format!("version {} of the format, this library reads {VERSION}", bytes[8])));
        }
        if checksum(bytes) != bytes[CHECKSUM_AT..] {
            return Err(refused("damaged on its way (the checksum differs)"));
        }
        let port = u16::from_le_bytes(field(bytes, 10));
        let scope_id = u32::from_le_bytes(field(bytes, 12));
        let address = match bytes[9] {
            4 => SocketAddr::new(IpAddr::V4(Ipv4Addr::from(field::<4>(bytes, 16))), port),
            6 => SocketAddrV6::new(Ipv6Addr::from(field::<16>(bytes, 16)), port, 0, scope_id).into(),
            family => return Err(refused(&format!("address family {family}"))),
        };
        let id = UniqueId { address, secret: Secret::from_bytes(field(bytes, 32)), job: field(bytes, 64) };
        if port == 0 || address.ip().is_unspecified() || id.to_bytes() != *bytes {
            return Err(refused("its address makes no sense"));
        }
        Ok(id)
    }

    /// Where the root service listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(super) fn job(&self) -> [u8; 16] {
        self.job
    }
}

fn field<const N: usize>(bytes: &[u8; UniqueId::LEN_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

fn checksum(bytes: &[u8; UniqueId::LEN_BYTES]) -> [u8; 8] {
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&digest("roundel unique id", &[&bytes[..CHECKSUM_AT]])[..8]);
    checksum
}

/// 256 hexadecimal digits, the secret among them.
impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = String::with_capacity(2 * UniqueId::LEN_BYTES);
        for byte in self.to_bytes() {
            write!(digits, "{byte:02x}")?;
        }
        f.pad(&digits)
    }
}

impl FromStr for UniqueId {
    type Err = Error;

    fn from_str(text: &str) -> Result<UniqueId> {
        let bytes = from_hex(text.trim())
            .ok_or_else(|| Error::invalid("not a Roundel unique id: it is written as 256 hexadecimal digits"))?;
        UniqueId::from_bytes(&bytes)
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UniqueId({}, secret ..)", self.address)
    }
}

/// The bytes that pairs of hexadecimal digits spell.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// An id of these bytes, with the checksum that fits, if they make sense otherwise.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn sealed(mut bytes: [u8; UniqueId::LEN_BYTES]) -> Result<UniqueId> {
    let checksum = checksum(&bytes);
    bytes[CHECKSUM_AT..].copy_from_slice(&checksum);
    UniqueId::from_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(address: &str) -> UniqueId {
        UniqueId { address: address.parse().unwrap(), secret: Secret::from_bytes([0xab; 32]), job: [7; 16] }
    }

    #[test]
    fn bytes_and_hex_carry_it_all() {
        for address in ["10.1.2.3:20000", "[fd00::1]:65535", "[fe80::1%3]:1"] {
            let id = id(address);
            let back: UniqueId = format!(" {id}\n").parse().unwrap();
            assert_eq!(back.to_bytes(), id.to_bytes());
            assert_eq!(back.address(), id.address());
            assert_eq!(back.secret().as_bytes(), id.secret().as_bytes());
        }
    }

    #[test]
    fn debug_keeps_the_secret() {
        let shown = format!("{:?}", id("10.1.2.3:20000"));
        assert_eq!(shown, "UniqueId(10.1.2.3:20000, secret ..)");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = id("10.1.2.3:20000").to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(UniqueId::from_bytes(&damaged).is_err(), "bit {bit}");
        }
        assert!(UniqueId::from_bytes(&bytes[..127]).unwrap_err().to_string().contains("127 bytes"));
        assert!("zz".parse::<UniqueId>().is_err());
        assert!(UniqueId::from_bytes(&id("0.0.0.0:5").to_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 128..=128),
                                              honest_bytes in 0usize..13, text in ".{0,40}") {
            bytes[..honest_bytes].copy_from_slice(&id("10.1.2.3:20000").to_bytes()[..honest_bytes]);
            let sealed = checksum(bytes.as_slice().try_into().unwrap());
            bytes[CHECKSUM_AT..].copy_from_slice(&sealed);
            if let Ok(id) = UniqueId::from_bytes(&bytes) {
                prop_assert_eq!(&id.to_bytes()[..], &bytes[..]);
            }
            let _ = text.parse::<UniqueId>();
        }
    }
}
