//! The thread that makes progress while nobody else does.
//!
//! ```text
//!   off duty: somebody drives. Looks every 2 ms whether that is still so
//!      │  a driver is about to sleep and rings, or nobody has driven for 2 ms
//!      v
//!   on duty: reads completions; asleep on the queue's descriptor, or for a moment where there is none
//!      │  has woken a driver, or another one drives
//!      v
//!   off duty
//! ```
#![forbid(unsafe_code)]

use super::hub::{Shared, Watched};
use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks whether drivers still drive.
const OFF_DUTY: Duration = Duration::from_millis(2);
/// Looks in one turn of the watch that only a driver takes who is awake: before it sleeps it takes a few for each link.
const AWAKE_LOOKS: u64 = 100;
/// The longest sleep on the queue's descriptor: not all that a provider has to do makes it ready.
const NAP: Duration = Duration::from_millis(20);
/// So often the descriptor may be ready for nothing: with some providers it stays so, and is no use.
const MOST_FALSE_ALARMS: u32 = 8;
/// Sleeps without a descriptor: while a driver waits to be woken, growing to the second; and while none does.
const SHORT: Duration = Duration::from_micros(50);
const LONGER: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_millis(10);

/// What calls the watchman.
pub(super) struct Bell {
    rings: UnixStream,
    heard: UnixStream,
    stopped: AtomicBool,
    /// It was rung, and he has not come yet.
    called: AtomicBool,
}

/// What ended a sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Rung,
    Ready,
    Late,
}

impl Bell {
    pub(super) fn new() -> Result<Bell> {
        let failed = |error| Error::system("making a pair of sockets", error);
        let (rings, heard) = UnixStream::pair().map_err(failed)?;
        rings.set_nonblocking(true).map_err(failed)?;
        heard.set_nonblocking(true).map_err(failed)?;
        Ok(Bell { rings, heard, stopped: AtomicBool::new(false), called: AtomicBool::new(false) })
    }

    /// Calls him, once until he comes.
    pub(super) fn ring(&self) {
        // AcqRel: pairs with the store in `wait`, after which he looks at everything.
        if !self.called.swap(true, Ordering::AcqRel) {
            let _ = (&self.rings).write(&[1]);
        }
    }

    fn stop(&self) {
        // Release: pairs with the Acquire in `is_stopped`.
        self.stopped.store(true, Ordering::Release);
        self.ring();
    }

    fn is_stopped(&self) -> bool {
        // Acquire: pairs with the Release in `stop`.
        self.stopped.load(Ordering::Acquire)
    }

    /// Sleeps until it is rung, `other` can be read, or the time is over.
    fn wait(&self, other: Option<&OwnedFd>, timeout: Duration) -> Woken {
        let mut fds = vec![PollFd::new(self.heard.as_fd(), PollFlags::POLLIN)];
        fds.extend(other.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let woken = match timeout.as_millis() {
            0 => {
                let spec = nix::sys::time::TimeSpec::from_duration(timeout);
                nix::poll::ppoll(&mut fds, Some(spec), None)
            }
            millis => poll(&mut fds, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)),
        };
        match woken {
            Ok(0) | Err(Errno::EINTR) => return Woken::Late,
            Ok(_) => {}
            // Nothing that would pass; without sleep it would take a core.
            Err(_) => std::thread::sleep(LONG),
        }
        let mut woken = Woken::Ready;
        while (&self.heard).read(&mut [0; 64]).is_ok_and(|got| got > 0) {
            woken = Woken::Rung;
        }
        if woken == Woken::Rung {
            // Release: pairs with the swap in `ring`: who rings from now on writes again.
            self.called.store(false, Ordering::Release);
        }
        woken
    }
}

/// Owns the thread; dropped, it ends.
pub(super) struct Watchman {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watchman {
    /// Watches over `shared`, whose queue has the descriptor `wait`.
    pub(super) fn start(shared: Arc<Shared>, wait: Option<OwnedFd>) -> Result<Watchman> {
        let watched = shared.clone();
        let thread = std::thread::Builder::new()
            .name("roundel-fabric".into())
            .spawn(move || run(&watched, wait.as_ref()))
            .map_err(|error| Error::system("starting the fabric's thread", error))?;
        Ok(Watchman { shared, thread: Some(thread) })
    }
}

impl Drop for Watchman {
    fn drop(&mut self) {
        self.shared.bell().stop();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; dropping must not add another.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, wait: Option<&OwnedFd>) {
    let bell = shared.bell();
    let mut looks = shared.looks();
    while !bell.is_stopped() {
        let was_rung = bell.wait(None, OFF_DUTY) == Woken::Rung;
        let looked = std::mem::replace(&mut looks, shared.looks()) != looks;
        if was_rung || !looked {
            stand_watch(shared, wait);
            looks = shared.looks();
        }
    }
}

/// Until a driver is awake, or all is to end.
fn stand_watch(shared: &Shared, wait: Option<&OwnedFd>) {
    let bell = shared.bell();
    let mut looks = shared.looks();
    let mut pause = SHORT;
    let mut false_alarms = 0;
    while !bell.is_stopped() {
        let Watched { events, woken, sleepers, may_sleep } = shared.lock().watch();
        let looked = shared.looks().wrapping_sub(std::mem::replace(&mut looks, shared.looks()));
        if woken > 0 || looked > AWAKE_LOOKS {
            return;
        }
        if events > 0 {
            (pause, false_alarms) = (SHORT, 0);
        }
        match wait {
            Some(_) if !may_sleep && false_alarms < MOST_FALSE_ALARMS => false_alarms += 1,
            Some(fd) if false_alarms < MOST_FALSE_ALARMS => {
                false_alarms += u32::from(bell.wait(Some(fd), NAP) == Woken::Ready);
            }
            _ => {
                let was_rung = bell.wait(None, if sleepers > 0 { pause } else { LONG }) == Woken::Rung;
                pause = if was_rung { SHORT } else { (pause * 2).min(LONGER) };
            }
        }
    }
}
