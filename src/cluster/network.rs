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
//! One way is cut by sending a host's packets, or those to it, to a hardware address that nobody has: they are lost without
//! a word, and the other way stays as it was.
#![forbid(unsafe_code)]

use crate::launch;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::{Command, ExitCode, Stdio};

/// Set in the process that is in namespaces of its own.
const INSIDE: &str = "ROUNDEL_CLUSTER_INSIDE";
const SWITCH: &str = "switch";
/// Nobody's.
const NOWHERE: &str = "02:00:00:00:00:01";

/// A host's number. Numbers are not used twice.
pub type Host = usize;

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

/// The switch and the hosts at it.
pub struct Network {
    plugged: BTreeSet<Host>,
}

impl Network {
    /// A switch without anybody.
    pub fn new() -> Result<Network, String> {
        // Left over from a network before.
        let _ = Command::new("ip").args(["link", "del", SWITCH]).stderr(Stdio::null()).status();
        ip(&format!("link add {SWITCH} type bridge"))?;
        ip(&format!("link set {SWITCH} up"))?;
        Ok(Network { plugged: BTreeSet::new() })
    }

    /// A host's address.
    pub fn address(&self, host: Host) -> Ipv4Addr {
        // Never 0 or 255 at the end.
        Ipv4Addr::new(10, 77, (host / 200) as u8, (host % 200) as u8 + 1)
    }

    /// Makes a host; the words that start a program on it.
    pub fn plug(&mut self, host: Host) -> Result<Vec<String>, String> {
        let name = name(host);
        ip(&format!("netns add {name}"))?;
        self.plugged.insert(host);
        ip(&format!("link add {name} type veth peer name veth0 netns {name}"))?;
        ip(&format!("-n {name} addr add {}/16 dev veth0", self.address(host)))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} link set veth0 up"))?;
        ip(&format!("link set {name} master {SWITCH}"))?;
        ip(&format!("link set {name} up"))?;
        Ok(["ip", "netns", "exec", &name].map(String::from).to_vec())
    }

    /// Takes a host away.
    pub fn unplug(&mut self, host: Host) {
        if self.plugged.remove(&host) {
            let _ = ip(&format!("netns del {}", name(host)));
        }
    }

    /// From now on the host's cable carries so much each way (`1gbit`, as `tc` writes rates).
    pub fn shape(&self, host: Host, rate: &str) -> Result<(), String> {
        let name = name(host);
        // What the kernel hands over at once (64 KiB) passes as one; what waits longer than a switch would hold it is lost.
        let bucket = format!("root tbf rate {rate} burst 256kb latency 20ms");
        run("tc", &format!("qdisc replace dev {name} {bucket}"))?;
        run("ip", &format!("netns exec {name} tc qdisc replace dev veth0 {bucket}"))
    }

    /// The largest packet on the host's cable.
    pub fn set_mtu(&self, host: Host, bytes: u16) -> Result<(), String> {
        let name = name(host);
        ip(&format!("link set {name} mtu {bytes}"))?;
        ip(&format!("-n {name} link set veth0 mtu {bytes}"))
    }

    /// The host gets another address, one that no host has; the old one is gone.
    pub fn readdress(&self, host: Host) -> Result<(), String> {
        let (name, old) = (name(host), self.address(host));
        let [_, _, third, fourth] = old.octets();
        ip(&format!("-n {name} addr add 10.77.{}.{fourth}/16 dev veth0", 100 + third))?;
        ip(&format!("-n {name} addr del {old}/16 dev veth0"))
    }

    /// Cuts a host off.
    pub fn cut(&self, host: Host, how: Cut) -> Result<(), String> {
        match how {
            Cut::Out => self.others(host).try_for_each(|other| self.mislead(host, other)),
            Cut::In => self.others(host).try_for_each(|other| self.mislead(other, host)),
            Cut::Both => ip(&format!("link set {} down", name(host))),
        }
    }

    /// Mends what [`Network::cut`] cut.
    pub fn mend(&self, host: Host, how: Cut) -> Result<(), String> {
        match how {
            Cut::Out => self.others(host).try_for_each(|other| self.lead(host, other)),
            Cut::In => self.others(host).try_for_each(|other| self.lead(other, host)),
            Cut::Both => ip(&format!("link set {} up", name(host))),
        }
    }

    fn others(&self, host: Host) -> impl Iterator<Item = Host> {
        self.plugged.iter().copied().filter(move |other| *other != host)
    }

    fn mislead(&self, from: Host, to: Host) -> Result<(), String> {
        let to = self.address(to);
        ip(&format!("-n {} neigh replace {to} lladdr {NOWHERE} dev veth0 nud permanent", name(from)))
    }

    fn lead(&self, from: Host, to: Host) -> Result<(), String> {
        ip(&format!("-n {} neigh del {} dev veth0", name(from), self.address(to)))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in std::mem::take(&mut self.plugged) {
            let _ = ip(&format!("netns del {}", name(host)));
        }
    }
}

/// Of a host's namespace, and of its cable's end at the switch.
fn name(host: Host) -> String {
    format!("host{host}")
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
