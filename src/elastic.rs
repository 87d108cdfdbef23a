//! Work that goes on while ranks die and join: [`run`] repeats a step on whoever is there.
//!
//! ```text
//!   everybody has the newest state
//!     step ──ok──> apply, next step                      a step that fails has changed nothing:
//!       │                                                what it computes is applied only when it is whole
//!     a rank is gone ──> shrink ──> the newest state ──> the same step again, without the dead
//!     every so often ──> grow   ──> the newest state ──> the next step, with the newcomers
//! ```
//!
//! No step is lost and none is counted twice: some ranks may have finished the step in which another died, and then they
//! are the ones whose state is the newest.
//!
//! The loop of Horovod Elastic (run, restore, retry) and of torchft (heal from a live peer), over collectives that tell.
#![forbid(unsafe_code)]

use crate::comm::Communicator;
use crate::engine::mix;
use crate::error::{Error, Result};
use crate::types::Rank;

/// Work in steps, each of which needs all ranks.
pub trait Stepwise {
    /// What a step computes.
    type Update;

    /// How many steps have been applied: the same on all ranks that are abreast.
    fn steps_done(&self) -> u64;

    /// Whether there is nothing more to do; a function of the state, so that all ranks see it at the same step.
    fn is_done(&self) -> bool;

    /// Computes one step together with the other ranks. It cannot change the state: an error leaves it as it was.
    fn step(&self, comm: &Communicator) -> Result<Self::Update>;

    /// Applies what a step has computed, and counts it.
    fn apply(&mut self, update: Self::Update);

    /// The state in bytes, for ranks that are behind or new.
    fn save(&self) -> Vec<u8>;

    /// Becomes the state that [`save`](Stepwise::save) wrote on another rank.
    fn load(&mut self, bytes: &[u8]) -> Result<()>;
}

/// When to look for newcomers, and when to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Steps between two looks for newcomers; 0: none are taken in. The same on all ranks.
    pub grow_every: u64,
    /// With fewer ranks the work ends with the error that made them so few.
    pub min_ranks: usize,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { grow_every: 1, min_ranks: 1 }
    }
}

/// Steps until the work is done; returns the communicator of those who are there then. All ranks call it, those that
/// began the job and newcomers right after [`Communicator::enlist`]; whoever is behind gets the newest state first.
///
/// Deaths are survived; any other error ends the work, as does a death that leaves fewer than [`Policy::min_ranks`].
///
/// ```
/// use roundel::elastic::{Policy, Stepwise, run};
/// use roundel::{Communicator, Options, ReduceOp, Result};
///
/// /// Adds up 1 + 2 + ... + 10, each step shared among the ranks.
/// #[derive(Default)]
/// struct Sum { steps: u64, total: u64 }
///
/// impl Stepwise for Sum {
///     type Update = u64;
///     fn steps_done(&self) -> u64 { self.steps }
///     fn is_done(&self) -> bool { self.steps == 10 }
///     fn step(&self, comm: &Communicator) -> Result<u64> {
///         // The rank whose turn it is has the number; everybody needs it.
///         let mine = self.steps as usize % comm.world() == comm.rank();
///         let mut number = [if mine { self.steps + 1 } else { 0 }];
///         comm.all_reduce_in_place(&mut number, ReduceOp::Sum)?;
///         Ok(number[0])
///     }
///     fn apply(&mut self, number: u64) {
///         self.total += number;
///         self.steps += 1;
///     }
///     fn save(&self) -> Vec<u8> { [self.steps, self.total].map(u64::to_le_bytes).concat() }
///     fn load(&mut self, bytes: &[u8]) -> Result<()> {
///         let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
///         (self.steps, self.total) = (number(0), number(8));
///         Ok(())
///     }
/// }
///
/// let ranks = Communicator::threads(3, Options::default())?;
/// std::thread::scope(|scope| {
///     for comm in ranks {
///         scope.spawn(move || {
///             let mut sum = Sum::default();
///             run(&mut sum, comm, Policy::default()).unwrap();
///             assert_eq!(sum.total, 55);
///         });
///     }
/// });
/// # Ok::<(), roundel::Error>(())
/// ```
pub fn run<W: Stepwise>(work: &mut W, mut comm: Communicator, policy: Policy) -> Result<Communicator> {
    let mut is_abreast = false;
    loop {
        match advance(work, &comm, policy, &mut is_abreast) {
            Ok(Next::Step) => {}
            Ok(Next::Done) => return Ok(comm),
            Ok(Next::With(grown)) => {
                tracing::info!(members = ?grown.members(), epoch = grown.epoch(), "newcomers have joined");
                (comm, is_abreast) = (grown, false);
            }
            Err(error @ Error::PeerLost { .. }) => {
                let rest = comm.shrink()?;
                tracing::info!(%error, members = ?rest.members(), epoch = rest.epoch(), "going on without the lost");
                if rest.world() < policy.min_ranks {
                    return Err(error);
                }
                (comm, is_abreast) = (rest, false);
            }
            Err(error) => return Err(error),
        }
    }
}

