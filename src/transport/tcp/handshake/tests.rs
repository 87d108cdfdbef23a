//! One handshake between two ends of this process, and what others make of it.

use super::*;
use crate::transport::tcp::Secret;
use crate::transport::tcp::frame::HEADER_BYTES;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

const PATIENT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (dialled, listener.accept().unwrap().0)
}

fn within(timeout: Duration) -> Instant {
    Instant::now() + timeout
}

fn terms(secret: u8) -> Terms {
    terms_for(secret, Some(Guard::Plain), "rank 1")
}

fn terms_for(secret: u8, guard: Option<Guard>, whom: &str) -> Terms {
    Terms::new(Secret::from_bytes([secret; 32]), guard, "test", &[whom.as_bytes()])
}

/// The responder's half, with the waits that its user has elsewhere.
fn respond(
    stream: &TcpStream,
    terms: &Terms,
    deadline: Instant,
    answer: impl FnOnce(&[u8]) -> Result<Vec<u8>>,
) -> Result<(Vec<u8>, Session)> {
    let patience = Patience { stream, started: Instant::now(), deadline, cancelled: &|| None };
    let mut responding = Responding::new(terms);
    let hello = loop {
        match responding.advance(stream)? {
            Some(hello) => break hello,
            None => patience.wait().map_err(|error| blame(stream, error))?,
        }
    };
    let answer = answer(&hello);
    Ok((hello, responding.answer(stream, answer)?))
}

type Shaken = Result<(Vec<u8>, Session)>;

/// Both ends of one handshake, and the two streams as it left them.
fn shake(ours: Terms, theirs: Terms) -> (Shaken, Shaken, TcpStream, TcpStream) {
    let (dialled, accepted) = pair();
    let responder = thread::spawn(move || {
        let hello = respond(&accepted, &theirs, within(PATIENT), |hello| Ok([b"re: ", hello].concat()));
        (hello, accepted)
    });
    let answer = initiate(&dialled, &ours, b"hello", within(PATIENT));
    let (hello, accepted) = responder.join().unwrap();
    (answer, hello, dialled, accepted)
}

#[test]
fn both_ends_learn_what_the_other_said_and_the_stream_goes_on_plain() {
    let (answer, hello, mut dialled, mut accepted) = shake(terms(1), terms(1));
    assert_eq!((answer.unwrap().0, hello.unwrap().0), (b"re: hello".to_vec(), b"hello".to_vec()));
    accepted.write_all(b"plain").unwrap();
    let mut plain = [0; 5];
    dialled.read_exact(&mut plain).unwrap();
    assert_eq!(&plain, b"plain");
}

#[test]
fn another_secret_is_refused_and_both_are_told() {
    let (answer, hello, ..) = shake(terms(1), terms(2));
    assert!(answer.unwrap_err().to_string().contains("another job may be listening"));
    let refused = hello.unwrap_err().to_string();
    assert!(refused.contains("127.0.0.1:") && refused.contains("does not hold"), "{refused}");
}

#[test]
fn a_refusal_reaches_the_initiator_in_words() {
    let (dialled, accepted) = pair();
    let secret = terms(3);
    let theirs = secret.clone();
    let responder =
        thread::spawn(move || respond(&accepted, &theirs, within(PATIENT), |_| Err(Error::invalid("rank 9 of 4"))));
    let refused = initiate(&dialled, &secret, b"", within(PATIENT)).unwrap_err();
    assert!(refused.to_string().contains("refused: invalid argument: rank 9 of 4"), "{refused}");
    assert_eq!(responder.join().unwrap().err(), Some(Error::invalid("rank 9 of 4")));
}

