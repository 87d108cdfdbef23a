//! Calls that go on while the caller does something else: [`Work`].
#![forbid(unsafe_code)]

use crate::engine::{Completion, Engine};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// A call in flight that owns its buffers. It makes progress by itself; [`Work::wait`] gives the buffers back.
///
/// Dropping it waits for the end of the call, because peers may be using the buffers.
///
/// ```
/// # use roundel::{Communicator, Options, ReduceOp};
/// # fn main() -> roundel::Result<()> {
/// let comm = Communicator::threads(1, Options::default())?.remove(0);
/// let work = comm.start_all_reduce(vec![1.0f32; 8], ReduceOp::Sum)?;
/// // ... compute ...
/// let sums = work.wait()?;
/// assert_eq!(sums, [1.0; 8]);
/// # Ok(()) }
/// ```
#[must_use = "dropping it waits for the call's end"]
pub struct Work<B> {
    engine: Arc<Engine>,
    completion: Arc<Completion>,
    buffers: Option<B>,
}

/// A call that failed, with the buffers it had: their contents are undefined, except that an input that was not also
/// the output is untouched.
pub struct Failed<B> {
    /// Why.
    pub error: Error,
    /// What the call owned.
    pub buffers: B,
}

impl<B> From<Failed<B>> for Error {
    fn from(failed: Failed<B>) -> Error {
        failed.error
    }
}

impl<B> std::fmt::Debug for Failed<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl<B> std::fmt::Display for Failed<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl<B> std::error::Error for Failed<B> {}

impl<B> Work<B> {
    pub(super) fn new(engine: Arc<Engine>, completion: Arc<Completion>, buffers: B) -> Work<B> {
        Work { engine, completion, buffers: Some(buffers) }
    }

    /// True once the call has ended, well or badly; never blocks.
    pub fn test(&self) -> bool {
        self.completion.outcome().is_some()
    }

    /// Blocks until the call has ended and gives the buffers back, also with an error.
    pub fn wait(mut self) -> std::result::Result<B, Failed<B>> {
        let outcome = self.finish();
        let buffers = self.buffers.take().expect("taken only here, and `wait` consumes the work");
        match outcome {
            Ok(()) => Ok(buffers),
            Err(error) => Err(Failed { error, buffers }),
        }
    }

    /// How the call ended, once it has; never blocks.
    pub fn outcome(&self) -> Option<Result<()>> {
        self.completion.outcome().cloned()
    }

    /// [`Work::finish`] for at most `timeout`; then `None`, and the call goes on.
    ///
    /// ```
    /// # use roundel::{Communicator, Options, ReduceOp};
    /// # use std::time::Duration;
    /// let comm = Communicator::threads(1, Options::default())?.remove(0);
    /// let work = comm.start_all_reduce(vec![1.0f32; 8], ReduceOp::Sum)?;
    /// while work.finish_within(Duration::from_millis(100)).is_none() {
    ///     // Look whether the user wants to stop.
    /// }
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn finish_within(&self, timeout: Duration) -> Option<Result<()>> {
        self.engine.wait_for(&self.completion, timeout)
    }

    /// Blocks until the call has ended; the buffers stay where they are. May be called by several threads and again.
    pub fn finish(&self) -> Result<()> {
        self.engine.wait(&self.completion)
    }
}

impl<B> Drop for Work<B> {
    fn drop(&mut self) {
        if self.buffers.is_some() {
            // The outcome of a call that nobody asks for is in the log and in the communicator's next call.
            let _ = self.finish();
        }
    }
}

impl<B> std::fmt::Debug for Work<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("ended", &self.test()).finish_non_exhaustive()
    }
}
