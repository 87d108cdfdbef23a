//! After a call whose result is the same on all ranks, do they hold the same? With `verify_results` each such call is
//! followed by an all-gather of the ranks' digests, and is over when that is.
//!
//! ```text
//!   all_reduce #4 ──ends──> digest of its output ──> all_gather #5 of 8 bytes a rank ──> all alike? over : Corrupted
//! ```
//!
//! The all-gather is admitted right behind its call, so that its place among the calls is the same on all ranks, and
//! held back until the call has ended here. Every rank sees all digests, so all come to the same verdict.
//!
//! The digest is a CRC-32C: of two results that differ by accident it misses one in four thousand million.
#![forbid(unsafe_code)]

use super::call::{Call, Counts};
use crate::error::{Error, Interrupted};
use crate::memory::{Block, Span};
use crate::types::{Collective, DType, Rank};

const DIGEST_BYTES: usize = 8;

/// How much of a result is read at a time.
const PIECE_BYTES: usize = 64 << 10;

/// The comparison that follows one call.
pub(super) struct Audit {
    me: Rank,
    world: usize,
    /// The result to be compared.
    result: Span,
    /// One digest a rank.
    digests: Block,
    /// The call, once it has ended here.
    audited: Option<Interrupted>,
}

impl Audit {
    /// True where every rank of several ends with the same.
    pub(super) fn applies_to(call: &Call, world: usize) -> bool {
        world > 1 && matches!(call.collective, Collective::AllReduce | Collective::Broadcast | Collective::AllGather)
    }

    /// The audit of a call to which it applies.
    pub(super) fn new(call: &Call, me: Rank, world: usize) -> Audit {
        Audit { me, world, result: call.output, digests: Block::new(world * DIGEST_BYTES), audited: None }
    }

    /// The all-gather of the digests, in place.
    pub(super) fn call(&self) -> Call {
        let output = self.digests.span();
        Call {
            collective: Collective::AllGather,
            dtype: DType::U64,
            op: None,
            root: 0,
            peer: 0,
            counts: Counts::Even(1),
            input: output.cut(self.me * DIGEST_BYTES, DIGEST_BYTES),
            output,
        }
    }

    /// The call has not ended here yet.
    pub(super) fn is_held(&self) -> bool {
        self.audited.is_none()
    }

    /// The call and what it has left behind, once it has ended.
    pub(super) fn audited(&self) -> Option<Interrupted> {
        self.audited
    }

    /// The call has ended: its result can be digested, and the digest may travel.
    /// `read` reads the memory that the result is in.
    pub(super) fn release(
        &mut self,
        call: Interrupted,
        read: impl FnMut(Span, &mut [u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let digest = digest(self.result, read)?;
        self.digests.span().from(self.me * DIGEST_BYTES).write_value(&digest);
        self.audited = Some(call);
        Ok(())
    }

    /// What the digests say of the call, once all are here.
    pub(super) fn verdict(&self) -> Result<(), Error> {
        let of = |rank: Rank| self.digests.span().from(rank * DIGEST_BYTES).read_value::<u64>();
        let digests: Vec<u64> = (0..self.world).map(of).collect();
        let alike = |digest: u64| digests.iter().filter(|other| **other == digest).count();
        let most = digests.iter().copied().max_by_key(|digest| alike(*digest)).expect("several ranks");
        if alike(most) == self.world {
            return Ok(());
        }
        let (suspects, what): (Vec<Rank>, &str) = if 2 * alike(most) > self.world {
            (
                (0..self.world).filter(|rank| digests[*rank] != most).collect(),
                "ended with another result than most ranks",
            )
        } else {
            // Nobody can say who is right.
            ((0..self.world).collect(), "ended with different results")
        };
        let list: Vec<String> = digests.iter().map(|digest| format!("{digest:08x}")).collect();
        let what = format!("{what} (digests by rank: {})", list.join(" "));
        Err(Error::Corrupted { suspects, what, during: self.audited })
    }
}

fn digest(result: Span, mut read: impl FnMut(Span, &mut [u8]) -> Result<(), Error>) -> Result<u64, Error> {
    let mut piece = vec![0; PIECE_BYTES.min(result.len())];
    let (mut digest, mut at) = (0, 0);
    while at < result.len() {
        let len_bytes = piece.len().min(result.len() - at);
        read(result.cut(at, len_bytes), &mut piece[..len_bytes])?;
        #[cfg(test)]
        spoil(&mut piece[..len_bytes], at + len_bytes == result.len());
        digest = crc32c::crc32c_append(digest, &piece[..len_bytes]);
        at += len_bytes;
    }
    Ok(digest.into())
}

#[cfg(test)]
thread_local! {
    /// Calls that end on this thread end with a wrong bit.
    pub(crate) static SPOILS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(test)]
fn spoil(piece: &mut [u8], is_last: bool) {
    if let (true, true, Some(last)) = (SPOILS.get(), is_last, piece.last_mut()) {
        *last ^= 0x80;
    }
}
