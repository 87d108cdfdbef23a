//! Groups of groups: [`Communicator::split`].
#![forbid(unsafe_code)]

use super::Communicator;
use super::calls::call;
use crate::engine::{Counts, mix};
use crate::error::Result;
use crate::types::{Collective, Rank};
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
        self.run(&call::<u8>(Collective::Barrier, None, Counts::Even(1)))?;
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
        Communicator::assemble(self.world.clone(), comm, members, deadline).map(Some)
    }
}
