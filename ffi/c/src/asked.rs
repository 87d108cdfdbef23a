//! A call as C describes it: pointers without lengths, numbers that may name nothing. [`Asked::call`] makes a [`Call`] of it.

use crate::arguments;
use crate::boundary::Outcome;
use crate::names::{raw::*, roundel_dtype_t::ROUNDEL_UINT8};
use crate::reduce_op::reduce_op;
use library::memory::Span;
use library::{Call, Collective, Communicator, Counts};
use std::ffi::c_void;
use std::ptr::{null, null_mut};

/// How many elements: one number, or arrays of one number for each rank.
pub enum Elements {
    Even(usize),
    Blocks(*const usize),
    Exchange(*const usize, *const usize),
}

/// The other rank that matters.
enum Other {
    Nobody,
    Root(i32),
    To(i32),
    From(i32),
}

/// Exported functions make one of these, and [`route`](crate::route) takes it from there.
pub struct Asked {
    collective: Collective,
    send: *const c_void,
    recv: *mut c_void,
    elements: Elements,
    dtype: roundel_dtype_t,
    op: Option<roundel_reduce_op_t>,
    other: Other,
}

impl Asked {
    /// # Safety
    /// Until the call has ended, the buffers that this rank's part uses are NULL or what [`Span::new`] wants for as many
    /// elements as the part takes; arrays of counts are NULL or as long as the world.
    pub unsafe fn new(
        collective: Collective,
        send: *const c_void,
        recv: *mut c_void,
        elements: Elements,
        dtype: roundel_dtype_t,
    ) -> Asked {
        Asked { collective, send, recv, elements, dtype, op: None, other: Other::Nobody }
    }

    /// One end of a message.
    ///
    /// # Safety
    /// `send` is NULL or what [`Span::new`] wants for `count` elements, until the call has ended.
    pub unsafe fn message_to(peer: i32, send: *const c_void, count: usize, dtype: roundel_dtype_t) -> Asked {
        // SAFETY: promised by the caller; a sender's part has no other buffer.
        let asked = unsafe { Asked::new(Collective::SendRecv, send, null_mut(), Elements::Even(count), dtype) };
        Asked { other: Other::To(peer), ..asked }
    }

    /// The other end.
    ///
    /// # Safety
    /// `recv` is NULL or what [`Span::new`] wants for `count` elements, until the call has ended.
    pub unsafe fn message_from(peer: i32, recv: *mut c_void, count: usize, dtype: roundel_dtype_t) -> Asked {
        // SAFETY: promised by the caller; a receiver's part has no other buffer.
        let asked = unsafe { Asked::new(Collective::SendRecv, null(), recv, Elements::Even(count), dtype) };
        Asked { other: Other::From(peer), ..asked }
    }

    pub fn barrier() -> Asked {
        // Of any type: a barrier has no elements.
        let dtype = ROUNDEL_UINT8 as i32;
        // SAFETY: a barrier has no buffers.
        unsafe { Asked::new(Collective::Barrier, null(), null_mut(), Elements::Even(0), dtype) }
    }

    pub fn op(self, op: roundel_reduce_op_t) -> Asked {
        Asked { op: Some(op), ..self }
    }

    pub fn root(self, root: i32) -> Asked {
        Asked { other: Other::Root(root), ..self }
    }

    /// The call with the buffers of this rank's part. A pointer that the part has no use for is not looked at.
    pub fn call(&self, comm: &Communicator) -> Outcome<Call> {
        let me = comm.rank();
        let dtype = arguments::dtype(self.dtype)?;
        let (root, peer) = match self.other {
            Other::Nobody => (0, 0),
            Other::Root(root) => (arguments::rank(root, "root")?, 0),
            Other::To(peer) => (me, arguments::rank(peer, "peer")?),
            Other::From(peer) => (arguments::rank(peer, "peer")?, me),
        };
        let shape = Call {
            collective: self.collective,
            dtype,
            op: self.op.map(reduce_op).transpose()?,
            root,
            peer,
            counts: self.counts(comm.world())?,
            input: Span::EMPTY,
            output: Span::EMPTY,
        };
        let (input_bytes, output_bytes) = match (comm.lengths(&shape)?, &self.other) {
            // A message to this rank itself has two ends here, and this is one of them.
            ((input_bytes, _), Other::To(_)) => (input_bytes, 0),
            ((_, output_bytes), Other::From(_)) => (0, output_bytes),
            (both, _) => both,
        };
        // SAFETY: promised where `self` was made, by who counted the elements.
        unsafe {
            Ok(Call {
                input: arguments::buffer(self.send, input_bytes, "send")?,
                output: arguments::buffer(self.recv, output_bytes, "recv")?,
                ..shape
            })
        }
    }

    fn counts(&self, world: usize) -> Outcome<Counts> {
        // SAFETY: promised where `self` was made.
        let array = |start, name| unsafe { arguments::array(start, world, name) }.map(<[usize]>::to_vec);
        Ok(match self.elements {
            Elements::Even(count) => Counts::Even(count),
            Elements::Blocks(counts) => Counts::Blocks(array(counts, "counts")?),
            Elements::Exchange(send, recv) => {
                Counts::Exchange { send: array(send, "send_counts")?, recv: array(recv, "recv_counts")? }
            }
        })
    }
}
