//! Where the root is: exactly, or at one of a few ports that every rank derives from the name of the job.
//!
//! A launcher tells an address of rank 0's host but no free port on it: torchrun's own store keeps `MASTER_PORT`, and
//! Open MPI and Slurm name none. So the job's name is hashed to a row of candidates; rank 0 listens on the first that is
//! free, and the others knock at each until one proves to be of their job.
//!
//! ```text
//!   job "29500 run7" --hash--> 23117 27004 20931 ...          23117 is taken: rank 0 listens on 27004
//! ```
#![forbid(unsafe_code)]

use super::UniqueId;
use super::digest::digest;
use crate::error::{Error, Result};
use crate::transport::tcp::{PortRange, Secret, interface};
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};

/// How many ports are tried.
const CANDIDATE_COUNT: usize = 16;
/// Below the range from which systems take ports for outgoing connections.
const DEFAULT_PORTS: &str = "20000-29999";

/// Which root a rank joins.
#[derive(Debug, Clone)]
pub enum Root {
    /// The one that made this id.
    Id(UniqueId),
    /// The one that rank 0 opens when it joins.
    Address(RootAddr),
}

/// Where rank 0 opens the job, and how its ranks know one another.
#[derive(Debug, Clone)]
pub struct RootAddr {
    /// Names or addresses of rank 0's host, the likeliest first.
    pub hosts: Vec<String>,
    /// Ports at which the root may be.
    pub ports: Vec<u16>,
    /// What only ranks of this job know.
    pub secret: Secret,
    /// The job's name, the same on all ranks.
    pub job: String,
}

impl Root {
    pub(crate) fn secret(&self) -> &Secret {
        match self {
            Root::Id(id) => id.secret(),
            Root::Address(address) => &address.secret,
        }
    }

    pub(crate) fn job(&self) -> [u8; 16] {
        match self {
            Root::Id(id) => id.job(),
            Root::Address(address) => {
                let mut job = [0; 16];
                job.copy_from_slice(&digest("roundel named job", &[address.job.as_bytes()])[..16]);
                job
            }
        }
    }

    /// True when the job was told to stay on this host, so that loopback is where its data belong too.
    pub(super) fn is_loopback(&self) -> bool {
        match self {
            Root::Id(id) => id.address().ip().is_loopback(),
            Root::Address(address) => address.hosts.iter().all(|host| is_loopback_name(host)),
        }
    }

    /// Where to knock, in order. Names are looked up anew each time: some appear only when rank 0's host is up.
    pub(super) fn candidates(&self) -> Result<Vec<SocketAddr>> {
        match self {
            Root::Id(id) => Ok(vec![id.address()]),
            Root::Address(address) => {
                let hosts = address.resolve()?;
                let at = |port: &u16| hosts.iter().map(|ip| SocketAddr::new(*ip, *port)).collect::<Vec<_>>();
                Ok(address.ports.iter().flat_map(at).collect())
            }
        }
    }

    /// The root's place in words.
    pub(super) fn describe(&self) -> String {
        match self {
            Root::Id(id) => id.address().to_string(),
            Root::Address(address) => {
                let ports: Vec<String> = address.ports.iter().map(u16::to_string).collect();
                format!("{} (ports {})", address.hosts.join(" or "), ports.join(", "))
            }
        }
    }
}

impl RootAddr {
    fn resolve(&self) -> Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        let mut failure = None;
        for host in &self.hosts {
            let name = host.trim_start_matches('[').trim_end_matches(']');
            match (name, 0).to_socket_addrs() {
                Ok(addresses) => found.extend(addresses.map(|address| address.ip())),
                Err(error) => failure = Some(Error::system(format!("looking up {host}, the host of rank 0"), error)),
            }
        }
        let mut seen = std::collections::HashSet::new();
        found.retain(|ip: &IpAddr| !ip.is_unspecified() && seen.insert(*ip));
        match failure {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    /// Rank 0's side: listens at the first port that is free on all the addresses that the others may know, the one for
    /// its own data first.
    pub(super) fn listen(&self, interface: Option<&str>) -> Result<Vec<TcpListener>> {
        let mut addresses = self.resolve()?;
        let stays_here = self.hosts.iter().all(|host| is_loopback_name(host));
        // Debian resolves a host's own name to 127.0.1.1, which the other hosts cannot mean.
        if !stays_here && (interface.is_some() || addresses.iter().all(IpAddr::is_loopback)) {
            let chosen = interface::resolve(interface)?;
            addresses.retain(|address| *address != chosen);
            addresses.insert(0, chosen);
        }
        let mut occupied = None;
        'ports: for port in &self.ports {
            let one: PortRange = port.to_string().parse()?;
            let mut listeners = Vec::new();
            let mut foreign = Vec::new();
            for address in &addresses {
                match interface::listen(*address, Some(one)) {
                    Ok(listener) => listeners.push(listener),
                    // The second where this host has no IPv6 and the name has an IPv6 address.
                    Err(Error::System { errno: libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT, .. }) => {
                        foreign.push(*address)
                    }
                    Err(error @ Error::System { errno: libc::EADDRINUSE, .. }) => {
                        occupied = Some(error);
                        continue 'ports;
                    }
                    Err(error) => return Err(error),
                }
            }
            if !listeners.is_empty() {
                return Ok(listeners);
            }
            return Err(Error::bootstrap(format!(
                "rank 0 opens the job at {}, but none of its addresses ({foreign:?}) belongs to the host that rank 0 \
                 runs on; set ROUNDEL_MASTER_ADDR on all ranks to an address of rank 0's host",
                self.hosts.join(" or ")
            )));
        }
        Err(occupied.unwrap_or_else(|| Error::invalid("the root has no port to listen on; widen ROUNDEL_PORT_RANGE")))
    }
}

