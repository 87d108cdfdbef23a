//! What somebody on the way may make of a rail's headers and receipts, for [`crate::fuzz`].
#![forbid(unsafe_code)]

use super::manifest::Manifest;
use super::parcel::{HEADER_BYTES, Parcel, RECEIPT_BYTES, decode_receipt, encode_receipt};
use super::reassembly::Reassembly;

/// Headers and receipts in turn, as they are and with a checksum that fits. Books that believe them must stay whole.
pub(crate) fn parcels(bytes: &[u8]) {
    let (mut book, mut manifest) = (Reassembly::new(), Manifest::new());
    for (index, words) in bytes.chunks_exact(HEADER_BYTES).enumerate() {
        let (Some(header), Some(receipt)) = (words.first_chunk::<HEADER_BYTES>(), words.first_chunk::<RECEIPT_BYTES>())
        else {
            return;
        };
        if let Some(parcel) = Parcel::decode(header) {
            assert_eq!(parcel.encode(), *header);
        }
        if let Some(taken_bytes) = decode_receipt(receipt) {
            assert_eq!(encode_receipt(taken_bytes), *receipt);
        }
        let numbers = words.as_chunks::<4>().0;
        let parcel = Parcel {
            offset: u64::from(u32::from_le_bytes(numbers[0])) | u64::from(u32::from_le_bytes(numbers[1])) << 32,
            len_bytes: u32::from_le_bytes(numbers[2]),
        };
        if book.check(parcel).is_ok() {
            book.complete(parcel);
            assert!(book.has(parcel) && book.ready().len() <= book.ready_bytes());
            book.take(book.ready_bytes() / 2);
        }
        let room = manifest.room();
        if !room.is_empty() {
            manifest.accept(room.len().min(parcel.len().max(1)));
        }
        if index % 3 == 0 {
            manifest.load(index % 2);
        } else if index % 3 == 1 {
            manifest.lose(index % 2);
        }
        manifest.receipt(parcel.offset);
    }
}

pub(crate) fn some_parcels() -> Vec<Vec<u8>> {
    let parcels = [(0, 100), (164, 64), (100, 64), (1 << 40, 7), (228, 65_536)];
    let headers = parcels.map(|(offset, len_bytes)| Parcel { offset, len_bytes }.encode().to_vec());
    let receipt = [&encode_receipt(100)[..], &[0; HEADER_BYTES - RECEIPT_BYTES]].concat();
    vec![headers.concat(), receipt, headers[0].clone()]
}
