//! One direction of a simulated link: a queue of bytes and how far they have come.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::memory::Span;
use std::collections::VecDeque;

/// Names a pipe of a network; what its ends give for a descriptor.
pub(crate) type PipeId = usize;

/// How a pipe behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habit {
    /// Bytes that may be on their way or unread.
    pub(crate) window_bytes: usize,
    /// Bytes that are gathered until a flush.
    pub(crate) gather_bytes: usize,
    /// A socket, which shows its end by itself and is slept on; else a ring in shared memory.
    pub(crate) is_socket: bool,
    /// Decides how much of what is possible one call moves.
    pub(crate) whim: u64,
    /// A planted bug: the second of two pieces overtakes the first.
    pub(crate) overtakes: bool,
}

pub(super) struct Pipe {
    pub(super) habit: Habit,
    /// From `released` to `taken`.
    bytes: VecDeque<u8>,
    taken: u64,
    sent: u64,
    arrived: u64,
    released: u64,
    acknowledged: u64,
    /// Why nothing more comes after what has arrived.
    pub(super) ended: Option<Error>,
    /// Why nothing more can be sent.
    pub(super) refused: Option<Error>,
}

impl Pipe {
    pub(super) fn new(habit: Habit) -> Pipe {
        Pipe {
            habit,
            bytes: VecDeque::new(),
            taken: 0,
            sent: 0,
            arrived: 0,
            released: 0,
            acknowledged: 0,
            ended: None,
            refused: None,
        }
    }

    /// From 1 to `most`: all of it as a rule.
    fn some_of(&mut self, most: usize) -> usize {
        self.habit.whim = self.habit.whim.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let whim = (self.habit.whim >> 33) as usize;
        if most > 1 && whim.is_multiple_of(3) { 1 + (whim / 3) % most } else { most }
    }

    /// Bytes that fit now, of `wanted`.
    pub(super) fn room(&mut self, wanted: usize) -> Result<usize> {
        self.refused.clone().map_or(Ok(()), Err)?;
        let gathered = (self.taken - self.sent) as usize;
        let room = match self.habit.gather_bytes {
            0 => self.window(),
            gather_bytes => gather_bytes - gathered,
        };
        Ok(self.some_of(room.min(wanted)))
    }

    /// Whether so many more bytes would not be gathered before what was gathered has gone.
    pub(super) fn is_crowded_by(&self, wanted: usize) -> bool {
        (self.taken - self.sent) as usize + wanted > self.habit.gather_bytes
    }

    /// Takes bytes for which there is room.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.taken += bytes.len() as u64;
        if self.habit.overtakes && bytes.len() >= 16 {
            let start = self.bytes.len() - bytes.len();
            (0..8).for_each(|at| self.bytes.swap(start + at, start + 8 + at));
        }
    }

    /// Bytes that may still be put on their way.
    fn window(&self) -> usize {
        self.habit.window_bytes - (self.sent - self.acknowledged) as usize
    }

    /// Puts what was gathered on its way; the new position where there is one.
    pub(super) fn send(&mut self) -> Result<Option<u64>> {
        if self.is_flushed() {
            return Ok(None);
        }
        self.refused.clone().map_or(Ok(()), Err)?;
        let more = ((self.taken - self.sent) as usize).min(self.window());
        self.sent += more as u64;
        Ok((more > 0).then_some(self.sent))
    }

    pub(super) fn is_writable(&self) -> bool {
        self.refused.is_some() || self.window() > 0
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.sent == self.taken
    }

    pub(super) fn arrive(&mut self, position: u64) {
        self.arrived = self.arrived.max(position.min(self.sent));
    }

    pub(super) fn acknowledge(&mut self, position: u64) {
        self.acknowledged = self.acknowledged.max(position);
    }

    /// How many bytes can be read now, in units, at most `max_bytes`: the error of the end where there are none.
    pub(super) fn readable(&mut self, unit_bytes: usize, max_bytes: usize) -> Result<usize> {
        let units = ((self.arrived - self.released) as usize).min(max_bytes) / unit_bytes;
        match (units, &self.ended) {
            (0, Some(error)) if max_bytes >= unit_bytes => Err(error.clone()),
            (0, _) => Ok(0),
            _ => Ok(self.some_of(units) * unit_bytes),
        }
    }

    /// Copies the oldest bytes.
    pub(super) fn copy_to(&self, into: Span) {
        let (front, back) = self.bytes.as_slices();
        let of_front = front.len().min(into.len());
        into.write(&front[..of_front]);
        into.from(of_front).write(&back[..into.len() - of_front]);
    }

    /// The oldest bytes are done with; the position now.
    pub(super) fn release(&mut self, len_bytes: usize) -> u64 {
        self.bytes.drain(..len_bytes);
        self.released += len_bytes as u64;
        self.released
    }

    /// What has not been read.
    pub(super) fn unread(&self) -> VecDeque<u8> {
        self.bytes.clone()
    }

    /// Of a new pipe: these bytes have arrived, whoever sent them.
    pub(super) fn begin_with(&mut self, bytes: VecDeque<u8>) {
        let position = bytes.len() as u64;
        (self.taken, self.sent, self.arrived, self.acknowledged) = (position, position, position, position);
        self.bytes = bytes;
    }

    pub(super) fn unread_bytes(&self) -> u64 {
        self.taken - self.released
    }
}
