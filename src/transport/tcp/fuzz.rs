//! What strangers send, for [`crate::fuzz`].
#![forbid(unsafe_code)]

use super::frame::Inbox;
use super::handshake;
use super::hello::decode_link_hello;
use super::record::{Opener, Sealer};
use super::secret::Secret;
use super::terms::{Guard, Terms};

fn terms() -> Terms {
    Terms::new(Secret::from_bytes([1; 32]), None, "fuzz", &[])
}

/// A stream of handshake frames in pieces, each tried as a first message and as a hello.
pub(crate) fn frames(bytes: &[u8]) {
    let (mut inbox, mut rest) = (Inbox::new(None), bytes);
    while let Ok(room) = inbox.room(handshake::MAX_MESSAGE_BYTES) {
        assert!(room.len() <= handshake::MAX_MESSAGE_BYTES);
        if room.is_empty() {
            let body = inbox.taken();
            handshake::try_first_message(&terms(), &body);
            decode_link_hello(&body);
            continue;
        }
        let len_bytes = room.len().min(rest.len()).min(7);
        if len_bytes == 0 {
            return;
        }
        room[..len_bytes].copy_from_slice(&rest[..len_bytes]);
        inbox.filled(len_bytes);
        rest = &rest[len_bytes..];
    }
}

pub(crate) fn some_frames() -> Vec<Vec<u8>> {
    let first = handshake::first_message(&terms(), Guard::Checksum);
    let hello = super::hello::some_link_hello();
    [vec![first], vec![Vec::new()], vec![hello.clone()], vec![hello, Vec::new()]]
        .map(|bodies| bodies.iter().flat_map(|body| super::frame::encode(Guard::Checksum, body)).collect())
        .into()
}

/// A stream of records: the first byte says how they are protected, the second in which pieces they come.
pub(crate) fn records(bytes: &[u8]) {
    let [guard, piece_bytes, stream @ ..] = bytes else { return };
    let guard = if guard % 2 == 0 { Guard::Checksum } else { Guard::Encryption };
    let mut opener = Opener::new(guard, &Secret::from_bytes([1; 32]), 64).expect("it protects");
    let mut rest = stream;
    while !rest.is_empty() {
        let room = opener.room();
        let len_bytes = room.len().min(rest.len()).min(usize::from(*piece_bytes) + 1);
        assert!(len_bytes > 0, "a stream that cannot go on");
        room[..len_bytes].copy_from_slice(&rest[..len_bytes]);
        opener.received(len_bytes);
        rest = &rest[len_bytes..];
        loop {
            let Ok(opened) = opener.opened() else { return };
            let len_bytes = opened.len();
            if len_bytes == 0 {
                break;
            }
            opener.take(len_bytes);
        }
    }
}

pub(crate) fn some_records() -> Vec<Vec<u8>> {
    let stream = |(code, guard)| {
        let mut sealer = Sealer::new(guard, &Secret::from_bytes([1; 32])).expect("it protects");
        let mut stream = vec![code, 20];
        for bytes in [&b"one"[..], b"another record", &[0; 200]] {
            sealer.seal(bytes.len(), |room| room.copy_from_slice(bytes));
            stream.extend_from_slice(sealer.pending());
            sealer.sent(sealer.pending().len());
        }
        stream
    };
    [(0, Guard::Checksum), (1, Guard::Encryption)].map(stream).into()
}
