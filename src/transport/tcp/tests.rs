//! Whole links between two endpoints of this process, and what strangers can do to them.
#![forbid(unsafe_code)]

use super::*;
use crate::error::{Error, Result};
use crate::memory::{Block, Span};
use crate::transport::{Interest, Rx, Tx};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub(super) const PATIENT: Duration = Duration::from_secs(30);
pub(super) const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

pub(super) type Ends = (TcpTx, TcpRx);

pub(super) fn within(timeout: Duration) -> Instant {
    Instant::now() + timeout
}

pub(super) fn never() -> Option<Error> {
    None
}

pub(super) fn side(me: usize, peer: usize) -> LinkSide {
    LinkSide { comm: 7, epoch: 0, me, peer, channel: 2 }
}

pub(super) fn identity(secret: u8, guard: Guard) -> Identity {
    Identity { secret: Secret::from_bytes([secret; 32]), job: [3; 16], rank: 1, process: 5, guard }
}

fn endpoint(bind: IpAddr, secret: u8) -> Arc<Endpoint> {
    Endpoint::listen(&[bind], None, identity(secret, Guard::Plain)).unwrap()
}

fn guarded_endpoint(bind: IpAddr, guard: Guard) -> Arc<Endpoint> {
    Endpoint::listen(&[bind], None, identity(1, guard)).unwrap()
}

/// How to call the rank behind one of these endpoints: all say that they are rank 1.
fn at(addr: SocketAddr) -> Callee {
    Callee { addrs: vec![addr], rank: 1, process: 5 }
}

/// Rank 0's ends and rank 1's ends of a link between the two endpoints; rank 0 dials.
fn connect(zero: &Endpoint, one: &Endpoint, sockets: u8) -> (Result<Ends>, Result<Ends>) {
    thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            zero.connect(&at(one.addrs()[0]), side(0, 1), Strands::sockets(sockets), true, within(PATIENT), &never)
        });
        let waiting =
            one.connect(&at(zero.addrs()[0]), side(1, 0), Strands::sockets(sockets), false, within(PATIENT), &never);
        (dialling.join().unwrap(), waiting)
    })
}

fn linked(bind: IpAddr, sockets: u8) -> (Ends, Ends) {
    linked_under(Guard::Plain, bind, sockets)
}

fn linked_under(guard: Guard, bind: IpAddr, sockets: u8) -> (Ends, Ends) {
    let (zero, one) = connect(&guarded_endpoint(bind, guard), &guarded_endpoint(bind, guard), sockets);
    (zero.unwrap(), one.unwrap())
}

/// A loopback address that only one test listens on: a port that was free there stays free.
fn own_address(test: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 9, 9, test))
}

fn has_ipv6() -> bool {
    let has = TcpListener::bind((V6, 0)).is_ok();
    if !has {
        println!("skipped: this machine has no ::1");
    }
    has
}

/// A small generator of numbers that do not repeat soon (splitmix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)) % end as u64) as usize
    }

    /// Mostly small, sometimes more than a whole stripe.
    fn slice_bytes(&mut self) -> usize {
        let end = [8, 100, 5_000, 70_000, 400_000][self.below(5)];
        1 + self.below(end)
    }
}

