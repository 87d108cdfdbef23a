//! Network namespaces, and where a test may make some.

use super::{has_program, skip};
use std::process::{Command, Stdio};

/// A shell with a file system and a network of its own, so that nothing of it can be seen or left behind on the machine,
/// however it ends; a user who is not root may have one too, in a user namespace.
pub fn unshare(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net"]);
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    // Names of network namespaces are files in /run/netns.
    let script = format!("mount -t tmpfs none /run && mkdir /run/netns && ip link set lo up && {script}");
    command.args(["sh", "-c", &script]);
    command
}

/// True where this user may make network namespaces, and what else a test needs, `probe`, ends well in one; else it is
/// skipped.
pub fn allow(probe: &str) -> bool {
    if !has_program("unshare") || !has_program("ip") {
        skip("netns", "unshare (util-linux) or ip (iproute2) is not installed");
        return false;
    }
    let probe = format!("ip netns add probe && {probe}");
    let is_allowed = unshare(&probe).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !is_allowed {
        skip("netns", &format!("this user may not make network namespaces, or this fails in one: {probe}"));
    }
    is_allowed
}
