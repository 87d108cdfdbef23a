//! Hosts on one machine: a network namespace for each, and cables to a switch that can be shaped and cut, one way or both:
//! [`Network`].
//!
//! The program runs itself once more in a mount and network namespace of its own ([`inside`]), so that nothing of it can be
//! seen or left behind on the machine, however it ends. In there is a switch (a bridge), and for each host a namespace with
//! a cable to it.
//!
//! ```text
//!   host0 veth0 ══ host0 ┐
//!   host1 veth0 ══ host1 ┼ switch         rate: a token bucket at either end of the cable
//!   host2 veth0 ══ host2 ┘
//! ```
//!
//! Each host may have several cables, every one to a switch and in a subnet of its own.
//!
//! One way is cut by sending a host's packets, or those to it, to a hardware address that nobody has: they are lost without
//! a word, and the other way stays as it was.
#![forbid(unsafe_code)]

use crate::launch;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::{Command, ExitCode, Stdio};

/// Set in the process that is in namespaces of its own.
const INSIDE: &str = "ROUNDEL_CLUSTER_INSIDE";
/// Nobody's.
const NOWHERE: &str = "02:00:00:00:00:01";

/// A host's number. Numbers are not used twice.
pub type Host = usize;

/// One of a host's cables, counted from 0.
pub type Cable = usize;

/// Cables that a host may have.
pub const MAX_CABLES: usize = 8;

/// Which way is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// What the host sends is lost.
    Out,
    /// What is sent to it is lost.
    In,
    /// The cable is pulled.
    Both,
}

/// Runs this program once more in namespaces of its own, and says how it ended; `None` in there.
pub fn inside() -> Result<Option<ExitCode>, String> {
    if std::env::var_os(INSIDE).is_some() {
        // All the way from `unshare` to here it is one process.
        return launch::die_with_parent().map(|()| None).map_err(|error| error.to_string());
    }
    let program = std::env::current_exe().map_err(|error| format!("finding this program's file: {error}"))?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net"]);
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    // Names of network namespaces are files in /run/netns.
    let script = "mount -t tmpfs none /run && mkdir /run/netns && ip link set lo up && exec \"$0\" \"$@\"";
    command.args(["sh", "-c", script]).arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    command.env(launch::PARENT, std::process::id().to_string());
    let status = command.status().map_err(|error| format!("unshare (util-linux): {error}"))?;
    Ok(Some(ExitCode::from(status.code().map_or(u8::MAX, |code| code as u8))))
}

/// The switches and the hosts at them.
pub struct Network {
    plugged: BTreeSet<Host>,
    cables: usize,
}

impl Network {
    /// Switches without anybody, for hosts with so many cables each.
    pub fn new(cables: usize) -> Result<Network, String> {
        for cable in 0..cables {
            let switch = switch(cable);
            // Left over from a network before.
            let _ = Command::new("ip").args(["link", "del", &switch]).stderr(Stdio::null()).status();
            ip(&format!("link add {switch} type bridge"))?;
            ip(&format!("link set {switch} up"))?;
        }
        Ok(Network { plugged: BTreeSet::new(), cables })
    }

    /// A host's address on a cable.
    pub fn address(&self, host: Host, cable: Cable) -> Ipv4Addr {
        // Never 0 or 255 at the end.
        Ipv4Addr::new(10, 77 + cable as u8, (host / 200) as u8, (host % 200) as u8 + 1)
    }

    /// All its addresses, as `ROUNDEL_IFACE` takes them.
    pub fn addresses(&self, host: Host) -> String {
        let addresses: Vec<String> = (0..self.cables).map(|cable| self.address(host, cable).to_string()).collect();
        addresses.join(",")
    }

    /// Makes a host; the words that start a program on it.
    pub fn plug(&mut self, host: Host) -> Result<Vec<String>, String> {
        let name = name(host);
        ip(&format!("netns add {name}"))?;
        self.plugged.insert(host);
        ip(&format!("-n {name} link set lo up"))?;
        for cable in 0..self.cables {
            let (plug, switch) = (plug(host, cable), switch(cable));
            ip(&format!("link add {plug} type veth peer name veth{cable} netns {name}"))?;
            ip(&format!("-n {name} addr add {}/16 dev veth{cable}", self.address(host, cable)))?;
            ip(&format!("-n {name} link set veth{cable} up"))?;
            ip(&format!("link set {plug} master {switch}"))?;
            ip(&format!("link set {plug} up"))?;
        }
        Ok(["ip", "netns", "exec", &name].map(String::from).to_vec())
    }

