//! What a job keeps outside itself, so that it survives the loss of any host: a register of who has been given up and of
//! where the root is.
//!
//! ```text
//!   choice      which store: ROUNDEL_STORE
//!   register    what is kept, and the two steps that change it
//!   clerk       asks the store for the root, in a thread of its own
//!   etcd        the register as one key of an etcd
//! ```
//!
//! **Embedded**, the default, keeps nothing outside. Whether a part of a job may go on without those who cannot be reached is
//! then decided by its numbers ([`super::quorum`]): of two hosts with as many ranks each, the job survives the loss of
//! one of them, not of the other.
//!
//! **A store** decides that case, too. Whoever would go on without ranks that may live elsewhere asks it first, the larger part
//! like the smaller, and the first that asks goes on. There is no falling back on numbers where the store cannot be reached: the
//! others may have asked it. So the store must be harder to lose than the job's hosts; an etcd of three members on three
//! hosts is. Who is known to be dead (its process has ended, or was seen to be stopped) is not asked about; but a new root asks
//! before it goes on without anybody, since those who died may have gone on without it before.
//!
//! A store is asked when the job begins, when it has a new root, when it grows, and when somebody fell silent; never in a
//! collective. Another one is made by implementing [`Store`]: anything does that can replace a small value if it has not
//! changed meanwhile.
#![forbid(unsafe_code)]

mod choice;
mod clerk;
#[cfg(feature = "etcd")]
pub(super) mod etcd;
#[cfg(test)]
pub(super) mod memory;
mod register;

pub(super) use choice::Shelf;
pub use choice::StoreChoice;
pub(super) use clerk::Clerk;
pub(super) use register::{Appeal, MAX_DOORS, Member, Register, Way};

use crate::error::{Error, Result};
use register::Entry;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Between two attempts at a store that cannot be reached.
const PAUSE: Duration = Duration::from_millis(100);

/// Keeps one job's [`Register`]. Calls block, until the deadline at most; what cannot be reached in time is an error.
pub(super) trait Store: Send {
    /// The register as it is now, after everything that anybody has written.
    fn load(&self, deadline: Instant) -> Result<Held>;

    /// Replaces the register that was held, if nobody has meanwhile; false where somebody has.
    fn swap(&self, held: Revision, register: &Register, deadline: Instant) -> Result<bool>;

    /// Removes the register that was held, likewise.
    fn remove(&self, held: Revision, deadline: Instant) -> Result<bool>;
}

/// Names one state of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Revision(pub u64);

impl Revision {
    /// Nothing is written.
    pub(super) const NONE: Revision = Revision(0);
}

/// A register as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub register: Register,
    pub revision: Revision,
}

/// What a store says to an [`Appeal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ruling {
    /// Those who asked go on; the others never will.
    Granted,
    /// Those who asked were given up before.
    Denied,
    /// It did not answer, and why.
    Silent(String),
}

/// What is kept in `store`, changed by `change`, which may be called several times.
fn amend<T>(store: &dyn Store, deadline: Instant, change: impl Fn(&mut Register) -> T) -> Result<T> {
    loop {
        let Held { mut register, revision } = store.load(deadline)?;
        let before = register.clone();
        let outcome = change(&mut register);
        if (register == before && revision != Revision::NONE) || store.swap(revision, &register, deadline)? {
            return Ok(outcome);
        }
        if Instant::now() >= deadline {
            return Err(Error::bootstrap("others change the job's register in the store all the time"));
        }
    }
}

/// Asks until the store answers or the deadline passes: a store that has just lost a host, too, needs a moment.
fn rule(store: &dyn Store, appeal: &Appeal, way: &Way, deadline: Instant) -> Ruling {
    loop {
        match amend(store, deadline, |register| register.expel(appeal, way)) {
            Ok(true) => return Ruling::Granted,
            Ok(false) => return Ruling::Denied,
            Err(error) if Instant::now() + PAUSE >= deadline => return Ruling::Silent(error.to_string()),
            Err(error) => tracing::debug!(%error, "the store is asked again"),
        }
        std::thread::sleep(PAUSE);
    }
}

fn publish(store: &dyn Store, living: &[Member], way: &Way, deadline: Instant) -> Result<Entry> {
    amend(store, deadline, |register| register.publish(living, way))
}

/// Nobody needs the register any more, unless somebody was given up who may yet come.
fn retire(store: &dyn Store, deadline: Instant) -> Result<()> {
    loop {
        let Held { register, revision } = store.load(deadline)?;
        if revision == Revision::NONE || !register.is_dispensable() || store.remove(revision, deadline)? {
            return Ok(());
        }
    }
}

/// Where the job is, as far as its store knows.
pub(super) fn find(store: &dyn Store, deadline: Instant) -> Result<Vec<SocketAddr>> {
    Ok(store.load(deadline)?.register.doors().to_vec())
}
