//! The two ends of a simulated link, as the engine holds them.
#![forbid(unsafe_code)]

use super::{Network, Notice, PipeId, Pipes};
use crate::error::Result;
use crate::memory::{Block, Span};
use crate::transport::{Interest, Rx, Tx};
use std::os::fd::RawFd;

/// What `reserve` and `arrived` give out at most.
const LENT_BYTES: usize = 4096;

/// The sending end.
pub(crate) struct SimTx {
    network: Network,
    id: PipeId,
    reserved: Option<Block>,
    reserved_bytes: usize,
}

impl SimTx {
    pub(super) fn new(network: Network, id: PipeId) -> SimTx {
        SimTx { network, id, reserved: None, reserved_bytes: 0 }
    }

    fn take(&mut self, pipes: &mut Pipes, from: Span) -> Result<()> {
        let mut bytes = vec![0; from.len()];
        from.read(&mut bytes);
        let pipe = &mut pipes.pipes[self.id];
        pipe.take(&bytes);
        if pipe.habit.gather_bytes == 0 { self.push_out(pipes) } else { Ok(()) }
    }

    fn make_room(&self, pipes: &mut Pipes, wanted_bytes: usize) -> Result<()> {
        if pipes.pipes[self.id].is_crowded_by(wanted_bytes) { self.push_out(pipes) } else { Ok(()) }
    }

    fn push_out(&self, pipes: &mut Pipes) -> Result<()> {
        if let Some(position) = pipes.pipes[self.id].send()? {
            pipes.notices.push(Notice::Sent(self.id, position));
        }
        Ok(())
    }
}

impl Tx for SimTx {
    fn send(&mut self, from: Span) -> Result<usize> {
        let network = self.network.clone();
        let mut pipes = network.lock();
        self.make_room(&mut pipes, from.len())?;
        let taken_bytes = pipes.pipes[self.id].room(from.len())?;
        self.take(&mut pipes, from.cut(0, taken_bytes))?;
        Ok(taken_bytes)
    }

    fn reserve(&mut self, max_bytes: usize) -> Result<Span> {
        let wanted_bytes = max_bytes.min(LENT_BYTES);
        let mut pipes = self.network.lock();
        self.make_room(&mut pipes, wanted_bytes)?;
        self.reserved_bytes = pipes.pipes[self.id].room(wanted_bytes)?;
        drop(pipes);
        Ok(self.reserved.get_or_insert_with(|| Block::new(LENT_BYTES)).span().cut(0, self.reserved_bytes))
    }

    fn commit(&mut self, len_bytes: usize) -> Result<()> {
        assert!(len_bytes <= self.reserved_bytes, "{len_bytes} of {} reserved bytes", self.reserved_bytes);
        self.reserved_bytes = 0;
        let filled = self.reserved.as_ref().map_or(Span::EMPTY, |block| block.span().cut(0, len_bytes));
        let network = self.network.clone();
        let mut pipes = network.lock();
        self.take(&mut pipes, filled)
    }

    fn flush(&mut self) -> Result<bool> {
        let mut pipes = self.network.lock();
        self.push_out(&mut pipes)?;
        Ok(pipes.pipes[self.id].is_flushed())
    }

    fn interest(&self) -> Option<Interest> {
        let is_socket = self.network.lock().pipes[self.id].habit.is_socket;
        is_socket.then_some(Interest { fd: self.id as RawFd, readable: false, writable: true })
    }
}

impl Drop for SimTx {
    fn drop(&mut self) {
        self.network.lock().notices.push(Notice::SenderGone(self.id));
    }
}

/// The receiving end.
pub(crate) struct SimRx {
    network: Network,
    id: PipeId,
    lent: Option<Block>,
    lent_bytes: usize,
}

impl SimRx {
    pub(super) fn new(network: Network, id: PipeId) -> SimRx {
        SimRx { network, id, lent: None, lent_bytes: 0 }
    }

    fn done_with(&self, pipes: &mut Pipes, len_bytes: usize) {
        let position = pipes.pipes[self.id].release(len_bytes);
        pipes.notices.push(Notice::Released(self.id, position));
    }
}

impl Rx for SimRx {
    fn arrived(&mut self, unit_bytes: usize, max_bytes: usize) -> Result<Span> {
        let mut pipes = self.network.lock();
        let pipe = &mut pipes.pipes[self.id];
        self.lent_bytes = pipe.readable(unit_bytes, max_bytes.min(LENT_BYTES))?;
        let lent = self.lent.get_or_insert_with(|| Block::new(LENT_BYTES)).span().cut(0, self.lent_bytes);
        pipe.copy_to(lent);
        Ok(lent)
    }

    fn release(&mut self, len_bytes: usize) -> Result<()> {
        assert!(len_bytes <= self.lent_bytes, "{len_bytes} of {} bytes given", self.lent_bytes);
        self.lent_bytes -= len_bytes;
        if len_bytes > 0 {
            self.done_with(&mut self.network.lock(), len_bytes);
        }
        Ok(())
    }

    fn recv(&mut self, into: Span) -> Result<usize> {
        let mut pipes = self.network.lock();
        let pipe = &mut pipes.pipes[self.id];
        let received_bytes = pipe.readable(1, into.len())?;
        pipe.copy_to(into.cut(0, received_bytes));
        if received_bytes > 0 {
            self.done_with(&mut pipes, received_bytes);
        }
        Ok(received_bytes)
    }

    fn interest(&self) -> Option<Interest> {
        let is_socket = self.network.lock().pipes[self.id].habit.is_socket;
        is_socket.then_some(Interest { fd: self.id as RawFd, readable: true, writable: false })
    }
}

impl Drop for SimRx {
    fn drop(&mut self) {
        self.network.lock().notices.push(Notice::ReaderGone(self.id));
    }
}
