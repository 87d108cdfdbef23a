//! A network for every rank, and cables that can be cut one way or both: [`Network`].
//!
//! The referee runs itself once more in a mount and network namespace of its own ([`inside`]), so that nothing of it can
//! be seen or left behind on the machine, however it ends. In there is a switch (a bridge), and for each rank a namespace
//! with a cable to it.
//!
//! One way is cut by sending a rank's packets, or those to it, to a hardware address that nobody has: they are lost without
//! a word, and the other way stays as it was.
#![forbid(unsafe_code)]

use crate::chaos::crew::Hand;
use crate::chaos::event::Kind;
use crate::launch;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::{Command, ExitCode, Stdio};

/// Set in the process that is in namespaces of its own.
const INSIDE: &str = "ROUNDEL_CHAOS_INSIDE";
const SWITCH: &str = "switch";
/// Nobody's.
const NOWHERE: &str = "02:00:00:00:00:01";

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

/// The switch and the ranks at it.
pub struct Network {
    plugged: BTreeSet<Hand>,
}

impl Network {
    /// A switch without anybody.
    pub fn new() -> Result<Network, String> {
        // Left over from a job before.
        let _ = Command::new("ip").args(["link", "del", SWITCH]).stderr(Stdio::null()).status();
        ip(&format!("link add {SWITCH} type bridge"))?;
        ip(&format!("link set {SWITCH} up"))?;
        Ok(Network { plugged: BTreeSet::new() })
    }

    /// A rank's address.
    pub fn address(&self, hand: Hand) -> Ipv4Addr {
        // Never 0 or 255 at the end.
        Ipv4Addr::new(10, 77, (hand / 200) as u8, (hand % 200) as u8 + 1)
    }

    /// Makes a network for a rank; the words that start a program in it.
    pub fn plug(&mut self, hand: Hand) -> Result<Vec<String>, String> {
        let name = name(hand);
        ip(&format!("netns add {name}"))?;
        self.plugged.insert(hand);
        ip(&format!("link add {name} type veth peer name veth0 netns {name}"))?;
        ip(&format!("-n {name} addr add {}/16 dev veth0", self.address(hand)))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} link set veth0 up"))?;
        ip(&format!("link set {name} master {SWITCH}"))?;
        ip(&format!("link set {name} up"))?;
        Ok(["ip", "netns", "exec", &name].map(String::from).to_vec())
    }

    /// Takes a rank's network away.
    pub fn unplug(&mut self, hand: Hand) {
        if self.plugged.remove(&hand) {
            let _ = ip(&format!("netns del {}", name(hand)));
        }
    }

    /// Cuts a rank off.
    pub fn cut(&self, hand: Hand, how: Kind) -> Result<(), String> {
        match how {
            Kind::CutOut => self.others(hand).try_for_each(|other| self.mislead(hand, other)),
            Kind::CutIn => self.others(hand).try_for_each(|other| self.mislead(other, hand)),
            _ => ip(&format!("link set {} down", name(hand))),
        }
    }

    /// Mends what [`Network::cut`] cut.
    pub fn mend(&self, hand: Hand, how: Kind) -> Result<(), String> {
        match how {
            Kind::CutOut => self.others(hand).try_for_each(|other| self.lead(hand, other)),
            Kind::CutIn => self.others(hand).try_for_each(|other| self.lead(other, hand)),
            _ => ip(&format!("link set {} up", name(hand))),
        }
    }

    fn others(&self, hand: Hand) -> impl Iterator<Item = Hand> {
        self.plugged.iter().copied().filter(move |other| *other != hand)
    }

    fn mislead(&self, from: Hand, to: Hand) -> Result<(), String> {
        let to = self.address(to);
        ip(&format!("-n {} neigh replace {to} lladdr {NOWHERE} dev veth0 nud permanent", name(from)))
    }

    fn lead(&self, from: Hand, to: Hand) -> Result<(), String> {
        ip(&format!("-n {} neigh del {} dev veth0", name(from), self.address(to)))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for hand in std::mem::take(&mut self.plugged) {
            let _ = ip(&format!("netns del {}", name(hand)));
        }
    }
}

/// Of a rank's namespace, and of its cable's end at the switch.
fn name(hand: Hand) -> String {
    format!("rank{hand}")
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip (iproute2): {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
