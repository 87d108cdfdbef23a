//! Which address a rank listens on, and at which ports: `ROUNDEL_IFACE` and `ROUNDEL_PORT_RANGE`.
//!
//! A rank never listens on all interfaces: a training job has no business on the network where people log in. It takes
//! the interface it is told, and otherwise the first one that leads somewhere:
//!
//! ```text
//!   "eth0"          an interface: its first IPv4 address, else its first IPv6 address that is not link-local
//!   "10.1.2.3"      an address of this host
//!   "10.0.0.0/8"    the first address of this host in that subnet: one setting fits all hosts of a cluster
//!   nothing         the first interface that is up and not loopback; else loopback
//! ```
//!
//! Several of these with commas between them are rails, for data: see [`super::rails`]. Everything else happens on the first.
#![forbid(unsafe_code)]

use super::hello::MAX_RAILS;
use crate::error::{Error, Result};
use nix::net::if_::InterfaceFlags;
use socket2::{Domain, Protocol, Socket, Type};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Connections that may wait for `accept`: all ranks of a large world may call at the same moment.
const BACKLOG: i32 = 1024;

/// An address of this host, and where it sits.
#[derive(Debug, Clone)]
struct Local {
    interface: String,
    address: IpAddr,
    is_up: bool,
}

/// The address to listen on, from what `ROUNDEL_IFACE` says (see the top of this file). The first, where it says several.
pub fn resolve(spec: Option<&str>) -> Result<IpAddr> {
    resolve_all(spec).map(|addresses| addresses[0])
}

/// All of them, in order; at least one.
pub fn resolve_all(spec: Option<&str>) -> Result<Vec<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs().map_err(|errno| Error::system("listing network interfaces", errno))?;
    let locals: Vec<Local> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            let address = v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))?;
            let is_up = interface.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING);
            Some(Local { interface: interface.interface_name, address, is_up })
        })
        .collect();
    match spec.map(str::trim).filter(|spec| !spec.is_empty()) {
        None => Ok(vec![choose(&locals)]),
        Some(spec) => find_all(spec, &locals),
    }
}

fn find_all(specs: &str, locals: &[Local]) -> Result<Vec<IpAddr>> {
    let addresses = specs.split(',').map(|spec| find(spec.trim(), locals)).collect::<Result<Vec<_>>>()?;
    if addresses.len() > MAX_RAILS {
        return Err(Error::invalid(format!("ROUNDEL_IFACE={specs}: at most {MAX_RAILS} interfaces")));
    }
    let is_twin = |(index, address): (usize, &IpAddr)| addresses[..index].contains(address).then_some(*address);
    match addresses.iter().enumerate().find_map(is_twin) {
        Some(twin) => Err(Error::invalid(format!("ROUNDEL_IFACE={specs}: {twin} is named twice"))),
        None => Ok(addresses),
    }
}

/// The first address in order of preference: IPv4, then IPv6 that can be reached without naming an interface.
fn prefer<'a>(locals: impl Iterator<Item = &'a Local> + Clone) -> Option<IpAddr> {
    let mut addresses = locals.map(|local| local.address).filter(|address| !is_link_local(*address));
    let mut again = addresses.clone();
    addresses.find(IpAddr::is_ipv4).or_else(|| again.next())
}