/// The byte at `at` of the stream that `rank` sends.
pub(super) fn byte(rank: usize, at: usize) -> u8 {
    ((at as u64 ^ ((rank as u64) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

pub(super) fn expect(span: Span, rank: usize, at: usize) {
    let mut bytes = vec![0; span.len()];
    span.read(&mut bytes);
    if let Some(wrong) = bytes.iter().enumerate().position(|(i, found)| *found != byte(rank, at + i)) {
        panic!("byte {} of rank {rank}'s stream is wrong", at + wrong);
    }
}

/// Sleeps until the sender can send or the receiver can receive, whichever of the two still has to.
pub(super) fn sleep_on(tx: Option<&TcpTx>, rx: Option<&TcpRx>) {
    let wanted = |interest: Option<Interest>| match interest.expect("a socket link has an interest") {
        Interest { readable: true, writable: false, .. } => PollFlags::POLLIN,
        Interest { readable: false, writable: true, .. } => PollFlags::POLLOUT,
        both_or_none => panic!("{both_or_none:?}"),
    };
    let waits: Vec<_> = tx
        .map(|tx| (wanted(tx.interest()), tx.fd()))
        .into_iter()
        .chain(rx.map(|rx| (wanted(rx.interest()), rx.fd())))
        .collect();
    let mut fds: Vec<_> = waits.iter().map(|(wanted, fd)| PollFd::new(fd.as_fd(), *wanted)).collect();
    assert!(poll(&mut fds, PollTimeout::try_from(PATIENT).unwrap()).unwrap() > 0, "nothing moved for {PATIENT:?}");
}

/// Sends a slice of the stream of `me` in one of the ways there are; how much went.
fn send_some(tx: &mut TcpTx, dice: &mut Dice, me: usize, at: usize, end: usize) -> usize {
    let len_bytes = dice.slice_bytes().min(end - at);
    let bytes: Vec<u8> = (at..at + len_bytes).map(|at| byte(me, at)).collect();
    if dice.below(3) == 0 {
        let room = tx.reserve(len_bytes).unwrap();
        assert!(room.len() <= len_bytes && room.addr().is_multiple_of(8));
        assert!(
            room.len() == len_bytes || room.len().is_multiple_of(8),
            "an element is split: {} of {len_bytes}",
            room.len()
        );
        let used_bytes = if room.is_empty() { 0 } else { dice.below(room.len() + 1) };
        room.write(&bytes[..used_bytes]);
        tx.commit(used_bytes).unwrap();
        return used_bytes;
    }
    let block = Block::new(len_bytes.next_multiple_of(8));
    block.span().write(&bytes);
    tx.send(block.span().cut(0, len_bytes)).unwrap()
}

/// Receives a slice of the stream of `peer` in one of the ways there are, and checks it; how much came.
fn receive_some(rx: &mut TcpRx, dice: &mut Dice, peer: usize, at: usize, end: usize) -> usize {
    let len_bytes = dice.slice_bytes().min(end - at);
    let unit_bytes = 1 << dice.below(4);
    if len_bytes >= unit_bytes && dice.below(2) == 0 {
        let span = rx.arrived(unit_bytes, len_bytes).unwrap();
        let whole_bytes = |bytes: usize| bytes - bytes % unit_bytes;
        assert!(span.len() == whole_bytes(span.len()) && span.len() <= len_bytes);
        assert!(span.is_empty() || span.addr().is_multiple_of(unit_bytes));
        expect(span, peer, at);
        // A part of it first; the rest must stay where it is until it is released too.
        let first_bytes = whole_bytes(dice.below(span.len() + 1));
        rx.release(first_bytes).unwrap();
        let rest = rx.arrived(unit_bytes, span.len() - first_bytes).unwrap();
        assert!(rest.is_empty() || rest == span.from(first_bytes));
        rx.release(rest.len()).unwrap();
        return first_bytes + rest.len();
    }
    let block = Block::new(len_bytes.next_multiple_of(8));
    let got_bytes = rx.recv(block.span().cut(0, len_bytes)).unwrap();
    expect(block.span().cut(0, got_bytes), peer, at);
    got_bytes
}

/// Sends `total_bytes` and receives as many, both at once, in slices that the seed decides.
pub(super) fn exchange((mut tx, mut rx): Ends, me: usize, total_bytes: usize, seed: u64) -> Ends {
    let mut dice = Dice(seed + me as u64);
    let (mut sent, mut received, mut is_flushed) = (0, 0, true);
    while received < total_bytes || sent < total_bytes || !is_flushed {
        let went = if sent < total_bytes { send_some(&mut tx, &mut dice, me, sent, total_bytes) } else { 0 };
        sent += went;
        is_flushed &= went == 0;
        let came =
            if received < total_bytes { receive_some(&mut rx, &mut dice, 1 - me, received, total_bytes) } else { 0 };
        received += came;
        if went == 0 && came == 0 {
            is_flushed = tx.flush().unwrap();
            let (sends, receives) = (sent < total_bytes || !is_flushed, received < total_bytes);
            // A socket that takes all is always ready, so only one that is full is worth sleeping on.
            if sends || receives {
                sleep_on((!is_flushed || sends).then_some(&tx), receives.then_some(&rx));
            }
        }
    }
    (tx, rx)
}

fn exchange_over(guard: Guard, bind: IpAddr, sockets: u8, total_bytes: usize) {
    let (zero, one) = linked_under(guard, bind, sockets);
    let other = thread::spawn(move || exchange(one, 1, total_bytes, 99));
    let (_tx, mut rx) = exchange(zero, 0, total_bytes, 99);
    drop(other.join().unwrap());
    // Both streams were consumed to the last byte: after it comes the end.
    wait_for_end(&mut rx, 1);
}

pub(super) fn wait_for_end(rx: &mut TcpRx, peer: usize) {
    let block = Block::new(8);
    loop {
        match rx.recv(block.span()) {
            Ok(0) => sleep_on(None, Some(rx)),
            Ok(more) => panic!("{more} bytes too many"),
            Err(error) => return assert_eq!(error, lost(peer)),
        }
    }
}

fn lost(peer: usize) -> Error {
    Error::PeerLost { suspects: vec![peer], what: "closed its connection".into(), during: None }
}

#[test]
fn both_directions_at_once_over_one_two_and_three_sockets() {
    for sockets in 1..=3 {
        exchange_over(Guard::Plain, V4, sockets, 6 << 20);
    }
}

#[test]
fn the_same_where_links_are_protected() {
    for guard in [Guard::Checksum, Guard::Encryption] {
        for sockets in 1..=3 {
            exchange_over(guard, V4, sockets, 4 << 20);
        }
    }
}

#[test]
fn the_same_over_ipv6() {
    if has_ipv6() {
        for sockets in [1, 3] {
            exchange_over(Guard::Plain, V6, sockets, 2 << 20);
        }
    }
}

#[test]
fn a_link_within_the_host_is_not_paced() {
    let allowed = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap_or_default();
    if !allowed.split_whitespace().any(|control| control == "reno") {
        println!("skipped: this machine does not let programs choose reno");
        return;
    }
    let (ends, _other) = linked(V4, 1);
    let mut name = socket2::SockRef::from(&ends.0.fd()).tcp_congestion().unwrap();
    name.retain(|&byte| byte != 0);
    assert_eq!(name, b"reno");
}

#[test]
fn small_sends_wait_for_the_flush_and_a_large_one_takes_them_along_in_order() {
    let ((mut tx, _), (_, mut rx)) = linked(V4, 1);
    let block = Block::new(16384);
    let stream: Vec<u8> = (0..block.span().len()).map(|at| byte(0, at)).collect();
    block.span().write(&stream);
    assert_eq!(tx.send(block.span().cut(0, 10)), Ok(10));
    assert_eq!(tx.send(block.span().cut(10, 30)), Ok(30));
    let target = Block::new(16384);
    assert_eq!(rx.recv(target.span()), Ok(0), "nothing was flushed yet");
    assert_eq!(tx.send(block.span().from(40)), Ok(16344));
    assert_eq!(tx.flush(), Ok(true));
    let mut received = 0;
    while received < 16384 {
        received += match rx.recv(target.span().from(received)).unwrap() {
            0 => {
                sleep_on(None, Some(&rx));
                0
            }
            more => more,
        };
    }
    expect(target.span(), 0, 0);
}

#[test]
fn what_a_peer_sent_before_it_left_is_delivered_then_comes_the_error() {
    for (sockets, guard) in [(1, Guard::Plain), (2, Guard::Plain), (1, Guard::Checksum), (2, Guard::Encryption)] {
        let ((mut tx, rx_of_zero), (tx_of_one, mut rx)) = linked_under(guard, V4, sockets);
        let total_bytes: usize = 300_003;
        let leaving = thread::spawn(move || {
            let block = Block::new(total_bytes.next_multiple_of(8));
            block.span().write(&(0..total_bytes).map(|at| byte(0, at)).collect::<Vec<u8>>());
            let mut sent = 0;
            while sent < total_bytes {
                sent += tx.send(block.span().cut(sent, total_bytes - sent)).unwrap();
            }
            while !tx.flush().unwrap() {
                sleep_on(Some(&tx), None);
            }
            drop((tx, rx_of_zero));
        });
        let mut received = 0;
        let error = loop {
            match rx.arrived(4, 1 << 20) {
                Ok(span) if span.is_empty() => sleep_on(None, Some(&rx)),
                Ok(span) => {
                    expect(span, 0, received);
                    received += span.len();
                    rx.release(span.len()).unwrap();
                }
                Err(error) => break error,
            }
        };
        // The last three bytes are no whole element: they were held back to the end.
        assert_eq!((received, error), (total_bytes - 3, lost(0)));
        let block = Block::new(8);
        assert_eq!(rx.recv(block.span()), Ok(3));
        expect(block.span().cut(0, 3), 0, received);
        assert_eq!(rx.recv(block.span()), Err(lost(0)));
        leaving.join().unwrap();
        drop(tx_of_one);
    }
}

#[test]
fn sending_to_a_peer_that_left_is_an_error() {
    let ((mut tx, _rx), ends_of_one) = linked(V4, 2);
    drop(ends_of_one);
    let block = Block::new(64 * 1024);
    let started = Instant::now();
    let error = loop {
        match tx.send(block.span()) {
            Ok(0) => sleep_on(Some(&tx), None),
            Ok(_) => assert!(started.elapsed() < PATIENT, "the peer's end was never noticed"),
            Err(error) => break error,
        }
    };
    assert_eq!(error, lost(1));
}

#[test]
fn an_endpoint_of_another_job_is_refused_at_once() {
    let (zero, one) = (endpoint(V4, 1), endpoint(V4, 2));
    let started = Instant::now();
    let refused = zero.connect(&at(one.addrs()[0]), side(0, 1), Strands::sockets(1), true, within(PATIENT), &never);
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("another job") && refused.contains(&one.addrs()[0].to_string()), "{refused}");
    assert!(started.elapsed() < PATIENT / 2);
}

#[test]
fn strangers_at_the_door_do_not_keep_ranks_out() {
    let (zero, one) = (endpoint(V4, 1), endpoint(V4, 1));
    let mut dice = Dice(5);
    let mut strangers = Vec::new();
    for i in 0..200 {
        let mut stranger = TcpStream::connect(one.addrs()[0]).unwrap();
        if i % 4 == 0 {
            let noise: Vec<u8> = (0..200).map(|_| dice.below(256) as u8).collect();
            // It may have been thrown out already.
            let _ = stranger.write_all(&noise);
        }
        strangers.push(stranger);
    }
    let started = Instant::now();
    for socket_count in [1, 3] {
        let (ends_of_zero, ends_of_one) = connect(&zero, &one, socket_count);
        let (ends_of_zero, ends_of_one) = (ends_of_zero.unwrap(), ends_of_one.unwrap());
        let other = thread::spawn(move || exchange(ends_of_one, 1, 10_000, 3));
        exchange(ends_of_zero, 0, 10_000, 3);
        other.join().unwrap();
    }
    assert!(started.elapsed() < PATIENT / 2, "took {:?}", started.elapsed());
    // One of the first, and silent: it was shown the door to make room.
    strangers[1].set_read_timeout(Some(PATIENT)).unwrap();
    match strangers[1].read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("a stranger is still inside: {other:?}"),
    }
}

#[test]
fn nobody_dials_nobody_listens_and_both_end_at_the_deadline_naming_the_rank() {
    let zero = endpoint(V4, 1);
    let gone = endpoint(own_address(1), 1).addrs()[0];
    for me_connects in [true, false] {
        let deadline = within(Duration::from_millis(120));
        let error =
            zero.connect(&at(gone), side(0, 1), Strands::sockets(1), me_connects, deadline, &never).err().unwrap();
        assert!(Instant::now() >= deadline);
        assert!(matches!(&error, Error::Bootstrap { missing, .. } if missing == &[1]), "{error}");
    }
}

#[test]
fn a_silent_listener_ends_the_dial_at_the_deadline() {
    let silent = TcpListener::bind((V4, 0)).unwrap();
    let deadline = within(Duration::from_millis(120));
    let error = endpoint(V4, 1)
        .connect(&at(silent.local_addr().unwrap()), side(0, 1), Strands::sockets(1), true, deadline, &never)
        .err();
    assert!(matches!(&error, Some(Error::Bootstrap { missing, .. }) if missing == &[1]), "{error:?}");
}

#[test]
fn a_rank_that_listens_late_is_found() {
    let zero = endpoint(V4, 1);
    let addr = endpoint(own_address(3), 1).addrs()[0];
    thread::scope(|scope| {
        let (refused, was_refused) = std::sync::mpsc::channel();
        let dialling = scope.spawn(move || {
            let asked = || {
                // The listening side counts; it is not there any more when it has counted enough.
                let _ = refused.send(());
                None
            };
            zero.connect(&at(addr), side(0, 1), Strands::sockets(1), true, within(PATIENT), &asked).map(|_| zero)
        });
        // Asked several times: so it was refused, and tries again.
        was_refused.iter().take(10).for_each(drop);
        let ports = addr.port().to_string().parse().unwrap();
        let one = Endpoint::listen(&[addr.ip()], Some(ports), identity(1, Guard::Plain)).unwrap();
        one.connect(&at(addr), side(1, 0), Strands::sockets(1), false, within(PATIENT), &never).unwrap();
        dialling.join().unwrap().unwrap();
    });
}

#[test]
fn waiting_and_dialling_can_be_cancelled() {
    let zero = endpoint(V4, 1);
    let gone = endpoint(own_address(2), 1).addrs()[0];
    for me_connects in [true, false] {
        let is_over = AtomicBool::new(false);
        let asked = std::sync::Barrier::new(2);
        let first = AtomicBool::new(true);
        let reason = Error::Aborted { by: 3, reason: "enough".into(), during: None };
        let cancelled = || {
            // Relaxed: only this thread reads and writes it.
            if first.swap(false, Ordering::Relaxed) {
                asked.wait();
            }
            // Relaxed: nothing but the flag itself is passed on.
            is_over.load(Ordering::Relaxed).then(|| reason.clone())
        };
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                zero.connect(&at(gone), side(0, 1), Strands::sockets(1), me_connects, within(PATIENT), &cancelled)
            });
            asked.wait();
            // Relaxed: as above.
            is_over.store(true, Ordering::Relaxed);
            zero.wake();
            assert_eq!(waiting.join().unwrap().err(), Some(reason.clone()));
        });
    }
}

