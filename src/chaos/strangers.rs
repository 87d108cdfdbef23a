//! Strangers at the doors of ranks: [`besiege`].
#![forbid(unsafe_code)]

use crate::chaos::random::Random;
use crate::chaos::sockets;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// How long a busy door may take to open.
const PATIENCE: Duration = Duration::from_secs(1);

/// The TCP ports on which a process listens.
pub fn ports(pid: Pid) -> BTreeSet<u16> {
    sockets::of(pid).iter().filter(|socket| socket.is_door).filter_map(sockets::Socket::port).collect()
}

/// Knocks at each door with nonsense, with silence, and with a hasty goodbye. Those who are silent stay until what this
/// returns is dropped.
pub fn besiege(ports: &BTreeSet<u16>, random: &mut Random) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for &port in ports {
        for _ in 0..random.within(1..=8) {
            let Ok(mut stream) = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), PATIENCE) else {
                continue;
            };
            let noise: Vec<u8> = (0..random.within(1..=4000)).map(|_| random.bits() as u8).collect();
            match random.within(0..=2) {
                // A door may well close while the stranger still talks.
                0 => drop(stream.write_all(&noise)),
                1 => silent.push(stream),
                _ => drop(stream),
            }
        }
    }
    silent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_are_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(ports(Pid::this()).contains(&port));
        let silent = besiege(&[port].into(), &mut Random::new(&[1]));
        assert!(silent.len() <= 8);
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_ok(), "somebody knocked");
    }
}