fn choose(locals: &[Local]) -> IpAddr {
    let up = locals.iter().filter(|local| local.is_up);
    prefer(up.clone().filter(|local| !local.address.is_loopback()))
        .or_else(|| prefer(up))
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn find(spec: &str, locals: &[Local]) -> Result<IpAddr> {
    let unusable = |why: &str| {
        let mut known: Vec<String> = locals.iter().map(|l| format!("{} {}", l.interface, l.address)).collect();
        known.dedup();
        Error::invalid(format!("ROUNDEL_IFACE={spec}: {why}; this host has {}", known.join(", ")))
    };
    if let Some((network, prefix_bits)) = spec.split_once('/') {
        let subnet = Subnet::new(network, prefix_bits).ok_or_else(|| unusable("not a subnet such as 10.0.0.0/8"))?;
        let inside = locals.iter().filter(|local| local.is_up && subnet.contains(local.address));
        return prefer(inside).ok_or_else(|| unusable("no usable address in that subnet"));
    }
    let (unscoped, scope) = spec.split_once('%').map_or((spec, None), |(address, scope)| (address, Some(scope)));
    if let Ok(address) = unscoped.parse::<IpAddr>() {
        if address.is_unspecified() {
            return Err(unusable("Roundel does not listen on all interfaces; name one"));
        }
        if is_link_local(address) || scope.is_some() {
            return Err(unusable("a link-local address means nothing to another host; name another one"));
        }
        let is_ours = matches!(address, IpAddr::V4(v4) if v4.is_loopback());
        if !is_ours && !locals.iter().any(|local| local.address == address) {
            return Err(unusable("not an address of this host"));
        }
        return Ok(address);
    }
    let of_interface = locals.iter().filter(|local| local.interface == spec);
    let Some(first) = of_interface.clone().next() else {
        return Err(unusable("no interface of that name has an address"));
    };
    if !first.is_up {
        return Err(unusable("that interface is down"));
    }
    prefer(of_interface).ok_or_else(|| unusable("that interface has only link-local addresses"))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// All addresses that begin with the same bits.
enum Subnet {
    V4 { network: u32, mask: u32 },
    V6 { network: u128, mask: u128 },
}

impl Subnet {
    fn new(network: &str, prefix_bits: &str) -> Option<Subnet> {
        let prefix_bits: u32 = prefix_bits.parse().ok()?;
        match network.parse().ok()? {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(u32::BITS.checked_sub(prefix_bits)?).unwrap_or(0);
                Some(Subnet::V4 { network: v4.to_bits() & mask, mask })
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(u128::BITS.checked_sub(prefix_bits)?).unwrap_or(0);
                Some(Subnet::V6 { network: v6.to_bits() & mask, mask })
            }
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Subnet::V4 { network, mask }, IpAddr::V4(v4)) => v4.to_bits() & mask == *network,
            (Subnet::V6 { network, mask }, IpAddr::V6(v6)) => Ipv6Addr::to_bits(v6) & mask == *network,
            _ => false,
        }
    }
}

/// The ports that a firewall lets through, ends included: `20000-20100`, or one alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Its ports, in order.
    pub fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl FromStr for PortRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<PortRange> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(PortRange { first, last }),
            _ => Err(Error::invalid(format!("\"{text}\" is no range of ports; write it as 20000-20100"))),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Listens on `address` at the first free port of the range, or at any free one where none is given.