#[test]
fn links_of_a_closed_communicator_are_dropped_and_late_ones_refused() {
    let (zero, one) = (endpoint(V4, 1), endpoint(V4, 1));
    let (_, mut parked) =
        zero.connect(&at(one.addrs()[0]), side(0, 1), Strands::sockets(1), true, within(PATIENT), &never).unwrap();
    one.forget(7);
    wait_for_end(&mut parked, 1);
    let refused = zero.connect(&at(one.addrs()[0]), side(0, 1), Strands::sockets(1), true, within(PATIENT), &never);
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("that communicator is closed"), "{refused}");
    let other = LinkSide { comm: 8, ..side(0, 1) };
    assert!(zero.connect(&at(one.addrs()[0]), other, Strands::sockets(1), true, within(PATIENT), &never).is_ok());
}

#[test]
fn ranks_that_disagree_about_the_sockets_are_told() {
    let (zero, one) = (endpoint(V4, 1), endpoint(V4, 1));
    let _ends =
        zero.connect(&at(one.addrs()[0]), side(0, 1), Strands::sockets(2), true, within(PATIENT), &never).unwrap();
    let error = one.connect(&at(zero.addrs()[0]), side(1, 0), Strands::sockets(3), false, within(PATIENT), &never);
    let error = error.err().unwrap().to_string();
    assert!(error.contains("rank 0 makes links of 2 sockets, rank 1 of 3 sockets"), "{error}");
    for sockets in [0, 17] {
        let error = zero
            .connect(&at(one.addrs()[0]), side(0, 1), Strands::sockets(sockets), true, within(PATIENT), &never)
            .err();
        assert!(matches!(error, Some(Error::Invalid { .. })));
    }
}

