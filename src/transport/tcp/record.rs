//! Protected bytes: a stream is cut into records, each with what shows that it arrived as it was sent.
//!
//! ```text
//!   len_bytes - 1: u16, and its complement | len_bytes bytes | proof        1 <= len_bytes <= 64 KiB
//!
//!   guard        the bytes      the proof
//!   checksum     as they are    CRC-32C over the record's number, its length and its bytes: 4 bytes
//!   encryption   AES-256-GCM    the cipher's tag, over the length too: 16 bytes
//! ```
//!
//! Records are numbered from 0 in each direction; the number is not sent, both ends count. It is the cipher's nonce, so a
//! record that is left out, repeated, moved or taken from another connection opens as little as one that was changed.
//! Each direction has a key of its own, and goes on to the next one (a hash of the last) after 2^20 records, at most
//! 64 GiB: far below what GCM bears, and old keys are gone.
//!
//! The length is read before the proof can be, so it stands there twice: changed by accident it is noticed at once, where
//! it would else let the receiver wait for bytes that nobody sends. Who changes it on purpose could hold back bytes as well.
//!
//! Cut off at the end of a record the stream is only short: that the connection ended before the call did is an error by
//! itself. Nothing here reads or writes: links and control connections do.
#![forbid(unsafe_code)]

use super::digest::digest;
use super::phase::Room;
use super::secret::Secret;
use super::terms::Guard;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fmt;

/// Bytes of a record before it is protected.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;
/// Records under one key.
const RECORDS_PER_KEY: u64 = 1 << 20;

const LENGTH_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 4;
const TAG_BYTES: usize = 16;

/// A record that is not what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tampered {
    /// The length of this record and its complement do not match.
    Length(u64),
    /// The checksum of this record differs.
    Checksum(u64),
    /// This record does not authenticate.
    Tag(u64),
}

impl fmt::Display for Tampered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tampered::Length(number) => write!(f, "record {number} has an impossible length"),
            Tampered::Checksum(number) => write!(f, "the checksum of record {number} differs"),
            Tampered::Tag(number) => write!(f, "record {number} does not authenticate"),
        }
    }
}

/// One direction's proofs, in order.
struct Proofs {
    how: How,
    /// Of the next record.
    number: u64,
}

enum How {
    Checksum,
    Encryption { key: Box<LessSafeKey>, chain: Secret, records_per_key: u64 },
}

impl Proofs {
    fn new(guard: Guard, key: &Secret) -> Option<Proofs> {
        let how = match guard {
            Guard::Plain => return None,
            Guard::Checksum => How::Checksum,
            Guard::Encryption => {
                How::Encryption { key: cipher(key), chain: key.clone(), records_per_key: RECORDS_PER_KEY }
            }
        };
        Some(Proofs { how, number: 0 })
    }

    fn len_bytes(&self) -> usize {
        match self.how {
            How::Checksum => CHECKSUM_BYTES,
            How::Encryption { .. } => TAG_BYTES,
        }
    }

    /// The number of the next record; the key that goes with it is in place.
    fn next(&mut self) -> u64 {
        let number = self.number;
        self.number += 1;
        if let How::Encryption { key, chain, records_per_key } = &mut self.how
            && number > 0
            && number.is_multiple_of(*records_per_key)
        {
            *chain = Secret::from_bytes(digest("roundel next data key", &[chain.as_bytes()]));
            *key = cipher(chain);
        }
        number
    }

    /// Protects a record whose length and bytes are in place.
    fn seal(&mut self, record: &mut [u8]) {
        let number = self.next();
        let (length, rest) = record.split_at_mut(LENGTH_BYTES);
        let (bytes, proof) = rest.split_at_mut(rest.len() - self.len_bytes());
        match &self.how {
            How::Checksum => proof.copy_from_slice(&checksum(number, length, bytes)),
            How::Encryption { key, .. } => {
                let tag = key.seal_in_place_separate_tag(nonce(number), Aad::from(&*length), bytes);
                proof.copy_from_slice(tag.expect("64 KiB are below the cipher's limit").as_ref());
            }
        }
    }

