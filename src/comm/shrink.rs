//! Going on without those who are gone: [`Communicator::shrink`], and what the living agree on, [`Communicator::agree`].
//!
//! Both work on a communicator that has failed; that is what they are for. They rest on the control plane's census: the
//! ranks that live all learn the same list of ranks that live.
#![forbid(unsafe_code)]

use super::Communicator;
use super::census::{self, Answer, Count};
use crate::error::{Error, Result};
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Communicator {
    /// The ranks of this communicator that live become a communicator of their own, in the same processes and in the same
    /// order. All of them make this call (after the error that told them of a loss, they all can); the dead are not
    /// waited for, and whoever dies meanwhile is left out too. The outcome is the same on every rank that lives.
    ///
    /// This communicator is not changed: it has failed, as a rule, and is dropped. Memory of
    /// [`Communicator::alloc`] stays good.
    ///
    /// Blocks until all that live have called, at most [`Options::init_timeout`](crate::Options::init_timeout); then the
    /// error names those who did not. [`Error::PeerLost`] where so many cannot be reached, without being known to be
    /// dead, that they may be going on by themselves: of a network cut in two, at most one side goes on.
    ///
    /// As `MPI_Comm_shrink` of ULFM (Bland et al., 2013).
    ///
    /// ```
    /// # use roundel::{Communicator, Options, ReduceOp};
    /// let mut ranks = Communicator::threads(3, Options::default())?;
    /// drop(ranks.remove(1));
    /// std::thread::scope(|scope| {
    ///     for comm in &ranks {
    ///         scope.spawn(move || {
    ///             assert!(comm.all_reduce_in_place(&mut [1u32], ReduceOp::Sum).is_err(), "rank 1 has left");
    ///             let rest = comm.shrink().unwrap();
    ///             let mut sum = [1u32];
    ///             rest.all_reduce_in_place(&mut sum, ReduceOp::Sum).unwrap();
    ///             assert_eq!((sum, rest.members()), ([2], &[0, 2][..]));
    ///         });
    ///     }
    /// });
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn shrink(&self) -> Result<Communicator> {
        self.engine.check_birthplace()?;
        let began = Instant::now();
        let deadline = began + self.options().init_timeout;
        let mut failure = None;
        loop {
            let count = self.census(Answer::Shrinks, deadline)?;
            let Some((identity, members)) = count.rest(&self.members, self.epoch) else { continue };
            match Communicator::assemble(self.world.clone(), identity, members, deadline) {
                Ok(rest) => {
                    self.world.forget_gone();
                    return Ok(rest);
                }
                // Somebody died after it was counted; so say all who live, and count again.
                Err(error @ Error::PeerLost { .. }) if Instant::now() < deadline => {
                    tracing::debug!(%error, "a shrink is repeated");
                    failure = Some(error);
                }
                outcome => return outcome.map_err(|error| failure.unwrap_or(error)),
            }
        }
    }

    /// True on all ranks that live when all of them said `true`: one answer everywhere, also when ranks die meanwhile and
    /// when this communicator has failed. What a step of training needs to know before it counts as done.
    ///
    /// All ranks that live make this call; where one of them [`shrink`](Communicator::shrink)s instead the answer is `false`.
    /// Blocks until they have, at most [`Options::timeout`](crate::Options::timeout). Goes through the control plane: some
    /// 100 us, not for every microsecond.
    ///
    /// As `MPI_Comm_agree` of ULFM.
    ///
    /// ```
    /// # use roundel::{Communicator, Options};
    /// let ranks = Communicator::threads(2, Options::default())?;
    /// std::thread::scope(|scope| {
    ///     for comm in &ranks {
    ///         scope.spawn(move || assert_eq!(comm.agree(comm.rank() == 0), Ok(false)));
    ///     }
    /// });
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn agree(&self, flag: bool) -> Result<bool> {
        self.engine.check_birthplace()?;
        Ok(self.census(Answer::Agrees(flag), Instant::now() + self.options().timeout)?.is_agreed())
    }

    fn census(&self, mine: Answer, deadline: Instant) -> Result<Count> {
        // Relaxed: only a count; the ranks that live hold the same censuses in the same order.
        let tag = census::tag(self.comm, self.censuses.fetch_add(1, Ordering::Relaxed));
        let parts = self.world.control.census(tag, &self.members, mine.encode(), deadline)?;
        Ok(Count::new(tag, &parts))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Communicator, Options};
    use std::time::Duration;

    /// One rank has learned of a death and shrinks, the other is still on its way through the last call, to agree on it.
    #[test]
    fn who_shrinks_keeps_nobody_waiting_who_still_agrees() {
        let patience = Duration::from_secs(60);
        let options = Options { timeout: patience, init_timeout: patience, ..Options::default() };
        let mut ranks = Communicator::threads(3, options).unwrap();
        drop(ranks.remove(1));
        let [early, late] = &ranks[..] else { panic!("two are left") };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let rest = early.shrink().unwrap();
                assert_eq!((rest.members(), rest.agree(true)), (&[0, 2][..], Ok(true)));
            });
            scope.spawn(|| {
                assert_eq!(late.agree(true), Ok(false));
                assert_eq!(late.agree(true), Ok(false), "as long as the other one shrinks");
                assert_eq!(late.shrink().unwrap().agree(true), Ok(true));
            });
        });
    }
}