enum Next {
    Step,
    Done,
    With(Communicator),
}

fn advance<W: Stepwise>(work: &mut W, comm: &Communicator, policy: Policy, is_abreast: &mut bool) -> Result<Next> {
    if !*is_abreast {
        catch_up(work, comm)?;
        *is_abreast = true;
    }
    if work.is_done() {
        // Nobody leaves while another may still need the newest state.
        comm.barrier()?;
        return Ok(Next::Done);
    }
    if policy.grow_every > 0
        && work.steps_done().is_multiple_of(policy.grow_every)
        && let Some(grown) = comm.grow()?
    {
        return Ok(Next::With(grown));
    }
    let update = work.step(comm)?;
    work.apply(update);
    Ok(Next::Step)
}

/// All ranks come to the state of the one that is furthest, the lowest of several. Moves 16 bytes a rank where all are
/// abreast, and the state once over the network where not. Then all compare a digest of what they have: an error where
/// states differ that count the same steps.
pub fn catch_up<W: Stepwise>(work: &mut W, comm: &Communicator) -> Result<()> {
    let mut state = work.save();
    let mine = [work.steps_done(), state.len() as u64];
    let mut all = vec![0; 2 * comm.world()];
    comm.all_gather(&mine, &mut all)?;
    let steps: Vec<u64> = all.chunks(2).map(|rank| rank[0]).collect();
    let newest = steps.iter().copied().max().unwrap_or_default();
    let source = steps.iter().position(|steps| *steps == newest).expect("the newest is somebody's");
    if steps.iter().any(|steps| *steps < newest) {
        let is_behind = mine[0] < newest;
        if is_behind {
            state = vec![0; all[2 * source + 1] as usize];
            comm.broadcast(&mut state, source)?;
            work.load(&state)?;
        } else {
            // Whoever is not behind keeps its own; what comes is only for the others.
            let mut passing = if comm.rank() == source { state.clone() } else { vec![0; all[2 * source + 1] as usize] };
            comm.broadcast(&mut passing, source)?;
        }
    }
    agree_on(&state, newest, comm)
}

/// All ranks have the same bytes.
fn agree_on(state: &[u8], steps: u64, comm: &Communicator) -> Result<()> {
    let words = state.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let digest = [words.fold(mix(state.len() as u64, steps), mix)];
    let mut digests = vec![0; comm.world()];
    comm.all_gather(&digest, &mut digests)?;
    let differing: Vec<Rank> = (0..comm.world()).filter(|&rank| digests[rank] != digests[0]).collect();
    if differing.is_empty() {
        return Ok(());
    }
    let what = format!("hold another state than rank 0 after {steps} steps");
    Err(Error::Corrupted { suspects: differing, what, during: None })
}