    /// Takes a host away.
    pub fn unplug(&mut self, host: Host) {
        if self.plugged.remove(&host) {
            let _ = ip(&format!("netns del {}", name(host)));
        }
    }

    /// From now on the cable carries so much each way (`1gbit`, as `tc` writes rates).
    pub fn shape(&self, host: Host, cable: Cable, rate: &str) -> Result<(), String> {
        // What the kernel hands over at once (64 KiB) passes as one; what waits longer than a switch would hold it is lost.
        let bucket = format!("root tbf rate {rate} burst 256kb latency 20ms");
        run("tc", &format!("qdisc replace dev {} {bucket}", plug(host, cable)))?;
        run("ip", &format!("netns exec {} tc qdisc replace dev veth{cable} {bucket}", name(host)))
    }

    /// The largest packet on the cable.
    pub fn set_mtu(&self, host: Host, cable: Cable, bytes: u16) -> Result<(), String> {
        ip(&format!("link set {} mtu {bytes}", plug(host, cable)))?;
        ip(&format!("-n {} link set veth{cable} mtu {bytes}", name(host)))
    }

    /// The host gets another address on the cable, one that no host has; the old one is gone.
    pub fn readdress(&self, host: Host, cable: Cable) -> Result<(), String> {
        let (name, old) = (name(host), self.address(host, cable));
        let [first, second, third, fourth] = old.octets();
        ip(&format!("-n {name} addr add {first}.{second}.{}.{fourth}/16 dev veth{cable}", 100 + third))?;
        ip(&format!("-n {name} addr del {old}/16 dev veth{cable}"))
    }

    /// Cuts a cable.
    pub fn cut(&self, host: Host, cable: Cable, how: Cut) -> Result<(), String> {
        match how {
            Cut::Out => self.others(host).try_for_each(|other| self.mislead(host, other, cable)),
            Cut::In => self.others(host).try_for_each(|other| self.mislead(other, host, cable)),
            Cut::Both => ip(&format!("link set {} down", plug(host, cable))),
        }
    }

    /// Mends what [`Network::cut`] cut.
    pub fn mend(&self, host: Host, cable: Cable, how: Cut) -> Result<(), String> {
        match how {
            Cut::Out => self.others(host).try_for_each(|other| self.lead(host, other, cable)),
            Cut::In => self.others(host).try_for_each(|other| self.lead(other, host, cable)),
            Cut::Both => ip(&format!("link set {} up", plug(host, cable))),
        }
    }

    fn others(&self, host: Host) -> impl Iterator<Item = Host> {
        self.plugged.iter().copied().filter(move |other| *other != host)
    }

    fn mislead(&self, from: Host, to: Host, cable: Cable) -> Result<(), String> {
        let (from, to) = (name(from), self.address(to, cable));
        ip(&format!("-n {from} neigh replace {to} lladdr {NOWHERE} dev veth{cable} nud permanent"))
    }

    fn lead(&self, from: Host, to: Host, cable: Cable) -> Result<(), String> {
        ip(&format!("-n {} neigh del {} dev veth{cable}", name(from), self.address(to, cable)))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in std::mem::take(&mut self.plugged) {
            let _ = ip(&format!("netns del {}", name(host)));
        }
    }
}

/// Of a host's namespace.
fn name(host: Host) -> String {
    format!("host{host}")
}

/// Of a cable's end at the switch.
fn plug(host: Host, cable: Cable) -> String {
    if cable == 0 { name(host) } else { format!("host{host}c{cable}") }
}

fn switch(cable: Cable) -> String {
    format!("switch{cable}")
}

fn ip(words: &str) -> Result<(), String> {
    run("ip", words)
}

fn run(program: &str, words: &str) -> Result<(), String> {
    let output = Command::new(program).args(words.split(' ')).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program} (iproute2): {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program} {words}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
