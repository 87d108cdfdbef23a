//! Somebody sits on the way between two ranks and changes what passes.
#![forbid(unsafe_code)]

use super::record::MAX_PAYLOAD_BYTES;
use super::*;
use crate::error::Error;
use crate::memory::Block;
use crate::transport::{Rx, Tx};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PATIENT: Duration = Duration::from_secs(30);
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Passes bytes on until either end closes; `change` sees each piece on its way down (to the dialler) and where in the
/// stream it begins.
fn pass(mut from: TcpStream, mut to: TcpStream, mut change: impl FnMut(usize, &mut [u8]) + Send + 'static) {
    thread::spawn(move || {
        let (mut piece, mut at) = (vec![0; 100_000], 0);
        while let Ok(len_bytes) = from.read(&mut piece) {
            if len_bytes == 0 {
                break;
            }
            change(at, &mut piece[..len_bytes]);
            at += len_bytes;
            if to.write_all(&piece[..len_bytes]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

/// Listens in the place of `target`; what the target sends goes through `change`.
fn middleman(target: SocketAddr, change: impl FnMut(usize, &mut [u8]) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (down, _) = listener.accept().unwrap();
        let up = TcpStream::connect(target).unwrap();
        pass(down.try_clone().unwrap(), up.try_clone().unwrap(), |_, _| {});
        pass(up, down, change);
    });
    addr
}

fn endpoint(guard: Guard) -> Arc<Endpoint> {
    let identity = Identity { secret: Secret::from_bytes([1; 32]), job: [3; 16], rank: 1, process: 5, guard };
    Endpoint::listen(&[V4], None, identity).unwrap()
}

/// Rank 1 sends `total_bytes` to rank 0 through somebody who flips a bit of the `at`-th byte of what it sends, the
/// handshake included. What rank 0 got, and how it ended.
fn flipped(guard: Guard, at: usize, total_bytes: usize) -> (Vec<u8>, Option<Error>) {
    let (zero, one) = (endpoint(guard), endpoint(guard));
    let over = Arc::new(AtomicBool::new(false));
    let never = || None;
    let deadline = Instant::now() + PATIENT;
    let side = |me, peer| LinkSide { comm: 7, epoch: 0, me, peer, channel: 0 };
    let evil = middleman(one.addrs()[0], move |begins, piece| {
        if let Some(byte) = at.checked_sub(begins).and_then(|at| piece.get_mut(at)) {
            *byte ^= 0x10;
        }
    });
    let callee = move |rank| Callee { addrs: vec![evil], rank, process: 5 };
    let is_over = over.clone();
    let sending = thread::spawn(move || {
        // Relaxed: nothing but the flag itself is passed on.
        let cancelled = || is_over.load(Ordering::Relaxed).then(|| Error::bootstrap("rank 0 got nowhere"));
        let connected = one.connect(&callee(0), side(1, 0), Strands::sockets(1), false, deadline, &cancelled);
        let Ok((mut tx, _rx)) = connected else { return };
        let block = Block::new(total_bytes);
        block.span().write(&vec![5; total_bytes]);
        let mut sent = 0;
        while Instant::now() < deadline {
            match tx.send(block.span().from(sent)).and_then(|more| {
                sent += more;
                tx.flush()
            }) {
                Ok(true) if sent == total_bytes => break,
                Ok(_) => thread::yield_now(),
                Err(_) => return,
            }
        }
    });
    let outcome = match zero.connect(&callee(1), side(0, 1), Strands::sockets(1), true, deadline, &never) {
        Err(error) => (Vec::new(), Some(error)),
        Ok((_tx, mut rx)) => {
            let mut got = Vec::new();
            let block = Block::new(64 << 10);
            loop {
                assert!(Instant::now() < deadline, "it neither ended nor failed");
                match rx.recv(block.span()) {
                    Ok(len_bytes) => {
                        let mut bytes = vec![0; len_bytes];
                        block.span().read(&mut bytes);
                        got.extend(bytes);
                        if got.len() == total_bytes {
                            break (got, None);
                        }
                        if len_bytes == 0 {
                            thread::yield_now();
                        }
                    }
                    Err(error) => break (got, Some(error)),
                }
            }
        }
    };
    drop(zero);
    // Relaxed: as above.
    over.store(true, Ordering::Relaxed);
    sending.join().unwrap();
    outcome
}

/// What the responder of a handshake sends: an empty message under a key, and an empty answer.
const HANDSHAKE_BYTES: usize = (9 + 32 + 16) + (9 + 1 + 16);

#[test]
fn a_flipped_bit_ends_a_protected_link_with_the_peers_name_and_no_wrong_byte_comes_out() {
    const TOTAL_BYTES: usize = 200_000;
    for guard in [Guard::Checksum, Guard::Encryption] {
        for at in [0, 1, 4, 5, 1000, MAX_PAYLOAD_BYTES + 2, 3 * MAX_PAYLOAD_BYTES] {
            let (got, error) = flipped(guard, HANDSHAKE_BYTES + at, TOTAL_BYTES);
            let error = error.unwrap_or_else(|| panic!("{guard:?}, byte {at}: not noticed"));
            let Error::Corrupted { suspects, what, .. } = &error else { panic!("{guard:?}, byte {at}: {error}") };
            assert_eq!(suspects, &[1]);
            assert!(what.contains("arrived changed") && what.contains("127.0.0.1:"), "{what}");
            assert!(got.iter().all(|&byte| byte == 5), "{guard:?}, byte {at}: a wrong byte came out");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_handshake_lets_nobody_in() {
    for at in [0, 4, 6, 9, 40, 60, HANDSHAKE_BYTES - 1] {
        let (got, error) = flipped(Guard::Encryption, at, 1000);
        assert!(got.is_empty() && error.is_some(), "byte {at}");
    }
}

/// Why the others exist: TCP's own checksum does not protect against whoever computes it anew.
#[test]
fn without_protection_a_flipped_bit_is_not_noticed() {
    let (got, error) = flipped(Guard::Plain, HANDSHAKE_BYTES + 70, 1000);
    assert_eq!(error, None);
    assert_eq!(got.iter().filter(|&&byte| byte != 5).count(), 1);
}