/// Carries the bytes of a real handshake and keeps what the initiator sent.
fn record(secret: &Terms) -> Vec<u8> {
    let (dialled, mut middle_in) = pair();
    let (mut middle_out, accepted) = pair();
    let (ours, theirs) = (secret.clone(), secret.clone());
    let initiator = thread::spawn(move || initiate(&dialled, &ours, b"hello", within(PATIENT)));
    let responder = thread::spawn(move || respond(&accepted, &theirs, within(PATIENT), |_| Ok(Vec::new())));
    let mut sent = Vec::new();
    let frame_bytes = |payload_bytes: usize| HEADER_BYTES + payload_bytes + TAG_BYTES;
    for (upward_bytes, downward_bytes) in
        [(frame_bytes(32), frame_bytes(32)), (frame_bytes(b"hello".len()), frame_bytes(1))]
    {
        let mut upward = vec![0; upward_bytes];
        middle_in.read_exact(&mut upward).unwrap();
        middle_out.write_all(&upward).unwrap();
        sent.extend_from_slice(&upward);
        let mut downward = vec![0; downward_bytes];
        middle_out.read_exact(&mut downward).unwrap();
        middle_in.write_all(&downward).unwrap();
    }
    initiator.join().unwrap().unwrap();
    assert_eq!(responder.join().unwrap().unwrap().0, b"hello");
    sent
}

#[test]
fn a_recorded_initiator_is_not_believed() {
    let secret = terms(4);
    let sent = record(&secret);
    let (mut replayed, accepted) = pair();
    replayed.write_all(&sent).unwrap();
    let refused = respond(&accepted, &secret, within(PATIENT), |_| panic!("the hello of a recording was read"));
    assert!(refused.unwrap_err().to_string().contains("does not hold this job's secret"));
}

#[test]
fn an_initiator_that_hears_its_own_words_is_not_fooled() {
    let (dialled, mut mirror) = pair();
    let secret = terms(5);
    let initiator = thread::spawn(move || initiate(&dialled, &secret, b"hello", within(PATIENT)));
    let mut key = [0; HEADER_BYTES + KEY_FRAME_BYTES];
    mirror.read_exact(&mut key).unwrap();
    mirror.write_all(&key).unwrap();
    assert!(initiator.join().unwrap().unwrap_err().to_string().contains("does not hold"));
}

#[test]
fn silence_ends_at_the_deadline_on_both_sides() {
    let (dialled, accepted) = pair();
    let secret = terms(6);
    let silent = respond(&accepted, &secret, within(SHORT), |_| unreachable!()).unwrap_err();
    assert!(silent.to_string().contains("did not finish the handshake within 0."), "{silent}");
    let silent = initiate(&dialled, &secret, b"", within(SHORT)).unwrap_err();
    assert!(silent.to_string().contains("did not finish the handshake within 0."), "{silent}");
}

#[test]
fn dripping_bytes_does_not_extend_the_deadline() {
    let (mut dialled, accepted) = pair();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let dripper = thread::spawn(move || {
        // Never more than a start of the first frame: at most 51 bytes, each well within any per-read timeout.
        for byte in b"RNDL\0\x03\0\0\x30".iter().chain([0; 42].iter()) {
            if dialled.write_all(&[*byte]).is_err() || stopped.recv_timeout(SHORT / 10).is_ok() {
                return;
            }
        }
    });
    let dripped = respond(&accepted, &terms(7), within(SHORT), |_| unreachable!()).unwrap_err();
    assert!(dripped.to_string().contains("did not finish"), "{dripped}");
    let _ = stop.send(());
    dripper.join().unwrap();
}

#[test]
fn a_cut_short_frame_and_a_web_browser_are_errors_at_once() {
    for (sent, expected) in [(&b"RNDL\0\x03"[..], "closed the connection"), (b"GET / HTTP/1.1", "does not speak")] {
        let (mut dialled, accepted) = pair();
        dialled.write_all(sent).unwrap();
        drop(dialled);
        let refused = respond(&accepted, &terms(8), within(PATIENT), |_| unreachable!());
        assert!(refused.as_ref().unwrap_err().to_string().contains(expected), "{refused:?}");
    }
}

