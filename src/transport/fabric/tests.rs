//! Whole links between two endpoints of this process, over the providers that stand on sockets.
#![forbid(unsafe_code)]

use super::*;
use crate::error::{Error, Result};
use crate::memory::{Block, Span};
use crate::transport::tcp::{Callee, Endpoint, Guard, Identity, LinkSide, Secret, Strands};
use crate::transport::{Rx, Tx};
use crate::types::Rank;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A bound for what takes milliseconds unless it hangs.
const LONG: Duration = Duration::from_secs(60);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

type Ends = (FabricTx, FabricRx);

/// False, with a line that says so, where libfabric or this provider of it is missing.
fn has(provider: &str) -> bool {
    let opened = Hub::open(&[provider.to_string()], Some(HERE));
    let required = std::env::var("ROUNDEL_TEST_REQUIRE").unwrap_or_default();
    let is_required = required.split([',', ' ']).any(|word| word == "fabric");
    assert!(opened.is_ok() || !is_required, "fabric is required, but {:?}", opened.err());
    if let Err(error) = &opened {
        eprintln!("skipped: {error}");
    }
    opened.is_ok()
}

fn hub(provider: &str) -> Arc<Hub> {
    Hub::open(&[provider.to_string()], Some(HERE)).unwrap()
}

fn unheard() -> Wake {
    Arc::new(|| {})
}

/// The two sides of an authenticated connection.
fn connection() -> [(Box<dyn Tx>, Box<dyn Rx>); 2] {
    let endpoint = |rank: Rank| {
        let process = rank as u64;
        let identity =
            Identity { secret: Secret::from_bytes([1; 32]), job: [3; 16], rank, process, guard: Guard::Plain };
        Endpoint::listen(&[HERE], None, identity).unwrap()
    };
    let (zero, one) = (endpoint(0), endpoint(1));
    let side = |me, peer| LinkSide { comm: 7, epoch: 0, me, peer, channel: 0 };
    let connect = |from: &Endpoint, to: &Endpoint, side: LinkSide| {
        let to = Callee { addrs: to.addrs().to_vec(), rank: side.peer, process: side.peer as u64 };
        let ends = from.connect(&to, side, Strands::sockets(1), side.me == 0, Instant::now() + LONG, &|| None).unwrap();
        (Box::new(ends.0) as Box<dyn Tx>, Box::new(ends.1) as Box<dyn Rx>)
    };
    thread::scope(|scope| {
        let dialling = scope.spawn(|| connect(&zero, &one, side(0, 1)));
        let waiting = connect(&one, &zero, side(1, 0));
        [dialling.join().unwrap(), waiting]
    })
}

fn finish(mut greeting: Greeting) -> Ends {
    patiently(|| greeting.advance().unwrap())
}

/// Asks again until there is an answer.
fn patiently<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < LONG, "nothing moved for {LONG:?}");
        thread::yield_now();
    }
}

fn linked_between(zero: &Arc<Hub>, one: &Arc<Hub>, wakes: [Wake; 2]) -> (Ends, Ends) {
    let [connection_of_zero, connection_of_one] = connection();
    let [wake_of_zero, wake_of_one] = wakes;
    let greeting_of_zero = Greeting::begin(zero, 1, connection_of_zero, wake_of_zero).unwrap();
    let greeting_of_one = Greeting::begin(one, 0, connection_of_one, wake_of_one).unwrap();
    thread::scope(|scope| {
        let zero = scope.spawn(|| finish(greeting_of_zero));
        let one = finish(greeting_of_one);
        (zero.join().unwrap(), one)
    })
}

fn linked(provider: &str) -> (Ends, Ends) {
    linked_between(&hub(provider), &hub(provider), [unheard(), unheard()])
}

/// A small generator of numbers that do not repeat soon (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)) % end as u64) as usize
    }

    /// Mostly small, sometimes more than a few slots.
    fn slice_bytes(&mut self) -> usize {
        let end = [8, 100, 5_000, 70_000, 300_000][self.below(5)];
        1 + self.below(end)
    }
}