/// Threads and descriptors are counted for the whole process, so this test runs again in one of its own.
#[test]
fn two_hundred_endpoints_leave_no_thread_and_no_descriptor() {
    const ALONE: &str = "ROUNDEL_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "transport::tcp::tests::two_hundred_endpoints_leave_no_thread_and_no_descriptor";
        let outcome = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads=1", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
        assert!(String::from_utf8_lossy(&outcome.stdout).contains("1 passed"), "the test was not found again");
        return;
    }
    let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    let cycle = || {
        let (zero, one) = (endpoint(V4, 1), endpoint(V4, 1));
        let stranger = TcpStream::connect(one.addrs()[0]).unwrap();
        let (ends_of_zero, ends_of_one) = connect(&zero, &one, 2);
        let parked = zero.connect(&at(one.addrs()[0]), side(0, 5), Strands::sockets(1), true, within(PATIENT), &never);
        drop((zero, one));
        drop((stranger, parked.unwrap(), ends_of_zero.unwrap(), ends_of_one.unwrap()));
    };
    cycle();
    let before = (count("fd"), count("task"));
    for _ in 0..200 {
        cycle();
    }
    // A thread that was joined may still be listed for a moment.
    let started = Instant::now();
    while (count("fd"), count("task")) != before && started.elapsed() < PATIENT {
        thread::yield_now();
    }
    assert_eq!((count("fd"), count("task")), before);
}

#[test]
fn an_endpoint_says_where_it_is() {
    let addr: SocketAddr = endpoint(V4, 1).addrs()[0];
    assert_eq!(addr.ip(), V4);
    assert_ne!(addr.port(), 0);
}
