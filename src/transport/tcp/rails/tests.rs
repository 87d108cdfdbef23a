//! Links over rails that are cut, that were never there, and that talk nonsense. A rail is a loopback address, and somebody in
//! between who passes bytes on until it is told not to.

use super::super::tests::{
    Dice, Ends, PATIENT, exchange, expect, identity, never, side, sleep_on, wait_for_end, within,
};
use super::super::{Callee, Endpoint, Guard, Strands, TcpRx};
use crate::error::{Error, Result};
use crate::memory::Block;
use crate::transport::{Rx, Tx};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

/// A rail that can be cut.
#[derive(Clone)]
struct Cable {
    addr: SocketAddr,
    /// Bytes that it still carries, both ways together.
    left_bytes: Arc<AtomicI64>,
    /// Carries nothing, and is not cut.
    is_stuck: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cable {
    /// Leads to `target`.
    fn to(target: SocketAddr) -> Cable {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let cable = Cable {
            addr: listener.local_addr().unwrap(),
            left_bytes: Arc::new(AtomicI64::new(i64::MAX)),
            is_stuck: Arc::default(),
            streams: Arc::default(),
        };
        let mine = cable.clone();
        thread::spawn(move || {
            for down in listener.incoming() {
                let (down, Ok(up)) = (down.unwrap(), TcpStream::connect(target)) else { return };
                mine.streams.lock().unwrap().extend([down.try_clone().unwrap(), up.try_clone().unwrap()]);
                mine.carry(down.try_clone().unwrap(), up.try_clone().unwrap());
                mine.carry(up, down);
            }
        });
        cable
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let cable = self.clone();
        thread::spawn(move || {
            let mut piece = vec![0; 30_000];
            while let Ok(len_bytes @ 1..) = from.read(&mut piece) {
                // Relaxed, here and below: nothing but the numbers themselves is passed on.
                while cable.is_stuck.load(Ordering::Relaxed) && cable.left_bytes.load(Ordering::Relaxed) > 0 {
                    thread::yield_now();
                }
                let left_bytes = cable.left_bytes.fetch_sub(len_bytes as i64, Ordering::Relaxed).max(0) as usize;
                if to.write_all(&piece[..len_bytes.min(left_bytes)]).is_err() || left_bytes < len_bytes {
                    if left_bytes < len_bytes {
                        cable.cut();
                    }
                    return;
                }
            }
            // Only this way: the other end may have more to say.
            let _ = to.shutdown(Shutdown::Write);
        });
    }

    fn cut(&self) {
        self.left_bytes.store(0, Ordering::Relaxed);
        for stream in &*self.streams.lock().unwrap() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn endpoint(rails: u8, guard: Guard) -> Arc<Endpoint> {
    let binds: Vec<IpAddr> = (1..=rails).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect();
    Endpoint::listen(&binds, None, identity(1, guard)).unwrap()
}

fn at(addrs: &[SocketAddr]) -> Callee {
    Callee { addrs: addrs.to_vec(), rank: 1, process: 5 }
}

/// Rank 0's ends and rank 1's; rank 0 dials rank 1 at those addresses.
fn connect(zero: &Endpoint, one: &Endpoint, addrs: &[SocketAddr], strands: Strands) -> (Result<Ends>, Result<Ends>) {
    thread::scope(|scope| {
        let dialling = scope.spawn(|| zero.connect(&at(addrs), side(0, 1), strands, true, within(PATIENT), &never));
        let waiting = one.connect(&at(zero.addrs()), side(1, 0), strands, false, within(PATIENT), &never);
        (dialling.join().unwrap(), waiting)
    })
}

/// A link whose rails can be cut.
fn linked(guard: Guard, strands: Strands) -> (Ends, Ends, Vec<Cable>) {
    let (zero, one) = (endpoint(strands.rails, guard), endpoint(strands.rails, guard));
    let cables: Vec<Cable> = one.addrs().iter().map(|addr| Cable::to(*addr)).collect();
    let addrs: Vec<SocketAddr> = cables.iter().map(|cable| cable.addr).collect();
    let (ends_of_zero, ends_of_one) = connect(&zero, &one, &addrs, strands);
    (ends_of_zero.unwrap(), ends_of_one.unwrap(), cables)
}

/// Both send so much to each other, and get it right.
fn exchange_between(zero: Ends, one: Ends, total_bytes: usize, seed: u64) -> (Ends, Ends) {
    let other = thread::spawn(move || exchange(one, 1, total_bytes, seed));
    let zero = exchange(zero, 0, total_bytes, seed);
    (zero, other.join().unwrap())
}

/// As far as the link lets it.
fn send_all(tx: &mut super::super::TcpTx, bytes: &[u8]) -> Result<()> {
    let block = Block::new(bytes.len().next_multiple_of(8));
    block.span().write(bytes);
    let mut sent = 0;
    while sent < bytes.len() || !tx.flush()? {
        match tx.send(block.span().cut(sent, bytes.len() - sent))? {
            0 if sent < bytes.len() || !tx.flush()? => sleep_on(Some(tx), None),
            more => sent += more,
        }
    }
    Ok(())
}

fn stream(total_bytes: usize) -> Vec<u8> {
    (0..total_bytes).map(|at| super::super::tests::byte(0, at)).collect()
}

/// Receives and checks so much of rank 0's stream from `at` on.
fn receive(rx: &mut TcpRx, mut at: usize, end: usize) {
    let block = Block::new(1 << 16);
    while at < end {
        let got_bytes = rx.recv(block.span().cut(0, (end - at).min(1 << 16))).unwrap();
        if got_bytes == 0 {
            sleep_on(None, Some(rx));
        }
        expect(block.span().cut(0, got_bytes), 0, at);
        at += got_bytes;
    }
}

fn patiently(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENT, "{what}");
        thread::yield_now();
    }
}

#[test]
fn both_directions_at_once_over_several_rails() {
    for (rails, sockets, guard) in [
        (2, 1, Guard::Plain),
        (3, 2, Guard::Plain),
        (2, 2, Guard::Checksum),
        (2, 1, Guard::Encryption),
        (8, 16, Guard::Plain),
    ] {
        let (zero, one) = (endpoint(rails, guard), endpoint(rails, guard));
        let (of_zero, of_one) = connect(&zero, &one, one.addrs(), Strands { rails, sockets });
        let ((_tx, mut rx), of_one) = exchange_between(of_zero.unwrap(), of_one.unwrap(), 5 << 20, 7);
        drop(of_one);
        wait_for_end(&mut rx, 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Two of three rails are cut, each at some byte of what it carries.
    #[test]
    fn cut_anywhere_every_byte_arrives_once_and_in_order(
        seed: u64,
        spared in 0usize..3,
        cuts in proptest::array::uniform2(0i64..1_500_000),
        guard in proptest::sample::select(vec![Guard::Plain, Guard::Encryption]),
        sockets in 1u8..3,
    ) {
        let (zero, one, cables) = linked(guard, Strands { rails: 3, sockets });
        for (cable, cut) in (1..3).map(|more| &cables[(spared + more) % 3]).zip(cuts) {
            cable.left_bytes.store(cut, Ordering::Relaxed);
        }
        exchange_between(zero, one, 2 << 20, seed);
    }
}

#[test]
fn a_rail_that_is_cut_in_the_midst_is_noticed_and_the_link_goes_on() {
    let (zero, one, cables) = linked(Guard::Plain, Strands { rails: 2, sockets: 1 });
    let (zero, one) = exchange_between(zero, one, 1 << 20, 3);
    cables[0].cut();
    let (zero, one) = exchange_between(zero, one, 1 << 20, 4);
    patiently("the cut rail still counts", || zero.0.rails().rails().1 == [false, true]);
    cables[1].cut();
    let other = thread::spawn(move || {
        let (_tx, mut rx) = one;
        wait_for_end(&mut rx, 0);
    });
    let (mut tx, _rx) = zero;
    let error = loop {
        if let Err(error) = send_all(&mut tx, &[0; 100_000]) {
            break error;
        }
    };
    assert!(matches!(&error, Error::PeerLost { suspects, .. } if suspects == &[1]), "{error}");
    other.join().unwrap();
}

#[test]
fn what_is_lost_after_the_senders_call_is_sent_again_without_it() {
    let (zero, one, cables) = linked(Guard::Plain, Strands { rails: 2, sockets: 1 });
    let ((mut tx, _rx), (_tx, mut rx)) = (zero, one);
    cables.iter().for_each(|cable| cable.is_stuck.store(true, Ordering::Relaxed));
    // One parcel: the first rail has all of it.
    let bytes = stream(60_000);
    send_all(&mut tx, &bytes).unwrap();
    assert_eq!(tx.rails().open_bytes(), bytes.len());
    // Nobody calls the sender any more.
    cables[0].cut();
    cables[1].is_stuck.store(false, Ordering::Relaxed);
    receive(&mut rx, 0, bytes.len());
    patiently("the receipt did not come", || tx.rails().open_bytes() == 0);
}

#[test]
fn a_window_that_nobody_reads_is_full_and_kills_no_rail() {
    let (zero, one, _cables) = linked(Guard::Plain, Strands { rails: 2, sockets: 1 });
    let ((mut tx, _rx), (_tx, mut rx)) = (zero, one);
    let bytes = stream(6 << 20);
    let block = Block::new(bytes.len());
    block.span().write(&bytes);
    let mut sent = 0;
    let until = Instant::now() + super::vitals::SILENCE * 2;
    while Instant::now() < until {
        sent += tx.send(block.span().from(sent)).unwrap();
        thread::yield_now();
    }
    assert!(sent >= super::WINDOW_BYTES && sent < bytes.len(), "{sent} bytes went");
    assert_eq!(tx.rails().rails().1, [true, true]);
    let receiving = thread::spawn(move || receive(&mut rx, 0, 6 << 20));
    send_all(&mut tx, &bytes[sent..]).unwrap();
    receiving.join().unwrap();
}

#[test]
fn what_a_peer_sent_before_it_left_is_delivered_then_comes_the_error() {
    let (zero, one, _cables) = linked(Guard::Plain, Strands { rails: 2, sockets: 2 });
    let ((mut tx, rx_of_zero), (_tx, mut rx)) = (zero, one);
    send_all(&mut tx, &stream(1_000_000)).unwrap();
    drop((tx, rx_of_zero));
    receive(&mut rx, 0, 1_000_000);
    wait_for_end(&mut rx, 0);
}

#[test]
fn nonsense_on_a_rail_costs_the_rail() {
    let mut dice = Dice(11);
    for rail in 0..2 {
        let (zero, one, _cables) = linked(Guard::Plain, Strands { rails: 2, sockets: 1 });
        let nonsense: Vec<u8> = (0..40).map(|_| dice.below(256) as u8).collect();
        let (rails, _) = zero.0.rails().rails();
        (&*rails[rail].data[0]).write_all(&nonsense).unwrap();
        let (zero, _one) = exchange_between(zero, one, 6 << 20, 5);
        let alive: Vec<bool> = (0..2).map(|other| other != rail).collect();
        patiently("the rail still counts", || zero.0.rails().rails().1 == alive);
    }
}

#[test]
fn receipts_that_make_no_sense_cost_the_rail() {
    let (zero, one, _cables) = linked(Guard::Plain, Strands { rails: 2, sockets: 1 });
    let (rails, _) = one.0.rails().rails();
    (&*rails[1].receipts).write_all(&super::parcel::encode_receipt(1 << 50)).unwrap();
    let (zero, _one) = exchange_between(zero, one, 6 << 20, 5);
    patiently("the rail still counts", || zero.0.rails().rails().1 == [true, false]);
}

#[test]
fn a_rail_that_is_not_there_is_left_out() {
    for missing in 0..2 {
        let (zero, one) = (endpoint(2, Guard::Encryption), endpoint(2, Guard::Encryption));
        let nobody = TcpListener::bind((Ipv4Addr::new(127, 9, 8, missing as u8 + 1), 0)).unwrap().local_addr().unwrap();
        let mut addrs = one.addrs().to_vec();
        addrs[missing] = nobody;
        let (of_zero, of_one) = connect(&zero, &one, &addrs, Strands { rails: 2, sockets: 2 });
        let (of_zero, of_one) = (of_zero.unwrap(), of_one.unwrap());
        let (rails, _) = of_one.0.rails().rails();
        assert_eq!(rails.iter().map(|rail| rail.number).collect::<Vec<_>>(), [1 - missing]);
        exchange_between(of_zero, of_one, 1 << 20, 9);
    }
}

#[test]
fn without_any_rail_dialling_ends_at_the_deadline_naming_the_rank() {
    let nobody: Vec<SocketAddr> = (4..6)
        .map(|last| TcpListener::bind((Ipv4Addr::new(127, 9, 8, last), 0)).unwrap().local_addr().unwrap())
        .collect();
    let deadline = Instant::now() + super::vitals::SILENCE / 5;
    let strands = Strands { rails: 2, sockets: 1 };
    let error = endpoint(2, Guard::Plain).connect(&at(&nobody), side(0, 1), strands, true, deadline, &never).err();
    assert!(matches!(&error, Some(Error::Bootstrap { missing, .. }) if missing == &[1]), "{error:?}");
    assert!(Instant::now() >= deadline);
}

#[test]
fn ranks_that_disagree_about_the_rails_are_told() {
    let (zero, one) = (endpoint(2, Guard::Plain), endpoint(3, Guard::Plain));
    let two = Strands { rails: 2, sockets: 1 };
    let _ends = zero.connect(&at(one.addrs()), side(0, 1), two, true, within(PATIENT), &never).unwrap();
    let three = Strands { rails: 3, sockets: 1 };
    let error = one.connect(&at(zero.addrs()), side(1, 0), three, false, within(PATIENT), &never).err().unwrap();
    assert!(error.to_string().contains("links of 2 rails of 1 sockets, rank 1 of 3 rails"), "{error}");
}
