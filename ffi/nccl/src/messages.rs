//! Messages from one rank to another.

use crate::abi::*;
use crate::collectives::buffer;
use crate::comm;
use crate::group::{self, Request, answer_in_group};
use crate::redop;
use crate::status::{Done, Result, rank};
use roundel::memory::Span;
use roundel::{Call, Collective, Counts};
use std::ffi::{c_int, c_void};

/// Which end of a message the calling rank is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Sender,
    Receiver,
}

/// # Safety
/// `start` is NULL or points to `count` elements until the call has ended.
unsafe fn message(
    side: Side,
    start: *mut c_void,
    count: usize,
    datatype: ncclDataType_t,
    peer: c_int,
    comm: ncclComm_t,
) -> Result<Done> {
    let comm = comm::find(comm)?;
    let communicator = comm.active()?;
    let me = communicator.rank();
    let other = rank("peer", peer, communicator.world())?;
    let (what, root, peer) = match side {
        Side::Sender => ("sendbuff", me, other),
        Side::Receiver => ("recvbuff", other, me),
    };
    let call = Call {
        collective: Collective::SendRecv,
        dtype: redop::dtype(datatype)?,
        op: None,
        root,
        peer,
        counts: Counts::Even(count),
        input: Span::EMPTY,
        output: Span::EMPTY,
    };
    let (input_bytes, output_bytes) = communicator.lengths(&call)?;
    // One of them, or both and equal where the message is to this rank itself.
    // SAFETY: promised by the caller.
    let span = unsafe { buffer(what, start, input_bytes.max(output_bytes))? };
    let request = match side {
        Side::Sender if other == me => Request::ToSelf(Call { input: span, ..call }),
        Side::Sender => Request::Call(Call { input: span, ..call }),
        Side::Receiver if other == me => Request::FromSelf(Call { output: span, ..call }),
        Side::Receiver => Request::Call(Call { output: span, ..call }),
    };
    group::submit(comm, request)
}

macro_rules! messages {
    ($($(#[$doc:meta])* $function:ident($buffer:ident: $pointer:ty) = $side:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $function(
            $buffer: $pointer,
            count: usize,
            datatype: ncclDataType_t,
            peer: c_int,
            comm: ncclComm_t,
            _stream: cudaStream_t,
        ) -> ncclResult_t {
            answer_in_group(stringify!($function), || {
                // SAFETY: the crate's contract.
                unsafe { message(Side::$side, $buffer as *mut c_void, count, datatype, peer, comm) }
            })
        }
    )*};
}

messages! {
    /// Sends `count` elements to `peer`, which receives as many of the same type. To itself only in a group.
    ncclSend(sendbuff: *const c_void) = Sender;
    /// Receives `count` elements that `peer` sends. From itself only in a group.
    ncclRecv(recvbuff: *mut c_void) = Receiver;
}