    /// Checks a whole record, and makes its bytes what they were.
    fn open(&mut self, record: &mut [u8]) -> Result<(), Tampered> {
        let number = self.next();
        let (length, rest) = record.split_at_mut(LENGTH_BYTES);
        match &self.how {
            How::Checksum => {
                let (bytes, proof) = rest.split_at(rest.len() - CHECKSUM_BYTES);
                if checksum(number, length, bytes) == *proof { Ok(()) } else { Err(Tampered::Checksum(number)) }
            }
            How::Encryption { key, .. } => {
                let opened = key.open_in_place(nonce(number), Aad::from(&*length), rest);
                opened.map(|_| ()).map_err(|_| Tampered::Tag(number))
            }
        }
    }
}

fn encode_length(len_bytes: usize) -> [u8; LENGTH_BYTES] {
    let less_one = (len_bytes - 1) as u16;
    (u32::from(less_one) | u32::from(!less_one) << 16).to_le_bytes()
}

fn decode_length(length: [u8; LENGTH_BYTES]) -> Option<usize> {
    let length = u32::from_le_bytes(length);
    let (less_one, complement) = (length as u16, (length >> 16) as u16);
    (less_one == !complement).then_some(usize::from(less_one) + 1)
}

fn cipher(key: &Secret) -> Box<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, key.as_bytes()).expect("the key has the cipher's length");
    Box::new(LessSafeKey::new(key))
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn checksum(number: u64, length: &[u8], bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let start = crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), length);
    crc32c::crc32c_append(start, bytes).to_le_bytes()
}

/// The sending end: makes records, and holds the one that is on its way.
pub struct Sealer {
    proofs: Proofs,
    record: Room,
    sent_bytes: usize,
}

impl Sealer {
    pub(super) fn new(guard: Guard, key: &Secret) -> Option<Sealer> {
        Proofs::new(guard, key).map(|proofs| Sealer { proofs, record: Room::to_send(), sent_bytes: 0 })
    }

    /// Makes a record of the `len_bytes` (1 to [`MAX_PAYLOAD_BYTES`]) that `fill` puts in place. The one before must be
    /// on its way.
    pub fn seal(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8])) {
        assert!((1..=MAX_PAYLOAD_BYTES).contains(&len_bytes) && self.pending().is_empty());
        let end = LENGTH_BYTES + len_bytes;
        self.record.resize(end + self.proofs.len_bytes());
        self.record[..LENGTH_BYTES].copy_from_slice(&encode_length(len_bytes));
        fill(&mut self.record[LENGTH_BYTES..end]);
        self.proofs.seal(&mut self.record);
        self.sent_bytes = 0;
    }

    /// What of the record is still to be sent.
    pub fn pending(&self) -> &[u8] {
        &self.record[self.sent_bytes..]
    }

    /// So many of the pending bytes are on their way.
    pub fn sent(&mut self, len_bytes: usize) {
        self.sent_bytes += len_bytes;
    }
}

/// The receiving end: collects records and opens them where they lie.
pub struct Opener {
    proofs: Proofs,
    /// `opened` and then what has come of the records behind it, up to `tail`.
    raw: Room,
    opened: std::ops::Range<usize>,
    /// Where the record behind the opened one begins.
    head: usize,
    tail: usize,
}

impl Opener {
    pub(super) fn new(guard: Guard, key: &Secret, read_bytes: usize) -> Option<Opener> {
        let proofs = Proofs::new(guard, key)?;
        let mut raw = Room::to_receive();
        raw.resize(read_bytes.max(LENGTH_BYTES));
        Some(Opener { proofs, raw, opened: 0..0, head: 0, tail: 0 })
    }

