//! What an `ncclComm_t` stands for: a [`Communicator`], perhaps one that is still being made, and the calls that go on
//! behind the caller's back.

use crate::abi::*;
use crate::config::Wishes;
use crate::handles::Registry;
use crate::status::{Done, Failure, Result};
use roundel::{Call, Communicator, Work};
use std::ffi::c_int;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// All communicators that are neither destroyed nor aborted.
pub(crate) static COMMS: Registry<Comm> = Registry::new("communicator");

/// There is no device: buffers are in host memory.
pub(crate) const NO_DEVICE: c_int = -1;

/// Where a communicator is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    Active,
    Suspended,
    Finalized,
    Revoked,
    Aborted,
}

impl Phase {
    const ALL: [Phase; 5] = [Phase::Active, Phase::Suspended, Phase::Finalized, Phase::Revoked, Phase::Aborted];

    fn words(self) -> &'static str {
        match self {
            Phase::Active => "is in use",
            Phase::Suspended => "is suspended; call ncclCommResume first",
            Phase::Finalized => "was finalized; all that is left is to destroy it",
            Phase::Revoked => "was revoked; it can be shrunk or destroyed",
            Phase::Aborted => "was aborted",
        }
    }
}

pub(crate) struct Comm {
    /// Distinct in this process.
    pub(crate) id: u64,
    pub(crate) wishes: Wishes,
    pub(crate) device: c_int,
    /// The same on all ranks.
    pub(crate) hash: u64,
    phase: AtomicU8,
    /// Blocking calls inside, of any thread.
    inside: AtomicUsize,
    /// Communicators that are being made from this one in the background.
    offspring: AtomicUsize,
    /// What befell a call in the background.
    failure: Mutex<Option<Failure>>,
    /// Calls in the background, the oldest first. Dropped before the communicator: its drop waits for their ends.
    pending: Mutex<Vec<Work<()>>>,
    made: OnceLock<Result<Communicator>>,
}

impl Comm {
    /// One that is yet to be made.
    pub(crate) fn new(wishes: Wishes, device: c_int, hash: u64) -> Arc<Comm> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Arc::new(Comm {
            // Relaxed: only distinct.
            id: IDS.fetch_add(1, Ordering::Relaxed),
            wishes,
            device,
            hash,
            phase: AtomicU8::new(Phase::Active as u8),
            inside: AtomicUsize::new(0),
            offspring: AtomicUsize::new(0),
            failure: Mutex::default(),
            pending: Mutex::default(),
            made: OnceLock::new(),
        })
    }

    /// Ends the making. Only the first outcome counts; there is only one maker.
    pub(crate) fn finish_making(&self, outcome: Result<Communicator>) {
        // An aborted one has nobody left who could use it.
        let _ = self.made.set(outcome);
    }

    /// The communicator, once it is made; blocks until then.
    pub(crate) fn wait_until_made(&self) -> Result<&Communicator> {
        self.made.wait().as_ref().map_err(Clone::clone)
    }

    /// False while its ranks have not met.
    pub(crate) fn is_made(&self) -> bool {
        self.made.get().is_some()
    }

    /// The communicator in whatever phase.
    pub(crate) fn communicator(&self) -> Result<&Communicator> {
        match self.made.get() {
            Some(made) => made.as_ref().map_err(Clone::clone),
            None => Err(Failure::argument(
                "the communicator is still being made; poll ncclCommGetAsyncError until it no longer says ncclInProgress",
            )),
        }
    }

    /// The communicator, if it may be used for calls.
    pub(crate) fn active(&self) -> Result<&Communicator> {
        let communicator = self.communicator()?;
        match self.phase() {
            Phase::Active => Ok(communicator),
            phase => Err(Failure::usage(format!("the communicator {}", phase.words()))),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        // SeqCst: see `enter`.
        Phase::ALL[usize::from(self.phase.load(Ordering::SeqCst))]
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        // SeqCst: see `enter`.
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Counts a blocking call in. SeqCst here and in the phase: either the call sees that the communicator was aborted, or
    /// whoever aborts it sees the call and interrupts it.
    pub(crate) fn enter(&self) -> Result<(Inside<'_>, &Communicator)> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(self);
        Ok((inside, self.active()?))
    }

    /// Runs a call: to its end on a blocking communicator, else in the background.
    pub(crate) fn run(&self, call: &Call) -> Result<Done> {
        if !self.wishes.blocking {
            self.start(call)?;
            return Ok(Done::Later);
        }
        let (_inside, communicator) = self.enter()?;
        communicator.run(call)?;
        Ok(Done::Now)
    }

    /// Runs a call in the background.
    pub(crate) fn start(&self, call: &Call) -> Result<()> {
        let (_inside, communicator) = self.enter()?;
        let work = communicator.start(call)?;
        let mut pending = self.pending();
        pending.push(work);
        self.reap(&mut pending);
        Ok(())
    }

    /// True while calls run in the background, or communicators are being made from this one.
    pub(crate) fn is_busy(&self) -> bool {
        let mut pending = self.pending();
        self.reap(&mut pending);
        // Acquire: pairs with the Release in `Offspring`; what was made is there to be seen.
        !pending.is_empty() || self.offspring.load(Ordering::Acquire) > 0
    }

    /// True when somebody is in a call, here or in the background.
    pub(crate) fn is_in_use(&self) -> bool {
        // SeqCst: see `enter`.
        self.inside.load(Ordering::SeqCst) > 0 || self.is_busy()
    }

    /// Why it no longer works, if so: its communicator failed, or a call in the background did.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let own = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        own.or_else(|| match self.made.get()? {
            Ok(communicator) => communicator.status().err().map(Failure::from),
            Err(failure) => Some(failure.clone()),
        })
    }

    /// Keeps the first failure of the background.
    pub(crate) fn fail(&self, failure: Failure) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }

    /// Something is being made from it in the background, until the guard is dropped.
    pub(crate) fn expect_offspring(self: &Arc<Self>) -> Offspring {
        // Relaxed: the caller's own later look sees it.
        self.offspring.fetch_add(1, Ordering::Relaxed);
        Offspring(self.clone())
    }

    fn pending(&self) -> MutexGuard<'_, Vec<Work<()>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap(&self, pending: &mut Vec<Work<()>>) {
        for ended in pending.extract_if(.., |work| work.test()) {
            if let Err(failed) = ended.wait() {
                self.fail(failed.error.into());
            }
        }
    }
}

/// A blocking call is inside.
pub(crate) struct Inside<'a>(&'a Comm);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A communicator is being made from this one.
pub(crate) struct Offspring(Arc<Comm>);

impl Offspring {
    pub(crate) fn parent(&self) -> &Comm {
        &self.0
    }
}

impl Drop for Offspring {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `Comm::is_busy`.
        self.0.offspring.fetch_sub(1, Ordering::Release);
    }
}

/// The number by which all ranks know a communicator (`commHash`): FNV-1a.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The communicator behind a handle.
pub(crate) fn find(comm: ncclComm_t) -> Result<Arc<Comm>> {
    COMMS.find(comm)
}
