//! Groups of groups: [`Communicator::split`], which all ranks make together, and [`Communicator::subset`], which its members
//! make alone.
#![forbid(unsafe_code)]

use super::{Communicator, Identity};
use crate::engine::{Call, mix};
use crate::error::{Error, Meeting, Result};
use crate::types::Rank;
use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Communicator {
    /// Ranks of the same color become a communicator of their own, ordered by `key` and then by their rank here; a rank
    /// without a color gets none. Collective over all ranks of this communicator, and blocking. The new communicator
    /// has links and signals of its own and may be used beside this one.
    ///
    /// ```
    /// # use roundel::{Communicator, Options};
    /// let ranks = Communicator::threads(4, Options::default())?;
    /// std::thread::scope(|scope| {
    ///     for comm in &ranks {
    ///         scope.spawn(move || {
    ///             let even = comm.rank() % 2 == 0;
    ///             let half = comm.split(even.then_some(0), -(comm.rank() as i64)).unwrap();
    ///             assert_eq!(half.map(|half| (half.rank(), half.world())), even.then_some((1 - comm.rank() / 2, 2)));
    ///         });
    ///     }
    /// });
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Communicator>> {
        // A meeting of all ranks, as a call like any other: ranks that call something else instead find out there.
        self.run(&Call::meeting(Meeting::Split))?;
        let deadline = Instant::now() + self.options().init_timeout;
        // Relaxed: only a count; all ranks split in the same order.
        let number = self.splits.fetch_add(1, Ordering::Relaxed);
        let tag = mix(mix(self.comm, 0x73_706c_6974), number);
        let wishes: Vec<(Option<u32>, i64)> = self.world.exchange(tag, &self.members, &(color, key), deadline)?;
        let Some(color) = color else { return Ok(None) };
        let mut chosen: Vec<Rank> = (0..self.world()).filter(|&rank| wishes[rank].0 == Some(color)).collect();
        chosen.sort_by_key(|&rank| (wishes[rank].1, rank));
        let members = chosen.into_iter().map(|rank| self.members[rank]).collect();
        let comm = mix(mix(tag, 1), u64::from(color));
        Communicator::assemble(self.world.clone(), Identity { comm, epoch: self.epoch }, members, deadline).map(Some)
    }

    /// The ranks `members` (their numbers here, in the new order) become a communicator of their own. Only they make this
    /// call, all with the same list; nobody else takes part, and so it also works when others are dead, hang, or this
    /// communicator has failed. [`Error::PeerLost`] when a member is dead; where it is not known who lives,
    /// [`shrink`](Communicator::shrink) finds out. Blocks at most [`Options::init_timeout`](crate::Options::init_timeout).
    ///
    /// ```
    /// # use roundel::{Communicator, Options, ReduceOp};
    /// let ranks = Communicator::threads(3, Options::default())?;
    /// ranks[1].abort("rank 1 is of no use");
    /// std::thread::scope(|scope| {
    ///     for comm in [&ranks[0], &ranks[2]] {
    ///         scope.spawn(move || {
    ///             let rest = comm.subset(&[0, 2]).unwrap();
    ///             let mut sum = [rest.rank() as u32 + 1];
    ///             rest.all_reduce_in_place(&mut sum, ReduceOp::Sum).unwrap();
    ///             assert_eq!((rest.world(), sum), (2, [3]));
    ///         });
    ///     }
    /// });
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn subset(&self, members: &[Rank]) -> Result<Communicator> {
        self.engine.check_birthplace()?;
        let world = self.world();
        let distinct: HashSet<Rank> = members.iter().copied().collect();
        let known = members.iter().all(|&member| member < world);
        if distinct.len() != members.len() || !known || !distinct.contains(&self.rank()) {
            return Err(Error::invalid(format!(
                "subset {members:?} on rank {} of {world}; it takes distinct ranks, the calling one among them",
                self.rank()
            )));
        }
        let deadline = Instant::now() + self.options().init_timeout;
        let list = members.iter().fold(mix(self.comm, 0x7375_6273_6574), |tag, &member| mix(tag, member as u64));
        // The members of one list make it equally often, whatever else each of them makes.
        let number = {
            let mut subsets = self.subsets.lock().unwrap_or_else(PoisonError::into_inner);
            let number = subsets.entry(list).or_insert(0u64);
            *number += 1;
            *number
        };
        let members = members.iter().map(|&member| self.members[member]).collect();
        let identity = Identity { comm: mix(list, number), epoch: self.epoch };
        Communicator::assemble(self.world.clone(), identity, members, deadline)
    }
}