pub fn listen(address: IpAddr, ports: Option<PortRange>) -> Result<TcpListener> {
    if address.is_unspecified() {
        return Err(Error::invalid(format!("{address} would listen on all interfaces; name one")));
    }
    let mut occupied = None;
    for port in ports.map_or(0..=0, |ports| ports.first..=ports.last) {
        match listen_at(SocketAddr::new(address, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => occupied = Some(error),
            Err(error) => return Err(Error::system(format!("listening on {address} port {port}"), error)),
        }
    }
    let where_to = ports.map_or("any port".to_string(), |ports| format!("any port of {ports}"));
    Err(Error::system(
        format!("listening on {address}, {where_to} (widen ROUNDEL_PORT_RANGE, or end what holds them)"),
        occupied.expect("a range has at least one port"),
    ))
}

fn listen_at(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port of the range is free again as soon as its last listener is gone, whatever its old connections do.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<Local> {
        let local = |interface: &str, address: &str, is_up| Local {
            interface: interface.into(),
            address: address.parse().unwrap(),
            is_up,
        };
        vec![
            local("lo", "127.0.0.1", true),
            local("eth9", "192.168.7.7", false),
            local("ib0", "fe80::2", true),
            local("eth0", "10.1.2.3", true),
            local("lo", "::1", true),
            local("ib0", "fd00:1::2", true),
            local("eth0", "fe80::1", true),
            local("wifi", "fe80::3", true),
        ]
    }

    fn found(spec: &str) -> std::result::Result<String, String> {
        find(spec, &host()).map(|address| address.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn interfaces_addresses_and_subnets_are_understood() {
        for (spec, address) in [
            ("eth0", "10.1.2.3"),
            ("ib0", "fd00:1::2"),
            ("lo", "127.0.0.1"),
            ("10.1.2.3", "10.1.2.3"),
            ("127.0.0.2", "127.0.0.2"),
            ("::1", "::1"),
            ("10.0.0.0/8", "10.1.2.3"),
            ("fd00::/8", "fd00:1::2"),
            ("0.0.0.0/0", "127.0.0.1"),
            ("10.1.2.3/32", "10.1.2.3"),
        ] {
            assert_eq!(found(spec), Ok(address.into()), "{spec}");
        }
    }

    #[test]
    fn several_are_rails_in_the_order_given() {
        let found = |specs| find_all(specs, &host()).map_err(|error| error.to_string());
        let addresses = found("eth0, fd00::/8,127.0.0.2").unwrap();
        assert_eq!(addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>(), ["10.1.2.3", "fd00:1::2", "127.0.0.2"]);
        let many: Vec<String> = (2..11).map(|last| format!("127.0.0.{last}")).collect();
        for (specs, reason) in [
            ("eth0,eth1", "no interface of that name"),
            ("eth0,", "no interface of that name"),
            ("eth0,10.0.0.0/8", "10.1.2.3 is named twice"),
            (&many.join(","), "at most 8"),
        ] {
            assert!(found(specs).unwrap_err().contains(reason), "{specs}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_reason_and_the_choices() {
        for (spec, reason) in [
            ("eth1", "no interface of that name"),
            ("eth9", "is down"),
            ("wifi", "only link-local"),
            ("10.9.9.9", "not an address of this host"),
            ("0.0.0.0", "does not listen on all interfaces"),
            ("::", "does not listen on all interfaces"),
            ("fe80::1", "link-local"),
            ("fe80::1%eth0", "link-local"),
            ("172.16.0.0/12", "no usable address in that subnet"),
            ("192.168.0.0/16", "no usable address in that subnet"),
            ("fe80::/10", "no usable address in that subnet"),
            ("10.0.0.0/33", "not a subnet"),
            ("10.0.0.0/x", "not a subnet"),
            ("eth0/8", "not a subnet"),
        ] {
            let message = found(spec).unwrap_err();
            assert!(message.contains(reason) && message.contains("eth0 10.1.2.3"), "{spec}: {message}");
        }
    }

    #[test]
    fn left_alone_it_takes_the_first_that_leads_somewhere() {
        let mut host = host();
        assert_eq!(choose(&host).to_string(), "10.1.2.3");
        host.retain(|local| local.interface != "eth0");
        assert_eq!(choose(&host).to_string(), "fd00:1::2");
        host.retain(|local| local.interface != "ib0");
        assert_eq!(choose(&host).to_string(), "127.0.0.1");
        assert_eq!(choose(&[]).to_string(), "127.0.0.1");
    }

    #[test]
    fn this_host_has_a_loopback_and_no_interface_called_nonsense() {
        assert!(resolve(Some("lo")).unwrap().is_loopback());
        assert!(resolve(Some("nonsense")).unwrap_err().to_string().contains("ROUNDEL_IFACE=nonsense"));
        assert!(!resolve(None).unwrap().is_unspecified());
        assert_eq!(resolve(Some(" ")), resolve(None));
    }

    #[test]
    fn port_ranges_parse_or_say_how_to_write_them() {
        assert_eq!("20000-20100".parse::<PortRange>().unwrap().to_string(), "20000-20100");
        assert_eq!("7".parse(), Ok(PortRange { first: 7, last: 7 }));
        for text in ["", "-", "0-5", "9-3", "1-65536", "a-b", "1-2-3"] {
            assert!(text.parse::<PortRange>().unwrap_err().to_string().contains("20000-20100"), "{text}");
        }
    }

    #[test]
    fn an_occupied_range_is_an_error_that_names_it_and_a_free_port_in_it_is_found() {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let holder = listen(address, None).unwrap();
        let port = holder.local_addr().unwrap().port();
        let refused = listen(address, Some(PortRange { first: port, last: port })).unwrap_err().to_string();
        assert!(refused.contains(&format!("{port}-{port}")) && refused.contains("ROUNDEL_PORT_RANGE"), "{refused}");
        // Everything above this port cannot all be occupied.
        let listener = listen(address, Some(PortRange { first: port, last: u16::MAX })).unwrap();
        assert!(listener.local_addr().unwrap().port() > port);
    }

    #[test]
    fn it_never_listens_on_all_interfaces_and_says_when_an_address_is_not_ours() {
        assert!(listen("0.0.0.0".parse().unwrap(), None).is_err());
        assert!(listen("::".parse().unwrap(), None).is_err());
        let foreign = listen("198.51.100.1".parse().unwrap(), None).unwrap_err().to_string();
        assert!(foreign.contains("198.51.100.1"), "{foreign}");
    }
}