/// The byte at `at` of the stream that `rank` sends.
fn byte(rank: usize, at: usize) -> u8 {
    ((at as u64 ^ ((rank as u64) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn stream(rank: usize, from: usize, len_bytes: usize) -> Block {
    let block = Block::new(len_bytes.next_multiple_of(8));
    block.span().write(&(from..from + len_bytes).map(|at| byte(rank, at)).collect::<Vec<u8>>());
    block
}

fn expect(span: Span, rank: usize, at: usize) {
    let mut bytes = vec![0; span.len()];
    span.read(&mut bytes);
    if let Some(wrong) = bytes.iter().enumerate().position(|(i, found)| *found != byte(rank, at + i)) {
        panic!("byte {} of rank {rank}'s stream is wrong", at + wrong);
    }
}

fn send_some(tx: &mut FabricTx, dice: &mut Dice, me: usize, at: usize, end: usize) -> usize {
    let len_bytes = dice.slice_bytes().min(end - at);
    let block = stream(me, at, len_bytes);
    if dice.below(3) != 0 {
        return tx.send(block.span().cut(0, len_bytes)).unwrap();
    }
    let room = tx.reserve(len_bytes).unwrap();
    assert!(room.len() <= len_bytes && room.addr().is_multiple_of(8));
    assert!(room.len() == len_bytes || room.len().is_multiple_of(8), "{} of {len_bytes}", room.len());
    let used_bytes = if room.is_empty() { 0 } else { dice.below(room.len() + 1) };
    room.cut(0, used_bytes).copy_from(block.span().cut(0, used_bytes));
    tx.commit(used_bytes).unwrap();
    used_bytes
}

fn receive_some(rx: &mut FabricRx, dice: &mut Dice, peer: usize, at: usize, end: usize) -> usize {
    let len_bytes = dice.slice_bytes().min(end - at);
    let unit_bytes = 1 << dice.below(4);
    if len_bytes < unit_bytes || dice.below(2) == 0 {
        let block = Block::new(len_bytes.next_multiple_of(8));
        let got_bytes = rx.recv(block.span().cut(0, len_bytes)).unwrap();
        expect(block.span().cut(0, got_bytes), peer, at);
        return got_bytes;
    }
    let span = rx.arrived(unit_bytes, len_bytes).unwrap();
    let whole_bytes = |bytes: usize| bytes - bytes % unit_bytes;
    assert!(span.len() == whole_bytes(span.len()) && span.len() <= len_bytes);
    assert!(span.is_empty() || span.addr().is_multiple_of(unit_bytes));
    expect(span, peer, at);
    // A part of it first; the rest must stay where it is until it is released too.
    let first_bytes = whole_bytes(dice.below(span.len() + 1));
    rx.release(first_bytes).unwrap();
    if first_bytes == span.len() {
        return first_bytes;
    }
    let rest = rx.arrived(unit_bytes, span.len() - first_bytes).unwrap();
    assert!(rest == span.from(first_bytes), "{rest:?} after {first_bytes} of {span:?}");
    rx.release(rest.len()).unwrap();
    span.len()
}

/// Sends `total_bytes` and receives as many, both at once, in slices that the seed decides.
fn exchange((mut tx, mut rx): Ends, me: usize, total_bytes: usize, seed: u64) -> Ends {
    let mut dice = Dice(seed + me as u64);
    let (mut sent, mut received, mut is_flushed) = (0, 0, true);
    let mut last_news = Instant::now();
    while received < total_bytes || sent < total_bytes || !is_flushed {
        let went = if sent < total_bytes { send_some(&mut tx, &mut dice, me, sent, total_bytes) } else { 0 };
        let came = match received < total_bytes {
            true => receive_some(&mut rx, &mut dice, 1 - me, received, total_bytes),
            false => 0,
        };
        (sent, received) = (sent + went, received + came);
        if went + came > 0 {
            last_news = Instant::now();
        } else {
            thread::yield_now();
        }
        is_flushed = (went == 0 || dice.below(4) == 0) && tx.flush().unwrap();
        assert!(last_news.elapsed() < LONG, "stuck: {sent} sent, {received} received of {total_bytes}");
    }
    (tx, rx)
}

fn lost(peer: usize) -> Error {
    Error::PeerLost { suspects: vec![peer], what: "closed its connection".into(), during: None }
}

/// Receives nothing more, and then the end.
fn end_of(rx: &mut FabricRx) -> Error {
    let block = Block::new(8);
    patiently(|| match rx.recv(block.span()) {
        Ok(0) => None,
        Ok(more) => panic!("{more} bytes too many"),
        Err(error) => Some(error),
    })
}

#[test]
fn both_directions_at_once_in_any_slices() {
    for provider in ["tcp;ofi_rxm", "net"].into_iter().filter(|provider| has(provider)) {
        let (zero, one) = linked(provider);
        let other = thread::spawn(move || exchange(one, 1, 5 << 20, 99));
        let (_tx, mut rx) = exchange(zero, 0, 5 << 20, 99);
        drop(other.join().unwrap());
        assert_eq!(end_of(&mut rx), lost(1));
    }
}

#[test]
fn what_a_peer_sent_before_it_left_is_delivered_then_comes_the_error() {
    if !has("tcp;ofi_rxm") {
        return;
    }
    let ((mut tx, rx_of_zero), (tx_of_one, mut rx)) = linked("tcp;ofi_rxm");
    let total_bytes: usize = 300_003;
    let leaving = thread::spawn(move || {
        let block = stream(0, 0, total_bytes);
        let mut sent = 0;
        patiently(|| {
            sent += tx.send(block.span().cut(sent, total_bytes - sent)).unwrap();
            (sent == total_bytes).then_some(())
        });
        patiently(|| tx.flush().unwrap().then_some(()));
        drop((tx, rx_of_zero));
    });
    leaving.join().unwrap();
    let mut received = 0;
    let error = patiently(|| match rx.arrived(4, 1 << 20) {
        Ok(span) => {
            expect(span, 0, received);
            received += span.len();
            rx.release(span.len()).unwrap();
            None
        }
        Err(error) => Some(error),
    });
    // The last three bytes are no whole element: they were held back to the end.
    assert_eq!((received, error), (total_bytes - 3, lost(0)));
    let block = Block::new(8);
    assert_eq!(rx.recv(block.span()), Ok(3));
    expect(block.span().cut(0, 3), 0, received);
    assert_eq!(end_of(&mut rx), lost(0));
    drop(tx_of_one);
}

#[test]
fn sending_to_a_peer_that_left_is_an_error() {
    if !has("net") {
        return;
    }
    let ((mut tx, _rx), ends_of_one) = linked("net");
    drop(ends_of_one);
    let block = Block::new(64 * 1024);
    let error = patiently(|| tx.send(block.span()).and_then(|_| tx.flush()).err());
    assert!(matches!(&error, Error::PeerLost { suspects, .. } if suspects == &[1]), "{error}");
}

#[test]
fn nobody_drives_and_yet_bytes_arrive_and_the_sleeper_is_woken() {
    if !has("tcp;ofi_rxm") {
        return;
    }
    let woken = Arc::new(AtomicUsize::new(0));
    let counted = woken.clone();
    let wake: Wake = Arc::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let (zero, one) = (hub("tcp;ofi_rxm"), hub("tcp;ofi_rxm"));
    let ((mut tx, _rx), (_tx, mut rx)) = linked_between(&zero, &one, [unheard(), wake]);
    for _ in 0..5 {
        // The receiver sleeps from here on: it does not look until it is woken.
        assert!(rx.interest().is_some());
        let before = woken.load(Ordering::SeqCst);
        assert_eq!(tx.send(stream(0, 0, 8).span()), Ok(8));
        patiently(|| tx.flush().unwrap().then_some(()));
        patiently(|| (woken.load(Ordering::SeqCst) > before).then_some(()));
        let arrived = patiently(|| Some(rx.arrived(8, 8).unwrap()).filter(|span| !span.is_empty()));
        expect(arrived, 0, 0);
        rx.release(8).unwrap();
    }
}

#[test]
fn a_ring_holds_back_who_sends_more_than_is_taken() {
    if !has("net") {
        return;
    }
    let ((mut tx, _rx), (_tx, mut rx)) = linked("net");
    let block = stream(0, 0, 4 << 20);
    let (mut sent, mut last_news) = (0, Instant::now());
    // Until nothing has moved for a while: time enough for all that is under way.
    while last_news.elapsed() < Duration::from_millis(100) {
        match tx.send(block.span().from(sent)).unwrap() {
            0 => thread::yield_now(),
            more => (sent, last_news) = (sent + more, Instant::now()),
        }
    }
    assert!(sent > 0 && sent < 2 << 20, "{sent} bytes were taken without a receiver");
    let target = Block::new(4 << 20);
    let mut received = 0;
    while received < target.span().len() {
        sent += tx.send(block.span().from(sent)).unwrap();
        tx.flush().unwrap();
        received += rx.recv(target.span().from(received)).unwrap();
        assert!(last_news.elapsed() < LONG);
    }
    expect(target.span(), 0, 0);
}

#[test]
fn links_of_one_hub_come_and_go_beside_each_other() {
    if !has("tcp;ofi_rxm") {
        return;
    }
    let (zero, one) = (hub("tcp;ofi_rxm"), hub("tcp;ofi_rxm"));
    for seed in 0..3 {
        let kept = linked_between(&zero, &one, [unheard(), unheard()]);
        let links: Vec<_> = (0..3).map(|_| linked_between(&zero, &one, [unheard(), unheard()])).collect();
        thread::scope(|scope| {
            for (at, (ends_of_zero, ends_of_one)) in links.into_iter().enumerate() {
                scope.spawn(move || exchange(ends_of_zero, 0, 200_000, seed + at as u64));
                scope.spawn(move || exchange(ends_of_one, 1, 200_000, seed + at as u64));
            }
        });
        let other = thread::spawn(move || exchange(kept.1, 1, 50_000, seed));
        exchange(kept.0, 0, 50_000, seed);
        other.join().unwrap();
    }
}

#[test]
fn a_provider_that_is_not_here_is_an_error_that_names_it() {
    if !has("net") {
        return;
    }
    let error = Hub::open(&["no-such-provider".into()], Some(HERE)).err().unwrap().to_string();
    assert!(error.contains("no-such-provider"), "{error}");
    // The first that is there is taken.
    let hub = Hub::open(&["no-such-provider".into(), "net".into()], Some(HERE)).unwrap();
    assert_eq!(hub.provider(), "net");
}

fn card_of(bytes: &[u8]) -> Result<Option<control::Card>> {
    let [(mut tx, _rx), (tx_of_one, rx_of_one)] = connection();
    let block = Block::new(bytes.len().next_multiple_of(8).max(8));
    block.span().write(bytes);
    assert_eq!(tx.send(block.span().cut(0, bytes.len())), Ok(bytes.len()));
    patiently(|| tx.flush().unwrap().then_some(()));
    let mut control = control::Control::new(0, tx_of_one, rx_of_one);
    patiently(|| match control.card() {
        Ok(None) => None,
        outcome => Some(outcome),
    })
}

#[test]
fn cards_that_make_no_sense_are_refused() {
    for bytes in [&b"\xff\xff"[..], b"\0\x05\xff\xff\xff\xff\xff", b"\0\0"] {
        let error = card_of(bytes).unwrap_err().to_string();
        assert!(error.contains("rank 0 sent a card"), "{error}");
    }
}
