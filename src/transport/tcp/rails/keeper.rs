//! The keeper: a thread that looks after the links of an endpoint while their callers are elsewhere. It sleeps while no
//! link has anything open.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it looks.
const TICK: Duration = Duration::from_millis(100);

/// An end of a link, to be looked after.
pub(super) trait Charge: Send + Sync {
    /// Looks after it; true while it should be looked after again.
    fn tend(&self) -> bool;
}

/// See the top of this file. The last handle dropped ends the thread.
pub struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    charges: Vec<Weak<dyn Charge>>,
    is_busy: bool,
    is_over: bool,
}

impl Keeper {
    /// Starts the thread.
    pub fn new() -> Result<Arc<Keeper>> {
        let shared = Arc::<Shared>::default();
        let mine = shared.clone();
        let spawned = std::thread::Builder::new().name("roundel-rails".into()).spawn(move || mine.run());
        let thread = spawned.map_err(|error| Error::system("starting the thread that keeps rails", error))?;
        Ok(Arc::new(Keeper { shared, thread: Some(thread) }))
    }

    /// Looks after `charge` from when it is first [called](Keeper::call) until it is gone.
    pub(super) fn adopt(&self, charge: Weak<dyn Charge>) {
        self.shared.lock().charges.push(charge);
    }

    /// There is something to look after.
    pub(super) fn call(&self) {
        self.shared.lock().is_busy = true;
        self.shared.changed.notify_one();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_one();
        // The thread itself may drop the last handle, with the last link; it cannot wait for itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // A panic there has been printed; dropping must not add another.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment; a panic elsewhere leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            while !state.is_busy && !state.is_over {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let until_over = |state: &mut State| !state.is_over;
            let waited = self.changed.wait_timeout_while(state, TICK, until_over);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.is_over {
                return;
            }
            state.is_busy = false;
            state.charges.retain(|charge| charge.strong_count() > 0);
            let charges = state.charges.clone();
            drop(state);
            let mut is_busy = false;
            for charge in charges.iter().filter_map(Weak::upgrade) {
                is_busy |= charge.tend();
            }
            state = self.lock();
            state.is_busy |= is_busy;
        }
    }
}
