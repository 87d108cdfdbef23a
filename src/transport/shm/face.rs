//! What the engine sees of this transport: [`Shared`] and [`Sleeper`].
#![forbid(unsafe_code)]

use super::doorbell::Doorbell;
use super::neighbours::Neighbours;
use crate::error::Result;
use crate::memory::Span;
use crate::transport::{Address, Interest, Shared, Sleeper};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a failing rank waits for threads of its process to take their hands off its buffers. They do so at the end
/// of the slice they are working on.
const QUIESCE: Duration = Duration::from_secs(2);

impl Shared for Arc<Neighbours> {
    fn signal(&mut self, parity: usize) {
        Neighbours::signal(self, parity);
    }

    fn signalled(&self, neighbour: usize, parity: usize) -> u64 {
        Neighbours::signalled(self, neighbour, parity)
    }

    fn message(&self, neighbour: usize, parity: usize) -> Span {
        Neighbours::message(self, neighbour, parity)
    }

    fn stage(&self, neighbour: usize, half: usize) -> Span {
        Neighbours::stage(self, neighbour, half)
    }

    fn is_one_process(&self) -> bool {
        (0..self.len()).all(|neighbour| self.is_same_process(neighbour))
    }

    fn address_of(&self, span: Span) -> Option<Address> {
        match Neighbours::address_of(self, span)? {
            Address::Process(_) if !self.is_one_process() => None,
            address => Some(address),
        }
    }

    fn resolve(&self, neighbour: usize, address: Address, len_bytes: usize) -> Option<Span> {
        Neighbours::resolve(self, neighbour, address, len_bytes)
    }

    fn enter(&mut self) -> bool {
        Neighbours::enter(self)
    }

    fn leave(&mut self) {
        Neighbours::leave(self);
    }

    fn aborted(&self) -> bool {
        Neighbours::aborted(self)
    }

    fn abort(&mut self) {
        self.set_abort();
        self.fail_neighbours();
        // Ranks of other processes reach only arenas, which stay mapped whatever becomes of this call.
        self.quiesce(Instant::now() + QUIESCE, &|neighbour| !self.is_same_process(neighbour));
    }
}

impl Sleeper for Doorbell {
    fn sleep(&mut self, interests: &[Interest], timeout: Duration, ready: &mut dyn FnMut() -> bool) -> Result<()> {
        let nap = self.lie_down();
        if ready() { Ok(()) } else { nap.sleep(interests, Some(timeout)) }
    }
}