    /// Where the next bytes from the stream go; never empty. To be asked for when [`Opener::opened`] has no more.
    pub fn room(&mut self) -> &mut [u8] {
        assert!(self.opened.is_empty(), "opened bytes would be moved away");
        let needed = self.next_bytes().flatten().map_or(LENGTH_BYTES, |len_bytes| self.record_bytes(len_bytes));
        if self.head == self.tail || self.head + needed > self.raw.len() {
            self.raw.copy_within(self.head..self.tail, 0);
            (self.head, self.tail) = (0, self.tail - self.head);
        }
        if needed > self.raw.len() {
            self.raw.resize(needed);
        }
        &mut self.raw[self.tail..]
    }

    /// So many bytes of the room were filled.
    pub fn received(&mut self, len_bytes: usize) {
        self.tail += len_bytes;
    }

    /// Bytes that were opened and not taken; where there are none, those of the next record. Empty when that has not
    /// come whole. After an error nothing may be believed any more.
    pub fn opened(&mut self) -> Result<&[u8], Tampered> {
        if self.opened.is_empty()
            && let Some(length) = self.next_bytes()
        {
            let len_bytes = length.ok_or(Tampered::Length(self.proofs.number))?;
            let end = self.head + self.record_bytes(len_bytes);
            if self.tail >= end {
                self.proofs.open(&mut self.raw[self.head..end])?;
                let begin = self.head + LENGTH_BYTES;
                self.opened = begin..begin + len_bytes;
                self.head = end;
            }
        }
        Ok(&self.raw[self.opened.clone()])
    }

    /// Done with the first `len_bytes` of what was opened.
    pub fn take(&mut self, len_bytes: usize) {
        assert!(len_bytes <= self.opened.len(), "took {len_bytes} of {} bytes", self.opened.len());
        self.opened.start += len_bytes;
    }

    /// The length of the next record's bytes, once it has come; the inner `None` if it makes no sense.
    fn next_bytes(&self) -> Option<Option<usize>> {
        self.raw[self.head..self.tail].first_chunk().map(|length| decode_length(*length))
    }

