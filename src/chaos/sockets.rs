//! The TCP sockets of a process, as /proc tells them.
#![forbid(unsafe_code)]

use nix::unistd::Pid;
use std::collections::BTreeMap;

/// One end of a connection, or a door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its descriptor.
    pub fd: i32,
    /// Where it is, as the kernel's table writes it.
    pub local: String,
    /// The other end, likewise.
    pub remote: String,
    /// It listens.
    pub is_door: bool,
}

impl Socket {
    /// The port where it is.
    pub fn port(&self) -> Option<u16> {
        u16::from_str_radix(self.local.split_once(':')?.1, 16).ok()
    }
}

/// The IPv4 sockets that a process has open.
pub fn of(pid: Pid) -> Vec<Socket> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inode_of = |link: std::fs::DirEntry| {
        let target = std::fs::read_link(link.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_string();
        Some((inode, link.file_name().to_str()?.parse().ok()?))
    };
    let open: BTreeMap<String, i32> = links.filter_map(inode_of).collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let own = table.lines().skip(1).filter_map(|line| {
        // Local and remote address, state (0A: listening) and inode.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [local, remote, state] = fields.get(1..4)?.try_into().ok()?;
        let fd = *open.get(*fields.get(9)?)?;
        Some(Socket { fd, local: String::from(local), remote: String::from(remote), is_door: state == "0A" })
    });
    own.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    fn both_ends_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let near = TcpStream::connect(address).unwrap();
        let (far, _) = listener.accept().unwrap();
        let sockets = of(Pid::this());
        let find = |fd: i32| sockets.iter().find(|socket| socket.fd == fd).unwrap();
        assert!(find(listener.as_raw_fd()).is_door);
        assert_eq!(find(listener.as_raw_fd()).port(), Some(address.port()));
        let (near, far) = (find(near.as_raw_fd()), find(far.as_raw_fd()));
        assert!(near.local == far.remote && near.remote == far.local && !near.is_door);
    }
}
