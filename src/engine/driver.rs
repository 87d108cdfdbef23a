//! Who turns the crank. Nobody owns a communicator's lane: whichever thread needs it drives it, one at a time.
//!
//! ```text
//!   blocking call     submit ──> nobody drives? drive until own call is done, then hand over
//!                            └─> somebody drives: ring its bell, wait; take over if it leaves first
//!   nonblocking call  submit ──> nobody drives, and it is small? drive one turn, so that peers hear of it. What is left the
//!                                progress thread drives, while nobody else does; it steps aside for whoever waits
//! ```
//!
//! The caller of a blocking call thus pays no thread switch, whoever waits for a nonblocking one at most one, and it moves
//! on whether or not anybody waits for it. How the crank is turned is told in [`super::crank`].
#![forbid(unsafe_code)]

use super::call::Call;
use super::completion::Completion;
use super::fate::Fate;
use super::lane::Lane;
use super::patience::{Idle, Patience};
use crate::error::{Error, Result, Signature};
use crate::fork::Birthplace;
use crate::transport::{Interest, Sleeper};
use crate::types::Rank;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Whoever starts a call of at most so many bytes moves it a little by itself; larger ones would keep it from computing.
const LIGHT_BYTES: usize = 64 << 10;

/// What the engine tells the outside about the communicator's fate.
pub trait Reporter: Send + Sync {
    /// This rank ended the communicator: tell all.
    fn failed(&self, error: &Error);
    /// This rank has been waiting in this call for a while, for these ranks.
    fn stalled(&self, signature: Signature, waiting_for: &[Rank]);
}

/// One rank's engine for one communicator.
pub(crate) struct Engine {
    pub(super) state: Mutex<State>,
    /// A call has ended, or nobody drives any more: for those who wait for calls.
    pub(super) changed: Condvar,
    /// There are calls and nobody drives: for the progress thread.
    abandoned: Condvar,
    pub(super) lane: Mutex<Drive>,
    birthplace: Birthplace,
    pub(super) fate: Arc<Fate>,
    pub(super) reporter: Arc<dyn Reporter>,
    /// Wakes the driver out of its sleep.
    wake: Box<dyn Fn() + Send + Sync>,
    /// Calls in `State::inbox`: lets the driver look without the lock.
    pub(super) waiting: AtomicUsize,
    /// Threads that wait for a call and would rather drive than the progress thread.
    eager: AtomicUsize,
}

pub(super) struct State {
    pub(super) inbox: VecDeque<Submission>,
    driving: bool,
    /// It is the progress thread that drives.
    progress_drives: bool,
    /// Calls submitted and not ended.
    pub(super) open: usize,
    /// Threads that wait for `changed`.
    pub(super) followers: usize,
    progress_thread: Option<JoinHandle<()>>,
    closed: bool,
}

pub(super) struct Submission {
    pub(super) call: Call,
    pub(super) in_place: bool,
    pub(super) completion: Arc<Completion>,
}

/// What only the driver touches.
pub(super) struct Drive {
    pub(super) lane: Lane,
    pub(super) sleeper: Box<dyn Sleeper>,
    pub(super) interests: Vec<Interest>,
    pub(super) patience: Patience,
}

