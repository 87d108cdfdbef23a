//! The collectives, each plain and with a config of its own. Counts, roots and in-place rules are NCCL's; the stream is
//! ignored.

use crate::abi::*;
use crate::comm::{self, Comm};
use crate::config;
use crate::group::{self, Request, answer_in_group};
use crate::redop;
use crate::status::{Done, Failure, Result, rank};
use roundel::memory::Span;
use roundel::{Call, Collective, Counts};
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// A call as C describes it, less its buffers.
struct Asked {
    collective: Collective,
    count: usize,
    datatype: ncclDataType_t,
    op: Option<ncclRedOp_t>,
    root: Option<c_int>,
}

impl Asked {
    fn new(collective: Collective, count: usize, datatype: ncclDataType_t) -> Asked {
        Asked { collective, count, datatype, op: None, root: None }
    }

    fn op(self, op: ncclRedOp_t) -> Asked {
        Asked { op: Some(op), ..self }
    }

    fn root(self, root: c_int) -> Asked {
        Asked { root: Some(root), ..self }
    }

    /// The call with the buffers of this rank's part. A pointer that the part has no use for is not looked at.
    ///
    /// # Safety
    /// The pointers the part uses are NULL or point to as much memory as the counts say, until the call has ended.
    unsafe fn call(&self, comm: &Comm, sendbuff: *const c_void, recvbuff: *mut c_void) -> Result<Call> {
        let communicator = comm.active()?;
        let shape = Call {
            collective: self.collective,
            dtype: redop::dtype(self.datatype)?,
            op: self.op.map(|op| redop::reduce_op(op, comm)).transpose()?,
            root: self.root.map_or(Ok(0), |root| rank("root", root, communicator.world()))?,
            peer: 0,
            counts: Counts::Even(self.count),
            input: Span::EMPTY,
            output: Span::EMPTY,
        };
        let (input_bytes, output_bytes) = communicator.lengths(&shape)?;
        // SAFETY: promised by the caller, who counted the elements.
        unsafe {
            Ok(Call {
                input: buffer("sendbuff", sendbuff.cast_mut(), input_bytes)?,
                output: buffer("recvbuff", recvbuff, output_bytes)?,
                ..shape
            })
        }
    }
}

/// A caller's buffer, of which a call needs so many bytes.
///
/// # Safety
/// `start` is NULL or points to that many bytes, until the call that uses them has ended.
pub(crate) unsafe fn buffer(what: &str, start: *mut c_void, len_bytes: usize) -> Result<Span> {
    match len_bytes {
        0 => Ok(Span::EMPTY),
        _ if start.is_null() => {
            Err(Failure::argument(format!("{what} is NULL; the call needs {len_bytes} bytes there")))
        }
        // SAFETY: promised by the caller; programs keep their hands off buffers of calls (the crate's contract).
        _ => Ok(unsafe { Span::new(start.cast(), len_bytes) }),
    }
}

/// # Safety
/// As for [`Asked::call`] and [`config::check_call`].
unsafe fn collective(
    asked: Asked,
    buffers: (*const c_void, *mut c_void),
    comm: ncclComm_t,
    config: *const ncclCollConfig_t,
) -> Result<Done> {
    let comm: Arc<Comm> = comm::find(comm)?;
    // SAFETY: promised by the caller.
    let call = unsafe {
        config::check_call(config)?;
        asked.call(&comm, buffers.0, buffers.1)?
    };
    group::submit(comm, Request::Call(call))
}

macro_rules! collectives {
    ($($(#[$doc:meta])* $plain:ident, $configured:ident($($more:ident: $type:ty),*) = $collective:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $plain(
            sendbuff: *const c_void,
            recvbuff: *mut c_void,
            count: usize,
            datatype: ncclDataType_t,
            $($more: $type,)*
            comm: ncclComm_t,
            _stream: cudaStream_t,
        ) -> ncclResult_t {
            answer_in_group(stringify!($plain), || {
                let asked = Asked::new(Collective::$collective, count, datatype)$(.$more($more))*;
                // SAFETY: the crate's contract; no config.
                unsafe { collective(asked, (sendbuff, recvbuff), comm, std::ptr::null()) }
            })
        }

        #[doc = concat!("[`", stringify!($plain), "`] with a config of its own, or NULL.")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $configured(
            sendbuff: *const c_void,
            recvbuff: *mut c_void,
            count: usize,
            datatype: ncclDataType_t,
            $($more: $type,)*
            comm: ncclComm_t,
            _stream: cudaStream_t,
            config: *const ncclCollConfig_t,
        ) -> ncclResult_t {
            answer_in_group(stringify!($configured), || {
                let asked = Asked::new(Collective::$collective, count, datatype)$(.$more($more))*;
                // SAFETY: the crate's contract.
                unsafe { collective(asked, (sendbuff, recvbuff), comm, config) }
            })
        }
    )*};
}

collectives! {
    /// Everyone's `recvbuff` becomes the reduction of everyone's `sendbuff`, `count` elements.
    ncclAllReduce, ncclAllReduceConfig(op: ncclRedOp_t) = AllReduce;
    /// The root's `recvbuff` becomes the reduction of everyone's `sendbuff`; elsewhere `recvbuff` may be NULL.
    ncclReduce, ncclReduceConfig(op: ncclRedOp_t, root: c_int) = Reduce;
    /// Everyone's `recvbuff` becomes the root's `sendbuff`; elsewhere `sendbuff` is not looked at.
    ncclBroadcast, ncclBroadcastConfig(root: c_int) = Broadcast;
    /// Rank r's `recvbuff` becomes block r, of `count` elements, of the reduction.
    ncclReduceScatter, ncclReduceScatterConfig(op: ncclRedOp_t) = ReduceScatter;
    /// Everyone's `recvbuff` becomes all ranks' `count` elements, in the order of ranks.
    ncclAllGather, ncclAllGatherConfig() = AllGather;
    /// Block j, of `count` elements, of rank i becomes block i of rank j.
    ncclAlltoAll, ncclAlltoAllConfig() = AllToAll;
    /// The root's `recvbuff` becomes all ranks' `count` elements; elsewhere it is not looked at.
    ncclGather, ncclGatherConfig(root: c_int) = Gather;
    /// Rank r's `recvbuff` becomes block r, of `count` elements, of the root's `sendbuff`; elsewhere that is not looked at.
    ncclScatter, ncclScatterConfig(root: c_int) = Scatter;
}

/// [`ncclBroadcast`] in place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclBcast(
    buff: *mut c_void,
    count: usize,
    datatype: ncclDataType_t,
    root: c_int,
    comm: ncclComm_t,
    _stream: cudaStream_t,
) -> ncclResult_t {
    answer_in_group("ncclBcast", || {
        let asked = Asked::new(Collective::Broadcast, count, datatype).root(root);
        // SAFETY: the crate's contract; no config.
        unsafe { collective(asked, (buff, buff), comm, std::ptr::null()) }
    })
}
