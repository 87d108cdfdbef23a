//! A reduction in place that is all or nothing: [`Communicator::all_reduce_preserving`].
#![forbid(unsafe_code)]

use super::Communicator;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::types::ReduceOp;

impl Communicator {
    /// [`all_reduce_in_place`](Communicator::all_reduce_in_place) that either changes `data` on every rank that lives or on
    /// none: on an error, here or anywhere, the input is as it was, so that the call can be made again after a
    /// [`shrink`](Communicator::shrink).
    ///
    /// The result is made elsewhere and takes `data`'s place only when all ranks have [agreed](Communicator::agree) that
    /// they have theirs: the price is memory for a second vector, one copy of it, and a round through the control plane
    /// (some 100 us). A rank that dies after it has agreed is the next call's problem.
    ///
    /// ```
    /// # use roundel::{Communicator, Options, ReduceOp};
    /// let mut ranks = Communicator::threads(2, Options::default())?;
    /// let mut data = [1.0f32, 2.0];
    /// drop(ranks.remove(1));
    /// assert!(ranks[0].all_reduce_preserving(&mut data, ReduceOp::Sum).is_err());
    /// assert_eq!(data, [1.0, 2.0]);
    /// let alone = ranks[0].shrink()?;
    /// alone.all_reduce_preserving(&mut data, ReduceOp::Sum)?;
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn all_reduce_preserving<T: Element>(&self, data: &mut [T], op: ReduceOp) -> Result<()> {
        let mut result = data.to_vec();
        let outcome = self.all_reduce(data, &mut result, op);
        if outcome.as_ref().is_err_and(Error::is_recoverable) {
            // Refused before anything was sent, here as everywhere.
            return outcome;
        }
        if self.agree(outcome.is_ok())? {
            data.copy_from_slice(&result);
            return Ok(());
        }
        outcome?;
        // Another rank's call failed, and took the communicator with it; the news may still be on its way.
        self.status()?;
        Err(Error::Aborted { by: self.rank(), reason: "another rank's part of the call failed".into() })
    }
}