impl Engine {
    pub(crate) fn new(
        lane: Lane,
        sleeper: Box<dyn Sleeper>,
        patience: Patience,
        reporter: Arc<dyn Reporter>,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Engine> {
        Arc::new(Engine {
            birthplace: Birthplace::here(),
            fate: lane.fate.clone(),
            lane: Mutex::new(Drive { lane, sleeper, interests: Vec::new(), patience }),
            state: Mutex::new(State {
                inbox: VecDeque::new(),
                driving: false,
                progress_drives: false,
                open: 0,
                followers: 0,
                progress_thread: None,
                closed: false,
            }),
            changed: Condvar::new(),
            abandoned: Condvar::new(),
            reporter,
            wake,
            waiting: AtomicUsize::new(0),
            eager: AtomicUsize::new(0),
        })
    }

    /// `Ok` while calls may be made.
    pub(crate) fn check(&self) -> Result<()> {
        self.birthplace.check()?;
        self.fate.check()
    }

    /// [`Engine::check`], whatever has become of the communicator.
    pub(crate) fn check_birthplace(&self) -> Result<()> {
        self.birthplace.check()
    }

    /// False in a process that was forked since: nothing there may touch what its parent uses.
    pub(crate) fn is_at_home(&self) -> bool {
        self.birthplace.is_here()
    }

    /// Runs a validated call to its end on this thread.
    pub(crate) fn run(&self, call: &Call, in_place: bool) -> Result<()> {
        self.check()?;
        if let Some(outcome) = self.run_through(call, in_place) {
            return outcome;
        }
        let call = call.clone();
        let completion = Arc::new(Completion::default());
        let state = self.submit(Submission { call, in_place, completion: completion.clone() });
        if state.driving {
            (self.wake)();
        }
        self.follow(state, &completion)
    }

    /// The short way, for a call that needs no company: nobody drives, nothing is in flight, an equal call was made before
    /// and only this host's ranks take part. Then nothing is allocated, queued or looked up, and the caller waits
    /// awake. What takes longer joins the calls in flight, as it stands, and goes on the long way. `None`: not such a
    /// call.
    fn run_through(&self, call: &Call, in_place: bool) -> Option<Result<()>> {
        // Relaxed: calls that this thread submitted before are seen; those of other threads have no order with this one.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let mut guard = match self.lane.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let drive = &mut *guard;
        if !drive.lane.board(call, in_place) {
            return None;
        }
        let mut idle = Idle::new(drive.patience);
        let error = loop {
            match self.fate.watch().and_then(|()| drive.lane.poll_express()) {
                Ok(true) => return Some(Ok(())),
                Ok(false) if idle.rest() => {}
                Ok(false) => break None,
                Err(error) => break Some(error),
            }
        };
        let completion = Arc::new(Completion::default());
        drive.lane.park(completion.clone(), Instant::now());
        if let Some(error) = error {
            self.fail(&mut drive.lane, error);
        }
        // The lane is given back only when the call is counted: whoever drives next settles that count.
        let mut state = self.lock();
        state.open = drive.lane.in_flight() + state.inbox.len();
        drop(guard);
        Some(self.follow(state, &completion))
    }

    /// Runs validated calls together; returns when all have ended, with the first error.
    pub(crate) fn run_all(&self, calls: Vec<(Call, bool)>) -> Result<()> {
        self.check()?;
        let completions: Vec<_> = calls.iter().map(|_| Arc::new(Completion::default())).collect();
        let mut state = self.lock();
        for ((call, in_place), completion) in calls.into_iter().zip(&completions) {
            self.enqueue(&mut state, Submission { call, in_place, completion: completion.clone() });
        }
        if state.driving {
            (self.wake)();
        }
        drop(state);
        let outcomes: Vec<_> = completions.iter().map(|completion| self.follow(self.lock(), completion)).collect();
        outcomes.into_iter().collect()
    }

    /// Makes the driver look around.
    pub(crate) fn wake(&self) {
        (self.wake)();
    }

    /// Starts a validated call; the progress thread sees to it.
    pub(crate) fn start(self: &Arc<Self>, call: Call, in_place: bool) -> Result<Arc<Completion>> {
        self.check()?;
        let is_light = call.input.len().max(call.output.len()) <= LIGHT_BYTES;
        let completion = Arc::new(Completion::default());
        let mut state = self.submit(Submission { call, in_place, completion: completion.clone() });
        if state.progress_thread.is_none() {
            let engine = self.clone();
            let spawned = std::thread::Builder::new().name("roundel-progress".into()).spawn(move || engine.progress());
            match spawned {
                Ok(thread) => state.progress_thread = Some(thread),
                Err(error) => {
                    state.inbox.pop_back();
                    state.open -= 1;
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    return Err(Error::system("starting the progress thread", error));
                }
            }
        }
        if state.driving {
            (self.wake)();
        } else if is_light {
            // One turn: peers hear of the call, and what is left after it is the progress thread's.
            drop(self.take_the_crank(state, || true, None));
        } else {
            self.offer_the_crank(&state);
        }
        Ok(completion)
    }

    /// Waits for a started call.
    pub(crate) fn wait(&self, completion: &Completion) -> Result<()> {
        self.birthplace.check()?;
        self.follow(self.lock(), completion)
    }

    /// Waits for a started call for so long; `None` when it has not ended by then.
    pub(crate) fn wait_for(&self, completion: &Completion, timeout: Duration) -> Option<Result<()>> {
        if let Err(error) = self.birthplace.check() {
            return Some(Err(error));
        }
        // A time beyond all clocks is no limit.
        self.follow_until(self.lock(), completion, Instant::now().checked_add(timeout))
    }

    /// Waits until no call is in flight; drives nothing.
    pub(crate) fn drain(&self) {
        let mut state = self.lock();
        while state.open > 0 {
            if !state.driving {
                self.abandoned.notify_one();
            }
            state.followers += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.followers -= 1;
        }
    }

    /// Waits until nothing is in flight and the progress thread has ended: what it holds (in the end this rank's
    /// membership in the job) must be given back before the process may exit.
    pub(crate) fn close(&self) {
        let thread = {
            let mut state = self.lock();
            state.closed = true;
            state.progress_thread.take()
        };
        self.abandoned.notify_all();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // A panic there has been printed; dropping a communicator must not add another.
            let _ = thread.join();
        }
    }

