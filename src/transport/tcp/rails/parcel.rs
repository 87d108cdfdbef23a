//! What goes over a rail besides the bytes themselves, numbers little-endian:
//!
//! ```text
//!   parcel     offset: u64 | len_bytes: u32 | CRC-32C of these | len_bytes bytes of the stream, from offset on
//!   receipt    taken_bytes: u64             | CRC-32C of these
//! ```
//!
//! A changed header is noticed before anything is done with it; the bytes have the protection that the link has.
#![forbid(unsafe_code)]

pub(super) const HEADER_BYTES: usize = 16;
pub(super) const RECEIPT_BYTES: usize = 12;

/// A piece of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Parcel {
    /// Bytes of the stream before it.
    pub(super) offset: u64,
    pub(super) len_bytes: u32,
}

impl Parcel {
    pub(super) fn len(self) -> usize {
        self.len_bytes as usize
    }

    pub(super) fn end(self) -> u64 {
        self.offset.saturating_add(u64::from(self.len_bytes))
    }

    /// Its header.
    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&self.offset.to_le_bytes());
        header[8..12].copy_from_slice(&self.len_bytes.to_le_bytes());
        seal(&mut header);
        header
    }

    /// What [`Parcel::encode`] made; `None` if it was changed on the way.
    pub(crate) fn decode(header: &[u8; HEADER_BYTES]) -> Option<Parcel> {
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = *open(header)?;
        let offset = u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        Some(Parcel { offset, len_bytes: u32::from_le_bytes([l0, l1, l2, l3]) })
    }
}

/// How far the receiver has taken the stream, as it goes over the wire.
pub(super) fn encode_receipt(taken_bytes: u64) -> [u8; RECEIPT_BYTES] {
    let mut receipt = [0; RECEIPT_BYTES];
    receipt[..8].copy_from_slice(&taken_bytes.to_le_bytes());
    seal(&mut receipt);
    receipt
}

/// What [`encode_receipt`] made; `None` if it was changed on the way.
pub(super) fn decode_receipt(receipt: &[u8; RECEIPT_BYTES]) -> Option<u64> {
    open::<8>(receipt).map(|bytes| u64::from_le_bytes(*bytes))
}

fn seal(message: &mut [u8]) {
    let (bytes, checksum) = message.split_at_mut(message.len() - 4);
    checksum.copy_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
}

fn open<const N: usize>(message: &[u8]) -> Option<&[u8; N]> {
    let (bytes, checksum) = message.split_first_chunk()?;
    (*checksum == crc32c::crc32c(bytes).to_le_bytes()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_receipts_survive_the_way_and_no_flipped_bit_does() {
        let parcel = Parcel { offset: 1 << 40 | 77, len_bytes: 65_536 };
        let header = parcel.encode();
        assert_eq!(Parcel::decode(&header), Some(parcel));
        for bit in 0..8 * HEADER_BYTES {
            let mut changed = header;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Parcel::decode(&changed), None, "bit {bit}");
        }
        let receipt = encode_receipt(u64::MAX - 3);
        assert_eq!(decode_receipt(&receipt), Some(u64::MAX - 3));
        for bit in 0..8 * RECEIPT_BYTES {
            let mut changed = receipt;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_receipt(&changed), None, "bit {bit}");
        }
    }
}
