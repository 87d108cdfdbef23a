//! How a call runs: which algorithm, over how many parallel links, in slices of which size. A pure function of facts that
//! are the same on every rank, so that all choose alike: ranks that decided from their own measurements could disagree and
//! wait for each other for ever.
//!
//! ```text
//!   Costs     what a byte, a message, a signal cost here: a quick look at the start of a job       } measured
//!   Sample    how long a call took in one of the ways to do it: roundel-tune                       }
//!   Forecast  cost model of the program x residual (what samples took / what the model says)
//!   Table     for each collective and size the way to do it: decided once, on rank 0, and sent to all
//!   choose    what was set, else what the table says, else fixed sizes
//! ```
//!
//! A table is kept in a [file](mod@file) for the next job of the same [fingerprint](file::Profile::fingerprint).
#![forbid(unsafe_code)]

pub mod costs;
pub mod decide;
pub mod file;
mod fixed;
pub mod forecast;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod table;

pub use costs::{Costs, LinkClass};
pub use decide::decide;
pub use forecast::{Forecast, Sample, Setting};
pub use table::{Rule, Table, Way};

use crate::error::{Error, Result};
use crate::schedule::Program;
use crate::schedule::catalogue::{Algorithm, Shape, candidates, honours_rank_order};
use crate::types::Collective;
use std::fmt;

/// What goes through the slots of a single round at most: it fits the smallest staging memory there can be.
pub const SINGLE_ROUND_BYTES: usize = 32 << 10;

/// A slot of private memory holds so much where nothing else was said; together they stay within a private cache.
pub const SCRATCH_SLOT_BYTES: usize = 256 << 10;

/// What one slot of this program holds at most, in staging memory of `stage_bytes` and with slices of at most
/// `slice_bytes`. `None`: it has no slots.
///
/// ```
/// use roundel::schedule::catalogue::{Algorithm, Shape, program};
/// use roundel::tuner::slot_limit_bytes;
/// let staged = program(Algorithm::Staged, &Shape::one_host(roundel::Collective::AllReduce, 2), 0).unwrap();
/// assert!(slot_limit_bytes(&staged, 512 << 10, None) > Some(64 << 10));
/// assert_eq!(slot_limit_bytes(&staged, 512 << 10, Some(64 << 10)), Some(64 << 10));
/// ```
pub fn slot_limit_bytes(program: &Program, stage_bytes: usize, slice_bytes: Option<usize>) -> Option<usize> {
    let lines = |bytes: usize| (bytes / 64 * 64).max(64);
    let staged = (program.stage_slots > 0).then(|| lines(stage_bytes / program.stage_slots as usize));
    let private = (program.scratch_slots > 0).then(|| slice_bytes.unwrap_or(SCRATCH_SLOT_BYTES));
    let tightest = staged.into_iter().chain(private).min()?;
    Some(lines(slice_bytes.map_or(tightest, |slice_bytes| tightest.min(slice_bytes))))
}

/// Why a call runs as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Origin {
    /// By fixed sizes.
    BuiltIn,
    /// By a table from a file.
    Cache,
    /// By a table that was made when the job began.
    Measured,
    /// The algorithm was set.
    Override,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Origin::BuiltIn => "built in",
            Origin::Cache => "cache",
            Origin::Measured => "measured",
            Origin::Override => "override",
        })
    }
}

/// What the choice depends on, besides the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Situation<'a> {
    /// Bytes of the vector, or of all blocks together.
    pub bytes: usize,
    /// The same, were all blocks as long as the longest: the slots of a round are of one size.
    pub padded_bytes: usize,
    /// Peers can map the caller's buffers.
    pub mapped: bool,
    /// The counts differ from pair to pair, and only the pair knows them.
    pub uneven_exchange: bool,
    /// Only algorithms whose reductions keep the rank order.
    pub reproducible: bool,
    /// The user's wish; it holds for the collectives that the algorithm can do.
    pub wish: Option<Algorithm>,
    /// What was measured, if anything was. It holds where it can.
    pub table: Option<&'a Table>,
}

impl Situation<'_> {
    /// A call of so many bytes in equal blocks, with nothing set and nothing measured.
    pub fn sized(bytes: usize) -> Situation<'static> {
        Situation { bytes, padded_bytes: bytes, ..Situation::default() }
    }
}

/// A way to do a call, and why this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Choice {
    /// How.
    pub way: Way,
    /// Why.
    pub origin: Origin,
}

/// Chooses. An error only where a wish and reproducibility contradict each other.
///
/// ```
/// use roundel::schedule::catalogue::{Algorithm, Shape};
/// use roundel::tuner::{Situation, choose};
/// use roundel::Collective;
/// let shape = Shape::one_host(Collective::AllReduce, 4);
/// assert_eq!(choose(&shape, Situation::sized(8)).unwrap().way.algorithm, Algorithm::OneShot);
/// assert_eq!(choose(&shape, Situation::sized(1 << 20)).unwrap().way.algorithm, Algorithm::Staged);
/// ```
pub fn choose(shape: &Shape, situation: Situation) -> Result<Choice> {
    let possible = candidates(shape);
    let orderly = |algorithm: &Algorithm| !situation.reproducible || honours_rank_order(*algorithm, shape);
    let usable = |algorithm: &Algorithm| {
        possible.contains(algorithm)
            && match algorithm {
                _ if situation.uneven_exchange => *algorithm == Algorithm::Pairwise,
                _ if algorithm.needs_mapped_buffers() => situation.mapped || shape.collective == Collective::Barrier,
                _ => !algorithm.single_round() || situation.padded_bytes <= SINGLE_ROUND_BYTES,
            }
    };
    let plain = |algorithm, origin| Choice { way: Way::plain(algorithm), origin };
    if let Some(wish) = situation.wish.filter(usable) {
        if orderly(&wish) {
            return Ok(plain(wish, Origin::Override));
        }
        let names: Vec<&str> = possible.iter().filter(|a| orderly(a)).map(|a| a.name()).collect();
        return Err(Error::unsupported(format!(
            "algorithm {} cannot keep the reproducible order of {}; use one of: {}",
            wish.name(),
            shape.collective,
            names.join(", ")
        )));
    }
    let measured = situation.table.and_then(|table| {
        // Between hosts nobody reaches into all buffers, whatever neighbours can.
        let mapped = situation.mapped && shape.is_one_host();
        let way = table.look_up(shape.collective, mapped, situation.bytes)?;
        (usable(&way.algorithm) && orderly(&way.algorithm)).then_some(Choice { way, origin: table.origin })
    });
    let built_in = || {
        let preferred = fixed::preferred(shape, &situation).into_iter().chain(possible.iter().copied());
        let found = preferred.into_iter().find(|algorithm| usable(algorithm) && orderly(algorithm))?;
        Some(plain(found, Origin::BuiltIn))
    };
    measured
        .or_else(built_in)
        .ok_or_else(|| Error::unsupported(format!("{} for these hosts and this mode", shape.collective)))
}