    fn record_bytes(&self, len_bytes: usize) -> usize {
        LENGTH_BYTES + len_bytes + self.proofs.len_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GUARDS: [Guard; 2] = [Guard::Checksum, Guard::Encryption];

    fn ends(guard: Guard) -> (Sealer, Opener) {
        let key = Secret::from_bytes([7; 32]);
        (Sealer::new(guard, &key).unwrap(), Opener::new(guard, &key, 100).unwrap())
    }

    fn sealed(sealer: &mut Sealer, bytes: &[u8]) -> Vec<u8> {
        sealer.seal(bytes.len(), |room| room.copy_from_slice(bytes));
        let record = sealer.pending().to_vec();
        sealer.sent(record.len());
        record
    }

    /// What comes out of a stream that arrives in pieces.
    fn open(opener: &mut Opener, stream: &[u8], piece_bytes: usize) -> Result<Vec<u8>, Tampered> {
        let (mut plain, mut rest) = (Vec::new(), stream);
        while !rest.is_empty() {
            let room = opener.room();
            assert!(!room.is_empty() && room.len() <= LENGTH_BYTES + MAX_PAYLOAD_BYTES + 1 + TAG_BYTES);
            let len_bytes = room.len().min(piece_bytes).min(rest.len());
            room[..len_bytes].copy_from_slice(&rest[..len_bytes]);
            opener.received(len_bytes);
            rest = &rest[len_bytes..];
            loop {
                let opened = opener.opened()?.to_vec();
                if opened.is_empty() {
                    break;
                }
                // In two helpings.
                let first = opened.len().div_ceil(2);
                plain.extend_from_slice(&opened[..first]);
                opener.take(first);
                plain.extend_from_slice(&opener.opened()?[..opened.len() - first]);
                opener.take(opened.len() - first);
            }
        }
        Ok(plain)
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_however_it_is_cut(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..8),
            piece_bytes in 1usize..500,
            encrypted: bool,
        ) {
            let (mut sealer, mut opener) = ends(GUARDS[usize::from(encrypted)]);
            let stream: Vec<u8> = pieces.iter().flat_map(|piece| sealed(&mut sealer, piece)).collect();
            prop_assert_eq!(open(&mut opener, &stream, piece_bytes).unwrap(), pieces.concat());
        }

        #[test]
        fn any_bytes_are_judged_without_panic(stream in proptest::collection::vec(any::<u8>(), 0..400), encrypted: bool) {
            let (_, mut opener) = ends(GUARDS[usize::from(encrypted)]);
            prop_assert!(open(&mut opener, &stream, 50).is_err() || stream.len() < MAX_PAYLOAD_BYTES);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_nothing_changed_comes_out() {
        for guard in GUARDS {
            let (mut sealer, _) = ends(guard);
            let stream = [sealed(&mut sealer, b"first"), sealed(&mut sealer, b"second one")].concat();
            for bit in 0..stream.len() * 8 {
                let mut damaged = stream.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let (_, mut opener) = ends(guard);
                let outcome = open(&mut opener, &damaged, usize::MAX);
                assert!(outcome.is_err(), "{guard:?}, bit {bit}: {outcome:?}");
            }
        }
    }

    #[test]
    fn records_left_out_repeated_or_swapped_are_noticed() {
        for guard in GUARDS {
            let (mut sealer, _) = ends(guard);
            let [one, two, three] = [b"one", b"two", b"tre"].map(|bytes| sealed(&mut sealer, bytes));
            for stream in [[&one, &three], [&one, &one], [&two, &one]] {
                let (_, mut opener) = ends(guard);
                assert!(open(&mut opener, &[&stream[0][..], stream[1]].concat(), 1000).is_err(), "{guard:?}");
            }
            let (_, mut opener) = ends(guard);
            assert_eq!(open(&mut opener, &[one, two, three].concat(), 7).unwrap(), b"onetwotre");
        }
    }

    #[test]
    fn encrypted_bytes_are_not_to_be_seen_and_other_keys_open_nothing() {
        let (mut sealer, _) = ends(Guard::Encryption);
        let secret = b"a text that must not travel as it is";
        let record = sealed(&mut sealer, secret);
        assert!(!record.windows(8).any(|window| secret.windows(8).any(|part| part == window)));
        let mut other = Opener::new(Guard::Encryption, &Secret::from_bytes([8; 32]), 100).unwrap();
        assert_eq!(open(&mut other, &record, 1000), Err(Tampered::Tag(0)));
    }

    #[test]
    fn keys_change_on_both_ends_at_the_same_record() {
        let (mut sealer, mut opener) = ends(Guard::Encryption);
        for proofs in [&mut sealer.proofs, &mut opener.proofs] {
            let How::Encryption { records_per_key, .. } = &mut proofs.how else { unreachable!() };
            *records_per_key = 3;
        }
        let (_, mut forgetful) = ends(Guard::Encryption);
        for number in 0u8..10 {
            let record = sealed(&mut sealer, &[number]);
            assert_eq!(open(&mut opener, &record, 1000).unwrap(), [number]);
            // One that keeps its first key opens the first three only.
            assert_eq!(open(&mut forgetful, &record, 1000).is_ok(), number < 3);
            if number == 3 {
                break;
            }
        }
        for number in 4u8..10 {
            let record = sealed(&mut sealer, &[number]);
            assert_eq!(open(&mut opener, &record, 1000).unwrap(), [number]);
        }
    }

    #[test]
    fn the_largest_record_fits_and_a_larger_one_is_refused_before_it_has_come() {
        for guard in GUARDS {
            let (mut sealer, mut opener) = ends(guard);
            let large = vec![3; MAX_PAYLOAD_BYTES];
            let record = sealed(&mut sealer, &large);
            assert_eq!(open(&mut opener, &record, 9999).unwrap(), large);
            assert_eq!(open(&mut opener, &[0xff; 4], 4), Err(Tampered::Length(1)));
        }
    }
}