/// Everything the responder may differ in, and the words that name it to the initiator.
#[test]
fn other_terms_are_refused_and_both_are_told() {
    let ours = || terms_for(1, Some(Guard::Encryption), "rank 1");
    for (theirs, words) in [
        (terms_for(1, Some(Guard::Encryption), "rank 2"), "not whom this rank looks for"),
        (
            terms_for(1, Some(Guard::Plain), "rank 1"),
            "it has ROUNDEL_ENCRYPT=0 and ROUNDEL_CHECKSUM=0, this rank has ROUNDEL_ENCRYPT=1",
        ),
        (terms_for(1, Some(Guard::Checksum), "rank 1"), "ROUNDEL_CHECKSUM=1"),
    ] {
        let (answer, hello, ..) = shake(ours(), theirs);
        let refused = answer.err().unwrap().to_string();
        assert!(refused.contains(words), "{refused}");
        assert!(hello.is_err());
    }
    let other = Terms::new(Secret::from_bytes([1; 32]), Some(Guard::Encryption), "another plane", &[b"rank 1"]);
    assert!(shake(ours(), other).0.is_err());
}

#[test]
fn a_responder_without_a_wish_takes_the_initiators_and_both_have_the_same_keys() {
    for guard in [Guard::Plain, Guard::Checksum, Guard::Encryption] {
        let (answer, hello, ..) = shake(terms_for(1, Some(guard), "x"), terms_for(1, None, "x"));
        let (ours, theirs) = (answer.unwrap().1.split(100), hello.unwrap().1.split(100));
        for (sealer, opener) in [(ours.0, theirs.1), (theirs.0, ours.1)] {
            let (Some(mut sealer), Some(mut opener)) = (sealer, opener) else {
                assert_eq!(guard, Guard::Plain);
                continue;
            };
            sealer.seal(2, |room| room.copy_from_slice(b"hi"));
            opener.room()[..sealer.pending().len()].copy_from_slice(sealer.pending());
            opener.received(sealer.pending().len());
            assert_eq!(opener.opened(), Ok(&b"hi"[..]));
        }
    }
    assert!(shake(terms_for(1, None, "x"), terms(1)).0.is_err(), "whoever dials must say");
}

/// Somebody on the way makes the initiator's first message ask for no encryption, and the answers look as if it had been
/// granted.
#[test]
fn nobody_on_the_way_can_talk_them_out_of_encryption() {
    let (dialled, mut middle_in) = pair();
    let (mut middle_out, accepted) = pair();
    let ours = terms_for(1, Some(Guard::Encryption), "x");
    let initiator = thread::spawn(move || initiate(&dialled, &ours, b"hello", within(PATIENT)));
    // A root would take either.
    let theirs = terms_for(1, None, "x");
    let responder = thread::spawn(move || respond(&accepted, &theirs, within(PATIENT), |_| Ok(Vec::new())));
    const GUARD_AT: usize = 6;
    let mut first = [0; HEADER_BYTES + KEY_FRAME_BYTES];
    middle_in.read_exact(&mut first).unwrap();
    assert_eq!(first[GUARD_AT], Guard::Encryption as u8);
    first[GUARD_AT] = Guard::Plain as u8;
    middle_out.write_all(&first).unwrap();
    let refused = responder.join().unwrap().err().unwrap().to_string();
    assert!(refused.contains("does not hold"), "{refused}");
    let mut second = [0; HEADER_BYTES];
    middle_out.read_exact(&mut second).unwrap();
    second[GUARD_AT] = Guard::Encryption as u8;
    middle_in.write_all(&second).unwrap();
    assert!(initiator.join().unwrap().is_err());
}

#[test]
fn another_version_is_named_to_both() {
    let (dialled, accepted) = pair();
    let responder = thread::spawn(move || respond(&accepted, &terms(1), within(PATIENT), |_| unreachable!()));
    let mut dialled_again = dialled.try_clone().unwrap();
    dialled_again.write_all(b"RNDL\0\x63\0\0\x30").unwrap();
    assert!(responder.join().unwrap().err().unwrap().to_string().contains("version 99"));
    let mut told = [0; HEADER_BYTES];
    dialled_again.read_exact(&mut told).unwrap();
    assert_eq!(told[4..6], PROTOCOL_VERSION.to_be_bytes());
}
