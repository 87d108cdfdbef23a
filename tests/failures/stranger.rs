//! Strangers at the doors of a job that runs.

use super::harness;
use roundel::{Options, ReduceOp, TransportChoice};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CONNECTIONS: usize = 200;

/// Ports on which this very process listens.
fn own_ports() -> Vec<u16> {
    let fds = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten();
    let own: BTreeSet<String> = fds
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_string()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc is mounted");
    let listening = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Local address, state (0A: listening) and inode.
        let (_, port) = fields[1].split_once(':')?;
        (fields[3] == "0A" && own.contains(fields[9])).then(|| u16::from_str_radix(port, 16).ok())?
    });
    listening.collect()
}

/// Knocks at all doors in turn: with nonsense, with silence, with a hasty goodbye. The silent stay to the end.
fn besiege(ports: &[u16]) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for number in 0..CONNECTIONS {
        let port = ports[number % ports.len()];
        let address = (Ipv4Addr::LOCALHOST, port).into();
        // A door that is busy may well turn a stranger away.
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else { continue };
        match number / ports.len() % 4 {
            0 => silent.push(stream),
            1 => {
                let mut noise = [0; 3000];
                getrandom::fill(&mut noise).expect("the system has random bytes");
                let _ = stream.write_all(&noise);
            }
            2 => {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
                silent.push(stream);
            }
            _ => drop(stream),
        }
    }
    silent
}

#[test]
fn strangers_disturb_nothing() {
    let _turn = harness::turn();
    let options = Options { sockets: 2, ..harness::options(TransportChoice::Tcp) };
    let besieged = Arc::new(AtomicBool::new(true));
    harness::threads(3, options, move |comm| {
        comm.barrier().unwrap();
        let besieger = (comm.rank() == 0).then(|| {
            let besieged = besieged.clone();
            std::thread::spawn(move || {
                let ports = own_ports();
                assert!(ports.len() >= 3, "every rank has a door: {ports:?}");
                let silent = besiege(&ports);
                // Release: pairs with the Acquire below; only a flag.
                besieged.store(false, Ordering::Release);
                silent
            })
        });
        let mut rounds = 0;
        loop {
            // Acquire: pairs with the Release above. Rank 0 decides for all.
            let mut goes_on = [u8::from(besieged.load(Ordering::Acquire))];
            comm.broadcast(&mut goes_on, 0).unwrap();
            // New connections have to get in between the strangers.
            let fresh = comm.split(Some(0), 0).unwrap().unwrap();
            for comm in [&comm, &fresh] {
                let mut data = vec![1u32; 50_000];
                comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
                assert!(data.iter().all(|&sum| sum == 3));
            }
            rounds += 1;
            if goes_on == [0] && rounds > 20 {
                break;
            }
        }
        if let Some(besieger) = besieger {
            let silent = besieger.join().unwrap();
            println!("{rounds} rounds and as many splits under siege; {} silent strangers at the end", silent.len());
        }
    });
}
