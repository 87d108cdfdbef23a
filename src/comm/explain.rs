//! What a call would do: the choice and the program, for people.
#![forbid(unsafe_code)]

use super::Communicator;
use crate::engine::{Call, Counts};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::schedule::Program;
use crate::tuner::Origin;
use crate::types::{Collective, DType, Rank, ReduceOp};
use std::fmt;

/// How a call would run on this rank.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The algorithm's name.
    pub algorithm: &'static str,
    /// Why this one: by fixed sizes, by a table that was kept or measured, or because it was set.
    pub origin: Origin,
    /// "memory" (threads of one process), "shm", "tcp", "fabric", "shm+tcp" or "shm+fabric".
    pub transport: &'static str,
    /// Parallel links.
    pub channels: u8,
    /// Pieces that the buffers are cut into.
    pub chunks: u32,
    /// The longest of them.
    pub chunk_bytes: usize,
    /// What a staging or scratch slot holds; 0 where the program uses none.
    pub slot_bytes: usize,
    /// How often the program runs to get through all of every chunk.
    pub rounds: u32,
    /// This rank's program.
    pub program: Program,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explanation { algorithm, origin, transport, channels, chunks, chunk_bytes, slot_bytes, rounds, program } =
            self;
        writeln!(
            f,
            "{algorithm} over {transport}, {channels} channels, {chunks} chunks of at most {chunk_bytes} bytes, slots of \
             {slot_bytes} bytes, {rounds} rounds ({origin}):"
        )?;
        program.fmt(f)
    }
}

impl Communicator {
    /// What a call of `count` elements (as in [`Counts::Even`]) would do here. `mapped`: its buffers come from
    /// [`Communicator::alloc`]. Local: asks no other rank and sends nothing.
    ///
    /// ```
    /// # use roundel::{Collective, Communicator, DType, Options, ReduceOp};
    /// let comm = Communicator::threads(2, Options::default())?.remove(0);
    /// let plan = comm.explain(Collective::AllReduce, DType::F32, Some(ReduceOp::Sum), 1 << 20, 0, false, true)?;
    /// println!("{plan}");
    /// # Ok::<(), roundel::Error>(())
    /// ```
    #[allow(clippy::too_many_arguments)]
    pub fn explain(
        &self,
        collective: Collective,
        dtype: DType,
        op: Option<ReduceOp>,
        count: usize,
        root: Rank,
        in_place: bool,
        mapped: bool,
    ) -> Result<Explanation> {
        if root >= self.world() {
            return Err(Error::invalid(format!("{collective}: root {root} in a world of {}", self.world())));
        }
        let counts = Counts::Even(count);
        let call = Call { collective, dtype, op, root, peer: root, counts, input: Span::EMPTY, output: Span::EMPTY };
        // Refuses what overflows.
        call.sizes(self.rank(), self.world())?;
        self.engine.with_lane(|lane| {
            let outline = lane.outline(&call, in_place, mapped)?;
            Ok(Explanation {
                algorithm: outline.algorithm.name(),
                origin: outline.origin,
                transport: self.transport(),
                channels: outline.channels,
                chunks: outline.program.chunks,
                chunk_bytes: outline.chunk_bytes,
                slot_bytes: outline.slot_bytes,
                rounds: outline.rounds,
                program: outline.program,
            })
        })
    }

    /// What the ranks' links are made of: "memory", "shm", "tcp", "fabric", "shm+tcp" or "shm+fabric"; "fabric" where all
    /// ranks use the same provider of libfabric.
    pub fn transport(&self) -> &'static str {
        let shares = self.hosts.iter().any(|host| host.len() > 1);
        let places = self.world.places(&self.members);
        let threads = shares && places.iter().all(|place| place.process == places[0].process);
        let far = self.hosts.len() > 1;
        if far && self.world.fabric.joins_all(&self.members) {
            return if shares { "shm+fabric" } else { "fabric" };
        }
        match (far, shares) {
            (false, _) if threads || self.world() == 1 => "memory",
            (false, _) => "shm",
            (true, false) => "tcp",
            (true, true) => "shm+tcp",
        }
    }
}