/// `ROUNDEL_PORT_RANGE`, if it is set.
pub(super) fn port_range(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<PortRange>> {
    let Some(text) = env("ROUNDEL_PORT_RANGE") else { return Ok(None) };
    let range = text.parse().map_err(|error: Error| Error::invalid(format!("ROUNDEL_PORT_RANGE: {error}")))?;
    Ok(Some(range))
}

/// The ports at which the root of `job` may be, the same for all its ranks. Never `taken`, which the launcher holds.
pub(super) fn candidate_ports(range: Option<PortRange>, job: &str, taken: Option<u16>) -> Vec<u16> {
    let range = range.unwrap_or_else(|| DEFAULT_PORTS.parse().expect("the default is well-formed")).ports();
    let mut free: Vec<u16> = range.filter(|port| Some(*port) != taken).collect();
    let mut chosen = Vec::new();
    for round in 0..CANDIDATE_COUNT.min(free.len()) {
        let hash = digest("roundel root port", &[job.as_bytes(), &[round as u8]]);
        let pick = u64::from_le_bytes(hash[..8].try_into().expect("8 of 32 bytes")) % free.len() as u64;
        chosen.push(free.swap_remove(pick as usize));
    }
    chosen
}

fn is_loopback_name(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hosts: &[&str], ports: Vec<u16>) -> RootAddr {
        let hosts = hosts.iter().map(|host| host.to_string()).collect();
        RootAddr { hosts, ports, secret: Secret::from_bytes([1; 32]), job: "test".into() }
    }

    #[test]
    fn candidates_are_distinct_inside_the_range_and_differ_between_jobs() {
        let range = "21000-21099".parse().unwrap();
        let mut ports = candidate_ports(Some(range), "a", None);
        assert_eq!(ports, candidate_ports(Some(range), "a", None));
        assert_ne!(ports, candidate_ports(Some(range), "b", None));
        assert!(ports.iter().all(|port| range.ports().contains(port)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), CANDIDATE_COUNT);

        let mut all = candidate_ports(Some("21000-21002".parse().unwrap()), "a", None);
        all.sort_unstable();
        assert_eq!(all, [21000, 21001, 21002], "a narrow range is used whole");
        assert!(candidate_ports(Some("21000".parse().unwrap()), "a", Some(21000)).is_empty());
        assert!(candidate_ports(None, "a", None).iter().all(|port| (20000..30000).contains(port)));
    }

    #[test]
    fn the_first_free_port_is_taken_and_a_full_row_is_an_error() {
        // Taken by the system: ports that nobody else uses while the test runs.
        let holders: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = holders.iter().map(|holder| holder.local_addr().unwrap().port()).collect();
        let root = at(&["127.0.0.1"], ports.clone());
        assert!(root.listen(None).unwrap_err().to_string().contains("ROUNDEL_PORT_RANGE"));

        let mut holders = holders;
        drop(holders.pop());
        let listeners = root.listen(None).unwrap();
        assert_eq!(listeners[0].local_addr().unwrap().port(), ports[2]);
    }

    #[test]
    fn an_address_of_another_host_is_an_error_that_says_what_to_set() {
        let error = at(&["192.0.2.1"], vec![20000]).listen(None).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1") && error.contains("ROUNDEL_MASTER_ADDR"), "{error}");
    }

    #[test]
    fn hosts_that_resolve_make_up_for_those_that_do_not() {
        let root = Root::Address(at(&["no-such-host.invalid", "127.0.0.1", "[::1]"], vec![5, 6]));
        let candidates: Vec<String> = root.candidates().unwrap().iter().map(SocketAddr::to_string).collect();
        assert_eq!(candidates, ["127.0.0.1:5", "[::1]:5", "127.0.0.1:6", "[::1]:6"]);
        let nowhere = Root::Address(at(&["no-such-host.invalid"], vec![5]));
        assert!(nowhere.candidates().unwrap_err().to_string().contains("no-such-host.invalid"));
        assert!(!nowhere.is_loopback() && Root::Address(at(&["localhost", "127.0.0.1"], vec![])).is_loopback());
    }
}
