//! How the ranks of a job find one another, and how they talk when nothing else can be trusted to work.
//!
//! ```text
//!   launcher      rank, world and the root's address, from what the launcher left in the environment
//!   unique_id     the same by hand: 128 bytes, made in one process and handed to all ranks
//!   invitation    what a newcomer must know to join a job that runs
//!   control       a rank's end of the control plane: exchange, census, revoke, who is gone
//!     join          finds the root and proves to be of the job
//!     enlist        a newcomer's way in
//!     member        what threads share: the way to the root, and who is to be told
//!     knowledge     what has happened to the job, and what this rank waits for
//!     listening     the thread that hears it, and says that this rank lives
//!     seek          when the root is gone: who is the next?
//!     standby       a rank's own door, for those who take it for the next root
//!   root          the other end, a star's middle: one thread in one process of the job
//!     gate          strangers stay outside
//!     seats         each rank gets one
//!     office        what the root decides from then on
//!       succession    between two reigns: what those who live know
//!       ledger        what the root knows of the running job, and whom it tells
//!       gathering     one exchange: who has contributed, who is missing
//!       quorum        whether a part of a group may go on without the rest
//!       laggards      who keeps others waiting
//!   store         what a job keeps outside itself, to survive the loss of any host
//!   roster        where every rank can be found without the root
//!   vigil         who has fallen silent
//!   messages      what they say to each other
//!   wire          how it travels
//! ```
//!
//! The control plane carries little and rarely (addresses, failures, stalls), so it is simple rather than fast: every rank
//! has one TCP connection to the root. What it says comes in one order for everybody, because one thread says it.
//!
//! Both ends of each connection prove that they hold the job's secret before anything is believed or kept. After that the
//! control plane is protected as the data links are ([`Guard`]), and a rank that holds the secret is trusted.
#![forbid(unsafe_code)]

mod address;
mod control;
mod enlist;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod gate;
mod gathering;
mod invitation;
mod join;
mod knowledge;
mod laggards;
pub mod launcher;
mod ledger;
mod listening;
mod member;
mod messages;
mod nodelist;
mod office;
mod quorum;
mod recent;
mod root;
mod roster;
mod seats;
mod seek;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod simulated;
mod standby;
mod store;
mod succession;
mod unique_id;
mod vigil;
mod wire;

#[cfg(test)]
mod appeal_tests;
#[cfg(test)]
mod office_tests;
#[cfg(test)]
mod tests;

pub use address::{Root, RootAddr};
pub use control::{Admitted, Config, Control, Enlisting, Listener, Registration};
pub use invitation::Invitation;
pub use launcher::Launch;
pub use messages::Reached;
pub use store::StoreChoice;
pub use unique_id::UniqueId;
pub use vigil::Rhythm;
pub use wire::MAX_CONTRIBUTION_BYTES;

#[cfg(doc)]
use crate::transport::tcp::Guard;
use crate::transport::tcp::digest;
use nix::poll::{PollFd, PollTimeout, poll};
use std::fmt;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A timeout that means "never" is not allowed to overflow the clock.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

fn deadline_after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(LONGEST)
}

/// Sleeps until one of the descriptors is ready, or until `wake_at`; now and then for no reason.
fn sleep_until(fds: &mut [PollFd], wake_at: Option<Instant>) {
    let timeout = match wake_at {
        None => PollTimeout::NONE,
        Some(at) => {
            // Rounded up, or the last millisecond would be spent spinning.
            let left_ms = at.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
            PollTimeout::from(left_ms.min(60_000) as u16)
        }
    };
    // An interrupted poll is one that woke for no reason; any other error is a bug that the descriptors' own reads report.
    if poll(fds, timeout).is_err() {
        std::thread::yield_now();
    }
}

/// Settings of every control connection: small messages leave at once, and a host that vanished is noticed.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    stream.set_nodelay(true)
}

/// A lock whose data are valid after every statement: a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A duration as people say it: "5 s", "0.25 s".
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", (self.0.as_secs_f64() * 100.0).round() / 100.0)
    }
}