    /// Plans and settings, for `explain`.
    pub(crate) fn with_lane<R>(&self, look: impl FnOnce(&mut Lane) -> R) -> R {
        let mut drive = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        look(&mut drive.lane)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, submission: Submission) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        self.enqueue(&mut state, submission);
        state
    }

    fn enqueue(&self, state: &mut State, submission: Submission) {
        state.inbox.push_back(submission);
        state.open += 1;
        // Relaxed: only a hint to look at the inbox, which the lock guards.
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Until `completion` has its outcome: drive when nobody does, else wait.
    fn follow<'a>(&'a self, state: MutexGuard<'a, State>, completion: &Completion) -> Result<()> {
        self.follow_until(state, completion, None).expect("without a limit the wait ends with the call")
    }

    /// [`Engine::follow`] up to a moment; `None` when the call has not ended by then.
    fn follow_until<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        completion: &Completion,
        until: Option<Instant>,
    ) -> Option<Result<()>> {
        let mut has_waited = false;
        loop {
            let outcome = completion.outcome().cloned();
            if outcome.is_some() || until.is_some_and(|until| Instant::now() >= until) {
                // It was offered the crank and has nothing more to drive for; another thread may have.
                if has_waited && !state.driving {
                    self.offer_the_crank(&state);
                }
                return outcome;
            }
            if !state.driving {
                state = self.take_the_crank(state, || completion.outcome().is_some(), until);
                continue;
            }
            // Relaxed: changed under the lock; the progress thread's look without it is a hint, and the bell makes it look.
            self.eager.fetch_add(1, Ordering::Relaxed);
            if state.progress_drives {
                (self.wake)();
            }
            state.followers += 1;
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            state = match left {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
            state.followers -= 1;
            self.eager.fetch_sub(1, Ordering::Relaxed);
            has_waited = true;
        }
    }

    fn take_the_crank<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        enough: impl Fn() -> bool,
        until: Option<Instant>,
    ) -> MutexGuard<'a, State> {
        state.driving = true;
        drop(state);
        self.drive(enough, until);
        let mut state = self.lock();
        state.driving = false;
        self.offer_the_crank(&state);
        state
    }

    /// Nobody drives: tells those who would.
    fn offer_the_crank(&self, state: &State) {
        if state.followers > 0 {
            self.changed.notify_all();
        } else if state.open > 0 || state.closed {
            self.abandoned.notify_one();
        }
    }

    /// The progress thread: drives while calls are in flight and no caller does.
    fn progress(self: Arc<Self>) {
        let mut state = self.lock();
        while !(state.closed && state.open == 0) {
            // Relaxed: changed under the lock, which is held here.
            if state.driving || state.open == 0 || self.eager.load(Ordering::Relaxed) > 0 {
                state = self.abandoned.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.progress_drives = true;
            let enough = || self.eager.load(Ordering::Relaxed) > 0 || self.lock().open == 0;
            state = self.take_the_crank(state, enough, None);
            state.progress_drives = false;
        }
    }
}
