//! Waiting with a limit. The engine's own wait has none, because whoever waits may have to drive; so a thread waits on
//! behalf of the caller, who can then give up without anything being undone.
#![forbid(unsafe_code)]

use crate::engine::{Completion, Engine};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Calls that end this soon cost no thread.
const SOON: Duration = Duration::from_micros(60);

/// A thread that waits for one call, and ends with it.
pub(super) struct Waiter {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Waiter {
    /// Looks for a moment whether the call is about to end.
    pub(super) fn is_soon(completion: &Completion, timeout: Duration) -> bool {
        let began = Instant::now();
        while began.elapsed() < timeout.min(SOON) {
            if completion.outcome().is_some() {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    pub(super) fn start(engine: Arc<Engine>, completion: Arc<Completion>) -> Waiter {
        let state = Arc::new(State::default());
        let tells = state.clone();
        let wait = move || {
            // The outcome stays in the completion.
            let _ = engine.wait(&completion);
            *tells.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
            tells.changed.notify_all();
        };
        if let Err(error) = std::thread::Builder::new().name("roundel-waiter".into()).spawn(wait) {
            // Then a limited wait takes its whole limit, which is no more than was asked for.
            tracing::warn!("starting a thread that waits: {error}");
        }
        Waiter { state }
    }

    /// Returns when the call has ended or the time is over.
    pub(super) fn wait(&self, timeout: Duration) {
        let ended = self.state.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.state.changed.wait_timeout_while(ended, timeout, |ended| !*ended);
    }
}
