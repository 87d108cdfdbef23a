//! Two hosts on one machine: network namespaces joined by a cable.
//!
//! The test runs itself once more in a mount and network namespace of its own.

use crate::job::Place;
use crate::support::netns::{self, unshare};
use crate::support::{Rank, clean, say};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Set in the process that is in namespaces of its own.
const INSIDE: &str = "ROUNDEL_TEST_INSIDE";
/// Said at the end by the test that ran in there.
const PASSED: &str = "passed inside";

/// Runs `body` in namespaces of its own. `test` is the name of the calling test.
pub fn in_own_namespaces(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        body();
        return say(PASSED);
    }
    if !netns::allow("true") {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let mut command = clean(unshare("exec \"$0\" \"$@\""));
    command.arg(program).args([test, "--exact", "--nocapture"]).env(INSIDE, "1");
    let said = Rank::start(command).finished();
    assert!(said.iter().any(|line| line == PASSED), "{test} is not the name of the test: it did not run inside");
}

/// The cable and the hosts at its ends.
pub struct Net {
    names: [String; 2],
}

pub const V4: &str = "10.77.0.0/24";
pub const V6: &str = "fd77::/64";

impl Net {
    pub fn new() -> Net {
        let names = ["a", "b"].map(|end| format!("roundel-{}-{end}", std::process::id()));
        let net = Net { names };
        let [a, b] = &net.names;
        ip(&format!("netns add {a}"));
        ip(&format!("netns add {b}"));
        ip(&format!("link add veth0 netns {a} type veth peer name veth0 netns {b}"));
        for (host, name) in net.names.iter().enumerate() {
            ip(&format!("-n {name} addr add 10.77.0.{}/24 dev veth0", host + 1));
            if crate::support::has_ipv6() {
                ip(&format!("-n {name} addr add fd77::{}/64 dev veth0 nodad", host + 1));
            }
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link set veth0 up"));
        }
        // The kernel notices in its own time that both ends of the cable are plugged in.
        let start = Instant::now();
        while !net.names.iter().all(|name| ip(&format!("-n {name} link show veth0")).contains("state UP")) {
            assert!(start.elapsed() < crate::support::PATIENCE, "the cable does not come up");
            std::thread::yield_now();
        }
        net
    }

    /// A place on one of the hosts, for a rank that listens in this subnet.
    pub fn place(&self, host: usize, subnet: &str) -> Place {
        let prefix = ["ip", "netns", "exec", &self.names[host]].map(String::from).to_vec();
        Place { prefix, ..Place::default() }.with("ROUNDEL_IFACE", subnet)
    }

    /// So many ranks on each host.
    pub fn places(&self, ranks: [usize; 2], subnet: &str) -> Vec<Place> {
        (0..2).flat_map(|host| vec![self.place(host, subnet); ranks[host]]).collect()
    }

    /// The network namespaces of the hosts.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Pulls the plug.
    pub fn cut(&self) {
        ip(&format!("-n {} link set veth0 down", self.names[1]));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            // One may be missing when the other could not be made.
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
    }
}

/// Runs `ip` with these words; what it prints.
pub fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
